"""Run folders: run.json in every state, tables, checkpoints, figures, and refusals."""

import errno
import os
from unittest.mock import Mock

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from run_files import record_of

from kanrun.errors import StorageFailed
from kanrun.runs import Checkpoint, Claim, Manifest, Row, Run, RunFolder, Status
from kanrun.runs.files import read_caption, write_figure


@pytest.fixture
def folder(tmp_path):
    record = Manifest("fit", argv=("fit", "n_seeds=2"), seeds=(0, 1))
    return RunFolder.create(tmp_path, record)


def test_run_json_records_command_machine_and_end(folder):
    before = record_of(folder.path)
    assert (before["status"], before["ended"], before["pid"]) == ("RUNNING", None, os.getpid())
    claims = (Claim("error falls", 3e-7, "at most 1e-5", True, "1e-7 .. 5e-7"),)
    folder.note("solver=auto chose lm")
    folder.finish(Status.COMPLETED, claims=claims, metrics={"r2": float("nan"), "test_rmse": 3e-7})
    after = record_of(folder.path)
    assert after["metrics"] == {"test_rmse": 3e-7, "r2": None}
    assert {"python", "numpy", "torch", "kanrun"} <= after["versions"].keys()
    assert after["started"] <= after["ended"]
    assert after["seconds"] >= 0
    manifest = Run(folder.path).manifest
    assert (manifest.status, manifest.seeds) == ("COMPLETED", (0, 1))
    assert manifest.argv == ("fit", "n_seeds=2")
    assert (manifest.claims, manifest.notes) == (claims, ("solver=auto chose lm",))


def test_checkpoints_come_back_to_the_bit_with_their_description(folder):
    arrays = {
        "coefficients": np.random.default_rng(0).normal(size=(3, 4, 5)).transpose(2, 0, 1),
        "scalar": np.array(1.5, dtype=np.float32),
        "empty": np.zeros((0, 2)),
        "counts": np.arange(3),
        "mask": np.array([True, False]),
    }
    meta = {"shape": [2, 5, 1], "best": float("inf"), "lambda": 0.1 + 0.2, "seed": np.int64(3)}
    folder.checkpoint(Checkpoint("model-0", arrays, meta))
    run = Run(folder.path)
    read = run.checkpoint("model-0")
    assert read.meta == meta
    assert read.arrays.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(read.arrays[key], array, strict=True)
    assert run.checkpoints == ("model-0",)
    folder.discard("model-0")
    assert Run(folder.path).checkpoints == ()


def test_a_checkpoint_with_objects_is_refused(folder):
    with pytest.raises(ValueError, match="array 'bad'"):
        folder.checkpoint(Checkpoint("model", {"bad": np.array([object()])}))
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        folder.checkpoint(Checkpoint("model", {}, {"bad": object()}))
    assert not (folder.path / "checkpoints").exists()


def test_names_cannot_leave_the_folder(folder):
    for name in ("../../evil", "/etc/evil", "a/b", "..", "", "ümläut", "x" * 300):
        folder.rows(Row(name, {"a": 1}), {"seed": 0})
        folder.checkpoint(Checkpoint(name, {"a": np.ones(1)}))
        assert Run(folder.path).table(name)["a"].tolist() == [1]
        assert Run(folder.path).checkpoint(name).name == name
    assert len(list((folder.path / "tables").iterdir())) == 7
    assert [path.name for path in folder.path.parent.parent.iterdir()] == ["fit"]


def test_figures_have_the_same_bytes_each_time(folder):
    """The user's matplotlibrc has no effect."""

    def draw():
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1], [0, 1], clip_on=True)
        figure.set_label("Bézier <curves> & 3×4 knots")
        return figure

    def written(figure):
        write_figure(folder.path / "figures" / "loss", figure, ["png", "svg"])
        return {path.name: path.read_bytes() for path in Run(folder.path).figures}

    first = written(draw())
    again = draw()
    own = {"xtick.labelsize": 20, "savefig.facecolor": "red", "savefig.bbox": "tight"}
    with mpl.rc_context(own):
        assert written(again) == first
        assert mpl.rcParams["xtick.labelsize"] == 20
    assert set(first) == {"loss.png", "loss.svg"}
    assert int.from_bytes(first["loss.png"][16:20]) == 600  # pixels: 3 inches at 200 dpi
    captions = {read_caption(path) for path in Run(folder.path).figures}
    assert captions == {"Bézier <curves> & 3×4 knots"}
    for name in ("plain.svg", "plain.png"):
        (folder.path / name).write_bytes(b"no metadata")
        assert read_caption(folder.path / name) == ""


def test_a_full_disk_is_one_clear_error(folder, monkeypatch):
    row = Row("metrics", {"step": 0})
    folder.rows(row, {"seed": 0})

    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageFailed, match=r"records\.jsonl: No space left on device"):
            folder.rows(row, {"seed": 1})
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFailed, match=r"records\.jsonl: No space left"):
            folder.finish(Status.COMPLETED)
    assert Run(folder.path).manifest.status == "RUNNING"
    assert Run(folder.path).table("metrics")["step"].tolist() == [0]
    assert not list(folder.path.glob(".*.tmp"))
