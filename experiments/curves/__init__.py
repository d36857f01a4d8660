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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series
from scipy.interpolate import BSpline

from kanrun.errors import UsageError
from kanrun.runs.records import Claim, Records, Row, Table, Value
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.suite import claim_at_least, claim_at_most, exponent
from kanrun.targets.datasets import build_target
from kanrun.targets.functions import GIVEN_POINTS
from kanrun.targets.table_targets import planar_points

from . import geometry
from .config import CurvesConfig
from .geometry import (
    Array,
    approximate,
    check_parameters,
    clamped_knots,
    de_casteljau,
    interpolate,
    parameters_along,
    polynomial_through,
)

#: Errors up to this count as rounding and are left out when an order is fitted.
ROUNDING = 1e-12
#: Degrees of the random curves on which identities are checked.
CHECKED = range(1, 13)
#: Parameters from 0 to 1 at which curves are drawn.
UNIT = np.linspace(0, 1, 401)


@dataclass(frozen=True)
class Function:
    """A function of one variable on [low, high]. It maps shape (samples,) to (samples, 1)."""

    values: Callable[[Array], Array]
    low: float
    high: float
    is_default: bool

    def __call__(self, x: Array) -> Array:
        return self.values(x[:, None])

    def equispaced(self, count: int) -> Array:
        """Return evenly spaced points, both ends included."""
        return np.linspace(self.low, self.high, count)

    def chebyshev(self, count: int) -> Array:
        """Return Chebyshev points of the second kind, which include both ends."""
        return self.low + (self.high - self.low) * (np.polynomial.chebyshev.chebpts2(count) + 1) / 2

    def error(self, x: Array, values: Array) -> dict[str, float]:
        """Return the largest absolute error of `values` at `x`, and its `place`.

        `place` is 0 in the middle of the interval and 1 at its ends.
        """
        distance = np.abs(values - self(x))[:, 0]
        place = (2 * float(x[distance.argmax()]) - self.low - self.high) / (self.high - self.low)
        return {"max_error": float(distance.max()), "place": abs(place)}


def check(cfg: CurvesConfig) -> None:
    """Raise UsageError if the settings of the selected parts cannot be used."""
    if cfg.precision != "float64":
        raise UsageError("curves computes in float64; leave precision out.")
    if "equispaced" in cfg.parts:
        function_of(cfg)
        least = min(cfg.spline_points)
        highest = max(cfg.degrees)
        if least <= highest:
            raise UsageError(
                f"spline_points has {least}; a spline of degree {highest} goes through at least "
                f"{highest + 1} points."
            )
    if "bezier" in cfg.parts:
        polygon("bezier", cfg.bezier)
    if "bspline" in cfg.parts:
        spline_of(cfg)
    if "planar" in cfg.parts:
        planar_settings(cfg)


def function_of(cfg: CurvesConfig) -> Function:
    """Return the function to interpolate. Raises UsageError unless it has one variable."""
    try:
        target = build_target(cfg.function)
        default = build_target(CurvesConfig().function)
    # The error message names a key that this command does not have, so the key is replaced.
    except UsageError as error:
        raise UsageError(str(error).replace("target.domain", "function.domain")) from None
    if len(target.inputs) != 1 or target.function is None:
        raise UsageError(
            f"function.formula={cfg.function.formula} must be a formula of the one variable x0."
        )
    is_default = target.expression == default.expression and np.array_equal(
        target.domain, default.domain
    )
    low, high = target.domain[0].tolist()
    return Function(target.function, low, high, is_default)


def polygon(name: str, points: list[list[float]]) -> Array:
    """Return the points of a control polygon, shape (n, 2).

    Raises UsageError if all points are equal. `name` is the setting that lists them.
    """
    if all(point == points[0] for point in points):
        raise UsageError(
            f"{name} has {len(points)} times the same point; "
            "a curve needs different control points."
        )
    return np.array(points, dtype=float)


def check_degree(degree: int, control_points: int) -> None:
    """Raise UsageError unless there are more control points than the degree."""
    if control_points <= degree:
        raise UsageError(
            f"A curve of degree {degree} needs at least {degree + 1} control points, not "
            f"{control_points}; take more points or a lower degree"
        )


