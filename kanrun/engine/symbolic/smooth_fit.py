"""Smooth fits of the points of a search by a Gaussian process, in units or in logarithms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TINY, Array
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.tables.gaussian_process import GaussianProcess, KernelPrior, fit_kernel

#: Points from which the lengths of the smooth fit are found, and those that it goes through. Steps
#: of the search, and its last gain of likelihood.
_TUNED, _FITTED, _STEPS, _LIKELIHOOD_RTOL = 250, 600, 25, 2e-9
#: Hyperparameters of values without noise, or with some.
_PRIOR = KernelPrior(
    precision=(0.1, 1e-6, 1e2), linear=None, radial=(30.0, 1e-2, 1e3), noise=(1e-6, 1e-9, 1.0)
)
#: Error from which on a fit says nothing, and below which it is as good as exact.
NO_FIT, ACCURATE = 0.2, 1e-5
#: Ratio of quantiles of |y| from which on errors are relative, and the quantile.
_WIDE, _RARE = 1e4, 0.1
#: Relative noise: minimum ratio of the largest and the smallest |y|, minimum noise, validation
#: error of the logarithm relative to its noise, and minimum gain in nats.
_SIZES, _NOISE, _NOISE_FACTOR, _LIKELIER = 10.0, 5e-4, 1.5, 3.0


@dataclass(frozen=True)
class GaussianProcessFit:
    """A smooth function g(x) of y or log |y|.

    `error` is relative, on validation points, `gradient` maps x (N, inputs) to dg/dx (N, inputs),
    `predicted` is g at the validation points, and `noise` the standard deviation of the noise with
    the largest likelihood.
    """

    gradient: Callable[[Array], Array]
    error: float
    logarithmic: bool
    predicted: Array
    noise: float


def smooth_fit(data: SearchData) -> GaussianProcessFit:
    """Return the best Gaussian process fit of y or log |y| in the inputs or their logarithms."""
    found: list[GaussianProcessFit] = []
    for of_inputs, of_output in itertools.product((False, True), repeat=2):
        if (of_inputs and not is_positive(data)) or (of_output and not has_one_sign(data)):
            continue
        found.append(_fit(data, of_inputs, of_output))
        if found[-1].error < ACCURATE:
            break
    return min(found, key=lambda fit: fit.error)


def errors_are_relative(data: SearchData) -> bool:
    """Return whether errors of y are judged in proportion to y, which then has one sign.

    Either y spans decades, or its noise is in proportion to it: what a smooth fit of log |y| leaves
    is more likely as noise of the logarithm than as noise of y, by more than chance.
    """
    size = np.abs(data.all_points.y)
    if not has_one_sign(data) or size.max() <= _SIZES * size.min():
        return False
    low, high = np.quantile(size, (_RARE, 1 - _RARE))
    if high > _WIDE * low:
        return True
    fit, held_out = _fit(data, is_positive(data), True), np.abs(data.validation_y)
    if fit.error > NO_FIT:
        return False
    logarithmic = float(np.sqrt(np.mean((np.log(held_out) - fit.predicted) ** 2)))
    additive = float(np.sqrt(np.mean((held_out - np.exp(fit.predicted)) ** 2)))
    gain = held_out.size * np.log(additive / logarithmic) - float(np.log(held_out).sum())
    is_noise = fit.noise > _NOISE and logarithmic < _NOISE_FACTOR * fit.noise
    return bool(is_noise and gain > _LIKELIER)


def is_positive(data: SearchData) -> bool:
    """Return whether all inputs are positive at all points."""
    return bool((data.all_points.x > 0).all())


def has_one_sign(data: SearchData) -> bool:
    """Return whether all outputs have the sign of the first one."""
    y = data.all_points.y
    return bool((y * y[0] > 0).all())


def _fit(data: SearchData, of_inputs: bool, of_output: bool) -> GaussianProcessFit:
    """Fit y or log |y| in the inputs or their logarithms."""

    def inner(x: Array) -> Array:
        return np.log(x) if of_inputs else x

    def outer(y: Array) -> Array:
        return np.log(np.abs(y)) if of_output else y

    z, y = inner(data.x), outer(data.y)
    middle, size = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    mean, std = float(y.mean()), max(float(y.std()), TINY)
    z, target = (z - middle) / size, ((y - mean) / std)[:, None]
    few, every = slice(0, _TUNED), slice(0, _FITTED)
    rows = len(z[few])
    work = rows**2 * (COSTS.covariance * rows + COSTS.covariance_entry * (2 + z.shape[1]))
    try:
        kernel = fit_kernel(
            z[few],
            target[few],
            _PRIOR,
            max_steps=_STEPS,
            rtol=_LIKELIHOOD_RTOL,
            on_evaluation=lambda: count_work(work),
        )
        count_work(COSTS.covariance * len(z[every]) ** 3)
        process = GaussianProcess.of(kernel, z[every], target[every])
    except np.linalg.LinAlgError:
        nowhere = np.full(len(data.validation_y), np.nan)
        return GaussianProcessFit(np.zeros_like, np.inf, of_output, nowhere, 0.0)

    def gradient(x: Array) -> Array:
        slopes = process.gradient((inner(x) - middle) / size) * std / size
        return np.asarray(slopes / x if of_inputs else slopes)

    predicted = process.mean((inner(data.validation_x) - middle) / size)[:, 0] * std + mean
    error = float(np.sqrt(np.mean((predicted - outer(data.validation_y)) ** 2))) / std
    error = error if np.isfinite(error) else np.inf
    return GaussianProcessFit(gradient, error, of_output, predicted, kernel.noise**0.5 * std)
