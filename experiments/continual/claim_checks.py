"""What a run of `kanrun continual` claims, from its summary: who forgets, who does not, and at which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from kanrun.runs import Claim
from kanrun.study.statistics import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    maximum,
    median,
    value_range,
)

#: In units of the peaks' height. Required of the KAN (NOTHING, a quarter of its own error) and of the MLP that forgets
#: (MUCH); where forgetting is said to be back, a share of a peak that can be seen (SOME).
NOTHING, MUCH, SOME = 1e-6, 1e-1, 1e-2
#: Required is an error of 4.1e-6 where the best spline's is 4.01e-6: this many times it.
NEAR = 1.02
#: A memory keeps a network if it leaves an order of magnitude less than nothing kept does.
KEPT = 0.1
#: Required of every fitted order: this near the theory's, G^-(k + 1) (de Boor, A Practical Guide to Splines, XII).
ORDER = 0.3


def claims_of(summary: pd.DataFrame) -> Iterator[Claim]:
    """The claims of every part that is there.

    Of a single phase nothing can be forgotten, and where the phases leave out some of a grid no error on everything can
    be expected: nothing is said of these.
    """
    parts = {str(part): rows for part, rows in summary.groupby("part", sort=False)}
    if "learners" in parts:
        yield from _near_best(parts["learners"])
    if "intervals" in parts:
        yield from _order(parts["intervals"])
    if (summary["phases"] > 1).any():
        yield from _of_forgetting(parts)


def _of_forgetting(parts: Mapping[str, pd.DataFrame]) -> Iterator[Claim]:
    if "learners" in parts:
        yield from _of_learners(parts["learners"])
    if "intervals" in parts and _still(rows := parts["intervals"]).all():
        lost = rows["worst_forgetting"]
        yield _most("no phase is forgotten on any of these grids (worst phase)", lost, NOTHING)
    if "overlap" in parts:
        yield from _overlap(parts["overlap"])
    if "depth" in parts:
        yield from _depth(parts["depth"])


def _of_learners(rows: pd.DataFrame) -> Iterator[Claim]:
    for name, some in rows[rows["memory"] == "none"].groupby("learner", sort=False):
        role, still, lost = (
            some["role"].iloc[0],
            some["trained_extras"].isna().all(),
            some["worst_forgetting"],
        )
        if role == "kan" and still:
            yield _most(f"{name}: no phase is forgotten (worst phase)", lost, NOTHING)
        elif role == "kan":
            yield _least(f"{name}: forgetting is back (worst phase)", lost, SOME)
        elif role == "mlp":
            yield _least(f"{name}: of the same parameters, forgets (worst phase)", lost, MUCH)
        else:
            yield _least(f"{name}: forgets too (worst phase)", lost, SOME)
    yield from _kept(rows)


def _kept(rows: pd.DataFrame) -> Iterator[Claim]:
    """What memories leave of the forgetting of the same network without one, where that has forgotten something."""
    for (name, twin), some in rows.groupby(["learner", "no_memory_learner"], sort=False):
        shares = _shares(some, rows[rows["learner"] == twin], ["seed"])
        if len(shares):
            sentence = (
                f"{name}: forgets at most a tenth of what {twin} does, which keeps nothing (share)"
            )
            claim = _most(sentence, shares["worst_forgetting"], KEPT)
            learned = f"RMSE on everything {shares['rmse'].median():.2g} of that one's"
            yield replace(claim, spread=", ".join(filter(None, [claim.spread, learned])))


def _shares(some: pd.DataFrame, without: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Forgetting and RMSE over those of the same trainings that keep nothing, of which those count that have forgotten
    something, which a memory could keep; NaN is left for the claims to see."""
    measures = ["worst_forgetting", "rmse"]
    bare = without[~(without["worst_forgetting"] < SOME)].set_index(keys)[measures]
    return (some.set_index(keys)[measures] / bare).loc[bare.index]


def _near_best(learned: pd.DataFrame) -> Iterator[Claim]:
    for name, rows in _determined(learned, "learner").groupby("learner", sort=False):
        best, worst = maximum(rows["best_spline_rmse"]), maximum(rows["rmse"])
        sentence = f"{name}: RMSE on everything after the last phase"
        bound = f"at most {NEAR * best:.3g}, {NEAR:g} times the best spline's {best:.3g}"
        yield Claim(sentence, worst, bound, worst <= NEAR * best, value_range(rows["rmse"]))


