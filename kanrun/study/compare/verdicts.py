"""Who is more accurate, with a bootstrap interval: a draw is called a draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kanrun.engine.networks.matching import TOLERANCE
from kanrun.runs import Claim

RESAMPLES, LEVEL = 4000, 0.95


@dataclass(frozen=True)
class Verdict:
    """`ratio` is the MLP's error over the KAN's (geometric mean); `low` .. `high` its interval."""

    ratio: float
    low: float
    high: float
    seeds: int

    @property
    def winner(self) -> str:
        if np.isnan(self.ratio):
            return "undecided, an error is no number"
        if self.low > 1:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"


def judge(logs: NDArray[np.float64]) -> Verdict:
    """The verdict on log10(MLP's error / KAN's) of each (seed, pair).

    Whole seeds are drawn with replacement, since the pairs of one seed share their data. One seed tells nothing of
    others: its interval has no ends.
    """
    seeds = logs.shape[0]
    if seeds < 2:
        return Verdict(float(10 ** logs.mean()), 0.0, float("inf"), seeds)
    draws = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    means = logs.mean(1)[draws].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Verdict(float(10 ** logs.mean()), float(10**low), float(10**high), seeds)


def matched_logs(rows: pd.DataFrame, error: str) -> NDArray[np.float64]:
    """log10(MLP / KAN) of each (seed, KAN), from all rows of one target.

    Of the MLPs matched to a KAN, each seed's lowest validation error says which one stands for them: test errors choose
    nothing. Seeds for which a training is missing are left out (`complete`).
    """
    kans = rows[rows["model"] == "kan"].set_index(["seed", "kan"])[error]
    mlps = rows[(rows["model"] == "mlp") & rows["kan"].notna()].sort_values("validation_rmse")
    best = mlps.groupby(["seed", "kan"]).head(1).set_index(["seed", "kan"])[error]
    smallest = np.finfo(float).tiny
    both = best.index.intersection(kans.index)
    ratios: pd.Series = (best[both] + smallest) / (kans[both] + smallest)
    return complete(ratios.map(np.log10))


def complete(values: pd.Series) -> NDArray[np.float64]:
    """Values by (seed, pair) as (seeds, pairs), without the seeds that lack a pair; what is no number stays one."""
    wide = values.unstack()
    there = pd.Series(True, index=values.index).unstack(fill_value=False)
    return np.asarray(wide[there.all(axis=1)], dtype=np.float64)


def verdict_claims(summary: pd.DataFrame, match: str) -> Iterator[Claim]:
    """One claim a target: at equal size the KAN's test error is lower than the matched MLPs'."""
    targets: Any = summary.groupby("target", sort=False)
    for target, rows in targets:
        logs = matched_logs(rows, error_of(rows))
        if logs.size:
            verdict = judge(logs)
            interval = f"95 % interval {verdict.low:.3g} .. {verdict.high:.3g}"
            spread = f"{interval} over {verdict.seeds} seeds: {verdict.winner}{_unequal(rows, match)}"
            sentence = f"{target}: at equal {match} the KAN's test error is below the MLP's"
            yield Claim(sentence, verdict.ratio, "MLP's over KAN's, interval above 1", verdict.low > 1, spread)


def _unequal(rows: pd.DataFrame, match: str) -> str:
    """How far the matched MLPs are from equal, where that is farther than a match may be."""
    off = rows["off"].dropna() if "off" in rows else pd.Series(dtype=float)
    if off.empty or off.abs().max() <= TOLERANCE.get(match, 0.0):
        return ""
    return f"; the MLPs are off by {off.min():+.0%} to {off.max():+.0%}"


def error_of(rows: pd.DataFrame) -> str:
    """What is compared: cross-entropy for classification, else the RMSE."""
    named = "test_cross_entropy"
    return named if named in rows and rows[named].notna().all() else "test_rmse"
