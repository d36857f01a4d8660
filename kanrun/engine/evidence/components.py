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
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg, optimize

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


def solve(
    kernels: Sequence[ndarray], variances: ndarray, noise: Float[ndarray, " rows"], y: ndarray
) -> Posterior:
    """The posterior for given variances; `noise` is the variance of e in each row."""
    covariance = _weighted(kernels, variances, len(y))
    covariance[np.diag_indices(len(y))] += noise
    inverse = _inverse(covariance)
    sums = inverse.sum(1)
    total = sums.sum()
    inverse -= np.outer(sums, sums / total)
    return Posterior(float(sums @ y / total), inverse @ y, np.diag(inverse).copy(), inverse)


def weights_of(
    kernels: Sequence[ndarray], variances: ndarray, noise: Float[ndarray, " rows"], y: ndarray
) -> ndarray:
    """P y alone, by one factorisation: a quarter of the work of `solve`."""
    covariance = _weighted(kernels, variances, len(y))
    covariance[np.diag_indices(len(y))] += noise
    factor = linalg.cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    both = linalg.cho_solve(factor, np.stack([y, np.ones(len(y))], 1), check_finite=False)
    return np.asarray(both[:, 0] - both[:, 1] * (both[:, 0].sum() / both[:, 1].sum()))


def slope(
    kernels: Sequence[ndarray],
    variances: ndarray,
    posterior: Posterior,
    noise: ndarray | None,
    y: ndarray,
) -> tuple[ndarray, ndarray]:
    """Slope of the log likelihood in the logarithms of the positive variances, and its average information.

    The noise (rows,) comes last, by a common factor, unless it is None (known).
    """
    p, a = posterior.projection, posterior.weights
    active = [g for g in range(len(kernels)) if variances[g] > 0]
    shifted = [variances[g] * (kernels[g] @ a) for g in active]
    first = [
        (a @ f - variances[g] * float(np.vdot(p, kernels[g]))) / 2
        for g, f in zip(active, shifted, strict=True)
    ]
    if noise is not None:
        shifted.append(noise * a)
        first.append((float(noise @ a**2) - float(noise @ np.diag(p))) / 2)
    columns = np.stack(shifted, 1) if shifted else np.zeros((len(y), 0))
    return np.array(first), columns.T @ (p @ columns) / 2


def move(first: ndarray, information: ndarray) -> ndarray:
    """The step of the logarithms, none larger than 2."""
    if not len(first):
        return first
    damped = information + np.eye(len(first)) * (1e-3 * np.trace(information) / len(first) + 1e-9)
    return np.asarray(np.clip(np.linalg.solve(damped, first), -2, 2))


@dataclass(frozen=True, eq=False)
class Moments:
    """What least squares needs of weighted rows: about their means, so that the offset needs no column of its own.

    `gram` X'WX, `right` X'Wy, `square` y'Wy, and `count`, the sum of the weights: a row of weight 2 counts as two equal
    rows. The same rows in another order, or repeated instead of weighted, give the same moments up to rounding.
    """

    gram: Float[ndarray, "functions functions"]
    right: Float[ndarray, " functions"]
    square: float
    count: float
    mean: Float[ndarray, " functions"]
    level: float

    @staticmethod
    def of(
        columns: Callable[[slice], ndarray], weights: Float[ndarray, " rows"], y: ndarray
    ) -> Moments:
        """From the functions of a slice of rows, block after block."""
        gram: ndarray | float = 0.0
        right: ndarray | float = 0.0
        total: ndarray | float = 0.0
        for part in _blocks(len(y)):
            root = np.sqrt(weights[part])
            x = columns(part) * root[:, None]
            gram, right, total = gram + x.T @ x, right + x.T @ (root * y[part]), total + x.T @ root
        count = float(weights.sum())
        mean, level = np.asarray(total) / count, float(weights @ y) / count
        centred = np.asarray(gram) - count * np.outer(mean, mean)
        return Moments(
            centred,
            np.asarray(right) - count * level * mean,
            float(weights @ (y - level) ** 2),
            count,
            mean,
            level,
        )

    def posterior(
        self,
        prior: Float[ndarray, " functions"],
        noise: float,
        constraints: Float[ndarray, "conditions functions"] | None = None,
    ) -> FunctionPosterior:
        """For prior variances of the coefficients; those without variance are 0.

        With `constraints` A the coefficients b are the most probable ones with A b >= 0; their covariance stays that
        without.
        """
        kept, hessian = self.hessian(prior, noise)
        if constraints is None:
            inverse = _inverse(hessian)
            solution = inverse @ self.right[kept] / noise
        else:
            solution = _constrained(hessian, self.right[kept] / noise, constraints[:, kept])
            inverse = _inverse(hessian)
        coefficients, covariance = np.zeros(len(prior)), np.zeros((len(prior), len(prior)))
        coefficients[kept], covariance[np.ix_(kept, kept)] = solution, inverse
        offset = self.level - float(self.mean @ coefficients)
        return FunctionPosterior(offset, coefficients, covariance, prior, noise, self)

    def fitted(
        self, columns: Callable[[slice], ndarray], prior: Float[ndarray, " functions"], rows: int
    ) -> ndarray:
        """What rows get from the most probable coefficients, for noise of variance 1 and positive variances `prior`."""
        _, hessian = self.hessian(prior, 1.0)
        solution = linalg.solve(
            hessian, self.right, assume_a="pos", overwrite_a=True, check_finite=False
        )
        offset = self.level - float(self.mean @ solution)
        return np.concatenate([offset + columns(part) @ solution for part in _blocks(rows)])

    def hessian(self, prior: Float[ndarray, " functions"], noise: float) -> tuple[ndarray, ndarray]:
        """Which functions have a prior variance, and the inverse of their covariance."""
        kept = np.flatnonzero(prior > 0)
        hessian = self.gram[np.ix_(kept, kept)] / noise
        hessian[np.diag_indices(len(kept))] += 1 / prior[kept]
        return kept, hessian


