"""Conditions that contradict the equation are found; conditions of hard problems are accepted."""

import pytest

import kanrun

X = {"x": [0, 1]}
SQUARE = {"x": [0, 1], "y": [0, 1]}
WALLS = "u = 0 at x=0, x=1, y=0, y=1"


@pytest.mark.parametrize(
    "formula, variables, conditions, residual, missed",
    [
        (
            "u_xx = -u",
            {"x": [0, "pi"]},
            ["u = 0 at x=0", "u = 1 at x=pi"],
            # Residuals are relative to the largest term, u_xx, whose size is 4/pi^2.
            None,
            "u = 0 at x=0 by 0.5 and u = 1 at x=3.14159 by 0.5",
        ),
        (
            "u_x = 1",
            X,
            ["u = 0 at x=0", "u = 3 at x=1"],
            None,
            "u = 0 at x=0 by 1 and u = 3 at x=1 by 1",
        ),
        (
            "u_xx = 1",
            X,
            ["u_x = 0 at x=0, x=1"],
            "at least 1 ",
            "u_x = 0 at x=0, x=1 by 0.5",
        ),
        ("u_xx = 1", X, ["u periodic in x", "u_x periodic in x"], "at least 1 ", ""),
        (
            "u_xx + u_yy = -2*pi^2*u",
            SQUARE,
            ["u = 0 at x=0, x=1, y=0", "u = sin(pi*x) at y=1"],
            None,
            "u = 0 at x=0, x=1, y=0 by 0.25 and u = sin(pi*x) at y=1 by 0.25",
        ),
    ],
)
def test_contradicting_conditions_are_named(formula, variables, conditions, residual, missed):
    found = kanrun.solve(formula, variables, conditions, intervals=[8, 12, 16])
    assert found.verdict == "failed"
    assert "the conditions contradict the equation" in found.reason
    assert (residual or "a residual of at least 0.") in found.reason
    assert f"functions that satisfy it miss {missed}" * bool(missed) in found.reason
    assert ("miss" in found.reason) == bool(missed)
    assert "estimated" not in found.reason
    assert found.summary()["estimate"] is None


@pytest.mark.parametrize(
    "formula, variables, conditions",
    [
        # Layers narrower than the grid: the residual stays the same on finer grids.
        ("1e-5*u_xx + u_x = 1", X, ["u = 0 at x=0, x=1"]),
        pytest.param(
            "1e-4*(u_xx + u_yy) + u_y = sin(pi*x)*sin(pi*y)",
            SQUARE,
            [WALLS],
            marks=pytest.mark.slow,
        ),
        # Almost resonant.
        ("u_xx = -1.0001*u", {"x": [0, "pi"]}, ["u = 0 at x=0", "u = 1 at x=pi"]),
        ("u_xx + u_yy = -1.9*pi^2*u", SQUARE, ["u = 0 at x=0, x=1, y=0", "u = sin(pi*x) at y=1"]),
        # A bad minimum of a nonlinear equation proves nothing.
        ("u_x^2 = -1", X, ["u = 0 at x=0, x=1"]),
    ],
)
def test_hard_problems_are_not_called_contradictory(formula, variables, conditions):
    found = kanrun.solve(formula, variables, conditions, intervals=[8, 12, 16])
    assert "contradict" not in found.reason
    assert (found.summary()["estimate"] is None) == (found.verdict == "failed")
