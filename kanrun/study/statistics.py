"""Statistics over seeds, exponents of power laws, and claims on them.

NaN propagates: no claim holds because a training that failed or diverged was left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kanrun.runs import Claim


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
    holds = abs(middle - theory) <= within
    return Claim(sentence, middle, f"{theory:g} +/- {within:g}", holds, value_range(numbers))


def exponent(x: pd.Series, y: pd.Series) -> float:
    """Return p of y = c x^p by least squares of log y on log x.

    NaN if fewer than two different x > 0 have a positive y, or if a y is not finite.
    """
    kept = (y > 0) & (x > 0)
    if x[kept].nunique() < 2 or not np.isfinite(y.astype(float)).all():
        return float("nan")
    return float(np.polyfit(np.log(x[kept].astype(float)), np.log(y[kept].astype(float)), 1)[0])


def exponents(table: pd.DataFrame, by: list[str], x: str, y: str) -> pd.DataFrame:
    """Return, for each group of `by`, the exponent and the range of x (`low`, `high`) fitted."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        names = dict(zip(by, key, strict=True))
        rows.append(
            {
                **names,
                "exponent": exponent(group[x], group[y]),
                "low": group[x].min(),
                "high": group[x].max(),
            }
        )
    return pd.DataFrame(rows, columns=[*by, "exponent", "low", "high"])
