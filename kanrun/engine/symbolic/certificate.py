"""Verify a formula on new points, against the network and, if it is known, the true function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sympy

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constant_errors import open_constants
from kanrun.engine.symbolic.formula import Formula, Function
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting, fit_constants

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
    # Number of operations that is added to `_LONGER` times those of the true formula.
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
