"""A study that stopped and goes on leaves the tables of one that never stopped.

`tests/hard/test_kills.py` kills real ones at any moment.
"""

from unittest.mock import Mock

import pytest
import toy_experiment
from toy_experiment import ToyConfig, play

from kanrun.errors import UsageError
from kanrun.runs import Run, Status


def test_a_single_training_goes_on_from_its_checkpoint(run_toy, same_tables, monkeypatch):
    _, whole = run_toy(steps=8)

    with monkeypatch.context() as patch:
        patch.setattr(toy_experiment, "_misbehave", Mock(side_effect=KeyboardInterrupt))
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
