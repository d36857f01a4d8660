"""The parts of `kanrun curves`: each yields its tables and rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from kanrun.experiments.curves import geometry, inputs
from kanrun.experiments.curves.findings import fitted_order
from kanrun.experiments.curves.geometry import Array, approximate, de_casteljau, interpolate, polynomial_through
from kanrun.experiments.curves.inputs import family, table
from scipy.interpolate import BSpline

from kanrun.config import CurvesConfig
from kanrun.runs.records import Record, Row

UNIT = np.linspace(0, 1, 401)


def equispaced(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """One polynomial through more and more points, and splines of every degree."""
    f = inputs.function_of(cfg)
    x, drawn = f.equispaced(8001), []

    def row(name: str, curve: str, degree: int, points: int, values: Array) -> Row:
        return Row(name, {"curve": curve, "degree": degree, "points": points, **f.error(x, values)})

    for count in cfg.polynomial_points:
        nodes, better, degree = f.equispaced(count), f.chebyshev(count), min(cfg.degree, count - 1)
        polynomial, spline = polynomial_through(nodes, f(nodes), x), interpolate(nodes, f(nodes), degree)(x)
        drawn.append(np.hstack([np.full_like(spline, count), x[:, None], f(x), polynomial, spline])[::8])
        yield row("summary", "polynomial", count - 1, count, polynomial)
        chebyshev = polynomial_through(better, f(better), x)
        yield row("summary", "polynomial, Chebyshev points", count - 1, count, chebyshev)
        yield row("summary", "spline", degree, count, spline)
    yield table("interpolation", "points x truth polynomial spline", np.concatenate(drawn))
    for degree in cfg.degrees:
        curves = [interpolate(f.equispaced(count), f(f.equispaced(count)), degree) for count in cfg.spline_points]
        yield from (row("errors", "spline", degree, len(curve.c), curve(x)) for curve in curves)
        order = fitted_order(cfg.spline_points, [f.error(x, curve(x))["max_error"] for curve in curves])
        yield Row("orders", {"degree": degree, "default_function": f.is_default, **order})


def lecture(_: CurvesConfig, __: int) -> Iterator[Record]:
    """The four points: a polynomial and a spline through them, a Bézier curve and a B-spline drawn by them."""
    points = inputs.lecture_points()
    at, values = points[:, 0], points[:, 1:]
    spline = interpolate(at, values, 2)
    quadratic = BSpline(geometry.clamped_knots([0.5], 0.0, 1.0, 2), points, 2)
    x = at[0] + (at[-1] - at[0]) * UNIT
    yield table("lecture_points", "x y polynomial", points, polynomial_through(at, values, at))
    yield table("lecture_through", "x polynomial spline", x, polynomial_through(at, values, x), spline(x))
    drawn = de_casteljau(points, UNIT), quadratic(UNIT)
    yield table("lecture_drawn", "bezier_x bezier_y bspline_x bspline_y", *drawn)


def bezier(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """The Bernstein basis, and a Bézier curve's point by repeated division of lines."""
    control = inputs.bezier_of(cfg)
    yield functions("bernstein_basis", "function u value", UNIT, geometry.bernstein(UNIT, len(control) - 1))
    yield table("bezier_curve", "u x y", UNIT, de_casteljau(control, UNIT))
    levels = geometry.construction(control, cfg.parameter)
    number = np.repeat(np.arange(len(levels)), [len(level) for level in levels])
    yield table("de_casteljau", "level x y", number, np.concatenate(levels))


def bspline(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """A B-spline curve: its basis, knots, control polygon and Bézier pieces, and what one control point moves."""
    curve = inputs.spline_of(cfg)
    moved = geometry.move_point(curve, cfg.moved, inputs.moved_by(cfg))
    t = geometry.samples(curve, 48)
    knots, times = np.unique(curve.t, return_counts=True)
    pieces, _ends = geometry.bezier_pieces(curve)
    yield functions("bspline_basis", "function t value", t, geometry.basis_on(curve, t))
    yield table("bspline_knots", "knot multiplicity x y", knots, times, curve(knots))
    yield table("bspline_control", "x y moved_x moved_y", curve.c, moved.c)
    yield table("local_control", "t x y moved_x moved_y", t, curve(t), moved(t))
    yield family("bezier_control", "piece x y", pieces)
    yield family("bezier_pieces", "piece x y", np.stack([de_casteljau(piece, UNIT[::10]) for piece in pieces]))


def continuity(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """Which derivatives jump at a knot of multiplicity 1 ... k."""
    for degree in sorted({*cfg.degrees, cfg.degree}):
        curves = [geometry.with_multiple_knot(degree, m) for m in range(1, degree + 1)]
        for multiplicity, curve in enumerate(curves, 1):
            for jump in geometry.jumps(curve, 0.5):
                yield Row("continuity", {"degree": degree, "multiplicity": multiplicity, **asdict(jump)})
        if degree == cfg.degree:
            yield functions("multiple_knots", "curve t value", UNIT, np.hstack([curve(UNIT) for curve in curves]))


def planar(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """Curves in the plane: through all points, and near them with fewer control points."""
    given = inputs.planar_of(cfg)
    through = interpolate(given.parameters, given.points, cfg.degree)
    near = approximate(given.parameters, given.points, cfg.degree, given.control_points)
    t = geometry.samples(through, max(2, 4000 // len(given.points)))
    yield table("planar_points", "t x y", given.parameters, given.points)
    yield table("planar_control", "x y", near.c)
    yield table("planar_curves", "t x y near_x near_y", t, through(t), near(t))
    for name, curve in (("planar, through the points", through), ("planar, near the points", near)):
        yield Row("summary", {"curve": name, "degree": cfg.degree, **given.distances(curve)})


def identities(_: CurvesConfig, seed: int) -> Iterator[Record]:
    """What must hold on any curve, on one random curve of each degree."""
    for degree in range(1, 13):
        draws = np.random.default_rng([seed, degree])
        curve = geometry.random_curve(degree, 2 * degree + 6, draws)
        yield Row("identities", {"degree": degree, **asdict(geometry.identities(curve, draws.normal(size=2)))})


def functions(name: str, columns: str, x: Array, values: Array) -> Record:
    """A table of several functions of x (samples) from their values (samples, functions)."""
    return family(name, columns, np.stack([np.broadcast_to(x, values.T.shape), values.T], 2))


PARTS = {
    "equispaced": equispaced, "lecture": lecture, "bezier": bezier, "bspline": bspline, "continuity": continuity,
    "planar": planar, "identities": identities,
}  # fmt: skip
