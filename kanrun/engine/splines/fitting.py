"""Least squares fits of splines, divided differences of coefficients, and changes of grids.

Fits are computed in float64. The systems are often rank deficient (basis functions without data,
repeated points), so the solution of the smallest norm is taken: singular values below
1e-13 times the largest count as zero.

If a grid contains the old breakpoints, it can represent the same function. Each new coefficient is
a weighted mean of k + 1 old ones (the Oslo algorithm). The weights are non-negative if the support
of the new basis function begins inside the domain, so rounding errors do not grow even if intervals
have very different widths.
Source: E. Cohen, T. Lyche and R. Riesenfeld, Discrete B-splines (1980).
"""

from __future__ import annotations

from dataclasses import replace
from math import factorial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.splines.basis import local_basis, near_knots, widen
from kanrun.engine.splines.knots import SPACING_ROUNDINGS, Coefficients, Grid, Inputs, find_interval
from kanrun.engine.splines.products import dense_rows, spline_values


def difference_bands(
    grid: Grid, order: int | None = None
) -> Float[Tensor, "inputs differences terms"]:
    """Return the rows of the smoothness penalty, without their zeros.

    Row i is the divided difference sqrt(h_i) m! [xi_i ... xi_{i+m}] of order m = `order` at the
    Greville abscissae xi, with the domain scaled to [0, 1]. The rows approximate the m-th
    derivative; see `kanrun.engine.training.objective`. With the default order, degree + 2, errors
    decrease as fast with the number of intervals as without the penalty.

    Returns:
        For each row i, the m + 1 numbers by which coefficients i to i + m are multiplied. There are
        no rows if G + k <= m.
    """
    order = order or grid.degree + 2
    points = (greville(grid) - grid.low[:, None]) / (grid.high - grid.low)[:, None]
    inputs, functions = points.shape
    if functions <= order:
        return points.new_zeros(inputs, 0, order + 1)
    bands = points.new_ones(inputs, functions, 1)
    for d in range(1, order + 1):
        spacing = points[:, d:] - points[:, :-d]
        bands = (pad(bands[:, 1:], (1, 0)) - pad(bands[:, :-1], (0, 1))) / spacing[..., None]
    return bands * (factorial(order) * (spacing / order).sqrt())[..., None]


def difference_operator(
    grid: Grid, order: int | None = None
) -> Float[Tensor, "inputs differences functions"]:
    """Return `difference_bands` as a dense matrix that acts on the coefficients of each input."""
    bands = difference_bands(grid, order)
    matrix = bands.new_zeros(*bands.shape[:2], grid.functions)
    return matrix.scatter_(2, difference_columns(bands).expand_as(bands), bands)


def difference_columns(
    bands: Float[Tensor, "inputs differences terms"],
) -> Int[Tensor, "differences terms"]:
    """Return the index of the coefficient that each entry of `bands` multiplies."""
    rows = torch.arange(bands.shape[1], device=bands.device)[:, None]
    return rows + torch.arange(bands.shape[2], device=bands.device)


