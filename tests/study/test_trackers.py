"""Trackers hear of a run, and none of their errors is the run's."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanrun.runs import Status
from kanrun.study import trackers

RunToy = Callable[..., Any]


class Heard:
    def __init__(self, command: str, folder: Path, settings: Any) -> None:
        self.command, self.settings, self.rows = command, settings, list[tuple[Any, int]]()
        self.ended: tuple[Any, str] | None = None

    def log(self, numbers: Any, step: int) -> None:
        self.rows.append((numbers, step))

    def end(self, results: Any, status: str) -> None:
        self.ended = results, status


def test_settings_rows_and_results_reach_the_tracker(run_toy: RunToy, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Heard] = []
    monkeypatch.setitem(trackers.BACKENDS, "mlflow", lambda *a: heard.append(Heard(*a)) or heard[-1])
    _, run = run_toy(sizes=[2, 3], tracker="mlflow")
    (one,) = heard
    assert (one.command, one.settings["seeds"], one.settings["executor.kind"]) == ("toy", 1, "serial")
    assert [step for _, step in one.rows] == [*range(6), *range(6)]
    rows = run.table("metrics")
    assert one.rows[0][0]["train_rmse"] == rows["train_rmse"][0]
    assert one.rows[6][0]["cell 1/train_rmse"] == rows["train_rmse"][6]
    assert one.ended is not None
    assert one.ended[1] == "COMPLETED"


@pytest.mark.parametrize("fails", ["begin", "log", "end"])
def test_a_tracker_that_fails_warns_once_and_the_run_is_complete(
    run_toy: RunToy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    def broken(*_: object) -> None:
        raise ConnectionError("no server")

    class Broken(Heard):
        pass

    if fails != "begin":
        monkeypatch.setattr(Broken, fails, broken)
    monkeypatch.setitem(trackers.BACKENDS, "trackio", broken if fails == "begin" else Broken)
    outcome, _ = run_toy(tracker="trackio")
    assert outcome.status == Status.COMPLETED
    err = capsys.readouterr().err
    assert err.count("tracker=trackio does not work and is left out: ConnectionError: no server") == 1


def test_a_package_that_is_not_there_is_named(
    run_toy: RunToy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    outcome, _ = run_toy(tracker="mlflow")
    assert outcome.status == Status.COMPLETED
    assert "(pip install mlflow)" in capsys.readouterr().err


def test_mlflow_is_called_as_its_client_is(run_toy: RunToy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []

    class Client:
        def __init__(self, uri: str) -> None:
            calls.append(("uri", (uri,)))

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **_: Any) -> Any:
                calls.append((name, args))
                run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
                return {"get_experiment_by_name": None, "create_experiment": "e1", "create_run": run}.get(name)

            return call

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, run = run_toy(tracker="mlflow")
    assert calls[0][1][0] == f"sqlite:///{run.path.parents[1].absolute()}/mlflow.db"
    assert ("create_run", ("e1",)) in calls
    assert ("set_terminated", ("r1", "FINISHED")) in calls
    assert any(name == "log_metric" and args[1] == "test_rmse" for name, args in calls)


@pytest.mark.slow
def test_real_mlflow_and_tensorboard_hold_the_run(run_toy: RunToy, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("mlflow", "tensorboard"):
        pytest.importorskip(package, reason="pip install 'kanrun[trackers]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient  # type: ignore[import-not-found]

    _, run = run_toy(tracker="mlflow")
    client = MlflowClient(f"sqlite:///{run.path.parents[1].absolute()}/mlflow.db")
    experiment = client.get_experiment_by_name("kanrun-toy")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_rmse"] == pytest.approx(run.manifest.metrics["test_rmse"])
    assert found.data.params["steps"] == "6"
    assert len(client.get_metric_history(found.info.run_id, "train_rmse")) == 6
    _, other = run_toy(tracker="tensorboard")
    assert list((other.path / "tensorboard").glob("events.out.tfevents.*"))
