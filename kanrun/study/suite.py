"""Statistics over seeds, exponents of power laws, and claims about them.

NaN propagates, so a claim cannot hold merely because failed training runs were left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from kanrun.config.rules import with_differences
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.study import BOUNDED, Claims, Tables

Entry = TypeVar("Entry")

#: Largest accepted ratio of the worst seed's error to the median error. Networks that learned the
#: same function differ by less than two orders of magnitude; a larger ratio means that a seed ended
#: in a bad minimum.
WORST_OVER_MEDIAN = 100.0


def maximum(values: pd.Series) -> float:
    """Return the largest value, or NaN if `values` is empty or contains NaN."""
    return float(values.astype(float).max(skipna=False))


def minimum(values: pd.Series) -> float:
    """Return the smallest value, or NaN if any value is not finite.

    So a diverged training (infinite error) does not satisfy a lower bound.
    """
    numbers = values.astype(float)
    return float(numbers.min()) if np.isfinite(numbers).all() else float("nan")


def median(values: pd.Series) -> float:
    """Return the median, or NaN if `values` is empty or contains NaN."""
    return float(values.astype(float).median(skipna=False))


def value_range(values: pd.Series, of: str = "seeds") -> str | None:
    """Describe the range of `values` and the number of NaN, as in "1e-6 .. 3e-6 over 5 seeds".

    `of` is the plural noun for what each value belongs to. Return None for fewer than two values.
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
    """Return the claim that all `values` are at most `bound`.

    Args:
        sentence: Text of the claim.
        values: Measured value or values; the largest one is reported.
        bound: Upper bound.
        spread: Description of the values; default: their range.
        of: Plural noun for what each value belongs to, used in the range.
    """
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
    """Return the claim that all `values` are at least `bound`; the smallest one is reported.

    The other arguments are those of `claim_at_most`.
    """
    numbers = pd.Series(values, dtype=float)
    smallest = minimum(numbers)
    spread = spread or value_range(numbers, of)
    return Claim(sentence, smallest, f"at least {bound:g}", smallest >= bound, spread)


def claim_near(sentence: str, values: pd.Series | float, theory: float, within: float) -> Claim:
    """Return the claim that the median of `values` differs from `theory` by at most `within`."""
    numbers = pd.Series(values, dtype=float)
    middle = median(numbers)
    bound = f"{theory:g} +/- {within:g}"
    holds = abs(middle - theory) <= within
    return Claim(sentence, middle, bound, holds, value_range(numbers))


def exponent(x: pd.Series, y: pd.Series) -> float:
    """Return the exponent p of a power law y = c x^p, fitted by least squares of log y on log x.

    Only pairs with x > 0 and y > 0 are used. Return NaN if these pairs have fewer than two
    different values of x, or if any y is not finite.
    """
    kept = (y > 0) & (x > 0)
    if x[kept].nunique() < 2 or not np.isfinite(y.astype(float)).all():
        return float("nan")
    return float(np.polyfit(np.log(x[kept].astype(float)), np.log(y[kept].astype(float)), 1)[0])


def exponents(table: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Fit the column `y` as a power of the column `intervals` in each group of the columns `by`.

    Return one row per group, with the columns `by`, `exponent`, and `low` and `high`: the smallest
    and the largest number of intervals.
    """
    groups = table.groupby(by, sort=False)
    fitted = ((key, rows["intervals"], rows[y]) for key, rows in groups)
    rows = [(*key, exponent(x, errors), x.min(), x.max()) for key, x, errors in fitted]
    return pd.DataFrame(rows, columns=[*by, "exponent", "low", "high"])


def typed(settings: Entry, entry: Any, where: str) -> Entry:
    """Return the dataclass `settings` with the changes in the mapping `entry`.

    `where` names the setting that contains the entry, for error messages. Raises UsageError if
    `entry` is not a mapping, or if a key, type or value is invalid.
    """
    if not isinstance(entry, Mapping):
        takes = ", ".join(sorted(vars(settings)))
        raise UsageError(
            f"{where} has {entry}, where keys with values are needed; it takes {takes}."
        )
    return with_differences(settings, entry, f"{where}.")


def refuse_unused(model: Any, instead: Mapping[str, str]) -> None:
    """Raise UsageError if a setting of the KAN is set that the experiment does not use.

    `instead` maps the names of such settings to the settings that are used in their place.
    """
    for name, place in instead.items() if model.kind == "kan" else ():
        if getattr(model, name) != getattr(type(model)(), name):
            raise UsageError(
                f"model.{name}={getattr(model, name)} is not used here. Set {place} instead."
            )


def bound_claims(tables: Tables) -> Claims:
    """Yield one claim per bound of the table `bounds`.

    For bounds on the test RMSE, also claim that no seed is far worse than the median.
    """
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
