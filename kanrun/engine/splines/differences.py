"""Divided differences of spline coefficients: the roots of P-spline penalties.

    sqrt(h_i) m! [xi_i ... xi_{i+m}] c,   h_i = (xi_{i+m} - xi_i) / m,

with xi the Greville abscissae of the basis functions on the grid's domain scaled to [0, 1] and [...] the divided
difference of order m. On a uniform grid of spacing h their squares add up to h^(1 - 2m) sum |D^m c|^2: about the
integral of the squared m-th derivative, the same on every grid, so one weight serves a whole schedule.
Source: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996).
"""

from __future__ import annotations

from math import factorial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.splines.grid import Grid


def penalty_order(degree: int) -> int:
    """m = degree + 2, the order of the penalised differences: m > degree lets the spline converge at its full order."""
    return degree + 2


def difference_bands(grid: Grid, order: int) -> Float[Tensor, "inputs differences terms"]:
    """The m + 1 non-zeros of each difference, at coefficients i to i + m; no rows when G + k <= m."""
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
    return matrix.scatter_(2, difference_columns(bands).expand_as(bands), bands)


def difference_columns(bands: Float[Tensor, "inputs differences terms"]) -> Int[Tensor, "differences terms"]:
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
