"""Splines through given values, by least squares in float64, and the divided differences of P-spline penalties.

Systems here are often rank deficient (basis functions without data, repeated points), so the smallest solution is
taken: components below a relative singular value of `RANK_TOLERANCE` are left out. Large systems of full rank go to
scipy's banded QR factorisation, O(samples k^2) an input.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.splines.basis_products import by_edges, dense_rows, prefers_sparse
from kanrun.engine.splines.knots import Grid
from kanrun.engine.splines.local_basis import local_basis


def penalty_order(degree: int) -> int:
    """m = degree + 2, the order of the penalised differences: m > degree lets the spline converge at its full order."""
    return degree + 2


def difference_bands(grid: Grid, order: int) -> Float[Tensor, "inputs differences terms"]:
    """sqrt(h_i) m! [xi_i ... xi_{i+m}]: the m + 1 non-zeros at coefficients i to i + m; no rows when G + k <= m.

    See `kanrun.engine.training.data_fitting`; the Greville abscissae xi are those of the domain scaled to [0, 1].
    """
    points = (_abscissae(grid) - grid.low[:, None]) / (grid.high - grid.low)[:, None]
    inputs, functions = points.shape
    if functions <= order:
        return points.new_zeros(inputs, 0, order + 1)
    bands = points.new_ones(inputs, functions, 1)
    for d in range(1, order + 1):
        spacing = points[:, d:] - points[:, :-d]
        bands = (pad(bands[:, 1:], (1, 0)) - pad(bands[:, :-1], (0, 1))) / spacing[..., None]
    return bands * (factorial(order) * (spacing / order).sqrt())[..., None]


def difference_operator(grid: Grid, order: int) -> Float[Tensor, "inputs differences functions"]:
    """The same as a matrix on the coefficients of each input."""
    bands = difference_bands(grid, order)
    matrix = bands.new_zeros(*bands.shape[:2], grid.functions)
    return matrix.scatter_(2, difference_columns(bands).expand_as(bands), bands)


def difference_columns(
    bands: Float[Tensor, "inputs differences terms"],
) -> Int[Tensor, "differences terms"]:
    """Which coefficient each non-zero belongs to."""
    at = torch.arange(bands.shape[1], device=bands.device)[:, None]
    return at + torch.arange(bands.shape[2], device=bands.device)


def _abscissae(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Greville abscissae, the means of the k knots inside each support (of degree 0 its middle)."""
    if grid.degree == 0:
        return (grid.knots[:, :-1] + grid.knots[:, 1:]) / 2
    return grid.knots.unfold(1, grid.degree, 1)[:, 1 : 1 + grid.functions].mean(-1)


RANK_TOLERANCE = 1e-13
#: Multiplications from which on a dense factorisation, with all its zeros, takes longer than a second or so.
DENSE_WORK = 1 << 27


def design_matrix(
    x: Float[Tensor, "samples inputs"], grid: Grid, derivative: int = 0
) -> Float[Tensor, "inputs samples functions"]:
    """Dense basis values, one matrix an input."""
    values, interval = local_basis(x, grid, derivative)
    return dense_rows(values, interval, grid.functions).transpose(0, 1)


def fit_coefficients(
    x: Float[Tensor, "samples inputs"], y: Float[Tensor, "samples out inputs"], grid: Grid
) -> Float[Tensor, "out inputs functions"]:
    """Coefficients whose spline at x[:, i] is nearest to y[:, :, i]; one factorisation an input serves all outputs.

    Solved in float64; returned in y's precision. Large systems of full rank cost as much as their band; without full
    rank they are as dense as small ones.
    """
    at, fine = x.double(), grid.double()
    values = y.double().permute(2, 0, 1)  # (inputs, samples, out)
    found = None
    if x.numel() * grid.functions**2 > DENSE_WORK:
        found = _banded_solution(at, values, fine)
    if found is None:
        found = _smallest_solution(design_matrix(at, fine), values)
    return found.permute(2, 0, 1).to(y.dtype)


def spline_values(
    x: Float[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
    grid: Grid,
) -> Float[Tensor, "samples out inputs"]:
    """The splines with these coefficients at x."""
    if not prefers_sparse(grid.functions, grid.degree):
        return torch.einsum("isn,oin->soi", design_matrix(x, grid), coefficients)
    return by_edges(*local_basis(x, grid), coefficients)


def _smallest_solution(design: Tensor, values: Tensor) -> Tensor:
    """Least squares by QR; where the triangle shows a lost rank, by the pseudo-inverse, several times slower."""
    if design.shape[1] >= design.shape[2]:
        q, r = torch.linalg.qr(design)
        diagonal = r.diagonal(dim1=-2, dim2=-1).abs()
        if bool((diagonal.amin(-1) > RANK_TOLERANCE**0.5 * diagonal.amax(-1)).all()):
            exact: Tensor = torch.linalg.solve_triangular(r, q.mT @ values, upper=True)
            return exact
    left, singular, right = torch.linalg.svd(design, full_matrices=False)
    keep = singular > RANK_TOLERANCE * singular.amax(-1, keepdim=True)
    inverse = torch.where(keep, 1 / singular.where(keep, torch.ones_like(singular)), 0.0)
    smallest: Tensor = right.mT @ (inverse[..., None] * (left.mT @ values))
    return smallest


def _banded_solution(
    x: Float[Tensor, "samples inputs"], values: Float[Tensor, "inputs samples out"], grid: Grid
) -> Float[Tensor, "inputs functions out"] | None:
    """scipy's least squares splines; None where points are too few for full rank, or lie outside the grid."""
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


def greville(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Greville abscissae, drawn into the domain."""
    return torch.minimum(torch.maximum(_abscissae(grid), grid.low[:, None]), grid.high[:, None])


def sample_points(grid: Grid, per_interval: int) -> Float[Tensor, "samples inputs"]:
    """`per_interval` midpoints of every interval and both ends of the domain, one column an input."""
    shares = (
        torch.arange(per_interval, dtype=grid.knots.dtype, device=grid.knots.device) + 0.5
    ) / per_interval
    points = grid.knots[:, grid.degree : grid.degree + grid.intervals + 1]
    inner = torch.lerp(points[:, :-1, None], points[:, 1:, None], shares).flatten(1)
    return torch.cat([points[:, :1], inner, points[:, -1:]], dim=1).T
