"""kanrun extend-grid at a small size, through the study that the command runs."""

import pandas as pd
import pytest
from cases import cases, refuses
from doors import check_config, run_config, typed
from kanrun.experiments import extend_grid
from kanrun.experiments.extend_grid import (
    order_claims,
    overfit_claims,
    warm_start_claims,
)

from kanrun.errors import UsageError

#: Small, and without the search for the penalty's weight, which is slow.
SMALL = (
    "n_jobs=1 n_seeds=1 target=bessel_j0 sampling.n_train=200 sampling.n_test=100 "
    "solver.n_starts=1 solver.steps=6 solver.smoothness_weight=1e-30 shapes=[[]] degrees=[1,3] "
    "schedules=[{kind:list,intervals:[4,8,20]}] order_points=600 order_intervals=[20,40,80] "
    "order_first_grid=40 overfit_points=40 overfit_intervals=[10,20,60]"
)


def settings(*lines):
    return typed("extend-grid", SMALL, *lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, unwritten_by_all):
    return run_config(settings("seed=1"), tmp_path_factory.mktemp("outputs"))


def test_every_stage_is_recorded(finished):
    first = finished.table("stages").query("part == 'schedules'")
    assert first["intervals"].tolist() == [4, 8, 20]
    assert first["parameters"].tolist() == [4 + 3, 8 + 3, 20 + 3]
    assert first["carried_by"].tolist() == ["start", "insertion", "least squares"]
    assert first["function_change"].iloc[1] <= 1e-12
    assert first["loss_jump"].iloc[1] == pytest.approx(1)
    assert (first["threshold"] == 180 - 3).all()  # 20 of the 200 points are held out
    assert (first["paper_threshold"] == 180).all()
    assert first["seconds"].is_monotonic_increasing
    assert (first["test_root_median_square"] < first["test_rmse"]).all()
    assert first.loc[first["chosen"], "validation_rmse"].iloc[0] == first["validation_rmse"].min()


def test_each_part_leaves_its_rows_and_figure(finished, figures_of):
    stages = finished.table("stages")
    counts = stages.groupby(["part", "start"]).size().to_dict()
    assert counts == {
        ("schedules", "warm"): 3,
        ("scratch", "scratch"): 3,
        ("order", "warm"): 6,
        ("overfit", "warm"): 12,
        ("overfit", "scratch"): 1,
    }
    ordered = stages[stages["in_order"].astype(bool)]
    assert set(ordered["part"]) == {"order"}
    assert set(ordered["intervals"]) == {40, 80}
    drawn = {"staircase", "error_against_intervals", "order", "overfit"}
    assert figures_of(extend_grid, finished) == drawn
    assert len(finished.table("summary")) == len(extend_grid.cells(settings()))


def test_training_error_chooses_the_grid_without_penalty_on_exact_and_noisy_points(finished):
    rows = finished.table("stages").query("part == 'overfit'")
    bare = rows[~rows["penalised"]]
    assert bare["validation_rmse"].isna().all()
    assert (bare["penalty"] == 0).all()
    assert (bare["threshold"] == 40 - 3).all()  # no points are held out
    assert rows.loc[rows["penalised"], "validation_rmse"].notna().all()
    finest = bare.query("start == 'warm' and intervals >= threshold")
    assert finest[["intervals", "noise"]].to_numpy().tolist() == [[60, 0.0], [60, 0.01]]
    assert (finest["train_rmse"] < 1e-6).all()  # two settings are reproduced; their errors differ
    assert finest["test_rmse"].nunique() == 2


@pytest.mark.parametrize(
    "line, trainings",
    [
        ("", 5),
        ("solver=lm", 5),
        ("solver=lbfgs solver.smoothness_weight=0", 3),
    ],
)
def test_overfitting_is_tried_with_what_the_solver_allows(line, trainings):
    assert len(extend_grid.cells(settings("parts=[overfit]", line))) == trainings


def test_the_order_is_measured_on_the_narrowest_network():
    cfg = settings("shapes=[[5],[1]] degrees=[2,3] parts=[order]")
    assert [cell["model"]["hidden"] for cell in extend_grid.cells(cfg)] == [[1], [1]]


def test_claims_come_with_bounds_and_spread(finished):
    claims = finished.manifest.claims
    for begin in (
        "A nested refinement",
        "k = 3: test RMSE of [1,1] falls as G^-(k + 1) over G = 4",
    ):
        assert next(claim for claim in claims if claim.sentence.startswith(begin)).holds
    assert sum("threshold" in claim.sentence for claim in claims) == 5


