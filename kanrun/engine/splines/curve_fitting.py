"""B-spline curves through given points, and near them with fewer control points.

A point's parameter says where along the curve it lies. Knots follow the parameters, so that every basis function sees
data (Schoenberg and Whitney's condition) and the systems have one solution.
Sources: C. de Boor, A Practical Guide to Splines, ch. XIII-XIV; L. Piegl and W. Tiller, The NURBS Book, ch. 9.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import solve_banded
from torch import Tensor

from kanrun.engine.splines.basis import local_basis
from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.least_squares import fit_coefficients
from kanrun.engine.splines.spline_curve import SplineCurve, check_degree, clamped_knots
from kanrun.errors import UsageError

#: What power of the distance of two points separates their parameters.
SPACINGS = {"chord": 1.0, "centripetal": 0.5, "uniform": 0.0}
#: Numbers in the dense matrix of a least squares fit (4 GB).
LARGEST_FIT = 500_000_000


def parameters_along(points: Float[Tensor, "points dims"], spacing: str = "chord") -> Float[Tensor, " points"]:
    """Parameters from 0 to 1 whose steps are the distances of neighbouring points to the power of `spacing`.

    Raises UsageError for fewer than 2 points, for an unknown spacing and where two neighbours are the same point.
    """
    if spacing not in SPACINGS:
        raise UsageError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing}")
    if points.shape[0] < 2:
        raise UsageError(f"A curve needs at least 2 points, not {points.shape[0]}")
    distance = points.diff(dim=0).norm(dim=1)
    same = (distance == 0).nonzero()
    if same.numel():
        row = int(same[0, 0]) + 1
        raise UsageError(f"Points {row} and {row + 1} are the same: a curve needs different neighbours, remove one")
    steps = torch.cat([distance.new_zeros(1), distance ** SPACINGS[spacing]]).cumsum(0)
    return check_parameters(steps / steps[-1])


def check_parameters(parameters: Float[Tensor, " points"]) -> Float[Tensor, " points"]:
    """The parameters themselves; raises UsageError where they are not strictly increasing or not finite."""
    wrong = (~(parameters.diff() > 0)).nonzero()
    if wrong.numel():
        row = int(wrong[0, 0])
        before, after = float(parameters[row]), float(parameters[row + 1])
        raise UsageError(
            f"Parameters must increase strictly, but {after:g} (point {row + 2}) follows {before:g} (point {row + 1})"
        )
    return parameters


def interpolate(parameters: Float[Tensor, " points"], points: Float[Tensor, "points dims"], degree: int) -> SplineCurve:
    """The curve of `degree` with points(parameters) = points, on knots that are means of k neighbouring parameters.

    A banded system, so that the cost grows as N k^2. Raises UsageError for unordered or repeated parameters, a degree
    below 1 and degree + 1 > N.
    """
    check_degree(degree, points.shape[0])
    t = check_parameters(parameters)
    inner = t.unfold(0, degree, 1)[1:-1].mean(1)
    knots = clamped_knots(inner, float(t[0]), float(t[-1]), degree)
    values, interval = local_basis(t[:, None], Grid(knots[None], degree))
    row = torch.arange(t.shape[0])[:, None].expand(-1, degree + 1)
    column = interval + torch.arange(degree + 1)
    inside = (row - column).abs() <= degree  # what lies outside the band is zero
    band = np.zeros((2 * degree + 1, t.shape[0]))
    band[(degree + row - column)[inside].numpy(), column[inside].numpy()] = values[:, 0][inside].numpy()
    control = solve_banded((degree, degree), band, points.numpy())
    return SplineCurve(torch.from_numpy(control), knots, degree)


def approximate(
    parameters: Float[Tensor, " points"], points: Float[Tensor, "points dims"], degree: int, control_points: int
) -> SplineCurve:
    """The curve of `degree` with that many control points that is nearest to the points in least squares.

    Raises UsageError as `interpolate` does, and for more control points than points.
    """
    check_degree(degree, control_points)
    t, count = check_parameters(parameters), points.shape[0]
    if control_points > count:
        raise UsageError(f"control_points is {control_points}, but there are {count} points; take at most that many")
    if control_points * count > LARGEST_FIT:
        raise UsageError(f"{control_points} control points for {count} points are too many for one least squares fit")
    if control_points == count:
        return interpolate(parameters, points, degree)
    intervals = control_points - degree
    position = torch.arange(1, intervals, dtype=t.dtype) * count / intervals  # as many points in each interval
    below = position.floor().long()
    inner = torch.lerp(t[below - 1], t[below], position - below)
    knots = clamped_knots(inner, float(t[0]), float(t[-1]), degree)
    fitted = fit_coefficients(t[:, None], points[:, :, None], Grid(knots[None], degree))
    return SplineCurve(fitted[:, 0].T.contiguous(), knots, degree)
