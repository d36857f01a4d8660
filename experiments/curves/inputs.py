"""What the settings of `kanrun curves` name (function, control points, knots, planar points), and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config import CurvesConfig
from kanrun.engine.splines import curve_fitting
from kanrun.engine.splines.polynomial import MOST_POINTS, chebyshev_points
from kanrun.engine.splines.spline_curve import SplineCurve, check_degree, clamped_knots
from kanrun.errors import UsageError
from kanrun.runs.records import Table
from kanrun.targets import GIVEN_POINTS, build_target, planar_points

#: Control points of the curve near the planar points, where the settings name none.
MOST_CONTROL_POINTS = 100


@dataclass(frozen=True)
class Function:
    """A function of one variable on [low, high]; maps (samples) to (samples, 1)."""

    values: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    low: float
    high: float
    is_default: bool

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.values(x[:, None].numpy()))

    def equispaced(self, count: int) -> Tensor:
        return torch.linspace(self.low, self.high, count, dtype=torch.float64)

    def chebyshev(self, count: int) -> Tensor:
        return self.low + (self.high - self.low) * (chebyshev_points(count) + 1) / 2

    def error(self, x: Tensor, values: Tensor) -> dict[str, float]:
        """The largest error of `values` at x, and its `place`: 0 in the middle of the interval, 1 at its ends."""
        distance = (values - self(x)).abs()
        place = (2 * float(x[int(distance.argmax())]) - self.low - self.high) / (self.high - self.low)
        return {"max_error": float(distance.max()), "place": abs(place)}


@dataclass(frozen=True)
class Planar:
    """Points (N, 2) with their parameters (N), and how many control points the curve near them has."""

    points: Tensor
    parameters: Tensor
    control_points: int


def check_settings(cfg: CurvesConfig, parts: Sequence[str]) -> None:
    """Raises UsageError for the first setting of the chosen parts that cannot work; reads the user's points to know."""
    if cfg.precision != "float64":
        raise UsageError("curves computes in float64; leave precision out.")
    if not cfg.parts or not set(cfg.parts) <= set(parts):
        raise UsageError(f"parts={cfg.parts} must name some of {', '.join(parts)}.")
    for name in ("parts", "degrees", "polynomial_points", "spline_points"):
        _check_different(name, getattr(cfg, name))
    for degree in (cfg.degree, *cfg.degrees):
        check_degree(degree, degree + 1)
    if not cfg.degrees:
        raise UsageError("degrees=[] must name at least one degree, such as degrees=[3].")
    if "equispaced" in cfg.parts:
        _check_equispaced(cfg)
    if "bezier" in cfg.parts:
        bezier_of(cfg)
        if not 0 <= cfg.parameter <= 1:
            raise UsageError(f"parameter={cfg.parameter} must lie in [0, 1].")
    if "bspline" in cfg.parts:
        spline_of(cfg)
        moved_by(cfg)
    if "planar" in cfg.parts:
        planar_of(cfg)


