"""Polynomials, B-spline curves and Bézier curves through and near points, and their identities.

Curves are objects of scipy's `BSpline`: s(t) = sum_i c_i B_i(t) with degree k, n control points c_i
of shape (n, dims), and knots t_0 <= ... <= t_{n+k}. Here the first k + 1 knots are equal, and so
are the last k + 1 (clamped knots), so a curve runs from its first control point to its last. At an
inner knot of multiplicity m, the curve is C^(k - m) and is evaluated by the piece to the right.
Sources: C. de Boor, A Practical Guide to Splines, ch. IX-XIV; L. Piegl and W. Tiller, The NURBS
Book, ch. 9; G. Farin, Curves and Surfaces for CAGD, ch. 4-5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BPoly, BSpline, make_interp_spline, make_lsq_spline

from kanrun.errors import UsageError

Array = NDArray[np.float64]
#: For each spacing, the exponent p: the difference between two successive parameters is
#: proportional to the distance between their points, raised to the power p.
SPACINGS = {"chord": 1.0, "centripetal": 0.5, "uniform": 0.0}
PER_SPAN = 16  # number of samples per knot span, including its left end but not its right end


def clamped_knots(inner: Sequence[float] | Array, low: float, high: float, degree: int) -> Array:
    """Return the knot vector of a clamped spline: `inner`, with k + 1 equal knots at either end."""
    return np.concatenate(
        [np.full(degree + 1, low), np.asarray(inner, dtype=float), np.full(degree + 1, high)]
    )


def polynomial_through(x: Array, y: Array, at: Array) -> Array:
    """Evaluate the polynomial of degree N - 1 through N points.

    The first barycentric form p = l(at) sum_j w_j y_j / (at - x_j), l = prod_j (at - x_j), is
    backward stable for any points (N. J. Higham, IMA J. Numer. Anal. 24, 2004). The second form,
    which scipy's BarycentricInterpolator uses, is not: for 40 equispaced points of Runge's
    function, the error of the second form is 7e-8 of the polynomial's size, and the error of the
    first form is 7e-12; for 80 points, the second form is infinite. Lengths are measured in
    quarters of the range, so that the products neither overflow nor underflow for up to 1000
    points.

    Args:
        x: Different abscissae, shape (N,).
        y: Values, shape (N, dims).
        at: Abscissae at which to evaluate, shape (samples,).

    Returns:
        Values of the polynomial, shape (samples, dims).
    """
    # In extended precision: a long double has a fraction of 64 bits on most processors.
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
    """Return the parameters of the points of a curve, from 0 to 1, shape (points,).

    The difference of two successive parameters is proportional to a power of the distance of their
    points (see SPACINGS). Raises UsageError if there are fewer than 2 points, or if two successive
    points are equal.
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


def check_parameters(parameters: Array) -> None:
    """Raise UsageError unless the parameters are finite and strictly increase."""
    for row in np.flatnonzero(~(np.diff(parameters) > 0)):
        before, after = parameters[row : row + 2]
        raise UsageError(
            f"Parameters must increase strictly, but {after:g} (point {row + 2}) follows "
            f"{before:g} (point {row + 1})"
        )


def interpolate(parameters: Array, points: Array, degree: int) -> BSpline:
    """Return the B-spline curve with curve(parameters) = points.

    Its inner knots are means of `degree` successive parameters, so every basis function has a point
    in its support, and the curve is unique (the condition of Schoenberg and Whitney).
    """
    inner = np.lib.stride_tricks.sliding_window_view(parameters, degree)[1:-1].mean(1)
    knots = clamped_knots(inner, parameters[0], parameters[-1], degree)
    return make_interp_spline(parameters, points, degree, t=knots)


