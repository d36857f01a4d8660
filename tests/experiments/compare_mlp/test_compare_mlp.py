"""kanrun compare-mlp at small sizes, through the study that the command runs."""

import pytest
from cases import cases
from doors import check_config, run_config, typed
from kanrun.experiments import compare_mlp
from kanrun.experiments.compare_mlp import VARIANTS, matched, steps_without_kan
from kanrun.experiments.compare_mlp import cases as compared

from kanrun.errors import UsageError
from kanrun.model.settings import MLPConfig
from kanrun.monitoring import finished

PRODUCT = {"target": {"kind": "named", "name": "product"}, "shapes": [[2]]}
RUNGE = "{target:{kind:named,name:runge},shapes:[[]]}"
#: Without the search for the penalty's weight, which is slow.
SMALL = (
    "n_jobs=1 n_seeds=1 solver.n_starts=1 solver.steps=3 solver.smoothness_weight=1e-20 "
    "sampling.n_train=60 sampling.n_test=40 grids=[[3],[3,6]] depths=[2] activations=[tanh] "
    "cases=[{target:{kind:named,name:product},shapes:[[2]]}]"
)


def settings(*lines):
    return typed("compare-mlp", SMALL, *lines)


@pytest.fixture
def run(tmp_path, unwritten):
    return lambda *lines: run_config(settings(*lines), tmp_path)


def test_matched_networks_are_equal_in_parameters_and_judged(run, figures_of):
    finished = run("n_seeds=2")
    summary = finished.table("summary")
    assert len(summary) == 2 * (2 + 2)
    assert (summary.loc[summary["model"] == "mlp", "off"].abs() <= 0.03).all()
    for kan, rows in summary.groupby("kan"):
        sizes = rows.groupby("model")["parameters"].max()
        assert sizes["kan"] <= 1.03 * sizes["mlp"], kan  # validation can choose a coarser grid
    assert (summary[["seconds", "flops", "kanbefair_flops"]] > 0).all(axis=None)
    counts = finished.table("counts")
    same = counts[counts["convention"] == "spline"]
    assert (same["count"] == same["exact"]).all()
    verdict, *growth = finished.manifest.claims
    assert verdict.sentence.startswith("product: at equal parameters")
    assert len(growth) == 6
    assert all(claim.holds for claim in growth)
    assert figures_of(compare_mlp, finished) == {"pareto", "scaling", "growth"}


def product(*lines):
    """Return the case of the target `product`, with changed settings."""
    return compared.case_of(settings(*lines), PRODUCT, 0)


@pytest.mark.parametrize("comparison, hidden", [("matched", [3]), ("kolmogorov_arnold", [5])])
def test_users_target_replaces_the_cases(comparison, hidden):
    own = f"target.formula=x0*sin(x1) model.hidden=[3] grids=[[3]] comparison={comparison}"
    cfg = settings(own)
    cell = compare_mlp.cells(cfg)[0]
    case = compared.case_of(cfg, cell["case"], 0)
    assert case.name == "x0*sin(x1)"
    assert compared.model_of(case, cell).hidden == hidden


def test_both_sides_take_the_same_number_of_steps():
    case = product("solver.smoothness_weight=auto")
    model = compared.kan_settings(case.cfg, [2], [3, 6, 9])
    steps = compared.steps_of(case, model)
    assert steps == 3 * 3 * 3  # grids, steps of each, and the factor for the penalty search
    assert compared.training_of(case, model).plan.starts == 1
    trained = finished(compared.train(case, MLPConfig([3], "tanh"), 0, steps))
    assert trained.stages[0].steps <= steps


def test_mlps_of_given_widths_take_the_largest_budget_of_the_kans():
    case = product("solver.steps=null grids=[[3],[40]]")
    assert steps_without_kan(case, [[1], [2]]) == 20  # steps on the small grid
    assert steps_without_kan(case, [[30]]) == 10  # 90 edges with 6 unknowns are more than 300


def test_mlps_match_in_operations_too():
    case = product("match=flops")
    kan = compared.kan_of(case, compared.kan_settings(case.cfg, [2], [3, 6]))
    found = matched(case, kan, {"depth": 2, "activation": "tanh"})
    assert len(found.hidden) == 2
    assert found.close


def test_warning_if_no_mlp_is_near_the_size(run):
    case = "cases=[{target:{kind:expression,formula:x0+x5},shapes:[[]]}]"
    finished = run(f"{case} grids=[[1]] depths=[5] widths=[2,4]")
    assert any("no MLP of depth 5 matches" in note for note in finished.manifest.notes)
    # MLPs of given widths stand beside those that match.
    assert {"6-2-2-2-2-2-1", "6-4-4-4-4-4-1"} < set(finished.table("summary")["shape"])


