"""Formulas of one variable: sums, products, quotients and compositions from their values."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from kanrun.engine.symbolic import choose
from kanrun.engine.symbolic.budget import Budget, WorkSpent, count_work, limited
from kanrun.engine.symbolic.conversions import to_expression
from kanrun.engine.symbolic.dictionary import dictionary_of_one, generic_terms
from kanrun.engine.symbolic.regression import covered, nearest_pairs
from kanrun.engine.symbolic.univariate import match_formulas
from kanrun.formulas import parse, to_numpy

FOUND = [
    ("x0^6-x0^4+2*x0", -1, 1),
    ("(x0^2+2*x0+3)/(x0^3+4)", -1, 2),
    ("2.5*exp(-0.21*x0)*sin(3.3*x0)+0.8", 0, 6),
]
FOUND_SLOWLY = [
    ("cos(x0)+sin(2*x0-x0^2)", -1, 1),
    ("log(x0^2+x0+1)+log(x0+2)", 0, 2),
    ("x0^1.6/(0.8+x0^1.6)", 0.1, 5),
    ("x0/(exp(x0/7)-1)", 0.1, 18),
    ("x0^3/(exp(x0)-1)", 0.2, 8),
    ("0.159/(exp(0.159/x0)-1)", 0.04, 4),
    ("sin(x0^3)*cos(x0^2)-1", -1, 1),
    ("x0^3+x0^2+x0+sin(x0)+sin(x0^2)", -1, 1),
    ("abs(x0)^1.5", -2, 2),
]


@pytest.mark.parametrize(
    "formula, low, high",
    [*FOUND, *(pytest.param(*case, marks=pytest.mark.slow) for case in FOUND_SLOWLY)],
)
def test_a_function_of_one_variable_is_found(formula, low, high):
    t = np.random.default_rng(0).uniform(low, high, 600)
    truth = to_numpy(parse(formula), ["x0"])
    match = match_formulas(t, truth(t[:, None]), choose(None), 0.0, Budget(20.0))[0]
    assert match.loss < 1e-24
    other = np.linspace(low, high, 300)[1:-1, None]
    found = to_numpy(to_expression(match.function, ["x0"]), ["x0"])(other)
    assert_allclose(found, truth(other), rtol=1e-9, atol=1e-11)


def test_an_exponential_over_decades_keeps_its_constant():
    """The constant is lost where errors of all values are of one size."""
    t = np.random.default_rng(0).uniform(0.3, 18.0, 300)
    y = 1e-20 * np.expm1(7.243 * t)
    known = choose(["x", "exp"])
    match = match_formulas(t, y, known, 0.0, Budget(10.0), relative=True)[0]
    assert_allclose(match.function.value(t), y, rtol=1e-11)


def test_arguments_at_which_functions_overflow_are_no_obstacle():
    t = np.linspace(1.0, 900.0, 60)
    assert match_formulas(t, 3 * np.log(t) + np.cos(t), choose(None), 0.0, Budget(1.0))


def test_two_entries_of_the_dictionary_are_found_together():
    t = np.random.default_rng(0).uniform(0.1, 3.0, 200)
    budget = Budget(2.0)
    match = match_formulas(t, np.sin(t**2) + t**2, choose(["x", "sin", "x^2"]), 0.0, budget)[0]
    assert match.loss < 1e-24
    assert budget.used < 0.5


def test_the_nearest_pair_is_the_one_that_least_squares_finds():
    generator = np.random.default_rng(1)
    entries, y = generator.normal(size=(40, 30)), generator.normal(size=30)
    loss, i, j = nearest_pairs(y, entries, np.ones((1, 30)), 5)[0]
    centred = y - y.mean()

    def left(a, b):
        columns = np.stack([np.ones(30), entries[a], entries[b]], axis=1)
        rest = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
        return float(rest @ rest / (centred @ centred))

    best = min((left(a, b), a, b) for a in range(40) for b in range(a + 1, 40))
    assert (i, j) == best[1:]
    assert loss == pytest.approx(best[0], rel=1e-9)


def test_a_dictionary_is_defined_where_its_argument_is():
    t = np.linspace(-2.0, 3.0, 50)
    entries = dictionary_of_one(t, choose(None)) + generic_terms(t, choose(None), 90)
    assert np.isfinite(entries.values).all()
    assert "log" in entries.families  # log(3 + t), log(5 + t)
    inverses = entries.values[[family == "1/x" for family in entries.families]]
    assert len(inverses) > 0
    assert (np.sign(inverses) == np.sign(inverses[:, :1])).all()  # no pole between the arguments
    for i in range(0, len(entries.families), 397):
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
    count_work(2.0)  # no limit is left behind


def test_a_quotient_of_values_that_are_not_exact_is_plain():
    t = np.linspace(0.3, 4.0, 120)
    y = 1 / (1.2 + (t - 2.5) ** 2)
    best, *_ = match_formulas(t, y + 1e-6 * np.sin(9 * t), choose(None), 1e-5, Budget(3.0))
    assert best.name == "0.2/(0.2*x**2 - x + 1.49)"
    assert_allclose(best.function.value(t), y, atol=1e-5)


def test_what_an_entry_explains_and_its_slope_are_those_of_least_squares():
    rng = np.random.default_rng(5)
    values, entries = rng.normal(size=50), 3.0 * rng.normal(size=(4, 50))
    basis = np.linalg.qr(rng.normal(size=(50, 2)))[0]
    explained, slopes = covered(values, np.vstack([entries, basis[:, 0]]), basis)
    without = np.linalg.lstsq(basis, values)[1][0]
    for entry, found, slope in zip(entries, explained, slopes, strict=False):
        solution, left = np.linalg.lstsq(np.column_stack([basis, entry]), values)[:2]
        assert_allclose([found, slope], [without - left[0], solution[2]], rtol=1e-10)
    assert (explained[4], slopes[4]) == (-np.inf, 0.0)
