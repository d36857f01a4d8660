"""Bezier curves: Bernstein polynomials, de Casteljau's construction, and a B-spline curve as Bezier pieces.

A Bezier curve of degree n has n + 1 control points (n + 1, dims) and a parameter u in [0, 1]; outside it goes on as
the same polynomial. Knot insertion leaves a B-spline curve as it is and brings its control polygon nearer; with every
knot k-fold the control points are those of the Bezier pieces.
Sources: G. Farin, Curves and Surfaces for CAGD, ch. 4-5 and 8; W. Boehm, Inserting new knots into B-spline curves
(1980).
"""

from __future__ import annotations

from math import comb

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.spline_curve import SplineCurve
from kanrun.errors import UsageError

#: The largest binomial coefficients of higher degrees do not fit into a float64.
HIGHEST_DEGREE = 1000


def bernstein(u: Float[Tensor, "*batch"], degree: int) -> Float[Tensor, "*batch functions"]:
    """The degree + 1 Bernstein polynomials binom(n, i) u^i (1 - u)^(n - i) at u, in u's precision.

    Raises UsageError for a degree outside 0..1000.
    """
    if not 0 <= degree <= HIGHEST_DEGREE:
        raise UsageError(f"Bernstein polynomials have a degree from 0 to {HIGHEST_DEGREE}, not {degree}")
    # Worked out in float64: the binomial coefficients of degrees above 130 do not fit into a float32.
    t = u.double().unsqueeze(-1)
    index = torch.arange(degree + 1, dtype=t.dtype, device=t.device)
    binomials = torch.tensor([float(comb(degree, i)) for i in range(degree + 1)], dtype=t.dtype, device=t.device)
    values: Tensor = binomials * t**index * (1 - t) ** (degree - index)
    return values.to(u.dtype)


def bezier_points(control: Float[Tensor, "points dims"], u: Float[Tensor, " samples"]) -> Float[Tensor, "samples dims"]:
    """The curve's points at u as the sum of Bernstein polynomials times control points."""
    return bernstein(u, control.shape[0] - 1) @ control


def de_casteljau(control: Float[Tensor, "points dims"], u: Float[Tensor, " samples"]) -> Float[Tensor, "samples dims"]:
    """The curve's points at u by repeated division of the polygon's sides in the ratio u : 1 - u."""
    share = u[:, None, None]
    points = control.expand(u.shape[0], *control.shape)
    for _ in range(control.shape[0] - 1):
        points = (1 - share) * points[:, :-1] + share * points[:, 1:]
    return points[:, 0]


def construction(control: Float[Tensor, "points dims"], u: float) -> list[Tensor]:
    """De Casteljau's points at one u, level by level: the control points, ..., the point of the curve (1, dims)."""
    levels = [control]
    while levels[-1].shape[0] > 1:
        levels.append((1 - u) * levels[-1][:-1] + u * levels[-1][1:])
    return levels


def insert_knot(curve: SplineCurve, at: float) -> SplineCurve:
    """The same curve on its domain with one more knot at `at`, and one more control point (Boehm).

    At an end of the domain the control point that no longer reaches into it goes, with the knot furthest out.
    Raises UsageError outside the domain and where the knot has multiplicity `degree` + 1 already.
    """
    low, high = curve.domain
    if not low <= at <= high:
        raise UsageError(f"A knot can be inserted from {low:g} to {high:g}, not at {at:g}")
    knots, control, k = curve.knots, curve.control, curve.degree
    position = torch.tensor(at, dtype=knots.dtype, device=knots.device)
    after = int(torch.searchsorted(knots, position, right=True))  # knots[after - 1] <= at < knots[after]
    present = int((knots == position).sum())
    if present > k:
        raise UsageError(f"The knot {at:g} has multiplicity {present} already, the most that degree {k} has")
    moved = torch.arange(after - k, after - present, device=knots.device)  # the new points between old ones
    share = ((position - knots[moved]) / (knots[moved + k] - knots[moved]))[:, None]
    between = share * control[moved] + (1 - share) * control[moved - 1]
    new = torch.cat([control[: after - k], between, control[after - present - 1 :]])
    finer = torch.cat([knots[:after], position[None], knots[after:]])
    first, last = (1 if at == low else 0), (-1 if at == high else None)
    return SplineCurve(new[first:last], finer[first:last], k)


def bezier_pieces(curve: SplineCurve) -> tuple[Tensor, Tensor]:
    """Control points (pieces, k + 1, dims) and ends (pieces, 2) of the curve's polynomial pieces as Bezier curves.

    With n control points and simple knots there are n - k of them; a knot of multiplicity m takes m - 1 away.
    """
    breakpoints = curve.spans()
    for at in torch.cat([breakpoints[:, 0], breakpoints[-1:, 1]]).tolist():
        for _ in range(curve.degree - int((curve.knots == at).sum())):
            curve = insert_knot(curve, at)
    last = torch.searchsorted(curve.knots, breakpoints[:, 0].contiguous(), right=True) - 1
    window = last[:, None] + torch.arange(-curve.degree, 1, device=last.device)
    return curve.control[window], breakpoints
