"""What theory says of Bezier and B-spline curves, measured: identities, jumps at knots, reach of a control point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.bezier import bezier_pieces, bezier_points, de_casteljau
from kanrun.engine.splines.least_squares import design_matrix
from kanrun.engine.splines.spline_curve import SplineCurve, clamped_knots

#: Parameters looked at in each interval, its left end and no right one among them.
PER_SPAN = 16


@dataclass(frozen=True)
class Jump:
    """The `derivative`-th derivative of a curve on both sides of a knot.

    `relative` is the largest difference over the dimensions as a share of that derivative's size on the curve.
    """

    derivative: int
    left: float
    right: float
    relative: float


@dataclass(frozen=True)
class Identities:
    """Largest deviations from what must hold, as shares of the control points' size; counts where counts are named."""

    casteljau: float  # de Casteljau's points from the sum of Bernstein polynomials
    partition: float  # sum of the basis functions from 1
    lowest: float  # smallest value of a basis function
    pieces: int  # Bezier pieces found
    pieces_expected: int  # control points less the degree
    reproduction: float  # the pieces from the curve
    most_spans: int  # spans that moving one control point changed, the most
    stray_samples: int  # samples outside that point's support that changed in any bit


def jumps(curve: SplineCurve, knot: float) -> list[Jump]:
    """The jumps of the derivatives 0 ... k of `curve` at a knot; left and right are those of its first dimension."""
    at = curve.knots.new_tensor([knot])
    t = samples(curve)
    found = []
    for derivative in range(curve.degree + 1):
        left, right = curve.points(at, derivative, "left")[0], curve.points(at, derivative)[0]
        size = curve.points(t, derivative).abs().max()
        found.append(Jump(derivative, float(left[0]), float(right[0]), float((right - left).abs().max() / size)))
    return found


def samples(curve: SplineCurve, per_span: int = PER_SPAN) -> Float[Tensor, " samples"]:
    """`per_span` parameters from the left end of every span on, span by span, and the end of the domain."""
    spans = curve.spans()
    steps = torch.arange(per_span, dtype=spans.dtype) / per_span
    inside = torch.lerp(spans[:, :1], spans[:, 1:], steps).flatten()
    return torch.cat([inside, spans[-1:, 1]])


def move_point(curve: SplineCurve, index: int, by: Float[Tensor, " dims"]) -> SplineCurve:
    """The curve with its control point `index` moved."""
    control = curve.control.clone()
    control[index] += by
    return SplineCurve(control, curve.knots, curve.degree)


def basis_on(curve: SplineCurve, t: Float[Tensor, " samples"]) -> Float[Tensor, "samples functions"]:
    """All basis functions of the curve at t."""
    return design_matrix(t[:, None], curve.grid)[0]


def random_curve(degree: int, control_points: int, generator: torch.Generator) -> SplineCurve:
    """A planar curve on [0, 1] with normal control points and simple knots at random."""
    gaps = 0.1 + torch.rand(control_points - degree, generator=generator, dtype=torch.float64)
    inner = (gaps.cumsum(0) / gaps.sum())[:-1]
    control = torch.randn(control_points, 2, generator=generator, dtype=torch.float64)
    return SplineCurve(control, clamped_knots(inner, 0.0, 1.0, degree), degree)


def with_multiple_knot(degree: int, multiplicity: int) -> SplineCurve:
    """A spline function on [0, 1] with uneven control points and the knots 1/4, 1/2 (`multiplicity` times) and 3/4."""
    inner = torch.tensor([0.25, *[0.5] * multiplicity, 0.75], dtype=torch.float64)
    index = torch.arange(inner.shape[0] + degree + 1, dtype=torch.float64)
    return SplineCurve(torch.cos(2 * index)[:, None], clamped_knots(inner, 0.0, 1.0, degree), degree)


def identities(curve: SplineCurve, moved: Float[Tensor, " dims"]) -> Identities:
    """All of the above on one curve with simple knots; each control point in turn is moved by `moved`."""
    size = float(curve.control.abs().max())
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    basis = basis_on(curve, samples(curve))
    pieces, ends = bezier_pieces(curve)
    t = torch.lerp(ends[:, :1], ends[:, 1:], u[:-1])  # without right ends, which belong to the next piece
    apart = torch.cat([de_casteljau(piece, u[:-1]) for piece in pieces]) - curve.points(t.flatten())
    reach = _reach(curve, moved)
    return Identities(
        casteljau=float((de_casteljau(curve.control, u) - bezier_points(curve.control, u)).abs().max()) / size,
        partition=float((basis.sum(1) - 1).abs().max()),
        lowest=float(basis.min()),
        pieces=pieces.shape[0],
        pieces_expected=curve.control.shape[0] - curve.degree,
        reproduction=float(apart.abs().max()) / size,
        most_spans=max(spans for spans, _ in reach),
        stray_samples=sum(stray for _, stray in reach),
    )


def _reach(curve: SplineCurve, by: Tensor) -> list[tuple[int, int]]:
    """For each control point that moves: spans that change, and samples outside its support that do."""
    t = samples(curve)
    before = curve.points(t).view(torch.int64)  # bit for bit
    found = []
    for index in range(curve.control.shape[0]):
        changed = (move_point(curve, index, by).points(t).view(torch.int64) != before).any(1)
        outside = (t < curve.knots[index]) | (t > curve.knots[index + curve.degree + 1])
        spans = changed[:-1].reshape(-1, PER_SPAN).any(1)
        found.append((int(spans.sum()), int((changed & outside).sum())))
    return found
