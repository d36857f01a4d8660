"""The local basis and its slope as planes: one tensor of the data's own shape for each of the k + 1 functions.

This is the layout the fast products read: every operation runs over contiguous data, whatever the degree. It is plain
tensor arithmetic, without branches on values, so it works under `torch.func` and `torch.compile` too.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.splines.grid import Grid, along, find_interval, interval_at, positions, search_interval
from kanrun.engine.splines.scratch import scratch
from kanrun.engine.splines.tracing import is_traced

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose digits.
UNIFORM_MATRIX_DEGREE = 5


class Local(NamedTuple):
    """The k + 1 functions that count at x: B_j ... B_{j+k}.

    `interval` j, of x's shape; `values` and `slopes` (k + 1, *x.shape). The derivative in x is slopes * scale;
    `scale` (None: 1) meets x's shape. `slopes` is empty where not asked for.
    """

    interval: Tensor
    values: Tensor
    slopes: Tensor
    scale: Tensor | None


def local_planes(x: Tensor, grid: Grid, *, axis: int, slopes: bool, reuse: bool = False) -> Local:
    """The local basis at x, with the inputs along `axis` (0 or -1) and the grid's policy of extrapolation.

    With `reuse` the planes may lie in scratch memory, good until the next such call.
    """
    if grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE:
        return _uniform(x, grid, axis, slopes, reuse)
    return _general(x, grid, axis, slopes)


def _uniform(x: Tensor, grid: Grid, axis: int, slopes: bool, reuse: bool) -> Local:
    """Powers of the position u in the interval times a constant matrix.

    Linear continuation is built into the powers: outside, u^m becomes c^m + m (u - c) c^(m-1) with c the nearer end.
    """
    k = grid.degree
    t, scale = positions(x, grid, axis)
    interval = interval_at(t, grid.intervals)
    u = t.sub_(interval)
    held = u.clamp(0, 1)
    lower = [held]
    for _ in range(k - 2):
        lower.append(lower[-1] * held)
    if grid.extrapolation == "linear":
        beyond = u - held
        powers = [u, *(low * torch.add(held, beyond, alpha=m + 2) for m, low in enumerate(lower[: k - 1]))]
    else:
        powers = [*lower, lower[-1] * held] if k > 1 else [held]
    used = [*powers, *lower[: k - 1]] if slopes else powers
    if torch.compiler.is_compiling():
        values = _sums(uniform_powers(k, 0), powers, x)
        steep = _sums(uniform_powers(k, 1), lower[: k - 1], x) if slopes else values[:0]
        return Local(interval, *_policy(values, steep, x, grid, axis), scale)
    matrix, constant = _uniform_constants(k, slopes, x)
    count, shape = x.numel(), (matrix.shape[0], *x.shape)
    if reuse:
        terms = torch.stack(used, out=scratch("terms", (len(used), *x.shape), x))
        out = scratch("planes", (matrix.shape[0], count), x)
        both = torch.addmm(constant, matrix, terms.view(len(used), count), out=out).view(shape)
    else:
        both = torch.addmm(constant, matrix, torch.stack(used).reshape(len(used), count)).reshape(shape)
    return Local(interval, *_policy(both[: k + 1], both[k + 1 :], x, grid, axis), scale)


def _sums(weights: tuple[tuple[float, ...], ...], powers: list[Tensor], like: Tensor) -> Tensor:
    """weights[0] + sum_p weights[p + 1] powers[p], function by function: what a compiler makes one pass of."""
    first, *others = weights
    sums = [torch.full_like(like, number) for number in first]
    for row, power in zip(others, powers, strict=True):
        sums = [total + number * power if number else total for total, number in zip(sums, row, strict=True)]
    return torch.stack(sums)


def _policy(values: Tensor, slopes: Tensor, x: Tensor, grid: Grid, axis: int) -> tuple[Tensor, Tensor]:
    """Held values made those of the policies `constant` and `zero`."""
    if grid.extrapolation == "linear":
        return values, slopes
    inside = (x >= along(grid.low, axis)) & (x <= along(grid.high, axis))
    return (values * inside if grid.extrapolation == "zero" else values), slopes * inside


def _general(x: Tensor, grid: Grid, axis: int, slopes: bool) -> Local:
    """De Boor's recurrence, all functions of a degree at once."""
    k = grid.degree
    interval = search_interval(x, grid) if axis == 0 else find_interval(x, grid)
    if k == 0:
        ones = torch.ones_like(x)[None]
        return Local(interval, *_policy(ones, torch.zeros_like(ones), x, grid, axis), None)
    near = near_knots(interval, grid, axis)
    held = torch.minimum(torch.maximum(x, along(grid.low, axis)), along(grid.high, axis))
    values, slope = torch.ones_like(x)[None], near[:0]
    for d in range(1, k + 1):
        upper, lower = near[k : k + d], near[k - d : k]
        share = values / (upper - lower)
        if d == k and (slopes or grid.extrapolation == "linear"):
            slope = widen(-k * share, k * share)
        values = widen((upper - held) * share, (held - lower) * share)
    if grid.extrapolation == "linear":
        limit = torch.finfo(x.dtype).max ** 0.5
        values = values + (x - held).clamp(-limit, limit) * slope
    return Local(interval, *_policy(values, slope, x, grid, axis), None)


