"""Smooth fits of y or log |y| by Gaussian processes, which estimate noise and derivatives.

Gaussian process regression for values that are nearly free of noise.

The covariance is 1 + k(x, z) plus noise, where k is the smooth part of `tables.kernel`. The
hyperparameters maximise the marginal likelihood without priors, because the priors in
`tables.evidence` are made for noisy tables.

Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), 5.4.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TINY, Array
from kanrun.engine.symbolic.problem import UNDERFLOW, SearchData
from kanrun.engine.tables.evidence import Kernel
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs
from kanrun.points import Scaling

#: Initial value and limits of each rate w_j of the factors exp(-w_j (x_j - z_j)^2 / 2) of the
#: kernel, for inputs of variance 1.
_RATES = (0.1, 1e-6, 1e2)
#: Initial value and limits of the kernel's variance, for outputs of variance 1.
_VARIANCES = (30.0, 1e-2, 1e3)
#: Initial value and limits of the variance of the noise, for outputs of variance 1. From much
#: smaller initial values, the search often ends at a kernel that explains a smooth function as
#: noise.
_NOISES = (1e-3, 1e-9, 1.0)
#: Largest number of steps of the search for the hyperparameters.
_STEPS = 25
#: Values that are added to the diagonal of the covariance, relative to the largest variance. The
#: smallest one for which the Cholesky factorisation succeeds is used.
_JITTERS = tuple(1e-10 * 100.0**power for power in range(5))


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Posterior mean of a Gaussian process.

    Attributes:
        kernel: The kernel k.
        noise: Variance of the noise.
        x: Training inputs, shape (rows, inputs).
        weights: Weights a (rows,); the mean at z is sum_i (1 + k(z, x_i)) a_i.
    """

    kernel: Kernel
    noise: float
    x: ndarray
    weights: ndarray

    def mean(self, x: RowInputs) -> PerRow:
        return np.asarray(_covariance(self.kernel, x, self.x) @ self.weights)

    def gradient(self, x: RowInputs) -> RowInputs:
        """Return the derivatives of the posterior mean with respect to the inputs."""
        near = (_covariance(self.kernel, x, self.x) - 1.0) * self.weights
        return np.asarray(
            self.kernel.smooth_rates * (near @ self.x - near.sum(1, keepdims=True) * x)
        )


def fit_process(x: RowInputs, y: PerRow, kernel: Kernel, noise: float) -> GaussianProcess:
    """Condition the process on rows x (rows, inputs) with outputs y (rows,).

    Raises:
        LinAlgError: If the covariance is not positive definite, even with the largest jitter.
    """
    covariance = _covariance(kernel, x, x)
    size = float(np.diag(covariance).max())
    for jitter in _JITTERS:
        try:
            factor = linalg.cho_factor(covariance + (noise + jitter * size) * np.eye(len(x)))
        except linalg.LinAlgError:
            continue
        return GaussianProcess(kernel, noise, x, linalg.cho_solve(factor, y))
    raise linalg.LinAlgError("the covariance of the rows is not positive definite")


def likeliest_kernel(x: RowInputs, y: PerRow) -> tuple[Kernel, float]:
    """Return the kernel and the noise variance with the largest marginal likelihood, by L-BFGS.

    Args:
        x: Standardised inputs, shape (rows, inputs); the rate of a constant input becomes 0.
        y: Standardised outputs, shape (rows,).
    """
    # Relative change of the log likelihood at which the search for the hyperparameters ends.
    rtol = 2e-9
    inputs = x.shape[1]
    rows = len(x)
    ranges = np.log(np.array([*[_RATES] * inputs, _VARIANCES, _NOISES]))
    squares = x.T[:, :, None] - x.T[:, None]
    squares *= squares / 2

    def surprise(p: ndarray) -> tuple[float, ndarray]:
        count_work(rows**2 * (COSTS.product * rows + COSTS.likelihood * (2 + inputs)))
        w, (variance, noise) = np.split(np.exp(p), [inputs])
        near = variance * np.exp(-np.tensordot(w, squares, 1))
        factor = linalg.cholesky(near + 1.0 + noise * np.eye(rows), lower=True, check_finite=False)
        lower, _ = linalg.lapack.dpotri(factor, lower=1)
        inverse = lower + np.tril(lower, -1).T
        weights = inverse @ y
        slope = (inverse - np.outer(weights, weights)) / 2
        nearer = slope * near
        by_rates = -w * np.tensordot(squares, nearer, ((1, 2), (0, 1)))
        value = float(y @ weights) / 2 + float(np.log(np.diag(factor)).sum())
        return value, np.append(by_rates, [nearer.sum(), noise * np.trace(slope)])

    found = optimize.minimize(
        surprise,
        ranges[:, 0],
        jac=True,
        method="L-BFGS-B",
        bounds=ranges[:, 1:],
        options={"maxiter": _STEPS, "ftol": rtol},
    )
    *w, variance, noise = np.exp(found.x).tolist()
    rates = np.where(np.ptp(x, axis=0) > 0, w, 0.0)
    return Kernel(rates, np.zeros(inputs), 0.0, 0.0, variance, 0.0, Scaling.identity(inputs)), noise


def _covariance(kernel: Kernel, x: ndarray, z: ndarray) -> ndarray:
    return 1.0 + kernel.smooth_part(x, z)


#: A smooth fit with a relative error of this or more is too inaccurate to reveal symmetries.
NO_FIT = 0.2
#: Relative error below which a smooth fit counts as exact.
ACCURATE = 1e-5
#: If the estimated noise, relative to the standard deviation of y, is at most this, the points
#: count as free of noise.
_NOISE = 5e-4


