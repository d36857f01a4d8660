"""A Gaussian process fit to the points of a search, for its values and slopes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.search_problem import SymmetryPolicy
from kanrun.engine.tables.gaussian_process import GaussianProcess, KernelPrior, fit_kernel


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


def smooth_fit(data: SearchData, policy: SymmetryPolicy) -> GaussianProcessFit:
    """Return the best Gaussian process fit of y or log |y| in the inputs or their logarithms."""
    found: list[tuple[GaussianProcessFit, bool]] = []
    for of_inputs, of_output in itertools.product((False, True), repeat=2):
        if (of_inputs and not _positive(data)) or (of_output and not _one_sign(data)):
            continue
        found.append((_fit(data, policy, of_inputs, of_output), of_inputs))
        if found[-1][0].error < policy.accurate:
            break
    best, of_inputs = min(found, key=lambda entry: entry[0].error)
    if best.error < policy.resolved:
        return best
    more = replace(policy, tuned=2 * policy.tuned, points=2 * policy.points)
    return min((best, _fit(data, more, of_inputs, best.logarithmic)), key=lambda fit: fit.error)


def relative_noise(data: SearchData, policy: SymmetryPolicy) -> bool:
    """Return whether the noise is in proportion to y.

    Then y has one sign and several sizes, and what a smooth fit of log |y| leaves is more likely as
    noise of the logarithm than as noise of y, by more than chance.
    """
    size = np.abs(np.concatenate([data.y, data.validation_y]))
    if not _one_sign(data) or size.max() <= policy.sizes * size.min():
        return False
    fit, held_out = _fit(data, policy, _positive(data), True), np.abs(data.validation_y)
    if fit.error > policy.no_fit:
        return False
    logarithmic = float(np.sqrt(np.mean((np.log(held_out) - fit.predicted) ** 2)))
    additive = float(np.sqrt(np.mean((held_out - np.exp(fit.predicted)) ** 2)))
    gain = held_out.size * np.log(additive / logarithmic) - float(np.log(held_out).sum())
    is_noise = fit.noise > policy.noise and logarithmic < policy.noise_factor * fit.noise
    return bool(is_noise and gain > policy.likelier)


def _positive(data: SearchData) -> bool:
    return bool((data.x > 0).all() and (data.validation_x > 0).all())


def _one_sign(data: SearchData) -> bool:
    y = np.concatenate([data.y, data.validation_y])
    return bool((y > 0).all() or (y < 0).all())


def _fit(
    data: SearchData, policy: SymmetryPolicy, of_inputs: bool, of_output: bool
) -> GaussianProcessFit:
    def inner(x: Array) -> Array:
        return np.log(x) if of_inputs else x

    def outer(y: Array) -> Array:
        return np.log(np.abs(y)) if of_output else y

    z, y = inner(data.x), outer(data.y)
    middle, size = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    mean, std = float(y.mean()), max(float(y.std()), 1e-300)
    z, target = (z - middle) / size, ((y - mean) / std)[:, None]
    few, every = slice(0, policy.tuned), slice(0, policy.points)
    rows = len(z[few])
    work = rows**2 * (COSTS.covariance * rows + COSTS.covariance_entry * (2 + z.shape[1]))
    try:
        kernel = fit_kernel(
            z[few],
            target[few],
            _PRIOR,
            max_steps=policy.steps,
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


#: Hyperparameters of values without noise, or with some.
_PRIOR = KernelPrior(
    precision=(0.1, 1e-6, 1e2), linear=None, radial=(30.0, 1e-2, 1e3), noise=(1e-6, 1e-9, 1.0)
)
#: Relative gain of the likelihood at which its maximisation stops.
_LIKELIHOOD_RTOL = 2e-9
