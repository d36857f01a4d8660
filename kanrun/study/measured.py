"""One number for what several trainings measured. None is passed over: where one is no number, no bound holds."""

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


def at_most(sentence: str, values: pd.Series, bound: float, spread: str | None = None) -> Claim:
    """The claim that all of `values` are at most `bound`."""
    most = largest(values)
    return Claim(sentence, most, f"at most {bound:g}", most <= bound, spread)


def at_least(sentence: str, values: pd.Series, bound: float, spread: str | None = None) -> Claim:
    """The claim that all of `values` are at least `bound`."""
    least = smallest(values)
    return Claim(sentence, least, f"at least {bound:g}", least >= bound, spread)
