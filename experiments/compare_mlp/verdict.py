"""Which of two networks wins: the ratio of their errors over seeds, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kanrun.points import Array
from kanrun.runs.records import Claim

#: Probability with which the confidence interval contains the true ratio.
LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """Ratio of two errors (geometric mean over seeds), with the ends of its confidence interval.

    With a single seed, the ends are NaN.
    """

    ratio: float
    low: float
    high: float
    seeds: int

    @property
    def above(self) -> bool:
        """True if the confidence interval lies above 1."""
        return self.low > 1

    @property
    def winner(self) -> str:
        """Which network wins, in words. The ratio must be the MLP's error over the KAN's."""
        if not np.isfinite([self.ratio, self.low]).all():
            return "undecided, an error is not finite" if self.seeds > 1 else "undecided"
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """Confidence interval in words."""
        if self.seeds < 2:
            return f"one seed has no {LEVEL:.0%} interval"
        return f"{LEVEL:.0%} interval {self.low:.3g} .. {self.high:.3g} over {self.seeds} seeds"

    def claim(self, sentence: str, bound: str, spread: str) -> Claim:
        """Return the claim `sentence`, which holds if the confidence interval lies above 1."""
        return Claim(sentence, self.ratio, bound, self.above, spread)


def judge(logs: Array) -> Verdict:
    """Return the verdict on ratios of errors, given their log10, shape (seeds, pairs).

    The logarithms are first averaged over the pairs of each seed, because pairs with the same seed
    share their data. The confidence interval is Student's t interval for the mean over seeds. It
    assumes that the logarithms are about normally distributed.
    """
    means = logs.mean(1)
    seeds = len(means)
    middle = means.mean()
    spread = means.std(ddof=1) if seeds > 1 else np.nan
    half = stdtrit(seeds - 1, (1 + LEVEL) / 2) * spread / seeds**0.5
    ratio, low, high = (float(10**end) for end in (middle, middle - half, middle + half))
    return Verdict(ratio, low, high, seeds)


def log_ratios(errors: pd.Series, others: pd.Series) -> Array:
    """Return log10 of `errors` / `others`, shape (seeds, pairs).

    Both are indexed by seed and pair. Seeds that lack some pair are left out. NaN is kept.
    """
    both = errors.index.intersection(others.index)
    smallest = np.finfo(float).tiny
    ratios: pd.Series = (errors[both] + smallest) / (others[both] + smallest)
    logs = ratios.map(np.log10)
    pairs = logs.groupby(level=0).transform("size")
    whole = logs[pairs == logs.index.get_level_values(1).nunique()]
    return np.asarray(whole.unstack(), dtype=np.float64)
