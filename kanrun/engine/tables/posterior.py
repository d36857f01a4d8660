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
from kanrun.engine.tables.reduced_basis import blocks
from kanrun.errors import KanrunError

#: Largest number of Newton steps.
_STEPS = 40
#: Newton's method ends when no latent value changes by more than this. The change is weighted by
#: the square root of the row's information (its entry of W) relative to the mean.
_TOLERANCE = 1e-6
#: Relative increase of the diagonal of a normal matrix per column, which covers rounding errors.
_ROUNDING = 4 * np.finfo(float).eps
#: Limits of the logarithm of the common scale of the prior variances.
_SCALES = (-3.0, 3.0)
#: Limits of the logarithm of the dispersion.
_DISPERSIONS = (-23.0, 3.0)


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
    scale: float
    has_converged: bool

    @property
    def residuals(self) -> ndarray:
        """Transformed outputs minus their leave-one-out predictions, shape (rows,)."""
        return np.asarray(self.likelihood.power.apply(self.likelihood.y) - self.left_out)

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
    if likelihoods[0].is_gaussian and len(likelihoods) > 1:
        return [
            condition(features, prior, [each], rescale=rescale, constraints=constraints)[0]
            for each in likelihoods
        ]
    latent = np.tile([each.start() for each in likelihoods], (len(features), 1))
    scale = 1.0
    problems, has_converged = _linearised(features, prior, likelihoods, latent, constraints)
    if rescale:
        scale, dispersion = _scale(problems, prior, likelihoods[0])
        likelihoods = [replace(each, dispersion=dispersion) for each in likelihoods]
        prior = scale * prior
        if not likelihoods[0].is_gaussian:
            problems, has_converged = _linearised(features, prior, likelihoods, latent, constraints)
    posteriors = []
    for problem, likelihood in zip(problems, likelihoods, strict=True):
        solution = problem.solved(prior, likelihood.dispersion, constraints)
        left_out = problem.left_out(*solution, likelihood.dispersion)
        inverse = _half_solved(solution[2], np.eye(len(prior)))
        determined = 1 - (inverse**2).sum(0) / prior
        posteriors.append(
            Posterior(*solution, likelihood, left_out, determined, scale, has_converged)
        )
    return posteriors


def _linearised(
    features: ndarray,
    prior: ndarray,
    likelihoods: Sequence[Likelihood],
    latent: ndarray,
    constraints: ndarray | None,
) -> tuple[list[_LeastSquares], bool]:
    """Return the least-squares problem of each output at the most probable latent values.

    These are found by iteratively reweighted least squares (Newton's method). In each step, the
    outputs (or classes) are updated one after another, with the others fixed. The values `latent`
    (rows, outputs) are changed in place. For Gaussian outputs, the problem does not depend on them.

    Returns:
        The problems, and whether the steps converged.
    """
    # Largest change of a latent value in one step, so that exponentials do not overflow.
    largest_step = 4.0
    for _ in range(_STEPS):
        change = 0.0
        problems = []
        for k, likelihood in enumerate(likelihoods):
            problem = _LeastSquares.of(features, *_working(likelihoods, latent, k))
            problems.append(problem)
            if likelihood.is_gaussian:
                continue
            level, coefficients, _ = problem.solved(prior, likelihood.dispersion, constraints)
            step = level + features @ coefficients - latent[:, k]
            latent[:, k] += np.clip(step, -largest_step, largest_step)
            size = np.sqrt(problem.weights / problem.weights.mean())
            change = max(change, float((np.abs(step) * size).max()))
        if change < _TOLERANCE:
            return problems, True
    return problems, False


def _working(likelihoods: Sequence[Likelihood], latent: ndarray, k: int) -> tuple[ndarray, ndarray]:
    """Return the weights (rows,) and working responses (rows,) of one Newton step.

    Both define the weighted least-squares problem of output (or class) number `k` at the values
    `latent` (rows, outputs), for dispersion 1.
    """
    # Lower limit of the information of a row, as a fraction of the mean over rows; it limits the
    # variance of the row's working response.
    least_information = 1e-3
    likelihood = replace(likelihoods[k], dispersion=1.0)
    if likelihood.is_gaussian:
        return likelihood.weights, likelihood.power.apply(likelihood.y)
    f = latent[:, k]
    if len(likelihoods) > 1:  # the probabilities of all classes sum to one
        mean = special.softmax(latent, 1)[:, k]
        weights = likelihood.weights * mean * (1 - mean)
        score = likelihood.weights * (likelihood.y - mean)
    else:
        terms = likelihood.terms(f)
        weights = terms.curvature
        score = terms.score
    weights = np.maximum(weights, least_information * weights.mean())
    return weights, f + score / weights


