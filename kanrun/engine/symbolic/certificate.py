"""Verify a formula on new points, against the network and, if it is known, the true function.

Decide whether the points show that a formula is the true function, not an approximation.

A truncated series can agree with a smooth function on a range up to rounding. Its last terms are
then about as small as its error, whereas every part of the true formula is much larger than the
error. To measure the sizes of the independent parts of a formula, its Jacobian with respect to the
constants is computed, and each column is multiplied by its constant. The singular values of this
matrix are the sizes. In an approximation, the sizes decrease step by step down to the error. In the
true function, the smallest size is far above the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sympy import Expr

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.formula import Formula, Function
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting, open_constants
from kanrun.engine.symbolic.sparse import is_noise, smooth_columns

#: The points show that a formula is not a truncated series if the next term of such a series would
#: be at least this many times as large as the error (15 bits). Approximations of 40 special
#: functions on four ranges reach at most 3 bits; those of theta functions, whose terms decrease
#: faster and faster, reach 14.5 bits; most true formulas in collections of known formulas reach
#: more than 30 bits.
_VISIBLE = 2.0**15


@dataclass(frozen=True)
class Evidence:
    """Evidence that a formula is the true function of the points.

    Sizes and errors are relative to the standard deviation of y. For the parts of a formula, see
    the docstring of this module.

    Attributes:
        error: RMS error of the formula, or the rounding error of its largest part if that is
            larger.
        smallest: Size of the smallest part of the formula.
        next_part: Expected size of the next part if the formula were a truncated series: the size
            of the smallest part divided by the largest ratio of two successive parts.
        is_rounding: Whether the residuals are rounding, that is, tiny or not smooth.
    """

    error: float
    smallest: float
    next_part: float
    is_rounding: bool = True

    @property
    def is_shown(self) -> bool:
        """True if a missing part would clearly exceed the error, and residuals are rounding."""
        return self.is_rounding and self.next_part >= _VISIBLE * self.error


def evidence(expression: Expr, names: Sequence[str], data: SearchData) -> Evidence:
    """Return the evidence, from all points, that `expression` in the variables `names` is true."""
    # Parts smaller than this fraction of the largest part are rounding, due to redundant constants.
    redundant = 1e-15
    # Residuals whose RMS is below this fraction of the standard deviation of y count as rounding.
    tiny = 2e-14
    points = data.all_points
    form, constants = open_constants(expression, units=True)
    numbers = np.array([float(each) for each in constants.values()])
    unknowns = [each.name for each in constants]
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(form, names, unknowns, (points.x, points.y), numbers)
        residual, jacobian = fitting.linearised(numbers)
        rows = np.column_stack([residual, jacobian * numbers])
        rows = rows / points.y[:, None] if data.relative else rows
    # Derivatives with respect to an exponent are undefined where the base is zero.
    finite = np.isfinite(rows).all(axis=1)
    rows = rows[finite] / data.y_std
    if not len(rows):
        return Evidence(np.inf, 0.0, 0.0)
    rows /= np.sqrt(len(rows))
    sizes = np.linalg.svd(rows[:, 1:], compute_uv=False)
    error = max(float(np.linalg.norm(rows[:, 0])), float(np.finfo(float).epsneg * sizes[0]))
    is_rounding = error <= tiny or is_noise(
        rows[:, 0], points.y[finite], smooth_columns(points.x[finite])
    )
    sizes = sizes[sizes > max(error, redundant * sizes[0])]
    if not len(sizes):
        return Evidence(error, 0.0, 0.0)
    falls = sizes[:-1] / sizes[1:]
    return Evidence(error, float(sizes[-1]), float(sizes[-1] / falls.max(initial=1.0)), is_rounding)


#: Words for true, false and unknown in tables.
YES_NO = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True)
class Certificate:
    """Verification of a formula on points that were used neither for fitting nor for selection.

    Attributes:
        difference: Largest absolute difference between formula and network on new points of the
            domain.
        formula_rmse: RMSE of the formula on the held-out points, whose outputs are those of the
            true function if it is known.
        network_rmse: RMSE of the network on the held-out points.
        r2: R^2 of the formula on the held-out points.
        points: Number of new points on which `difference` was measured.
        recovered: `yes` if the formula equals the true function to rounding, otherwise `no`;
            `unknown` if the true function is not known.
    """

    difference: float = np.nan
    formula_rmse: float = np.nan
    network_rmse: float = np.nan
    r2: float = np.nan
    points: int = 0
    recovered: str = "unknown"


@dataclass(frozen=True)
class VerificationData:
    """Points for the verification of a formula that were not used by the search.

    Attributes:
        x: Inputs of the held-out points, shape (N, inputs).
        y: Outputs of the held-out points, shape (N,).
        domain: Lower and upper bound of each input, shape (inputs, 2).
        fresh: Inputs of new points in the domain, shape (points, inputs); their outputs are not
            given.
        truth: The true function, if it is known.
    """

    x: Array
    y: Array
    domain: Array
    fresh: Array
    truth: Function | None = None


def certify(formula: Formula | None, network: Function, held_out: VerificationData) -> Certificate:
    """Verify a formula on held-out points and on new points of the domain.

    A formula with splines never counts as the true function, however small its error is. If
    `formula` is None, only the error of the network is measured.
    """
    x = held_out.x
    y = held_out.y
    fresh = held_out.fresh
    truth = held_out.truth

    def rmse(function: Function) -> float:
        return float(np.sqrt(np.mean((function(x) - y) ** 2)))

    is_known = None if truth is None else False
    difference = error = r2 = np.nan
    with np.errstate(all="ignore"):
        network_error = rmse(network)
        variance = float(np.var(y))
        if formula is not None:
            error = rmse(formula)
            difference = float(np.max(np.abs(formula(fresh) - network(fresh)), initial=0.0))
            r2 = 1 - error**2 / variance if variance > 0 else np.nan
    if truth is not None and formula is not None and not formula.splines:
        scale = math.sqrt(variance) or float(np.max(np.abs(y), initial=0.0)) or 1.0
        data = SearchData(fresh, truth(fresh), fresh, truth(fresh))
        is_known = error <= data.exact * scale
    return Certificate(difference, error, network_error, r2, len(fresh), YES_NO[is_known])
