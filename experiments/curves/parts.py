"""The parts of `kanrun curves`: each yields its tables and rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch
from kanrun.experiments.curves import findings as judge
from kanrun.experiments.curves import inputs as study
from kanrun.experiments.curves.inputs import family, table

from kanrun.config import CurvesConfig
from kanrun.engine.splines import curve_properties as properties
from kanrun.engine.splines.bezier import bernstein, bezier_pieces, construction, de_casteljau
from kanrun.engine.splines.curve_fitting import approximate, interpolate
from kanrun.engine.splines.polynomial import PolynomialThrough
from kanrun.engine.splines.spline_curve import SplineCurve, clamped_knots
from kanrun.runs.records import Record, Row
from kanrun.study.resources import generator

UNIT = torch.linspace(0, 1, 401, dtype=torch.float64)


def equispaced(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """One polynomial through more and more points, and splines of every degree."""
    f = study.function_of(cfg)
    x, drawn = f.equispaced(8001), []

    def row(name: str, curve: str, degree: int, points: int, values: torch.Tensor) -> Row:
        return Row(name, {"curve": curve, "degree": degree, "points": points, **f.error(x, values)})

    for count in cfg.polynomial_points:
        nodes, better, degree = f.equispaced(count), f.chebyshev(count), min(cfg.degree, count - 1)
        polynomial = PolynomialThrough(nodes, f(nodes))(x)
        spline = interpolate(nodes, f(nodes), degree).points(x)
        drawn.append(torch.cat([torch.full_like(spline, count), x[:, None], f(x), polynomial, spline], 1)[::8])
        yield row("summary", "polynomial", count - 1, count, polynomial)
        yield row("summary", "polynomial, Chebyshev points", count - 1, count, PolynomialThrough(better, f(better))(x))
        yield row("summary", "spline", degree, count, spline)
    yield table("interpolation", "points x truth polynomial spline", torch.cat(drawn))
    for degree in cfg.degrees:
        curves = [interpolate(f.equispaced(count), f(f.equispaced(count)), degree) for count in cfg.spline_points]
        yield from (row("errors", "spline", degree, len(curve.control), curve.points(x)) for curve in curves)
        largest = [f.error(x, curve.points(x))["max_error"] for curve in curves]
        order = judge.fitted_order(cfg.spline_points, largest)
        yield Row("orders", {"degree": degree, "default_function": f.is_default, **order})


def lecture(_: CurvesConfig, __: int) -> Iterator[Record]:
    """The four points: a polynomial and a spline through them, a Bezier curve and a B-spline drawn by them."""
    points = study.lecture_points()
    at, values = points[:, 0], points[:, 1:]
    polynomial, spline = PolynomialThrough(at, values), interpolate(at, values, 2)
    quadratic = SplineCurve(points, clamped_knots(at.new_tensor([0.5]), 0.0, 1.0, 2), 2)
    x = at[0] + (at[-1] - at[0]) * UNIT
    yield table("lecture_points", "x y polynomial", points, polynomial(at))
    yield table("lecture_through", "x polynomial spline", x, polynomial(x), spline.points(x))
    drawn = de_casteljau(points, UNIT), quadratic.points(UNIT)
    yield table("lecture_drawn", "bezier_x bezier_y bspline_x bspline_y", *drawn)


def bezier(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """The Bernstein basis, and a Bezier curve's point by repeated division of lines."""
    control = study.bezier_of(cfg)
    basis = bernstein(UNIT, len(control) - 1)
    yield family("bernstein_basis", "function u value", torch.stack([UNIT.expand(len(control), -1), basis.T], 2))
    yield table("bezier_curve", "u x y", UNIT, de_casteljau(control, UNIT))
    levels = construction(control, cfg.parameter)
    number = torch.cat([torch.full((len(level),), i) for i, level in enumerate(levels)])
    yield table("de_casteljau", "level x y", number, torch.cat(levels))


def bspline(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """A B-spline curve: its basis, knots, control polygon and Bezier pieces, and what one control point moves."""
    curve = study.spline_of(cfg)
    moved = properties.move_point(curve, cfg.moved, study.moved_by(cfg))
    t = properties.samples(curve, 48)
    basis = properties.basis_on(curve, t)
    knots, times = curve.knots.unique(return_counts=True)
    pieces, _ends = bezier_pieces(curve)
    yield family("bspline_basis", "function t value", torch.stack([t.expand(basis.shape[1], -1), basis.T], 2))
    yield table("bspline_knots", "knot multiplicity x y", knots, times, curve.points(knots))
    yield table("bspline_control", "x y moved_x moved_y", curve.control, moved.control)
    yield table("local_control", "t x y moved_x moved_y", t, curve.points(t), moved.points(t))
    yield family("bezier_control", "piece x y", pieces)
    yield family("bezier_pieces", "piece x y", torch.stack([de_casteljau(piece, UNIT[::10]) for piece in pieces]))


def continuity(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """What derivatives jump at a knot of multiplicity 1 ... k."""
    for degree in sorted({*cfg.degrees, cfg.degree}):
        curves = [properties.with_multiple_knot(degree, m) for m in range(1, degree + 1)]
        for multiplicity, curve in enumerate(curves, 1):
            for jump in properties.jumps(curve, 0.5):
                yield Row("continuity", {"degree": degree, "multiplicity": multiplicity, **asdict(jump)})
        if degree == cfg.degree:
            drawn = [torch.stack([UNIT, curve.points(UNIT)[:, 0]], 1) for curve in curves]
            yield family("multiple_knots", "curve t value", torch.stack(drawn))


def planar(cfg: CurvesConfig, _: int) -> Iterator[Record]:
    """Curves in the plane: through all points, and near them with fewer control points."""
    given = study.planar_of(cfg)
    through = interpolate(given.parameters, given.points, cfg.degree)
    near = approximate(given.parameters, given.points, cfg.degree, given.control_points)
    t = properties.samples(through, max(2, 4000 // len(given.points)))
    yield table("planar_points", "t x y", given.parameters, given.points)
    yield table("planar_control", "x y", near.control)
    yield table("planar_curves", "t x y near_x near_y", t, through.points(t), near.points(t))
    for name, curve in (("planar, through the points", through), ("planar, near the points", near)):
        yield Row("summary", {"curve": name, "degree": cfg.degree, **study.distances(curve, given)})


def random_identities(_: CurvesConfig, seed: int) -> Iterator[Record]:
    """What must hold on any curve, on one random curve of each degree."""
    for degree in range(1, 13):
        draws = generator(seed, f"curve of degree {degree}")
        curve = properties.random_curve(degree, 2 * degree + 6, draws)
        step = torch.randn(2, generator=draws, dtype=torch.float64)
        yield Row("identities", {"degree": degree, **asdict(properties.identities(curve, step))})


PARTS = {
    "equispaced": equispaced, "lecture": lecture, "bezier": bezier, "bspline": bspline, "continuity": continuity,
    "planar": planar, "identities": random_identities,
}  # fmt: skip
