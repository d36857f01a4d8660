"""Statistics over seeds; a value that is NaN or infinite prevents every claim from holding."""

import math

import numpy as np
import pandas as pd
import pytest
from cases import cases
from kanrun.experiments import continual, curves
from kanrun.experiments import extend_grid as grids
from kanrun.experiments.compare_mlp import COMPARISONS, VARIANTS, verdict_claims
from kanrun.experiments.curves import fitted_order

from kanrun.study import suite

COMMON = {
    "seed": range(3),
    "target": "t",
    "label": "a",
    "shape": "1-1",
    "grid": "5",
    "degree": 3,
    "bound": 1.0,
    "in_order": True,
    "penalised": True,
    "noise": 0.0,
    "train_rmse": 0.0,
    "seconds": 1.0,
}
#: A KAN without memory, as `continual` describes it.
LOCAL = {"learner": "KAN", "role": "local kan", "network": "KAN", "memory": "none", "phases": 5}


def table(**columns):
    return pd.DataFrame(COMMON | columns)


def bounded(values):
    rows = table(value=values, column="test_rmse")
    return suite.bound_claims({"bounds": pd.concat([rows, rows.assign(column="seconds")])})


def of_no_activation(values):
    columns = dict.fromkeys(("from_least_squares", "from_product", "bits_that_differ"), values)
    return COMPARISONS["no_activation"].claims({"linear": table(depth=1, **columns)})


def superposed(values):
    return COMPARISONS["kolmogorov_arnold"].claims({"summary": table(relative_error=values)})


def six_seeds(*tables):
    """Return the rows twice, for three and three seeds, because verdicts need six."""
    rows = pd.concat(tables)
    return pd.concat([rows, rows.assign(seed=rows["seed"] + 3)])


def without_tricks(values):
    tables = (
        table(error=values + 1 + 10 * (variant != "all tricks"), variant=variant)
        for variant in VARIANTS
    )
    return COMPARISONS["implementation_tricks"].claims({"summary": six_seeds(*tables)})


def opponents(values):
    kans = table(error=values + 1, model="kan", kan="a", validation_rmse=1.0)
    mlps = kans.assign(model="mlp", error=kans["error"] + 1)
    return verdict_claims(six_seeds(kans, mlps), "parameters")


def learners(values):
    columns = dict.fromkeys(("worst_forgetting", "rmse", "best_spline_rmse"), values)
    return continual.claims_of(table(part="learners", **columns, **LOCAL))


def two_grids(values, error, **others):
    """Return errors on two grids that fall by the fourth order if `values` are 0."""
    fine = table(**{error: values + 4e-4}, intervals=20, **others)
    return pd.concat([fine.assign(**{"intervals": 10, error: 16 * 4e-4}), fine])


def on_grids(values):
    rows = two_grids(values, "rmse", part="intervals", best_spline_rmse=4e-4, **LOCAL)
    return continual.claims_of(rows.assign(worst_forgetting=np.append(np.zeros(3), values)))


def ordered(values):
    return grids.order_claims(two_grids(values, "test_rmse", part="order"))


def overfitted(values):
    rows = two_grids(values, "test_rmse", part="overfit", start="warm", threshold=15.0)
    return grids.overfit_claims(rows)


def extended(values):
    warm = two_grids(values, "test_rmse", part="schedules", compared=True)
    alone = two_grids(np.zeros(3), "test_rmse", part="scratch", seconds=2.0)
    return grids.warm_start_claims(pd.concat([warm, alone]))


def refined(values):
    return grids.exact_claims(table(function_change=values, carried_by="insertion", part="order"))


def converging(values):
    fitted = fitted_order([40, 80, 160], [1.0, 1.0 / 16, 1.0 / 256 + values[-1]])
    return curves.convergence(pd.DataFrame([{"degree": 3, **fitted}]))


def growing(values):
    last = 3.0 + values[-1]
    rows = table(curve="polynomial", max_error=[1.0, 2.0, last], points=[10, 20, 40], place=1.0)
    falling = {"curve": "polynomial, Chebyshev points", "max_error": [last, 1e-13, 1e-14]}
    return [*curves.growth_at_ends(pd.concat([rows, rows.assign(**falling)]))][::2]


ORDER = 4e-4 * (2**0.3 - 1)  # largest change of the finer error: the orders are at most -3.7


@pytest.mark.parametrize(
    "claims, bounds",
    [
        (bounded, [1.0]),
        (of_no_activation, [1e-8, 1e-12]),
        (superposed, [1.0]),
        (without_tricks, []),
        (opponents, []),
        (learners, [1e-6]),
        (on_grids, [1e-6, ORDER]),
        (ordered, [ORDER]),
        (overfitted, [4e-4 * (16 * 1.1 - 1)]),
        (extended, []),
        (refined, [1e-12]),
        (converging, [1.6143e-3]),
        (growing, []),
    ],
)
def test_a_claim_holds_up_to_its_bounds_and_not_if_one_value_is_nan(claims, bounds):
    def holding(*values):
        return [claim.holds for claim in claims(np.array(values))]

    good = holding(0.0, 0.0, 0.0)
    assert good
    assert all(good)
    assert holding(0.0, 0.0, math.nan) == [False] * len(good)
    for bound in bounds:
        below, above = (sum(holding(*[bound * factor] * 3)) for factor in (0.999, 1.001))
        assert below > above


def test_claims_say_which_values_are_no_numbers():
    (claim,) = opponents(np.array([0.0, 0.0, math.nan]))
    assert "undecided" in str(claim.spread)
    assert math.isnan(float(claim.measured))
    (claim,) = superposed([0.5, 0.25, math.nan])
    assert claim.spread == "0.25 .. 0.5 over 3 seeds, 1 of them without a number"
    assert suite.claim_at_most("of one value", 1.0, 1).spread is None


@pytest.mark.parametrize(
    "x, y, power",
    cases("""
        [0, 1, 2, 4] | [5, 1, 0.25, 0.0625] | -2
        [1, 2, 4, 8] | [0, 2, 4, 8] | 1
        [1, 1, 2] | [1, 2, 0] | None
        [1, 2, 4] | [1, 2, 1e999] | None
    """),
)
def test_exponent_uses_positive_numbers_only(x, y, power):
    found = suite.exponent(pd.Series(x), pd.Series(y))
    assert found == pytest.approx(power) if power else math.isnan(found)


def test_extremes_of_values_that_are_no_numbers():
    extremes = suite.maximum, suite.minimum, suite.median
    assert [of(pd.Series([3.0, 1.0, 2.0])) for of in extremes] == [3, 1, 2]
    for values in (pd.Series([3.0, None]), pd.Series([], dtype=float)):
        assert all(math.isnan(of(values)) for of in extremes)
    for claim in (suite.claim_at_least, suite.claim_at_most):
        assert not claim("s", pd.Series([math.inf]), 1).holds