def spline_of(cfg: CurvesConfig) -> BSpline:
    """Return the planar B-spline curve of the settings on [0, 1].

    By default, its inner knots are equally spaced. Raises UsageError if the settings conflict.
    """
    control = polygon("bspline", cfg.bspline)
    check_degree(cfg.degree, len(control))
    if cfg.moved_point >= len(control):
        raise UsageError(
            f"moved_point={cfg.moved_point} must be the number of a control point, "
            f"0 to {len(control) - 1}."
        )
    needed = len(control) - cfg.degree - 1
    even = np.linspace(0, 1, needed + 2)[1:-1].tolist()
    inner = even if cfg.knots is None else list(cfg.knots)
    if len(inner) != needed or sorted(inner) != inner:
        raise UsageError(
            f"knots={inner} must be {needed} numbers that never decrease (control points less "
            "degree less 1); repeat "
            "one for a knot of higher multiplicity."
        )
    if any(inner.count(knot) > cfg.degree + 1 for knot in inner):
        raise UsageError(
            f"A knot may be repeated at most {cfg.degree + 1} times in degree {cfg.degree}"
        )
    return BSpline(clamped_knots(inner, 0.0, 1.0, cfg.degree), control, cfg.degree)


def planar_settings(cfg: CurvesConfig) -> tuple[Array, Array, int]:
    """Return the points, their parameters, and the number of control points of the curve near them.

    Raises UsageError if there are too few points, or too many or too few control points.
    """
    points, parameters = planar_points(cfg.target)
    if parameters is None:
        parameters = parameters_along(points, cfg.spacing)
    check_parameters(parameters)
    count = len(points)
    near = cfg.control_points
    if count <= cfg.degree:
        raise UsageError(
            f"a curve of degree {cfg.degree} goes through at least {cfg.degree + 1} points, "
            f"not {count}."
        )
    # Largest default number of control points of the curve near the planar points.
    most = 100
    if near is None:
        near = max(cfg.degree + 1, min(count // 2, most))
    check_degree(cfg.degree, near)
    if near > count:
        raise UsageError(f"control_points={near} must be at most {count}, the number of points.")
    # Maximum number of entries in the matrix of a least squares fit.
    most_entries = 500_000_000
    if cfg.control_points is not None and near * count > most_entries:
        raise UsageError(f"{near} control points for {count} points are too many for one fit.")
    return points, parameters, near


def table(name: str, columns: str, *values: NDArray[Any]) -> Table:
    """Return the table `name`.

    `columns` has the column names, separated by blanks. `values` are arrays of shape (rows,) or
    (rows, count), which are put side by side.
    """
    whole = np.column_stack(values).astype(float)
    return Table(name, {key: whole[:, i] for i, key in enumerate(columns.split())})


def family(name: str, columns: str, values: Array) -> Table:
    """Return a table of several curves from `values`, shape (curves, rows, columns - 1).

    The first column is the number of the curve.
    """
    number = np.repeat(np.arange(len(values)), values.shape[1])
    return table(name, columns, number, np.concatenate(values))


def functions(name: str, columns: str, x: Array, values: Array) -> Table:
    """Return a table of several functions: number, argument `x` (samples,) and value.

    `values` has the shape (samples, functions).
    """
    return family(name, columns, np.stack([np.broadcast_to(x, values.T.shape), values.T], 2))


def equispaced(cfg: CurvesConfig, _: int) -> Records:
    """Yield polynomials through more and more points, and splines of several degrees.

    Also yield their errors, and the order of convergence of the splines of each degree.
    """
    f = function_of(cfg)
    # Number of points at which the error of an interpolant is measured.
    samples = 8001
    x = f.equispaced(samples)
    drawn = []

    def row(name: str, curve: str, degree: int, points: int, values: Array) -> Row:
        return Row(name, {"curve": curve, "degree": degree, "points": points, **f.error(x, values)})

    # Of the points at which the error is measured, one in this many is drawn.
    every = 8
    for count in cfg.polynomial_points:
        nodes = f.equispaced(count)
        better = f.chebyshev(count)
        degree = min(cfg.degree, count - 1)
        through = polynomial_through(nodes, f(nodes), x)
        spline = interpolate(nodes, f(nodes), degree)(x)
        columns = np.full_like(spline, count), x[:, None], f(x), through, spline
        drawn.append(np.hstack(columns)[::every])
        chebyshev = polynomial_through(better, f(better), x)
        yield row("summary", "polynomial", count - 1, count, through)
        yield row("summary", "polynomial, Chebyshev points", count - 1, count, chebyshev)
        yield row("summary", "spline", degree, count, spline)
    yield table("interpolation", "points x truth polynomial spline", np.concatenate(drawn))
    for degree in cfg.degrees:
        rows: list[Any] = []
        for count in cfg.spline_points:
            nodes = f.equispaced(count)
            values = interpolate(nodes, f(nodes), degree)(x)
            rows.append(row("errors", "spline", degree, count, values))
        yield from rows
        order = fitted_order(cfg.spline_points, [measured.values["max_error"] for measured in rows])
        yield Row("orders", {"degree": degree, "default_function": f.is_default, **order})


def lecture(_: CurvesConfig, __: int) -> Records:
    """Yield curves through the four points of the lecture, and curves with these control points."""
    four = GIVEN_POINTS["lecture_points"]
    points = np.concatenate([four.x, four.y], axis=1)
    at = points[:, 0]
    values = points[:, 1:]
    spline = interpolate(at, values, 2)
    quadratic = BSpline(clamped_knots([0.5], 0.0, 1.0, 2), points, 2)
    x = at[0] + (at[-1] - at[0]) * UNIT
    yield table("lecture_points", "x y polynomial", points, polynomial_through(at, values, at))
    through = polynomial_through(at, values, x), spline(x)
    yield table("lecture_through", "x polynomial spline", x, *through)
    drawn = de_casteljau(points, UNIT), quadratic(UNIT)
    yield table("lecture_drawn", "bezier_x bezier_y bspline_x bspline_y", *drawn)


def bezier(cfg: CurvesConfig, _: int) -> Records:
    """Yield the Bernstein basis, a Bézier curve, and de Casteljau's construction of one point."""
    control = polygon("bezier", cfg.bezier)
    basis = geometry.bernstein(UNIT, len(control) - 1)
    yield functions("bernstein_basis", "function u value", UNIT, basis)
    yield table("bezier_curve", "u x y", UNIT, de_casteljau(control, UNIT))
    levels = geometry.construction(control, 0.4)
    number = np.repeat(np.arange(len(levels)), [len(level) for level in levels])
    yield table("de_casteljau", "level x y", number, np.concatenate(levels))


def bspline(cfg: CurvesConfig, _: int) -> Records:
    """Yield a B-spline curve's basis, knots and pieces, and the effect of a moved control point."""
    curve = spline_of(cfg)
    moved = geometry.move_point(curve, cfg.moved_point, np.array(cfg.displacement))
    # Number of points at which a B-spline curve is drawn, per knot span.
    per_span = 48
    t = geometry.samples(curve, per_span)
    knots, times = np.unique(curve.t, return_counts=True)
    pieces, _ends = geometry.bezier_pieces(curve)
    yield functions("bspline_basis", "function t value", t, geometry.basis_on(curve, t))
    yield table("bspline_knots", "knot multiplicity x y", knots, times, curve(knots))
    yield table("bspline_control", "x y moved_x moved_y", curve.c, moved.c)
    yield table("local_control", "t x y moved_x moved_y", t, curve(t), moved(t))
    yield family("bezier_control", "piece x y", pieces)
    drawn = np.stack([de_casteljau(piece, UNIT[::10]) for piece in pieces])
    yield family("bezier_pieces", "piece x y", drawn)


def continuity(cfg: CurvesConfig, _: int) -> Records:
    """Yield the jumps of all derivatives at a knot of multiplicity 1 to k, for each degree k."""
    for degree in sorted({*cfg.degrees, cfg.degree}):
        curves = [geometry.with_multiple_knot(degree, m) for m in range(1, degree + 1)]
        for multiplicity, curve in enumerate(curves, 1):
            for jump in geometry.jumps(curve, 0.5):
                yield Row("continuity", {"degree": degree, "multiplicity": multiplicity, **jump})
        if degree == cfg.degree:
            drawn = np.hstack([curve(UNIT) for curve in curves])
            yield functions("multiple_knots", "curve t value", UNIT, drawn)


def planar(cfg: CurvesConfig, _: int) -> Records:
    """Yield a planar curve through all points, and one near them with fewer control points.

    The distance between a point and a curve is measured at the parameter of that point.
    """
    points, parameters, count = planar_settings(cfg)
    through = interpolate(parameters, points, cfg.degree)
    near = approximate(parameters, points, cfg.degree, count)
    # Approximate number of points at which planar curves are drawn.
    drawn = 4000
    t = geometry.samples(through, max(2, drawn // len(points)))
    yield table("planar_points", "t x y", parameters, points)
    yield table("planar_control", "x y", near.c)
    yield table("planar_curves", "t x y near_x near_y", t, through(t), near(t))
    for name, curve in (("planar, through the points", through), ("planar, near the points", near)):
        apart = np.linalg.norm(curve(parameters) - points, axis=1)
        values: dict[str, Value] = {
            "curve": name,
            "degree": cfg.degree,
            "points": len(points),
            "control_points": len(curve.c),
            "size": float(np.linalg.norm(np.ptp(points, axis=0))),
            "max_distance": float(apart.max()),
            "rms_distance": float(np.sqrt(np.mean(apart**2))),
        }
        yield Row("summary", values)


def identities(_: CurvesConfig, seed: int) -> Records:
    """Yield the deviations from `geometry.identities` on one random curve of each degree."""
    # Number of control points beyond 2 k.
    further = 6
    for degree in CHECKED:
        draws = np.random.default_rng([seed, degree])
        curve = geometry.random_curve(degree, 2 * degree + further, draws)
        deviations = geometry.identities(curve, draws.normal(size=2))
        yield Row("identities", {"degree": degree, **deviations})


def fitted_order(points: Sequence[int], errors: Sequence[float]) -> dict[str, float | None]:
    """Fit the order of convergence: the slope of log error against log spacing.

    Return `order`, and `first_points` and `last_points`, the range of numbers of points that is
    fitted. All are None if fewer than two numbers of points can be used. The order is NaN if an
    error is NaN.
    """
    table = DataFrame({"points": points, "error": errors}, dtype=float)
    # Smallest number of points of the splines to whose errors an order of convergence is fitted.
    # Splines with fewer points do not yet follow the function; they are used only if fewer than two
    # splines have this many points.
    first_fitted = 40
    fine = table[table["points"] >= first_fitted]
    table = fine if fine["points"].nunique() > 1 else table
    table = table[~(table["error"] <= ROUNDING)]
    if table["points"].nunique() < 2:
        return dict.fromkeys(("order", "first_points", "last_points"))
    order = exponent(1 / (table["points"] - 1), table["error"])
    first, last = table["points"].agg(["min", "max"]).astype(int)
    return {"order": order, "first_points": first, "last_points": last}


PARTS = {
    "equispaced": equispaced,
    "lecture": lecture,
    "bezier": bezier,
    "bspline": bspline,
    "continuity": continuity,
    "planar": planar,
    "identities": identities,
}


#: Largest accepted relative deviation from an identity that is exact except for rounding.
IDENTITY = 1e-12
#: For each column of the table `identities`: the identity that it checks, and its bound.
IDENTITIES = {
    "casteljau": ("de Casteljau's construction equals the sum of Bernstein polynomials", IDENTITY),
    "partition": ("the B-spline basis sums to 1: largest deviation", IDENTITY),
    "missing": ("a curve of n control points has n - k Bezier pieces: largest difference", 0),
    "reproduction": ("these pieces are the curve: largest distance", IDENTITY),
    "spans": ("moving a control point changes at most k + 1 spans: spans above that", 0),
    "stray_samples": ("and no bit of the curve elsewhere: samples that changed", 0),
}


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
        yield from continuity_claims(tables["continuity"])
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
    # For equispaced points on [-1, 1], the error of the polynomial grows with N where |x| > 0.73
    # (Runge's phenomenon; Epperson, The American Mathematical Monthly 94, 1987). It is claimed that
    # the error is largest where |x| is at least this.
    ends = 0.8
    yield claim_at_least(sentence, rising["place"], ends, of="polynomials")
    falls = falling.clip(lower=ROUNDING).is_monotonic_decreasing
    bound = f"each smaller than the last, or below {ROUNDING:g}"
    sentence = f"through N = {many} Chebyshev points it falls with N"
    yield Claim(sentence, _listed(falling), bound, falls and bool(np.isfinite(falling).all()))


def _listed(values: Series[float]) -> str:
    return ", ".join(map("{:.2g}".format, values))


def convergence(fitted: DataFrame) -> Claims:
    """Claim that the error of splines of each degree k converges with order k + 1 or higher."""
    # A fitted order of convergence may be lower than the theoretical one by at most this.
    tolerance = 0.3
    for row in fitted.dropna(subset=["first_points"]).to_dict("records"):
        order = row["degree"] + 1
        sentence = (
            f"order of the spline of degree {row['degree']:g}, in theory {order:g}, over "
            f"{row['first_points']:g} to {row['last_points']:g} points"
        )
        yield claim_at_least(sentence, row["order"], order - tolerance)


def continuity_claims(jumps: DataFrame) -> Claims:
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
    # Smallest relative change of a derivative at a knot that counts as a jump. Rounding is far
    # below.
    least = 1e-3
    yield claim_at_least(sentence, after, least, of="derivatives")
