"""The functions of one input from the smoothest to the roughest: Demmler-Reinsch bases of a cubic spline space.

With the basis B of a grid centred on the training rows, G = B'B/n and S the integral of f''^2 (for inputs scaled to
standard deviation 1), the eigenvectors of G v = rho (G + S + m m') v, m the mean of B, are uncorrelated on the rows
and ordered by roughness d = (1 - rho)/rho. Functions that no row sees have rho = 0 and are left out; what the others do
where there are no rows is then their smoothest continuation, which is nearly straight across a gap, since curvature
counts `stiffness` times as much there. The straight line comes first (d = 0). With the integral
of f'^2 in place of S (and no slope at the ends) the same gives `steps`, which follow an output that jumps.
Source: A. Demmler and C. Reinsch, Numerische Mathematik 24 (1975) 375-382; S. Wood, Generalized Additive Models, 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
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
    rough it is (the line, the first wiggle and the first step 1), of which input, and its place there, 0 for the line;
    `steps` (functions,) which are steps.
    """

    breakpoints: ndarray
    coefficients: tuple[ndarray, ...]
    roughness: ndarray
    column: ndarray
    order: ndarray
    steps: ndarray

    @staticmethod
    def of(
        u: Float[ndarray, "rows inputs"],
        policy: EvidencePolicy,
        weights: Float[ndarray, " rows"] | None = None,
    ) -> ReducedBasis:
        """The basis of these training rows; a constant input has no functions, one of two values a line."""
        weights = np.ones(len(u)) if weights is None else weights
        breakpoints = np.stack([_breakpoints(column, policy) for column in u.T])
        functions = policy.intervals + DEGREE
        gram, mean = _moments(u, weights, breakpoints, functions)
        deviation = np.sqrt(weights @ (u - weights @ u / weights.sum()) ** 2 / weights.sum())
        stiffness = np.where(_rows_between(u, breakpoints) > 0, 1.0, policy.stiffness)
        curvature = _energy(breakpoints, 2, stiffness)
        slope = _energy(breakpoints, 1, np.ones_like(stiffness)) + _flat_ends(breakpoints)
        coefficients: list[ndarray] = []
        roughness: list[ndarray] = []
        column: list[int] = []
        steps: list[bool] = []
        for j, size in enumerate(deviation):
            smooth = _reduced(gram[j], mean[j], curvature[j] * size**3, policy.functions)
            jumps = _reduced(gram[j], mean[j], slope[j] * size, policy.step_functions)
            if jumps[0].shape[1] < policy.fewest_steps:
                jumps = jumps[0][:, :0], jumps[1][:0]
            coefficients.append(np.concatenate([smooth[0], jumps[0]], 1))
            found = [_relative(smooth[1], 1), _relative(jumps[1], 0)]
            roughness += found
            column += [j] * (len(found[0]) + len(found[1]))
            steps += [False] * len(found[0]) + [True] * len(found[1])
        order = [np.arange(len(one)) for one in roughness]
        none = np.zeros(0)
        return ReducedBasis(
            breakpoints,
            tuple(coefficients),
            np.concatenate([none, *roughness]),
            np.array(column, dtype=int),
            np.concatenate([none, *order]).astype(int),
            np.array(steps, dtype=bool),
        )

    def spans(self, j: int) -> Float[ndarray, " differences"]:
        """What differences of neighbouring coefficients of input j are divided by for those of the slope, times 3."""
        knots = extend(torch.as_tensor(self.breakpoints[j : j + 1]), DEGREE)[0].numpy()
        return np.asarray(knots[DEGREE + 1 : -1] - knots[1 : -DEGREE - 1])

    @property
    def inputs(self) -> int:
        return len(self.breakpoints)

    @cached_property
    def places(self) -> tuple[Int[ndarray, " functions"], ...]:
        """Where the functions of each input are."""
        return tuple(np.flatnonzero(self.column == j) for j in range(self.inputs))

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


