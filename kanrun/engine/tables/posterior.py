"""Compute the posterior of the coefficients of a table's features given all rows.

The latent function of an output is f(x) = level + h(x)' b, with features h(x), coefficients b with
the diagonal prior covariance P, and a level with a flat prior. The most probable b minimises
-log p(y | f) + b' P^-1 b / 2 and is found by Newton's method. The posterior covariance of b is the
inverse of H = h' W h + P^-1, where the rows of h are the centred features of the table's rows, and
the diagonal matrix W contains minus the second derivative of log p for each row (Laplace's
approximation; exact for Gaussian outputs). A common factor of the prior variances, and the
dispersion, are chosen to maximise the evidence on all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize, special

from kanrun.engine.tables.likelihoods import Likelihood
from kanrun.errors import KanrunError

#: Number of rows that are processed at once, to limit memory.
_BLOCK = 4096
#: Largest number of Newton steps.
_STEPS = 40
#: Newton's method ends when no latent value changes by more than this. The change is weighted by
#: the square root of the row's information (its entry of W) relative to the mean.
_TOLERANCE = 1e-6
#: Largest change of a latent value in one step, so that exponentials do not overflow.
_LARGEST_STEP = 4.0
#: Lower limit of the information of a row, as a fraction of the mean over rows; it limits the
#: variance of the row's working response.
_LEAST_INFORMATION = 1e-3
#: Relative increase of the diagonal of a normal matrix per column, which covers rounding errors.
_ROUNDING = 4 * np.finfo(float).eps
#: Limits of the logarithm of the common scale of the prior variances.
_SCALES = (-3.0, 3.0)
#: Limits of the logarithm of the dispersion.
_DISPERSIONS = (-23.0, 3.0)
#: Initial dispersion, as a fraction of the variance of the output.
_NOISE_FRACTION = 0.1
#: Lower limit of the variance of the output from which the initial dispersion is derived.
_LEAST_SQUARE = 1e-8
#: Lower limit of 1 - leverage, which keeps leave-one-out residuals finite.
_LEAST_LEFT = 1e-6
#: Largest number of steps of non-negative least squares per constraint.
_NNLS_STEPS = 100


@dataclass(frozen=True, eq=False)
class Moments:
    """Central moments of features x and an output y, with row weights w.

    Centring eliminates the level.

    Attributes:
        gram: Sum of w (x - mean)(x - mean)' over rows, shape (features, features).
        right: Sum of w (x - mean)(y - level), shape (features,).
        square: Sum of w (y - level)^2.
        count: Sum of the weights w.
        mean: Weighted mean of the features, shape (features,).
        level: Weighted mean of y.
    """

    gram: ndarray
    right: ndarray
    square: float
    count: float
    mean: ndarray
    level: float

    @staticmethod
    def of(features: ndarray, weights: ndarray, y: ndarray) -> Moments:
        """Compute the moments of `features` (rows, features) and `y` (rows,) block by block."""
        size = features.shape[1]
        gram = np.zeros((size, size))
        right = np.zeros(size)
        total = np.zeros(size)
        for start in range(0, len(y), _BLOCK):
            part = slice(start, start + _BLOCK)
            root = np.sqrt(weights[part])
            x = features[part] * root[:, None]
            gram += x.T @ x
            right += x.T @ (root * y[part])
            total += x.T @ root
        count = float(weights.sum())
        mean = total / count
        level = float(weights @ y) / count
        gram -= count * np.outer(mean, mean)
        right -= count * level * mean
        return Moments(gram, right, float(weights @ (y - level) ** 2), count, mean, level)

    def divided(self, dispersion: float) -> Moments:
        """Return the moments with `gram` and `right` divided by `dispersion`."""
        return replace(self, gram=self.gram / dispersion, right=self.right / dispersion)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of the latent function of one output.

    Attributes:
        level: Value of the latent function if all features are 0.
        coefficients: Most probable coefficients (features,).
        factor: Lower Cholesky factor of H, shape (features, features).
        likelihood: Likelihood with its parameters.
        left_out: Leave-one-out prediction of the latent value of each row (rows,).
        determined: For each coefficient (features,), how far the rows determine it: 1 - V_kk /
            P_kk, where V_kk is its posterior and P_kk its prior variance. It is near 1 if the rows
            determine the coefficient, and near 0 if they do not.
        scale: Common factor of the prior variances.
        has_converged: Whether Newton's method converged within the largest number of steps.
    """

    level: float
    coefficients: ndarray
    factor: ndarray
    likelihood: Likelihood
    left_out: ndarray
    determined: ndarray
    scale: float = 1.0
    has_converged: bool = True

    def spread(self, differences: ndarray) -> ndarray:
        """Return the posterior variances (pairs,) of differences between two latent values.

        `differences` (pairs, features) are the differences between the features of the two points
        of each pair.
        """
        return np.asarray((_half_solved(self.factor, differences.T) ** 2).sum(0))


