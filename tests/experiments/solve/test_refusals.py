"""Equations that are refused or cause a remark, and reference solutions of other resolutions."""

import runpy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from kanrun.experiments.solve.checks import condition_warnings
from kanrun.experiments.solve.config import EquationConfig, SolveConfig
from kanrun.experiments.solve.problem import make_solve_problem
from kanrun.experiments.solve.solution import solve

X = {"x": [0, 1]}
ENDS = ["u = 0 at x=0, x=1"]
#: An equation, what else is given, and the refusal.
REFUSED = """
1 = 2 | {} | does not contain the unknown u
u_xx = v | {} | v
u_xx = 1 | {'conditions': ['u = 0 at x=0, x=1', 'u = 1 at x=1']} | contradict each other at x=1: ... u = 0 ... u = 1
u_xx = 1 | {'conditions': []} | conditions is empty
u_xx = 1 | {'variables': {'x': [1, 0]}} | is empty; the first end must be the lower
u_xx = 1 | {'variables': {'x': [0, '2*e']}, 'conditions': ['u = 0 at x=0, x=2*e'], 'constants': {'e': '1/2', 'a': 'e'}, 'continuation': {'e': [1]}} | a constant that a range of equation.variables contains
u_xx = 1 | {'conditions': ['u is zero']} | Write "u = 0 at x=0, x=1"
u_xx = 1 | {'conditions': ['periodic in y']} | the variables are x
u_xxxx = 1 | {'conditions': ['u = 0 at x=0, x=1', 'u_x = 0 at x=0, x=1'], 'network': {'degree': 4}} | degree of at least 5
u_xx = 1 | {'exact': 'x^2/2'} | exact does not satisfy u = 0: ... at x=1
u_xx = 1 | {'exact': 'x*(1 - x)'} | exact does not satisfy u_xx = 1
u_xx = k | {'conditions': [], 'unknown_parameters': {'k': 1}, 'data': {'x': [0.5, 2.0], 'u': [1.0, 1.0]}} | 1 of 2 rows outside ... x=2
u_xx = 1 | {'unknown_parameters': {'k': 1}} | unknown_parameters lists k, which no equation
u_xx = k | {'conditions': [], 'unknown_parameters': {'k': 1}, 'data': {'x': [0.5], 'y': [1.0]}} | no column 'u'
"""  # noqa: E501


@pytest.mark.parametrize("formula, given, message", cases(REFUSED))
def test_equations_that_cannot_be_solved_are_refused(formula, given, message):
    with refuses(message):
        solve(formula, **{"variables": X, "conditions": ENDS} | given)


def problem(formula="u_xx = 1", variables=X, conditions=ENDS, **more):
    """Return a problem with the default settings."""
    given = EquationConfig(variables=variables, formula=formula, conditions=conditions, **more)
    return make_solve_problem(SolveConfig(equation=given), 0)


@pytest.mark.parametrize(
    "pulse, step, constants",
    [
        # At the points, all derivatives are rounding errors, which do not refute the solution.
        ("sech(S)^2/2", "(1 + tanh(S))/2", {"w": 6.234e-5, "a": 0.1022, "A": 0.7368}),
        # Differences of almost equal numbers have rounding errors, which derivatives amplify.
        (
            "(tanh(S + 3) - tanh(S - 3))/12",
            "(1/2 + atanh(tanh(3)*tanh(S))/6)",
            {"w": 1.167e-5, "a": 0.6172, "A": 0.6857},
        ),
    ],
)
def test_an_exact_solution_with_a_step_between_the_points_is_accepted(pulse, step, constants):
    pulse, step = (each.replace("S", "((x - a)/w)") for each in (pulse, step))
    ends = ["u = 0 at x=0", "u = 1 + A at x=1"]
    own = {"conditions": ends, "exact": f"x + A*{step}", "constants": constants}
    assert problem(f"(u_x/(1 + A/w*{pulse}))_x = 0", **own).comparison is not None


@pytest.mark.parametrize("off", [0.9, 1.1])
def test_conditions_and_solutions_may_differ_by_rounding(off):
    ends = ["u = 1 at x=0, x=1", f"u = 1 + {off}e-9 at x=1"]
    for said, own in (
        ("contradict", {"conditions": ends}),
        ("does not satisfy", {"exact": f"x*(x - 1)/2*(1 + {off}e-6)"}),
    ):
        with refuses(said) if off > 1 else nullcontext():
            problem(**own)


def test_more_than_memory_holds_is_refused(refused):
    said = refused("solve network.degree=6 equation.intervals=[5,200000]")
    assert "Use fewer points, intervals or terms" in said


def test_networks_are_called_by_their_shape():
    found = [
        solve("u_xx = u^3", X, ENDS, network=network, intervals=[4], budget=0.1).network
        for network in ({"terms": 1}, {"hidden": [2]}, {"degree": 6})
    ]
    assert found == ["KAN 1-1", "KAN 1-2-1", "KAN 1-1, k = 6"]


def heat(conditions, formula="u_t = u_xx"):
    return problem(formula, {**X, "t": [0, 1]}, conditions).system


def test_conditions_that_differ_or_are_too_few_are_remarked_on():
    (found,) = condition_warnings(heat([*ENDS, "u = x at t=0"]))
    assert found.startswith("u = 0 differs by 1 from the conditions that meet it at x=1, t=0: ")
    (found,) = condition_warnings(heat(["periodic in x", "u = 1 at t=0"], "u_tt = u_xx"))
    assert found.startswith("the equation has order 2 in t, but only 1 conditions there")


@pytest.mark.parametrize(
    "walls, start, corners",
    cases("""
        u_x = 0 at x=0, x=1 | u = x at t=0 | 2
        u_x + u = 0 at x=0, x=1 | u = 1 at t=0 | 2
        u = 0 at x=0, x=1 | u = sin(pi*x) at t=0 | 0
        u = 0 at x=0 | u = 9.9e-5 + x at t=0 | 0
        u = 0 at x=0 | u = 1.01e-4 + x at t=0 | 1
        u = 0 at x=0, x=1 | u = max(0, x*(1 - x) - 1/9) at t=0 | 0
    """),
)
def test_corners_where_conditions_or_their_slopes_differ(walls, start, corners):
    """A difference of rounding is none, nor is one of a second derivative that does not exist."""
    found = heat([walls, start]).corners
    assert len(found) == corners
    if corners == 1:
        assert found[0].face == ((0, 0.0), (1, 0.0))
        assert found[0].difference == pytest.approx(1.01e-4)


references = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("references.py"))))


@pytest.mark.parametrize(
    "name",
    [
        each if each == "burgers" else pytest.param(each, marks=pytest.mark.slow)
        for each in references.REFERENCES
    ],
)
def test_references_do_not_depend_on_the_resolution(name):
    make = references.REFERENCES[name]
    arguments, allowed = references.COARSER[make]
    coarse = make(*arguments)
    recorded = pd.read_csv(references.FOLDER / f"{name}.csv")
    assert list(coarse) == list(recorded)
    unknowns = [each for each in recorded if each not in ("x", "y", "t")]
    for unknown in unknowns:
        difference = np.linalg.norm(coarse[unknown] - recorded[unknown])
        assert difference <= allowed * np.linalg.norm(recorded[unknown])
