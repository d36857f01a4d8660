"""Smooth fits of y or log |y| by Gaussian processes, which estimate noise and derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TINY, Array
from kanrun.engine.symbolic.gaussian_process import fit_process, likeliest_kernel
from kanrun.engine.symbolic.problem import UNDERFLOW, SearchData

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
    # Probability of the lower quantile (see `_WIDE`); the upper quantile has the complementary
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