def condition(
    features: ndarray,
    prior: ndarray,
    likelihoods: Sequence[Likelihood],
    *,
    rescale: bool,
    constraints: ndarray | None = None,
) -> list[Posterior]:
    """Return one posterior per likelihood, given all rows.

    Args:
        features: Shape (rows, features).
        prior: Prior variances (features,).
        likelihoods: One likelihood per output; for more than two classes, one per class.
        rescale: Whether to estimate a common scale of the prior variances, and the dispersion;
            otherwise the scale is 1, and the dispersions of `likelihoods` are used.
        constraints: Matrix A of shape (constraints, features): the coefficients b are required to
            satisfy A b >= 0. None if there are no constraints.
    """
    if likelihoods[0].is_gaussian:
        return [
            _conditioned(features, prior, likelihood, rescale, constraints)
            for likelihood in likelihoods
        ]
    latent = np.tile([likelihood.start() for likelihood in likelihoods], (len(features), 1))
    scale = 1.0
    newton = _by_newton(features, prior, likelihoods, latent, constraints)
    if rescale:
        pairs = [_working(likelihoods, latent, k) for k in range(len(likelihoods))]
        moments = [Moments.of(features, *pair) for pair in pairs]
        known = likelihoods[0].family.has_known_dispersion
        scale, dispersion = _scale(moments, prior, known, float(likelihoods[0].weights.sum()))
        likelihoods = [replace(likelihood, dispersion=dispersion) for likelihood in likelihoods]
        newton = _by_newton(features, scale * prior, likelihoods, latent, constraints)
    solutions, has_converged = newton
    posteriors = [
        solution.posterior(features, scale * prior, likelihood)
        for solution, likelihood in zip(solutions, likelihoods, strict=True)
    ]
    return [
        replace(posterior, scale=scale, has_converged=has_converged) for posterior in posteriors
    ]


def _conditioned(
    features: ndarray,
    prior: ndarray,
    likelihood: Likelihood,
    rescale: bool,
    constraints: ndarray | None,
) -> Posterior:
    """Return the posterior of a Gaussian output, in closed form."""
    y = likelihood.power.apply(likelihood.y)
    moments = Moments.of(features, likelihood.weights, y)
    scale = 1.0
    if rescale:
        scale, dispersion = _scale([moments], prior, False, moments.count)
        likelihood = replace(likelihood, dispersion=dispersion)
    prior = scale * prior
    weights = likelihood.weights / likelihood.dispersion
    solution = _Solution.of(moments.divided(likelihood.dispersion), weights, y, prior, constraints)
    return replace(solution.posterior(features, prior, likelihood), scale=scale)


def _by_newton(
    features: ndarray,
    prior: ndarray,
    likelihoods: Sequence[Likelihood],
    latent: ndarray,
    constraints: ndarray | None,
) -> tuple[list[_Solution], bool]:
    """Fit the latent functions by iteratively reweighted least squares (Newton's method).

    In each step, the outputs (or classes) are updated one after another, with the others fixed.
    The values `latent` (rows, outputs) are changed in place.

    Returns:
        The solution of each output, and whether the steps converged.
    """
    for _ in range(_STEPS):
        change = 0.0
        solutions = []
        for k, likelihood in enumerate(likelihoods):
            weights, y = _working(likelihoods, latent, k)
            weights = weights / likelihood.dispersion
            moments = Moments.of(features, weights, y)
            solution = _Solution.of(moments, weights, y, prior, constraints)
            solutions.append(solution)
            step = solution.level + features @ solution.coefficients - latent[:, k]
            latent[:, k] += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
            change = max(change, float((np.abs(step) * np.sqrt(weights / weights.mean())).max()))
        if change < _TOLERANCE:
            return solutions, True
    return solutions, False


def _working(likelihoods: Sequence[Likelihood], latent: ndarray, k: int) -> tuple[ndarray, ndarray]:
    """Return the weights (rows,) and working responses (rows,) of one Newton step.

    Both define the weighted least-squares problem of output (or class) number `k` at the values
    `latent` (rows, outputs), for dispersion 1.
    """
    likelihood = replace(likelihoods[k], dispersion=1.0)
    f = latent[:, k]
    if len(likelihoods) > 1:  # the probabilities of all classes sum to one
        mean = special.softmax(latent, 1)[:, k]
        weights = likelihood.weights * mean * (1 - mean)
        score = likelihood.weights * (likelihood.y - mean)
    else:
        terms = likelihood.terms(f)
        weights = terms.curvature
        score = terms.score
    weights = np.maximum(weights, _LEAST_INFORMATION * weights.mean())
    return weights, f + score / weights


