"""Who wins: the ratio of errors over seeds, with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kanrun.points import Array
from kanrun.runs.records import Claim

#: Coverage of the interval.
LEVEL = 0.95
#: Resamples of the bootstrap: some 500 lie beyond each end of the widest interval, that of 6 seeds.
RESAMPLES = 200_000
#: Resamples that are held in memory at a time.
BATCH = 10_000
#: Beyond an end of the interval there must be room for this many of the rarest resamples, one seed
#: n times: otherwise the end is that seed. Of normal samples, intervals of 6 seeds then cover 94%;
#: those of 5, which are refused, would cover 91%.
ROOM = 10


@dataclass(frozen=True)
class Verdict:
    """Ratio of two errors (geometric mean over seeds) with its interval.

    With too few seeds for an interval, `low` and `high` are the range of the seeds.
    """

    ratio: float
    low: float
    high: float
    seeds: int
    enough: bool

    @property
    def above(self) -> bool:
        """True if the interval lies above 1."""
        return self.enough and self.low > 1

    @property
    def winner(self) -> str:
        """Winner of MLP's error over KAN's, in words."""
        if np.isnan(self.ratio) or not self.enough:
            return "undecided" + ", an error is NaN" * bool(np.isnan(self.ratio))
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """Interval in words."""
        ends = f"{self.low:.3g} .. {self.high:.3g}"
        level = f"{100 * LEVEL:g}%"
        if self.enough:
            return f"{level} interval {ends} over {self.seeds} seeds"
        return (
            f"{ends}, the range of {self.seeds} seed{'s' * (self.seeds > 1)}, too few for {level}"
        )

    def claim(self, sentence: str, bound: str, spread: str) -> Claim:
        """Return the claim that the interval lies above 1."""
        return Claim(sentence, self.ratio, bound, self.above, spread)


def judge(logs: Array) -> Verdict:
    """Return the verdict on log10 of ratios of errors, shape (seeds, pairs).

    Whole seeds are drawn with replacement, since the pairs of one seed share their data. The
    bootstrap over n seeds underestimates the spread by sqrt((n - 1) / n) and ignores its own
    uncertainty; wider quantiles, Phi(-sqrt(n / (n - 1)) t) with t Student's, correct for both
    (expanded percentiles; Hesterberg, The American Statistician 69, 2015, section 5.3). A few seeds
    have no resamples that far out.
    """
    # Importing it takes half a second, which workers that only train would each pay.
    from scipy import stats

    each = logs.mean(1)
    seeds = len(each)
    ratio = float(10 ** each.mean())
    low = each.min()
    high = each.max()
    others = max(1, seeds - 1)
    student = stats.t.ppf((1 + LEVEL) / 2, others)
    tail = float(stats.norm.cdf(-student * (seeds / others) ** 0.5))
    enough = ROOM * float(seeds) ** -seeds <= tail
    if enough and np.isfinite(each).all():
        options: Any = {"n_resamples": RESAMPLES, "batch": BATCH, "method": "percentile"}
        options |= {"confidence_level": 1 - 2 * tail, "rng": np.random.default_rng(0)}
        low, high = stats.bootstrap((each,), np.mean, **options).confidence_interval
    return Verdict(ratio, float(10**low), float(10**high), seeds, enough)


def log_ratios(errors: pd.Series, others: pd.Series) -> Array:
    """Return log10(errors / others) by seed and pair, which index both; shape (seeds, pairs).

    Seeds that lack a pair are left out; NaN stays.
    """
    both = errors.index.intersection(others.index)
    smallest = np.finfo(float).tiny
    ratios: pd.Series = (errors[both] + smallest) / (others[both] + smallest)
    logs = ratios.map(np.log10)
    pairs = logs.groupby(level=0).transform("size")
    whole = logs[pairs == logs.index.get_level_values(1).nunique()]
    return np.asarray(whole.unstack(), dtype=np.float64)
