"""`kanrun continual` at small sizes: who forgets, tables, figures, studies and refusals."""

from dataclasses import replace

import pandas as pd
import pytest
from doors import check_config, run_config, typed
from kanrun.experiments import continual
from kanrun.experiments.continual import claims_of as claims
from kanrun.experiments.continual.learners import Learner, without_memory
from kanrun.experiments.continual.sequences import make_sequence, of_sequence

from kanrun.cli.app import main
from kanrun.config import MLPConfig
from kanrun.errors import UsageError

pytestmark = pytest.mark.usefixtures("unwritten_by_all")
#: What summaries have of a KAN that keeps nothing; and of an MLP that keeps something.
ROW = {
    "part": "learners",
    "seed": 0,
    "role": "kan",
    "trained_extras": None,
    "memory": "none",
    "no_memory_learner": None,
    "layers": 1,
    "degree": 3,
    "intervals": 200,
    "overlap": 0.5,
    "phases": 5,
    "best_spline_rmse": None,
    "rmse": 0.1,
    "learned": 0.1,
}
KEEPER = {"role": "mlp", "memory": "replay", "no_memory_learner": "MLP"}
SMALL = (
    "executor=serial n_seeds=1 trials=1 parts=[learners] solver.steps=60 model.base=zero "
    "'learners=[{name: KAN}, {name: MLP tanh, kind: mlp, activation: tanh, depths: [2]}]'"
)
SECOND_ORDER = "solver=lm solver.steps=20"
TWO_PEAKS = "peaks=2 model.intervals=80"


def row(learner, worst_forgetting, **changes):
    return {**ROW, "learner": learner, "worst_forgetting": worst_forgetting, **changes}


def settings(*lines):
    return typed("continual", SMALL, *lines)


def finished(folder, *lines):
    return run_config(settings(*lines), folder)


@pytest.fixture(scope="module")
def paper(tmp_path_factory, unwritten_by_all):
    return finished(tmp_path_factory.mktemp("outputs"))


def test_the_kan_of_the_paper_forgets_nothing_and_ends_at_the_best_spline(paper):
    summary = paper.table("summary").set_index("learner")
    kan = summary.loc["KAN"]
    assert kan["parameters"] == 203
    assert kan["worst_forgetting"] <= 1e-6
    assert kan["rmse"] <= 4.1e-6
    assert kan["best_spline_rmse"] == pytest.approx(4.01e-6, rel=2e-3)


def test_one_trial_is_trained_whatever_the_time(monkeypatch):
    monkeypatch.setattr(continual, "time_limit_reached", lambda: True)
    cfg = settings("learners=[{name:none}] peaks=2 model.intervals=4")
    cell = {**continual.cells(cfg)[0], "trials": 3}
    rows = [each for each in continual.run(cfg, cell, 0) if getattr(each, "table", "") == "metrics"]
    assert len(rows) == 1


def test_an_mlp_of_the_same_parameters_forgets(paper):
    mlp = paper.table("summary").set_index("learner").loc["MLP tanh"]
    assert mlp["parameters"] == pytest.approx(203, rel=0.02)
    assert mlp["worst_forgetting"] > 0.1
    assert mlp["backward_transfer"] < -0.1


def test_the_matrix_is_the_one_that_the_measures_are_of(paper):
    matrix = paper.table("matrix")
    kan = matrix[matrix["learner"] == "KAN"].pivot_table(
        index="after", columns="on", values="error"
    )
    assert kan.shape == (5, 5)
    found = paper.table("summary").set_index("learner").loc["KAN"]
    assert found["average_error"] == pytest.approx(kan.loc[5].mean())
    assert found["worst_forgetting"] == pytest.approx((kan.loc[5] - kan.min())[:4].max(), abs=1e-15)


def test_claims_and_figures_are_those_of_the_parts_that_ran(paper, figures_of):
    assert len(paper.manifest.claims) == 3
    assert all(claim.holds for claim in paper.manifest.claims)
    assert figures_of(continual, paper) == {"phases", "matrices"}


def test_depth_forgets_and_rehearsal_of_own_outputs_keeps_it(tmp_path):
    run = finished(tmp_path, "parts=[depth] shapes=[[5]] memories=[none,rehearse] peaks=3")
    found = run.table("summary").set_index("memory")
    assert found.loc["none", "worst_forgetting"] > 0.01
    assert found.loc["rehearse", "worst_forgetting"] < 0.1 * found.loc["none", "worst_forgetting"]


def test_every_memory_runs_and_two_dimensions_do_too(tmp_path):
    names = ("none", "replay", "rehearse", "information")
    kans = ",".join(f"{{name:{name},memory:{name}}}" for name in names)
    run = finished(
        tmp_path,
        "dimension=2 peaks=2 spacing=1 sharpness=10 points=49 evaluation_points=64 solver.steps=4",
        f"learners=[{kans},{{name:ewc,kind:mlp,memory:ewc,depths:[1]}}]",
        "model.hidden=[2] model.intervals=4 solver.freeze_unseen=false",
    )
    found = run.table("summary").set_index("learner")
    assert found["phases"].tolist() == [4] * 5
    assert found["stored"].gt(0).tolist() == [False, True, True, True, True]
    assert found["no_memory_learner"].fillna("").tolist() == ["", "none", "none", "none", ""]


