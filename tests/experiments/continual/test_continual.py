"""`kanrun continual` at small sizes: who forgets, tables, figures, studies and refusals."""

from dataclasses import replace

import pandas as pd
import pytest
from doors import check_config, run_config
from kanrun.experiments import continual
from kanrun.experiments.continual.claim_checks import claims_of as claims
from kanrun.experiments.continual.learners import Learner, without_memory

from kanrun.cli.app import main
from kanrun.config import (
    AutoSolver,
    ContinualConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    MLPConfig,
    TableTarget,
)
from kanrun.errors import UsageError
from kanrun.runs import Status

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
KAN_AND_MLP = [
    {"name": "KAN", "kind": "kan"},
    {"name": "MLP tanh", "kind": "mlp", "activation": "tanh", "depths": [2]},
]
MODEL = KANConfig(hidden=[], intervals=80, freeze_scales=True, update_grid=False)  # of two peaks


def row(learner, worst_forgetting, **changes):
    return {**ROW, "learner": learner, "worst_forgetting": worst_forgetting, **changes}


def settings(**changes):
    values = {
        "model": KANConfig(hidden=[], intervals=200, freeze_scales=True, update_grid=False),
        "solver": LBFGSSolver(steps=60, freeze_unseen=True, smoothness_weight=0.0),
        "learners": KAN_AND_MLP,
        "trials": 1,
        "parts": ["learners"],
    }
    return ContinualConfig(**{**values, **changes})


def finished(folder, **changes):
    run = run_config(settings(**changes), folder)
    assert run.status == Status.COMPLETED, run.manifest
    return run


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


@pytest.mark.parametrize("penalty", [0.0, 1e-14])
def test_second_order_steps_move_no_coefficient_that_a_phase_does_not_see(tmp_path, penalty):
    solver = LMSolver(steps=20, freeze_unseen=True, smoothness_weight=penalty)
    kan = [{"name": "KAN", "kind": "kan"}]
    run = finished(tmp_path, solver=solver, learners=kan, peaks=2, model=MODEL)
    known = run.table("functions").pivot_table(index="x0", columns="after", values="output")
    # Farther from the border of the phases than a basis function reaches.
    near = known[known.index < -0.05]
    assert (near[2] - near[1]).abs().max() == 0
    if not penalty:
        found = run.table("summary").iloc[0]
        assert found["worst_forgetting"] <= 1e-9
        assert found["rmse"] <= 1.02 * found["best_spline_rmse"]
        assert found["steps"] <= 20


@pytest.mark.slow
def test_scales_and_grids_that_move_bring_forgetting_back(tmp_path):
    ablations = [
        {"name": "scales", "kind": "kan", "freeze_scales": False},
        {"name": "grids", "kind": "kan", "update_grid": True, "extrapolation": "zero"},
    ]
    found = finished(tmp_path, learners=ablations).table("summary").set_index("learner")
    assert found.loc["scales", "worst_forgetting"] > 0.01
    assert found.loc["grids", "worst_forgetting"] > 0.1


def test_depth_forgets_and_rehearsal_of_own_outputs_keeps_it(tmp_path):
    run = finished(tmp_path, parts=["depth"], shapes=[[5]], memories=["none", "rehearse"], peaks=3)
    found = run.table("summary").set_index("memory")
    assert found.loc["none", "worst_forgetting"] > 0.01
    assert found.loc["rehearse", "worst_forgetting"] < 0.1 * found.loc["none", "worst_forgetting"]


def test_every_memory_runs_and_two_dimensions_do_too(tmp_path):
    learners = [
        {"name": m, "kind": "kan", "memory": m} for m in ("none", "replay", "rehearse", "hold")
    ]
    learners.append({"name": "ewc", "kind": "mlp", "memory": "ewc", "depths": [1]})
    run = finished(
        tmp_path,
        dimension=2,
        peaks=2,
        spacing=1.0,
        sharpness=10.0,
        points=49,
        evaluation_points=64,
        learners=learners,
        model=KANConfig(hidden=[2], intervals=4, freeze_scales=True, update_grid=False),
        solver=LBFGSSolver(steps=4, smoothness_weight=0.0),
    )
    found = run.table("summary").set_index("learner")
    assert found["phases"].tolist() == [4] * 5
    assert found["stored"].gt(0).tolist() == [False, True, True, True, True]
    assert found["no_memory_learner"].fillna("").tolist() == ["", "none", "none", "none", ""]


def test_intervals_and_overlap_have_their_claims_and_figures(tmp_path):
    run = finished(
        tmp_path,
        parts=["intervals", "overlap"],
        intervals=[40, 80],
        overlaps=[0.0, 0.5],
        overlap_learners=["KAN"],
        peaks=2,
        model=MODEL,
    )
    drawn = dict(continual.figures({name: run.table(name) for name in run.tables}))
    assert drawn.keys() == {"forgetting_against_intervals", "forgetting_against_overlap"}
    panels = drawn["forgetting_against_overlap"]().axes
    assert [panel.get_xlabel() for panel in panels] == ["overlap of neighbouring phases"] * 2
    assert any("falls as G^-4" in claim.sentence for claim in run.manifest.claims)


def test_a_network_that_forgets_is_not_claimed_to_remember():
    found = list(claims(pd.DataFrame([row("KAN", 0.5, best_spline_rmse=4e-6)])))
    assert [claim.holds for claim in found] == [False, False]


def test_of_a_single_phase_no_forgetting_is_claimed(tmp_path):
    solver = LMSolver(steps=20, freeze_unseen=True, smoothness_weight=0.0)
    (claim,) = finished(tmp_path, peaks=1, points=800, solver=solver).manifest.claims
    assert claim.sentence.startswith("KAN: RMSE on everything")
    assert claim.holds


