"""The parts of `kanrun curves`. Each part is a function of (settings, seed) that yields records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.interpolate import BSpline

from kanrun.errors import UsageError
from kanrun.runs.records import Records, Row, Table, Value
from kanrun.study.suite import exponent
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

#: Smallest number of points of the splines to whose errors an order of convergence is fitted.
#: Splines with fewer points do not yet follow the function; they are used only if fewer than two
#: splines have this many points.
FIRST_FITTED = 40
#: Errors up to this count as rounding and are left out when an order is fitted.
ROUNDING = 1e-12
#: Largest default number of control points of the curve near the planar points.
MAX_CONTROL_POINTS = 100
#: Number of points at which the error of an interpolant is measured.
SAMPLES = 8001
#: Of the points at which the error is measured, one in this many is drawn.
DRAWN = 8
#: Approximate number of points at which planar curves are drawn.
PLANAR_SAMPLES = 4000
#: Number of points at which a B-spline curve is drawn, per knot span.
SPAN_SAMPLES = 48
#: Degrees of the random curves on which identities are checked.
CHECKED = range(1, 13)
#: A random curve of degree k has 2 k + FURTHER control points.
FURTHER = 6
#: Parameters from 0 to 1 at which curves are drawn.
UNIT = np.linspace(0, 1, 401)
#: Maximum number of entries in the matrix of a least squares fit.
MAX_FIT = 500_000_000


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


def check_settings(cfg: CurvesConfig) -> None:
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
    if near is None:
        near = max(cfg.degree + 1, min(count // 2, MAX_CONTROL_POINTS))
    check_degree(cfg.degree, near)
    if near > count:
        raise UsageError(f"control_points={near} must be at most {count}, the number of points.")
    if cfg.control_points is not None and near * count > MAX_FIT:
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
    x = f.equispaced(SAMPLES)
    drawn = []

    def row(name: str, curve: str, degree: int, points: int, values: Array) -> Row:
        return Row(name, {"curve": curve, "degree": degree, "points": points, **f.error(x, values)})

    for count in cfg.polynomial_points:
        nodes = f.equispaced(count)
        better = f.chebyshev(count)
        degree = min(cfg.degree, count - 1)
        through = polynomial_through(nodes, f(nodes), x)
        spline = interpolate(nodes, f(nodes), degree)(x)
        columns = np.full_like(spline, count), x[:, None], f(x), through, spline
        drawn.append(np.hstack(columns)[::DRAWN])
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
    levels = geometry.construction(control, cfg.parameter)
    number = np.repeat(np.arange(len(levels)), [len(level) for level in levels])
    yield table("de_casteljau", "level x y", number, np.concatenate(levels))


def bspline(cfg: CurvesConfig, _: int) -> Records:
    """Yield a B-spline curve's basis, knots and pieces, and the effect of a moved control point."""
    curve = spline_of(cfg)
    moved = geometry.move_point(curve, cfg.moved_point, np.array(cfg.displacement))
    t = geometry.samples(curve, SPAN_SAMPLES)
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
    t = geometry.samples(through, max(2, PLANAR_SAMPLES // len(points)))
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
    for degree in CHECKED:
        draws = np.random.default_rng([seed, degree])
        curve = geometry.random_curve(degree, 2 * degree + FURTHER, draws)
        deviations = geometry.identities(curve, draws.normal(size=2))
        yield Row("identities", {"degree": degree, **deviations})


def fitted_order(points: Sequence[int], errors: Sequence[float]) -> dict[str, float | None]:
    """Fit the order of convergence: the slope of log error against log spacing.

    Return `order`, and `first_points` and `last_points`, the range of numbers of points that is
    fitted. All are None if fewer than two numbers of points can be used. The order is NaN if an
    error is NaN.
    """
    table = DataFrame({"points": points, "error": errors}, dtype=float)
    fine = table[table["points"] >= FIRST_FITTED]
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
