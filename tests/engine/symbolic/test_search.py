"""The formula search on small problems, and its messages if it finds nothing."""

import itertools
import time

import numpy as np
import pytest
from cases import cases, refuses
from made_graphs import evaluate
from scipy.special import j1

import kanrun
from kanrun.engine.symbolic import (
    SearchData,
    SearchProblem,
    SearchStage,
    choose,
    search,
)
from kanrun.formulas.parsing import parse


def drawn(low, high, inputs):
    return np.random.default_rng(0).uniform(low, high, (300, inputs))


@pytest.mark.parametrize(
    "text, low, high, inputs, candidates, shown",
    cases("""
1.5*x0 + 2*cos(3*x1 - 1) | -1 | 1 | 3 | ['x', 'x^2', 'cos'] | 3*x0/2 + 2*cos(3*x1 - 1)
x0*log(x1) | 0.2 | 2 | 2 | None | x0*log(x1)
x0*x1 | -1 | 1 | 2 | None | x0*x1
1/(1 + 25*x0^2) | -1 | 1 | 1 | ['x', 'x^2', '1/x', 'sin'] | 1/(25*x0**2 + 1)
"""),
)
def test_formulas_are_found_in_points_without_a_network(text, low, high, inputs, candidates, shown):
    x = drawn(low, high, inputs)
    result = kanrun.interpret(x, evaluate(parse(text), x), candidates=candidates)
    assert str(result) == shown
    assert result.certificate.formula_rmse < 1e-12
    assert {step.stage for step in result.steps} == {"match", "round", "verify"}


def test_a_budget_may_be_spent_before_a_formula_is_tried():
    y = np.random.default_rng(1).normal(size=300)
    result = kanrun.interpret(drawn(-1, 1, 2), y, budget=0.03)
    assert (result.outcome, result.formula) == ("failed", None)
    assert "budget=0.03 was spent before a formula" in str(result)


def test_a_search_that_its_budget_ends_keeps_its_best_formula_and_says_so():
    x = drawn(0.5, 1.5, 3)
    y = x[:, 0] * x[:, 1] ** 2 * (1 + 0.3 * np.abs(x[:, 2] - 1) ** 1.3)
    result = kanrun.interpret(x, y, budget=1.0)
    assert (result.outcome, result.certificate.r2 > 0.8) == ("formula", True)
    assert "the search ended at budget=1, and may lead further with a larger one" in result.sentence


@pytest.mark.slow
def test_a_busy_machine_tries_the_same_structures(monkeypatch):
    x = drawn(-1, 1, 2)
    y = j1(5 * x[:, 0] * x[:, 1]) + np.abs(x[:, 0] - x[:, 1]) ** 1.3
    samples = SearchData(x[:200], y[:200], x[200:], y[200:])

    def tried(budget):
        problem = SearchProblem(samples, choose(None), budget)
        events = search(problem)
        return [(event.name, event.error) for event in events if isinstance(event, SearchStage)]

    idle = tried(3.0)
    assert len(idle) > len(tried(1.0))
    ticks = itertools.count()
    for clock in ("monotonic", "thread_time", "process_time", "time", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: 10.0 * next(ticks))
    assert tried(3.0) == idle


X = drawn(-1, 1, 2)[:50]
Y = X[:, 0]


@pytest.mark.parametrize(
    "x, y, options, message",
    [
        (X[:5], Y[:5], {}, "too few"),
        (X, Y[1:], {}, "x has 50 rows and y has 49"),
        (np.nan * X, Y, {}, "NaN"),
        (np.ones((50, 2)), Y, {}, "No input varies"),
        (X, Y, {"names": ["a", "a"]}, "give one name for each input, all different"),
        (X, Y, {"names": ["a"]}, "do not name the 2 inputs"),
        (X, Y, {"output": 1}, "output=1 is not an index of the 1 outputs"),
        (X, Y, {"output": -2}, "output=-2 is not an index"),
    ],
)
def test_bad_data_names_and_outputs_are_refused(x, y, options, message):
    with refuses(message):
        kanrun.interpret(x, y, **options)
