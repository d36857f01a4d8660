"""Compute the posterior of the coefficients of a table's features given all rows.

The latent function of an output is f(x) = level + h(x)' b, with features h(x), coefficients b with
the diagonal prior covariance P, and a level with a flat prior. The most probable b minimises
-log p(y | f) + b' P^-1 b / 2 and is found by Newton's method. The posterior covariance of b is the
inverse of H = h' W h + P^-1, where W is minus the second derivative of log p for each row
(Laplace's approximation; exact for Gaussian outputs). A common factor of the prior variances, and
the dispersion, are chosen to maximise the evidence on all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize

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
#: Smallest information of a row, relative to the mean over rows; it limits the row's noise
#: variance.
_LEAST_INFORMATION = 1e-3
#: Relative rounding of the diagonal of a normal matrix, for each of its columns.
_ROUNDING = 4 * np.finfo(float).eps
#: Limits of the logarithm of the common scale of the prior variances.
_SCALES = (-3.0, 3.0)
#: Limits of the logarithm of the dispersion.
_DISPERSIONS = (-23.0, 3.0)
#: Smallest value of 1 - leverage by which leave-one-out residuals are divided.
_LEAST_LEFT = 1e-6
#: Number of times that Newton's method is run for outputs with a link. After the first run, the
#: scale of the prior variances and the dispersion are estimated.
_ROUNDS = 2
#: Largest number of steps of non-negative least squares per constraint.
_NNLS_STEPS = 100


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted central moments of features and outputs; centring eliminates the level.

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
        """Compute the moments of `features` (rows, p) and outputs `y` (rows,) block by block."""
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

    def latent(self, features: ndarray) -> ndarray:
        return np.asarray(self.level + features @ self.coefficients)

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
    """Compute the posterior of each output, or of each class.

    Args:
        features: Shape (rows, features).
        prior: Prior variances (features,).
        likelihoods: One likelihood per output; for more than two classes, one per class.
        rescale: Whether to estimate the scale of the prior variances and the dispersion.
        constraints: Matrix A of shape (constraints, features): coefficients satisfy A b >= 0.
    """
    if likelihoods[0].is_gaussian:
        return [
            _conditioned(features, prior, each, each.power.apply(each.y), rescale, constraints)
            for each in likelihoods
        ]
    return _by_newton(features, prior, likelihoods, rescale, constraints)


def _conditioned(
    features: ndarray,
    prior: ndarray,
    likelihood: Likelihood,
    y: ndarray,
    rescale: bool,
    constraints: ndarray | None,
) -> Posterior:
    moments = Moments.of(features, likelihood.weights, y)
    scale = 1.0
    if rescale:
        scale, dispersion = _scale([moments], prior, None, moments.count)
        likelihood = replace(likelihood, dispersion=dispersion)
    weights = likelihood.weights
    found = _solved(features, moments, scale * prior, likelihood, weights, y, constraints)
    return replace(found, scale=scale)


def _by_newton(
    features: ndarray,
    prior: ndarray,
    likelihoods: Sequence[Likelihood],
    rescale: bool,
    constraints: ndarray | None,
) -> list[Posterior]:
    """Fit the latent functions by iteratively reweighted least squares (Newton's method).

    In each step, the outputs (or classes) are updated one after another, with the others fixed. If
    `rescale`, the scale and the dispersion are estimated after the first convergence, followed by
    further steps.
    """
    starts = [each.start() for each in likelihoods]
    latent = np.tile(starts, (len(features), 1))
    scale = 1.0
    found = list[Posterior]()
    has_converged = False
    for turn in range(_ROUNDS if rescale else 1):
        for _ in range(_STEPS):
            before = latent.copy()
            found = []
            change = 0.0
            for place, likelihood in enumerate(likelihoods):
                weights, y = _working(likelihoods, latent, place)
                moments = Moments.of(features, weights / likelihood.dispersion, y)
                one = _solved(
                    features,
                    moments,
                    scale * prior,
                    replace(likelihood, dispersion=1.0),
                    weights / likelihood.dispersion,
                    y,
                    constraints,
                )
                found.append(replace(one, likelihood=likelihood, scale=scale))
                step = one.latent(features) - before[:, place]
                latent[:, place] += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
                change = max(
                    change, float((np.abs(step) * np.sqrt(weights / weights.mean())).max())
                )
            if has_converged := change < _TOLERANCE:
                break
        if rescale and turn == 0:
            pairs = [_working(likelihoods, latent, k) for k in range(len(likelihoods))]
            several = [Moments.of(features, w, y) for w, y in pairs]
            known = 1.0 if likelihoods[0].family.has_known_dispersion else None
            rows = float(likelihoods[0].weights.sum())
            scale, dispersion = _scale(several, prior, known, rows)
            likelihoods = [replace(each, dispersion=dispersion) for each in likelihoods]
    return [replace(each, has_converged=has_converged) for each in found]


def _working(
    likelihoods: Sequence[Likelihood], latent: ndarray, place: int
) -> tuple[ndarray, ndarray]:
    """Return the weights (rows,) and working responses (rows,) of one Newton step.

    The step of output (or class) number `place` is the solution of the least-squares problem with
    these weights and responses, for dispersion 1.
    """
    one = replace(likelihoods[place], dispersion=1.0)
    f = latent[:, place]
    if len(likelihoods) > 1:  # the probabilities of all classes sum to one
        from scipy.special import softmax

        mean = softmax(latent, 1)[:, place]
        weights = one.weights * mean * (1 - mean)
        score = one.weights * (one.y - mean)
    else:
        terms = one.terms(f)
        weights = terms.curvature
        score = terms.score
    weights = np.maximum(weights, _LEAST_INFORMATION * weights.mean())
    return weights, f + score / weights


def _solved(
    features: ndarray,
    moments: Moments,
    prior: ndarray,
    likelihood: Likelihood,
    weights: ndarray,
    y: ndarray,
    constraints: ndarray | None,
) -> Posterior:
    """Solve the weighted least-squares problem with the prior, and return the posterior.

    The weights are divided by the dispersion of the likelihood.
    """
    dispersion = likelihood.dispersion
    hessian = moments.gram / dispersion
    diagonal = np.diag_indices(len(hessian))
    # With almost no noise, rounding exceeds 1 / prior; with this, a Cholesky factor exists
    # (Demmel, On floating point errors in Cholesky, LAPACK Working Note 14, 1989).
    hessian[diagonal] *= 1 + _ROUNDING * len(hessian)
    hessian[diagonal] += 1 / prior
    factor = _cholesky(hessian)
    right = moments.right / dispersion
    if constraints is None:
        coefficients = linalg.cho_solve((factor, True), right, check_finite=False)
    else:
        coefficients = _constrained(factor, right, constraints)
    level = moments.level - float(moments.mean @ coefficients)
    fitted = level + features @ coefficients
    leverage = np.empty(len(y))
    for start in range(0, len(y), _BLOCK):
        part = slice(start, start + _BLOCK)
        half = _half_solved(factor, (features[part] - moments.mean).T)
        leverage[part] = (half**2).sum(0)
    variance = leverage + dispersion / moments.count
    # LAPACK prints a complaint about a matrix without rows.
    inverse = linalg.lapack.dtrtri(factor, lower=1)[0] if len(factor) else factor
    determined = 1 - (inverse**2).sum(0) / prior
    left = np.maximum(1 - weights / dispersion * variance, _LEAST_LEFT)
    return Posterior(
        level,
        coefficients,
        factor,
        likelihood,
        y - (y - fitted) / left,
        determined,
    )


def _constrained(factor: ndarray, right: ndarray, constraints: ndarray) -> ndarray:
    """Minimise b'H b / 2 - b'r subject to A b >= 0.

    The Lagrange multipliers are found by non-negative least squares.

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
    moments: Sequence[Moments], prior: ndarray, known: float | None, rows: float
) -> tuple[float, float]:
    """Return the scale of the prior variances and the dispersion that maximise the evidence.

    Args:
        moments: Moments of each output.
        prior: Prior variances (features,).
        known: Dispersion if it is known, otherwise None.
        rows: Sum of the weights of the rows. If there is a link function, this is not the sum of
            the weights in `moments`, because those also contain the Fisher information of each row.
    """
    root = np.sqrt(prior)
    parts = []
    for each in moments:
        values, vectors = linalg.eigh(root[:, None] * each.gram * root, check_finite=False)
        parts.append((np.maximum(values, 0.0), (vectors.T @ (root * each.right)) ** 2, each))

    def surprise(p: ndarray) -> float:
        scale = np.exp(p[0])
        dispersion = known or np.exp(p[1])
        total = 0.0
        for values, rights, each in parts:
            both = dispersion + scale * values
            total += np.log(both / dispersion).sum() + (rows - 1) * np.log(dispersion)
            total += (each.square - (scale * rights / both).sum()) / dispersion
        return float(total) / 2

    first = float(np.log(max(moments[0].square / moments[0].count, 1e-8) * 0.1))
    bounds = [_SCALES] if known else [_SCALES, _DISPERSIONS]
    found = optimize.minimize(
        surprise, [0.0] if known else [0.0, first], method="L-BFGS-B", bounds=bounds
    ).x
    return float(np.exp(found[0])), known or float(np.exp(found[1]))


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
