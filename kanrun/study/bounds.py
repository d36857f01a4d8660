"""Bounds that a suite's entry may name, and the claims that they become.

`bounds: {test_rmse: 1e-6, seconds: 10}` in an entry claims that the median over seeds stays at or below each.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Row
from kanrun.study.measured import largest, middle, spread

_NAMES = {
    "train_rmse": "median training RMSE",
    "validation_rmse": "median validation RMSE",
    "test_rmse": "median test RMSE",
    "seconds": "longest training in seconds",
}
#: No seed may be worse than this many times the median: a bad minimum is what a user meets, and two orders of magnitude
#: are more than networks that learned the same function differ by.
SPREAD = 100.0


def check_bounds(cell: Mapping[str, Any]) -> None:
    """Raise UsageError for bounds of what is not bounded, or that are no numbers."""
    bounds = cell.get("bounds", {})
    if not isinstance(bounds, Mapping):
        raise UsageError(f"bounds={bounds} of a suite's entry must be pairs, such as {{test_rmse: 1e-6, seconds: 10}}.")
    for column, bound in bounds.items():
        if column not in _NAMES:
            raise UsageError(f"bounds of a suite's entry has {column}; choose from {', '.join(_NAMES)}.")
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < math.inf:
            raise UsageError(f"bounds of a suite's entry has {column}: {bound}, which must be a positive number.")


def bound_rows(cell: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Row]:
    """One row a bound of `cell`, beside the value it bounds."""
    for column, bound in cell.get("bounds", {}).items():
        label = f"{summary['target']} [{summary['shape'].replace('-', ',')}], N = {summary['train_points']}"
        yield Row("bounds", {"label": label, "column": column, "bound": float(bound), "value": summary[column]})


def bound_claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """One claim a bound over the seeds, and one that no seed is far worse than the median."""
    claims: list[Claim] = []
    if "bounds" not in tables:
        return claims
    for (label, column), rows in tables["bounds"].groupby(["label", "column"], sort=False):
        values, bound = rows["value"], float(rows["bound"].iloc[0])
        measured = largest(values) if column == "seconds" else middle(values)
        sentence = f"{label}: {_NAMES[str(column)]}"
        claims.append(Claim(sentence, measured, f"<= {bound:g}", measured <= bound, spread(values)))
        if column == "test_rmse" and len(values) > 1:
            worst = largest(values) / max(middle(values), sys.float_info.min)
            sentence = f"{label}: worst seed over the median"
            claims.append(Claim(sentence, worst, f"<= {SPREAD:g}", worst <= SPREAD, None))
    return claims