def _moments(
    u: ndarray, weights: ndarray, breakpoints: ndarray, functions: int
) -> tuple[ndarray, ndarray]:
    """Covariance (inputs, functions, functions) and mean (inputs, functions) of the B-splines on the rows."""
    share = weights / weights.sum()
    inputs, grid = len(breakpoints), _grid(breakpoints)
    gram, mean = np.zeros((inputs, functions, functions)), np.zeros((inputs, functions))
    for start in range(0, len(u), _BLOCK):
        rows = _basis(u[start : start + _BLOCK], grid).transpose(1, 0, 2)
        weighted = rows * share[None, start : start + _BLOCK, None]
        gram += weighted.transpose(0, 2, 1) @ rows
        mean += weighted.sum(1)
    return gram - mean[:, :, None] * mean[:, None, :], mean


def _rows_between(u: ndarray, breakpoints: ndarray) -> Int[ndarray, "inputs intervals"]:
    """How many rows lie in each interval."""
    return np.stack(
        [np.histogram(column, grid)[0] for column, grid in zip(u.T, breakpoints, strict=True)]
    )


def _energy(
    breakpoints: ndarray, derivative: int, stiffness: Float[ndarray, "inputs intervals"]
) -> Float[ndarray, "inputs functions functions"]:
    """The integral of stiffness times the product of two B-splines' derivatives, by three Gauss points an interval."""
    nodes, weights = np.polynomial.legendre.leggauss(3)
    grid, widths = _grid(breakpoints), np.diff(breakpoints, axis=1)
    total = np.zeros((len(breakpoints), grid.functions, grid.functions))
    for node, weight in zip(nodes, weights, strict=True):
        at = breakpoints[:, :-1] + widths * (node + 1) / 2
        values = _basis(at.T, grid, derivative).transpose(1, 0, 2)
        total += values.transpose(0, 2, 1) @ (
            values * (stiffness * widths * weight / 2)[:, :, None]
        )
    return total


def _flat_ends(breakpoints: ndarray) -> Float[ndarray, "inputs functions functions"]:
    """A penalty on slopes at both ends so heavy that functions are level there, and constant beyond."""
    ends = breakpoints[:, [0, -1]]
    slopes = _basis(ends.T, _grid(breakpoints), 1).transpose(1, 0, 2)
    width = (ends[:, 1] - ends[:, 0])[:, None, None]
    return np.asarray(slopes.transpose(0, 2, 1) @ slopes * width * _LEVEL)


_LEVEL = 1e3  # of a slope at an end, in units of that energy over the whole width


def _reduced(
    gram: ndarray, mean: ndarray, energy: ndarray, most: int
) -> tuple[Float[ndarray, "functions kept"], Float[ndarray, " kept"]]:
    """B-spline coefficients and roughness, energy per variance, of the `most` functions of least energy."""
    functions = len(gram)
    if not np.isfinite(gram).all() or np.trace(gram) < 1e-20 or not most:
        return np.zeros((functions, 0)), np.zeros(0)
    whole = gram + energy + np.outer(mean, mean)
    whole[np.diag_indices(functions)] += 1e-13 * np.trace(whole) / functions
    rho, vectors = linalg.eigh(gram, whole)
    rho, vectors = rho[::-1][:most], vectors[:, ::-1][:, :most]
    seen = rho > 1 / ROUGHEST
    rho = np.minimum(rho[seen], 1.0)
    coefficients = vectors[:, seen] / np.sqrt(rho)
    coefficients -= mean @ coefficients  # B-splines sum to one: the mean becomes exactly zero
    if coefficients.shape[1] and coefficients[-1, 0] < coefficients[0, 0]:
        coefficients[:, 0] *= -1  # the line rises
    return coefficients, (1 - rho) / rho


def _relative(roughness: Float[ndarray, " functions"], first: int) -> Float[ndarray, " functions"]:
    """In units of that of number `first`, none below 1."""
    if len(roughness) <= first:
        return np.ones(len(roughness))
    return np.asarray(np.maximum(roughness / max(roughness[first], 1e-300), 1.0))