def _check_different(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{name} has {value} twice or more; name each once.")


def _check_equispaced(cfg: CurvesConfig) -> None:
    function_of(cfg)
    for name in ("polynomial_points", "spline_points"):
        if not getattr(cfg, name):
            raise UsageError(f"{name}=[] must name at least one number, such as {name}=[10].")
    for count in cfg.polynomial_points:
        if not 2 <= count <= MOST_POINTS:
            raise UsageError(
                f"polynomial_points has {count}; a polynomial here goes through 2 to {MOST_POINTS} points."
            )
    least, highest = min(cfg.spline_points), max(cfg.degrees)
    if least <= highest:
        raise UsageError(
            f"spline_points has {least}; a spline of degree {highest} goes through at least {highest + 1} points."
        )


def function_of(cfg: CurvesConfig) -> Function:
    """The function that polynomial and splines interpolate; raises UsageError unless it has one variable."""
    try:
        target, default = build_target(cfg.function), build_target(CurvesConfig().function)
    except UsageError as error:  # which names the key that other commands have
        raise UsageError(str(error).replace("target.domain", "function.domain")) from None
    if len(target.inputs) != 1 or target.function is None:
        raise UsageError(f"function.formula={cfg.function.formula} must be a formula of the one variable x0.")
    is_default = target.expression == default.expression and np.array_equal(target.domain, default.domain)
    return Function(target.function, float(target.domain[0, 0]), float(target.domain[0, 1]), is_default)


def lecture_points() -> Tensor:
    """The lecture's four points (4, 2)."""
    four = GIVEN_POINTS["lecture_points"]
    return torch.from_numpy(np.concatenate([four.x, four.y], axis=1))


def bezier_of(cfg: CurvesConfig) -> Tensor:
    """The control points (degree + 1, 2) of the Bezier curve."""
    return _polygon("bezier", cfg.bezier)


def spline_of(cfg: CurvesConfig) -> SplineCurve:
    """The planar B-spline curve on [0, 1], with the inner knots that the settings name or equally spaced ones."""
    control = _polygon("bspline", cfg.bspline)
    check_degree(cfg.degree, control.shape[0])
    needed = control.shape[0] - cfg.degree - 1
    inner = [i / (needed + 1) for i in range(1, needed + 1)] if cfg.knots is None else list(cfg.knots)
    if len(inner) != needed or sorted(inner) != inner or not all(0 < knot < 1 for knot in inner):
        raise UsageError(
            f"knots={inner} must be {needed} numbers between 0 and 1 that never decrease "
            "(control points less degree less 1); repeat one for a knot of higher multiplicity."
        )
    return SplineCurve(control, clamped_knots(control.new_tensor(inner), 0.0, 1.0, cfg.degree), cfg.degree)


def moved_by(cfg: CurvesConfig) -> Tensor:
    """By how much (2) the B-spline's control point number `moved` goes away from where it was."""
    count = len(cfg.bspline)
    if not 0 <= cfg.moved < count:
        raise UsageError(f"moved={cfg.moved} must be the number of a control point, 0 to {count - 1}.")
    return _points("by", [cfg.by], 1)[0]


def planar_of(cfg: CurvesConfig) -> Planar:
    """The user's points in the plane (or kanrun's own), parametrised."""
    found = planar_points(cfg.target)
    points = torch.from_numpy(found.points)
    if found.parameters is None:
        parameters = curve_fitting.parameters_along(points, cfg.spacing)
    else:
        parameters = curve_fitting.check_parameters(torch.from_numpy(found.parameters))
    count = points.shape[0]
    if count <= cfg.degree:
        raise UsageError(f"a curve of degree {cfg.degree} goes through at least {cfg.degree + 1} points, not {count}.")
    if cfg.control_points is None:
        return Planar(points, parameters, max(cfg.degree + 1, min(count // 2, MOST_CONTROL_POINTS)))
    check_degree(cfg.degree, cfg.control_points)
    if cfg.control_points > count:
        raise UsageError(f"control_points={cfg.control_points} must be at most {count}, the number of points.")
    return Planar(points, parameters, cfg.control_points)


def distances(curve: SplineCurve, given: Planar) -> dict[str, float]:
    """How many points and control points there are, and how far the curve at the parameters is from the points.

    The largest and the root mean square distance, in the points' units.
    """
    apart = (curve.points(given.parameters) - given.points).norm(dim=1)
    return {
        "points": len(given.points),
        "control_points": len(curve.control),
        "size": float((given.points.amax(0) - given.points.amin(0)).norm()),
        "max_distance": float(apart.max()),
        "rms_distance": float(apart.square().mean().sqrt()),
    }


def table(name: str, columns: str, *values: Tensor) -> Table:
    """A table of the named columns from (rows, columns) side by side; one-dimensional values are one column."""
    whole = torch.cat([v if v.ndim == 2 else v[:, None] for v in values], dim=1)
    return Table(name, {key: whole[:, i].numpy() for i, key in enumerate(columns.split())})


def family(name: str, columns: str, values: Tensor) -> Table:
    """A table of several curves (curves, rows, columns - 1), the first column numbering them."""
    number = torch.arange(values.shape[0]).repeat_interleave(values.shape[1])
    return table(name, columns, number, values.flatten(0, 1))


def _polygon(name: str, values: Any) -> Tensor:
    """The points (n, 2) of a control polygon, at least two of them different."""
    points = _points(name, values, 2)
    if (points == points[0]).all():
        raise UsageError(f"{name} has {len(points)} times the same point; a curve needs different control points.")
    return points


def _points(name: str, values: Any, least: int) -> Tensor:
    """A list of pairs of numbers as a tensor (points, 2)."""
    rows = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    for row in rows:
        pair = isinstance(row, Sequence) and len(row) == 2
        if not pair or not all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in row):
            raise UsageError(f"{name} has {row}, where a point is needed: two finite numbers, such as [1, 2.5].")
    if len(rows) < least:
        raise UsageError(f"{name} must be a list of at least {least} points, not {values}.")
    return torch.tensor(rows, dtype=torch.float64)
