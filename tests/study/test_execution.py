"""Studies from their settings to the run folder, in one process."""

from unittest.mock import Mock

import pytest
import toy_experiment
from cases import cases
from toy_experiment import Bare, ToyConfig, ToyStudy, play

from kanrun.runs import Row, Run, Status
from kanrun.study import studies
from kanrun.study.studies import check


def test_single_training_writes_all_records(run_toy, capsys):
    outcome, run = run_toy()
    manifest = run.manifest
    assert outcome.status == manifest.status == Status.COMPLETED
    assert (manifest.argv, manifest.seeds, manifest.threads) == (("toy",), (0,), 1)
    assert manifest.notes == ("size 3 was chosen",)
    assert manifest.metrics["test_rmse"] == run.table("summary")["test_rmse"][0]
    assert [claim.holds for claim in manifest.claims] == [True, False]
    assert outcome.claims == manifest.claims
    assert list(run.tables) == ["metrics", "summary", "curve", "details", "trace"]
    assert list(run.table("metrics"))[:3] == ["seed", "stage", "step"]
    assert len(run.table("curve")) == 3
    assert run.checkpoints == ("model-3-0",)
    assert [path.name for path in run.figures] == ["loss.png"]
    out, err = capsys.readouterr()
    assert not out
    assert "DOES NOT HOLD  it is zero: measured" in err


def test_a_training_that_fails_among_cells_and_seeds_does_not_stop_the_others(run_toy, capsys):
    outcome, run = run_toy(sizes=[2, 3, 4], n_seeds=2, seed=5, fails=[3])
    manifest = run.manifest
    assert outcome.status == Status.FAILED
    pairs = run.table("summary")[["cell", "seed", "size"]].to_numpy().tolist()
    assert pairs == [[0, 5, 2], [0, 6, 2], [2, 5, 4], [2, 6, 4]]
    assert len(run.table("curve")) == 2 * 2 + 2 * 4
    assert run.checkpoints == (
        *("cell0-model-2-5", "cell0-model-2-6", "cell2-model-4-5", "cell2-model-4-6"),
        *("resume-1-5", "resume-1-6"),
    )
    failure, _ = manifest.failures
    assert (failure["cell"], failure["seed"], failure["settings"]) == (1, 5, {"size": 3})
    assert failure["reason"] == "the loss of size 3 is not finite at step 3"
    assert outcome.claims == manifest.claims
    assert [claim.holds for claim in outcome.claims] == [False, False]
    assert outcome.claims[0].spread == "from 4 of 6 trainings, the others failed"
    assert "2 of 6 trainings failed" in manifest.reason
    assert "cell 1, seed 5: the loss of size 3" in capsys.readouterr().err


def test_error_in_the_claims_keeps_the_training(run_toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(toy_experiment, "claims", Mock(side_effect=ValueError("no ink")))
        outcome, run = run_toy()
    assert outcome.status == Status.FAILED
    assert run.manifest.reason == "checking the claims failed: ValueError: no ink"
    assert len(run.table("summary")) == len(run.figures) == 1
    assert play(run.path, ToyConfig(), resume=True).status == Status.COMPLETED


def test_a_figure_that_cannot_be_drawn_is_a_warning(run_toy, monkeypatch, capsys):
    monkeypatch.setenv("TOY_BROKEN", "figures")
    outcome, run = run_toy()
    assert (outcome.status, run.manifest.reason, run.figures) == (Status.COMPLETED, None, ())
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


class Preparing(Bare):
    """An experiment that records what it prepares."""

    def __init__(self):
        self.built = []

    def cells(self, cfg):
        return [{"size": 1}, {"size": 2}]

    def prepare(self, cfg, cell, seed):
        self.built.append((cell["size"], seed))
        return len(self.built)

    def run(self, cfg, cell, seed, prepared=None):
        yield Row("summary", {"built": prepared or self.prepare(cfg, cell, seed)})


def test_trainings_prepared_during_the_check_are_not_built_again(tmp_path, monkeypatch):
    experiment = Preparing()
    cfg = ToyConfig(n_seeds=2)
    assert play(tmp_path, cfg, experiment=experiment).status == Status.COMPLETED
    assert experiment.built == [(1, 0), (2, 0), (1, 1), (2, 1)]
    built = Run(tmp_path / "toy" / "v0001").table("summary")["built"]
    assert built.tolist() == [1, 3, 2, 4]  # in the order of cells and seeds

    def prepared(**settings):
        return list(check(ToyStudy((ToyConfig(n_seeds=2, **settings),), experiment)).prepared)

    assert prepared() == [(0, 0, 0), (0, 1, 0)]
    assert prepared(n_jobs=2) == [(0, 0, 0)]
    monkeypatch.setattr(studies, "MOST_PREPARED", -1)  # no memory for cells after the first
    assert prepared() == [(0, 0, 0)]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_run_whose_seconds_are_used_up_is_complete_and_says_so(run_toy, n_jobs):
    outcome, run = run_toy(n_jobs=n_jobs, sizes=[2, 3, 4], max_cpu_seconds=1e-9)
    assert outcome.status == run.manifest.status == Status.COMPLETED
    assert run.manifest.reason == (
        "stopped after max_cpu_seconds=1e-09 (CPU time); kept the best result so far; "
        f"{3 - n_jobs} of 3 trainings did not begin"
    )
    assert len(run.table("summary")) == n_jobs
    assert [claim.holds for claim in outcome.claims] == [False, False]
    assert outcome.claims[0].spread == f"from {n_jobs} of 3 trainings, stopped by max_cpu_seconds"


@pytest.mark.parametrize(
    "settings, drawn, said",
    cases("""
        {'figures': 'none'} | [] | ''
        {'figures': ['loss']} | ['loss.png'] | ''
        {'figures': ['los']} | [] | there is no figure los; the figures are loss
        {'figure_formats': ['pdf', 'svg']} | ['loss.pdf', 'loss.svg'] | ''
    """),
)
def test_a_run_draws_the_figures_it_is_asked_for(run_toy, capsys, settings, drawn, said):
    labels = {"tags": ["good", "final"], "note": "for the talk"}
    _, run = run_toy(max_cpu_seconds=1000.0, **labels, **settings)
    assert [path.name for path in run.figures] == drawn
    assert said in capsys.readouterr().err
    assert (run.manifest.tags, run.manifest.note) == (("good", "final"), "for the talk")
    assert run.manifest.reason is None
