"""Whether points show that a formula is their function, and not merely near to it.

Over a range, a smooth function is as near as rounding to many truncated series and sums, which end
with a term about as large as the error. If every constant of a formula changes by its own size, the
singular values of the Jacobian are the sizes of its independent parts. In an approximation they
fall to the error step by step; in the function itself they end far above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sympy import Expr

from kanrun.engine.symbolic.constant_errors import open_constants
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting
from kanrun.engine.symbolic.sparse import is_noise, smooth_columns

#: Size of the next part, over the error, from which on the points show that there is none: 15 bits.
#: Approximations of 40 special functions on four ranges have at most 3 bits, those of theta
#: functions, whose terms fall faster and faster, up to 14.5; most formulas of the score cards have
#: more than 30.
_VISIBLE = 2.0**15
#: Error, relative to the std of y, of residuals that are rounding in any case.
_TINY = 2e-14
#: Size of a part, relative to the largest, that is only rounding: its constants are redundant.
_REDUNDANT = 1e-15


@dataclass(frozen=True)
class Evidence:
    """Evidence that a formula is the function of points; sizes are relative to the std of y.

    Attributes:
        error: RMS error of the formula, at least the rounding of its largest part.
        smallest: Size of its smallest part.
        next_part: Size that the next part would have if the formula were an approximation: smaller
            by the largest ratio of two successive parts.
        is_rounding: Whether the residuals are rounding: tiny, or not smooth.
    """

    error: float
    smallest: float
    next_part: float
    is_rounding: bool = True

    @property
    def is_shown(self) -> bool:
        """True if a next part would be seen above the error, and the residuals are no part."""
        return self.is_rounding and self.next_part >= _VISIBLE * self.error


def evidence(expression: Expr, names: Sequence[str], data: SearchData) -> Evidence:
    """Return the evidence of all points for an expression in the variables `names`."""
    points = data.all_points
    form, constants = open_constants(expression, units=True)
    numbers = np.array([float(each) for each in constants.values()])
    unknowns = [each.name for each in constants]
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(form, names, unknowns, (points.x, points.y), numbers)
        residual, jacobian = fitting.linearised(numbers)
        rows = np.column_stack([residual, jacobian * numbers])
        rows = rows / points.y[:, None] if data.relative else rows
    # Slopes by an exponent have no value where the base is zero.
    finite = np.isfinite(rows).all(axis=1)
    rows = rows[finite] / data.y_std
    if not len(rows):
        return Evidence(np.inf, 0.0, 0.0)
    rows /= np.sqrt(len(rows))
    sizes = np.linalg.svd(rows[:, 1:], compute_uv=False)
    error = max(float(np.linalg.norm(rows[:, 0])), float(np.finfo(float).epsneg * sizes[0]))
    is_rounding = error <= _TINY or is_noise(
        rows[:, 0], points.y[finite], smooth_columns(points.x[finite])
    )
    sizes = sizes[sizes > max(error, _REDUNDANT * sizes[0])]
    if not len(sizes):
        return Evidence(error, 0.0, 0.0)
    falls = sizes[:-1] / sizes[1:]
    return Evidence(error, float(sizes[-1]), float(sizes[-1] / falls.max(initial=1.0)), is_rounding)
