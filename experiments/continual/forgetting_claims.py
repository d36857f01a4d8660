"""Claims on continual learning: what KANs keep, what other networks forget, what memories save."""

from __future__ import annotations

from functools import partial
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
#: Smallest forgetting of an MLP that counts as forgetting, in units of the peaks' height.
MIN_MLP_FORGETTING = 1e-1
#: Smallest forgetting of a KAN that counts as forgetting, in units of the peaks' height.
VISIBLE_FORGETTING = 1e-2
#: Required is an error of 4.1e-6 with the best spline's being 4.01e-6: this many times it.
NEAR_BEST = 1.02
#: Errors count up to the peaks' height: there is no more to forget.
HEIGHT = 1.0
#: What a memory is compared by with the same trainings without it.
MEASURES = {
    "worst_forgetting": "forgetting",
    "rmse": "RMSE on everything",
    "learned": "mean error of a phase when it is new",
}
#: Largest ratios of MEASURES, those that are claimed. Over five seeds and two processors replay
#: measures at most 0.056, 0.075 and 6.9, rehearsal with LBFGS 0.0013, 0.0015 and 1.9, information
#: 0.20, 0.31 and 2.8 in `study=memory`.
BOUNDS: dict[str, Any] = {
    "replay": (0.1, 0.1, 10.0),
    "rehearse": (0.1, 0.1, 3.0),
    "information": (0.4, 0.5, 5.0),
}
#: The same for sequences of tasks, discontinuous and noisy ones among them, where rehearsal forgets
#: as much as nothing kept does (0.82), and measures 0.50 and 2.5 over five seeds.
SEQUENCE_BOUNDS = BOUNDS | {"rehearse": (None, 0.8, 4.0)}
#: Memories that keep what MLPs learned.
KEEPS_MLP = ("replay", "rehearse")
#: Smallest RMSE on everything of MLPs with other memories: half of the lowest one measured (0.12).
MIN_UNKEPT_ERROR = 0.05
#: Phases that overlap differ by the spline's own error there: they forget at most this many times
#: the best spline's error on everything. Measured are 6.1, 3.8 and 3.5 with G = 200, 400, 800.
OVERLAPPING = 10.0
#: Required of every fitted order: this near the theory's, G^-(k + 1) (de Boor, A Practical Guide to
#: Splines, ch. XII).
ORDER = 0.3
RUNS = "trainings"  # several of them may share a seed


def claims_of(summary: pd.DataFrame) -> Claims:
    """Yield the claims of every part that is there.

    A single phase cannot be forgotten. If the phases leave out some of a grid, no error on
    everything can be expected, and there is no best spline.
    """
    several = bool((summary["phases"] > 1).any())
    for part, rows in summary.groupby("part", sort=False):
        if part in ERRORS:
            yield from ERRORS[str(part)](rows)
        if several:
            yield from FORGETTING[str(part)](rows)


def _near_best(learned: pd.DataFrame) -> Claims:
    known = learned[learned.groupby("learner")["best_spline_rmse"].transform("count") > 0]
    best = known.groupby("learner")["best_spline_rmse"].transform(maximum)
    rows = known.assign(best=best.map("{:.3g}".format), bound=NEAR_BEST * best)
    sentence = "{learner}: RMSE on everything after the last phase (best spline {best})"
    yield from claims_by(rows, sentence, "rmse", "bound")


def _order(rows: pd.DataFrame) -> Claims:
    known = rows.groupby("intervals").filter(lambda one: one["best_spline_rmse"].notna().any())
    if known["intervals"].nunique() > 1:
        theory = -(known["degree"].iloc[0] + 1)
        (reach, slopes) = _slopes(known, "rmse")
        sentence = f"the KAN's error on everything falls as G^{theory:g}, {reach} (exponent)"
        yield claim_near(sentence, slopes, theory, ORDER)


def _slopes(rows: pd.DataFrame, column: str) -> tuple[str, pd.Series]:
    """Return the range of grids in words, and the exponent of a column for each seed."""
    fits = exponents(rows, ["seed"], column)
    return f"G = {fits['low'].min():g} to {fits['high'].max():g}", fits["exponent"]


