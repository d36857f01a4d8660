"""Run folders of version 0.1.0 are read to the numbers that version 0.1.0 gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kanrun import load_run
from kanrun.cli.app import main
from kanrun.runs import Run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1_0"
RUNS = FIXTURES / "runs"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
FLOAT32 = {"fit/v0003"}
FOLDERS = sorted(str(record.parent.relative_to(RUNS)) for record in RUNS.rglob("run.json"))


@pytest.mark.parametrize("folder", sorted(EXPECTED))
def test_models_predict_what_they_predicted(folder: str) -> None:
    run = load_run(RUNS / folder)
    assert sorted(run.models) == sorted(EXPECTED[folder])
    for name, points in EXPECTED[folder].items():
        found = run.model(name).values(np.array(points["inputs"]))
        expected = np.array(points["outputs"])
        tolerance = 1e-5 if folder in FLOAT32 else 1e-12
        np.testing.assert_allclose(
            found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
        )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_shown_with_its_tables(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "show", str(RUNS / folder)]) == 0
    record = json.loads((RUNS / folder / "run.json").read_text())
    assert record["status"] in capsys.readouterr().out
    assert all(len(table) for table in load_run(RUNS / folder).tables.values())


def test_the_list_has_every_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RUNS, tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "list", "-n", "100"]) == 0
    shown = capsys.readouterr().out
    assert all("/".join(folder.split("/")[:2]) in shown for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_run_json_and_checkpoints_are_read_as_they_were_written(folder: str) -> None:
    run = Run(RUNS / folder)
    written = json.loads((run.path / "run.json").read_text())
    read = run.manifest.to_dict()
    started, *_ = (written.pop(key, None) for key in ("started", "ended", "resumed"))
    assert run.manifest.started is not None
    assert run.manifest.started.isoformat(timespec="milliseconds") == started
    assert {key: json.loads(json.dumps(read[key])) for key in written} == written
    assert all(run.checkpoint(name).arrays for name in run.checkpoints)
    assert run.config["seed"] >= 0


def test_a_training_that_was_terminated_is_resumed_to_its_end(tmp_path: Path) -> None:
    shutil.copytree(RUNS / "fit" / "v0016", tmp_path / "v0001")
    before = Run(tmp_path / "v0001")
    kept = before.table("metrics").query("stage == 0")["train_rmse"].tolist()
    assert before.manifest.status == "INTERRUPTED"
    assert main(["runs", "resume", str(tmp_path / "v0001"), "--force", "-q"]) == 0
    after = Run(tmp_path / "v0001")
    assert after.manifest.status == "COMPLETED"
    assert (
        after.table("metrics")["train_rmse"].tolist()[: len(kept)] == kept
    )  # the finished grid was not trained again
    assert load_run(after.path).models
