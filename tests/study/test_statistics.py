"""Statistics over seeds; a value that is NaN or infinite prevents every claim from holding."""

import math

import kanrun.experiments.continual as continual_claims
import kanrun.experiments.curves as curve_claims
import pandas as pd
import pytest
from kanrun.experiments.compare_mlp import (
    implementation_tricks,
    kolmogorov_arnold,
    matched,
    no_activation,
)
from kanrun.experiments.curves.parts import fitted_order
from kanrun.experiments.extend_grid import convergence_claims as grid_claims

from kanrun import study
from kanrun.errors import UsageError
from kanrun.study import suite
from kanrun.study.suite import claim_at_least, claim_at_most, maximum, median, minimum, value_range


def table(values, name, **others):
    return pd.DataFrame({"seed": range(len(values)), name: values, **others})


def bounded(values):
    rows = table(values, "value", label="a", column="test_rmse", bound=1.0)
    return suite.bound_claims({"bounds": pd.concat([rows, rows.assign(column="seconds")])})


def of_no_activation(values):
    columns = {"from_least_squares": values, "from_product": values, "bits_that_differ": values}
    return no_activation.claims({"linear": pd.DataFrame({"depth": 1, **columns})})


def superposed(values):
    rows = table(values, "relative_error", target="t", grid="5", shape="2-5-1", bound=1.0)
    return kolmogorov_arnold.claims({"summary": rows})


def six_seeds(rows):
    """Return the rows twice, for three and three seeds, because verdicts need six."""
    return pd.concat([rows, rows.assign(seed=rows["seed"] + 3)])


def without_tricks(values):
    summary = pd.concat(
        table(
            [error + 10 * (variant != "all tricks") for error in values], "error", variant=variant
        )
        for variant in implementation_tricks.VARIANTS
    )
    summary = six_seeds(summary)
    summary = summary.assign(target="t", shape="2-1", error=summary["error"] + 1)
    return implementation_tricks.claims({"summary": summary})


def opponents(values):
    kans = table(values, "error", model="kan", validation_rmse=1.0)
    summary = pd.concat([kans, kans.assign(model="mlp", error=kans["error"] + 1)])
    summary = summary.assign(kan="a", target="t", error=summary["error"] + 1)
    return matched.verdict_claims(six_seeds(summary), "parameters")


LOCAL_KAN = {"learner": "KAN", "role": "local kan", "network": "KAN", "memory": "none", "phases": 5}


def learners(values):
    rows = table(values, "worst_forgetting", rmse=values, part="learners", **LOCAL_KAN)
    return continual_claims.claims_of(rows.assign(best_spline_rmse=values))


def on_grids(values):
    fine = table([4e-4 + error for error in values], "rmse", intervals=20, worst_forgetting=values)
    coarse = fine.assign(intervals=10, rmse=16 * 4e-4, worst_forgetting=0.0)
    both = pd.concat([coarse, fine]).assign(part="intervals", degree=3, **LOCAL_KAN)
    both["best_spline_rmse"] = 4e-4
    return continual_claims.claims_of(both)


def stages(values, **others):
    fine = table(
        [4e-4 + error for error in values], "test_rmse", intervals=20, in_order=True, **others
    )
    coarse = fine.assign(intervals=10, test_rmse=16 * 4e-4)
    return pd.concat([coarse, fine]).assign(shape="1-1", degree=3)


def ordered(values):
    return grid_claims.order_claims(stages(values, part="order"))


def overfitted(values):
    rows = stages(
        values,
        part="overfit",
        noise=0.0,
        penalised=True,
        start="warm",
        threshold=15.0,
        train_rmse=0.0,
    )
    return grid_claims.overfit_claims(rows)


def extended(values):
    warm = stages(values, part="schedules", compared=True, seconds=1.0)
    alone = stages([0.0] * 3, part="scratch", seconds=2.0)
    return grid_claims.warm_start_claims(pd.concat([warm, alone]))


def refined(values):
    rows = table(values, "function_change", carried_by="insertion", part="order", penalised=True)
    return grid_claims.exact_claims(rows)


def converging(values):
    fitted = fitted_order([40, 80, 160], [1.0, 1.0 / 16, 1.0 / 256 + values[-1]])
    return curve_claims.convergence(pd.DataFrame([{"degree": 3, **fitted}]))