def records_of(line, table=None):
    """Return the rows of one table of the first schedule, or all records without such rows."""
    cfg = settings("parts=[schedules]", line)
    records = list(extend_grid.run(cfg, extend_grid.cells(cfg)[0], 0))
    return [one.values for one in records if getattr(one, "table", "") == table] or records


def test_published_errors_stand_beside_ours():
    line = "target=exp_sin_square shapes=[[1]] sampling.n_train=1000 sampling.n_test=50"
    schedule = "schedules=[{kind:list,intervals:[3,4,5]}] solver.steps=2"
    rows = pd.DataFrame(records_of(f"{line} {schedule}", "published"))
    facts = rows[["intervals", "paper", "pykan"]].to_numpy().tolist()
    assert facts == [[3, 1.8e-2, 1.4e-2], [5, 6.5e-3, 7.2e-3]]


def test_grids_beyond_the_limit_are_left_out_with_a_warning():
    assert "leaves out the grids [20]" in records_of("max_parameters=20")[0].text


@pytest.mark.parametrize(
    "line, message",
    cases("""
        max_parameters=3 | leaves no grid
        schedules=[doubling] | has doubling, where keys with values are needed; it takes first
        schedules=[{kind:doubling,first:3}] | kind=doubling needs first and last
        schedules=[{kind:plateau,intervals:[3],first:3}] | needs intervals or first and last
        model=mlp | Use model=kan
        model.hidden=[3] | model.hidden=.3. is not used here. Set shapes=
        model.intervals=[5,10] | model.intervals=.5, 10. is not used here. Set schedules=
        model.degree=0 | model.degree: splines of degree 0
        sampling.n_test=0 | bessel_j0 has no test points
        target=lecture_points sampling.n_train=4 sampling.n_test=0 | no test points
    """),
)
def test_impossible_settings_are_refused_before_the_run(line, message):
    with pytest.raises(UsageError, match=message):
        check_config(settings(line))


def test_a_part_that_needs_more_points_than_a_table_has_is_refused_by_its_name(tmp_path):
    (tmp_path / "few.csv").write_text("x,y\n" + "".join(f"{i},{i % 7}\n" for i in range(50)))
    few = f"target=table target.path={tmp_path}/few.csv target.outputs=y"
    few += " sampling.n_train=null sampling.n_test=null"
    check_config(settings(few, "parts=[schedules,scratch]"), tmp_path)
    with refuses("the part order trains on 600 points: ... few.csv ... Change order_points, or"):
        check_config(settings(few))


def stages_like(**columns):
    fixed = {"shape": "2-1-1", "degree": 3, "in_order": True, "seed": 0}
    return pd.DataFrame({**fixed, **columns})


def test_overfitting_is_measured_against_the_grids_before_the_threshold():
    errors = {"test_rmse": [1e-2, 1e-3, 5e-3], "train_rmse": [1e-2, 1e-3, 1e-16]}
    rows = stages_like(part="overfit", start="warm", intervals=[5, 10, 50], threshold=30, **errors)
    (claim,) = overfit_claims(rows.assign(penalised=False, noise=0.01))
    assert "1% noise, after warm starts" in claim.sentence
    assert claim.measured == pytest.approx(5)
    assert claim.holds
    assert claim.spread == "training RMSE there 1e-16"
    (claim,) = overfit_claims(rows.assign(penalised=True, noise=0.0))
    assert "exact points" in claim.sentence
    assert not claim.holds


def schedule_stages(part, intervals, errors, seconds):
    columns = {"intervals": intervals, "test_rmse": errors, "seconds": seconds}
    return stages_like(part=part, compared=part == "schedules", **columns)


def test_claim_says_if_training_from_scratch_never_reaches_the_error():
    warm = schedule_stages("schedules", [5, 50], [1e-2, 1e-4], [1.0, 2.0])
    never = "never reached from scratch by 1 of 1 seeds"
    for error, seconds, measured in ((1e-4, 6.0, 3.0), (1e-1, 1.0, never)):
        alone = schedule_stages("scratch", [50], [error], [seconds])
        (claim,) = warm_start_claims(pd.concat([warm, alone]))
        assert claim.measured == measured
        assert claim.holds


def test_a_single_grid_has_no_order_and_no_staircase(tmp_path, figures_of, unwritten):
    assert not list(order_claims(stages_like(part="order", intervals=[10], test_rmse=[1e-3])))
    cfg = settings("parts=[schedules] schedules=[{kind:list,intervals:[4]}]")
    assert figures_of(extend_grid, run_config(cfg, tmp_path)) == {"error_against_intervals"}
