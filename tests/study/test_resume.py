"""A study that is killed and goes on leaves the tables of one that was never killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import toy_experiment
from toy_experiment import ToyConfig, play

from kanrun.errors import UsageError
from kanrun.runs import Run, Status

SETTINGS = {"sizes": [2, 3], "n_seeds": 2, "steps": 8}
KILLED = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import toy_experiment as toy
settings = {"steps": 8, "pause": 0.1, "n_seeds": 2}
cells, points = [{"sizes": [2, 3]}], [{"sizes": [2]}, {"sizes": [3]}]
chosen = cells if sys.argv[3] == "cells" else points
configs = [toy.ToyConfig(**settings, **own) for own in chosen]
toy.play(Path(sys.argv[1]), *configs)
"""


def kill_when(outputs, kind, ready):
    toys = str(Path(toy_experiment.__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(outputs), toys, kind])
    run = Run(outputs / "toy" / "v0001")
    deadline = time.monotonic() + 120
    while not ready(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return Run(run.path)


def rows(run):
    return len(run.table("metrics")) if "metrics" in run.tables else 0


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("cells", 3),
        ("points", 22),
        *(
            pytest.param(kind, count, marks=pytest.mark.slow)
            for kind, count in (("cells", 11), ("cells", 22), ("points", 3), ("points", 11))
        ),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(run_toy, same_tables, tmp_path, kind, count):
    points = [{"sizes": [size]} for size in (2, 3)] if kind == "points" else [{}]
    _, whole = run_toy(points=points, **SETTINGS)
    killed = kill_when(tmp_path / "killed", kind, lambda run: rows(run) >= count)
    assert killed.status == "INTERRUPTED (killed)"
    assert count <= rows(killed) < 32
    before = (
        killed.table("summary") if "summary" in killed.tables else pandas.DataFrame()
    ).to_dict("records")
    continued = killed.checkpoints
    configs = [ToyConfig(**(SETTINGS | own)) for own in points]
    outcome = play(killed.path, *configs, resume=True)
    assert outcome.status == Status.COMPLETED
    run = Run(killed.path)
    same_tables(run, whole)
    assert (
        run.table("summary").to_dict("records")[: len(before)] == before
    )  # finished cells were not run again
    assert run.checkpoints == whole.checkpoints
    assert any("resume-" in name for name in continued)
    assert len(run.manifest.resumed) == 1
    claims = [{n: r.claims for n, r in one.journal.results.items()} for one in (run, whole)]
    assert claims[0] == claims[1]


def test_a_single_training_goes_on_from_its_checkpoint(run_toy, same_tables, monkeypatch):
    _, whole = run_toy(steps=8)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy_experiment, "_misbehave", stop)
        with pytest.raises(KeyboardInterrupt):
            run_toy(steps=8)
    stopped = Run(whole.path.parent / "v0002")
    assert stopped.table("metrics")["step"].tolist() == [0, 1, 2]
    times = stopped.table("metrics")["seconds"].tolist()
    play(stopped.path, ToyConfig(steps=8), resume=True)
    resumed = Run(stopped.path)
    same_tables(resumed, whole)
    assert (
        resumed.table("metrics")["seconds"].tolist()[:2] == times[:2]
    )  # two rows lie before the checkpoint
    assert resumed.table("metrics")["seconds"].tolist()[2] != times[2]
    assert resumed.manifest.status == "COMPLETED"


def test_a_checkpoint_without_its_rows_is_not_used(run_toy, same_tables, monkeypatch):
    _, whole = run_toy()
    _, run = run_toy(fails=[3])
    path = run.path / "metrics.csv"
    path.write_text(
        "".join(path.read_text().splitlines(keepends=True)[:2])
    )  # a power cut took the second row
    play(run.path, ToyConfig(), resume=True)
    same_tables(Run(run.path), whole)


def test_failed_cells_run_again_and_finished_ones_do_not(run_toy, same_tables):
    _, whole = run_toy(sizes=[2, 3, 4])
    _, run = run_toy(sizes=[2, 3, 4], fails=[3])
    kept = run.table("metrics").query("cell == 0")["seconds"].tolist()
    outcome = play(run.path, ToyConfig(sizes=[2, 3, 4]), resume=True)
    assert outcome.status == Status.COMPLETED
    assert Run(run.path).manifest.failures == ()
    same_tables(Run(run.path), whole)
    assert Run(run.path).table("metrics").query("cell == 0")["seconds"].tolist() == kept


@pytest.mark.parametrize("damage", ["a row is gone", "the table is gone", "the table is garbage"])
def test_trainings_whose_rows_are_gone_start_again(run_toy, same_tables, capsys, damage):
    _, whole = run_toy(sizes=[2, 3, 4])
    _, run = run_toy(sizes=[2, 3, 4], fails=[4])
    path = run.path / "summary.csv"
    if damage == "a row is gone":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    elif damage == "the table is gone":
        path.unlink()
    else:
        path.write_bytes(bytes(range(256)))
    lost = 1 if damage == "a row is gone" else 2
    outcome = play(run.path, ToyConfig(sizes=[2, 3, 4]), resume=True)
    assert outcome.status == Status.COMPLETED
    same_tables(Run(run.path), whole)
    assert (
        f"warning: {lost} trainings had finished, but some of their rows are gone"
        in capsys.readouterr().err
    )


def test_resuming_a_study_of_other_cells_is_refused(run_toy):
    _, run = run_toy(sizes=[2, 3], fails=[3])
    with pytest.raises(UsageError, match="recorded cells differ"):
        play(run.path, ToyConfig(sizes=[2, 5]), resume=True)
