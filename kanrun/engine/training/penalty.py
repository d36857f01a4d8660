"""The smoothness penalty of P-splines, on a KAN's spline coefficients.

    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

with m = degree + 2, xi the Greville abscissae of the basis functions on the grid's domain scaled to [0, 1],
[...] the divided difference and h_i = (xi_{i+m} - xi_i) / m. On a uniform grid this is h^(1 - 2m) sum |D^m c|^2:
about the integral of the squared m-th derivative, the same on every grid, so one weight serves a whole schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996); the order m > degree lets the
spline converge at its full order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanrun.engine.least_squares import LocalRows
from kanrun.engine.networks import Network
from kanrun.engine.splines.least_squares import difference_bands, penalty_order


@dataclass(frozen=True)
class Smoothing:
    """The smoothness penalty of a solver: its weight, and its order where that is not degree + 2."""

    weight: float = 0.0
    order: int | None = None

    def rows(self, network: Network) -> LocalRows:
        """The rows of D times the root of the weight; none where that is 0."""
        rows = network.penalty_rows(self.order)
        if self.weight > 0:
            return rows.scaled(self.weight**0.5)
        return LocalRows(rows.index[:0], rows.values[:0], rows.unknowns)


class Roughness:
    """`weight` times the penalty as a differentiable scalar, zero for networks without splines; w_s counts as trained.

    The m + 1 numbers of a difference are worked out once, on the grids that the network has. Weights are small and
    differences large, on fine grids beyond single precision: they meet in float64.
    """

    def __init__(self, network: Network, weight: float, order: int | None = None) -> None:
        self._bands, self._weight = [], weight
        for layer in network.edge_layers if weight else ():
            bands = weight**0.5 * difference_bands(layer.grid.double(), order or penalty_order(layer.spec.degree))
            self._bands.append(bands.to(layer.coefficients))

    def __call__(self, network: Network) -> Tensor:
        first = next(network.parameters())
        total = torch.zeros((), dtype=first.dtype, device=first.device)
        for layer, bands in zip(network.edge_layers, self._bands, strict=False):
            if layer.trained_base is not None:
                total = total + self._weight * (layer.trained_base * layer.mask).square().sum()
            if bands.shape[1]:
                windows = layer.coefficients.unfold(2, bands.shape[2], 1)
                differences = (windows * bands).sum(-1) * layer.scales()[1][..., None]
                total = total + differences.square().sum()
        return total
