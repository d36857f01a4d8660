"""The smoothness penalty of P-splines, on a KAN's spline coefficients.

    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

with m = degree + 2, xi the Greville abscissae of the basis functions on the grid's domain scaled to [0, 1],
[...] the divided difference and h_i = (xi_{i+m} - xi_i) / m. On a uniform grid this is h^(1 - 2m) sum |D^m c|^2: about the
integral of the squared m-th derivative, the same on every grid, so one weight serves a whole schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996); the order m > degree lets the
spline converge at its full order.
"""

from __future__ import annotations

from math import factorial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import KAN, unknowns
from kanrun.engine.splines import Grid


def penalty_order(degree: int) -> int:
    """m, the order of the penalised differences."""
    return degree + 2


def difference_operator(grid: Grid, order: int) -> Float[Tensor, "inputs differences functions"]:
    """sqrt(h_i) m! [xi_i ... xi_{i+m}] as a matrix on the coefficients of each input; no rows when G + k <= m."""
    width = (grid.high - grid.low)[:, None]
    k = grid.degree
    points = (
        grid.knots.unfold(1, max(k, 1), 1)[:, min(k, 1) :].mean(-1)[:, : grid.functions] - grid.low[:, None]
    ) / width
    if k == 0:
        points = (grid.knots[:, :-1] + grid.knots[:, 1:] - 2 * grid.low[:, None]) / (2 * width)
    inputs, functions = points.shape
    rows = torch.eye(functions, dtype=points.dtype, device=points.device).expand(inputs, -1, -1)
    if functions <= order:
        return rows[:, :0]
    for d in range(1, order + 1):
        spacing = points[:, d:] - points[:, :-d]
        rows = rows.diff(dim=1) / spacing[..., None]
    scale = factorial(order) * (spacing / order).sqrt()
    return rows * scale[..., None]


def penalty_rows(network: nn.Module) -> Float[Tensor, "rows unknowns"] | None:
    """A matrix D over the unknowns with |D u|^2 the penalty; None for networks without splines or differences."""
    if not isinstance(network, KAN):
        return None
    blocks, start = [], 0
    total = sum(parameter.numel() for _, parameter in unknowns(network))
    for layer in network:
        for name, parameter in unknowns(layer):
            if name == "coefficients":
                blocks.extend(_edge_blocks(layer, start, total))
            start += parameter.numel()
    return torch.cat(blocks) if blocks else None


def _edge_blocks(layer: SplineLayer, start: int, total: int) -> list[Tensor]:
    operator = difference_operator(layer.grid, penalty_order(layer.spec.degree))
    _, spline_weight = layer.scales()
    outputs, inputs, functions = layer.coefficients.shape
    rows = []
    for edge in range(outputs * inputs):
        out, into = divmod(edge, inputs)
        if operator.shape[1] and bool(layer.mask[out, into]):
            block = operator.new_zeros(operator.shape[1], total)
            at = start + edge * functions
            block[:, at : at + functions] = operator[into] * spline_weight[out, into].detach()
            rows.append(block)
    return rows


def penalty(network: nn.Module) -> Tensor:
    """The penalty as a differentiable scalar, for first-order solvers; zero for networks without splines."""
    total = torch.zeros((), dtype=next(network.parameters()).dtype, device=next(network.parameters()).device)
    if not isinstance(network, KAN):
        return total
    for layer in network:
        operator = difference_operator(layer.grid, penalty_order(layer.spec.degree))
        _, spline_weight = layer.scales()
        differences = torch.einsum("idn,oin->oid", operator, layer.coefficients) * spline_weight[..., None]
        total = total + differences.square().sum()
    return total
