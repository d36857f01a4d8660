"""Who wins: the ratio of errors over seeds, with Student's interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kanrun.points import Array
from kanrun.runs.records import Claim

#: Coverage of the interval.
LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """Ratio of two errors (geometric mean over seeds) with its interval."""

    ratio: float
    low: float
    high: float
    seeds: int

    @property
    def above(self) -> bool:
        """True if the interval lies above 1."""
        return self.low > 1

    @property
    def winner(self) -> str:
        """Which network wins, in words, if the ratio is the MLP's error over the KAN's."""
        if not np.isfinite([self.ratio, self.low]).all():
            return "undecided, an error is not finite" if self.seeds > 1 else "undecided"
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """Interval in words."""
        if self.seeds < 2:
            return f"one seed has no {LEVEL:.0%} interval"
        return f"{LEVEL:.0%} interval {self.low:.3g} .. {self.high:.3g} over {self.seeds} seeds"

    def claim(self, sentence: str, bound: str, spread: str) -> Claim:
        """Return the claim that the interval lies above 1."""
        return Claim(sentence, self.ratio, bound, self.above, spread)


def judge(logs: Array) -> Verdict:
    """Return the verdict on log10 of ratios of errors, shape (seeds, pairs).

    The interval is Student's for the mean over seeds, each the mean of its pairs, which share the
    data of the seed. It assumes that logarithms of ratios are about normal. One seed has none.
    """
    each = logs.mean(1)
    seeds = len(each)
    middle = each.mean()
    spread = each.std(ddof=1) if seeds > 1 else np.nan
    half = stdtrit(seeds - 1, (1 + LEVEL) / 2) * spread / seeds**0.5
    ratio, low, high = (float(10**end) for end in (middle, middle - half, middle + half))
    return Verdict(ratio, low, high, seeds)


def log_ratios(errors: pd.Series, others: pd.Series) -> Array:
    """Return log10 of the ratios of errors, shape (seeds, pairs).

    `errors` and `others` are indexed by seed and pair. Seeds without all pairs are left out; NaN is
    kept.
    """
    both = errors.index.intersection(others.index)
    smallest = np.finfo(float).tiny
    ratios: pd.Series = (errors[both] + smallest) / (others[both] + smallest)
    logs = ratios.map(np.log10)
    pairs = logs.groupby(level=0).transform("size")
    whole = logs[pairs == logs.index.get_level_values(1).nunique()]
    return np.asarray(whole.unstack(), dtype=np.float64)
