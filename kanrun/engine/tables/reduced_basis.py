"""Functions of one input, from smooth to rough: Demmler-Reinsch bases of a cubic spline space.

Let B be the B-splines of a grid with mean m on the training rows, G = (B - m)'(B - m) / n, and S
the integral of f''^2 for inputs of standard deviation 1. The eigenvectors of G v = rho (G + S + m
m') v are uncorrelated on the rows and are ordered by their roughness d = (1 - rho) / rho; the
straight line comes first (d = 0). Functions with rho = 0 vanish on all rows and are left out. The
others continue between the rows as smoothly as possible: in intervals without rows curvature counts
`_GAP_STIFFNESS` times as much, so that they cross gaps nearly straight.

Sources: A. Demmler and C. Reinsch, Numerische Mathematik 24 (1975) 375-382; S. Wood, Generalized
Additive Models (2017), 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg

from kanrun.engine.splines import Grid, dense_rows, extend, local_basis, mixed_breakpoints

DEGREE = 3  # of the splines; the quadrature of f''^2 is exact for it
INTERVALS, LINE_INTERVALS = 32, 2  # of the grid of an input, and if its function is a line
GRID_EPS = 0.5  # fraction of equal spacing in the grid; the rest follows distinct values
_GAP_STIFFNESS = 100.0
_ROUGHEST = 1e7  # roughness at which a function counts as zero on the rows
_RIDGE = 1e-13  # relative, for a positive definite eigenproblem
_SQUARED_ZERO = 1e-20  # total variance of the B-splines of a constant input
_BLOCK, _BLOCK_NUMBERS = 4096, 1 << 23  # rows and numbers of functions that are used at once

PerRow = Float[ndarray, " rows"]
RowInputs = Float[ndarray, "rows inputs"]
RowOutputs = Float[ndarray, "rows outputs"]
RowFunctions = Float[ndarray, "rows functions"]
Rows = slice | ndarray


@dataclass(frozen=True, eq=False)
class ReducedBasis:
    """Functions of all inputs side by side, with mean 0 on the training rows.

    Their variance there is the inverse of their roughness, so that all of a kind have one prior
    variance. The roughness is relative to that of the first curve; it is 1 for lines of more than
    two values.

    Attributes:
        breakpoints: Grids, shape (inputs, G + 1).
        coefficients: B-spline coefficients of each function, shape (functions, G + 3).
        column: Input of each function.
        order: Position of each function among those of its input; 0 is the line.
    """

    breakpoints: ndarray
    coefficients: ndarray
    column: ndarray
    order: ndarray

    @staticmethod
    def of(u: RowInputs, functions: int, weights: PerRow | float = 1.0) -> ReducedBasis:
        """Return the basis of these rows, with at most `functions` functions per input.

        A constant input has no functions. One with two values has a line, whose roughness is that
        of a jump by 1 relative to an input with equally many of both: levels of a category with one
        prior variance are then random effects, and rare ones are shrunk most.
        """
        weights = np.broadcast_to(weights, len(u))
        intervals = INTERVALS if functions > 1 else LINE_INTERVALS
        distinct = (torch.as_tensor(np.unique(column))[:, None] for column in u.T)
        grids = [
            mixed_breakpoints(each, each[0], each[-1], intervals, 1 - GRID_EPS, 0.0)
            for each in distinct
        ]
        breakpoints = torch.cat(grids).numpy()
        gram, mean = _moments(u, weights, breakpoints)
        std = np.sqrt(weights @ (u - weights @ u / weights.sum()) ** 2 / weights.sum())
        empty = [
            np.histogram(column, grid)[0] == 0
            for column, grid in zip(u.T, breakpoints, strict=True)
        ]
        curvature = _energy(breakpoints, 2, np.where(empty, _GAP_STIFFNESS, 1.0))
        found = list[ndarray]()
        binary = has_two_values(u)
        for j, size in enumerate(std):
            smooth = _demmler_reinsch(gram[j], mean[j], curvature[j] * size**3, functions)
            jump = np.ptp(u[:, j]) / (2 * size) if binary[j] else 1.0
            found.append(smooth / jump)
        counts = [len(each) for each in found]
        return ReducedBasis(
            breakpoints,
            np.concatenate(found),
            np.repeat(range(u.shape[1]), counts),
            np.concatenate([np.arange(count) for count in counts]),
        )

    @cached_property
    def places(self) -> tuple[Int[ndarray, " functions"], ...]:
        """Indices of the functions of each input."""
        return tuple(np.flatnonzero(self.column == j) for j in range(len(self.breakpoints)))

    def values(self, u: RowInputs) -> RowFunctions:
        """Evaluate the functions, which continue as straight lines beyond the grids."""
        out = np.empty((len(u), len(self.column)))
        grid = _grid(self.breakpoints)
        for part in blocks(len(u), u.shape[1] * grid.functions):
            rows = _b_splines(u[part], grid)
            for j, mine in enumerate(self.places):
                out[part, mine] = rows[:, j] @ self.coefficients[mine].T
        return out


def has_two_values(u: RowInputs) -> ndarray:
    """Return which inputs have exactly two values."""
    low = u.min(0)
    high = u.max(0)
    return np.asarray((low < high) & ((u == low) | (u == high)).all(0))


def blocks(rows: int, width: int = 1) -> list[slice]:
    """Return slices of at most `_BLOCK` rows, and `_BLOCK_NUMBERS` for rows of this width."""
    size = min(_BLOCK, max(_BLOCK_NUMBERS // width, 1))
    return [slice(start, start + size) for start in range(0, rows, size)]


def spaced(rows: int, count: int) -> Int[ndarray, " places"]:
    """Return at most `count` of the places of rows, at equal distances."""
    return np.linspace(0, rows - 1, min(rows, count)).astype(int)


def _grid(breakpoints: ndarray) -> Grid:
    return Grid(extend(torch.as_tensor(breakpoints), DEGREE), DEGREE)


def _b_splines(u: ndarray, grid: Grid, derivative: int = 0) -> ndarray:
    """Return values or derivatives (rows, inputs, splines) of the B-splines of each input."""
    local, interval = local_basis(torch.as_tensor(np.ascontiguousarray(u)), grid, derivative)
    return dense_rows(local, interval, grid.functions).numpy()


def _moments(u: ndarray, weights: ndarray, breakpoints: ndarray) -> tuple[ndarray, ndarray]:
    """Return the covariance and the mean of the B-splines of each input on the rows."""
    fraction = weights / weights.sum()
    grid = _grid(breakpoints)
    mean = np.zeros((len(breakpoints), grid.functions))
    gram = np.zeros((*mean.shape, grid.functions))
    for part in blocks(len(u), u.shape[1] * grid.functions):
        rows = _b_splines(u[part], grid).transpose(1, 0, 2)
        weighted = rows * fraction[None, part, None]
        gram += weighted.transpose(0, 2, 1) @ rows
        mean += weighted.sum(1)
    return gram - mean[:, :, None] * mean[:, None, :], mean


def _energy(breakpoints: ndarray, derivative: int, stiffness: ndarray) -> ndarray:
    """Integrate products of derivatives, by Gauss points in each interval.

    Intervals count by their `stiffness` (inputs, intervals). The shape is (inputs, splines,
    splines).
    """
    nodes, weights = np.polynomial.legendre.leggauss(DEGREE)
    half = np.diff(breakpoints, axis=1)[:, :, None] / 2
    inputs = len(breakpoints)
    at = (breakpoints[:, :-1, None] + half * (nodes + 1)).reshape(inputs, -1)
    values = _b_splines(at.T, _grid(breakpoints), derivative).transpose(1, 0, 2)
    scale = (stiffness[:, :, None] * half * weights).reshape(inputs, -1, 1)
    return values.transpose(0, 2, 1) @ (values * scale)


def _demmler_reinsch(gram: ndarray, mean: ndarray, energy: ndarray, limit: int) -> ndarray:
    """Return the B-spline coefficients (functions, splines) of the `limit` smoothest functions.

    Their variance is the inverse of their roughness, relative to that of the first curve; no
    roughness is below 1.
    """
    functions = len(gram)
    if not np.isfinite(gram).all() or np.trace(gram) < _SQUARED_ZERO or not limit:
        return np.zeros((0, functions))
    whole = gram + energy + np.outer(mean, mean)
    whole[np.diag_indices(functions)] += _RIDGE * np.trace(whole) / functions
    rho, vectors = linalg.eigh(gram, whole)
    rho = rho[::-1][:limit]
    vectors = vectors.T[::-1][:limit]
    seen = rho > 1 / _ROUGHEST
    rho = np.minimum(rho[seen], 1.0)
    coefficients = vectors[seen] / np.sqrt(rho)[:, None]
    # B-splines sum to one: the mean becomes exactly zero.
    coefficients -= (coefficients @ mean)[:, None]
    if len(coefficients) and coefficients[0, -1] < coefficients[0, 0]:
        coefficients[0] *= -1  # the line rises
    roughness = (1 - rho) / rho
    unit = max(roughness[1], np.finfo(float).tiny) if len(rho) > 1 else np.inf
    return np.asarray(coefficients / np.sqrt(np.maximum(roughness / unit, 1.0))[:, None])
