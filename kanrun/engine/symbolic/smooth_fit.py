"""A Gaussian process fit to the points of a search, for its values and slopes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.search_problem import SymmetryPolicy


@dataclass(frozen=True)
class GaussianProcessFit:
    """A smooth function g(x) of y or log |y|.

    `error` is relative, on validation points, `gradient` maps x (N, inputs) to dg/dx (N, inputs), `predicted` is g at
    the validation points, and `noise` the standard deviation of the noise with the largest likelihood.
    """

    gradient: Callable[[Array], Array]
    error: float
    logarithmic: bool
    predicted: Array
    noise: float


def smooth_fit(data: SearchData, policy: SymmetryPolicy) -> GaussianProcessFit:
    """Return the best of Gaussian process fits of y and log |y| in the inputs and their logarithms."""
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
    """Return whether the noise is in proportion to y: y has one sign and several sizes, and what a smooth fit of
    log |y| leaves is more likely as noise of the logarithm than as noise of y, by more than chance."""
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
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    def inner(x: Array) -> Array:
        return np.log(x) if of_inputs else x

    def outer(y: Array) -> Array:
        return np.log(np.abs(y)) if of_output else y

    z, y = inner(data.x), outer(data.y)
    middle, size = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    mean, std = float(y.mean()), max(float(y.std()), 1e-300)
    z, target = (z - middle) / size, (y - mean) / std
    kernel = ConstantKernel(30.0, (1e-2, 1e6)) * RBF(np.full(z.shape[1], 3.0), (1e-1, 1e3))
    kernel, few = kernel + WhiteKernel(1e-6, (1e-12, 1.0)), min(policy.tuned, len(z))
    step = few**2 * (COSTS.covariance * few + COSTS.covariance_entry * (2 + z.shape[1]))
    count_work(policy.steps * step)
    optimiser, jitter = _optimiser(policy.steps), policy.jitter
    with warnings.catch_warnings():
        # Lengths at their bounds, and steps that ran out, are intended.
        warnings.simplefilter("ignore")
        process = GaussianProcessRegressor(kernel, alpha=jitter, optimizer=optimiser)
        tuned = process.fit(z[:few], target[:few]).kernel_
    count_work(COSTS.covariance * len(z[: policy.points]) ** 3)
    while True:
        process = GaussianProcessRegressor(tuned, alpha=jitter, optimizer=None)
        try:
            process.fit(z[: policy.points], target[: policy.points])
            break
        except np.linalg.LinAlgError:  # a smooth function of few variables
            jitter *= 100.0
    at, weights = process.X_train_, process.alpha_
    lengths, noise = process.kernel_.k1.k2.length_scale, process.kernel_.k2.noise_level
    amplitude = process.kernel_.k1.k1.constant_value

    def gradient(x: Array) -> Array:
        u = (inner(x) - middle) / size
        distances = (((u[:, None, :] - at[None]) / lengths) ** 2).sum(-1)
        covariance = amplitude * np.exp(-0.5 * distances) * weights
        slopes = (covariance @ at - covariance.sum(1, keepdims=True) * u) / lengths**2 * std / size
        return np.asarray(slopes / x if of_inputs else slopes)

    predicted = process.predict((inner(data.validation_x) - middle) / size) * std + mean
    error = float(np.sqrt(np.mean((predicted - outer(data.validation_y)) ** 2))) / std
    error = error if np.isfinite(error) else np.inf
    return GaussianProcessFit(gradient, error, of_output, predicted, float(noise) ** 0.5 * std)


def _optimiser(steps: int) -> Callable[..., tuple[Array, float]]:
    from scipy.optimize import minimize

    def optimise(objective: Any, start: Array, bounds: Array) -> tuple[Array, float]:
        options = {"maxiter": steps}
        found: Any = minimize(
            objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options
        )
        return found.x, float(found.fun)

    return optimise