class _LeastSquares(NamedTuple):
    """Weighted least-squares problem of one output, for dispersion 1.

    Features x and responses y are centred, which eliminates the level.

    Attributes:
        features: Features x, shape (rows, features).
        weights: Weights w of the rows, shape (rows,).
        y: Responses, shape (rows,).
        mean: Weighted mean of the features, shape (features,).
        level: Weighted mean of y.
        gram: Sum of w (x - mean)(x - mean)' over rows, shape (features, features).
        right: Sum of w (x - mean)(y - level), shape (features,).
    """

    features: ndarray
    weights: ndarray
    y: ndarray
    mean: ndarray
    level: float
    gram: ndarray
    right: ndarray

    @staticmethod
    def of(features: ndarray, weights: ndarray, y: ndarray) -> _LeastSquares:
        count = weights.sum()
        mean = weights @ features / count
        level = float(weights @ y / count)
        gram = np.zeros((len(mean), len(mean)))
        for part in blocks(len(y)):
            x = (features[part] - mean) * np.sqrt(weights[part])[:, None]
            gram += x.T @ x
        right = (weights * (y - level)) @ features
        return _LeastSquares(features, weights, y, mean, level, gram, right)

    def solved(
        self, prior: ndarray, dispersion: float, constraints: ndarray | None
    ) -> tuple[float, ndarray, ndarray]:
        """Return the level, the most probable coefficients, and the lower Cholesky factor of H."""
        hessian = self.gram / dispersion
        diagonal = np.diag_indices(len(hessian))
        # With almost no noise, rounding errors exceed 1 / prior. Increasing the diagonal ensures
        # that a Cholesky factor exists (Demmel, On floating point errors in Cholesky, LAPACK
        # Working Note 14, 1989).
        hessian[diagonal] *= 1 + _ROUNDING * len(hessian)
        hessian[diagonal] += 1 / prior
        factor = _cholesky(hessian)
        right = self.right / dispersion
        if constraints is None:
            coefficients = linalg.cho_solve((factor, True), right, check_finite=False)
        else:
            coefficients = _constrained(factor, right, constraints)
        return self.level - float(self.mean @ coefficients), coefficients, factor

    def left_out(
        self, level: float, coefficients: ndarray, factor: ndarray, dispersion: float
    ) -> ndarray:
        """Return the leave-one-out predictions of the responses, given the solution."""
        # Lower limit of 1 - leverage, which keeps leave-one-out residuals finite.
        least_left = 1e-6
        leverage = np.empty(len(self.y))
        for part in blocks(len(self.y)):
            half = _half_solved(factor, (self.features[part] - self.mean).T)
            leverage[part] = (half**2).sum(0)
        influence = self.weights * (leverage / dispersion + 1 / self.weights.sum())
        residuals = self.y - level - self.features @ coefficients
        return np.asarray(self.y - residuals / np.maximum(1 - influence, least_left))


def _constrained(factor: ndarray, right: ndarray, constraints: ndarray) -> ndarray:
    """Minimise b'H b / 2 - b'r subject to A b >= 0.

    H is given by its lower Cholesky factor `factor`, r is `right`, and A is `constraints`. The
    Lagrange multipliers are found by non-negative least squares.

    Source: C. Lawson and R. Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    # Largest number of steps of non-negative least squares per constraint.
    nnls_steps = 100
    free = _half_solved(factor, right)
    turned = _half_solved(factor, constraints.T)
    sizes = np.sqrt((turned**2).sum(0))
    turned = turned / np.where(sizes > 0, sizes, 1.0)
    steps = nnls_steps * (turned.shape[1] + 1)
    free = free + turned @ optimize.nnls(turned, -free, maxiter=steps)[0]
    return linalg.solve_triangular(factor, free, lower=True, trans="T", check_finite=False)


def _scale(
    problems: Sequence[_LeastSquares], prior: ndarray, likelihood: Likelihood
) -> tuple[float, float]:
    """Return the scale of the prior variances and the dispersion that maximise the evidence.

    `problems` are those of all outputs, and `likelihood` is that of one of them.
    """
    # Lower limit of the variance of the output from which the initial dispersion is derived.
    least_square = 1e-8
    # Initial dispersion, as a fraction of the variance of the output.
    noise_fraction = 0.1
    root = np.sqrt(prior)
    rows = float(likelihood.weights.sum())
    spectra = []
    for problem in problems:
        values, vectors = linalg.eigh(root[:, None] * problem.gram * root, check_finite=False)
        rights = (vectors.T @ (root * problem.right)) ** 2
        square = float(problem.weights @ (problem.y - problem.level) ** 2)
        spectra.append((np.maximum(values, 0.0), rights, square))

    def surprise(p: ndarray) -> float:
        scale, dispersion = np.exp(p)
        total = 0.0
        for values, rights, square in spectra:
            both = dispersion + scale * values
            total += np.log(both / dispersion).sum() + (rows - 1) * p[1]
            total += (square - (scale * rights / both).sum()) / dispersion
        return float(total) / 2

    noise = max(spectra[0][2] / problems[0].weights.sum(), least_square) * noise_fraction
    limits = [_SCALES, (0.0, 0.0) if likelihood.family.has_known_dispersion else _DISPERSIONS]
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
