"""`kanrun continual` at small sizes: forgetting, tables, figures, studies and refusals."""

from dataclasses import replace

import pandas as pd
import pytest
from cases import cases, refuses
from doors import check_config, run_config, typed
from kanrun.experiments import continual
from kanrun.experiments.continual import claims_of as claims
from kanrun.experiments.continual.learners import make_sequence

from kanrun.cli.app import main
from kanrun.model.settings import MLPConfig

pytestmark = pytest.mark.usefixtures("unwritten_by_all")
SMALL = (
    "n_jobs=1 n_seeds=1 trials=1 parts=[learners] solver.steps=60 model.base=zero "
    "'learners=[{name: KAN}, {name: MLP tanh, kind: mlp, activation: tanh, depths: [2]}]'"
)
TWO_PEAKS = "peaks=2 model.intervals=80"


def settings(*lines):
    return typed("continual", SMALL, *lines)


def finished(folder, *lines):
    return run_config(settings(*lines), folder)


def three_trials():
    """Return the metrics and the summary that three trials on two small phases record."""
    cfg = settings(
        "learners=[{name:none}] peaks=2 model.intervals=4 model.hidden=[2] solver.steps=5"
    )
    records = list(continual.run(cfg, {**continual.cells(cfg)[0], "trials": 3}, 0))
    return [
        [each.values for each in records if getattr(each, "table", "") == table]
        for table in ("metrics", "summary")
    ]


@pytest.fixture(scope="module")
def paper(tmp_path_factory, unwritten_by_all):
    return finished(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory, unwritten_by_all):
    line = "parts=[intervals,overlap,depth] intervals=[40,80] overlaps=[-0.5,0.5] shapes=[[2]]"
    more = "overlap_learners=[KAN] memories=[none,rehearse]"
    return finished(tmp_path_factory.mktemp("outputs"), TWO_PEAKS, line, more)


def test_a_local_kan_forgets_nothing_and_an_mlp_of_its_parameters_forgets(paper):
    summary = paper.table("summary").set_index("learner")
    kan = summary.loc["KAN"]
    mlp = summary.loc["MLP tanh"]
    assert kan["parameters"] == 203
    assert kan["worst_forgetting"] <= 1e-6
    assert kan["rmse"] <= 4.1e-6
    assert kan["best_spline_rmse"] == pytest.approx(4.01e-6, rel=2e-3)
    assert mlp["parameters"] == pytest.approx(203, rel=0.02)
    assert mlp["worst_forgetting"] > 0.1
    assert mlp["backward_transfer"] < -0.1
    errors = paper.table("matrix").query("learner == 'MLP tanh'")
    matrix = errors.pivot_table(index="after", columns="on", values="error")
    assert matrix.shape == (5, 5)
    assert mlp["average_error"] == pytest.approx(matrix.loc[5].mean())


def test_one_trial_is_trained_whatever_the_time(monkeypatch):
    monkeypatch.setattr(continual, "time_limit_reached", lambda: True)
    metrics, _ = three_trials()
    assert len(metrics) == 1


def test_the_error_on_new_phases_is_the_median_over_trials():
    metrics, (summary,) = three_trials()
    tried = sorted(values["learned"] for values in metrics)
    assert summary["learned"] == tried[1] < tried[2]


def test_claims_and_figures_are_those_of_the_parts_that_ran(paper, parts, figures_of):
    assert len(paper.manifest.claims) == 3
    assert all(claim.holds for claim in paper.manifest.claims)
    assert figures_of(continual, paper) == {"phases", "matrices"}
    varied = ("intervals", "overlap", "depth")
    assert figures_of(continual, parts) == {f"forgetting_against_{part}" for part in varied}
    assert any("falls as G^-4" in claim.sentence for claim in parts.manifest.claims)


def test_a_deep_network_forgets_and_rehearsal_of_its_own_outputs_prevents_it(parts):
    summary = parts.table("summary").query("part == 'depth'").set_index("memory")
    assert set(summary["network"]) == {"1-2-1"}
    bare, kept = (summary.loc[memory] for memory in ("none", "rehearse"))
    assert bare["worst_forgetting"] > 0.01
    assert kept["worst_forgetting"] < 0.1 * bare["worst_forgetting"]
    assert kept["learned"] < 3 * bare["learned"]


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
    assert found["network"].tolist() == ["none"] * 4 + ["ewc"]


def test_nothing_is_claimed_on_everything_if_phases_leave_gaps(parts):
    overlap = parts.table("summary").query("part == 'overlap'")
    assert overlap["best_spline_rmse"].isna().tolist() == (overlap["overlap"] < 0).tolist()


def row(learner, worst_forgetting, role="local kan", memory="none", **changes):
    same = {"part": "learners", "seed": 0, "degree": 3, "intervals": 200, "overlap": 0.5}
    same |= {"phases": 5, "best_spline_rmse": None, "rmse": 0.5, "learned": 0.5}
    names = {"learner": learner, "role": role, "network": role, "memory": memory}
    return {**same, **names, "worst_forgetting": worst_forgetting, **changes}