def near_knots(interval: Tensor, grid: Grid, axis: int) -> Tensor:
    """The 2k knots around each interval, t_{j+1} ... t_{j+2k}, first dimension over them."""
    inputs, count = grid.knots.shape
    start = along(torch.arange(inputs, device=interval.device) * count, axis) + interval
    steps = torch.arange(1, 2 * grid.degree + 1, device=interval.device)
    index = start + steps.reshape(-1, *[1] * interval.ndim)
    return grid.knots.flatten().index_select(0, index.flatten()).reshape(index.shape)


def widen(left: Tensor, right: Tensor) -> Tensor:
    """Functions of one degree more: `left` shares go to the function of the same index, `right` to the next."""
    return torch.cat([left[:1], left[1:] + right[:-1], right[-1:]])


def _uniform_constants(degree: int, slopes: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """(matrix, constant) with planes = constant + matrix @ [u ... u^k (, c ... c^(k-1))]."""
    if is_traced():
        return _make_constants(degree, slopes, like.dtype, like.device)
    return _kept_constants(degree, slopes, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kept_constants(degree: int, slopes: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _make_constants(degree, slopes, dtype, device)


def _make_constants(degree: int, slopes: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [list(column) for column in zip(*uniform_powers(degree, 0), strict=True)]
    matrix, constant = [row[1:] for row in rows], [row[:1] for row in rows]
    if slopes:
        steep = [list(column) for column in zip(*uniform_powers(degree, 1), strict=True)]
        matrix = [row + [0.0] * (degree - 1) for row in matrix] + [[0.0] * degree + row[1:] for row in steep]
        constant = constant + [row[:1] for row in steep]
    return torch.tensor(matrix, dtype=dtype, device=device), torch.tensor(constant, dtype=dtype, device=device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def uniform_powers(degree: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """Row p, column i: coefficient of u^p in the `derivative`-th derivative of the i-th local basis function."""
    return _uniform_powers(degree, derivative)  # the compiler takes this for a constant, a cache it would warn about


@lru_cache(maxsize=64)
def _uniform_powers(degree: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """From the recurrence in exact fractions: N_i^d(u) = (u + d - i)/d N_{i-1}^{d-1} + (i + 1 - u)/d N_i^{d-1},
    functions counted from the left of the interval.
    """
    pieces: list[list[Fraction]] = [[Fraction(1)]]
    for d in range(1, degree + 1):
        zero = [Fraction(0)] * d
        padded = [zero, *pieces, zero]
        pieces = []
        for i in range(d + 1):
            left, right = padded[i], padded[i + 1]
            new = [Fraction(0)] * (d + 1)
            for p in range(d):
                new[p] += (left[p] * (d - i) + right[p] * (i + 1)) / d
                new[p + 1] += (left[p] - right[p]) / d
            pieces.append(new)
    return tuple(
        tuple(float(piece[p] * (factorial(p) // factorial(p - derivative))) for piece in pieces)
        for p in range(derivative, degree + 1)
    )
