"""The smoothness penalty of P-splines, on a KAN's spline coefficients.

    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

with m = degree + 2, xi the Greville abscissae of the basis functions on the grid's domain scaled to [0, 1],
[...] the divided difference and h_i = (xi_{i+m} - xi_i) / m. On a uniform grid this is h^(1 - 2m) sum |D^m c|^2:
about the integral of the squared m-th derivative, the same on every grid, so one weight serves a whole schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996); the order m > degree lets the
spline converge at its full order.
"""

from __future__ import annotations

from math import factorial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from kanrun.engine.least_squares import LocalRows
from kanrun.engine.networks import KAN, get_unknowns
from kanrun.engine.splines import Grid


def penalty_order(degree: int) -> int:
    """m, the order of the penalised differences."""
    return degree + 2


def difference_bands(grid: Grid, order: int) -> Float[Tensor, "inputs differences terms"]:
    """sqrt(h_i) m! [xi_i ... xi_{i+m}] by its m + 1 non-zeros, at coefficients i to i + m; no rows when G + k <= m."""
    points = _abscissae(grid)
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
    return matrix.scatter_(2, _columns(bands).expand_as(bands), bands)


def _columns(bands: Tensor) -> Int[Tensor, "differences terms"]:
    """Which coefficient each non-zero belongs to."""
    at = torch.arange(bands.shape[1], device=bands.device)[:, None]
    return at + torch.arange(bands.shape[2], device=bands.device)


def _abscissae(grid: Grid) -> Float[Tensor, "inputs functions"]:
    """Greville abscissae on the domain scaled to [0, 1]; the outer ones lie outside it."""
    k = grid.degree
    if k == 0:
        means = (grid.knots[:, :-1] + grid.knots[:, 1:]) / 2
    else:
        means = grid.knots.unfold(1, k, 1)[:, 1 : 1 + grid.functions].mean(-1)
    return (means - grid.low[:, None]) / (grid.high - grid.low)[:, None]


def smoothness_rows(network: nn.Module, order: int | None = None) -> LocalRows:
    """The penalty's root D over the unknowns, |D u|^2 = P: m + 1 non-zeros a row; no rows without splines.

    `order` is m, by default `penalty_order` of each layer.
    """
    indices, values, start = [], [], 0
    layers = list(network) if isinstance(network, KAN) else []
    orders = [order or penalty_order(layer.spec.degree) for layer in layers]
    terms = max(orders, default=0) + 1
    for layer, m in zip(layers, orders, strict=True):
        bands = pad(difference_bands(layer.grid, m), (0, terms - m - 1))
        edge = torch.arange(layer.mask.numel(), device=bands.device)[:, None, None] * layer.grid.functions + start
        columns = (edge + _columns(bands)).clamp(
            max=start + layer.coefficients.numel() - 1
        )  # where padding reaches out
        indices.append(columns.reshape(-1, terms))
        values.append((bands * layer.scales()[1].detach()[:, :, None, None]).reshape(-1, terms))
        start += layer.coefficients.numel()
    if not layers:
        first = next(network.parameters())
        empty = torch.zeros(0, 1, dtype=torch.long, device=first.device)
        return LocalRows(empty, first.detach().new_zeros(0, 1), get_unknowns(network).numel())
    return LocalRows(torch.cat(indices), torch.cat(values), start)


def penalty(network: nn.Module, order: int | None = None) -> Tensor:
    """The penalty as a differentiable scalar; zero for networks without splines."""
    return Roughness(network, 1.0, order)(network)


class Roughness:
    """`weight` times the penalty on the grids that a network has, worked out once: m + 1 numbers a difference.

    Weights are small and differences large, on fine grids beyond single precision: they meet in float64.
    """

    def __init__(self, network: nn.Module, weight: float, order: int | None = None) -> None:
        self._bands = []
        for layer in network if weight and isinstance(network, KAN) else ():
            bands = weight**0.5 * difference_bands(layer.grid.double(), order or penalty_order(layer.spec.degree))
            self._bands.append(bands.to(layer.coefficients))

    def __call__(self, network: nn.Module) -> Tensor:
        first = next(network.parameters())
        total = torch.zeros((), dtype=first.dtype, device=first.device)
        for layer, bands in zip(network if isinstance(network, KAN) else (), self._bands, strict=False):
            if bands.shape[1]:
                windows = layer.coefficients.unfold(2, bands.shape[2], 1)
                differences = (windows * bands).sum(-1) * layer.scales()[1][..., None]
                total = total + differences.square().sum()
        return total
