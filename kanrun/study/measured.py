"""One number for what several trainings measured, and how far they lie apart; none that is no number is passed over."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kanrun.runs import Claim


def largest(values: pd.Series) -> float:
    """The largest value; NaN, of which no comparison is true, if there is none or one is no number."""
    return float(values.astype(float).max(skipna=False))


def smallest(values: pd.Series) -> float:
    """The smallest value; NaN also if one is infinite, which is how a training that diverged would pass."""
    numbers = values.astype(float)
    return float(numbers.min()) if np.isfinite(numbers).all() else float("nan")


def middle(values: pd.Series) -> float:
    """The median; NaN if there is none or one is no number."""
    return float(values.astype(float).median(skipna=False))


def spread(values: pd.Series, of: str = "seeds") -> str | None:
    """The smallest and largest of several values in words, and how many are no number; None for one value.

    `of` says what there is one value each of.
    """
    if len(values) < 2:
        return None
    lost = int(values.isna().sum())
    without = f", {lost} of them without a number" if lost else ""
    return f"{values.min():.3g} .. {values.max():.3g} over {len(values)} {of}{without}"


def at_most(sentence: str, values: pd.Series, bound: float, spread: str | None = None) -> Claim:
    """The claim that all of `values` are at most `bound`."""
    most = largest(values)
    return Claim(sentence, most, f"at most {bound:g}", most <= bound, spread)


def at_least(sentence: str, values: pd.Series, bound: float, spread: str | None = None) -> Claim:
    """The claim that all of `values` are at least `bound`."""
    least = smallest(values)
    return Claim(sentence, least, f"at least {bound:g}", least >= bound, spread)
