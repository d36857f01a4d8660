"""Runs with several points, and studies that are stopped and resumed to the same tables."""

import itertools
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import toy_experiment
from cases import refuses
from toy_experiment import Bare, ToyConfig, play

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs import Claim, Manifest, Row, Run, RunFolder, Status, Table
from kanrun.runs.records import Point

SIZES = {"sizes": [2, 3, 4]}


def resumed(run, *points):
    """Resume a run with the settings of each point, and return it when it is complete."""
    configs = [ToyConfig(**settings) for settings in points]
    assert play(run.path, *configs, resume=True).status == Status.COMPLETED
    return Run(run.path)


def interrupted(run_toy, monkeypatch, misbehave, **settings):
    """Return a run that `misbehave` stops as Ctrl-C would."""
    with monkeypatch.context() as patch:
        patch.setattr(toy_experiment, "_misbehave", misbehave)
        with pytest.raises(KeyboardInterrupt):
            run_toy(**settings)
    return run_toy.latest()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_point_has_the_numbers_of_the_same_call_alone(run_toy, same_tables, n_jobs):
    points = [{"sizes": [2, 3]}, {"sizes": [3]}, {"sizes": [4]}]
    outcome, several = run_toy(points=points, n_seeds=2, n_jobs=n_jobs)
    assert outcome.status == Status.COMPLETED
    assert (len(outcome.points), outcome.trainings) == (3, 8)
    assert several.table("summary")["point"].tolist() == [0] * 4 + [1] * 2 + [2] * 2
    for point, settings in zip(several.points, points, strict=True):
        _, alone = run_toy(n_seeds=2, **settings)
        same_tables(point, alone)
        assert point.manifest.claims == alone.manifest.claims
        assert point.checkpoints == alone.checkpoints
        assert [point.checkpoint(name).name for name in alone.checkpoints] == [*alone.checkpoints]
    assert several.best.error == min(point.error for point in several.points if point.error)


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_a_stopped_study_of_points_cells_and_seeds_goes_on(run_toy, same_tables, monkeypatch, kept):
    points = [{"sizes": [2, 3], "n_seeds": 2}, {"sizes": [4], "n_seeds": 2}]
    _, whole = run_toy(points=points)
    stop = Mock(side_effect=itertools.chain([None] * kept, itertools.repeat(KeyboardInterrupt)))
    run = interrupted(run_toy, monkeypatch, stop, points=points)
    assert len(run.journal.finished) == kept
    same_tables(resumed(run, *points), whole)


class Columns(Bare):
    """An experiment whose points have different columns."""

    def run(self, cfg, cell, seed):
        (size,) = cfg.sizes
        yield Row("summary", {f"of size {size}": seed, "nothing": None, "test_rmse": 1.0 / size})
        if size > 2:
            yield Row("large", {"size": size})

    def claims(self, tables):
        assert len(tables["summary"].columns) == 4
        return []


def test_points_may_differ_in_tables_and_columns(tmp_path):
    configs = [ToyConfig(sizes=[size]) for size in (2, 3, 4)]
    assert play(tmp_path, *configs, experiment=Columns()).reason is None
    run = Run(tmp_path / "toy" / "v0001")
    assert list(run.table("summary").columns)[:3] == ["point", "sizes", "seed"]
    for number, point in enumerate(run.points):
        names = ["seed", f"of size {number + 2}", "nothing", "test_rmse"]
        assert list(point.table("summary").columns) == names
        assert ("large" in point.tables) == (number > 0)


class Growing(Bare):
    """An experiment that records the memory of the process after each point."""

    def __init__(self):
        self.held = []

    def run(self, cfg, cell, seed):
        yield Table("curve", {"x": np.arange(200) / 10})
        yield Row("summary", {"test_rmse": 1.0})

    def claims(self, tables):
        self.held.append(psutil.Process().memory_info().rss)
        return [Claim("the error is small", 1.0, "at most 1", True)]


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_memory_of_a_run_does_not_grow_with_its_points(tmp_path, count):
    experiment = Growing()
    configs = [ToyConfig(sizes=[size + 1], figures="none") for size in range(count)]
    assert play(tmp_path, *configs, experiment=experiment).status == Status.COMPLETED
    assert experiment.held[-1] - experiment.held[count // 4] < 4 * 2**20


@pytest.mark.parametrize(
    "points, message",
    [
        ([{"sizes": []}], "the study has no cells"),
        ([{"steps": 0}], "steps=0 must be at least 1"),
        ([{}, {"sizes": []}], "point 1 (sizes=[]): the study has no cells"),
    ],
)
def test_points_are_checked_before_anything_runs(run_toy, tmp_path, points, message):
    with refuses(message):
        run_toy(points=points)
    assert not list(tmp_path.iterdir())


def test_a_single_training_goes_on_from_its_checkpoint(run_toy, same_tables, monkeypatch):
    _, whole = run_toy(steps=8)
    stopped = interrupted(run_toy, monkeypatch, Mock(side_effect=KeyboardInterrupt), steps=8)
    before = stopped.table("metrics")
    assert before["step"].tolist() == [0, 1, 2]
    again = resumed(stopped, {"steps": 8})
    same_tables(again, whole)
    same = again.table("metrics")["seconds"][:3] == before["seconds"]
    assert same.tolist() == [True, True, False]  # two rows lie before the checkpoint


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_journal_that_is_cut_anywhere_goes_on_to_the_same_files(run_toy, same_tables, keep):
    """CSV tables that were damaged or lost are written anew."""
    _, whole = run_toy(**SIZES)
    _, run = run_toy(**SIZES, fails=[4])
    path = run.path / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    (run.path / "summary.csv").write_bytes(bytes(range(256)))
    (run.path / "tables" / "curve.csv").unlink()
    same_tables(resumed(run, SIZES), whole)
    for name in ("summary.csv", "tables/curve.csv"):
        ours, wanted = ((each.path / name).read_text().count("\n") for each in (run, whole))
        assert ours == wanted


def test_records_after_a_damaged_line_are_computed_again(run_toy, same_tables):
    _, whole = run_toy(**SIZES)
    _, run = run_toy(**SIZES)
    path = run.path / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"\xff" + lines[len(lines) // 2]
    path.write_bytes(b"".join(lines))
    damaged = Run(run.path)
    assert not damaged.is_complete
    with pytest.raises(StorageFailed, match="`kanrun runs resume` repeats what is recorded"):
        damaged.table("summary")
    same_tables(resumed(run, SIZES), whole)


def test_resuming_a_study_of_other_cells_is_refused(run_toy):
    _, run = run_toy(sizes=[2, 3], fails=[3])
    with pytest.raises(UsageError, match="recorded cells differ"):
        resumed(run, {"sizes": [2, 5]})


def test_points_are_read_back_from_their_file(tmp_path):
    values = [3, 0.1, True, None, "runge", "3", [1, "a"], {"a": 1}, "=1+1", "a,b"]
    points = tuple(
        Point(n, (f"a={n}",), {"model.a": value, "b": "x"}) for n, value in enumerate(values)
    )
    folder = RunFolder.create(tmp_path, Manifest("fit", points=points))
    assert Run(folder.path).manifest.points == points