def _is_plain(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are KANs of one edge that train nothing but coefficients."""
    return (rows["role"] == "kan") & rows["trained_extras"].isna()


def _judged(name: Any, rows: pd.DataFrame, where: str = "") -> Claims:
    """Claim that a learner remembers, or forgets if it keeps nothing."""
    worst = rows["worst_forgetting"]
    where = f"{where} (worst phase)"
    if _is_plain(rows).all():
        sentence = f"{name}: no phase is forgotten{where}"
        yield claim_at_most(sentence, worst, MAX_KAN_FORGETTING, of=RUNS)
    elif (rows["memory"] == "none").all():
        mlp = (rows["role"] == "mlp").all()
        verb = "of the same parameters, forgets" if mlp else "forgetting is back"
        bound = MIN_MLP_FORGETTING if mlp else VISIBLE_FORGETTING
        yield claim_at_least(f"{name}: {verb}{where}", worst, bound, of=RUNS)


def _learners(rows: pd.DataFrame) -> Claims:
    for name, some in rows[rows["memory"] == "none"].groupby("learner", sort=False):
        yield from _judged(name, some)
    for (learner, other), some in rows.groupby(["learner", "no_memory_learner"], sort=False):
        if some["memory"].iloc[0] not in KEEPS_MLP and (some["role"] == "mlp").all():
            # The importance of weights either lets it forget or keeps it from learning.
            sentence = f"{learner}: does not both keep and learn the phases (RMSE on everything)"
            yield claim_at_least(sentence, some["rmse"], MIN_UNKEPT_ERROR, of=RUNS)
            continue
        yield from _kept(learner, some, rows[rows["learner"] == other], ["seed"])


def _kept(name: Any, some: pd.DataFrame, without: pd.DataFrame, keys: list[str]) -> Claims:
    """Claim that a memory keeps what networks forget without it, and lets them learn."""
    # Only those without memory that have forgotten something count, and errors beyond the peaks'
    # height as that; NaN is left for the claims to see.
    measures = list(MEASURES)
    keys = [key for key in ("sequence", *keys) if key in some]
    bare = without[~(without["worst_forgetting"] < VISIBLE_FORGETTING)].set_index(keys)[measures]
    shares = (some.set_index(keys)[measures] / bare.clip(upper=HEIGHT)).loc[bare.index]
    bounds = (SEQUENCE_BOUNDS if "sequence" in some else BOUNDS)[some["memory"].iloc[0]]
    for (column, what), bound in zip(MEASURES.items(), bounds, strict=True):
        if bound and len(shares):
            sentence = f"{name}: {what} over that without memory"
            yield claim_at_most(sentence, shares[column], bound, of=RUNS)


def _overlap(rows: pd.DataFrame) -> Claims:
    """Judge phases that touch or lie apart, and those that overlap and share coefficients."""
    for name, learner in rows.groupby("learner", sort=False):
        for apart, some in learner.groupby(learner["overlap"] <= 0, sort=False):
            reach = "do not overlap" if apart else f"overlap by up to {some['overlap'].max():g}"
            shares = some["worst_forgetting"] / some["best_spline_rmse"].astype(float)
            if apart or shares.isna().any():
                yield from _judged(name, some, f" with phases that {reach}")
                continue
            sentence = f"{name}: forgetting over the best spline's error with phases that {reach}"
            yield claim_at_most(sentence, shares, OVERLAPPING, of=RUNS)
    plain = rows[_is_plain(rows) & (rows["memory"] == "none") & (rows["overlap"] > 0)]
    most = plain[plain["overlap"] == plain["overlap"].max()]
    if most["intervals"].nunique() > 1:
        # A phase that ends inside another one's peak sees its last basis functions in part, and
        # fits them to the spline's own error there: what is forgotten falls with the grid as that
        # error.
        reach, slopes = _slopes(most, "worst_forgetting")
        sentence = (
            f"what overlapping phases forget falls at least as the spline's error, {reach} "
            "(exponent)"
        )
        bound = ORDER - (int(most["degree"].iloc[0]) + 1)
        yield claim_at_most(sentence, median(slopes), bound, value_range(slopes))


def _depth(rows: pd.DataFrame) -> Claims:
    deep = rows[rows["layers"] > 1]
    bare = deep[deep["memory"] == "none"]
    if len(bare):
        worst = bare["worst_forgetting"]
        sentence = "KANs of more than one layer forget too"
        yield claim_at_least(sentence, worst, VISIBLE_FORGETTING, of=RUNS)
    for memory, some in deep[deep["memory"] != "none"].groupby("memory", sort=False):
        yield from _kept(f"memory={memory} in deeper KANs", some, bare, ["seed", "shape"])


#: Claims of each part on errors, and those on forgetting.
ERRORS = {"learners": _near_best, "intervals": _order}
FORGETTING: dict[str, Any] = {
    "learners": _learners,
    "intervals": partial(_judged, "KAN", where=" on any of these grids"),
    "overlap": _overlap,
    "depth": _depth,
}
