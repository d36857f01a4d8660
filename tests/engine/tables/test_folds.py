"""Cross-validation: predictions of a fold do not depend on its rows."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.points import Points


def steps(rows, inputs, seed, noise=0.5):
    """Return a table whose output jumps as a function of several inputs together."""
    rng = np.random.default_rng([seed, rows])
    x = rng.normal(size=(rows, inputs))
    y = 1.5 * ((x[:, 0] > 0) != (x[:, 1] > 0.3)) + 0.5 * x[:, 5]
    y += 2.0 * ((x[:, 2] > 0) & (x[:, 3] < 0.5) & (x[:, 4] > -0.5))
    return Points(x, (y + noise * rng.normal(size=rows))[:, None])


def effects(rows, inputs, seed, noise=0.5):
    """Return a table whose output is a line plus a wave plus a parabola."""
    rng = np.random.default_rng([seed, rows])
    x = rng.normal(size=(rows, inputs))
    y = x[:, 0] + np.sin(1.5 * x[:, 1]) + 0.5 * x[:, 2] ** 2
    return Points(x, (y + noise * rng.normal(size=rows))[:, None])


@pytest.mark.parametrize(
    "points, policy",
    [
        (effects(40, 6, 0), TablePolicy(folds=4)),
        (steps(260, 6, 0), TablePolicy(folds=2)),
        (replace(effects(40, 3, 0), groups=np.arange(40.0), forward=True), TablePolicy(folds=3)),
    ],
    ids=["selection", "jumps", "time"],
)
def test_predictions_of_a_fold_do_not_depend_on_its_outputs(points, policy):
    folds = fit_table(points, None, policy).folds
    mine = folds.number == folds.number.max()
    other = replace(points, y=np.where(mine[:, None], np.exp(5 - points.y), points.y))
    again = fit_table(other, None, policy).folds
    assert_array_equal(folds.values[mine], again.values[mine])
    assert np.isnan(folds.values[~mine]).any() or (folds.values != again.values)[~mine].any()
