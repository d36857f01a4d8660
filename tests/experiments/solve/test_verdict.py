"""Verdicts on solutions on both sides of each bound, and claims about them."""

from math import inf, nan
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from kanrun.experiments.solve.problem import Comparison
from kanrun.experiments.solve.solution import (
    claims_of,
    errors,
    residual_rms,
    verdict,
)
from made_systems import BOX, parsed

from kanrun.engine.equations.solution import Residuals

STAGE = dict.fromkeys(("equation", "conditions", "change"), 1e-3)
STAGE |= {"intervals": 10, "sensitivity": 10.0, "inflation": 1.0, "box": [0.0, 1.0]}
STAGE |= {"data": 0.0, "least_data": 0.0}


def stage(**changed):
    fields = STAGE | changed
    for name in ("equation", "conditions"):
        fields[name] = Residuals(fields[name], 1.0, (0.5, 0.5))
    return SimpleNamespace(solution=SimpleNamespace(box=torch.tensor([fields["box"]])), **fields)


def solution(*last, **changed):
    given = {"solved_until": 1.0, "estimate": None, "tolerance": None, "stopped": "", "doubt": None}
    given |= {"contradiction": None, "unseen": None}
    return SimpleNamespace(last=last, **(given | changed))


#: Heat conduction with conditions at both ends, and at one only.
BOTH, ONE = (
    parsed(BOX, "u_t = u_xx", [f"u = 0 at {walls}", "u = 0 at t=0"])
    for walls in ("x=0, x=1", "x=0")
)


#: What a solution may have, and what makes it doubtful. Without a condition at x=1 (`missing`),
#: the solution may not depend as much on the conditions.
BOUNDS = """
{'equation': 0.01} | {'equation': 0.011}
{'conditions': 0.01} | {'conditions': 0.011}
{'change': 2e-3} | {'change': 2.1e-3}
{} | {'change': None}
{'error': 0.01} | {'error': 0.011}
{'sensitivity': 1e4} | {'sensitivity': 1.1e4}
{'sensitivity': 500.0, 'missing': True} | {'sensitivity': 501.0}
{'sensitivity': None} | {'sensitivity': 1e999}
{'data': 2e-3} | {'data': 2.1e-3}
{'data': 0.2, 'least_data': 0.1} | {'data': 0.21}
{'inflation': 20.0} | {'inflation': 21.0}
{} | {'doubt': 'the problem is ill-posed'}
{'tolerance': 1e-6, 'estimate': 1e-6} | {'estimate': 1.1e-6}
{'equation': 0.099, 'estimate': 1e-7} | {'equation': 0.1}
{'conditions': 0.01, 'estimate': 1e-7} | {'conditions': 0.011}
"""


@pytest.mark.parametrize("allowed, beyond", cases(BOUNDS))
def test_verdict_is_solved_up_to_each_bound_and_doubtful_beyond(allowed, beyond):
    assert judged(**allowed) == "solved"
    assert judged(**(allowed | beyond)) == "doubtful"


def test_a_sensitivity_that_is_no_number_is_doubtful():
    assert judged(sensitivity=nan) == "doubtful"


@pytest.mark.parametrize("name", ["equation", "conditions", "change", "error"])
def test_error_of_a_tenth_of_the_solution_is_failed(name):
    values = 0.099, 0.1, inf, nan
    assert [judged(**{name: value}) for value in values] == ["doubtful", *["failed"] * 3]


def test_a_solution_that_ends_early_is_failed():
    assert [judged(solved_until=end) for end in (0.99, 1.0)] == ["failed", "solved"]


def judged(error=None, missing=False, **changed):
    given = {key: value for key, value in changed.items() if key not in STAGE}
    last = stage(**{key: value for key, value in changed.items() if key in STAGE})
    return verdict(solution(last, **given), ONE if missing else BOTH, error)[0]


def test_residual_is_of_the_worst_window_or_the_mean_if_errors_are_estimated():
    windows = (stage(equation=0.02, box=[0.0, 0.1]), stage(equation=1e-3, box=[0.1, 1.0]))
    assert residual_rms(solution(*windows)) == 0.02
    found = residual_rms(solution(*windows, estimate=1e-7))
    assert found == pytest.approx((0.1 * 4e-4 + 0.9 * 1e-6) ** 0.5)
    word, reason = verdict(solution(*windows), BOTH, None)
    assert (word, "residual at new points is 2.0e-02" in reason) == ("doubtful", True)


def test_errors_are_relative_to_the_solution_and_its_slopes():
    points = np.array([[0.5], [2.0]])
    known = Comparison("exact", lambda x: 3 * x, lambda x: np.full((2, 1), 3.0))
    network = MagicMock(return_value=torch.tensor(3 * points + [[0.3], [-0.4]]))
    network.derivatives.return_value = torch.full((2, 1), 3.5)
    found = errors(known, network, points)
    square = 0.3**2 + 0.4**2
    size = 1.5**2 + 6.0**2
    assert found["mse"] == pytest.approx(square / 2)
    assert found["max_error"] == pytest.approx(0.4)
    assert found["l2"] == pytest.approx((square / size) ** 0.5)
    assert found["h1"] == pytest.approx(((square + 0.5) / (size + 18)) ** 0.5)


def test_claims_on_verdicts_errors_and_parameters():
    same = {"equation": "e", "network": "n", "verdict": "solved", "reference": "exact"}
    same |= dict.fromkeys(("l2", "grid_change", "estimate"))

    def held(**columns):
        return [claim.holds for claim in claims_of(pd.DataFrame(same | columns))]

    assert held(l2=[1e-6, 1e-5], grid_change=1e-6) == [True, True]
    lost = {"l2": [1e-6, 1.001e-5], "verdict": ["doubtful", "solved"]}
    assert held(**lost, grid_change=1e-6) == [False, False]
    # Four of five seeds within two standard errors are enough.
    found = {"k": [1.0, 0.9, 1.1, 1.2, 1.3], "k_true": 1.0}
    assert held(**found, k_error=0.1) == [True, True]
    assert held(**found, k_error=0.099) == [True, False]
