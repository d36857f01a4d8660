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
from jaxtyping import Float
from torch import Tensor, nn

from kanrun.engine.networks import KAN, get_unknowns
from kanrun.engine.splines import Grid
from kanrun.engine.training.rows import LocalRows


def penalty_order(degree: int) -> int:
    """m, the order of the penalised differences."""
    return degree + 2


def difference_operator(grid: Grid, order: int) -> Float[Tensor, "inputs differences functions"]:
    """sqrt(h_i) m! [xi_i ... xi_{i+m}] as a matrix on the coefficients of each input; no rows when G + k <= m."""
    points = _abscissae(grid)
    inputs, functions = points.shape
    rows = torch.eye(functions, dtype=points.dtype, device=points.device).expand(inputs, -1, -1)
    if functions <= order:
        return rows[:, :0]
    for d in range(1, order + 1):
        spacing = points[:, d:] - points[:, :-d]
        rows = rows.diff(dim=1) / spacing[..., None]
    scale = factorial(order) * (spacing / order).sqrt()
    return rows * scale[..., None]


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
        operator = difference_operator(layer.grid, m)
        outputs, inputs, functions = layer.coefficients.shape
        at = torch.arange(operator.shape[1], device=operator.device)[:, None]
        at = at + torch.arange(terms, device=operator.device)
        edge = torch.arange(outputs * inputs, device=operator.device)[:, None, None] * functions + start
        indices.append((edge + at).reshape(-1, terms))
        banded = operator.gather(2, at.expand(inputs, -1, -1)) if operator.shape[1] else operator[:, :, :terms]
        scaled = banded * layer.scales()[1].detach()[:, :, None, None]
        values.append(scaled.reshape(-1, terms))
        start += layer.coefficients.numel()
    if not layers:
        first = next(network.parameters())
        empty = torch.zeros(0, 1, dtype=torch.long, device=first.device)
        return LocalRows(empty, first.detach().new_zeros(0, 1), get_unknowns(network).numel())
    return LocalRows(torch.cat(indices), torch.cat(values), start)


def penalty(network: nn.Module, order: int | None = None) -> Tensor:
    """The penalty as a differentiable scalar, for first-order solvers; zero for networks without splines."""
    return Roughness(network, order)(network)


class Roughness:
    """The penalty on the grids that a network has, worked out once: m + 1 numbers a difference of each input."""

    def __init__(self, network: nn.Module, order: int | None = None) -> None:
        self._banded = []
        for layer in network if isinstance(network, KAN) else ():
            operator = difference_operator(layer.grid, m := order or penalty_order(layer.spec.degree))
            at = torch.arange(operator.shape[1], device=operator.device)[:, None]
            at = at + torch.arange(m + 1, device=operator.device)
            self._banded.append(operator.gather(2, at.expand(layer.inputs, -1, -1)) if operator.shape[1] else None)

    def __call__(self, network: nn.Module) -> Tensor:
        first = next(network.parameters())
        total = torch.zeros((), dtype=first.dtype, device=first.device)
        for layer, banded in zip(network if isinstance(network, KAN) else (), self._banded, strict=True):
            if banded is not None:
                windows = layer.coefficients.unfold(2, banded.shape[-1], 1)
                differences = (windows * banded).sum(-1) * layer.scales()[1][..., None]
                total = total + differences.square().sum()
        return total
