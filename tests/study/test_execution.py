"""Studies from their settings to the run folder, in one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest.mock import Mock

import pytest
import toy_experiment
from toy_experiment import Bare, ToyConfig, ToyStudy, play

from kanrun.config import ExecutorConfig, conversion
from kanrun.errors import UsageError
from kanrun.runs import Row, Run, Status
from kanrun.study import studies
from kanrun.study.studies import check


def test_single_training_writes_all_records(run_toy, capsys):
    outcome, run = run_toy()
    assert outcome.status == Status.COMPLETED
    manifest = run.manifest
    assert manifest.status == "COMPLETED"
    assert manifest.argv == ("toy",)
    assert manifest.seeds == (0,)
    assert manifest.threads == 1
    assert manifest.notes == ("size 3 was chosen",)
    assert manifest.metrics["test_rmse"] == run.table("summary")["test_rmse"][0]
    assert [claim.holds for claim in manifest.claims] == [True, False]
    assert outcome.claims == manifest.claims
    assert list(run.tables) == ["metrics", "summary", "curve", "details", "trace"]
    assert list(run.table("metrics").columns)[:3] == ["seed", "stage", "step"]
    assert len(run.table("curve")) == 3
    assert run.checkpoints == ("model-3-0",)
    assert [path.name for path in run.figures] == ["loss.png"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "DOES NOT HOLD  it is zero: measured" in captured.err


def test_rows_carry_cell_and_seed_where_there_are_several(run_toy):
    outcome, run = run_toy(sizes=[2, 3], n_seeds=2, seed=5)
    assert outcome.status == Status.COMPLETED
    pairs = run.table("summary")[["cell", "seed", "size"]].to_numpy().tolist()
    assert pairs == [[0, 5, 2], [0, 6, 2], [1, 5, 3], [1, 6, 3]]
    assert len(run.table("curve")) == 2 * 2 + 2 * 3
    assert set(run.checkpoints) == {
        f"cell{cell}-model-{cell + 2}-{seed}" for cell in (0, 1) for seed in (5, 6)
    }
    assert run.manifest.threads == 1
    assert run.manifest.cells == 2


def test_a_training_that_fails_among_others_does_not_stop_them(run_toy, capsys):
    outcome, run = run_toy(sizes=[2, 3, 4], fails=[3])
    assert outcome.status == Status.FAILED
    assert run.table("summary")["size"].tolist() == [2, 4]
    (failure,) = run.manifest.failures
    assert failure["cell"] == 1
    assert failure["settings"] == {"size": 3}
    assert failure["reason"] == "the loss of size 3 is not finite at step 3"
    assert [claim.holds for claim in outcome.claims] == [False, False]
    assert outcome.claims == run.manifest.claims
    assert outcome.claims[0].spread == "from 2 of 3 trainings, the others failed"
    assert "1 of 3 trainings failed" in (run.manifest.reason or "")
    assert "cell 1, seed 0: the loss of size 3" in capsys.readouterr().err


def test_error_in_the_claims_keeps_the_training(run_toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(toy_experiment, "claims", Mock(side_effect=ValueError("no ink")))
        outcome, run = run_toy()
    assert outcome.status == Status.FAILED
    assert run.manifest.reason == "checking the claims failed: ValueError: no ink"
    assert len(run.table("summary")) == len(run.figures) == 1
    again = play(run.path, ToyConfig(), resume=True)
    assert again.status == Status.COMPLETED


def test_a_figure_that_cannot_be_drawn_is_a_warning(run_toy, monkeypatch, capsys):
    monkeypatch.setenv("TOY_BROKEN", "figures")
    outcome, run = run_toy()
    assert (outcome.status, run.manifest.reason) == (Status.COMPLETED, None)
    assert run.figures == ()
    warning = "the figure loss could not be drawn: ValueError: no ink"
    assert warning in capsys.readouterr().err
    assert warning in run.manifest.notes
    monkeypatch.setattr(toy_experiment, "figures", lambda tables: 1 / 0)
    assert run_toy()[0].status == Status.COMPLETED


def test_an_experiment_may_be_an_object_and_must_yield_records(tmp_path, capsys):
    class Wrong(Bare):
        def run(self, cfg, cell, seed):
            yield Row("metrics", {"seed": seed + 1, "step": 0})

    with pytest.raises(Exception, match="`seed` is the recorder's column"):
        play(tmp_path, ToyConfig(), experiment=Wrong())
    assert Run(tmp_path / "toy" / "v0001").manifest.status == "FAILED"
    assert capsys.readouterr() == ("", "")  # nothing is printed with `quiet`


@dataclass
class Preparing(Bare):
    """An experiment that records what it prepares."""

    built: list[tuple[int, int]] = field(default_factory=list)

    def cells(self, cfg):
        return [{"size": 1}, {"size": 2}]

    def prepare(self, cfg, cell, seed):
        self.built.append((cell["size"], seed))
        return f"size {cell['size']}, seed {seed}"

    def run(self, cfg, cell, seed, prepared=None):
        yield Row("summary", {"built": prepared or self.prepare(cfg, cell, seed)})


def test_trainings_prepared_during_the_check_are_not_built_again(tmp_path, monkeypatch):
    experiment = Preparing()
    checked = check(ToyStudy((ToyConfig(n_seeds=2),), experiment))
    assert experiment.built == [(1, 0), (2, 0)]
    assert list(checked.prepared) == [(0, 0, 0), (0, 1, 0)]
    experiment.built.clear()
    play(tmp_path, ToyConfig(n_seeds=2), experiment=experiment)
    assert experiment.built[2:] == [(1, 1), (2, 1)]
    monkeypatch.setattr(
        studies, "MOST_PREPARED", -1
    )  # no memory for prepared cells except the first
    assert list(check(ToyStudy((ToyConfig(n_seeds=2),), experiment)).prepared) == [(0, 0, 0)]
    monkeypatch.undo()
    local = ToyConfig(n_seeds=2, executor=ExecutorConfig("local"))
    assert list(check(ToyStudy((local,), experiment)).prepared) == [(0, 0, 0)]
    rows = Run(tmp_path / "toy" / "v0001").table("summary")["built"].tolist()
    assert rows == ["size 1, seed 0", "size 1, seed 1", "size 2, seed 0", "size 2, seed 1"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_seeds": 4 * 10**9}, "4000000000 trainings are more than 100000"),
        ({"seed": 2**32}, "largest seed"),
        ({"device": "cuda:99"}, "device=cuda:99 is not there"),
        ({"sizes": []}, "no cells"),
        ({"steps": 0}, "steps=0 must be at least 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings, message):
    def checked():
        cfg = ToyConfig(**settings)
        conversion.check(cfg)
        check(ToyStudy((cfg,)))

    with pytest.raises(UsageError, match=message):
        checked()


@pytest.mark.parametrize("executor", [("serial",), ("local", 1)])
def test_a_run_whose_seconds_are_used_up_is_complete_and_says_so(run_toy, executor):
    outcome, run = run_toy(executor, sizes=[2, 3, 4], max_cpu_seconds=1e-9)
    assert outcome.status == run.manifest.status == Status.COMPLETED
    assert run.manifest.reason == (
        "stopped after max_cpu_seconds=1e-09 (CPU time); kept the best result so far; "
        "2 of 3 trainings did not begin"
    )
    assert len(run.table("summary")) == 1
    assert [claim.holds for claim in outcome.claims] == [False, False]
    assert outcome.claims[0].spread == "from 1 of 3 trainings, stopped by max_cpu_seconds"


@pytest.mark.parametrize(
    "figures, drawn, said",
    [
        ("none", [], ""),
        (["loss"], ["loss.png"], ""),
        (["los"], [], "there is no figure los; the figures are loss"),
    ],
)
def test_a_run_draws_the_figures_it_is_asked_for(run_toy, capsys, figures, drawn, said):
    _, run = run_toy(figures=figures)
    assert [path.name for path in run.figures] == drawn
    assert said in capsys.readouterr().err


def test_tags_a_note_and_figure_formats_are_settings(run_toy):
    _, run = run_toy(
        tags=["good", "final"],
        note="for the talk",
        figure_formats=["pdf", "svg"],
        max_cpu_seconds=1000.0,
    )
    assert (run.labels.tags, run.labels.note) == (("good", "final"), "for the talk")
    assert [path.suffix for path in run.figures] == [".pdf", ".svg"]
    assert run.manifest.reason is None
    with pytest.raises(UsageError, match="'two words' is not a valid tag"):
        run_toy(tags=["two words"])
    with pytest.raises(UsageError, match="max_cpu_seconds=5 is not for executor=dask"):
        run_toy(("dask", None, "tcp://127.0.0.1:1"), max_cpu_seconds=5.0)
