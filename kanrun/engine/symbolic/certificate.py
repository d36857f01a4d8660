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
import sympy
from sympy import Expr

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.formula import Formula, Function
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting, fit_constants, open_constants
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
        same_form: `yes` if `recovered` is `yes`, or if the formula equals the true function once
            its constants are fitted to exact points, setting any of these constants to 0 would
            change the formula, and the formula is not much longer than the true one. Otherwise
            `no`; `unknown` if the true function is not known.
        accepted_form: `yes` if the formula is exact and is written in an accepted form of the true
            function or is at most as long as the shortest accepted form; otherwise `no`. `unknown`
            if the true formula is not known, or if there is no formula without splines.
    """

    difference: float = np.nan
    formula_rmse: float = np.nan
    network_rmse: float = np.nan
    r2: float = np.nan
    points: int = 0
    recovered: str = "unknown"
    same_form: str = "unknown"
    accepted_form: str = "unknown"


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
        operations: Number of operations of the true formula, if it is known.
    """

    x: Array
    y: Array
    domain: Array
    fresh: Array
    truth: Function | None = None
    operations: int | None = None


def has_true_form(formula: Formula, data: SearchData, operations: int | None) -> bool:
    """Return whether a formula equals the true function once its constants are fitted.

    The constants are fitted to points without noise. The formula may have only a few operations
    more than the true one (`longer`, `more_operations`), and setting any of its constants to 0
    must change it.

    Args:
        formula: The formula.
        data: Points of the true function, without noise.
        operations: Number of operations of the true formula; None if the length is not limited.
    """
    # Setting a constant to 0 has no effect if the RMS change of the formula, relative to the
    # standard deviation of y, is smaller than this.
    no_effect = 1e-9
    # Largest error, relative to the standard deviation of y, of a formula in the true form after
    # its constants are fitted to exact points.
    same_form = 1e-6
    # Number of operations that is added to `longer` times those of the true formula.
    more_operations = 2
    # The number of operations of a formula in the true form is at most this multiple of the number
    # of operations of the true formula, plus `more_operations`.
    longer = 1.5
    expression = formula.expression
    most = np.inf if operations is None else longer * operations + more_operations
    if sympy.count_ops(expression) > most:
        return False
    form, numbers = open_constants(expression)
    if not numbers:
        return False
    # Without scaling, the fit would stop early if constants differ much in size. Therefore
    # constants are divided by their initial values and y by its size.
    start = np.array([float(each) for each in numbers.values()])
    units = {symbol: sympy.Float(c, 17) * symbol for symbol, c in zip(numbers, start, strict=True)}
    names = [each.name for each in numbers]
    points = data.x, data.y / data.y_std
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(
            form.xreplace(units) / data.y_std, formula.names, names, points, np.ones(len(names))
        )
        constants = fit_constants(fitting)
        residual = fitting.linearised(constants)[0]
        if not float(np.sqrt(np.mean(residual**2))) < same_form:
            return False
        for k in range(len(constants)):
            without = np.where(np.arange(len(constants)) == k, 0.0, constants)
            change = fitting.linearised(without)[0] - residual
            if float(np.sqrt(np.mean(change**2))) < no_effect:
                return False
    return True


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

    is_known = is_form = None if truth is None else False
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
        # A formula that is worse than the mean has no form worth a long fit of its constants.
        is_form = is_known or (not r2 <= 0 and has_true_form(formula, data, held_out.operations))
    return Certificate(
        difference, error, network_error, r2, len(fresh), YES_NO[is_known], YES_NO[is_form]
    )
