"""Splines through given values, divided differences of coefficients, exact changes of knots.

Fits are by least squares in float64. Systems here are often rank deficient (basis functions without
data, repeated points), so the smallest solution is taken: components below a relative singular
value of `RANK_TOLERANCE` are left out. Large systems of full rank go to scipy's banded QR
factorisation, O(samples k^2) an input.

A grid that contains the old breakpoints carries the same function. Each new coefficient is a mean
of k + 1 old ones (the Oslo algorithm). Its weights are not negative where the function's support
begins in the domain, so that no rounding grows however unequal the intervals are.
Source: E. Cohen, T. Lyche and R. Riesenfeld, Discrete B-splines (1980).
"""

from __future__ import annotations

from dataclasses import replace
from math import factorial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.splines.basis import local_basis, near_knots, widen
from kanrun.engine.splines.knots import SPACING_ROUNDINGS, Coefficients, Grid, Inputs, find_interval
from kanrun.engine.splines.products import dense_rows, spline_values

#: Relative singular value below which a component is left out.
RANK_TOLERANCE = 1e-13
#: Multiplications above which a dense factorisation, with all its zeros, takes longer than about a
#: second.
DENSE_WORK = 1 << 27
#: Points of each interval at which a spline is carried to another grid by least squares.
POINTS_PER_INTERVAL = 3


def difference_bands(
    grid: Grid, order: int | None = None
) -> Float[Tensor, "inputs differences terms"]:
    """Return the m + 1 non-zeros of sqrt(h_i) m! [xi_i ... xi_{i+m}], at coefficients i to i + m.

    There are none if G + k <= m. The default order m = degree + 2 keeps the full order of
    convergence.

    See `kanrun.engine.training.objective`; the Greville abscissae xi are those of the domain
    scaled to [0, 1].
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
    """Return the same as a matrix on the coefficients of each input."""
    bands = difference_bands(grid, order)
    matrix = bands.new_zeros(*bands.shape[:2], grid.functions)
    return matrix.scatter_(2, difference_columns(bands).expand_as(bands), bands)


def difference_columns(
    bands: Float[Tensor, "inputs differences terms"],
) -> Int[Tensor, "differences terms"]:
    """Return the coefficient of each non-zero."""
    at = torch.arange(bands.shape[1], device=bands.device)[:, None]
    return at + torch.arange(bands.shape[2], device=bands.device)


def greville(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Return Greville abscissae, the means of the k knots inside each support."""
    if grid.degree == 0:
        return (grid.knots[:, :-1] + grid.knots[:, 1:]) / 2
    return grid.knots.unfold(1, grid.degree, 1)[:, 1 : 1 + grid.functions].mean(-1)


def design_matrix(
    x: Inputs, grid: Grid, derivative: int = 0
) -> Float[Tensor, "inputs samples functions"]:
    """Return dense basis values, one matrix for each input."""
    values, interval = local_basis(x, grid, derivative)
    return dense_rows(values, interval, grid.functions).transpose(0, 1)


def fit_coefficients(x: Inputs, y: Float[Tensor, "samples out inputs"], grid: Grid) -> Coefficients:
    """Return the coefficients whose spline at x[:, i] is nearest to y[:, :, i], by float64."""
    at, fine = x.double(), grid.double()
    values = y.double().permute(2, 0, 1)  # (inputs, samples, out)
    found = None
    if x.numel() * grid.functions**2 > DENSE_WORK:
        found = _banded_solution(at, values, fine)
    if found is None:
        design, right = design_matrix(at, fine).cpu(), values.cpu()
        solved = torch.linalg.lstsq(design, right, rcond=RANK_TOLERANCE, driver="gelsd")
        found = solved.solution.to(values)
    return found.permute(2, 0, 1).to(y.dtype)


def _banded_solution(
    x: Inputs, values: Float[Tensor, "inputs samples out"], grid: Grid
) -> Float[Tensor, "inputs functions out"] | None:
    """Return scipy's least squares splines.

    None if points lie outside the grid or are too few for full rank.
    """
    from scipy.interpolate import make_lsq_spline

    order, found = x.argsort(0), []
    for i, knots in enumerate(grid.knots.cpu().numpy()):
        at, y = x[order[:, i], i].cpu().numpy(), values[i, order[:, i]].cpu().numpy()
        try:
            found.append(
                torch.from_numpy(make_lsq_spline(at, y, knots, grid.degree, method="qr").c)
            )
        except (ValueError, np.linalg.LinAlgError):
            return None
    solution = torch.stack(found).to(values)
    return solution if bool(solution.isfinite().all()) else None