def test_where_phases_leave_gaps_no_error_on_everything_is_claimed(tmp_path):
    run = finished(tmp_path, peaks=2, model=MODEL, overlap=-0.5)
    assert len(run.manifest.claims) == 2
    assert all("RMSE" not in claim.sentence for claim in run.manifest.claims)


def test_memories_and_overlaps_are_held_to_the_bounds_of_those_that_forget_nothing():
    learned = [
        row("MLP", 1.0, role="mlp"),
        row("half", 0.5, **KEEPER),
        row("all", 0.05, **KEEPER),
        row("ewc", 0.05, **KEEPER | {"memory": "ewc"}),
        row("ewc that learns", 0.05, **KEEPER | {"memory": "ewc", "rmse": 0.09}),
        row("KAN", 2e-6, part="overlap"),
        row("as the spline", 9e-6, part="overlap", best_spline_rmse=1e-6),
        row("beyond the spline", 11e-6, part="overlap", best_spline_rmse=1e-6),
        row("KAN, rehearse", 5e-7, part="overlap", memory="rehearse"),
    ]
    found = {claim.sentence.partition(":")[0]: claim for claim in claims(pd.DataFrame(learned))}
    assert {name: claim.holds for name, claim in found.items()} == {
        "MLP": True,
        "half": False,
        "all": True,
        "ewc": True,
        "ewc that learns": False,
        "KAN": False,
        "as the spline": True,
        "beyond the spline": False,
        "KAN, rehearse": True,
    }
    assert found["all"].spread == "RMSE on everything over that one's 1"


SCALED, KEPT = {"trained_extras": "trainable scales"}, {"memory": "rehearse"}


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (
            [
                row("scales", 0.2, **SCALED),
                row("kept", 1e-3, **SCALED, **KEPT, no_memory_learner="scales"),
                row("scales", 0.2, **SCALED, part="overlap"),
            ],
            [
                "scales: forgetting is back",
                "kept: forgetting over that of scales, which keeps nothing",
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


@pytest.mark.parametrize(("power", "holds"), [(-4.2, True), (-3.0, False)])
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


def test_holding_is_judged_by_what_was_lost_since_it_was_learned_as_well():
    deep = {"part": "depth", "layers": 2, "shape": "1-3-1", "worst_since_learned": 0.0}
    rows = [row(None, 0.5, **deep, memory=memory) for memory in ("none", "hold", "rehearse")]
    found = [
        claim for claim in claims(pd.DataFrame(rows)) if "since it was learned" in claim.sentence
    ]
    assert [(claim.sentence.partition(":")[0], claim.holds) for claim in found] == [
        ("memory=hold", True)
    ]


@pytest.mark.parametrize(("learned", "holds"), [(0.29, True), (0.31, False)])
def test_a_memory_lets_a_network_learn_new_phases(learned, holds):
    deep = {"part": "depth", "layers": 2, "shape": "1-3-1"}
    rows = [row(None, 0.5, **deep), row(None, 0.01, **deep, **KEPT, learned=learned)]
    (claim,) = (claim for claim in claims(pd.DataFrame(rows)) if "a new phase" in claim.sentence)
    assert claim.holds is holds


def test_the_groups_of_a_column_are_learned_one_after_the_other(tmp_path):
    x = [i / 60 for i in range(60)]
    lines = [f"{a},{int(20 * a) % 3 + 2000},{a * a}" for a in x]
    (tmp_path / "data.csv").write_text("x,year,y\n" + "\n".join(lines) + "\n")
    target = TableTarget(str(tmp_path / "data.csv"), outputs=["y"])
    changes = {"target": target, "phase_column": "year", "parts": ["learners", "overlap"]}
    run = finished(tmp_path, **changes, learners=[{"name": "KAN"}], model=MODEL)
    (found,) = run.table("summary").to_dict("records")
    assert (found["phases"], found["file"], found["shape"]) == (3, "data.csv", "1-1")
    assert not run.manifest.claims
    assert found["worst_forgetting"] > 0  # years share their range of x
    for wrong, said in (
        ({"phase_column": None}, "need both"),
        ({"target": None}, "need both"),
        ({"phase_column": "yaer"}, "no column 'yaer'; did you mean year"),
        ({"target": replace(target, outputs=["x", "y"])}, "continual learns one column of numbers"),
    ):
        with pytest.raises(UsageError, match=said):
            check_config(settings(**{**changes, **wrong}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"overlaps": [0.5, 50.0]}, "has 50.0, which must be above -1 and below 2"),
        ({"peaks": 1000}, "are too many"),
        ({"solver": AutoSolver()}, "solver=auto could give learners different solvers"),
        ({"model": MLPConfig()}, "continual takes the KAN from `model`"),
        ({"learners": []}, "learners=.. has nothing to train"),
        ({"learners": [{"name": "A", "kind": "mlp", "memory": "hold"}]}, "an MLP has none of"),
        ({"learners": [{"name": "A", "kind": "kan", "intervals": [5, 10]}]}, "is a schedule"),
        (
            {"solver": LMSolver(), "learners": [{"name": "A", "kind": "kan", "memory": "hold"}]},
            "needs gradients",
        ),
        ({"parts": ["overlap"], "overlap_learners": ["Nobody"]}, "overlap_learners names 'Nobody'"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_run(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_config(settings(**changes))


@pytest.mark.slow
def test_every_claim_of_the_defaults_holds(tmp_path):
    assert main(["continual", "-q", "--strict", "--outputs", str(tmp_path)]) == 0
