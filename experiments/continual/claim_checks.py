"""Claims of `kanrun continual`: which learners forget, which do not, and the order of the error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from kanrun.runs import Claim
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    maximum,
    median,
    value_range,
)

#: Forgetting in units of the peaks' height: at most a quarter of its own error for the KAN, much
#: for the MLP, and what can be seen where forgetting is said to be back.
MAX_KAN_FORGETTING, MIN_MLP_FORGETTING, VISIBLE_FORGETTING = 1e-6, 1e-1, 1e-2
#: Required is an error of 4.1e-6 with the best spline's being 4.01e-6: this many times it.
NEAR_BEST = 1.02
#: A memory keeps a network if it leaves an order of magnitude less than nothing kept does.
KEPT = 0.1
#: Required of every fitted order: this near the theory's, G^-(k + 1) (de Boor, A Practical Guide to
#: Splines, ch. XII).
ORDER = 0.3
RUNS = "trainings"  # several of them may share a seed


def claims_of(summary: pd.DataFrame) -> Iterator[Claim]:
    """Yield the claims of every part that is there.

    A single phase cannot be forgotten. If the phases leave out some of a grid, no error on
    everything can be expected: no claim is made of these.
    """
    several = bool((summary["phases"] > 1).any())
    for part, rows in summary.groupby("part", sort=False):
        if part in ERRORS:
            by, check = ERRORS[str(part)]
            # All seeds of a group with a best spline count, so that none without a number drops
            # out.
            known = rows["best_spline_rmse"].notna().groupby(rows[by]).transform("any")
            yield from check(rows[known])
        if several:
            yield from FORGETTING[str(part)](rows)


def _trains_coefficients_only(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are KANs of one edge that train nothing but coefficients."""
    return (rows["role"] == "kan") & rows["trained_extras"].isna()


def _near_best(learned: pd.DataFrame) -> Iterator[Claim]:
    for name, rows in learned.groupby("learner", sort=False):
        best = maximum(rows["best_spline_rmse"])
        sentence = f"{name}: RMSE on everything after the last phase (best spline {best:.3g})"
        yield claim_at_most(sentence, rows["rmse"], NEAR_BEST * best)


def _order(rows: pd.DataFrame) -> Iterator[Claim]:
    if rows["intervals"].nunique() > 1:
        theory = -(rows["degree"].iloc[0] + 1)
        sentence = f"the KAN's error on everything falls as G^{theory:g}, {_reach(rows)} (exponent)"
        slopes = exponents(rows, ["seed"], "intervals", "rmse")["exponent"]
        yield claim_near(sentence, slopes, theory, ORDER)


def _reach(rows: pd.DataFrame) -> str:
    return f"G = {rows['intervals'].min():g} to {rows['intervals'].max():g}"


def _remembers(sentence: str, rows: pd.DataFrame, measure: str = "worst_forgetting") -> Claim:
    return claim_at_most(sentence, rows[measure], MAX_KAN_FORGETTING, of=RUNS)


def _forgets(sentence: str, rows: pd.DataFrame, bound: float) -> Claim:
    return claim_at_least(sentence, rows["worst_forgetting"], bound, of=RUNS)


def _intervals(rows: pd.DataFrame) -> Iterator[Claim]:
    if _trains_coefficients_only(rows).all():
        yield _remembers("no phase is forgotten on any of these grids (worst phase)", rows)


def _learners(rows: pd.DataFrame) -> Iterator[Claim]:
    for name, some in rows[rows["memory"] == "none"].groupby("learner", sort=False):
        if _trains_coefficients_only(some).all():
            yield _remembers(f"{name}: no phase is forgotten (worst phase)", some)
        elif (some["role"] == "mlp").all():
            sentence = f"{name}: of the same parameters, forgets (worst phase)"
            yield _forgets(sentence, some, MIN_MLP_FORGETTING)
        else:
            sentence = f"{name}: forgetting is back (worst phase)"
            yield _forgets(sentence, some, VISIBLE_FORGETTING)
    pairs = rows.groupby(["learner", "no_memory_learner"], sort=False)
    for (learner, other), some in pairs:
        shares = _relative(some, rows[rows["learner"] == other], ["seed"])
        if len(shares):
            sentence = f"{learner}: forgetting over that of {other}, which keeps nothing"
            claim = claim_at_most(sentence, shares["worst_forgetting"], KEPT, of=RUNS)
            learned = f"RMSE on everything over that one's {shares['rmse'].median():.2g}"
            yield replace(claim, spread=", ".join(filter(None, [claim.spread, learned])))


