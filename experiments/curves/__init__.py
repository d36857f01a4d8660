"""From data points to B-splines: the first half of the lecture that kanrun follows.

Reproduces the polynomial through equispaced points of 1/(1 + 25 x^2) and its growing error
(`interpolation`, `errors`); the points (0, 5), (1, 1), (2, 3), (5, 2) (`lecture_points`); the
Bernstein basis and de Casteljau's construction (`bernstein_basis`, `de_casteljau`); the B-spline
basis on its knots, a curve with its control polygon and Bézier pieces, and what one moved control
point changes (`bspline_basis`, `bspline_pieces`, `local_control`); how smooth a knot of
multiplicity m leaves a curve (`continuity`); planar curves through and near points (`planar`).
Beyond the lecture, it adds Chebyshev points, measured orders of convergence, and identities that
are checked on random curves. Only these identities are repeated for every seed.
"""

from __future__ import annotations

import numpy as np
from pandas import DataFrame, Series

from kanrun.runs.records import Claim, Records
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.suite import claim_at_least, claim_at_most

from .config import CurvesConfig
from .parts import PARTS, ROUNDING, check_settings

#: A fitted order of convergence may be lower than the theoretical one by at most this.
TOLERANCE = 0.3
#: Largest accepted relative deviation from an identity that is exact except for rounding.
IDENTITY = 1e-12
#: Smallest relative change of a derivative at a knot that counts as a jump. Rounding is far below.
JUMPS = 1e-3
#: For equispaced points on [-1, 1], the error of the polynomial grows with N where |x| > 0.73
#: (Runge's phenomenon; Epperson, The American Mathematical Monthly 94, 1987). It is claimed that
#: the error is largest where |x| is at least this.
ENDS = 0.8
#: For each column of the table `identities`: the identity that it checks, and its bound.
IDENTITIES = {
    "casteljau": ("de Casteljau's construction equals the sum of Bernstein polynomials", IDENTITY),
    "partition": ("the B-spline basis sums to 1: largest deviation", IDENTITY),
    "missing": ("a curve of n control points has n - k Bezier pieces: largest difference", 0),
    "reproduction": ("these pieces are the curve: largest distance", IDENTITY),
    "spans": ("moving a control point changes at most k + 1 spans: spans above that", 0),
    "stray_samples": ("and no bit of the curve elsewhere: samples that changed", 0),
}


def check(cfg: CurvesConfig) -> None:
    """Raise UsageError if the settings cannot be used."""
    check_settings(cfg)


def cells(cfg: CurvesConfig) -> list[Cell]:
    """Return one cell for each entry of the setting `parts`."""
    return [{"part": part} for part in cfg.parts]


def run(cfg: CurvesConfig, cell: Cell, seed: int) -> Records:
    """Yield the tables of one part. Parts other than `identities` run only for the first seed."""
    if seed == cfg.seed or cell["part"] == "identities":
        yield from PARTS[cell["part"]](cfg, seed)


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from kanrun.figures import figures_of

    from .plots import FIGURES

    yield from figures_of(tables, FIGURES)


def claims(tables: Tables) -> Claims:
    """Yield the claims of each part that was run."""
    if "orders" in tables and tables["orders"]["default_function"].all():
        yield from growth_at_ends(tables["summary"])
        yield from convergence(tables["orders"])
    if "lecture_points" in tables:
        four = tables["lecture_points"]
        miss = (four["polynomial"] - four["y"]).abs()
        sentence = "the polynomial goes through the four points to the last bit"
        yield claim_at_most(sentence, miss, 0, of="points")
    if "continuity" in tables:
        yield from continuity(tables["continuity"])
    if "planar_points" in tables:
        through = tables["summary"][tables["summary"]["curve"] == "planar, through the points"]
        sentence = "the planar curve goes through its points, relative to their extent"
        yield claim_at_most(sentence, through["max_distance"] / through["size"], IDENTITY)
    if "identities" in tables:
        rows = tables["identities"]
        missing = (rows["pieces"] - rows["pieces_expected"]).abs()
        checked = rows.assign(missing=missing, spans=rows["most_spans"] - rows["degree"] - 1)
        for column, (sentence, bound) in IDENTITIES.items():
            yield claim_at_most(sentence, checked[column], bound, of="curves")
        sentence = "the B-spline basis is nowhere negative: smallest value"
        yield claim_at_least(sentence, checked["lowest"], 0, of="curves")


def growth_at_ends(errors: DataFrame) -> Claims:
    """Claim that the polynomial's error grows at the ends, and that Chebyshev points prevent it."""
    polynomials = errors.sort_values("points").set_index("curve")
    rising = polynomials.loc[["polynomial"]]
    falling = polynomials.loc[["polynomial, Chebyshev points"], "max_error"]
    if len(rising) < 2:
        return
    many = ", ".join(map(str, rising["points"]))
    largest = rising["max_error"]
    sentence = (
        f"the largest error of the polynomial through N = {many} equispaced points grows with N"
    )
    grows = largest.is_monotonic_increasing and largest.is_unique
    yield Claim(sentence, _listed(largest), "each larger than the last", grows)
    sentence = "it lies at the ends (0 is the middle of the interval, 1 its end)"
    yield claim_at_least(sentence, rising["place"], ENDS, of="polynomials")
    falls = falling.clip(lower=ROUNDING).is_monotonic_decreasing
    bound = f"each smaller than the last, or below {ROUNDING:g}"
    sentence = f"through N = {many} Chebyshev points it falls with N"
    yield Claim(sentence, _listed(falling), bound, falls and bool(np.isfinite(falling).all()))


def _listed(values: Series[float]) -> str:
    return ", ".join(map("{:.2g}".format, values))


def convergence(fitted: DataFrame) -> Claims:
    """Claim that the error of splines of each degree k converges with order k + 1 or higher."""
    for row in fitted.dropna(subset=["first_points"]).to_dict("records"):
        order = row["degree"] + 1
        sentence = (
            f"order of the spline of degree {row['degree']:g}, in theory {order:g}, over "
            f"{row['first_points']:g} to {row['last_points']:g} points"
        )
        yield claim_at_least(sentence, row["order"], order - TOLERANCE)


def continuity(jumps: DataFrame) -> Claims:
    """Claim that a spline of degree k is C^(k - m), and no smoother, at a knot of multiplicity m.

    `jumps` is the table `continuity`; its jumps are relative to the size of the derivative.
    """
    free = jumps["degree"] - jumps["multiplicity"]
    smooth = jumps["derivative"] <= free
    simple = jumps["multiplicity"] == 1
    degrees = f"degrees {jumps['degree'].min():g} to {jumps['degree'].max():g}"
    for which, sentence in (
        (simple, f"C^(k-1) at simple knots: no derivative up to it jumps ({degrees})"),
        (~simple, "C^(k-m) at knots of multiplicity m > 1: no derivative up to it jumps"),
    ):
        if (smooth & which).any():
            yield claim_at_most(
                sentence, jumps["relative"][smooth & which], IDENTITY, of="derivatives"
            )
    sentence = "and no smoother: the next derivative does jump"
    after = jumps["relative"][jumps["derivative"] == free + 1]
    yield claim_at_least(sentence, after, JUMPS, of="derivatives")
