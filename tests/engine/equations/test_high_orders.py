"""Derivatives of the fifth and sixth order: parsed, in windows of time, and in one variable."""

import numpy as np
import pytest

import kanrun
from kanrun.errors import UsageError
from kanrun.formulas.equations import Vocabulary


def test_the_seventh_order_is_refused():
    known = Vocabulary(("x", "t"), ("u",))
    found = known.derivative("u_xxxxxt")
    assert found.index == (5, 1)
    with pytest.raises(UsageError, match="order 7; at most 6"):
        known.derivative("u_xxxxxxt")


@pytest.mark.parametrize(
    ("formula", "exact"),
    [
        ("u_t = u_xxxxxx", lambda x, t: np.exp(-t) * np.sin(x)),
        ("u_t + u_xxxxx = 0", lambda x, t: np.sin(x - t)),
    ],
)
def test_evolution(formula, exact):
    conditions = ["periodic in x", "u = sin(x) at t=0"]
    found = kanrun.solve(formula, {"x": [0, "2*pi"], "t": [0, 0.1]}, conditions, tolerance=1e-3)
    x, t = np.random.default_rng(0).random((2, 50)) * [[2 * np.pi], [0.1]]
    assert found.verdict == "solved"
    assert found(np.stack([x, t], 1))[:, 0] == pytest.approx(exact(x, t), abs=1e-3)


@pytest.mark.slow
def test_one_variable():
    ends = [f"u{name} = 0 at x=0, x=1" for name in ("", "_xx", "_xxxx")]
    found = kanrun.solve("u_xxxxxx = -pi^6*sin(pi*x)", {"x": [0, 1]}, ends, intervals=[4, 8])
    x = np.linspace(0, 1, 9)
    assert found(x)[:, 0] == pytest.approx(np.sin(np.pi * x), abs=1e-6)