def _relative(some: pd.DataFrame, without: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return forgetting and RMSE relative to the same trainings without memory.

    Only those without memory that have forgotten something count; NaN is left for the claims to
    see.
    """
    measures = ["worst_forgetting", "rmse"]
    bare = without[~(without["worst_forgetting"] < VISIBLE_FORGETTING)].set_index(keys)[measures]
    return (some.set_index(keys)[measures] / bare).loc[bare.index]


def _overlap(rows: pd.DataFrame) -> Iterator[Claim]:
    """Judge phases that touch or lie apart, and those that overlap and share coefficients."""
    for name, learner in rows.groupby("learner", sort=False):
        apart, reach = learner["overlap"] <= 0, f"{learner['overlap'].max():g}"
        groups = {
            "that do not overlap": learner[apart],
            f"that overlap by up to {reach}": learner[~apart],
        }
        for which, some in groups.items():
            phases = f"with phases {which} (worst phase)"
            if len(some) and _trains_coefficients_only(some).all():
                yield _remembers(f"{name}: no phase is forgotten, {phases}", some)
            elif len(some) and ((some["role"] == "mlp") & (some["memory"] == "none")).all():
                yield _forgets(f"{name}: forgets {phases}", some, MIN_MLP_FORGETTING)
    plain = _trains_coefficients_only(rows) & (rows["memory"] == "none") & (rows["overlap"] > 0)
    most = rows[plain & (rows["overlap"] == rows["overlap"][plain].max())]
    if most["intervals"].nunique() > 1:
        # A phase that ends inside another one's peak sees its last basis functions in part, and
        # fits them to the spline's own error there: what is forgotten falls with the grid as that
        # error.
        slopes = exponents(most, ["seed"], "intervals", "worst_forgetting")["exponent"]
        bound = ORDER - (int(most["degree"].iloc[0]) + 1)
        what = "what overlapping phases forget falls at least as the spline's error"
        spread = value_range(slopes)
        yield claim_at_most(f"{what}, {_reach(most)} (exponent)", median(slopes), bound, spread)


def _depth(rows: pd.DataFrame) -> Iterator[Claim]:
    deep = rows[rows["layers"] > 1]
    for memory, some in deep.groupby("memory", sort=False):
        if memory == "none":
            sentence = "KANs of more than one layer forget too"
            yield _forgets(sentence, some, VISIBLE_FORGETTING)
            continue
        shares = _relative(some, deep[deep["memory"] == "none"], ["seed", "shape"])
        if shares.empty:
            continue
        if memory == "hold":
            sentence = "memory=hold: nothing is lost since it was learned (worst R[T, j] - R[j, j])"
            yield _remembers(sentence, some, "worst_since_learned")
        sentence = f"memory={memory} keeps deeper KANs: forgetting over that without memory"
        yield claim_at_most(sentence, shares["worst_forgetting"], KEPT, of=RUNS)
        sentence = f"memory={memory} lets deeper KANs learn: RMSE on everything over that without"
        yield claim_at_most(sentence, shares["rmse"], KEPT, of=RUNS)


#: Claims of each part on errors, with the column of their groups; and those on forgetting.
ERRORS = {"learners": ("learner", _near_best), "intervals": ("intervals", _order)}
FORGETTING = {
    "learners": _learners,
    "intervals": _intervals,
    "overlap": _overlap,
    "depth": _depth,
}
