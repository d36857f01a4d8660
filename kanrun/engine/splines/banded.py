"""Least squares splines by the normal equations' band of k + 1 diagonals: O(samples k^2 + G k^2) an input.

Normal equations square the condition of the system. Corrections by the residuals of the system itself give the digits
back (corrected seminormal equations; A. Bjorck, Linear Algebra Appl. 88/89, 1987), as long as the corrections shrink;
where they do not, or the rank may be lost, there is no solution here.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Smallest pivot, relative to the largest one, that leaves the squared system enough digits.
PIVOTS = 1e-6
#: Corrections, and how small the last one must be, relative to the solution: no more than roundings of it.
CORRECTIONS, SETTLED = 3, 1e-10


def banded_solution(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    values: Float[Tensor, "inputs samples out"],
    functions: int,
) -> Float[Tensor, "inputs functions out"] | None:
    """The least squares solutions in float64, None where an input's system is not well enough conditioned."""
    found = []
    for i in range(interval.shape[1]):
        solution = _one(basis[:, i], interval[:, i], values[i], functions)
        if solution is None:
            return None
        found.append(solution)
    return torch.stack(found)


def _one(basis: Tensor, interval: Tensor, values: Tensor, functions: int) -> Tensor | None:
    from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded  # not needed to predict

    local = basis.shape[1]
    columns = interval[:, None] + torch.arange(local, device=interval.device)
    band = basis.new_zeros(local, functions)  # band[d, f]: function f times function f + d
    for d in range(local):
        products = basis[:, : local - d] * basis[:, d:]
        band[d].index_add_(0, columns[:, : local - d].flatten(), products.flatten())
    try:
        factor = cholesky_banded(band.cpu().numpy(), lower=True)
    except LinAlgError:
        return None
    if not factor[0].min() > PIVOTS * factor[0].max():
        return None

    def solve(residual: Tensor) -> Tensor:
        right = basis.new_zeros(functions, values.shape[1])
        for p in range(local):
            right.index_add_(0, columns[:, p], basis[:, p, None] * residual)
        return torch.from_numpy(np.asarray(cho_solve_banded((factor, True), right.cpu().numpy()))).to(basis)

    solution = solve(values)
    correction = solution
    for _ in range(CORRECTIONS):
        fitted = sum(basis[:, p, None] * solution[columns[:, p]] for p in range(local))
        correction = solve(values - fitted)
        solution = solution + correction
    return solution if bool(correction.abs().max() <= SETTLED * solution.abs().max()) else None