def greville(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Return the Greville abscissae, the means of the k inner knots of each basis function."""
    if grid.degree == 0:
        return (grid.knots[:, :-1] + grid.knots[:, 1:]) / 2
    return grid.knots.unfold(1, grid.degree, 1)[:, 1 : 1 + grid.functions].mean(-1)


def design_matrix(
    x: Inputs, grid: Grid, derivative: int = 0
) -> Float[Tensor, "inputs samples functions"]:
    """Return the values of all basis functions at x, one matrix per input."""
    values, interval = local_basis(x, grid, derivative)
    return dense_rows(values, interval, grid.functions).transpose(0, 1)


def fit_coefficients(x: Inputs, y: Float[Tensor, "samples out inputs"], grid: Grid) -> Coefficients:
    """Fit splines by least squares: the spline of output o and input i to y[:, o, i] at x[:, i]."""
    at = x.double()
    fine = grid.double()
    values = y.double().permute(2, 0, 1)  # (inputs, samples, out)
    design = design_matrix(at, fine).cpu()
    # Singular values below this fraction of the largest count as zero.
    tolerance = 1e-13
    solved = torch.linalg.lstsq(design, values.cpu(), rcond=tolerance, driver="gelsd")
    solution: Tensor = solved.solution
    return solution.permute(2, 0, 1).to(y)


def sample_points(grid: Grid, per_interval: int) -> Inputs:
    """Return the ends of the grid, and the midpoints of `per_interval` parts of each interval."""
    points = grid.breakpoints
    ends = torch.arange(per_interval + 1, dtype=points.dtype, device=points.device) / per_interval
    shares = (ends[:-1] + ends[1:]) / 2
    inner = torch.lerp(points[:, :-1, None], points[:, 1:, None], shares).flatten(1)
    return torch.cat([points[:, :1], inner, points[:, -1:]], dim=1).T


def contains(fine: Grid, coarse: Grid) -> bool:
    """Return whether `fine` has every breakpoint of `coarse`, and the same domain and degree."""
    old = coarse.breakpoints
    new = fine.breakpoints
    if fine.degree != coarse.degree or new.shape[1] < old.shape[1]:
        return False
    miss = (new.gather(1, _nearest(new, old)) - old).abs()
    size = torch.maximum(old.abs().amax(1), old[:, -1] - old[:, 0])
    tolerance = SPACING_ROUNDINGS * torch.finfo(old.dtype).eps * size[:, None]
    ends = (new[:, [0, -1]] - old[:, [0, -1]]).abs()
    return bool((miss <= tolerance).all() and (ends <= tolerance).all())


def _nearest(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the index of the `fine` breakpoint that is nearest to each `coarse` breakpoint."""
    right = torch.searchsorted(fine.contiguous(), coarse.contiguous()).clamp(1, fine.shape[1] - 1)
    left_nearer = coarse - fine.gather(1, right - 1) < fine.gather(1, right) - coarse
    return right - left_nearer.long()


def insert_knots(
    coefficients: Coefficients, coarse: Grid, fine: Grid
) -> Float[Tensor, "out inputs finer"]:
    """Return the coefficients of the same splines on `fine`, which must contain `coarse`.

    Exact up to rounding: errors on the domain are about 1e-15 times the splines' largest value, for
    any spacing. The error of the slope at an end, which the linear continuation uses, is this error
    divided by the width of the end interval.
    """
    # The old breakpoints are used where new ones coincide with them, because rounding may move a
    # new one to the other side.
    k = coarse.degree
    old = coarse.breakpoints
    knots = fine.knots.clone()
    knots[:, k : knots.shape[1] - k].scatter_(1, _nearest(fine.breakpoints, old), old)
    # The first k basis functions begin outside the domain. If the spline is mirrored, they begin
    # inside.
    mirrored = replace(coarse, knots=-coarse.knots.flip(1))
    left = _means(coefficients.flip(2), mirrored, -knots.flip(1)).flip(2)
    return torch.cat([left[..., :k], _means(coefficients, coarse, knots)[..., k:]], 2)


def _means(coefficients: Tensor, coarse: Grid, knots: Tensor) -> Tensor:
    """Return coefficients on the finer `knots` as weighted means of the old coefficients.

    They are exact for basis functions whose support begins inside the domain. The weights follow
    from the recurrence of the basis, evaluated in each degree at the next inner knot of the new
    function's support.
    """
    k = coarse.degree
    count = knots.shape[1] - coarse.degree - 1
    piece = find_interval(((knots[:, :count] + knots[:, 1 : count + 1]) / 2).T, coarse).T
    near = near_knots(piece.T, coarse).mT
    weights = torch.ones_like(knots[None, :, :count])
    for d in range(1, k + 1):
        argument = knots[:, d : d + count]
        upper = near[k : k + d]
        lower = near[k - d : k]
        share = weights / (upper - lower)
        weights = widen((upper - argument) * share, (argument - lower) * share)
    index = torch.stack([piece + p for p in range(k + 1)]).expand(len(coefficients), *weights.shape)
    return (weights * coefficients[:, None].expand(-1, k + 1, -1, -1).gather(3, index)).sum(1)


def carry_coefficients(
    coefficients: Coefficients, old: Grid, new: Grid
) -> tuple[Float[Tensor, "out inputs finer"], str]:
    """Transfer splines in float64 to another grid.

    Returns:
        The coefficients on `new`, and the method: "insertion" (exact) if `new` contains the old
        breakpoints, otherwise "least squares". The latter fits the new splines to the old ones at
        points of the new grid. Where the new grid is wider, the old splines are extrapolated.
    """
    if contains(new, old):
        return insert_knots(coefficients, old, new), "insertion"
    greville_points = greville(new).T.clamp(new.low, new.high)
    # Number of points per interval at which a spline is sampled to be fitted on another grid.
    per_interval = 3
    x = torch.cat([sample_points(new, per_interval), greville_points])
    return fit_coefficients(x, spline_values(x, coefficients, old), new), "least squares"
