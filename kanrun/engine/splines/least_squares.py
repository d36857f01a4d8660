"""Splines through given values, by least squares in float64.

Systems here are often rank deficient (basis functions without data, repeated points), so the smallest solution is
taken: components below a relative singular value of `RANK_TOLERANCE` are left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.banded import banded_solution
from kanrun.engine.splines.basis_products import by_edges, dense_rows, prefers_sparse
from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.local_basis import local_basis

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
        found = banded_solution(*local_basis(at, fine), values, grid.functions)
    if found is None:
        found = _smallest_solution(design_matrix(at, fine), values)
    return found.permute(2, 0, 1).to(y.dtype)


def spline_values(
    x: Float[Tensor, "samples inputs"], coefficients: Float[Tensor, "out inputs functions"], grid: Grid
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


def greville(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Greville abscissae, the means of the k knots inside each support, drawn into the domain."""
    k = grid.degree
    if k == 0:
        points = grid.knots
        return (points[:, :-1] + points[:, 1:]) / 2
    means = grid.knots.unfold(1, k, 1)[:, 1 : 1 + grid.functions].mean(-1)
    return torch.minimum(torch.maximum(means, grid.low[:, None]), grid.high[:, None])


def sample_points(grid: Grid, per_interval: int) -> Float[Tensor, "samples inputs"]:
    """`per_interval` midpoints of every interval and both ends of the domain, one column an input."""
    shares = (torch.arange(per_interval, dtype=grid.knots.dtype, device=grid.knots.device) + 0.5) / per_interval
    points = grid.knots[:, grid.degree : grid.degree + grid.intervals + 1]
    inner = torch.lerp(points[:, :-1, None], points[:, 1:, None], shares).flatten(1)
    return torch.cat([points[:, :1], inner, points[:, -1:]], dim=1).T
