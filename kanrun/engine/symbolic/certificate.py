"""What was checked of a formula: its errors on points that nothing was chosen on, and whether it is the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.formula import Formula
from kanrun.engine.symbolic.invariances import canonical, released
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SimplificationPolicy
from kanrun.engine.symbolic.simplification import proven_equal

#: Root mean square error, relative to the standard deviation of the truth, at which a formula is the truth.
RECOVERED = 1e-8

Truth = Callable[[Array], Array]


@dataclass(frozen=True)
class Certificate:
    """What was checked on `points` fresh points of the domain: the largest difference of formula and network, errors
    against the truth (or held-out data), and whether the formula is the truth."""

    difference: float
    formula_rmse: float
    network_rmse: float
    r2: float
    points: int
    recovered: str
    same_form: str
    proven_equal: str


def certify(
    formula: Formula | None,
    network: Truth,
    check: tuple[Array, Array],
    fresh: Array,
    truth: Truth | None,
    expression: sympy.Expr | None,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> Certificate:
    """The certificate on check points (x, y) of the truth or held-out data, and on `fresh` points of the domain.

    `recovered` says whether the formula is the truth, to RECOVERED of its standard deviation; `same_form` whether it becomes
    the truth when its constants are fitted to it; `proven_equal` whether sympy shows the difference to be zero. They
    are unknown without a truth, and "no" for a formula with a numeric edge, which is an approximation however good.
    """
    x, y = check
    scale = float(np.std(y)) or float(np.max(np.abs(y), initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        network_rmse = _rmse(network(x), y)
        if formula is None:
            unknown = "unknown" if truth is None else "no"
            return Certificate(
                np.nan, np.nan, network_rmse, np.nan, len(fresh), unknown, unknown, unknown
            )
        rmse = _rmse(formula(x), y)
        difference = float(np.max(np.abs(formula(fresh) - network(fresh)), initial=0.0))
    variance = float(np.var(y))
    r2 = 1 - rmse**2 / variance if variance > 0 else np.nan

    def certificate(recovered: str, form: str, symbolically: str) -> Certificate:
        return Certificate(
            difference, rmse, network_rmse, r2, len(fresh), recovered, form, symbolically
        )

    if truth is None:
        return certificate("unknown", "unknown", "unknown")
    if formula.splines:
        return certificate("no", "no", "no")
    recovered = "yes" if rmse <= RECOVERED * scale else "no"
    form = "yes" if recovered == "yes" or _same_form(formula, fresh, truth) else "no"
    shown = (
        proven_equal(formula.expression, expression, policy)
        if expression is not None
        else "unknown"
    )
    return certificate(recovered, form, shown)


def _rmse(values: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((values - y) ** 2)))


def _same_form(formula: Formula, x: Array, truth: Truth) -> bool:
    """Whether the graph with all constants fitted to the truth is the truth."""
    y = truth(x)
    fitted = refit(canonical(released(formula.graph)), x, y, RefitSettings(steps=60, damping=1e-6))
    return fitted.rmse <= RECOVERED * float(np.std(y))
