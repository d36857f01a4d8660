"""Verify a formula on new points, against the network and, if it is known, the true function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.formula import Formula, Function
from kanrun.engine.symbolic.problem import SearchData

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