def test_universal_approximation_claims_compare_errors_with_bounds(run):
    line = "comparison=universal_approximation widths=[1,3] errors=[10,1e-9]"
    finished = run(f"{line} cases=[{RUNGE}]")
    reached, missed = finished.manifest.claims
    assert (reached.measured, reached.holds, missed.holds) == (1, True, False)
    assert "is the least reached" in str(missed.measured)


def test_kolmogorov_arnold_claims_one_sentence_per_grid(run):
    case = RUNGE.replace("{target", "{bound:0.5,target")
    finished = run(f"comparison=kolmogorov_arnold n_seeds=2 grids=[[2],[2,4]] cases=[{case}]")
    assert set(finished.table("summary")["shape"]) == {"1-3-1"}
    coarse, fine = finished.manifest.claims
    assert coarse.sentence.startswith("[1,3,1] fits runge with G = 2:")
    assert "runge with G = 2,4:" in fine.sentence
    assert fine.bound == "at most 0.5"
    assert "over 2 seeds" in str(fine.spread)


def test_no_activation_is_least_squares(run):
    sampling = "sampling.n_train=80 sampling.n_test=20 sampling.noise=0.1"
    line = "comparison=no_activation depths=[0,1,3] widths=[3] solver.steps=null"
    finished = run(f"{line} solver.smoothness_weight=auto {sampling}")
    assert all(claim.holds for claim in finished.manifest.claims), finished.manifest.claims
    assert len(finished.table("linear")) == 3


def test_every_variant_of_implementation_tricks_is_trained(run):
    solver = "solver=lbfgs solver.steps=4 solver.smoothness_weight=auto"
    finished = run(
        f"comparison=implementation_tricks grids=[[3]] n_seeds=2 {solver} model.base=silu"
    )
    summary = finished.table("summary")
    assert set(summary["variant"]) == set(VARIANTS)
    errors = summary.pivot_table(index="seed", columns="variant", values="test_rmse")
    assert (errors["no residual base"] != errors["all tricks"]).all()  # the trainings differ
    assert len(finished.manifest.claims) == 4


ALL_ROWS = "sampling.n_train=null sampling.n_test=null"


def test_real_tables_are_compared_by_cross_entropy(run):
    case = "cases=[{target:{kind:bundled,name:iris},shapes:[[]]}] grids=[[2]] depths=[1] n_seeds=2"
    solver = "solver=lbfgs solver.steps=15 solver.smoothness_weight=auto"
    finished = run(f"{case} {solver} {ALL_ROWS}")
    summary = finished.table("summary")
    assert summary["test_accuracy"].between(0.5, 1).all()
    assert (summary["test_cross_entropy"] > 0).all()
    assert (summary["error"] == summary["test_cross_entropy"]).all()
    assert set(summary["error_name"]) == {"test cross-entropy"}
    assert "iris: at equal parameters" in finished.manifest.claims[0].sentence


@pytest.mark.parametrize(
    "line, message",
    cases("""
        cases=[] | names nothing to learn
        cases=[{target:product}] | cases.target=product must be a mapping
        grids=[[3],[3]] | grids=.* each once|twice
        cases=[{target:{kind:named,name:product},shapes:[[2]]},{target:{kind:named,name:product},shapes:[[2]]}] | cases has product twice
        cases=[{target:{kind:named,name:product},shapes:[[2],[2]]}] | cases.shapes
        solver=adam solver.sparsity=0.1 | model=mlp has none
        depths=[0] | depths from 1 on
        model=mlp | set model=kan
        comparison=universal_approximation widths=[2] | errors=.. must list
        comparison=universal_approximation errors=[0.1] | names no width
        comparison=kolmogorov_arnold cases=[{bound:0,target:{kind:named,name:product},shapes:[[2]]}] | above 0
        comparison=universal_approximation widths=[2] errors=[0.1] precision=float32 | works in float64
        comparison=no_activation widths=[2] errors=[0.1] solver.steps=-1 | solver.steps=-1
        comparison=no_activation widths=[2] errors=[0.1] target=bundled target.name=iris sampling.n_train=null sampling.n_test=null | not cross-entropy
        target=lecture_points | has no test points
        "'target.formula=sign(x0 + 5)'" | nothing to compare
        model.hidden=[3] | model.hidden=.3. is not used here. Set shapes of the cases
        model.intervals=7 | model.intervals=7 is not used here. Set grids
        comparison=no_activation | one width
        comparison=implementation_tricks | trains w_b and w_s
        comparison=implementation_tricks solver=lbfgs | model.base=zero has none
    """),  # noqa: E501,
)
def test_impossible_settings_are_refused_before_the_run(line, message):
    with pytest.raises(UsageError, match=message):
        check_config(settings(line))