def _determined(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The learners, or grids, that have a best spline, with all their seeds: none without a number may drop out."""
    return rows[rows["best_spline_rmse"].notna().groupby(rows[by]).transform("any")]


def _order(learned: pd.DataFrame) -> Iterator[Claim]:
    rows = _determined(learned, "intervals")
    if rows["intervals"].nunique() < 2:
        return
    theory, low, high = (
        -(rows["degree"].iloc[0] + 1),
        rows["intervals"].min(),
        rows["intervals"].max(),
    )
    sentence = (
        f"the KAN's error on everything falls as G^{theory:g}, G = {low:g} to {high:g} (exponent)"
    )
    yield claim_near(
        sentence, exponents(rows, ["seed"], "intervals", "rmse")["exponent"], theory, ORDER
    )


def _overlap(rows: pd.DataFrame) -> Iterator[Claim]:
    """Phases that touch or lie apart, and those that overlap: there two phases fit the same coefficients."""
    for name, some in rows.groupby("learner", sort=False):
        apart = some["overlap"] <= 0
        yield from _of_overlap(str(name), some[apart], "that do not overlap")
        yield from _of_overlap(
            str(name), some[~apart], f"that overlap by up to {some['overlap'].max():g}"
        )
    yield from _finer(rows[_still(rows) & (rows["memory"] == "none") & (rows["overlap"] > 0)])


def _finer(rows: pd.DataFrame) -> Iterator[Claim]:
    """Where phases overlap the most, for KANs of several grids.

    A phase that ends inside another one's peak sees its last basis functions in part, and fits them to the spline's own
    error there: what is forgotten falls with the grid as that error does.
    """
    most = rows[rows["overlap"] == rows["overlap"].max()]
    if most["intervals"].nunique() > 1:
        slopes = exponents(most, ["seed"], "intervals", "worst_forgetting")["exponent"]
        bound, slope = ORDER - (int(most["degree"].iloc[0]) + 1), median(slopes)
        grids = f"G = {most['intervals'].min():g} to {most['intervals'].max():g}"
        sentence = f"what overlapping phases forget falls at least as the spline's error, {grids} (exponent)"
        yield Claim(sentence, slope, f"at most {bound:g}", slope <= bound, value_range(slopes))


def _still(rows: pd.DataFrame) -> pd.Series:
    """Which are KANs of one edge where nothing moves but coefficients."""
    return (rows["role"] == "kan") & rows["trained_extras"].isna()


def _of_overlap(name: str, rows: pd.DataFrame, phases: str) -> Iterator[Claim]:
    if rows.empty:
        return
    lost = rows["worst_forgetting"]
    if (rows["role"] == "mlp").all() and (rows["memory"] == "none").all():
        yield _least(f"{name}: forgets with phases {phases} (worst phase)", lost, MUCH)
    elif _still(rows).all():
        yield _most(
            f"{name}: no phase is forgotten, with phases {phases} (worst phase)", lost, NOTHING
        )


def _depth(rows: pd.DataFrame) -> Iterator[Claim]:
    deep = rows[rows["layers"] > 1]
    for memory, some in deep.groupby("memory", sort=False):
        if memory == "none":
            yield _least("KANs of more than one layer forget too", some["worst_forgetting"], SOME)
            continue
        shares = _shares(some, deep[deep["memory"] == "none"], ["seed", "shape"])
        if shares.empty:
            continue
        if memory == "hold":
            since = some["worst_since_learned"]
            yield _most(
                "memory=hold: nothing is lost since it was learned (worst R[T, j] - R[j, j])",
                since,
                NOTHING,
            )
        keeps, learns = (
            f"memory={memory} keeps deeper KANs",
            f"memory={memory} lets deeper KANs learn",
        )
        before = "at most a tenth is forgotten, errors before learning it counted too (share)"
        yield _most(f"{keeps}: {before}", shares["worst_forgetting"], KEPT)
        yield _most(f"{learns}: a tenth of the RMSE on everything (share)", shares["rmse"], KEPT)


def _most(sentence: str, values: pd.Series, bound: float) -> Claim:
    return claim_at_most(sentence, values, bound, value_range(values, "trainings"))


def _least(sentence: str, values: pd.Series, bound: float) -> Claim:
    return claim_at_least(
        sentence, values, bound, value_range(values, "trainings")
    )  # several may share a seed