@dataclass(frozen=True)
class GaussianProcessFit:
    """A smooth fit g(x) to y or log |y|.

    Attributes:
        gradient: Function from x (N, inputs) to dg/dx (N, inputs).
        error: RMS error on the validation points, divided by the standard deviation of the fitted
            values (y or log |y|).
        logarithmic: Whether log |y| was fitted.
        predicted: Values of g at the validation points.
        noise: Most likely standard deviation of the noise, in the same unit as `error`.
    """

    gradient: Callable[[Array], Array]
    error: float
    logarithmic: bool
    predicted: Array
    noise: float

    @property
    def is_noise(self) -> bool:
        """True if the points are noisy, and the error of the fit is no larger than the noise."""
        # The error of a fit counts as noise if it is below this multiple of the estimated noise.
        noise_factor = 1.5
        return bool(self.noise > _NOISE and self.error < noise_factor * self.noise)


@lru_cache(maxsize=4)
def smooth_fit(data: SearchData) -> GaussianProcessFit:
    """Return the most accurate Gaussian process fit of y or log |y|.

    Fits as functions of the inputs and, if all inputs are positive, of their logarithms are
    compared. log |y| is fitted too if y does not change its sign.
    """
    fits: list[GaussianProcessFit] = []
    for of_inputs, of_output in itertools.product((False, True), repeat=2):
        if (of_inputs and not data.is_positive) or (of_output and not data.has_one_sign):
            continue
        fits.append(_fit(data, of_inputs, of_output))
        if fits[-1].error < ACCURATE:
            break
    return min(fits, key=lambda fit: fit.error)


def is_exactly_smooth(data: SearchData) -> bool:
    """Return whether a smooth fit is accurate and shows no noise."""
    # Largest relative error of a smooth fit at which y counts as a smooth function without noise.
    smooth = 0.02
    fit = smooth_fit(data)
    return fit.noise <= _NOISE and fit.error <= smooth


def is_noisy(data: SearchData) -> bool:
    """Return whether a smooth fit explains y up to its noise."""
    fit = smooth_fit(data)
    return fit.is_noise and fit.error < NO_FIT


def errors_are_relative(data: SearchData) -> bool:
    """Return whether errors should be measured relative to y.

    This is so if y spans decades (`wide`), or if the noise is proportional to y. To decide whether
    it is, log |y| is fitted. The residuals must be noise, and they must be clearly more likely as
    normal noise of log |y| than as normal noise of y.
    """
    # Smallest gain of the log likelihood (nats) at which noise counts as proportional to y.
    likelier = 3.0
    # Smallest ratio of the largest to the smallest |y| for which noise can be recognised as
    # proportional to y.
    sizes = 10.0
    # Probability of the lower quantile (see `wide`); the upper quantile has the complementary
    # probability.
    rare = 0.1
    # Errors are measured relative to y if the ratio of an upper to a lower quantile of |y| exceeds
    # this (or its square, if y changes sign).
    wide = 1e4
    size = np.abs(data.all_points.y)
    size = size[size > UNDERFLOW]
    low, high = np.quantile(size, (rare, 1 - rare))
    if high > wide ** (1 if data.has_one_sign else 2) * low or size.max() > wide**2 * high:
        return True
    if not data.has_one_sign or size.max() <= sizes * size.min():
        return False
    fit = _fit(data, data.is_positive, True)
    held_out = np.abs(data.validation_y)
    if fit.error > NO_FIT:
        return False
    logarithmic = float(np.sqrt(np.mean((np.log(held_out) - fit.predicted) ** 2)))
    additive = float(np.sqrt(np.mean((held_out - np.exp(fit.predicted)) ** 2)))
    gain = held_out.size * np.log(additive / logarithmic) - float(np.log(held_out).sum())
    return fit.is_noise and bool(gain > likelier)


def _fit(data: SearchData, of_inputs: bool, of_output: bool) -> GaussianProcessFit:
    """Fit a Gaussian process.

    It is fitted to y, or to log |y| if `of_output`, as a function of the inputs, or of their
    logarithms if `of_inputs`. If the covariance is not positive definite, the error of the result
    is inf.
    """
    # Largest number of points on which the Gaussian process is conditioned.
    fitted = 600
    # Largest number of points from which the hyperparameters of the smooth fit are found.
    tuned = 250

    def inner(x: Array) -> Array:
        return np.log(x) if of_inputs else x

    def outer(y: Array) -> Array:
        return np.log(np.abs(y)) if of_output else y

    z = inner(data.x)
    y = outer(data.y)
    middle = z.mean(0)
    size = np.where(z.std(0) > 0, z.std(0), 1.0)
    mean = float(y.mean())
    std = max(float(y.std()), TINY)
    z = (z - middle) / size
    target = (y - mean) / std
    few = slice(0, tuned)
    conditioned = slice(0, fitted)
    try:
        kernel, noise = likeliest_kernel(z[few], target[few])
        count_work(
            len(z[conditioned]) ** 2 * (COSTS.product * len(z[conditioned]) + COSTS.likelihood)
        )
        process = fit_process(z[conditioned], target[conditioned], kernel, noise)
    except np.linalg.LinAlgError:
        nowhere = np.full(len(data.validation_y), np.nan)
        return GaussianProcessFit(np.zeros_like, np.inf, of_output, nowhere, 0.0)

    def gradient(x: Array) -> Array:
        slopes = process.gradient((inner(x) - middle) / size) * std / size
        return np.asarray(slopes / x if of_inputs else slopes)

    predicted = process.mean((inner(data.validation_x) - middle) / size) * std + mean
    error = float(np.sqrt(np.mean((predicted - outer(data.validation_y)) ** 2))) / std
    error = error if np.isfinite(error) else np.inf
    return GaussianProcessFit(gradient, error, of_output, predicted, noise**0.5)
