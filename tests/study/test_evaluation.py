"""Errors relative to the size of the outputs, in extremely small and large units."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanrun.study.evaluation import doubts, r_squared, relative_error
from kanrun.targets import Points, root_mean_square

Y = np.random.default_rng(0).normal(size=(40, 2)) + 3
DIFFERENCE = 0.1 * np.random.default_rng(1).normal(size=(40, 2))


@given(st.integers(-300, 300))
def test_errors_do_not_depend_on_the_unit(power):
    unit = 10.0**power
    dataset = SimpleNamespace(train=Points(Y, Y * unit), classes=None)
    error = float(root_mean_square((DIFFERENCE * unit).ravel()))
    assert error == pytest.approx(np.sqrt(np.mean(DIFFERENCE**2)) * unit, rel=1e-12)
    assert relative_error(error, dataset) == pytest.approx(
        error / unit / np.sqrt(Y.var(0).mean()), rel=1e-12
    )
    r2 = r_squared(DIFFERENCE * unit, Y * unit)
    assert r2 == pytest.approx(1 - np.mean(DIFFERENCE**2) / Y.var(0).mean(), rel=1e-12)


def test_a_warning_says_where_r2_is_undefined_or_below_zero():
    constant = np.full((7, 1), 0.1)
    undefined = r_squared(np.zeros((7, 1)), constant)
    assert undefined is None
    assert (
        relative_error(0.1, SimpleNamespace(train=Points(constant, constant), classes=None)) is None
    )
    said = [
        list(doubts(r2, "test points"))
        for r2 in (undefined, r_squared(10 * DIFFERENCE + 5, Y), 0.2)
    ]
    assert [[note.warning for note in notes] for notes in said] == [[True], [True], []]
    assert said[0][0].text == "R^2 is undefined: the outputs of the test points are constant"