def approximate(parameters: Array, points: Array, degree: int, control_points: int) -> BSpline:
    """Return the B-spline curve with `control_points` control points that best fits the points.

    The fit minimises the sum of squared distances at `parameters`. Each knot interval contains
    about the same number of points.
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
    """Return the Bernstein polynomials binom(n, i) u^i (1 - u)^(n - i), shape (samples, n + 1)."""
    values: Array = BPoly(np.eye(degree + 1)[:, None], [0.0, 1.0])(u)
    return values


def de_casteljau(control: Array, u: Array) -> Array:
    """Return the points of a Bézier curve at the parameters `u`, shape (samples, dims).

    De Casteljau's construction repeatedly divides the sides of the polygon in the ratio u : 1 - u.
    """
    return np.broadcast_to(
        construction(control[:, None], u[:, None])[-1][0], (len(u), control.shape[1])
    )


def construction(control: Array, u: float | Array) -> list[Array]:
    """Return the points of de Casteljau's construction at `u`, one array per level.

    The first level has the control points, the last one the point of the curve.
    """
    levels = [control]
    while len(levels[-1]) > 1:
        levels.append((1 - u) * levels[-1][:-1] + u * levels[-1][1:])
    return levels


def bezier_pieces(curve: BSpline) -> tuple[Array, Array]:
    """Return the polynomial pieces of a curve as Bézier curves.

    Knots are inserted until each inner knot has multiplicity k. This does not change the curve, and
    its new control points are those of the pieces. A curve with n control points and simple knots
    has n - k pieces; a knot of multiplicity m removes m - 1 of them.

    Returns:
        Control points of the pieces, shape (pieces, k + 1, dims), and the ends of their parameter
        intervals, shape (pieces, 2).
    """
    ends = spans(curve)
    for at in ends[1:, 0]:
        missing = curve.k - int((curve.t == at).sum())
        if missing > 0:
            curve = curve.insert_knot(at, missing)
    last = np.searchsorted(curve.t, ends[:, 0], side="right") - 1
    return curve.c[last[:, None] + np.arange(-curve.k, 1)], ends


def spans(curve: BSpline) -> Array:
    """Return the ends of all non-empty knot spans in the domain, shape (spans, 2)."""
    ends = np.unique(curve.t[curve.k : len(curve.c) + 1])
    return np.stack([ends[:-1], ends[1:]], axis=1)


def samples(curve: BSpline, per_span: int = PER_SPAN) -> Array:
    """Return `per_span` evenly spaced parameters in each knot span, and the end of the domain."""
    ends = spans(curve)
    inside = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.arange(per_span) / per_span
    return np.append(inside, ends[-1, 1])


def jumps(curve: BSpline, knot: float) -> Iterator[dict[str, float]]:
    """Yield a row per derivative, from 0 to k, that compares its values on both sides of a knot.

    The columns `left` and `right` are its values in the first dimension on both sides.
    `relative` is the largest difference over all dimensions, divided by the largest value of the
    derivative on the curve.
    """
    for derivative in range(curve.k + 1):
        left = curve(np.nextafter(knot, -np.inf), derivative)
        right = curve(knot, derivative)
        relative = np.abs(right - left).max() / np.abs(curve(samples(curve), derivative)).max()
        sides = {"left": left[0], "right": right[0]}
        yield {"derivative": derivative, **sides, "relative": float(relative)}


def move_point(curve: BSpline, index: int, by: Array) -> BSpline:
    """Return the curve with the control point `index` moved by the vector `by`, shape (dims,)."""
    control = curve.c.copy()
    control[index] += by
    return BSpline(curve.t, control, curve.k)


def basis_on(curve: BSpline, t: Array) -> Array:
    """Return the values of all basis functions of the curve at `t`, shape (samples, functions)."""
    values: Any = BSpline.design_matrix(t, curve.t, curve.k).toarray()
    return np.asarray(values)


def random_curve(degree: int, control_points: int, draws: np.random.Generator) -> BSpline:
    """Return a planar curve on [0, 1] with random simple knots and normal random control points."""
    gaps = 0.1 + draws.random(control_points - degree)
    inner = (gaps.cumsum() / gaps.sum())[:-1]
    return BSpline(
        clamped_knots(inner, 0.0, 1.0, degree), draws.normal(size=(control_points, 2)), degree
    )


def with_multiple_knot(degree: int, multiplicity: int) -> BSpline:
    """Return a spline function on [0, 1] with the inner knots 1/4, 1/2 and 3/4.

    The knot 1/2 has the given multiplicity.
    """
    inner = [0.25, *[0.5] * multiplicity, 0.75]
    control = np.cos(2 * np.arange(len(inner) + degree + 1.0))[:, None]
    return BSpline(clamped_knots(inner, 0.0, 1.0, degree), control, degree)


def identities(curve: BSpline, moved: Array) -> dict[str, float]:
    """Check identities on a curve with simple knots.

    Returns:
        casteljau: Largest distance between de Casteljau's points and the sum of Bernstein
            polynomials, relative to the largest coordinate of the control points.
        partition: Largest deviation of the sum of all basis functions from 1.
        lowest: Smallest value of a basis function.
        pieces: Number of Bézier pieces.
        pieces_expected: Number of control points minus the degree.
        reproduction: Largest distance between the pieces and the curve, relative to the largest
            coordinate of the control points.
        most_spans: Largest number of knot spans that change if one control point is moved by
            `moved`.
        stray_samples: Number of samples that changed although they lie outside the support of the
            moved control point's basis function.
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
    # The right end of a piece is left out, because there `curve` evaluates the next piece.
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
