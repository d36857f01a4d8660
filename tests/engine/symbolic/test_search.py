"""The formula search on small problems, and its messages if it finds nothing."""

import itertools
import time

import numpy as np
import pytest
from scipy.special import j1

import kanrun
from kanrun.engine.symbolic import (
    SearchData,
    SearchProblem,
    SearchStage,
    choose,
    search,
)
from kanrun.errors import UsageError


def rng():
    return np.random.default_rng(0)


def interpreted(f, low, high, inputs, **options):
    x = rng().uniform(low, high, (300, inputs))
    return kanrun.interpret(x, f(x), **options)


def test_a_sum_loses_its_irrelevant_input():
    known = ["x", "x^2", "cos"]
    result = interpreted(
        lambda x: 1.5 * x[:, 0] + 2 * np.cos(3 * x[:, 1] - 1), -1, 1, 3, candidates=known
    )
    assert str(result) == "3*x0/2 + 2*cos(3*x1 - 1)"
    assert result.structure_fit.network.active_edges == 2
    assert result.certificate.formula_rmse < 1e-12


def test_no_network_is_trained_if_points_give_the_formula():
    result = interpreted(lambda x: x[:, 0] * np.log(x[:, 1]), 0.2, 2, 2, budget=5.0)
    assert str(result) == "x0*log(x1)"
    assert {step.stage for step in result.steps} == {"match", "round", "verify"}


def test_a_product_comes_out_as_a_product():
    assert str(interpreted(lambda x: x[:, 0] * x[:, 1], -1, 1, 2)) == "x0*x1"


def noise():
    generator = rng()
    return generator.uniform(-1, 1, (300, 2)), generator.normal(size=300)


def test_a_budget_may_be_spent_before_a_formula_is_tried():
    x, y = noise()
    result = kanrun.interpret(x, y, budget=0.03)
    assert (result.outcome, result.formula) == ("failed", None)
    assert "budget=0.03 was spent before a formula" in str(result)


def test_a_search_that_its_budget_ends_keeps_its_best_formula_and_says_so():
    x = rng().uniform(0.5, 1.5, (300, 3))
    y = x[:, 0] * x[:, 1] ** 2 * (1 + 0.3 * np.abs(x[:, 2] - 1) ** 1.3)
    result = kanrun.interpret(x, y, budget=1.0)
    assert (result.outcome, result.certificate.r2 > 0.8) == ("formula", True)
    assert "the search ended at budget=1, and may lead further with a larger one" in result.sentence


@pytest.mark.slow
def test_a_busy_machine_tries_the_same_structures(monkeypatch):
    x = rng().uniform(-1, 1, (300, 2))
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


def test_a_sharp_function_of_one_input_is_recovered():
    options = {"candidates": ["x", "x^2", "1/x", "sin"], "names": ["t"]}
    result = interpreted(lambda x: 1 / (1 + 25 * x[:, 0] ** 2), -1, 1, 1, **options)
    assert str(result) == "1/(25*t**2 + 1)"


@pytest.mark.slow
def test_an_edge_without_a_candidate_stays_numeric():
    options = {"candidates": ["x", "exp"], "hidden": []}
    result = interpreted(lambda x: np.exp(x[:, 0]) + 2 * np.sin(x[:, 1] * 3), -1, 1, 2, **options)
    assert result.outcome == "partly numeric"
    assert [decision.symbolic for decision in result.decisions] == [True, False]
    assert "multiplies the network's error" in result.decisions[1].reason
    assert "f1(x1)" in str(result)
    assert result.certificate.difference < 1e-3
    assert result.stages[-1].stage == "verify"


def test_constant_output_is_reported_as_constant():
    result = kanrun.interpret(rng().uniform(-1, 1, (100, 2)), np.full(100, 3.0))
    assert "constant" in result.sentence


SQUARE = np.random.default_rng(0).uniform(-1, 1, (50, 2))


@pytest.mark.parametrize(
    "x, y, options, message",
    [
        (np.zeros((5, 1)), np.zeros(5), {}, "too few"),
        (np.zeros((50, 1)), np.zeros(49), {}, "x has 50 rows and y has 49"),
        (np.full((50, 1), np.nan), np.zeros(50), {}, "NaN"),
        (np.ones((50, 2)), SQUARE[:, 0], {}, "No input varies"),
        (
            SQUARE,
            SQUARE[:, 0],
            {"names": ["a", "a"]},
            "give one name for each input, all different",
        ),
        (SQUARE, SQUARE[:, 0], {"names": ["a"]}, "do not name the 2 inputs"),
        (SQUARE, SQUARE[:, 0], {"output": 1}, "output=1 is not an index of the 1 outputs"),
        (SQUARE, SQUARE[:, 0], {"output": -2}, "output=-2 is not an index"),
    ],
)
def test_bad_data_names_and_outputs_are_refused(x, y, options, message):
    with pytest.raises(UsageError, match=message):
        kanrun.interpret(x, y, **options)
