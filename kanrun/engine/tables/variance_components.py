"""Variance components of the kinds of terms, by restricted maximum likelihood.

The model is y = b + sum_g f_g + e with f_g ~ N(0, v_g K_g), e ~ N(0, s2 D), and no prior for b. The
logarithms of v and s2 move by average-information steps. The fixed point is that of Fellner-Schall
and MacKay, 1 / v_g = gamma_g / |u_g|^2 with the effective degrees of freedom gamma_g = v_g tr(P
K_g).

A `KernelProblem` works with the kernels K_g of the rows, a `FunctionProblem` with the functions
behind them.

Sources: A. Gilmour, R. Thompson, B. Cullis, Biometrics 51 (1995) 1440-1450; S. Wood, M. Fasiolo,
Biometrics 73 (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg, optimize

from kanrun.engine.tables.table_policy import EvidencePolicy
from kanrun.errors import KanrunError

ABSENT = 1e-12  # mean square of a component whose functions vanish on the rows
_NEGLIGIBLE = 1e-5  # of the output's variance: components that explain less are dropped
_MIN_NOISE = 1e-10  # of the output's variance
_MAX_STEP = 2.0  # of the logarithm of a variance
_DAMPING = (1e-3, 1e-9)  # of the average information, relative to its mean and absolute
_MIN_LEFT = 1e-6  # of 1 - leverage
_BLOCK = 4096  # rows whose functions are used at once

#: Functions of a slice of rows.
Columns = Callable[[slice], ndarray]
#: Gradient of the log likelihood in the logarithms of positive variances, and its average
#: information.
Slope = tuple[ndarray, ndarray]


@dataclass(frozen=True, eq=False)
class KernelPosterior:
    """`offset` b, `weights` P y (rows,), and the `projection` P (rows, rows)."""

    offset: float
    weights: ndarray
    projection: ndarray


@dataclass(frozen=True, eq=False)
class KernelProblem:
    """Rows `y` with a kernel for each component; `noise` (rows,) is the diagonal of D."""

    kernels: Sequence[ndarray]
    noise: Float[ndarray, " rows"]
    y: Float[ndarray, " rows"]

    @property
    def sizes(self) -> ndarray:
        """Mean square of each component for variance 1."""
        return np.array([np.trace(kernel) / len(self.y) for kernel in self.kernels])

    @property
    def variance(self) -> float:
        return float(self.y.var())

    def covariance(self, variances: ndarray, scale: float = 1.0) -> ndarray:
        """Return the covariance of the rows; `scale` is s2."""
        total = np.zeros((len(self.y),) * 2)
        for kernel, variance in zip(self.kernels, variances, strict=True):
            if variance > 0:
                total += variance * kernel
        total[np.diag_indices(len(self.y))] += scale * self.noise
        return total

    def posterior(self, variances: ndarray, scale: float = 1.0) -> KernelPosterior:
        """Return the posterior for given variances."""
        inverse = _inverse(self.covariance(variances, scale))
        sums = inverse.sum(1)
        total = sums.sum()
        inverse -= np.outer(sums, sums / total)
        return KernelPosterior(float(sums @ self.y / total), inverse @ self.y, inverse)

    def left_out(self, found: KernelPosterior) -> Float[ndarray, " rows"]:
        """Return the prediction of each row by all others, for the variances of the posterior."""
        return np.asarray(self.y - found.weights / np.diag(found.projection))

    def fitted(self, variances: ndarray) -> Float[ndarray, " rows"]:
        """Return the fitted values by one factorisation, a quarter of the work of a posterior."""
        factor = linalg.cho_factor(
            self.covariance(variances), lower=True, overwrite_a=True, check_finite=False
        )
        right = np.stack([self.y, np.ones(len(self.y))], 1)
        both = linalg.cho_solve(factor, right, check_finite=False)
        weights = both[:, 0] - both[:, 1] * (both[:, 0].sum() / both[:, 1].sum())
        return np.asarray(self.y - self.noise * weights)

    def slope(self, variances: ndarray, scale: float = 1.0, *, known: bool = False) -> Slope:
        """Return the slope.

        The noise comes last, by its common factor `scale`, unless it is `known`.
        """
        found, noise = self.posterior(variances, scale), scale * self.noise
        p, a = found.projection, found.weights
        active = np.flatnonzero(variances > 0).tolist()
        shifted = [variances[g] * (self.kernels[g] @ a) for g in active]
        first = [
            (a @ f - variances[g] * float(np.vdot(p, self.kernels[g]))) / 2
            for g, f in zip(active, shifted, strict=True)
        ]
        if not known:
            shifted.append(noise * a)
            first.append((float(noise @ a**2) - float(noise @ np.diag(p))) / 2)
        columns = np.stack(shifted, 1) if shifted else np.zeros((len(a), 0))
        return np.array(first), columns.T @ (p @ columns) / 2

    def surprise(self, variances: ndarray, scale: float) -> float:
        """Return minus twice the restricted log likelihood, up to a constant."""
        factor = linalg.cholesky(
            self.covariance(variances, scale), lower=True, overwrite_a=True, check_finite=False
        )
        right = np.stack([np.ones(len(self.y)), self.y], 1)
        ones, y = linalg.solve_triangular(factor, right, lower=True, check_finite=False).T
        total = float(ones @ ones)
        size = 2 * float(np.log(np.diag(factor)).sum()) + float(np.log(total))
        return size + float(y @ y) - float(ones @ y) ** 2 / total


@dataclass(frozen=True, eq=False)
class FunctionPosterior:
    """Offset, coefficients (functions,) and their covariance, for one set of variances."""

    offset: float
    coefficients: ndarray
    covariance: ndarray
    prior: ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class FunctionProblem:
    """Moments of weighted rows about their means, so that the offset needs no column.

    `gram` is X'WX, `right` X'Wy, `square` y'Wy and `count` the sum of the weights: a row of weight
    2 counts as two equal rows. `kinds` (functions,) is the component of each function. With
    `constraints` A, coefficients b fulfil A b >= 0.
    """

    gram: Float[ndarray, "functions functions"]
    right: Float[ndarray, " functions"]
    square: float
    count: float
    mean: Float[ndarray, " functions"]
    level: float
    kinds: Int[ndarray, " functions"]
    components: int
    constraints: Float[ndarray, "conditions functions"] | None = None

    @staticmethod
    def of(
        columns: Columns,
        kinds: Int[ndarray, " functions"],
        components: int,
        weights: Float[ndarray, " rows"],
        y: Float[ndarray, " rows"],
        constraints: Float[ndarray, "conditions functions"] | None = None,
    ) -> FunctionProblem:
        """Accumulate the moments block by block."""
        gram, right, total = np.zeros((len(kinds),) * 2), np.zeros(len(kinds)), np.zeros(len(kinds))
        for part in blocks(len(y)):
            root = np.sqrt(weights[part])
            x = columns(part) * root[:, None]
            gram += x.T @ x
            right += x.T @ (root * y[part])
            total += x.T @ root
        count = float(weights.sum())
        mean, level = total / count, float(weights @ y) / count
        return FunctionProblem(
            gram - count * np.outer(mean, mean),
            right - count * level * mean,
            float(weights @ (y - level) ** 2),
            count,
            mean,
            level,
            kinds,
            components,
            constraints,
        )

    @property
    def sizes(self) -> ndarray:
        """Mean square of each component for variance 1."""
        return np.bincount(self.kinds, np.diag(self.gram) / self.count, self.components)

    @property
    def variance(self) -> float:
        return self.square / self.count

    def hessian(
        self, prior: Float[ndarray, " functions"], scale: float
    ) -> tuple[Int[ndarray, " kept"], Float[ndarray, "kept kept"]]:
        """Return functions with a prior variance, and their inverse posterior covariance."""
        kept = np.flatnonzero(prior > 0)
        hessian = self.gram[np.ix_(kept, kept)] / scale
        hessian[np.diag_indices(len(kept))] += 1 / prior[kept]
        return kept, hessian

    def posterior(self, variances: ndarray, scale: float = 1.0) -> FunctionPosterior:
        """Return the posterior; the covariance is that without the constraints."""
        prior = variances[self.kinds]
        kept, hessian = self.hessian(prior, scale)
        right = self.right[kept] / scale
        bound = self.constraints
        solution = None if bound is None else _constrained(hessian, right, bound[:, kept])
        inverse = _inverse(hessian)
        coefficients, covariance = np.zeros(len(prior)), np.zeros((len(prior),) * 2)
        coefficients[kept] = inverse @ right if solution is None else solution
        covariance[np.ix_(kept, kept)] = inverse
        offset = self.level - float(self.mean @ coefficients)
        return FunctionPosterior(offset, coefficients, covariance, prior, scale)

    def fitted(self, columns: Columns, variances: ndarray, rows: int) -> Float[ndarray, " rows"]:
        """Return the fitted values for noise of variance 1 and positive variances."""
        _, hessian = self.hessian(variances[self.kinds], 1.0)
        solution = linalg.solve(
            hessian, self.right, assume_a="pos", overwrite_a=True, check_finite=False
        )
        offset = self.level - float(self.mean @ solution)
        return np.concatenate([offset + columns(part) @ solution for part in blocks(rows)])

    def rows(
        self, found: FunctionPosterior, columns: Columns, weights: ndarray, y: ndarray
    ) -> tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]]:
        """Return the fitted values, and the prediction of each row by a fit without it.

        The leverage x'H^-1 x is |R^-1 x|^2 by the factor R R' of H: half the work of a product with
        the covariance.
        """
        fitted, leverage = np.empty(len(y)), np.full(len(y), 1 / self.count)
        kept, hessian = self.hessian(found.prior, found.scale)
        factor = linalg.cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)
        root = 1 / np.sqrt(found.scale)
        for part in blocks(len(y)):
            x = columns(part)
            fitted[part] = found.offset + x @ found.coefficients
            if len(kept):
                x = np.take(x, kept, 1) - self.mean[kept]
                half = linalg.blas.dtrsm(root, factor, x.T, lower=1, overwrite_b=1)
                leverage[part] += np.einsum("ij,ij->j", half, half)
        return fitted, y - (y - fitted) / np.maximum(1 - weights * leverage, _MIN_LEFT)

    def slope(self, variances: ndarray, scale: float = 1.0, *, known: bool = False) -> Slope:
        """Return the slope; the noise comes last, unless it is `known`."""
        found = replace(self, constraints=None).posterior(variances, scale)
        beta, gram = found.coefficients, self.gram
        shrunk = gram @ found.covariance / scale  # X'WX H^-1, in units of the noise
        q = (self.right - gram @ beta) / scale
        inner = (gram - shrunk @ gram) / scale  # X'PX
        first, vectors = [], []
        for g in np.flatnonzero(variances > 0):
            mine = self.kinds == g
            trace = np.trace(inner[np.ix_(mine, mine)])
            first.append(variances[g] * (q[mine] @ q[mine] - trace) / 2)
            vectors.append(np.where(mine, variances[g] * q, 0.0))
        columns = np.stack(vectors, 1) if vectors else np.zeros((len(q), 0))
        information = columns.T @ inner @ columns / 2
        if known:
            return np.array(first), information
        residual = self.square - 2 * beta @ self.right + beta @ gram @ beta
        first.append((residual / scale - (self.count - 1 - np.trace(shrunk))) / 2)
        cross = columns.T @ (q - shrunk @ q) / 2
        last = (residual / scale - q @ found.covariance @ q) / 2
        return np.array(first), np.block(
            [[information, cross[:, None]], [cross[None], np.array([[last]])]]
        )

    def surprise(self, variances: ndarray, scale: float) -> float:
        """Return minus twice the restricted log likelihood, up to a constant."""
        prior = variances[self.kinds]
        kept, hessian = self.hessian(prior, scale)
        factor = linalg.cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)
        right = self.right[kept] / scale
        half = linalg.solve_triangular(factor, right, lower=True, check_finite=False)
        size = 2 * float(np.log(np.diag(factor)).sum()) + float(np.log(prior[kept]).sum())
        freedom = (self.count - 1) * float(np.log(scale))
        return size + freedom + self.square / scale - float(half @ half)


Problem = KernelProblem | FunctionProblem
Variances = tuple[ndarray, float]  # of the components, and of the noise


def estimate(problem: Problem, policy: EvidencePolicy, start: Variances | None = None) -> Variances:
    """Return the variances with the largest likelihood.

    Components that explain next to nothing get 0.

    Without a `start` the search begins at each of the policy's noise fractions, and the higher
    maximum counts.
    """
    variance, sizes = problem.variance, problem.sizes
    if variance <= 0:
        return np.zeros(len(sizes)), 1.0

    def climb(first: Variances) -> Variances:
        return maximise(
            problem.slope, sizes, variance, first, policy.max_steps, tolerance=policy.tolerance
        )

    if start is not None:
        return climb(start)
    equal = equal_variances(sizes, variance)
    found = [climb(((1 - part) * equal, part * variance)) for part in policy.noise_fractions]
    return min(found, key=lambda one: problem.surprise(*one))


def equal_variances(sizes: ndarray, variance: float) -> ndarray:
    """Divide `variance` equally among the components; those that vanish on the rows get 0."""
    present = sizes > ABSENT
    return np.where(present, variance / len(sizes) / np.where(present, sizes, 1.0), 0.0)


def maximise(
    slope: Callable[[ndarray, float], Slope],
    sizes: ndarray,
    variance: float,
    start: Variances,
    max_steps: int,
    *,
    tolerance: float,
    known: bool = False,
) -> Variances:
    """Take average-information steps until no logarithm changes by `tolerance`.

    `known` noise stays as it is.
    """
    variances, noise = start[0].copy(), start[1]
    for _ in range(max_steps):
        first, information = slope(variances, noise)
        if not len(first):
            break
        ridge = _DAMPING[0] * np.trace(information) / len(first) + _DAMPING[1]
        damped = information + np.eye(len(first)) * ridge
        change = np.clip(np.linalg.solve(damped, first), -_MAX_STEP, _MAX_STEP)
        active = variances > 0
        variances[active] *= np.exp(change[: active.sum()])
        if not known:
            noise = max(noise * float(np.exp(change[-1])), _MIN_NOISE * variance)
        variances[variances * sizes < _NEGLIGIBLE * variance] = 0.0
        if np.abs(change).max() < tolerance:
            break
    return variances, noise


def blocks(rows: int) -> list[slice]:
    """Return slices of at most `_BLOCK` rows."""
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]


def _constrained(
    hessian: ndarray, right: ndarray, constraints: ndarray
) -> Float[ndarray, " functions"]:
    """Minimise b'H b / 2 - b'r subject to A b >= 0, by least squares for the multipliers.

    Source: C. Lawson and R. Hanson, Solving Least Squares Problems (1974), chapter 23 (least
    distance programming).
    """
    factor = linalg.cholesky(hessian, lower=True)
    free = linalg.solve_triangular(factor, right, lower=True)
    turned = linalg.solve_triangular(factor, constraints.T, lower=True)
    sizes = np.sqrt((turned**2).sum(0))
    turned = turned / np.where(sizes > 0, sizes, 1.0)
    multipliers, _ = optimize.nnls(turned, -free, maxiter=100 * (turned.shape[1] + 1))
    moved = free + turned @ multipliers
    return np.asarray(linalg.solve_triangular(factor, moved, lower=True, trans="T"))


def _inverse(matrix: ndarray) -> ndarray:
    """Invert a positive definite matrix, which is overwritten."""
    if not len(matrix):
        return matrix
    factor, info = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info == 0:
        factor, info = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise KanrunError(
            "the covariance of the rows is not positive definite. "
            "Check the table for values of extreme size."
        )
    lower = np.tril(factor)
    return np.asarray(lower + np.tril(factor, -1).T)
