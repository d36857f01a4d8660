"""The polynomial through N points, by Lagrange's formula in its barycentric form.

p(x) = l(x) sum_j w_j y_j / (x - x_j) with l(x) = prod_j (x - x_j) and w_j = 1 / prod_{i != j} (x_j - x_i) costs O(N) a
value and solves no system of equations, so nothing like the Vandermonde matrix's condition comes in. This first form
is backward stable for any points (N. J. Higham, IMA J. Numer. Anal. 24, 2004), which matters here: equispaced points
are where the popular second form is not. Lengths are measured in quarters of the range, so that products neither
overflow nor vanish (J.-P. Berrut and L. N. Trefethen, SIAM Rev. 46, 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.errors import UsageError

#: Beyond, the products leave the range of a float64.
MOST_POINTS = 1000


@dataclass(frozen=True)
class PolynomialThrough:
    """The polynomial of degree N - 1 with the values (N, dims) at the abscissae (N), in any order.

    Raises UsageError for fewer than 2 points, more than 1000, or equal abscissae.
    """

    abscissae: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        count = self.abscissae.shape[0]
        if not 2 <= count <= MOST_POINTS:
            raise UsageError(f"A polynomial here goes through 2 to {MOST_POINTS} points, not {count}")
        ordered = self.abscissae.sort().values
        equal = (ordered.diff() == 0).nonzero()
        if equal.numel():
            raise UsageError(f"A polynomial needs different abscissae; {float(ordered[equal[0, 0]]):g} comes twice")

    def __call__(self, x: Float[Tensor, " samples"]) -> Float[Tensor, "samples dims"]:
        """Values at x; at an abscissa the given value itself, to the last bit."""
        quarter = (self.abscissae.max() - self.abscissae.min()) / 4
        apart = (self.abscissae[:, None] - self.abscissae) / quarter
        weights = 1 / apart.fill_diagonal_(1.0).prod(1)
        away = (x[:, None] - self.abscissae) / quarter
        hit = away == 0
        terms = weights / away.masked_fill(hit, 1.0)
        result = away.prod(1, keepdim=True) * (terms @ self.values)
        return torch.where(hit.any(1, keepdim=True), self.values[hit.long().argmax(1)], result)


def chebyshev_points(count: int) -> Float[Tensor, " points"]:
    """`count` Chebyshev points of the second kind on [-1, 1], increasing, both ends included."""
    steps = torch.arange(1 - count, count, 2, dtype=torch.float64)
    return torch.sin(torch.pi * steps / (2 * (count - 1)))
