"""Judging recorded tables: largest values against bounds, growth, orders of convergence.

Growth and orders are claimed of the default function alone, which is Runge's: nothing is claimed of other functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pandas import DataFrame, Series

from kanrun.runs.manifest import Claim
from kanrun.study import statistics
from kanrun.study.statistics import exponent

#: Orders are fitted to splines of at least so many points (where there are two such), past the first bends ...
FIRST_FITTED = 40
#: ... and to errors above this, below which rounding takes over.
ROUNDING = 1e-12
#: Required: how far a fitted order may stay below the theory's.
TOLERANCE = 0.3
#: Required of identities that hold but for rounding, in units of what is compared.
IDENTITY = 1e-12
#: What differs from rounding by as many digits as it does from 1: a derivative that jumps.
JUMPS = 1e-3
#: Runge's phenomenon is at the ends: for equispaced points the error grows outside 0.73 of [-1, 1] (Epperson, The
#: American Mathematical Monthly 94, 1987), and is largest beyond this.
ENDS = 0.8


def claims_of(tables: Mapping[str, DataFrame]) -> Iterator[Claim]:
    """The claims of every part of `kanrun curves` that left its tables."""
    tables = {
        name: table.set_index("seed") if "seed" in table else table
        for name, table in tables.items()
    }
    if "orders" in tables and tables["orders"]["default_function"].all():
        yield from growth_at_ends(tables["summary"])
        yield from convergence(tables["orders"])
    if "lecture_points" in tables:
        four = tables["lecture_points"]
        miss = (four["polynomial"] - four["y"]).abs()
        yield _most("the polynomial goes through the four points to the last bit", miss, 0)
    if "continuity" in tables:
        yield from continuity(tables["continuity"])
    if "planar_points" in tables:
        through = tables["summary"][tables["summary"]["curve"] == "planar, through the points"]
        miss = through["max_distance"] / through["size"]
        yield _most(
            "the planar curve goes through its points, as a share of their extent", miss, IDENTITY
        )
    if "identities" in tables:
        yield from identities(tables["identities"])


def _most(sentence: str, values: Series[float], bound: float) -> Claim:
    """The largest of `values`, whose index is their seed, is at most `bound`."""
    return statistics.claim_at_most(sentence, values, bound, _spread(values))


def _least(sentence: str, values: Series[float], bound: float) -> Claim:
    return statistics.claim_at_least(sentence, values, bound, _spread(values))


def growth_at_ends(errors: DataFrame) -> Iterator[Claim]:
    """The polynomial's error grows with the points and is largest near the ends; with Chebyshev points it falls."""
    rising = _errors_of(errors, "polynomial")
    falling = _errors_of(errors, "polynomial, Chebyshev points")
    if len(rising) < 2:
        return
    many = ", ".join(str(points) for points in rising["points"])
    grows = bool((np.diff(rising["max_error"]) > 0).all())
    later, fell = falling["max_error"].to_numpy()[1:], np.diff(falling["max_error"]) < 0
    yield Claim(
        f"the largest error of the polynomial through N = {many} equispaced points grows with N",
        _listed(rising["max_error"]),
        "each larger than the last",
        grows,
    )
    yield _least(
        "it lies at the ends (0 is the middle of the interval, 1 its end)", rising["place"], ENDS
    )
    yield Claim(
        f"through N = {many} Chebyshev points it falls with N",
        _listed(falling["max_error"]),
        "each smaller than the last, or below 1e-12",
        bool(np.isfinite(falling["max_error"]).all() and (fell | (later < ROUNDING)).all()),
    )


def convergence(fitted: DataFrame) -> Iterator[Claim]:
    """The error of the spline of each degree k falls at least at order k + 1; from rows of `fitted_order`."""
    for row in fitted.dropna(subset=["first_points"]).to_dict("records"):
        bound = row["degree"] + 1 - TOLERANCE
        sentence = (
            f"the spline of degree {row['degree']:g} errs as h^{row['degree'] + 1:g} or less, h the spacing of "
            f"{row['first_points']:g} to {row['last_points']:g} points"
        )
        yield Claim(sentence, row["order"], f"order at least {bound:g}", row["order"] >= bound)


def fitted_order(points: Sequence[int], errors: Sequence[float]) -> dict[str, float | None]:
    """The slope of log error against log spacing over the rows that count, and the ends of their range of points.

    The order is None where fewer than two numbers of points count, and NaN where an error is NaN.
    """
    enough = [n for n in set(points) if n >= FIRST_FITTED]
    rows = [
        (n, error)
        for n, error in zip(points, errors, strict=True)
        if not error <= ROUNDING and (n >= FIRST_FITTED or len(enough) < 2)
    ]
    counts = {n for n, _ in rows}
    if len(counts) < 2:
        return {"order": None, "first_points": None, "last_points": None}
    spacing, fitted = Series([1 / (n - 1) for n, _ in rows]), Series([error for _, error in rows])
    return {
        "order": exponent(spacing, fitted),
        "first_points": min(counts),
        "last_points": max(counts),
    }


def continuity(jumps: DataFrame) -> Iterator[Claim]:
    """C^(k - m) at a knot of multiplicity m, and no more; jumps as shares of the derivative's size."""
    smooth = jumps[jumps["derivative"] <= jumps["degree"] - jumps["multiplicity"]]
    simple, multiple = smooth[smooth["multiplicity"] == 1], smooth[smooth["multiplicity"] > 1]
    after = jumps[jumps["derivative"] == jumps["degree"] - jumps["multiplicity"] + 1]
    degrees = f"degrees {jumps['degree'].min():g} to {jumps['degree'].max():g}"
    yield _most(
        f"C^(k-1) at simple knots: no derivative up to it jumps ({degrees})",
        simple["relative"],
        IDENTITY,
    )
    if len(multiple):
        sentence = "C^(k-m) at knots of multiplicity m > 1: no derivative up to it jumps"
        yield _most(sentence, multiple["relative"], IDENTITY)
    yield _least("and no smoother: the next derivative does jump", after["relative"], JUMPS)


def identities(found: DataFrame) -> Iterator[Claim]:
    """Bernstein and de Casteljau, the basis, the Bezier pieces and local control on random curves."""
    degrees = f"degrees {found['degree'].min():g} to {found['degree'].max():g}"
    sentence = f"de Casteljau's construction equals the sum of Bernstein polynomials ({degrees})"
    yield _most(sentence, found["casteljau"], IDENTITY)
    yield _most("the B-spline basis sums to 1: largest deviation", found["partition"], IDENTITY)
    yield _least("the B-spline basis is nowhere negative: smallest value", found["lowest"], 0)
    missing = (found["pieces"] - found["pieces_expected"]).abs()
    yield _most(
        "a curve of n control points has n - k Bezier pieces: largest difference", missing, 0
    )
    yield _most("these pieces are the curve: largest distance", found["reproduction"], IDENTITY)
    spans = found["most_spans"] - found["degree"] - 1
    yield _most("moving a control point changes at most k + 1 spans: spans above that", spans, 0)
    yield _most(
        "and no bit of the curve elsewhere: samples that changed", found["stray_samples"], 0
    )


def _errors_of(errors: DataFrame, curve: str) -> DataFrame:
    return errors[errors["curve"] == curve].sort_values(["degree", "points"])


def _listed(values: Series[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _spread(values: Series[float]) -> str | None:
    largest = values.abs().groupby(level=0).max()
    return statistics.value_range(largest) if len(largest) > 1 else None
