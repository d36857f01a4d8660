"""Claims about grid extension: exact knot insertion, order of convergence, overfitting, time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kanrun.runs.records import Claim
from kanrun.study import Claims
from kanrun.study.recipe import claims_by
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    median,
    minimum,
    value_range,
)

#: Largest accepted change of the function when knots are inserted, relative to the size of the
#: function. It is four digits above the rounding of float64.
EXACT = 1e-12
#: Largest accepted difference between the fitted exponent and its theoretical value, -(k + 1)
#: (de Boor, A Practical Guide to Splines, ch. XII).
ORDER = 0.3
#: The test error is said to turn up if its final value is at least this multiple of its lowest
#: value below the interpolation threshold.
OVERFITS = 2.0
#: The test error is said not to turn up if its final value is at most this multiple of its lowest
#: value below the interpolation threshold. Ratios between STAYS and OVERFITS are within the scatter
#: of seeds and support neither claim.
STAYS = 1.1


def exact_claims(stages: pd.DataFrame) -> Claims:
    """Claim that knot insertion does not change the function.

    There is a separate claim for networks that were overfitted on purpose.
    """
    inserted = stages[stages["carried_by"] == "insertion"]
    # The edges of overfitted networks cancel, which amplifies rounding.
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    which = overfitted.map({False: "", True: " (networks overfitted on purpose)"})
    sentence = "A nested refinement changes the function by at most rounding, relative to its size"
    rows = inserted.assign(which=which).sort_values("which", kind="stable")
    yield from claims_by(rows, sentence + "{which}", "function_change", EXACT, of="extensions")


def order_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    fits = exponents(ranged, ["shape", "degree", "seed"], "test_rmse")
    networks: Any = fits[fits["low"] < fits["high"]].groupby(["shape", "degree"])
    for (shape, degree), rows in networks:
        reach = f"G = {rows['low'].min()} to {rows['high'].max()}"
        network = f"k = {degree}: test RMSE of {_network(shape)}"
        sentence = f"{network} falls as G^-(k + 1) over {reach}"
        yield claim_near(sentence, rows["exponent"], -(int(degree) + 1), ORDER)


def _network(shape: Any) -> str:
    return f"[{str(shape).replace('-', ',')}]"


def overfit_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the test error rises past the interpolation threshold only without a penalty.

    There is one claim for each combination of exact or noisy points, with or without a penalty, and
    training the last grid from scratch or after warm starts. Without a penalty, the last grid is
    trained until it reproduces the points. After a warm start, the last grid has little left to
    learn, so the last steps are short and may hardly change the function between the points.
    """
    groups: Any = stages[stages["part"] == "overfit"].groupby(["noise", "penalised"])
    for (noise, penalised), networks in groups:
        points = f"{100 * noise:.3g}% noise" if noise else "exact points"
        warm = networks[networks["start"] == "warm"]
        alone = networks[networks["start"] == "scratch"]
        # Training runs from scratch use only the finest grid, so the errors on coarser grids are
        # taken from the warm starts.
        both = pd.concat([warm[warm["intervals"] < warm["threshold"]], alone])
        for rows, way in ((both, "that grid from scratch"), (warm, "after warm starts")):
            if not len(ratios := overfit_ratio(rows)):
                continue
            left = rows[rows["intervals"] == rows["intervals"].max()]["train_rmse"].median()
            remarks = [value_range(ratios), f"training RMSE there {left:.2g}"]
            with_or, verb, claim, bound = (
                ("With", "does not turn up", claim_at_most, STAYS)
                if penalised
                else ("Without", "turns up", claim_at_least, OVERFITS)
            )
            sentence = (
                f"{with_or} the smoothness penalty, the test error {verb} past the threshold "
                f"({points}, {way}): final error over lowest before"
            )
            yield claim(sentence, median(ratios), bound, ", ".join(filter(None, remarks)))


def overfit_ratio(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's test RMSE on the finest grid, divided by its lowest on coarser grids.

    Of the coarser grids, only those below the interpolation threshold are used.
    """
    below = rows["intervals"] < rows["threshold"]
    lowest = rows[below].groupby("seed")["test_rmse"].agg(minimum)
    ends = rows[~below].sort_values("intervals").drop_duplicates("seed", keep="last")
    finest = ends.set_index("seed")["test_rmse"]
    return (finest / lowest)[lowest.index.intersection(finest.index)].astype(float)


def warm_start_claims(stages: pd.DataFrame) -> Claims:
    """Claim that extending grids takes less time than training the finest grid from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    extended = stages[(stages["part"] == "schedules") & stages["compared"]]
    both = scratch.merge(extended, on=["shape", "seed", "intervals"], suffixes=("", "_extended"))
    for shape, grids in both.groupby("shape", sort=False):
        finest = grids["intervals"].max()
        rows = grids[grids["intervals"] == finest].drop_duplicates("seed")
        # The ratio is infinite if training from scratch ends with more than OVERFITS times the
        # error of extended grids, and NaN if one of the errors is NaN.
        excess = rows["test_rmse"] - OVERFITS * rows["test_rmse_extended"]
        ratios = rows["seconds"] / rows["seconds_extended"]
        ratios = ratios.mask(excess > 0, np.inf).mask(excess.isna())
        measured = median(ratios)
        lost = int(np.isinf(ratios).sum())
        sentence = (
            f"{_network(shape)}: extending grids reaches the error at G = {finest} in fewer seconds"
        )
        never = f"never reached from scratch by {lost} of {len(ratios)} seeds"
        shown = never if np.isinf(measured) else measured
        bound = "seconds from scratch over seconds extended above 1"
        yield Claim(sentence, shown, bound, measured > 1, value_range(ratios))


CLAIMS = (exact_claims, order_claims, overfit_claims, warm_start_claims)