@dataclass(frozen=True, eq=False)
class FunctionPosterior:
    """`offset`, `coefficients` (functions,) and their `covariance`, for one `prior` and one variance of the noise."""

    offset: float
    coefficients: ndarray
    covariance: ndarray
    prior: ndarray
    noise: float
    moments: Moments

    def effective(self, main: ndarray) -> float:
        """How many of the coefficients `main` the data determine rather than their prior: tr (X'WX H^-1) of them."""
        return float(
            np.einsum("ij,ji->i", self.moments.gram[main], self.covariance[:, main]).sum()
            / self.noise
        )

    def fitted(self, columns: Callable[[slice], ndarray], rows: int) -> ndarray:
        """What rows get."""
        return np.concatenate(
            [self.offset + columns(part) @ self.coefficients for part in _blocks(rows)]
        )

    def rows(
        self, columns: Callable[[slice], ndarray], weights: ndarray, y: ndarray
    ) -> tuple[ndarray, ndarray]:
        """What rows get, and what each gets from the fit without it.

        The leverage x'H^-1 x is |R^-1 x|^2 by the factor R R' of H: half of the work of a product with the covariance.
        """
        fitted, leverage = np.empty(len(y)), np.full(len(y), 1 / self.moments.count)
        kept, hessian = self.moments.hessian(self.prior, self.noise)
        factor = linalg.cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)
        for part in _blocks(len(y)):
            x = columns(part)
            fitted[part] = self.offset + x @ self.coefficients
            if len(kept):
                x = np.take(x, kept, 1) - self.moments.mean[kept]
                half = linalg.blas.dtrsm(
                    1 / np.sqrt(self.noise), factor, x.T, lower=1, overwrite_b=1
                )
                leverage[part] += np.einsum("ij,ij->j", half, half)
        return fitted, y - (y - fitted) / np.maximum(1 - weights * leverage, 1e-6)


def slope_of_moments(
    moments: Moments,
    groups: Int[ndarray, " functions"],
    variances: ndarray,
    noise: float,
    known: bool,
) -> tuple[ndarray, ndarray]:
    """As `slope`, with component `groups` of each function; the noise comes last unless it is `known`."""
    posterior = moments.posterior(variances[groups], noise)
    beta, gram = posterior.coefficients, moments.gram
    shrunk = gram @ posterior.covariance / noise  # X'W X H^-1, in units of the noise
    q = (moments.right - gram @ beta) / noise
    inner = (gram - shrunk @ gram) / noise  # X'PX
    active = np.flatnonzero(variances > 0)
    first, vectors = [], []
    for g in active:
        mine = groups == g
        first.append(variances[g] * (q[mine] @ q[mine] - np.trace(inner[np.ix_(mine, mine)])) / 2)
        vectors.append(np.where(mine, variances[g] * q, 0.0))
    columns = np.stack(vectors, 1) if vectors else np.zeros((len(q), 0))
    information = columns.T @ inner @ columns / 2
    if known:
        return np.array(first), information
    residual = moments.square - 2 * beta @ moments.right + beta @ gram @ beta
    first.append((residual / noise - (moments.count - 1 - np.trace(shrunk))) / 2)
    cross = columns.T @ (q - shrunk @ q) / 2
    last = (residual / noise - q @ posterior.covariance @ q) / 2
    return np.array(first), np.block(
        [[information, cross[:, None]], [cross[None], np.array([[last]])]]
    )


def estimate_of_moments(
    moments: Moments,
    groups: Int[ndarray, " functions"],
    components: int,
    policy: EvidencePolicy,
    start: tuple[ndarray, float] | None = None,
) -> tuple[ndarray, float]:
    """(v, s2) as `estimate` gives them, from moments; the work does not depend on the number of rows."""
    spread, diagonal = moments.square / moments.count, np.diag(moments.gram) / moments.count
    sizes = np.array([diagonal[groups == g].sum() for g in range(components)])

    def parts(variances: ndarray, noise: float) -> tuple[ndarray, ndarray]:
        return slope_of_moments(moments, groups, variances, noise, known=False)

    def surprise(variances: ndarray, noise: float) -> float:
        prior = variances[groups]
        kept, hessian = moments.hessian(prior, noise)
        right = moments.right[kept] / noise
        factor = linalg.cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)
        half = linalg.solve_triangular(factor, right, lower=True, check_finite=False)
        size = 2 * float(np.log(np.diag(factor)).sum()) + float(np.log(prior[kept]).sum())
        return (
            size
            + (moments.count - 1) * float(np.log(noise))
            + moments.square / noise
            - float(half @ half)
        )

    return _climb(parts, surprise, sizes, spread, policy, start)


