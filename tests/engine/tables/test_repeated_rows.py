"""Duplicated rows are merged, and rows that are equal by chance are not."""

import numpy as np
import pytest
from cases import cases
from made_tables import rmse, table
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.engine.tables import fit_table
from kanrun.engine.tables.folds import merge_copies
from kanrun.points import Points


def noisy(rows, seed=0):
    return table(lambda a, *_: a, rows, 3, [seed, rows], noise=1.0)


def repeated(points, times, seed=1):
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(points)), times))
    return points.take(order), order


@pytest.mark.parametrize(
    "rows, times",
    cases("""
60 | 4
120 | 2
"""),
)
def test_a_table_given_several_times_is_fitted_as_given_once(rows, times):
    points = noisy(rows)
    new = noisy(2000, 1)
    again, order = repeated(points, times)
    model = fit_table(again, None)
    assert len(model.different) == rows
    assert sorted(order[model.different]) == list(range(rows))
    folds = model.folds
    assert all(len(set(folds.number[order == row])) == 1 for row in range(rows))
    assert all(np.ptp(folds.values[order == row]) == 0 for row in range(rows))
    held_out = np.sqrt(np.mean((folds.values - again.y) ** 2))
    assert held_out == pytest.approx(rmse(model, new), rel=0.2)
    _, low, high = model.error_quantiles(again.y, np.array([0.05, 0.95]))[0].mean(0)
    errors = model.outputs.apply(new.y) - model.outputs.apply(model.predict(new.x))
    assert np.mean((low <= errors) & (errors <= high)) == pytest.approx(0.9, abs=0.06)


def test_some_repeated_rows_are_fitted_as_weights():
    points = noisy(100)
    order = np.append(np.arange(100), [7, 7, 60])
    different, place = merge_copies(points.take(order))
    assert_array_equal(place, order)
    assert_array_equal(different.x, points.x)
    expected = np.ones(100)
    expected[[7, 60]] = 3, 2
    assert_allclose(different.weights, expected / 1.03)
    halves = Points(points.x[order], points.y[order], np.where(order == 7, 0.5, 1.0))
    expected[7] = 1.5
    assert_allclose(merge_copies(halves)[0].weights, expected / expected.mean())


def test_copies_at_several_times_keep_the_earliest():
    points = noisy(30)
    order = np.tile(np.arange(30), 2)
    times = np.random.default_rng(0).permutation(60).astype(float)
    later = Points(points.x[order], points.y[order], None, times, forward=True)
    different, place = merge_copies(later)
    assert_array_equal(different.groups, np.minimum(*times.reshape(2, 30)))
    assert_array_equal(place[:30], place[30:])


RNG = np.random.default_rng(3)
LEVELS = RNG.integers(0, 3, (300, 3)).astype(float)
WIDE = RNG.normal(size=(300, 2))


@pytest.mark.parametrize(
    "x, y",
    [
        # Few categories; outputs with few values, or determined by the inputs.
        (LEVELS, RNG.integers(0, 2, 300)),
        (LEVELS, RNG.poisson(3, 300)),
        (LEVELS, LEVELS @ [1.0, 2.1, 4.3]),
        (np.tile([[0.0, 0.0], [0, 1], [1, 0], [1, 1]], (50, 1)), np.tile([0, 1, 1, 0], 50)),
        (RNG.integers(0, 12, 300)[:, None], np.zeros(300)),
        # Equal inputs with different outputs are repeated measurements, even if some outputs agree.
        (np.repeat(WIDE[:75], 4, 0), RNG.normal(size=300)),
        (LEVELS, RNG.normal(size=300)),
        (LEVELS, RNG.normal(size=300).round(1)),
        # Rounded numbers.
        (WIDE.round(0), RNG.normal(size=300).round(0)),
    ],
)
def test_equal_rows_that_chance_explains_are_measurements(x, y):
    points = Points(np.asarray(x, float), np.asarray(y, float)[:, None])
    different, place = merge_copies(points)
    assert different is points
    assert_array_equal(place, np.arange(len(points)))


@pytest.mark.parametrize(
    "x, y",
    [
        (WIDE, RNG.integers(0, 2, 300)),
        (WIDE, RNG.normal(size=300)),
        (WIDE[:, :1], WIDE[:, 0] ** 2),
        (LEVELS, RNG.normal(size=300)),
        (np.column_stack([LEVELS, WIDE.round(2)]), RNG.normal(size=300).round(3)),
    ],
)
def test_rows_of_distinct_values_are_copies(x, y):
    again, order = repeated(Points(x, np.asarray(y, float)[:, None]), 2)
    different, place = merge_copies(again)
    assert len(different) == 300
    assert all(len(set(place[order == row])) == 1 for row in range(300))
    assert_allclose(different.weights, 1.0)
