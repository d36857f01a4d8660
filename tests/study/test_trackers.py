"""Trackers receive the records of a run, and their errors do not end it."""

import importlib.util
import os
import sqlite3
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from processes import python

from kanrun.runs import Status
from kanrun.study import progress as trackers

LEFT_OUT = "tracker=mlflow does not work and is left out"


@pytest.fixture
def mlflow(monkeypatch):
    """Replace the tracker by one that records its calls, and return what makes it."""
    begin = Mock(return_value=Mock(prefix=""))
    monkeypatch.setitem(trackers.BACKENDS, "mlflow", begin)
    return begin


def test_settings_rows_and_results_reach_the_tracker(run_toy, mlflow):
    _, run = run_toy(sizes=[2, 3], tracker="mlflow")
    ((command, _, settings), _) = mlflow.call_args
    assert (command, settings["n_seeds"], settings["n_jobs"]) == ("toy", 1, 1)
    made = mlflow.return_value
    rows, places = zip(*(call.args for call in made.log.call_args_list), strict=True)
    assert places == (*range(6), *range(6), None)
    errors = run.table("metrics")["train_rmse"]
    assert rows[0]["train_rmse"] == errors[0]
    assert rows[6]["cell 1/train_rmse"] == errors[6]
    made.end.assert_called_once_with("COMPLETED")


@pytest.mark.parametrize("fails", ["begin", "log", "end"])
def test_a_tracker_that_fails_warns_once_and_the_run_is_complete(run_toy, mlflow, capsys, fails):
    failing = mlflow if fails == "begin" else getattr(mlflow.return_value, fails)
    failing.side_effect = ConnectionError("no server")
    outcome, _ = run_toy(tracker="mlflow")
    assert outcome.status == Status.COMPLETED
    assert capsys.readouterr().err.count(f"{LEFT_OUT}: ConnectionError: no server") == 1


def test_tracker_that_is_not_installed_is_named(run_toy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    outcome, _ = run_toy(tracker="mlflow")
    assert outcome.status == Status.COMPLETED
    assert "(pip install mlflow)" in capsys.readouterr().err


@pytest.fixture
def packages():
    for package in ("mlflow", "tensorboard", "trackio"):
        assert importlib.util.find_spec(package), (
            f"this test needs {package}: pip install 'kanrun[trackers]'"
        )


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("place", [None, "other.db"])
def test_mlflow_holds_the_run_in_the_file_that_is_named(run_toy, monkeypatch, tmp_path, place):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{place}")
    _, run = run_toy(tracker="mlflow")
    own = run.path.parents[1].absolute() / "mlflow.db"
    client = MlflowClient(f"sqlite:///{tmp_path / place if place else own}")
    (found,) = client.search_runs([client.get_experiment_by_name("kanrun-toy").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_rmse"] == pytest.approx(run.manifest.metrics["test_rmse"])
    assert found.data.params["steps"] == "6"
    history = client.get_metric_history(found.info.run_id, "train_rmse")
    errors = enumerate(run.table("metrics")["train_rmse"])
    assert [(one.step, one.value) for one in history] == list(errors)


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_a_dead_server_of_mlflow_is_one_warning(run_toy, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    outcome, _ = run_toy(tracker="mlflow")
    assert outcome.status == Status.COMPLETED
    assert capsys.readouterr().err.count(LEFT_OUT) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_tensorboard_holds_the_run(run_toy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = run_toy(tracker="tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = [(one.step, one.value) for one in events.Scalars("train_rmse")]
    errors = list(enumerate(run.table("metrics")["train_rmse"]))
    np.testing.assert_allclose(found, errors, rtol=1e-6)  # float32
    wanted = pytest.approx(run.manifest.metrics["test_rmse"], rel=1e-6)
    assert events.Scalars("result/test_rmse")[0].value == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_trackio_holds_the_run(tmp_path):
    command = ["fit", "target=runge", "model=polynomial", "tracker=trackio", "sampling.n_train=50"]
    place = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    said = python("-m", "kanrun", *command, cwd=tmp_path, env=place)
    assert "rackio" not in said.stdout
    assert "left out" not in said.stderr
    database = sqlite3.connect(tmp_path / "trackio" / "kanrun-fit.db")
    rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert {name for name, _ in rows} == {"v0001"}
    assert "result/test_rmse" in " ".join(str(metrics) for _, metrics in rows)