def _blocks(rows: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]


_BLOCK = 4096  # rows whose functions are held at once


def estimate(
    kernels: Sequence[ndarray],
    y: Float[ndarray, " rows"],
    weights: Float[ndarray, " rows"],
    policy: EvidencePolicy,
    start: tuple[ndarray, float] | None = None,
) -> tuple[Float[ndarray, " components"], float]:
    """(v, s2) for an output of numbers; a component that explains next to nothing gets v = 0."""
    spread, sizes = float(y.var()), np.array([np.trace(kernel) / len(y) for kernel in kernels])

    def parts(variances: ndarray, noise: float) -> tuple[ndarray, ndarray]:
        return slope(
            kernels, variances, solve(kernels, variances, noise / weights, y), noise / weights, y
        )

    def surprise(variances: ndarray, noise: float) -> float:
        covariance = _weighted(kernels, variances, len(y))
        covariance[np.diag_indices(len(y))] += noise / weights
        factor = linalg.cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        ones, mine = linalg.solve_triangular(
            factor, np.stack([np.ones(len(y)), y], 1), lower=True, check_finite=False
        ).T
        total = float(ones @ ones)
        size = 2 * float(np.log(np.diag(factor)).sum()) + float(np.log(total))
        return size + float(mine @ mine) - float(ones @ mine) ** 2 / total

    return _climb(parts, surprise, sizes, spread, policy, start)


def _climb(
    parts: Callable[[ndarray, float], tuple[ndarray, ndarray]],
    surprise: Callable[[ndarray, float], float],
    sizes: ndarray,
    spread: float,
    policy: EvidencePolicy,
    start: tuple[ndarray, float] | None,
) -> tuple[ndarray, float]:
    """The variances where the slope vanishes; `sizes` are the mean squares of the components for variance 1.

    Without a `start` there is one climb for each of the policy's `noise_shares`, and the one that ends at the least
    `surprise`, minus twice the log likelihood, counts: an output that its inputs determine has a second, lower top.
    """
    if spread <= 0:
        return np.zeros(len(sizes)), 1.0
    if start is not None:
        return _climbed(parts, sizes, spread, policy, (start[0].copy(), start[1]))
    there = sizes > 1e-12
    equal = np.where(there, spread / len(sizes) / np.where(there, sizes, 1.0), 0.0)
    found = [
        _climbed(parts, sizes, spread, policy, ((1 - share) * equal, share * spread))
        for share in policy.noise_shares
    ]
    return min(found, key=lambda one: surprise(*one))


def _climbed(
    parts: Callable[[ndarray, float], tuple[ndarray, ndarray]],
    sizes: ndarray,
    spread: float,
    policy: EvidencePolicy,
    start: tuple[ndarray, float],
) -> tuple[ndarray, float]:
    variances, noise = start
    for _ in range(policy.rounds):
        change = move(*parts(variances, noise))
        variances[variances > 0] *= np.exp(change[:-1])
        noise = max(noise * float(np.exp(change[-1])), 1e-10 * spread)
        variances[variances * sizes < policy.negligible * spread] = 0.0
        if np.abs(change).max() < policy.settled:
            break
    return variances, noise


def _constrained(
    hessian: ndarray, right: ndarray, constraints: ndarray
) -> Float[ndarray, " functions"]:
    """The b with A b >= 0 that minimises b'H b / 2 - b'r, by non-negative least squares for the multipliers.

    Source: C. Lawson and R. Hanson, Solving Least Squares Problems (1974), chapter 23 (least distance programming).
    """
    factor = linalg.cholesky(hessian, lower=True)
    free = linalg.solve_triangular(factor, right, lower=True)
    turned = linalg.solve_triangular(factor, constraints.T, lower=True)
    sizes = np.sqrt((turned**2).sum(0))
    turned = turned / np.where(sizes > 0, sizes, 1.0)
    multipliers, _ = optimize.nnls(turned, -free, maxiter=100 * (turned.shape[1] + 1))
    return np.asarray(
        linalg.solve_triangular(factor, free + turned @ multipliers, lower=True, trans="T")
    )


def _weighted(kernels: Sequence[ndarray], variances: ndarray, rows: int) -> ndarray:
    total = np.zeros((rows, rows))
    for kernel, variance in zip(kernels, variances, strict=True):
        if variance > 0:
            total += variance * kernel
    return total


def _inverse(matrix: ndarray) -> ndarray:
    """Of a positive definite matrix, which is overwritten."""
    if not len(matrix):
        return matrix
    factor, info = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info == 0:
        factor, info = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise KanrunError(
            "The covariance of the rows is not positive definite; are there values of extreme size?"
        )
    lower = np.tril(factor)
    return np.asarray(lower + np.tril(factor, -1).T)
