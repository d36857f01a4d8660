"""What the lecture and the paper say about grid extension, against the recorded stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kanrun.runs import Claim
from kanrun.study.statistics import (
    claim_near,
    exponents,
    maximum,
    median,
    minimum,
    value_range,
)

#: Required: what exact refinement may change, four digits above float64's rounding, and how near a fitted order has to
#: be to the theory's -(k + 1) (de Boor, A Practical Guide to Splines, chapter XII).
EXACT, ORDER = 1e-12, 0.3
#: The test error turns up if it ends at this many times the lowest before the threshold; it does not up to STAYS.
#: Between them lies what seeds differ by: neither is said of that.
TURNS, STAYS = 2.0, 1.1
#: A training from scratch has arrived within this factor of the error that extending grids has there: what is called
#: more elsewhere is counted as reached here, in its favour.
ARRIVED = TURNS


def claims_of(stages: pd.DataFrame) -> Iterator[Claim]:
    """The claims of every part that is there."""
    yield from exact_claims(stages)
    yield from order_claims(stages)
    yield from overfit_claims(stages)
    yield from warm_start_claims(stages)


def exact_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Knot insertion keeps the function; overfitted networks, whose edges cancel, are judged apart."""
    inserted = stages[stages["carried_by"] == "insertion"]
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    for rows, which in (
        (inserted[~overfitted], ""),
        (inserted[overfitted], " (networks overfitted on purpose)"),
    ):
        if len(rows):
            worst = maximum(rows["function_change"])
            sentence = f"A nested refinement changes the function by at most rounding, relative to its size{which}"
            yield Claim(
                sentence,
                worst,
                f"at most {EXACT:g}",
                worst <= EXACT,
                f"largest of {len(rows)} extensions",
            )


def order_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """The error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    networks: Any = ranged.groupby(["shape", "degree"], sort=True)
    for (shape, degree), rows in networks:
        slopes = order_of_each_seed(rows)
        if slopes.empty:  # a single grid has no order
            continue
        reach = f"G = {rows['intervals'].min()} .. {rows['intervals'].max()}"
        sentence = f"k = {degree}: test RMSE of [{shape.replace('-', ',')}] falls as G^-(k + 1) over {reach}"
        yield claim_near(sentence, slopes, -(int(degree) + 1), ORDER)


def order_of_each_seed(rows: pd.DataFrame) -> pd.Series:
    several = rows.groupby("seed")["intervals"].transform("nunique") > 1
    return exponents(rows[several], ["seed"], "intervals", "test_rmse")["exponent"].astype(float)


def overfit_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Past the interpolation threshold: with and without the smoothness penalty, on exact and on noisy points.

    Without a penalty the last grid is trained until the points are reproduced; the claims say how closely. A warm start
    has little left to learn there, and takes the shortest step to it, which may disturb little between the points.
    """
    rows = stages[stages["part"] == "overfit"]
    levels: Any = rows.groupby("noise")
    for noise, some in levels:
        points = f"{100 * noise:.3g} % of noise" if noise else "exact points"
        for penalised in (False, True):
            one = some[some["penalised"] == penalised]
            warm, alone = one[one["start"] == "warm"], one[one["start"] == "scratch"]
            if len(alone):  # a single grid: compared with the warm start's coarse ones
                below = warm[warm["intervals"] < warm["threshold"]]
                where = f"{points}, that grid trained from scratch, well or badly"
                yield from _turn_claim(pd.concat([below, alone]), where, penalised)
            yield from _turn_claim(warm, f"{points}, after warm starts", penalised)


def _turn_claim(rows: pd.DataFrame, where: str, penalised: bool) -> Iterator[Claim]:
    ratios = turn(rows)
    if len(ratios):
        measured = median(ratios)
        text = (
            "With the smoothness penalty, the test error does not turn up"
            if penalised
            else ("Without the smoothness penalty, the test error turns up")
        )
        bound = (
            f"final over lowest before {'<= ' + str(STAYS) if penalised else '>= ' + str(TURNS)}"
        )
        holds = measured <= STAYS if penalised else measured >= TURNS
        left = rows[rows["intervals"] == rows["intervals"].max()]["train_rmse"].median()
        words = ", ".join(filter(None, [value_range(ratios), f"training RMSE there {left:.2g}"]))
        yield Claim(f"{text} past the threshold ({where})", measured, bound, holds, words)


def turn(rows: pd.DataFrame) -> pd.Series:
    """Of each seed the test RMSE at the finest grid over the lowest on grids below the threshold."""
    below = rows["intervals"] < rows["threshold"]
    lowest = rows[below].groupby("seed")["test_rmse"].agg(minimum)
    finest = (
        rows[~below].sort_values("intervals").groupby("seed").tail(1).set_index("seed")["test_rmse"]
    )
    return (finest / lowest)[lowest.index.intersection(finest.index)].astype(float)


def warm_start_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """The fine grid's error, by extension and from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    for shape, rows in scratch.groupby("shape", sort=False):
        extended = stages[
            (stages["part"] == "schedules") & stages["compared"] & (stages["shape"] == shape)
        ]
        both = set(rows["intervals"]) & set(extended["intervals"])
        finest = max(both, default=0)
        ratios = _seconds_ratios(*(each[each["intervals"] == finest] for each in (extended, rows)))
        if len(ratios):
            network = f"[{str(shape).replace('-', ',')}]"
            sentence = (
                f"{network}: extending grids reaches the error at G = {finest} in fewer seconds"
            )
            measured = median(ratios)
            lost = f"never reached from scratch by {np.isinf(ratios).sum()} of {len(ratios)} seeds"
            shown = lost if np.isinf(measured) else measured
            bound = "seconds from scratch over seconds extended > 1"
            yield Claim(sentence, shown, bound, measured > 1, value_range(ratios))


def _seconds_ratios(extended: pd.DataFrame, direct: pd.DataFrame) -> pd.Series:
    """Of each seed the seconds from scratch over those by extension, until the error that extension has on that grid.

    Infinite where the training from scratch ends above it, NaN where one of the errors is NaN.
    """
    both = direct.merge(extended, on="seed", suffixes=("", "_extended")).drop_duplicates("seed")
    excess = both["test_rmse"] - ARRIVED * both["test_rmse_extended"]
    ratios = (both["seconds"] / both["seconds_extended"]).mask(excess > 0, np.inf)
    return ratios.mask(excess.isna())
