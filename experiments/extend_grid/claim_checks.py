"""Claims of `kanrun extend-grid`: statements of lecture and paper, checked on its stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kanrun.runs import Claim
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    median,
    minimum,
    value_range,
)

#: Required: what exact refinement may change, four digits above float64's rounding, and how near a
#: fitted order has to be to the theory's -(k + 1) (de Boor, A Practical Guide to Splines, ch. XII).
EXACT, ORDER = 1e-12, 0.3
#: The test error turns up if it ends at OVERFITS times the lowest before the threshold, and does
#: not up to STAYS. Between them lies what seeds differ by.
OVERFITS, STAYS = 2.0, 1.1
#: A training from scratch has arrived within this factor of the error of extended grids.
ARRIVED = OVERFITS


def claims_of(stages: pd.DataFrame) -> Iterator[Claim]:
    """Yield the claims of every part that is there."""
    yield from exact_claims(stages)
    yield from order_claims(stages)
    yield from overfit_claims(stages)
    yield from warm_start_claims(stages)


def exact_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Claim that knot insertion keeps the function; overfitted networks are judged apart."""
    inserted = stages[stages["carried_by"] == "insertion"]
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    # The edges of overfitted networks cancel, which amplifies rounding.
    for rows, which in (
        (inserted[~overfitted], ""),
        (inserted[overfitted], " (networks overfitted on purpose)"),
    ):
        if len(rows):
            sentence = (
                "A nested refinement changes the function by at most rounding, relative to its size"
            )
            change = rows["function_change"]
            yield claim_at_most(sentence + which, change, EXACT, of="extensions")


def order_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Claim that the error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    networks: Any = ranged.groupby(["shape", "degree"], sort=True)
    for (shape, degree), rows in networks:
        several = rows.groupby("seed")["intervals"].transform("nunique") > 1
        slopes = exponents(rows[several], ["seed"], "intervals", "test_rmse")["exponent"]
        if len(slopes):
            reach = f"G = {rows['intervals'].min()} to {rows['intervals'].max()}"
            network = f"k = {degree}: test RMSE of {_network(shape)}"
            sentence = f"{network} falls as G^-(k + 1) over {reach}"
            yield claim_near(sentence, slopes, -(int(degree) + 1), ORDER)


def _network(shape: Any) -> str:
    return f"[{str(shape).replace('-', ',')}]"


def overfit_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Claim what the penalty prevents past the interpolation threshold, on exact and noisy points.

    Without a penalty the last grid is trained until the points are reproduced. A warm start has
    little left to learn there, and takes the shortest step to it, which may disturb little between
    the points.
    """
    rows = stages[stages["part"] == "overfit"]
    groups: Any = rows.groupby(["noise", "penalised"])
    for (noise, penalised), one in groups:
        points = f"{100 * noise:.3g}% noise" if noise else "exact points"
        warm, alone = one[one["start"] == "warm"], one[one["start"] == "scratch"]
        if len(alone):
            # A single grid is compared with the coarse grids of the warm start.
            both = pd.concat([warm[warm["intervals"] < warm["threshold"]], alone])
            yield from _overfit_claim(both, f"{points}, that grid from scratch", penalised)
        yield from _overfit_claim(warm, f"{points}, after warm starts", penalised)


def _overfit_claim(rows: pd.DataFrame, where: str, penalised: bool) -> Iterator[Claim]:
    ratios = overfit_ratio(rows)
    if len(ratios):
        left = rows[rows["intervals"] == rows["intervals"].max()]["train_rmse"].median()
        words = [value_range(ratios), f"training RMSE there {left:.2g}"]
        spread = ", ".join(filter(None, words))
        with_or, verb = ("With", "does not turn up") if penalised else ("Without", "turns up")
        sentence = (
            f"{with_or} the smoothness penalty, the test error {verb} past the threshold "
            f"({where}): final error over lowest before"
        )
        if penalised:
            yield claim_at_most(sentence, median(ratios), STAYS, spread)
        else:
            yield claim_at_least(sentence, median(ratios), OVERFITS, spread)


def overfit_ratio(rows: pd.DataFrame) -> pd.Series:
    """Return, by seed, test RMSE on the finest grid over the lowest below the threshold."""
    below = rows["intervals"] < rows["threshold"]
    lowest = rows[below].groupby("seed")["test_rmse"].agg(minimum)
    ends = rows[~below].sort_values("intervals").drop_duplicates("seed", keep="last")
    finest = ends.set_index("seed")["test_rmse"]
    return (finest / lowest)[lowest.index.intersection(finest.index)].astype(float)


def warm_start_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Claim that extending grids reaches the finest error sooner than training from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    for shape, rows in scratch.groupby("shape", sort=False):
        own = (stages["part"] == "schedules") & stages["compared"] & (stages["shape"] == shape)
        both = rows.merge(stages[own], on=["seed", "intervals"], suffixes=("", "_extended"))
        both = both[both["intervals"] == both["intervals"].max()].drop_duplicates("seed")
        if both.empty:
            continue
        # Infinite if training from scratch ends above the error of extended grids, NaN if one is
        # NaN.
        excess = both["test_rmse"] - ARRIVED * both["test_rmse_extended"]
        ratios = (both["seconds"] / both["seconds_extended"]).mask(excess > 0, np.inf)
        ratios = ratios.mask(excess.isna())
        measured, lost = median(ratios), int(np.isinf(ratios).sum())
        fine = f"the error at G = {both['intervals'].iloc[0]}"
        sentence = f"{_network(shape)}: extending grids reaches {fine} in fewer seconds"
        shown = f"never reached from scratch by {lost} of {len(ratios)} seeds"
        bound, holds = "seconds from scratch over seconds extended above 1", measured > 1
        shown_or = shown if np.isinf(measured) else measured
        yield Claim(sentence, shown_or, bound, holds, value_range(ratios))
