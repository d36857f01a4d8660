"""Verdicts on solutions on both sides of each bound, and claims about them."""

from math import inf, nan
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch
from kanrun.experiments.solve.config import EquationConfig
from kanrun.experiments.solve.problem import Comparison
from kanrun.experiments.solve.settings import EquationParser
from kanrun.experiments.solve.verdict import (
    ErrorPoints,
    claims_of,
    errors,
    residual_rms,
    verdict,
)

from kanrun.engine.equations.solution import Residuals

STAGE = {
    "equation": 1e-3,
    "conditions": 1e-3,
    "change": 1e-3,
    "intervals": 10,
    "sensitivity": 10.0,
    "data": 0.0,
    "least_data": 0.0,
    "inflation": 1.0,
    "box": [0.0, 1.0],
}


def stage(**changed):
    fields = STAGE | changed
    for name in ("equation", "conditions"):
        fields[name] = Residuals(fields[name], 1.0, (0.5, 0.5))
    return SimpleNamespace(solution=SimpleNamespace(box=torch.tensor([fields["box"]])), **fields)


def solution(*last, **changed):
    given = {"solved_until": 1.0, "estimate": None, "tolerance": None, "stopped": "", "doubt": None}
    given |= {"contradiction": None, "unseen": None}
    return SimpleNamespace(last=last, **(given | changed))


def system(*conditions):
    box = {"x": [0, 1], "t": [0, 1]}
    config = EquationConfig(variables=box, formula="u_t = u_xx", conditions=list(conditions))
    return EquationParser(config).system()


SYSTEM = system("u = 0 at x=0, x=1", "u = 0 at t=0")
MISSING = system("u = 0 at x=0", "u = 0 at t=0")
UNREFINED = {"intervals": None, "equation": 1e-4, "conditions": 1e-4}


@pytest.mark.parametrize(
    "allowed, beyond",
    [
        ({"equation": 0.01}, {"equation": 0.011}),
        ({"conditions": 0.01}, {"conditions": 0.011}),
        (UNREFINED, {"equation": 1.1e-4}),
        (UNREFINED, {"conditions": 1.1e-4}),
        ({"change": 2e-3}, {"change": 2.1e-3}),
        ({}, {"change": None}),
        ({"error": 0.01}, {"error": 0.011}),
        ({"sensitivity": 1e4}, {"sensitivity": 1.1e4}),
        ({"sensitivity": 500.0, "system": MISSING}, {"sensitivity": 501.0}),
        ({"sensitivity": None}, {"sensitivity": nan}),
        ({"data": 2e-3}, {"data": 2.1e-3}),
        ({"data": 0.2, "least_data": 0.1}, {"data": 0.21}),
        ({"inflation": 20.0}, {"inflation": 21.0}),
        ({}, {"doubt": "the problem is ill-posed"}),
        ({"tolerance": 1e-6, "estimate": 1e-6}, {"estimate": 1.1e-6}),
        ({"equation": 0.099, "estimate": 1e-7}, {"equation": 0.1}),
        ({"conditions": 0.01, "estimate": 1e-7}, {"conditions": 0.011}),
    ],
)
def test_verdict_is_solved_up_to_each_bound_and_doubtful_beyond(allowed, beyond):
    assert judged(**allowed) == "solved"
    assert judged(**(allowed | beyond)) == "doubtful"


@pytest.mark.parametrize("name", ["equation", "conditions", "change", "error"])
def test_error_of_a_tenth_of_the_solution_is_failed(name):
    values = 0.099, 0.1, inf, nan
    assert [judged(**{name: value}) for value in values] == ["doubtful", *["failed"] * 3]


def test_a_solution_that_ends_early_is_failed():
    assert [judged(solved_until=end) for end in (0.99, 1.0)] == ["failed", "solved"]


def judged(error=None, system=SYSTEM, **changed):
    given = {key: value for key, value in changed.items() if key not in STAGE}
    last = stage(**{key: value for key, value in changed.items() if key in STAGE})
    return verdict(solution(last, **given), system, error)[0]


def test_residual_is_of_the_worst_window_or_the_mean_if_errors_are_estimated():
    windows = (stage(equation=0.02, box=[0.0, 0.1]), stage(equation=1e-3, box=[0.1, 1.0]))
    assert residual_rms(solution(*windows)) == 0.02
    found = residual_rms(solution(*windows, estimate=1e-7))
    assert found == pytest.approx((0.1 * 4e-4 + 0.9 * 1e-6) ** 0.5)
    word, reason = verdict(solution(*windows), SYSTEM, None)
    assert (word, "residual at new points is 2.0e-02" in reason) == ("doubtful", True)


def test_errors_are_relative_to_the_solution_and_its_slopes():
    points = np.array([[0.5], [2.0]])
    known = Comparison("exact", lambda x: 3 * x, lambda x: np.full((2, 1), 3.0))
    network = MagicMock(return_value=torch.tensor(3 * points + [[0.3], [-0.4]]))
    network.derivatives.return_value = torch.full((2, 1), 3.5)
    found = errors(known, network, ErrorPoints(points, np.ones(2)))
    square = 0.3**2 + 0.4**2
    size = 1.5**2 + 6.0**2
    assert found["mse"] == pytest.approx(square / 2)
    assert found["max_error"] == pytest.approx(0.4)
    assert found["l2"] == pytest.approx((square / size) ** 0.5)
    assert found["h1"] == pytest.approx(((square + 0.5) / (size + 18)) ** 0.5)


def test_claims_on_verdicts_errors_and_parameters():
    columns = {"equation": "e", "network": "n", "verdict": "solved", "reference": "exact"}
    seeds = pd.DataFrame({**columns, "l2": [1e-6, 1e-5], "grid_change": 1e-6, "estimate": None})
    assert [claim.holds for claim in claims_of(seeds)] == [True, True]
    lost = seeds.assign(l2=[1e-6, 1.001e-5], verdict=["doubtful", "solved"])
    assert [claim.holds for claim in claims_of(lost)] == [False, False]
    # Four of five seeds within two standard errors are enough.
    found = pd.DataFrame(
        {**columns, "l2": None, "grid_change": None, "estimate": None, "k_true": 1.0}
        | {"k": [1.0, 0.9, 1.1, 1.2, 1.3], "k_error": 0.1}
    )
    assert [claim.holds for claim in claims_of(found)] == [True, True]
    assert [claim.holds for claim in claims_of(found.assign(k_error=0.099))] == [True, False]
