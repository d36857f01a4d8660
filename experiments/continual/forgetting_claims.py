"""Claims on continual learning: what KANs keep, what other networks forget, what memories save."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kanrun.study import Claims
from kanrun.study.recipe import claims_by
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    maximum,
    median,
    value_range,
)

#: Largest forgetting of a KAN of one edge, in units of the peaks' height: a quarter of its error.
MAX_KAN_FORGETTING = 1e-6
#: Smallest value that counts as forgetting, in units of the peaks' height, for KANs and MLPs.
MIN_FORGETTING = {"kan": 1e-2, "mlp": 1e-1}
#: Largest accepted ratio of the error to that of the best spline; 4.1e-6 and 4.01e-6 were measured.
NEAR_BEST = 1.02
#: Errors count up to the peaks' height: there is no more to forget.
HEIGHT = 1.0
#: What a memory is compared by with the same trainings without it.
MEASURES = {
    "worst_forgetting": "forgetting",
    "rmse": "RMSE on everything",
    "learned": "mean error of a phase when it is new",
}
#: Largest ratios of MEASURES. Over five seeds and two processors replay measures at most 0.056 and
#: 0.075, rehearsal with LBFGS 0.0013, 0.0015 and 1.9, information 0.20, 0.31 and 2.8 in
#: `study=memory`. What replay costs a new phase varies from trial to trial (1 to 25 times).
BOUNDS: dict[Any, tuple[float, ...]] = {
    "replay": (0.1, 0.1),
    "rehearse": (0.1, 0.1, 3.0),
    "information": (0.4, 0.5, 5.0),
}
#: Memories that keep what MLPs learned.
KEEPS_MLP = ("replay", "rehearse")
#: Smallest RMSE on everything of MLPs with other memories: half of the lowest one measured (0.12).
MIN_UNKEPT_ERROR = 0.05
#: Largest accepted forgetting of phases that overlap, in units of the best spline's error: in the
#: overlap they differ by the spline's own error. Measured are 6.1, 3.8 and 3.5 with G = 200, 400
#: and 800.
OVERLAPPING = 10.0
#: Largest accepted difference between a fitted order of convergence and its theoretical value, -(k
#: + 1) (de Boor, A Practical Guide to Splines, ch. XII).
ORDER = 0.3
RUNS = "trainings"  # several of them may share a seed


def claims_of(summary: pd.DataFrame) -> Claims:
    """Yield the claims of every part that is there.

    A single phase cannot be forgotten. If the phases leave out some of a grid, no error on
    everything can be expected, and there is no best spline.
    """
    several = bool((summary["phases"] > 1).any())
    for part, rows in summary.groupby("part", sort=False):
        if part == "overlap":
            yield from _overlap(rows) if several else ()
            continue
        yield from _order(rows) if part == "intervals" else _near_best(rows)
        for name, some in rows.groupby("learner", sort=False) if several else ():
            yield from (*_forgetting(str(name), some), *_kept(str(name), some, rows))


def _near_best(rows: pd.DataFrame) -> Claims:
    known = rows[rows.groupby("learner")["best_spline_rmse"].transform("count") > 0]
    best = known.groupby("learner")["best_spline_rmse"].transform(maximum)
    known = known.assign(best=best.map("{:.3g}".format), bound=NEAR_BEST * best)
    sentence = "{learner}: RMSE on everything after the last phase (best spline {best})"
    yield from claims_by(known, sentence, "rmse", "bound")


def _order(rows: pd.DataFrame) -> Claims:
    known = rows.groupby("intervals").filter(lambda one: one["best_spline_rmse"].notna().any())
    if known["intervals"].nunique() > 1:
        theory = -(known["degree"].iloc[0] + 1)
        reach, slopes = _slopes(known, "rmse")
        sentence = f"the KAN's error on everything falls as G^{theory:g}, {reach} (exponent)"
        yield claim_near(sentence, slopes, theory, ORDER)


def _slopes(rows: pd.DataFrame, column: str) -> tuple[str, pd.Series]:
    """Return the range of grids in words, and the exponent of a column for each seed."""
    fits = exponents(rows, ["seed"], column)
    return f"G = {fits['low'].min():g} to {fits['high'].max():g}", fits["exponent"]


def _forgetting(name: str, some: pd.DataFrame, where: str = "") -> Claims:
    """Claim that a local KAN remembers, or that another learner without memory forgets."""
    worst = some["worst_forgetting"]
    role, memory = some[["role", "memory"]].iloc[0]
    where = f"{where} (worst phase)"
    if role == "local kan":
        sentence = f"{name}: no phase is forgotten{where}"
        yield claim_at_most(sentence, worst, MAX_KAN_FORGETTING, of=RUNS)
    elif memory == "none":
        yield claim_at_least(f"{name}: forgets{where}", worst, MIN_FORGETTING[role], of=RUNS)


def _kept(name: str, some: pd.DataFrame, rows: pd.DataFrame) -> Claims:
    """Claim that a memory keeps what networks forget without it, and lets them learn.

    Only networks without memory that have forgotten something count, and errors beyond the peaks'
    height as that; NaN is left for the claims to see.
    """
    role, memory, network = some[["role", "memory", "network"]].iloc[0]
    bare = rows[(rows["memory"] == "none") & (rows["network"] == network)]
    bare = bare[~(bare["worst_forgetting"] < MIN_FORGETTING["kan"])].set_index("seed")
    if memory == "none" or not len(bare):
        return
    if role == "mlp" and memory not in KEEPS_MLP:
        # If the weights are tied firmly, the network cannot learn; if loosely, it forgets.
        sentence = f"{name}: does not both keep and learn the phases (RMSE on everything)"
        yield claim_at_least(sentence, some["rmse"], MIN_UNKEPT_ERROR, of=RUNS)
        return
    shares = some.set_index("seed")[list(MEASURES)] / bare[list(MEASURES)].clip(upper=HEIGHT)
    for (column, what), bound in zip(MEASURES.items(), BOUNDS[memory], strict=False):
        sentence = f"{name}: {what} over that without memory"
        yield claim_at_most(sentence, shares.loc[bare.index, column], bound, of=RUNS)


def _overlap(rows: pd.DataFrame) -> Claims:
    """Judge phases that touch or lie apart, and those that overlap and share coefficients."""
    for name, learner in rows.groupby("learner", sort=False):
        for apart, some in learner.groupby(learner["overlap"] <= 0, sort=False):
            reach = "do not overlap" if apart else f"overlap by up to {some['overlap'].max():g}"
            shares = some["worst_forgetting"] / some["best_spline_rmse"].astype(float)
            if apart or shares.isna().any():
                yield from _forgetting(str(name), some, f" with phases that {reach}")
                continue
            sentence = f"{name}: forgetting over the best spline's error with phases that {reach}"
            yield claim_at_most(sentence, shares, OVERLAPPING, of=RUNS)
    plain = rows[(rows["role"] == "local kan") & (rows["memory"] == "none")]
    most = plain[(plain["overlap"] > 0) & (plain["overlap"] == plain["overlap"].max())]
    if most["intervals"].nunique() > 1:
        # A phase that ends inside another one's peak determines its last basis functions only in
        # part. They are wrong by the spline's own error there, so the forgetting decreases with the
        # grid as that error does.
        reach, slopes = _slopes(most, "worst_forgetting")
        sentence = (
            f"what overlapping phases forget falls at least as the spline's error, {reach} "
            "(exponent)"
        )
        bound = ORDER - (int(most["degree"].iloc[0]) + 1)
        yield claim_at_most(sentence, median(slopes), bound, value_range(slopes))
