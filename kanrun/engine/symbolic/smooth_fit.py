"""A Gaussian process through the points of a search, for its values and slopes."""

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
class SmoothFit:
    """A smooth function g(x) of y or log |y| with its relative `error` on validation points, and dg/dx (N, inputs)."""

    gradient: Callable[[Array], Array]
    error: float
    logarithmic: bool
    predicted: Array | None = None  # g at the validation points
    noise: float = 0.0  # of what was fitted, as the likelihood has it


def smooth_fit(data: SearchData, policy: SymmetryPolicy) -> SmoothFit:
    """The best of Gaussian process fits of y and log |y| in the inputs and their logarithms."""
    positive = bool((data.x > 0).all() and (data.validation_x > 0).all())
    signs = np.sign(np.concatenate([data.y, data.validation_y]))
    one_sign = bool((signs == signs[0]).all() and signs[0] != 0)
    found: list[tuple[float, bool, bool, SmoothFit]] = []
    for of_inputs, of_output in itertools.product((False, True), repeat=2):
        if (of_inputs and not positive) or (of_output and not one_sign):
            continue
        fit = _fit(data, policy, of_inputs, of_output)
        found.append((fit.error, of_inputs, of_output, fit))
        if fit.error < policy.accurate:
            break
    error, of_inputs, of_output, best = min(found, key=lambda entry: entry[0])
    if error < policy.resolved:
        return best
    more = replace(policy, tuned=2 * policy.tuned, points=max(policy.points, policy.most))
    return min((best, _fit(data, more, of_inputs, of_output)), key=lambda fit: fit.error)


def _fit(data: SearchData, policy: SymmetryPolicy, of_inputs: bool, of_output: bool) -> SmoothFit:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    def inner(x: Array) -> Array:
        return np.log(x) if of_inputs else x

    def outer(y: Array) -> Array:
        return np.log(np.abs(y)) if of_output else y

    z, y = inner(data.x), outer(data.y)
    middle, size = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    mean, spread = float(y.mean()), max(float(y.std()), 1e-300)
    z, target = (z - middle) / size, (y - mean) / spread
    kernel = ConstantKernel(30.0, (1e-2, 1e6)) * RBF(np.full(z.shape[1], 3.0), (1e-1, 1e3))
    kernel = kernel + WhiteKernel(1e-6, (1e-12, 1.0))
    few = slice(0, policy.tuned)
    count = len(z[few])
    step = count**2 * (COSTS.covariance * count + COSTS.covariance_entry * (2 + z.shape[1]))
    process = GaussianProcessRegressor(
        kernel, alpha=policy.jitter, optimizer=_optimizer(policy.steps, step)
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # lengths at their bounds, and steps that ran out: both are meant
        tuned = process.fit(z[few], target[few]).kernel_
    for growth in range(5):  # a smooth function of few variables makes the matrix singular
        process = GaussianProcessRegressor(
            tuned, alpha=policy.jitter * 100.0**growth, optimizer=None
        )
        count_work(COSTS.covariance * len(z[: policy.points]) ** 3)
        try:
            process.fit(z[: policy.points], target[: policy.points])
            break
        except np.linalg.LinAlgError:
            continue
    else:
        return SmoothFit(np.zeros_like, np.inf, of_output)
    at, weights = process.X_train_, process.alpha_
    lengths = np.atleast_1d(process.kernel_.k1.k2.length_scale)
    amplitude = float(process.kernel_.k1.k1.constant_value)

    def gradient(x: Array) -> Array:
        u = (inner(x) - middle) / size
        kernel = (
            amplitude
            * np.exp(-0.5 * (((u[:, None, :] - at[None]) / lengths) ** 2).sum(-1))
            * weights
        )
        slopes = (kernel @ at - kernel.sum(1, keepdims=True) * u) / lengths**2 * spread / size
        found: Array = slopes / x if of_inputs else slopes
        return found

    predicted = process.predict((inner(data.validation_x) - middle) / size)
    error = float(np.sqrt(np.mean((predicted - (outer(data.validation_y) - mean) / spread) ** 2)))
    noise = float(process.kernel_.k2.noise_level) ** 0.5 * spread
    return SmoothFit(
        gradient,
        error if np.isfinite(error) else np.inf,
        of_output,
        predicted * spread + mean,
        noise,
    )


def relative_noise(data: SearchData, policy: SymmetryPolicy) -> bool:
    """Whether noise is in proportion to y: of one sign and several sizes, and what a smooth fit of log |y| leaves is
    more likely as noise of the logarithm than as noise of y, by more than chance."""
    size = np.abs(np.concatenate([data.y, data.validation_y]))
    signs = np.sign(np.concatenate([data.y, data.validation_y]))
    if signs.all() and (signs == signs[0]).all() and size.max() > policy.sizes * size.min():
        fit = _fit(data, policy, bool((data.x > 0).all() and (data.validation_x > 0).all()), True)
        if fit.predicted is None or fit.error > policy.hopeless:
            return False
        held = np.abs(data.validation_y)
        logarithmic = float(np.sqrt(np.mean((np.log(held) - fit.predicted) ** 2)))
        additive = float(np.sqrt(np.mean((held - np.exp(fit.predicted)) ** 2)))
        gain = held.size * np.log(additive / logarithmic) - float(np.log(held).sum())
        met = fit.noise > policy.noisy and logarithmic < policy.mostly * fit.noise
        return bool(met and gain > policy.surely)
    return False


def _optimizer(steps: int, units: float) -> Callable[..., tuple[Array, float]]:
    """Each value of the objective is work of `units`."""
    from scipy.optimize import minimize

    def optimise(
        objective: Callable[..., tuple[float, Array]], start: Array, bounds: Array
    ) -> tuple[Array, float]:
        def counted(lengths: Array) -> tuple[float, Array]:
            count_work(units)
            return objective(lengths)

        found: Any = minimize(  # type: ignore[call-overload]
            counted, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": steps}
        )
        return found.x, float(found.fun)

    return optimise
