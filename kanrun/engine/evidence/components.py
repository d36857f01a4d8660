"""Variance components: how much of an output belongs to each kind of term, by restricted maximum likelihood.

y = b + sum_g f_g + e with f_g ~ N(0, v_g K_g) and e ~ N(0, s2 D), b without a prior. The logarithms of v and s2 move by
average-information steps; the fixed point is that of Fellner-Schall and MacKay, L_g = 1/v_g = gamma_g / |u_g|^2 with
gamma_g = v_g tr(P K_g), the effective degrees of freedom.
Source: A. Gilmour, R. Thompson, B. Cullis, Biometrics 51 (1995) 1440-1450; S. Wood, M. Fasiolo, Biometrics 73 (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import linalg

from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.errors import KanrunError


@dataclass(frozen=True, eq=False)
class Posterior:
    """`offset` b, `weights` P y (rows,), `diagonal` of P (rows,): y - weights / diagonal is predicted without row i."""

    offset: float
    weights: ndarray
    diagonal: ndarray
    projection: ndarray

    def left_out(self, y: Float[ndarray, " rows"]) -> Float[ndarray, " rows"]:
        """The prediction of each row by all others, the variances held."""
        return np.asarray(y - self.weights / self.diagonal)


def solve(kernels: Sequence[ndarray], variances: ndarray, noise: Float[ndarray, " rows"], y: ndarray) -> Posterior:
    """The posterior for given variances; `noise` is the variance of e in each row."""
    covariance = _weighted(kernels, variances, len(y))
    covariance[np.diag_indices(len(y))] += noise
    inverse = _inverse(covariance)
    sums = inverse.sum(1)
    total = sums.sum()
    inverse -= np.outer(sums, sums / total)
    return Posterior(float(sums @ y / total), inverse @ y, np.diag(inverse).copy(), inverse)


def weights_of(kernels: Sequence[ndarray], variances: ndarray, noise: Float[ndarray, " rows"], y: ndarray) -> ndarray:
    """P y alone, by one factorisation: a quarter of the work of `solve`."""
    covariance = _weighted(kernels, variances, len(y))
    covariance[np.diag_indices(len(y))] += noise
    factor = linalg.cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    both = linalg.cho_solve(factor, np.stack([y, np.ones(len(y))], 1), check_finite=False)
    return np.asarray(both[:, 0] - both[:, 1] * (both[:, 0].sum() / both[:, 1].sum()))


def slope(
    kernels: Sequence[ndarray], variances: ndarray, posterior: Posterior, noise: float | None, y: ndarray
) -> tuple[ndarray, ndarray]:
    """Slope of the log likelihood in the logarithms of the positive variances, and its average information.

    The noise comes last unless it is None (known).
    """
    p, a = posterior.projection, posterior.weights
    active = [g for g in range(len(kernels)) if variances[g] > 0]
    shifted = [variances[g] * (kernels[g] @ a) for g in active]
    first = [(a @ f - variances[g] * float(np.vdot(p, kernels[g]))) / 2 for g, f in zip(active, shifted, strict=True)]
    if noise is not None:
        shifted.append(noise * a)
        first.append((noise * float(a @ a) - noise * float(np.trace(p))) / 2)
    columns = np.stack(shifted, 1) if shifted else np.zeros((len(y), 0))
    return np.array(first), columns.T @ (p @ columns) / 2


def move(first: ndarray, information: ndarray) -> ndarray:
    """The step of the logarithms, none larger than 2."""
    if not len(first):
        return first
    damped = information + np.eye(len(first)) * (1e-3 * np.trace(information) / len(first) + 1e-9)
    return np.asarray(np.clip(np.linalg.solve(damped, first), -2, 2))


@dataclass(frozen=True, eq=False)
class WidePosterior:
    """The same over functions instead of rows: `offset`, `coefficients` and their covariance, and what rows get.

    `left_out` (rows,) is predicted without row i.
    """

    offset: float
    coefficients: ndarray
    covariance: ndarray
    fitted: ndarray
    left_out: ndarray


def solve_wide(
    columns: Callable[[slice], ndarray], prior: Float[ndarray, " functions"], noise: ndarray, y: ndarray
) -> WidePosterior:
    """The posterior over functions with prior variances `prior`; `columns` gives the functions of a slice of rows.

    Functions without variance keep the coefficient 0.
    """
    kept = np.flatnonzero(prior > 0)
    gram, right = np.zeros((len(kept) + 1, len(kept) + 1)), np.zeros(len(kept) + 1)
    slices = [slice(start, start + _BLOCK) for start in range(0, len(y), _BLOCK)]

    def with_one(part: slice) -> ndarray:
        x = columns(part)[:, kept]
        return np.concatenate([np.ones((len(x), 1)), x], 1)

    for part in slices:
        x = with_one(part)
        weighted = x / noise[part, None]
        gram += weighted.T @ x
        right += weighted.T @ y[part]
    gram[np.diag_indices(len(gram))] += np.concatenate([[0.0], 1 / prior[kept]])
    covariance = _inverse(gram)
    solution = covariance @ right
    fitted, leverage = np.empty(len(y)), np.empty(len(y))
    for part in slices:
        x = with_one(part)
        fitted[part] = x @ solution
        leverage[part] = ((x @ covariance) * x).sum(1) / noise[part]
    coefficients, whole = np.zeros(len(prior)), np.zeros((len(prior), len(prior)))
    coefficients[kept] = solution[1:]
    whole[np.ix_(kept, kept)] = covariance[1:, 1:]
    left_out = y - (y - fitted) / np.maximum(1 - leverage, 1e-6)
    return WidePosterior(float(solution[0]), coefficients, whole, fitted, left_out)


_BLOCK = 4096  # rows whose functions are held at once


def estimate(
    kernels: Sequence[ndarray], y: Float[ndarray, " rows"], policy: EvidencePolicy
) -> tuple[Float[ndarray, " components"], float]:
    """(v, s2) for an output of numbers; a component that explains next to nothing gets v = 0."""
    spread, sizes = float(y.var()), np.array([np.trace(kernel) / len(y) for kernel in kernels])
    if spread <= 0:
        return np.zeros(len(kernels)), 1.0
    variances = np.where(sizes > 1e-12, spread / 2 / len(kernels) / np.maximum(sizes, 1e-12), 0.0)
    noise = spread / 2
    for _ in range(policy.rounds):
        posterior = solve(kernels, variances, np.full(len(y), noise), y)
        change = move(*slope(kernels, variances, posterior, noise, y))
        variances[variances > 0] *= np.exp(change[:-1])
        noise = max(noise * float(np.exp(change[-1])), 1e-10 * spread)
        variances[variances * sizes < policy.negligible * spread] = 0.0
        if np.abs(change).max() < policy.settled:
            break
    return variances, noise


def _weighted(kernels: Sequence[ndarray], variances: ndarray, rows: int) -> ndarray:
    total = np.zeros((rows, rows))
    for kernel, variance in zip(kernels, variances, strict=True):
        if variance > 0:
            total += variance * kernel
    return total


def _inverse(matrix: ndarray) -> ndarray:
    """Of a positive definite matrix, which is overwritten."""
    factor, info = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info == 0:
        factor, info = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise KanrunError("The covariance of the rows is not positive definite; are there values of extreme size?")
    lower = np.tril(factor)
    return np.asarray(lower + np.tril(factor, -1).T)
