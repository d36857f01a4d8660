"""Conditions that contradict the equation are found; conditions of hard problems are accepted."""

import pytest
from cases import cases

import kanrun

#: Equation, ends of variables, conditions, least residual, and what is missed. Residuals are
#: relative to the largest term; for the first equation, this is u_xx, whose size is 4/pi^2.
CONTRADICTIONS = """
u_xx = -u | {'x': [0, 'pi']} | ['u = 0 at x=0', 'u = 1 at x=pi'] | '0.' | u = 0 at x=0 by 0.5 and u = 1 at x=3.14159 by 0.5
u_x = 1 | {'x': [0, 1]} | ['u = 0 at x=0', 'u = 3 at x=1'] | '0.' | u = 0 at x=0 by 1 and u = 3 at x=1 by 1
u_xx = 1 | {'x': [0, 1]} | ['u_x = 0 at x=0, x=1'] | '1 ' | u_x = 0 at x=0, x=1 by 0.5
u_xx = 1 | {'x': [0, 1]} | ['u periodic in x', 'u_x periodic in x'] | '1 ' | ''
u_xx + u_yy = -2*pi^2*u | {'x': [0, 1], 'y': [0, 1]} | ['u = 0 at x=0, x=1, y=0', 'u = sin(pi*x) at y=1'] | '0.' | u = 0 at x=0, x=1, y=0 by 0.25 and u = sin(pi*x) at y=1 by 0.25
"""  # noqa: E501


@pytest.mark.parametrize("formula, variables, conditions, residual, missed", cases(CONTRADICTIONS))
def test_contradicting_conditions_are_named(formula, variables, conditions, residual, missed):
    found = kanrun.solve(formula, variables, conditions, intervals=[6, 9, 12])
    assert found.verdict == "failed"
    assert "the conditions contradict the equation" in found.reason
    assert f"a residual of at least {residual}" in found.reason
    assert f"functions that satisfy it miss {missed}" * bool(missed) in found.reason
    assert ("miss" in found.reason) == bool(missed)
    assert "estimated" not in found.reason
    assert found.summary()["estimate"] is None


#: Layers narrower than the grid, whose residual stays the same on finer grids; two almost resonant
#: problems; and a bad minimum of a nonlinear equation, which proves nothing.
HARD = """
1e-5*u_xx + u_x = 1 | {'x': [0, 1]} | ['u = 0 at x=0, x=1']
u_xx = -1.0001*u | {'x': [0, 'pi']} | ['u = 0 at x=0', 'u = 1 at x=pi']
u_xx + u_yy = -1.9*pi^2*u | {'x': [0, 1], 'y': [0, 1]} | ['u = 0 at x=0, x=1, y=0', 'u = sin(pi*x) at y=1']
u_x^2 = -1 | {'x': [0, 1]} | ['u = 0 at x=0, x=1']
"""  # noqa: E501
SLOW = """
1e-4*(u_xx + u_yy) + u_y = sin(pi*x)*sin(pi*y) | {'x': [0, 1], 'y': [0, 1]} | ['u = 0 at x=0, x=1, y=0, y=1']
"""  # noqa: E501


@pytest.mark.parametrize(
    "formula, variables, conditions",
    [*cases(HARD), *(pytest.param(*each, marks=pytest.mark.slow) for each in cases(SLOW))],
)
def test_hard_problems_are_not_called_contradictory(formula, variables, conditions):
    found = kanrun.solve(formula, variables, conditions, intervals=[6, 9, 12])
    assert "contradict" not in found.reason
    assert (found.summary()["estimate"] is None) == (found.verdict == "failed")
