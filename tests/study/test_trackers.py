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
from kanrun.study import trackers


class Heard:
    def __init__(self, command, folder, settings):
        self.command = command
        self.settings = settings
        self.rows = []
        self.ended = None
        self.prefix = ""

    def log(self, numbers, step):
        self.rows.append((numbers, step))

    def end(self, status):
        self.ended = status


def test_settings_rows_and_results_reach_the_tracker(run_toy, monkeypatch):
    heard = []
    monkeypatch.setitem(
        trackers.BACKENDS, "mlflow", lambda *a: heard.append(Heard(*a)) or heard[-1]
    )
    _, run = run_toy(sizes=[2, 3], tracker="mlflow")
    (one,) = heard
    assert (one.command, one.settings["n_seeds"], one.settings["executor.kind"]) == (
        "toy",
        1,
        "serial",
    )
    assert [step for _, step in one.rows] == [*range(6), *range(6), None]
    rows = run.table("metrics")
    assert one.rows[0][0]["train_rmse"] == rows["train_rmse"][0]
    assert one.rows[6][0]["cell 1/train_rmse"] == rows["train_rmse"][6]
    assert one.ended == "COMPLETED"


@pytest.mark.parametrize("fails", ["begin", "log", "end"])
def test_a_tracker_that_fails_warns_once_and_the_run_is_complete(
    run_toy, monkeypatch, capsys, fails
):
    broken = Mock(side_effect=ConnectionError("no server"))

    class Broken(Heard):
        pass

    if fails != "begin":
        monkeypatch.setattr(Broken, fails, broken)
    monkeypatch.setitem(trackers.BACKENDS, "trackio", broken if fails == "begin" else Broken)
    outcome, _ = run_toy(tracker="trackio")
    assert outcome.status == Status.COMPLETED
    err = capsys.readouterr().err
    assert (
        err.count("tracker=trackio does not work and is left out: ConnectionError: no server") == 1
    )


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


def mlflow_holds(run, uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("kanrun-toy").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_rmse"] == pytest.approx(run.manifest.metrics["test_rmse"])
    assert found.data.params["steps"] == "6"
    history = client.get_metric_history(found.info.run_id, "train_rmse")
    assert [(one.step, one.value) for one in history] == list(
        enumerate(run.table("metrics")["train_rmse"])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_mlflow_holds_the_run_in_a_file(run_toy, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, run = run_toy(tracker="mlflow")
    mlflow_holds(run, f"sqlite:///{run.path.parents[1].absolute()}/mlflow.db")


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_another_mlflow_holds_the_run_and_a_dead_server_is_one_warning(
    run_toy, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/other.db")
    mlflow_holds(run_toy(tracker="mlflow")[1], uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    outcome, _ = run_toy(tracker="mlflow")
    assert outcome.status == Status.COMPLETED
    assert capsys.readouterr().err.count("tracker=mlflow does not work and is left out") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_tensorboard_holds_the_run(run_toy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = run_toy(tracker="tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = [(one.step, one.value) for one in events.Scalars("train_rmse")]
    np.testing.assert_allclose(
        found, list(enumerate(run.table("metrics")["train_rmse"])), rtol=1e-6
    )  # float32
    assert events.Scalars("result/test_rmse")[0].value == pytest.approx(
        run.manifest.metrics["test_rmse"], rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_trackio_holds_the_run(tmp_path):
    command = ["fit", "target=runge", "model=polynomial", "tracker=trackio", "sampling.n_train=50"]
    place = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    said = python("-m", "kanrun", *command, cwd=tmp_path, env=place)
    assert "rackio" not in said.stdout
    assert "left out" not in said.stderr
    database = sqlite3.connect(tmp_path / "trackio" / "kanrun-fit.db")
    names = {row[0] for row in database.execute("SELECT run_name FROM metrics")}
    logged = " ".join(str(row[0]) for row in database.execute("SELECT metrics FROM metrics"))
    assert names == {"v0001"}
    assert "result/test_rmse" in logged