OVERLAP = {"part": "overlap"}
REACH = "with phases that overlap by up to 0.5"
#: Rows of a summary, and which of their claims hold.
JUDGED = [
    (
        [row("KAN", 0.0, phases=1, best_spline_rmse=0.5)],
        {"KAN: RMSE on everything after the last phase": True},
    ),
    ([row("KAN", 2e-6)], {"KAN: no phase is forgotten": False}),
    (
        [row("MLP", 1.0, "mlp"), row("ewc", 0.05, "mlp", "ewc", rmse=0.04)],
        {"MLP: forgets": True, "ewc: does not both keep and learn the phases": False},
    ),
    (
        [row("bare", 0.2, "kan"), row("kept", 0.019, "kan", "replay", rmse=0.06)],
        {
            "bare: forgets": True,
            "kept: forgetting over that without memory": True,
            "kept: RMSE on everything over that without memory": False,
            "kept: mean error of a phase when it is new over that without memory": True,
        },
    ),
    # A KAN that forgets nothing needs no memory.
    ([row("bare", 1e-3, "kan"), row("kept", 1e-3, "kan", "rehearse")], {"bare: forgets": False}),
    (
        [
            row("spline", 9e-6, **OVERLAP, best_spline_rmse=1e-6),
            row("rehearse", 5e-7, memory="rehearse", **OVERLAP),
            row("far", 2e-6, **OVERLAP, overlap=0.0),
        ],
        {
            f"spline: forgetting over the best spline's error {REACH}": True,
            f"rehearse: no phase is forgotten {REACH}": True,
            "far: no phase is forgotten with phases that do not overlap": False,
        },
    ),
]


@pytest.mark.parametrize("rows, holds", JUDGED)
def test_claims_on_forgetting_hold_by_the_bounds_of_each_learner(rows, holds):
    found = claims(pd.DataFrame(rows))
    assert {claim.sentence.partition(" (")[0]: claim.holds for claim in found} == holds


@pytest.mark.parametrize("power, holds", [(-4.2, True), (-3.0, False)])
def test_forgetting_of_overlapping_phases_must_fall_with_the_order_of_the_splines(power, holds):
    rows = [
        row(f"G = {g}", lost, **OVERLAP, intervals=g, overlap=share, seed=seed)
        for seed in (0, 1)
        for g in (100, 200, 400)
        for share, lost in ((0.5, 1e-8), (1.0, 1e-5 * (g / 100) ** power))
    ]
    (claim,) = (claim for claim in claims(pd.DataFrame(rows)) if "spline's error" in claim.sentence)
    assert claim.measured == pytest.approx(power)
    assert claim.holds is holds


RANGES = (
    "target.formula=x0*x1 target.domain=[0,1] phase_column=x1 phases=3 sampling.n_train=90 "
    "sampling.n_test=40 learners=[{name:KAN}]"
)


def test_phases_are_steps_or_ranges_of_an_input(tmp_path):
    steps = make_sequence(settings("peaks=2 form=step"), 0.0, 0)
    assert steps.phases[0].y.unique().tolist() == [0, 1]
    (found,) = finished(tmp_path, RANGES, "model.intervals=4").table("summary").to_dict("records")
    assert (found["phases"], found["shape"], found["file"]) == (3, "2-1", "x0*x1")
    parts = make_sequence(continual.with_target(settings(RANGES)), 0.0, 0)
    first, second, third = (phase.x[:, 1] for phase in parts.phases)
    assert len(first) == len(second) == len(third) == 30
    assert first.max() < second.min()
    assert len(parts.everything) == 40


def test_the_groups_of_a_column_are_learned_one_after_the_other(tmp_path):
    lines = [f"{i / 60},{i // 3 % 3 + 2000},{i}\n" for i in range(60)]
    (tmp_path / "data.csv").write_text("".join(["x,year,y\n", *lines]))
    years = f"target.path={tmp_path}/data.csv target.outputs=y phase_column=year"
    years += " parts=[learners,overlap]"
    run = finished(tmp_path, years, "learners=[{name:KAN}] model.intervals=80")
    (found,) = run.table("summary").to_dict("records")
    assert (found["phases"], found["file"], found["shape"]) == (3, "data.csv", "1-1")
    assert not run.manifest.claims
    assert found["worst_forgetting"] > 0  # the years overlap in x
    for wrong, said in cases("""
        phase_column=null | phase_column must be given
        phase_column=yaer | no column 'yaer'; did you mean year
        target.task=classification | continual learns one column of numbers
    """):
        with refuses(said):
            check_config(settings(years, wrong))


@pytest.mark.parametrize(
    "line, sentence",
    cases(f"""
        overlaps=[0.5,50] | must be a list of numbers above -1 and below 2
        peaks=1000 | peaks=1000
        phase_column=year | phase_column=year is a column or input of a target
        solver=auto | solver=auto could give learners different solvers
        learners=[] | learners=[] has nothing to train
        learners=[{{name:A,intervals:[5,10]}}] | is a schedule
        parts=[overlap] overlap_learners=[Nobody] | overlap_learners names 'Nobody'
        {RANGES} phases=null sampling.n_train=101 | 101 phases are too many
        {RANGES} phase_column=x2 | phase_column='x2' is not one of the inputs of x0*x1
    """),
)
def test_settings_that_cannot_work_are_refused_before_a_run(line, sentence):
    with refuses(sentence):
        check_config(settings(line))


def test_the_model_is_a_kan():
    with refuses("continual takes the KAN from `model`"):
        check_config(replace(settings(), model=MLPConfig()))


@pytest.mark.slow
def test_every_claim_of_the_defaults_holds(tmp_path):
    assert main(["continual", "-q", "--strict", "--outputs", str(tmp_path)]) == 0
