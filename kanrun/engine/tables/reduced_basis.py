"""Functions of one input, ordered from smooth to rough: Demmler-Reinsch bases of cubic splines.

Let B be the values of the B-splines on the n training rows, m their mean, G = (B - m)'(B - m) / n,
and S the matrix of the integral of f''^2 for inputs with standard deviation 1. The eigenvectors of
G v = rho (G + S + m m') v are uncorrelated on the rows. They are ordered by their roughness
d = (1 - rho) / rho; the straight line comes first (d = 0). Functions with rho = 0 vanish on all
rows and are left out. In intervals without rows, S is multiplied by 100, so that
functions cross gaps nearly straight.

Sources: A. Demmler and C. Reinsch, Numerische Mathematik 24 (1975) 375-382; S. Wood, Generalized
Additive Models (2017), 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg
from scipy.interpolate import BSpline

from kanrun.engine.splines import Grid, dense_rows, extend, local_basis, mixed_breakpoints

#: Degree of the splines. It is also the number of quadrature points per interval, which integrate
#: f''^2 exactly.
DEGREE = 3
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(DEGREE)
#: Largest number of array entries that are computed at once, to limit memory.
_BLOCK_NUMBERS = 1 << 23

PerRow = Float[ndarray, " rows"]
RowInputs = Float[ndarray, "rows inputs"]
RowOutputs = Float[ndarray, "rows outputs"]
RowFunctions = Float[ndarray, "rows functions"]


@dataclass(frozen=True, eq=False)
class ReducedBasis:
    """Functions of all inputs, with mean 0 on the training rows.

    The variance of a function on the rows is the inverse of its roughness. Therefore all lines can
    have the same prior variance, and so can all curves. Roughness is measured relative to that of
    the input's first curve and is at least 1, so lines have the variance 1. Lines of inputs with
    two values are scaled differently, see `of`.

    Attributes:
        breakpoints: Grid of each input, with G intervals, shape (inputs, G + 1).
        coefficients: B-spline coefficients of each function, shape (functions, G + 3).
        column: Index of the input of each function, shape (functions,). Of each input, the line
            comes first.
    """

    breakpoints: ndarray
    coefficients: ndarray
    column: ndarray

    @staticmethod
    def of(u: RowInputs, functions: int, weights: PerRow | None = None) -> ReducedBasis:
        """Return the basis for scores `u` of training rows, with at most `functions` per input.

        A constant input has no functions. An input with two values has only a line, whose values
        differ by 2, however frequent the two values of the input are. The levels of a category are
        therefore random effects with the same prior variance, and effects of rare levels are shrunk
        most.
        """
        # Weight of equally spaced breakpoints in a grid; the remaining weight is that of the
        # quantiles of the distinct values.
        grid_eps = 0.5
        # Number of intervals of the grids if only lines are fitted.
        line_intervals = 2
        # Number of intervals of the grid of an input.
        intervals = 32
        shares = np.ones(len(u)) if weights is None else weights
        levels = np.linspace(0, 1, (intervals if functions > 1 else line_intervals) + 1)
        quantiles = [np.quantile(np.unique(scores), levels) for scores in u.T]
        order = torch.as_tensor(np.stack(quantiles, 1))
        ends = order[0], order[-1]
        grids = mixed_breakpoints(order, *ends, len(levels) - 1, 1 - grid_eps, 0.0)
        found = [
            _smoothest(*each, shares / shares.sum(), functions)
            for each in zip(u.T, extend(grids, DEGREE).numpy(), strict=True)
        ]
        column = np.repeat(range(u.shape[1]), [len(smooth) for smooth in found])
        return ReducedBasis(grids.numpy(), np.concatenate(found), column)

    @cached_property
    def is_line(self) -> ndarray:
        """Whether each function is a straight line, shape (functions,)."""
        return np.diff(self.column, prepend=-1) > 0

    def only(self, kept: ndarray) -> ReducedBasis:
        """Return the basis with the functions for which `kept` (functions,) is true."""
        return replace(self, coefficients=self.coefficients[kept], column=self.column[kept])

    @cached_property
    def places(self) -> tuple[Int[ndarray, " functions"], ...]:
        """For each input, the indices of its functions."""
        return tuple(np.flatnonzero(self.column == j) for j in range(len(self.breakpoints)))

    def values(self, u: RowInputs) -> RowFunctions:
        """Evaluate all functions at scores `u`, shape (rows, functions).

        Beyond their grids, the functions continue as straight lines.
        """
        values = np.empty((len(u), len(self.column)))
        grid = Grid(extend(torch.as_tensor(self.breakpoints), DEGREE), DEGREE)
        for rows in blocks(len(u), self.breakpoints.size):
            local, interval = local_basis(torch.as_tensor(u[rows]), grid)
            splines = dense_rows(local, interval, grid.functions).numpy()
            for j, mine in enumerate(self.places):
                values[rows, mine] = splines[:, j] @ self.coefficients[mine].T
        return values


def blocks(rows: int, width: int = 1) -> list[slice]:
    """Return slices that divide `rows` rows of `width` numbers each into blocks.

    A block has at most `block` rows and `block_numbers` numbers.
    """
    # Largest number of rows that are processed at once, to limit memory.
    block = 4096
    size = min(block, max(_BLOCK_NUMBERS // width, 1))
    return [slice(start, start + size) for start in range(0, rows, size)]


def spaced(rows: int, count: int) -> Int[ndarray, " places"]:
    """Return the indices of at most `count` of `rows` rows, evenly spaced from first to last."""
    return np.linspace(0, rows - 1, min(rows, count)).astype(int)


def _smoothest(u: PerRow, knots: ndarray, shares: PerRow, limit: int) -> ndarray:
    """Return the B-spline coefficients (functions, splines) of an input's smoothest functions.

    Args:
        u: Scores of the input, shape (rows,).
        knots: Knots of the B-splines, shape (G + 7,).
        shares: Weights of the rows, whose sum is 1, shape (rows,).
        limit: Largest number of functions.
    """
    # Factor by which the integral of f''^2 is multiplied in intervals without rows.
    gap_stiffness = 100.0
    grid = knots[DEGREE:-DEGREE]
    splines = BSpline.design_matrix(u.clip(grid[0], grid[-1]), knots, DEGREE).toarray()
    mean = shares @ splines
    gram = (splines.T * shares) @ splines - np.outer(mean, mean)
    # integral of the products of second derivatives, by Gauss-Legendre quadrature
    half = np.diff(grid)[:, None] / 2
    points = grid[:-1, None] + half * (_NODES + 1)
    curved = BSpline(knots, np.eye(len(mean)), DEGREE)(points.ravel(), 2)
    stiffness = np.where(np.histogram(u, grid)[0] == 0, gap_stiffness, 1.0)
    energy = (curved.T * (stiffness[:, None] * half * _WEIGHTS).ravel()) @ curved
    size = float(np.sqrt(shares @ (u - shares @ u) ** 2))
    coefficients = _demmler_reinsch(mean, gram, size**3 * energy, limit)
    distinct = np.unique(u)
    return coefficients * (2 * size / np.ptp(distinct)) if len(distinct) == 2 else coefficients


def _demmler_reinsch(mean: ndarray, gram: ndarray, energy: ndarray, limit: int) -> ndarray:
    """Return the B-spline coefficients (functions, splines) of the `limit` smoothest functions.

    The variance of a function is the inverse of its roughness, which is divided by that of the
    first curve and is at least 1.

    Args:
        mean: Weighted means of the B-splines on the rows, shape (splines,).
        gram: Covariances of the B-splines on the rows, shape (splines, splines).
        energy: Integrals of products of second derivatives, for inputs with standard deviation 1.
        limit: Largest number of functions.
    """
    # Total variance of the B-splines below which an input counts as constant.
    squared_zero = 1e-20
    # Ridge that makes the right matrix of the eigenproblem positive definite, relative to the mean
    # of its diagonal.
    ridge = 1e-13
    # Functions with at least this roughness count as zero on the rows and are left out.
    roughest = 1e7
    functions = len(mean)
    if not limit or not np.isfinite(gram).all() or np.trace(gram) < squared_zero:
        return np.zeros((0, functions))
    whole = gram + energy + np.outer(mean, mean)
    whole[np.diag_indices(functions)] += ridge * np.trace(whole) / functions
    rho, vectors = linalg.eigh(gram, whole)
    rho = rho[::-1][:limit]
    vectors = vectors.T[::-1][:limit]
    seen = rho > 1 / roughest
    rho = np.minimum(rho[seen], 1.0)
    coefficients = vectors[seen] / np.sqrt(rho)[:, None]
    # B-splines sum to one: the mean becomes exactly zero.
    coefficients -= (coefficients @ mean)[:, None]
    if len(coefficients) and coefficients[0, -1] < coefficients[0, 0]:
        coefficients[0] *= -1  # the line rises
    roughness = (1 - rho) / rho
    unit = max(roughness[1], np.finfo(float).tiny) if len(rho) > 1 else np.inf
    return np.asarray(coefficients / np.sqrt(np.maximum(roughness / unit, 1.0))[:, None])