def test_intervals_and_overlap_have_their_claims_and_figures(tmp_path):
    parts = "parts=[intervals,overlap] intervals=[40,80] overlaps=[0,0.5] overlap_learners=[KAN]"
    run = finished(tmp_path, TWO_PEAKS, parts)
    drawn = dict(continual.figures({name: run.table(name) for name in run.tables}))
    assert drawn.keys() == {"forgetting_against_intervals", "forgetting_against_overlap"}
    panels = drawn["forgetting_against_overlap"]().axes
    assert [panel.get_xlabel() for panel in panels] == ["overlap of neighbouring phases"] * 2
    assert any("falls as G^-4" in claim.sentence for claim in run.manifest.claims)


def test_of_a_single_phase_no_forgetting_is_claimed(tmp_path):
    (claim,) = finished(tmp_path, SECOND_ORDER, "peaks=1 points=800").manifest.claims
    assert claim.sentence.startswith("KAN: RMSE on everything")
    assert claim.holds


def test_where_phases_leave_gaps_no_error_on_everything_is_claimed(tmp_path):
    run = finished(tmp_path, TWO_PEAKS, "overlap=-0.5")
    assert len(run.manifest.claims) == 2
    assert all("RMSE" not in claim.sentence for claim in run.manifest.claims)


def test_memories_and_overlaps_are_held_to_the_bounds_of_those_that_forget_nothing():
    learned = [
        row("MLP", 1.0, role="mlp", rmse=1.0),
        row("ewc", 0.05, **KEEPER | {"memory": "ewc"}),
        row("ewc that learns", 0.05, **KEEPER | {"memory": "ewc", "rmse": 0.04}),
        row("KAN", 2e-6, part="overlap"),
        row("as the spline", 9e-6, part="overlap", best_spline_rmse=1e-6),
        row("beyond the spline", 11e-6, part="overlap", best_spline_rmse=1e-6),
        row("KAN, rehearse", 5e-7, part="overlap", memory="rehearse"),
    ]
    found = dict[str, list[bool]]()
    for claim in claims(pd.DataFrame(learned)):
        found.setdefault(claim.sentence.partition(":")[0], []).append(claim.holds)
    assert found == {
        "MLP": [True],
        "ewc": [True],
        "ewc that learns": [False],
        "KAN": [False],
        "as the spline": [True],
        "beyond the spline": [False],
        "KAN, rehearse": [True],
    }


SCALED, KEPT = {"trained_extras": "trainable scales"}, {"memory": "rehearse"}


@pytest.mark.parametrize(
    "learned, said",
    [
        (
            [
                row("scales", 0.2, **SCALED),
                row("kept", 1e-3, **SCALED, **KEPT, no_memory_learner="scales"),
                row("scales", 0.2, **SCALED, part="overlap"),
            ],
            [
                "scales: forgetting is back",
                "kept: forgetting over that without memory",
                "kept: RMSE on everything over that without memory",
                "kept: mean error of a phase when it is new over that without memory",
                "scales: forgetting is back with phases that overlap by up to 0.5",
            ],
        ),
        # Where nothing is forgotten, no memory keeps it.
        (
            [row("KAN", 2e-11), row("kept", 2e-11, **KEPT, no_memory_learner="KAN")],
            ["KAN: no phase is forgotten"],
        ),
    ],
)
def test_no_learner_is_claimed_to_forget_and_to_remember(learned, said):
    sentences = [claim.sentence for claim in claims(pd.DataFrame(learned))]
    assert [sentence.partition(" (")[0] for sentence in sentences] == said


def test_the_without_memory_a_learner_is_the_one_of_the_same_network():
    kept = Learner("kept", MLPConfig(), "ewc", depths=[3], strengths=[7.0])
    two = Learner("two", MLPConfig(), depths=[2])
    learners = {"two": two, "kept": kept}
    assert without_memory(kept, learners) is None
    assert without_memory(kept, {**learners, "three": replace(two, depths=[3])}) == "three"
    assert without_memory(two, learners) is None


@pytest.mark.parametrize("power, holds", [(-4.2, True), (-3.0, False)])
def test_what_overlapping_phases_forget_is_held_to_the_order_of_splines(power, holds):
    rows = [
        row(f"G = {g}", lost, part="overlap", intervals=g, overlap=share, seed=seed)
        for seed in (0, 1)
        for g in (100, 200, 400)
        for share, lost in ((0.5, 1e-8), (1.0, 1e-5 * (g / 100) ** power))
    ]
    (claim,) = (claim for claim in claims(pd.DataFrame(rows)) if "spline's error" in claim.sentence)
    assert claim.measured == pytest.approx(power)
    assert claim.holds is holds


