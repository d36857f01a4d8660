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


def test_evolution():
    conditions, box = ["periodic in x", "u = sin(x) at t=0"], {"x": [0, "2*pi"], "t": [0, 0.1]}
    found = kanrun.solve("u_t = u_xxxxxx - u_xxxxx", box, conditions, tolerance=1e-3)
    x, t = np.random.default_rng(0).random((2, 50)) * [[2 * np.pi], [0.1]]
    assert found.verdict == "solved"
    assert found(np.stack([x, t], 1))[:, 0] == pytest.approx(np.exp(-t) * np.sin(x - t), abs=1e-3)