def sample_points(grid: Grid, per_interval: int) -> Inputs:
    """Return `per_interval` midpoints of every interval and both ends, a column for each input."""
    points = grid.breakpoints
    ends = torch.arange(per_interval + 1, dtype=points.dtype, device=points.device) / per_interval
    shares = (ends[:-1] + ends[1:]) / 2
    inner = torch.lerp(points[:, :-1, None], points[:, 1:, None], shares).flatten(1)
    return torch.cat([points[:, :1], inner, points[:, -1:]], dim=1).T


def contains(fine: Grid, coarse: Grid) -> bool:
    """Return whether every breakpoint of `coarse` is one of `fine`, over the same domain."""
    old, new = coarse.breakpoints, fine.breakpoints
    if fine.degree != coarse.degree or new.shape[1] < old.shape[1]:
        return False
    miss = (new.gather(1, _nearest(new, old)) - old).abs()
    size = torch.maximum(old.abs().amax(1), old[:, -1] - old[:, 0])
    tolerance = SPACING_ROUNDINGS * torch.finfo(old.dtype).eps * size[:, None]
    ends = (new[:, [0, -1]] - old[:, [0, -1]]).abs()
    return bool((miss <= tolerance).all() and (ends <= tolerance).all())


def _nearest(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return which of the `fine` breakpoints is nearest to each of the `coarse` ones."""
    right = torch.searchsorted(fine.contiguous(), coarse.contiguous()).clamp(1, fine.shape[1] - 1)
    left_nearer = coarse - fine.gather(1, right - 1) < fine.gather(1, right) - coarse
    return right - left_nearer.long()


def insert_knots(
    coefficients: Coefficients, coarse: Grid, fine: Grid
) -> Float[Tensor, "out inputs finer"]:
    """Return the coefficients on `fine` of the same splines; `fine` must contain `coarse`.

    Exact except for rounding, about 1e-15 of the splines' size on the domain, whatever the
    spacings. The slope at an end, and so a linear continuation, is rounded by as much over the
    width of the end interval.
    """
    # Rounding must not put a breakpoint on the other side of an old one.
    k, old, knots = coarse.degree, coarse.breakpoints, fine.knots.clone()
    knots[:, k : knots.shape[1] - k].scatter_(1, _nearest(fine.breakpoints, old), old)
    # Where a support begins outside the domain, the mirrored one begins inside.
    mirrored = replace(coarse, knots=-coarse.knots.flip(1))
    left = _means(coefficients.flip(2), mirrored, -knots.flip(1)).flip(2)
    return torch.cat([left[..., :k], _means(coefficients, coarse, knots)[..., k:]], 2)


def _means(coefficients: Tensor, coarse: Grid, knots: Tensor) -> Tensor:
    """Return the coefficients on finer `knots` of functions whose supports begin in the domain.

    Weights are the recurrence of the basis with another argument at each degree, the knots inside
    the function's support in their order.
    """
    k, count = coarse.degree, knots.shape[1] - coarse.degree - 1
    piece = find_interval(((knots[:, :count] + knots[:, 1 : count + 1]) / 2).T, coarse).T
    near = near_knots(piece.T, coarse).mT
    weights = torch.ones_like(knots[None, :, :count])
    for d in range(1, k + 1):
        argument, upper, lower = knots[:, d : d + count], near[k : k + d], near[k - d : k]
        share = weights / (upper - lower)
        weights = widen((upper - argument) * share, (argument - lower) * share)
    index = torch.stack([piece + p for p in range(k + 1)]).expand(len(coefficients), *weights.shape)
    return (weights * coefficients[:, None].expand(-1, k + 1, -1, -1).gather(3, index)).sum(1)


def carry_coefficients(
    coefficients: Coefficients, old: Grid, new: Grid
) -> tuple[Float[Tensor, "out inputs finer"], str]:
    """Return the coefficients on `new` of the splines on `old` in float64, and the method.

    `insertion` (exact) if `new` contains the old breakpoints. Otherwise `least squares`: the fit to
    the OLD splines (their continuation outside the grid included) at points of the new grid, never
    to data.
    """
    if contains(new, old):
        return insert_knots(coefficients, old, new), "insertion"
    greville_points = greville(new).T.clamp(new.low, new.high)
    x = torch.cat([sample_points(new, POINTS_PER_INTERVAL), greville_points])
    return fit_coefficients(x, spline_values(x, coefficients, old), new), "least squares"
