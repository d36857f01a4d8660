"""Formulas of one variable, and the regressions on pairs of terms that find them."""

import numpy as np
import pytest
from cases import cases
from numpy.testing import assert_allclose

from kanrun.engine.symbolic import SearchData, choose
from kanrun.engine.symbolic.budget import Budget, WorkSpent, count_work, limited
from kanrun.engine.symbolic.dictionary import expand_dictionary
from kanrun.engine.symbolic.pairs import covered
from kanrun.engine.symbolic.regression import pair_formulas
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse
from tests.engine.made_graphs import points


@pytest.mark.parametrize(
    "formula, low, high",
    cases("""
cos(x0) + sin(2*x0 - x0^2) | -1 | 1
log(x0^2 + x0 + 1) + log(x0 + 2) | 0 | 2
x0^1.6/(0.8 + x0^1.6) | 0.1 | 5
x0^3/(exp(x0) - 1) | 0.2 | 8
abs(x0)^1.5 | -2 | 2
sin(x0^2) + x0^2 | 0.1 | 3
"""),
)
def test_a_function_of_one_variable_is_found(formula, low, high):
    data = points(formula, low, high, 1, 600)
    found = next(pair_formulas(data, choose(None)))
    other = np.linspace(low, high, 300)[1:-1, None]
    truth = to_numpy(parse(formula), ["x0"])(other)
    assert_allclose(to_numpy(found, ["x0"])(other), truth, rtol=1e-6, atol=1e-6)


def test_functions_that_overflow_at_some_points_are_left_out():
    t = np.linspace(1.0, 900.0, 60)[:, None]
    y = 3 * np.log(t[:, 0]) + np.cos(t[:, 0])
    assert list(pair_formulas(SearchData(t, y, t, y), choose(["x", "log", "sin", "cos", "exp"])))


def test_dictionary_entries_are_finite_at_every_argument():
    t = np.linspace(-2.0, 3.0, 50)
    entries = expand_dictionary(t[:, None], choose(None))
    assert np.isfinite(entries.values).all()
    assert "log" in entries.families  # such as log(3 + t)
    inverses = entries.values[[family == "1/x" for family in entries.families]]
    assert len(inverses) > 0
    assert (np.sign(inverses) == np.sign(inverses[:, :1])).all()  # no pole within the range
    for i in range(0, len(entries.families), 797):
        values = to_numpy(entries.builds[i](), ["x0"])(t[:, None])
        assert_allclose(values, entries.values[i], rtol=1e-12, atol=1e-13)


def test_work_is_cut_off_at_its_limit():
    def steps():
        for k in range(100):
            count_work(1.0)
            yield k

    assert list(limited(steps(), Budget(5.5))) == [0, 1, 2, 3, 4]
    with pytest.raises(WorkSpent), Budget(1.0).enforced():
        count_work(2.0)
    count_work(2.0)  # the limit has been removed


def test_variance_explained_by_an_entry_is_that_of_least_squares():
    rng = np.random.default_rng(5)
    values = rng.normal(size=50)
    entries = 3.0 * rng.normal(size=(4, 50))
    basis = np.linalg.qr(rng.normal(size=(50, 2)))[0]
    explained, slopes = covered(values, np.vstack([entries, basis[:, 0]]), basis)
    without = np.linalg.lstsq(basis, values)[1][0]
    for entry, found, slope in zip(entries, explained, slopes, strict=False):
        solution, left = np.linalg.lstsq(np.column_stack([basis, entry]), values)[:2]
        assert_allclose([found, slope], [without - left[0], solution[2]], rtol=1e-10)
    assert (explained[4], slopes[4]) == (-np.inf, 0.0)