def growing(values):
    rows = table(
        [1.0, 2.0, 3.0 + values[-1]], "max_error", points=[10, 20, 40], degree=3, place=1.0
    )
    falling = rows.assign(
        curve="polynomial, Chebyshev points", max_error=[3.0 + values[-1], 1e-13, 1e-14]
    )
    both = pd.concat([rows.assign(curve="polynomial"), falling])
    return [*curve_claims.growth_at_ends(both)][::2]


ALL = [
    bounded,
    of_no_activation,
    superposed,
    without_tricks,
    opponents,
    learners,
    on_grids,
    ordered,
    overfitted,
    extended,
    refined,
    converging,
    growing,
]


@pytest.mark.parametrize("claims", ALL)
def test_one_nan_keeps_a_claim_from_holding(claims):
    good, bad = (list(claims([0.0, 0.0, last])) for last in (0.0, math.nan))
    assert good
    assert all(claim.holds for claim in good), good
    assert len(bad) == len(good)
    assert not any(claim.holds for claim in bad), bad


@pytest.mark.parametrize(
    "claims, largest",
    [
        (bounded, 1.0),
        (of_no_activation, 1e-8),
        (of_no_activation, 1e-12),
        (superposed, 1.0),
        (learners, 1e-6),
        (on_grids, 1e-6),
        (on_grids, 4e-4 * (2**0.3 - 1)),  # the orders are at most -3.7
        (ordered, 4e-4 * (2**0.3 - 1)),
        (overfitted, 4e-4 * (16 * 1.1 - 1)),
        (refined, 1e-12),
        (converging, 1.6143e-3),
    ],
)
def test_a_claim_holds_up_to_its_bound(claims, largest):
    held = [
        sum(claim.holds for claim in claims([largest * factor] * 3)) for factor in (0.999, 1.001)
    ]
    assert held[0] > held[1]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"r2": 1.0}, "has r2; choose from train_rmse"),
        ({"seconds": 0}, "seconds: 0, which must be a positive number"),
        ({"test_rmse": math.nan}, "test_rmse: nan"),
        ({"test_rmse": "small"}, "test_rmse: small"),
        ([1], "must be pairs"),
    ],
)
def test_unusable_bounds_are_refused(given, said):
    study.check_bounds({"bounds": {"test_rmse": 1e-6, "seconds": 10}})
    study.check_bounds({})
    with pytest.raises(UsageError, match=said):
        study.check_bounds({"bounds": given})


def test_claims_say_which_values_are_no_numbers():
    (claim,) = opponents([0.0, 0.0, math.nan])
    assert "undecided" in str(claim.spread)
    assert math.isnan(float(claim.measured))
    (claim,) = superposed([0.5, 0.25, math.nan])
    assert claim.spread == "0.25 .. 0.5 over 3 seeds, 1 of them without a number"


def test_value_range_names_seeds_and_values_without_a_number():
    assert value_range(pd.Series([1.0])) is None
    assert value_range(pd.Series([2.0, 1.0])) == "1 .. 2 over 2 seeds"
    assert value_range(pd.Series([1e-9, 1.0, math.nan]), "trainings") == (
        "1e-09 .. 1 over 3 trainings, 1 of them without a number"
    )


@pytest.mark.parametrize(
    "x, y, power",
    [
        ([0, 1, 2, 4], [5, 1, 1 / 4, 1 / 16], -2),
        ([1, 2, 4, 8], [0, 2, 4, 8], 1),
        ([1, 1, 2], [1, 2, 0], math.nan),
        ([1, 2, 4], [1, 2, math.inf], math.nan),
    ],
)
def test_exponent_uses_positive_numbers_only(x, y, power):
    assert suite.exponent(pd.Series(x), pd.Series(y)) == pytest.approx(power, nan_ok=True)


def test_extremes_of_values_that_are_no_numbers():
    numbers = pd.Series([3.0, 1.0, 2.0])
    assert (maximum(numbers), minimum(numbers), median(numbers)) == (3, 1, 2)
    for values in (pd.Series([3.0, None]), pd.Series([], dtype=float)):
        assert all(math.isnan(of(values)) for of in (maximum, minimum, median))
    assert not claim_at_least("s", pd.Series([math.inf]), 1).holds
    assert not claim_at_most("s", pd.Series([math.inf]), 1).holds
