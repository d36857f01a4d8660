"""Cross-validation: predictions of a fold do not depend on its rows."""

from dataclasses import replace

import numpy as np
import pytest
from made_tables import fitted, table
from numpy.testing import assert_array_equal


def effects(a, b, c, *_):
    return a + np.sin(1.5 * b) + 0.5 * c**2


@pytest.mark.parametrize(
    "points, folds",
    [
        (table(effects, 40, 6, noise=0.5), 4),
        (replace(table(effects, 40, 3, noise=0.5), groups=np.arange(40.0), forward=True), 3),
    ],
    ids=["random", "time"],
)
def test_predictions_of_a_fold_do_not_depend_on_its_outputs(points, folds):
    given = fitted(points, folds=folds).folds
    mine = given.number == given.number.max()
    other = replace(points, y=np.where(mine[:, None], np.exp(5 - points.y), points.y))
    again = fitted(other, folds=folds).folds
    assert_array_equal(given.values[mine], again.values[mine])
    assert np.isnan(given.values[~mine]).any() or (given.values != again.values)[~mine].any()
