"""Who is more accurate, with a bootstrap interval: a draw is called a draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kanrun.engine.networks.counting import TOLERANCE
from kanrun.runs import Claim

#: What an interval covers. RESAMPLES leave some 500 beyond each end of the widest that is drawn, that of 6 seeds.
LEVEL, RESAMPLES = 0.95, 200_000
#: Beyond an end there must be room for so many of the rarest resamples, one seed n times: else the end is that seed.
#: Of normal samples, intervals of 6 seeds then cover 94 %; those of 5, which are refused, would cover 91 %.
ROOM = 10


@dataclass(frozen=True)
class Verdict:
    """`ratio` is the MLP's error over the KAN's (geometric mean); `low` .. `high` its interval, if there are `enough`
    seeds for one, else what the seeds lie between.
    """

    ratio: float
    low: float
    high: float
    seeds: int
    enough: bool

    @property
    def above(self) -> bool:
        """Whether the ratio is above 1 for certain."""
        return self.enough and self.low > 1

    @property
    def winner(self) -> str:
        if np.isnan(self.ratio):
            return "undecided, an error is NaN"
        if not self.enough:
            return "undecided"
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """The interval in words."""
        ends, level = f"{self.low:.3g} .. {self.high:.3g}", f"{100 * LEVEL:g} %"
        if self.enough:
            return f"{level} interval {ends} over {self.seeds} seeds"
        return (
            f"{ends}, the range of {self.seeds} seed{'s' * (self.seeds > 1)}, too few for {level}"
        )


def judge(logs: NDArray[np.float64]) -> Verdict:
    """The verdict on log10(MLP's error / KAN's) of each (seed, pair), by the expanded percentile bootstrap.

    Whole seeds are drawn with replacement, since the pairs of one seed share their data. Resampling n seeds sees a
    spread too small by sqrt((n - 1) / n) and takes it for known; quantiles farther out make up for both (Hesterberg,
    The American Statistician 69, 2015, section 5.3). A few seeds have no resamples that far out.
    """
    each = logs.mean(1)
    seeds, ratio = len(each), float(10 ** each.mean())
    tail = expanded_tail(seeds)
    enough = ROOM * float(seeds) ** -seeds <= tail
    if not enough or not np.isfinite(each).all():
        return Verdict(ratio, float(10 ** each.min()), float(10 ** each.max()), seeds, enough)
    from scipy import stats  # takes half a second, which workers that only train would each pay

    found = stats.bootstrap(
        (each,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=10_000,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return Verdict(ratio, float(10**low), float(10**high), seeds, True)


def expanded_tail(seeds: int) -> float:
    """Phi(-sqrt(n / (n - 1)) t), t the quantile of Student's distribution for LEVEL: the share beyond either end."""
    if seeds < 2:
        return 0.0
    from scipy import stats

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1))
    return float(stats.norm.cdf(-quantile * (seeds / (seeds - 1)) ** 0.5))


def matched_logs(rows: pd.DataFrame) -> NDArray[np.float64]:
    """log10(MLP's error / KAN's) of each (seed, KAN), from all rows of one target.

    Of the MLPs matched to a KAN, each seed's lowest validation error says which one stands for them (its training error
    where nothing is held out): test errors choose nothing. Seeds for which a training is missing are left out
    (`complete`).
    """
    held_out = rows["validation_rmse"].notna().any()
    kans = rows[rows["model"] == "kan"].set_index(["seed", "kan"])["error"]
    mlps = rows[(rows["model"] == "mlp") & rows["kan"].notna()]
    mlps = mlps.sort_values("validation_rmse" if held_out else "train_rmse")
    best = mlps.groupby(["seed", "kan"]).head(1).set_index(["seed", "kan"])["error"]
    smallest = np.finfo(float).tiny
    both = best.index.intersection(kans.index)
    ratios: pd.Series = (best[both] + smallest) / (kans[both] + smallest)
    return complete(ratios.map(np.log10))


def complete(values: pd.Series) -> NDArray[np.float64]:
    """Values by (seed, pair) as (seeds, pairs), without the seeds that lack a pair; NaN stays."""
    wide = values.unstack()
    there = pd.Series(True, index=values.index).unstack(fill_value=False)
    return np.asarray(wide[there.all(axis=1)], dtype=np.float64)


def verdict_claims(summary: pd.DataFrame, match: str) -> Iterator[Claim]:
    """One claim a target: at equal size the KAN's test error is lower than the matched MLPs'."""
    targets: Any = summary.groupby("target", sort=False)
    for target, rows in targets:
        logs = matched_logs(rows)
        if logs.size:
            verdict = judge(logs)
            spread = f"{verdict.interval}: {verdict.winner}{_unequal(rows, match)}"
            sentence = f"{target}: at equal {match} the KAN's test error is below the MLP's"
            yield Claim(
                sentence, verdict.ratio, "MLP's over KAN's, interval above 1", verdict.above, spread
            )


def _unequal(rows: pd.DataFrame, match: str) -> str:
    """How far the matched MLPs are from equal, where that is farther than a match may be.

    From the KANs as they came out: validation may have chosen a coarser grid than the MLPs were made for.
    """
    off = rows["off"].dropna() if "off" in rows else pd.Series(dtype=float)
    if match in rows:
        kans = rows[rows["model"] == "kan"].set_index(["seed", "kan"])[match]
        mlps = rows[(rows["model"] == "mlp") & rows["kan"].notna()].set_index(["seed", "kan"])[
            match
        ]
        off = (mlps / kans.reindex(mlps.index) - 1).dropna()
    if off.empty or off.abs().max() <= TOLERANCE.get(match, 0.0):
        return ""
    return f"; the MLPs are off by {off.min():+.0%} to {off.max():+.0%}"
