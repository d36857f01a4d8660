"""Inputs used by a search: no inputs that others determine, and of many only relevant ones."""

import numpy as np
import pytest
from made_graphs import split

from kanrun.engine.symbolic.quotients import rational_functions
from kanrun.engine.symbolic.reductions import MANY, Reduction, relevant_inputs
from kanrun.engine.symbolic.symmetries import reduce_variables


def taken(found):
    return list(map(str, relevant_inputs(found).variables))


@pytest.mark.parametrize("count", [MANY - 1, MANY + 2])
def test_relevant_inputs_are_selected_among_many(count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, count))
    y = x[:, 1] + 2 * x[:, 4] * x[:, 6] + 0.3 * rng.normal(size=200)
    few = ["x1", "x4", "x6"]
    assert taken(split(x, y)) == (few if count >= MANY else [f"x{i}" for i in range(count)])


def test_constant_inputs_and_the_last_of_exclusive_indicators_are_left_out():
    rng = np.random.default_rng(1)
    levels = np.eye(3)[rng.integers(0, 3, 60)]
    size = rng.uniform(1, 9, 60)
    x = np.column_stack([levels, np.full(60, 7.0), size, 2 * size - 1, size**2])
    found = split(x, levels[:, 1] + size + rng.normal(size=60))
    assert taken(found) == ["x0", "x1", "x4", "x6"]
    assert not rational_functions(relevant_inputs(found).data(found))


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_with_a_few_large_quotients_shows_no_symmetry(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-2, 2, (2, 160))
    y = 3 * a - 2.4 * b**2 + 1.4 + 0.4 * rng.normal(size=160)
    found = reduce_variables(split(np.column_stack([a, b]), y))
    assert found == Reduction.none(2)
