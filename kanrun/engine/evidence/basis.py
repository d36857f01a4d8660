"""The functions of one input from the smoothest to the roughest: the Demmler-Reinsch basis of a cubic spline space.

With the basis B of a grid centred on the training rows, G = B'B/n and S the integral of f''^2 (for inputs scaled to
standard deviation 1), the eigenvectors of G v = rho (G + S + m m') v, m the mean of B, are uncorrelated on the rows
and ordered by roughness d = (1 - rho)/rho. Functions that no row sees have rho = 0 and are left out; what the others do
where there are no rows is then their smoothest continuation. The straight line comes first (d = 0).
Source: A. Demmler and C. Reinsch, Numerische Mathematik 24 (1975) 375-382; S. Wood, Generalized Additive Models, 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import linalg

from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.splines import Grid, dense_rows, extend, local_basis

DEGREE = 3  # of the splines; the integral of f''^2 below is exact for it
ROUGHEST = 1e7  # roughness, relative to G, from which a function counts as unseen


@dataclass(frozen=True, eq=False)
class ReducedBasis:
    """The kept functions of all inputs, side by side.

    `breakpoints` (inputs, G + 1); `coefficients[j]` (G + 3, kept): B-spline coefficients of input j's functions, which
    have mean 0 and variance 1 on the training rows. `roughness`, `column` and `order` (functions,) say of each how
    rough it is (the line and the first wiggle 1), of which input, and its place there, 0 for the line.
    """

    breakpoints: ndarray
    coefficients: tuple[ndarray, ...]
    roughness: ndarray
    column: ndarray
    order: ndarray

    @staticmethod
    def of(u: Float[ndarray, "rows inputs"], policy: EvidencePolicy) -> ReducedBasis:
        """The basis of these training rows; a constant input has no functions, one of two values a line."""
        breakpoints = np.stack([_breakpoints(column, policy) for column in u.T])
        functions = policy.intervals + DEGREE
        gram, mean = _moments(u, breakpoints, functions)
        curvature = _curvature(breakpoints)
        kept = [
            _reduced(gram[j], mean[j], curvature[j], float(u[:, j].std()), policy.functions, functions)
            for j in range(u.shape[1])
        ]
        counts = [len(roughness) for _, roughness in kept]
        return ReducedBasis(
            breakpoints,
            tuple(coefficients for coefficients, _ in kept),
            np.concatenate([roughness for _, roughness in kept]) if kept else np.zeros(0),
            np.repeat(np.arange(len(kept)), counts),
            np.concatenate([np.arange(count) for count in counts]) if kept else np.zeros(0, dtype=int),
        )

    @property
    def inputs(self) -> int:
        return len(self.breakpoints)

    def values(self, u: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows functions"]:
        """The functions at these rows, continued in straight lines beyond the grids."""
        out = np.empty((len(u), len(self.column)))
        grid = _grid(self.breakpoints)
        for start in range(0, len(u), _BLOCK):
            rows = _basis(u[start : start + _BLOCK], grid)
            for j, coefficients in enumerate(self.coefficients):
                out[start : start + _BLOCK, self.column == j] = rows[:, j] @ coefficients
        return out


_BLOCK = 4096  # rows whose B-splines are held at once


def _grid(breakpoints: ndarray) -> Grid:
    return Grid(extend(torch.as_tensor(breakpoints), DEGREE), DEGREE)


def _basis(u: ndarray, grid: Grid, derivative: int = 0) -> Float[ndarray, "rows inputs functions"]:
    local, interval = local_basis(torch.as_tensor(np.ascontiguousarray(u)), grid, derivative)
    values: ndarray = dense_rows(local, interval, grid.functions).numpy()
    return values


def _breakpoints(u: Float[ndarray, " rows"], policy: EvidencePolicy) -> ndarray:
    """A mixture of equal spacing and the quantiles of the distinct values."""
    distinct = np.unique(u)
    low, high = distinct[0], distinct[-1]
    share = np.linspace(0, 1, policy.intervals + 1)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        return np.asarray(low + max(1.0, abs(low)) * (share - 0.5))
    quantiles = (np.quantile(distinct, share) - low) / (high - low)
    widths = np.diff(policy.grid_eps * share + (1 - policy.grid_eps) * quantiles)
    ends = np.cumsum(np.maximum(widths, policy.narrowest / policy.intervals))
    return np.concatenate([[low], low + (high - low) * ends[:-1] / ends[-1], [high]])


def _moments(u: ndarray, breakpoints: ndarray, functions: int) -> tuple[ndarray, ndarray]:
    """Covariance (inputs, functions, functions) and mean (inputs, functions) of the B-splines on the rows."""
    inputs, grid = len(breakpoints), _grid(breakpoints)
    gram, total = np.zeros((inputs, functions, functions)), np.zeros((inputs, functions))
    for start in range(0, len(u), _BLOCK):
        rows = _basis(u[start : start + _BLOCK], grid).transpose(1, 0, 2)
        gram += rows.transpose(0, 2, 1) @ rows
        total += rows.sum(1)
    mean = total / len(u)
    return gram / len(u) - mean[:, :, None] * mean[:, None, :], mean


def _curvature(breakpoints: ndarray) -> Float[ndarray, "inputs functions functions"]:
    """The integral of B_a'' B_b'' over the grid: second derivatives of cubics are straight between breakpoints."""
    grid, widths = _grid(breakpoints), np.diff(breakpoints, axis=1)
    inside = 1e-9 * widths.T
    left = _basis(breakpoints[:, :-1].T + inside, grid, 2).transpose(1, 0, 2)
    right = _basis(breakpoints[:, 1:].T - inside, grid, 2).transpose(1, 0, 2)

    def product(a: ndarray, b: ndarray) -> ndarray:
        return np.asarray(a.transpose(0, 2, 1) @ (b * widths[:, :, None]))

    mixed = product(left, right)
    return np.asarray((product(left, left) + product(right, right) + (mixed + mixed.transpose(0, 2, 1)) / 2) / 3)


def _reduced(
    gram: ndarray, mean: ndarray, curvature: ndarray, deviation: float, most: int, functions: int
) -> tuple[Float[ndarray, "functions kept"], Float[ndarray, " kept"]]:
    """B-spline coefficients and roughness of the `most` smoothest functions that rows see."""
    if deviation <= 0 or not np.isfinite(gram).all() or np.trace(gram) < 1e-20:
        return np.zeros((functions, 0)), np.zeros(0)
    whole = gram + curvature * deviation**3 + np.outer(mean, mean)
    whole[np.diag_indices(functions)] += 1e-13 * np.trace(whole) / functions
    rho, vectors = linalg.eigh(gram, whole)
    rho, vectors = rho[::-1][:most], vectors[:, ::-1][:, :most]
    seen = rho > 1 / ROUGHEST
    rho = np.minimum(rho[seen], 1.0)
    coefficients = vectors[:, seen] / np.sqrt(rho)
    coefficients -= mean @ coefficients  # B-splines sum to one: the mean becomes exactly zero
    if coefficients.shape[1] and coefficients[-1, 0] < coefficients[0, 0]:
        coefficients[:, 0] *= -1  # the line rises
    roughness = (1 - rho) / rho
    if len(roughness) > 1:
        roughness = np.maximum(roughness / roughness[1], 1.0)
    return coefficients, np.concatenate([np.ones(min(len(roughness), 1)), roughness[1:]])
