"""What the lecture and the paper say about grid extension, against the recorded stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kanrun.runs import Claim
from kanrun.study.powers import exponent, spread

EXACT = 1e-12
ORDER = 0.3
#: The test error turns up if it ends at this many times the lowest before the threshold; it does not up to STAYS.
TURNS, STAYS = 2.0, 1.1
#: A training from scratch has arrived within this factor of the error that extending grids ended at.
ARRIVED = 1.1


def exact_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Knot insertion keeps the function; overfitted networks, whose edges cancel, are judged apart."""
    inserted = stages[stages["carried_by"] == "insertion"]
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    for rows, which in ((inserted[~overfitted], ""), (inserted[overfitted], " (networks overfitted on purpose)")):
        if len(rows):
            worst = float(rows["function_change"].max())
            sentence = f"A nested refinement changes the function by at most rounding, relative to its size{which}"
            yield Claim(sentence, worst, f"<= {EXACT:g}", worst <= EXACT, f"largest of {len(rows)} extensions")


def order_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """The error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    networks: Any = ranged.groupby(["shape", "degree"], sort=True)
    for (shape, degree), rows in networks:
        slopes = order_of_each_seed(rows)
        wanted, measured = -(int(degree) + 1), float(slopes.median())
        reach = f"G = {rows['intervals'].min()} .. {rows['intervals'].max()}"
        sentence = f"k = {degree}: test RMSE of [{shape.replace('-', ',')}] falls as G^-(k + 1) over {reach}"
        holds = abs(measured - wanted) <= ORDER
        yield Claim(sentence, measured, f"{wanted} +- {ORDER}", holds, spread(slopes))


def order_of_each_seed(rows: pd.DataFrame) -> pd.Series:
    return pd.Series([exponent(each["intervals"], each["test_rmse"]) for _, each in rows.groupby("seed")])


def overfit_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """Past the interpolation threshold: with and without the smoothness penalty."""
    rows = stages[stages["part"] == "overfit"]
    for start, penalised, text in (
        ("scratch", False, "Without the smoothness penalty, grids past the threshold trained from scratch overfit"),
        ("warm", False, "Without the smoothness penalty, the test error turns up past the threshold after warm starts"),
        ("warm", True, "With the smoothness penalty, the test error does not turn up past the threshold"),
    ):
        some = rows[rows["penalised"] == penalised]
        if start == "scratch":  # a single grid: compared with the warm start's coarse ones
            coarse = some[some["start"] == "warm"]
            some = pd.concat([coarse[coarse["parameters"] < coarse["train_points"]], some[some["start"] == start]])
        else:
            some = some[some["start"] == start]
        ratios = turn(some)
        if len(ratios):
            measured = float(ratios.median())
            holds = measured <= STAYS if penalised else measured >= TURNS
            bound = f"final over lowest before {'<= ' + str(STAYS) if penalised else '>= ' + str(TURNS)}"
            yield Claim(text, measured, bound, holds, spread(ratios))


def turn(rows: pd.DataFrame) -> pd.Series:
    """Of each seed the test RMSE at the finest grid over the lowest on grids below the threshold."""
    ratios = []
    for _, each in rows.groupby("seed"):
        below = each[each["intervals"] < each["threshold"]]
        past = each[each["intervals"] >= each["threshold"]]
        if len(below) and len(past):
            finest = past.sort_values("intervals").iloc[-1]
            ratios.append(finest["test_rmse"] / below["test_rmse"].min())
    return pd.Series(ratios, dtype=float)


def warm_start_claims(stages: pd.DataFrame) -> Iterator[Claim]:
    """The fine grid's error, by extension and from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    for shape, rows in scratch.groupby("shape", sort=False):
        finest = int(rows["intervals"].max())
        extended = stages[(stages["part"] == "schedules") & stages["compared"] & (stages["shape"] == shape)]
        ratios = pd.Series(list(_seconds_ratios(extended, rows[rows["intervals"] == finest])), dtype=float)
        if len(ratios):
            network = f"[{str(shape).replace('-', ',')}]"
            sentence = f"{network}: extending grids reaches the error at G = {finest} in fewer seconds"
            measured = float(ratios.median())
            lost = f"never reached from scratch by {np.isinf(ratios).sum()} of {len(ratios)} seeds"
            shown = measured if np.isfinite(measured) else lost
            bound = "seconds from scratch over seconds extended > 1"
            yield Claim(sentence, shown, bound, measured > 1, spread(ratios))


def _seconds_ratios(extended: pd.DataFrame, direct: pd.DataFrame) -> Iterator[float]:
    """Of each seed the seconds from scratch over those by extension, until the error that extension ends at.

    Infinite where the training from scratch ends above it.
    """
    for seed, rows in direct.groupby("seed"):
        other = extended[extended["seed"] == seed]
        if len(other):
            last = other.sort_values("intervals").iloc[-1]
            arrived = rows["test_rmse"].iloc[0] <= ARRIVED * last["test_rmse"]
            yield rows["seconds"].iloc[0] / last["seconds"] if arrived else float("inf")
