"""Settings of `kanrun curves`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config import (
    DISTINCT,
    MISSING,
    Count,
    ExperimentConfig,
    Natural,
    NonEmpty,
    copied,
    experiment,
)
from kanrun.targets.settings import ExpressionTarget, PointsTarget

CurvesPart = Literal[
    "equispaced", "lecture", "bezier", "bspline", "continuity", "planar", "identities"
]
Coordinate = Annotated[float, Meta(ge=-1e300, le=1e300)]
ControlPoints = Annotated[
    list[Annotated[list[Coordinate], Meta(min_length=2, max_length=2)]], Meta(min_length=2)
]


@experiment(
    "curves",
    "Draw curves through points: polynomials, Bézier, B-splines.",
    examples=(
        "kanrun curves",
        "kanrun curves 'parts=[planar]' target.path=points.csv control_points=12",
        "kanrun curves 'polynomial_points=[5,10,15]' 'function.formula=abs(x0)'",
        "kanrun curves study=multiplicity",
    ),
    figures=(
        "interpolation",
        "errors",
        "lecture_points",
        "bernstein_basis",
        "de_casteljau",
        "bspline_basis",
        "bspline_pieces",
        "local_control",
        "continuity",
        "planar",
    ),
)
@dataclass
class CurvesConfig(ExperimentConfig):
    """`kanrun curves`; points are lists of [x, y]. Only the part `identities` uses the seed."""

    target: Annotated[Any, "points of the plane"] = copied(PointsTarget())
    parts: Annotated[NonEmpty[CurvesPart], "parts to run", DISTINCT] = copied(
        list(get_args(CurvesPart))
    )
    function: Annotated[ExpressionTarget, "function of the one variable x0"] = copied(
        ExpressionTarget("1/(1 + 25*x0^2)")
    )
    polynomial_points: Annotated[
        NonEmpty[Annotated[int, Meta(ge=2, le=1000)]],
        "numbers of points that polynomials interpolate",
        DISTINCT,
    ] = copied([10, 20, 40])
    spline_points: Annotated[
        NonEmpty[int], "numbers of points that splines interpolate", DISTINCT
    ] = copied([10, 14, 20, 28, 40, 57, 80, 113, 160])
    degree: Annotated[Count, "degree of the drawn B-splines"] = 3
    degrees: Annotated[NonEmpty[Count], "degrees of the compared B-splines", DISTINCT] = copied(
        [1, 2, 3, 4, 5]
    )
    bezier: Annotated[
        ControlPoints,
        "control points, one more than the degree",
    ] = MISSING
    bspline: Annotated[
        ControlPoints,
        "control points",
    ] = MISSING
    knots: Annotated[
        list[Annotated[float, Meta(gt=0, lt=1)]] | None,
        "knots inside (0, 1), which may repeat; null is equally spaced",
    ] = None
    moved_point: Annotated[Natural, "moving control point of the B-spline, counted from 0"] = 4
    displacement: Annotated[
        list[Coordinate],
        Meta(min_length=2, max_length=2),
        "displacement of this control point",
    ] = copied([0.0, 1.5])
    spacing: Annotated[
        Literal["chord", "centripetal", "uniform"], "parameters of planar points"
    ] = "chord"
    control_points: Annotated[
        int | None,
        "control points of the curve near the planar points; null is half of those, at most 100",
    ] = None