class _Solution(NamedTuple):
    """Solution of the weighted least-squares problem of one output, with the prior.

    Attributes:
        level: Value of the latent function if all features are 0.
        coefficients: Most probable coefficients (features,).
        factor: Lower Cholesky factor of H, shape (features, features).
        mean: Weighted mean of the features, shape (features,).
        weights: Weights of the rows, divided by the dispersion, shape (rows,).
        y: Working responses, shape (rows,).
    """

    level: float
    coefficients: ndarray
    factor: ndarray
    mean: ndarray
    weights: ndarray
    y: ndarray

    @staticmethod
    def of(
        moments: Moments,
        weights: ndarray,
        y: ndarray,
        prior: ndarray,
        constraints: ndarray | None,
    ) -> _Solution:
        """Solve the least-squares problem; `moments.gram` is overwritten."""
        hessian = moments.gram
        diagonal = np.diag_indices(len(hessian))
        # With almost no noise, rounding errors exceed 1 / prior. Increasing the diagonal ensures
        # that a Cholesky factor exists (Demmel, On floating point errors in Cholesky, LAPACK
        # Working Note 14, 1989).
        hessian[diagonal] *= 1 + _ROUNDING * len(hessian)
        hessian[diagonal] += 1 / prior
        factor = _cholesky(hessian)
        right = moments.right
        if constraints is None:
            coefficients = linalg.cho_solve((factor, True), right, check_finite=False)
        else:
            coefficients = _constrained(factor, right, constraints)
        level = moments.level - float(moments.mean @ coefficients)
        return _Solution(level, coefficients, factor, moments.mean, weights, y)

    def posterior(self, features: ndarray, prior: ndarray, likelihood: Likelihood) -> Posterior:
        """Return the posterior, with leave-one-out predictions."""
        weights = self.weights
        y = self.y
        leverage = np.empty(len(y))
        for start in range(0, len(y), _BLOCK):
            part = slice(start, start + _BLOCK)
            half = _half_solved(self.factor, (features[part] - self.mean).T)
            leverage[part] = (half**2).sum(0)
        left = np.maximum(1 - weights * (leverage + 1 / weights.sum()), _LEAST_LEFT)
        left_out = y - (y - self.level - features @ self.coefficients) / left
        # For a matrix without rows, LAPACK would print an error message.
        has_rows = len(self.factor) > 0
        inverse = linalg.lapack.dtrtri(self.factor, lower=1)[0] if has_rows else self.factor
        determined = 1 - (inverse**2).sum(0) / prior
        return Posterior(*self[:3], likelihood, left_out, determined)


def _constrained(factor: ndarray, right: ndarray, constraints: ndarray) -> ndarray:
    """Minimise b'H b / 2 - b'r subject to A b >= 0.

    H is given by its lower Cholesky factor `factor`, r is `right`, and A is `constraints`. The
    Lagrange multipliers are found by non-negative least squares.

    Source: C. Lawson and R. Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    free = _half_solved(factor, right)
    turned = _half_solved(factor, constraints.T)
    sizes = np.sqrt((turned**2).sum(0))
    turned = turned / np.where(sizes > 0, sizes, 1.0)
    steps = _NNLS_STEPS * (turned.shape[1] + 1)
    free = free + turned @ optimize.nnls(turned, -free, maxiter=steps)[0]
    return linalg.solve_triangular(factor, free, lower=True, trans="T", check_finite=False)


def _scale(
    moments: Sequence[Moments], prior: ndarray, is_known: bool, rows: float
) -> tuple[float, float]:
    """Return the scale of the prior variances and the dispersion that maximise the evidence.

    Args:
        moments: Moments of each output.
        prior: Prior variances (features,).
        is_known: Whether the dispersion is known to be 1.
        rows: Sum of the weights of the rows. For outputs with a link, `moments.count` differs from
            this sum, because each weight is multiplied by the information of its row.
    """
    root = np.sqrt(prior)
    spectra = []
    for moment in moments:
        values, vectors = linalg.eigh(root[:, None] * moment.gram * root, check_finite=False)
        rights = (vectors.T @ (root * moment.right)) ** 2
        spectra.append((np.maximum(values, 0.0), rights, moment.square))

    def surprise(p: ndarray) -> float:
        scale, dispersion = np.exp(p)
        total = 0.0
        for values, rights, square in spectra:
            both = dispersion + scale * values
            total += np.log(both / dispersion).sum() + (rows - 1) * p[1]
            total += (square - (scale * rights / both).sum()) / dispersion
        return float(total) / 2

    noise = max(moments[0].square / moments[0].count, _LEAST_SQUARE) * _NOISE_FRACTION
    limits = [_SCALES, (0.0, 0.0) if is_known else _DISPERSIONS]
    start = np.clip([0.0, np.log(noise)], *np.transpose(limits))
    scale, dispersion = np.exp(
        optimize.minimize(surprise, start, method="L-BFGS-B", bounds=limits).x
    )
    return float(scale), float(dispersion)


def _cholesky(matrix: ndarray) -> ndarray:
    try:
        return linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise KanrunError(
            "the covariance of the rows is not positive definite. "
            "Check the table for values of extreme size."
        ) from error


def _half_solved(factor: ndarray, right: ndarray) -> ndarray:
    """Return L^-1 r for a lower triangular factor L and right-hand sides r."""
    return np.asarray(linalg.solve_triangular(factor, right, lower=True, check_finite=False))
