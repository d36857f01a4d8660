"""NIST's certified sets: their models fitted from both starts, and the residual of the formula that was found."""

from __future__ import annotations

from typing import Any

import numpy as np
from kanrun.experiments.interpret.result import Array

from kanrun.config import NistTarget
from kanrun.engine.symbolic import ConstantsFitting, Formula, fit_constants
from kanrun.runs.records import Row
from kanrun.targets.nist import NistSet, read_nist

#: Digits that float64 has: more than these agree by chance.
_MOST_DIGITS = 16.0
#: A sum of squares that much above the certified one is that of a formula as good as the certified model.
AS_GOOD = 1.05


def certified_row(target: NistTarget, formula: Formula | None) -> Row:
    """Correct digits of the worst parameter from start 1 and 2, and the sum of squares of `formula` over the certified
    one, with its constants."""
    found = read_nist(target.path, target.name)
    values: dict[str, Any] = {"target": found.name, "parameters": len(found.parameters)}
    for number, start in enumerate(found.starts, 1):
        values[f"start_{number}_digits"] = _digits(found, start)
    ratio = None
    if formula is not None and not formula.splines:
        with np.errstate(all="ignore"):
            total = float(np.sum((formula(found.x) - found.y) ** 2))
        ratio = total / found.sum_of_squares if np.isfinite(total) else None
    return Row("certified", {**values, "residual_ratio": ratio, "constants": _constants(formula)})


def _digits(found: NistSet, start: Array) -> float:
    names = [f"x{i}" for i in range(found.x.shape[1])]
    problem = ConstantsFitting(found.model, names, found.parameters, (found.x, found.y), start)
    constants, _ = fit_constants(problem)
    worst = float(np.max(np.abs(constants / found.certified - 1)))
    return float(min(-np.log10(worst), _MOST_DIGITS)) if worst > 0 else _MOST_DIGITS


def _constants(formula: Formula | None) -> int | None:
    return None if formula is None else int(formula.graph.parameters.size)
