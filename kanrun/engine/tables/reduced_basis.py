"""Functions of one input, ordered from smooth to rough: Demmler-Reinsch bases of cubic splines.

Let B be the values of the B-splines on the n training rows, m their mean, G = (B - m)'(B - m) / n,
and S the matrix of the integral of f''^2 for inputs with standard deviation 1. The eigenvectors of
G v = rho (G + S + m m') v are uncorrelated on the rows. They are ordered by their roughness
d = (1 - rho) / rho; the straight line comes first (d = 0). Functions with rho = 0 vanish on all
rows and are left out. In intervals without rows, S is multiplied by `_GAP_STIFFNESS`, so that
functions cross gaps nearly straight.

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

DEGREE = 3  # degree of the splines; for it, the quadrature of f''^2 is exact
# number of intervals of an input's grid; the second number if it has only a line
INTERVALS, LINE_INTERVALS = 32, 2
GRID_EPS = 0.5  # weight of equal spacing in the grid; the rest follows the distinct values
_GAP_STIFFNESS = 100.0
_ROUGHEST = 1e7  # roughness at which a function counts as zero on the rows
_RIDGE = 1e-13  # relative ridge that makes the eigenproblem positive definite
_SQUARED_ZERO = 1e-20  # total variance of the B-splines below which an input is constant
# largest numbers of rows and of values that are processed at once
_BLOCK, _BLOCK_NUMBERS = 4096, 1 << 23

PerRow = Float[ndarray, " rows"]
RowInputs = Float[ndarray, "rows inputs"]
RowOutputs = Float[ndarray, "rows outputs"]
RowFunctions = Float[ndarray, "rows functions"]
Rows = slice | ndarray


@dataclass(frozen=True, eq=False)
class ReducedBasis:
    """Functions of all inputs, with mean 0 on the training rows.

    The variance of a function on the rows is the inverse of its roughness. Therefore all lines can
    have the same prior variance, and so can all curves. The roughness is measured relative to that
    of the first curve of the input; for lines of inputs with more than two values it is 1.

    Attributes:
        breakpoints: Grids, shape (inputs, G + 1).
        coefficients: B-spline coefficients of each function, shape (functions, G + 3).
        column: Index of the input of each function, shape (functions,).
        order: Position of each function among those of its input, shape (functions,); 0 is the
            line.
    """

    breakpoints: ndarray
    coefficients: ndarray
    column: ndarray
    order: ndarray

    @staticmethod
    def of(u: RowInputs, functions: int, weights: PerRow | float = 1.0) -> ReducedBasis:
        """Return the basis for scores `u` of training rows, with at most `functions` per input.

        A constant input has no functions. An input with two values has only a line, which is scaled
        by the size of the jump between the values, relative to an input with equally frequent
        values. The levels of a category are then random effects with the same prior variance, and
        effects of rare levels are shrunk most.
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
        """Evaluate the functions; beyond their grids, they continue as straight lines."""
        out = np.empty((len(u), len(self.column)))
        grid = _grid(self.breakpoints)
        for part in blocks(len(u), u.shape[1] * grid.functions):
            rows = _b_splines(u[part], grid)
            for j, mine in enumerate(self.places):
                out[part, mine] = rows[:, j] @ self.coefficients[mine].T
        return out


def has_two_values(u: RowInputs) -> ndarray:
    """Return whether each input has exactly two values, shape (inputs,)."""
    low = u.min(0)
    high = u.max(0)
    return np.asarray((low < high) & ((u == low) | (u == high)).all(0))


def blocks(rows: int, width: int = 1) -> list[slice]:
    """Return slices that divide `rows` rows of `width` numbers each into blocks.

    A block has at most `_BLOCK` rows and `_BLOCK_NUMBERS` numbers.
    """
    size = min(_BLOCK, max(_BLOCK_NUMBERS // width, 1))
    return [slice(start, start + size) for start in range(0, rows, size)]


def spaced(rows: int, count: int) -> Int[ndarray, " places"]:
    """Return the indices of at most `count` evenly spaced rows."""
    return np.linspace(0, rows - 1, min(rows, count)).astype(int)


def _grid(breakpoints: ndarray) -> Grid:
    return Grid(extend(torch.as_tensor(breakpoints), DEGREE), DEGREE)


def _b_splines(u: ndarray, grid: Grid, derivative: int = 0) -> ndarray:
    """Return the B-splines of each input, or their derivatives, shape (rows, inputs, splines)."""
    local, interval = local_basis(torch.as_tensor(np.ascontiguousarray(u)), grid, derivative)
    return dense_rows(local, interval, grid.functions).numpy()


def _moments(u: ndarray, weights: ndarray, breakpoints: ndarray) -> tuple[ndarray, ndarray]:
    """Return the covariance (inputs, splines, splines) and the mean (inputs, splines) of B-splines.

    Both are weighted over the rows.
    """
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
    """Integrate products of derivatives of B-splines by Gauss-Legendre quadrature.

    Intervals are weighted by `stiffness`, shape (inputs, intervals).

    Returns:
        Matrices of shape (inputs, splines, splines).
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

    The variance of a function is the inverse of its roughness, which is divided by that of the
    first curve and is at least 1.
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