#: Largest forgetting, error and error of a new phase, over those without memory.
BOUNDS = {
    "replay": (0.1, 0.1, 10.0),
    "rehearse": (0.1, 0.1, 3.0),
    "information": (0.4, 0.5, 5.0),
}
LEARNED = [
    *((memory, {}, bounds) for memory, bounds in BOUNDS.items()),
    ("rehearse", {"sequence": "steps"}, (None, 0.8, 4.0)),
    ("replay", {"sequence": "steps"}, BOUNDS["replay"]),
]


@pytest.mark.parametrize("memory, within, bounds", LEARNED)
def test_a_memory_keeps_and_learns_up_to_its_bounds(memory, within, bounds):
    deep = {"part": "depth", "layers": 2, "shape": "1-3-1", **within}
    half = {"rmse": 0.5, "learned": 0.5}
    for factor, holds in ((0.999, True), (1.001, False)):
        forgotten, rmse, learned = (factor * (bound or 1.0) / 2 for bound in bounds)
        kept = row(None, forgotten, **deep, memory=memory, rmse=rmse, learned=learned)
        found = list(claims(pd.DataFrame([row(None, 0.5, **deep, **half), kept])))[1:]
        assert [claim.holds for claim in found] == [holds] * sum(map(bool, bounds))


def test_a_study_goes_through_sequences_of_tasks(tmp_path):
    table = {
        "target": {"kind": "expression", "formula": "x0*x1", "domain": [0, 1]},
        "phase_column": "x1",
        "phases": 3,
        "sampling": {"n_train": 90, "n_test": 40},
    }
    model = {"hidden": [], "intervals": 4}
    sequences = {"steps": {"form": "step", "peaks": 2}, "table": {**table, "model": model}}
    cfg = settings("learners=[{name:KAN},{name:kept,memory:rehearse}]", TWO_PEAKS)
    run = run_config(replace(cfg, sequences=sequences), tmp_path)
    found = run.table("summary")
    assert found["sequence"].tolist() == ["steps"] * 2 + ["table"] * 2
    assert found["phases"].tolist() == [2, 2, 3, 3]
    assert found["shape"].tolist() == ["1-1"] * 2 + ["2-1"] * 2
    steps = make_sequence(settings("peaks=2 form=step"), 0.0, 0)
    assert steps.phases[0].y.unique().tolist() == [0, 1]
    parts = make_sequence(of_sequence(replace(cfg, sequences={"t": table}), "t"), 0.0, 0)
    assert [len(phase) for phase in parts.phases] == [30] * 3
    assert parts.phases[0].x[:, 1].max() < parts.phases[1].x[:, 1].min()
    assert len(parts.everything) == 40
    drawn = dict(continual.figures({name: run.table(name) for name in run.tables}))
    assert drawn.keys() == {"matrices_steps", "matrices_table"}
    for wrong, said in (
        ({"phases": None, "sampling": {"n_train": 101}}, "101 phases with 101 points are too many"),
        ({"phase_column": "x2"}, "phase_column='x2' is not one of the inputs of x0.x1"),
    ):
        with pytest.raises(UsageError, match=said):
            check_config(replace(cfg, sequences={"t": {**table, **wrong}}))


def test_the_groups_of_a_column_are_learned_one_after_the_other(tmp_path):
    x = [i / 60 for i in range(60)]
    lines = [f"{a},{int(20 * a) % 3 + 2000},{int(9 * a)}" for a in x]
    (tmp_path / "data.csv").write_text("x,year,y\n" + "\n".join(lines) + "\n")
    years = f"target.path={tmp_path}/data.csv target.outputs=y phase_column=year"
    years += " parts=[learners,overlap]"
    run = finished(tmp_path, years, "learners=[{name:KAN}] model.intervals=80")
    (found,) = run.table("summary").to_dict("records")
    assert (found["phases"], found["file"], found["shape"]) == (3, "data.csv", "1-1")
    assert not run.manifest.claims
    assert found["worst_forgetting"] > 0  # years share their range of x
    for wrong, said in (
        ("phase_column=null", "need both"),
        ("phase_column=yaer", "no column 'yaer'; did you mean year"),
        ("target.task=classification", "continual learns one column of numbers"),
    ):
        with pytest.raises(UsageError, match=said):
            check_config(settings(years, wrong))


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("overlaps=[0.5,50]", "has 50, which must be above -1 and below 2"),
        ("peaks=1000", "are too many"),
        ("phase_column=year", "need both"),
        ("solver=auto", "solver=auto could give learners different solvers"),
        ("learners=[]", "learners=.. has nothing to train"),
        ("learners=[{name:A,intervals:[5,10]}]", "is a schedule"),
        ("parts=[overlap] overlap_learners=[Nobody]", "overlap_learners names 'Nobody'"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_run(line, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_config(settings(line))


def test_the_model_is_a_kan():
    with pytest.raises(UsageError, match="continual takes the KAN from `model`"):
        check_config(replace(settings(), model=MLPConfig()))


@pytest.mark.slow
def test_every_claim_of_the_defaults_holds(tmp_path):
    assert main(["continual", "-q", "--strict", "--outputs", str(tmp_path)]) == 0
