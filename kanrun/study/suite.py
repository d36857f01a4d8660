"""Statistics over seeds, exponents of power laws, and claims on them.

NaN propagates: no claim holds because a training that failed or diverged was left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from kanrun.config.conversion import with_differences
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.study import BOUNDED, Claims, Tables

Entry = TypeVar("Entry")

#: Largest accepted ratio of the worst seed's error to the median. Networks that learned the same
#: function differ by less than two orders of magnitude; a larger ratio means that a seed ended in a
#: bad minimum.
WORST_OVER_MEDIAN = 100.0


def maximum(values: pd.Series) -> float:
    """Return the largest value; NaN if there is none or one is NaN."""
    return float(values.astype(float).max(skipna=False))


def minimum(values: pd.Series) -> float:
    """Return the smallest value; NaN if any is not finite, so that divergence cannot pass."""
    numbers = values.astype(float)
    return float(numbers.min()) if np.isfinite(numbers).all() else float("nan")


def median(values: pd.Series) -> float:
    """Return the median; NaN if there is none or one is NaN."""
    return float(values.astype(float).median(skipna=False))


def value_range(values: pd.Series, of: str = "seeds") -> str | None:
    """Describe the range of several values and the number of NaN; return None for one value.

    `of` names what the values belong to, one each.
    """
    if len(values) < 2:
        return None
    lost = int(values.isna().sum())
    without = f", {lost} of them without a number" if lost else ""
    return f"{values.min():.3g} .. {values.max():.3g} over {len(values)} {of}{without}"


def claim_at_most(
    sentence: str,
    values: pd.Series | float,
    bound: float,
    spread: str | None = None,
    of: str = "seeds",
) -> Claim:
    """Return the claim that all of `values` are at most `bound`; `of` says what they belong to."""
    numbers = pd.Series(values, dtype=float)
    largest = maximum(numbers)
    spread = spread or value_range(numbers, of)
    return Claim(sentence, largest, f"at most {bound:g}", largest <= bound, spread)


def claim_at_least(
    sentence: str,
    values: pd.Series | float,
    bound: float,
    spread: str | None = None,
    of: str = "seeds",
) -> Claim:
    """Return the claim that all of `values` are at least `bound`; `of` says what they belong to."""
    numbers = pd.Series(values, dtype=float)
    smallest = minimum(numbers)
    spread = spread or value_range(numbers, of)
    return Claim(sentence, smallest, f"at least {bound:g}", smallest >= bound, spread)


def claim_near(sentence: str, values: pd.Series | float, theory: float, within: float) -> Claim:
    """Return the claim that the median of `values` is `theory`, give or take `within`."""
    numbers = pd.Series(values, dtype=float)
    middle = median(numbers)
    bound = f"{theory:g} +/- {within:g}"
    holds = abs(middle - theory) <= within
    return Claim(sentence, middle, bound, holds, value_range(numbers))


def exponent(x: pd.Series, y: pd.Series) -> float:
    """Return p of y = c x^p by least squares of log y on log x.

    NaN if fewer than two different x > 0 have a positive y, or if a y is not finite.
    """
    kept = (y > 0) & (x > 0)
    if x[kept].nunique() < 2 or not np.isfinite(y.astype(float)).all():
        return float("nan")
    return float(np.polyfit(np.log(x[kept].astype(float)), np.log(y[kept].astype(float)), 1)[0])


def exponents(table: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Return, by group, the exponent of y over `intervals`, and their range (`low`, `high`)."""
    groups = table.groupby(by, sort=False)
    fitted = ((key, rows["intervals"], rows[y]) for key, rows in groups)
    rows = [(*key, exponent(x, errors), x.min(), x.max()) for key, x, errors in fitted]
    return pd.DataFrame(rows, columns=[*by, "exponent", "low", "high"])


def typed(settings: Entry, entry: Any, where: str) -> Entry:
    """Return the dataclass `settings` with the differences of one entry of the list `where`.

    Raises UsageError for anything but a mapping, and for an invalid key, type or value.
    """
    if not isinstance(entry, Mapping):
        takes = ", ".join(sorted(one.name for one in fields(settings)))  # type: ignore[arg-type]
        raise UsageError(
            f"{where} has {entry}, where keys with values are needed; it takes {takes}."
        )
    return with_differences(settings, entry, f"{where}.")


def refuse_unused(model: Any, instead: Mapping[str, str]) -> None:
    """Raise UsageError for a setting of the KAN that the experiment takes from `instead`."""
    for name, place in instead.items() if model.kind == "kan" else ():
        if getattr(model, name) != getattr(type(model)(), name):
            raise UsageError(
                f"model.{name}={getattr(model, name)} is not used here. Set {place} instead."
            )


def bound_claims(tables: Tables) -> Claims:
    """Yield one claim per bound, and one that no seed is far worse than the median."""
    for (label, column), rows in tables["bounds"].groupby(["label", "column"], sort=False):
        values = rows["value"]
        bound = float(rows["bound"].iloc[0])
        measured = maximum(values) if column == "seconds" else median(values)
        sentence = f"{label}: {BOUNDED[str(column)]}"
        yield claim_at_most(sentence, measured, bound, value_range(values))
        if column == "test_rmse" and len(values) > 1:
            worst = maximum(values) / max(median(values), sys.float_info.min)
            sentence = f"{label}: worst seed over the median"
            yield claim_at_most(sentence, worst, WORST_OVER_MEDIAN)
