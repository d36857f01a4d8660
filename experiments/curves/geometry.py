"""Polynomials, B-spline curves and Bézier curves through and near points, with their identities.

Curves are scipy's `BSpline`: s(t) = sum_i c_i B_i(t) with n control points c_i (n, dims), knots t_0
<= ... <= t_{n+k} and degree k. Here the first and the last k + 1 knots are equal (clamped), so that
a curve runs from its first control point to its last. A knot of multiplicity m inside leaves it
C^(k - m) there; at a knot it takes the piece to the right. Sources: C. de Boor, A Practical Guide
to Splines, ch. IX-XIV; L. Piegl and W. Tiller, The NURBS Book, ch. 9; G. Farin, Curves and Surfaces
for CAGD, ch. 4-5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BPoly, BSpline, make_interp_spline, make_lsq_spline

from kanrun.errors import UsageError

Array = NDArray[np.float64]
#: Exponent of the distance of two points that gives the distance of their parameters.
SPACINGS = {"chord": 1.0, "centripetal": 0.5, "uniform": 0.0}
PER_SPAN = 16  # parameters looked at in each interval, its left end and no right one among them


def clamped_knots(inner: Sequence[float] | Array, low: float, high: float, degree: int) -> Array:
    """Return the knots `inner` with k + 1 equal knots at either end."""
    return np.concatenate(
        [np.full(degree + 1, low), np.asarray(inner, dtype=float), np.full(degree + 1, high)]
    )


def polynomial_through(x: Array, y: Array, at: Array) -> Array:
    """Return the polynomial of degree N - 1 through x (N), y (N, dims) at `at`: (samples, dims).

    By the first barycentric form, p = l(at) sum_j w_j y_j / (at - x_j) with l = prod_j (at - x_j),
    which is backward stable for any points (N. J. Higham, IMA J. Numer. Anal. 24, 2004). The second
    form, scipy's BarycentricInterpolator, is not: through 40 equispaced points of Runge's function
    it errs by 7e-8 of the polynomial's size and the first by 7e-12, through 80 it is infinite.
    Lengths are in quarters of the range, so that products neither overflow nor vanish: of more than
    1000 points they leave the range of a float64. The abscissae must differ.
    """
    # 64 bits of fraction on most processors
    nodes, values, places = (np.asarray(v, np.longdouble) for v in (x, y, at))
    quarter = np.ptp(nodes) / 4
    apart = (nodes[:, None] - nodes) / quarter
    np.fill_diagonal(apart, 1.0)
    away = (places[:, None] - nodes) / quarter
    hit = away == 0
    result = away.prod(1, keepdims=True) * ((1 / apart.prod(1) / np.where(hit, 1.0, away)) @ values)
    return np.asarray(
        np.where(hit.any(1, keepdims=True), values[hit.argmax(1)], result), dtype=np.float64
    )


def parameters_along(points: Array, spacing: str) -> Array:
    """Return parameters in [0, 1] with steps proportional to a power of the points' distances.

    Raises UsageError for fewer than 2 points, and where two neighbours are the same point.
    """
    if len(points) < 2:
        raise UsageError(f"A curve needs at least 2 points, not {len(points)}")
    distance = np.linalg.norm(np.diff(points, axis=0), axis=1)
    for row in np.flatnonzero(distance == 0):
        raise UsageError(
            f"Points {row + 1} and {row + 2} are the same. Remove one: neighbours must differ."
        )
    steps = np.concatenate([[0.0], distance ** SPACINGS[spacing]]).cumsum()
    return np.asarray(steps / steps[-1])


def check_parameters(parameters: Array) -> Array:
    """Return the parameters. Raises UsageError unless they are finite and strictly increase."""
    for row in np.flatnonzero(~(np.diff(parameters) > 0)):
        before, after = parameters[row : row + 2]
        raise UsageError(
            f"Parameters must increase strictly, but {after:g} (point {row + 2}) follows "
            f"{before:g} (point {row + 1})"
        )
    return parameters


def interpolate(parameters: Array, points: Array, degree: int) -> BSpline:
    """Return the curve with curve(parameters) = points, on knots that average k parameters.

    Every basis function then sees a point (Schoenberg and Whitney's condition).
    """
    inner = np.lib.stride_tricks.sliding_window_view(parameters, degree)[1:-1].mean(1)
    knots = clamped_knots(inner, parameters[0], parameters[-1], degree)
    return make_interp_spline(parameters, points, degree, t=knots)


def approximate(parameters: Array, points: Array, degree: int, control_points: int) -> BSpline:
    """Return the curve with that many control points that fits the points in least squares.

    Its knots leave as many points in each interval.
    """
    t = parameters
    count = len(points)
    intervals = control_points - degree
    if control_points == count:
        return interpolate(t, points, degree)
    position = np.arange(1, intervals) * count / intervals
    below = np.floor(position).astype(int)
    inner = t[below - 1] + (t[below] - t[below - 1]) * (position - below)
    return make_lsq_spline(t, points, clamped_knots(inner, t[0], t[-1], degree), degree)


def bernstein(u: Array, degree: int) -> Array:
    """Return the Bernstein polynomials binom(n, i) u^i (1 - u)^(n - i): (samples, n + 1)."""
    values: Array = BPoly(np.eye(degree + 1)[:, None], [0.0, 1.0])(u)
    return values


def de_casteljau(control: Array, u: Array) -> Array:
    """Return the points (samples, dims) at u, dividing the polygon's sides as u : 1 - u."""
    return np.broadcast_to(
        construction(control[:, None], u[:, None])[-1][0], (len(u), control.shape[1])
    )


def construction(control: Array, u: float | Array) -> list[Array]:
    """Return de Casteljau's points at u, level by level, from control points to the curve."""
    levels = [control]
    while len(levels[-1]) > 1:
        levels.append((1 - u) * levels[-1][:-1] + u * levels[-1][1:])
    return levels


def bezier_pieces(curve: BSpline) -> tuple[Array, Array]:
    """Return the polynomial pieces as Bézier curves: control points (pieces, k + 1, dims), ends.

    Knot insertion leaves the curve as it is; with every knot k-fold its control points are those of
    the pieces. With n control points and simple knots there are n - k of them; a knot of
    multiplicity m takes m - 1 away.
    """
    ends = spans(curve)
    for at in ends[1:, 0]:
        missing = curve.k - int((curve.t == at).sum())
        if missing > 0:
            curve = curve.insert_knot(at, missing)
    last = np.searchsorted(curve.t, ends[:, 0], side="right") - 1
    return curve.c[last[:, None] + np.arange(-curve.k, 1)], ends


def spans(curve: BSpline) -> Array:
    """Return the ends of all non-empty knot spans of the domain, shape (spans, 2)."""
    ends = np.unique(curve.t[curve.k : len(curve.c) + 1])
    return np.stack([ends[:-1], ends[1:]], axis=1)


def samples(curve: BSpline, per_span: int = PER_SPAN) -> Array:
    """Return `per_span` evenly spaced parameters of each span, and the end of the domain."""
    ends = spans(curve)
    inside = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.arange(per_span) / per_span
    return np.append(inside, ends[-1, 1])


def jumps(curve: BSpline, knot: float) -> Iterator[dict[str, float]]:
    """Yield the derivatives 0 ... k on both sides of a knot.

    `left` and `right` are those of the first dimension, `relative` is the largest difference over
    all dimensions as a share of that derivative's size on the curve.
    """
    for derivative in range(curve.k + 1):
        left = curve(np.nextafter(knot, -np.inf), derivative)
        right = curve(knot, derivative)
        relative = np.abs(right - left).max() / np.abs(curve(samples(curve), derivative)).max()
        sides = {"left": left[0], "right": right[0]}
        yield {"derivative": derivative, **sides, "relative": float(relative)}


def move_point(curve: BSpline, index: int, by: Array) -> BSpline:
    """Return the curve with its control point `index` moved."""
    control = curve.c.copy()
    control[index] += by
    return BSpline(curve.t, control, curve.k)


def basis_on(curve: BSpline, t: Array) -> Array:
    """Return all basis functions of the curve at t: (samples, functions)."""
    values: Any = BSpline.design_matrix(t, curve.t, curve.k).toarray()
    return np.asarray(values)


def random_curve(degree: int, control_points: int, draws: np.random.Generator) -> BSpline:
    """Return a planar curve on [0, 1] with normal control points and simple knots at random."""
    gaps = 0.1 + draws.random(control_points - degree)
    inner = (gaps.cumsum() / gaps.sum())[:-1]
    return BSpline(
        clamped_knots(inner, 0.0, 1.0, degree), draws.normal(size=(control_points, 2)), degree
    )


def with_multiple_knot(degree: int, multiplicity: int) -> BSpline:
    """Return a function on [0, 1] with the knots 1/4, 1/2 (`multiplicity` times) and 3/4."""
    inner = [0.25, *[0.5] * multiplicity, 0.75]
    control = np.cos(2 * np.arange(len(inner) + degree + 1.0))[:, None]
    return BSpline(clamped_knots(inner, 0.0, 1.0, degree), control, degree)


def identities(curve: BSpline, moved: Array) -> dict[str, float]:
    """Return the largest deviations from identities of a curve with simple knots, relative to it.

    `casteljau`: de Casteljau's points from the sum of Bernstein polynomials; `partition`: the sum
    of the basis from 1; `lowest`: smallest value of a basis function; `pieces` and
    `pieces_expected`: Bézier pieces found, and control points less the degree; `reproduction`: the
    pieces from the curve; `most_spans`: spans that moving one control point by `moved` changed, the
    most; `stray_samples`: samples outside its support that changed in any bit.
    """
    size = float(np.abs(curve.c).max())
    u = np.linspace(0, 1, 101)
    n = len(curve.c)
    t = samples(curve)
    basis = basis_on(curve, t)
    before = curve(t).view(np.int64)
    changed = np.stack(
        [(move_point(curve, i, moved)(t).view(np.int64) != before).any(1) for i in range(n)]
    )
    outside = (t < curve.t[:n, None]) | (t > curve.t[curve.k + 1 :, None])
    pieces, ends = bezier_pieces(curve)
    # The right end of a piece belongs to the next piece.
    inside = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * u[:-1]
    apart = np.stack([de_casteljau(piece, u[:-1]) for piece in pieces]) - curve(inside)
    sums = bernstein(u, n - 1) @ curve.c
    return {
        "casteljau": float(np.abs(de_casteljau(curve.c, u) - sums).max()) / size,
        "partition": float(np.abs(basis.sum(1) - 1).max()),
        "lowest": float(basis.min()),
        "pieces": len(pieces),
        "pieces_expected": n - curve.k,
        "reproduction": float(np.abs(apart).max()) / size,
        "most_spans": int(changed[:, :-1].reshape(n, -1, PER_SPAN).any(2).sum(1).max()),
        "stray_samples": int((changed & outside).sum()),
    }
