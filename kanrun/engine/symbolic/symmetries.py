"""Fewer variables by scalings, translations and norms that a function does not change under.

A smooth fit of the points by a Gaussian process, in units or in logarithms, has derivatives. A
scaling x_i -> s^(v_i) x_i, y -> s^w y leaves y unchanged where sum_i v_i x_i dy/dx_i = w y
everywhere, so that the rows (x_i dy/dx_i, y) have (v, -w) in their null space: dimensional analysis
(Buckingham, Physical Review 4, 1914, 345) that reads the dimensions off the points. In the same way
u + v, u - v, u^2 + v^2 and 1/u + 1/v are found by their derivatives. The points themselves are then
expressed in the groups, exactly, and the fit of fewer variables decides whether that was right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TINY, Array, input_symbols
from kanrun.engine.symbolic.gaussian_process import fit_process, likeliest_kernel
from kanrun.engine.symbolic.problem import UNDERFLOW, SearchData
from kanrun.engine.symbolic.reductions import (
    Reduction,
    in_groups,
    of_one_sign,
    power_factor,
    single_index,
)

#: Points from which the lengths of the smooth fit are found.
_TUNED = 250
#: Points that the smooth fit goes through.
_FITTED = 600
#: Steps of the search for its lengths.
_STEPS = 25
#: Gain of likelihood, relative to it, at which that search ends.
_LIKELIHOOD_RTOL = 2e-9
#: A smooth fit with a relative error of this or more is too inaccurate to reveal symmetries.
NO_FIT = 0.2
#: Error below which a fit is as good as exact.
ACCURATE = 1e-5
#: Errors are measured relative to y if the ratio of an upper to a lower quantile of |y| exceeds
#: this (its square if y changes sign).
_WIDE = 1e4
#: Lower one of these quantiles.
_RARE = 0.1
#: Minimum ratio of the largest and the smallest |y| for relative noise.
_SIZES = 10.0
#: Minimum noise.
_NOISE = 5e-4
#: Largest error of a fit, relative to its noise, that is noise.
_NOISE_FACTOR = 1.5
#: Minimum gain of a fit of the logarithm, in nats.
_LIKELIER = 3.0
#: Error of a smooth fit up to which points without noise are those of a smooth function.
_SMOOTH = 0.02
#: The factor by which the error of a fit may grow in fewer variables.
_ERROR_GROWTH = 1.5
#: Strength of an input without effect, relative to the strongest one.
_IDLE = 1e-4
#: Root of an eigenvalue that counts as small.
_TOLERANCE = 0.03
#: Relative deviation of a constant.
_CONSTANT = 1e-9
#: Minimum number of points at which slopes are read.
_SLOPES = 80
#: Error of slopes, relative to that of the fit.
_SLOPE_ERROR = 3.5
#: Pairs of inputs that are tried.
_PAIRS = 4
#: Single scalings that are tried.
_SCALINGS = 3
#: Largest number by which a null vector may be multiplied for whole entries.
_DENOMINATOR = 6
#: Largest error of whole entries.
_RATIONAL = 0.04


def reduce_variables(data: SearchData) -> Reduction:
    """Return fewer variables, in as many rounds as help; `Reduction.none` if nothing is found."""
    reduction = _reduction_of(data)
    inner = reduction.data(data)
    is_finite = np.isfinite(inner.x).all() and np.isfinite(inner.y).all()
    return reduction if is_finite else Reduction.none(data.x.shape[1])


def _reduction_of(data: SearchData) -> Reduction:
    """Return fewer variables for most points; the factor or a group may not exist at others."""
    reduction = Reduction.none(data.x.shape[1])
    if data.x.shape[1] == 1:
        return reduction
    every = data
    data = of_one_sign(data)
    factor = power_factor(data, every)
    starts = (reduction, factor) if factor else (reduction,)
    found = _least_rough(starts, (every, data) if data is not every else (data,))
    if found is not None:
        return found
    reduction, here, fit = _smooth_start(data, factor)
    # Noise of y, as far as it has one size.
    size = 0.0 if fit.logarithmic or reduction.factor != 1 else fit.noise * data.y_std
    while here.x.shape[1] > 0 and fit.error < NO_FIT:
        for step in _proposals(here, fit):
            then = step.data(here)
            columns = [then.x, then.y[:, None], then.validation_x, then.validation_y[:, None]]
            if not all(np.isfinite(each).all() for each in columns):
                continue
            if not step.variables:
                shape = here.y / then.y
                rest = here.y - shape * float(shape @ here.y / (shape @ shape))
                allowed = max(_CONSTANT, _ERROR_GROWTH * fit.error) * here.y_std
                if float(np.sqrt(np.mean(rest**2))) <= allowed:
                    return reduction.then(step)
                continue
            new = smooth_fit(then)
            whole = reduction.then(step)
            noise = size * float(np.sqrt(np.mean(whole.factors(data.x) ** -2.0))) / then.y_std
            in_y = _error_in_y(here, step, then, new)
            if _is_as_good(fit.error, new.error, in_y, 0.0 if new.logarithmic else noise):
                reduction = whole
                here = then
                fit = new
                break
        else:
            break
    return reduction


def _smooth_start(
    data: SearchData, factor: Reduction | None
) -> tuple[Reduction, SearchData, GaussianProcessFit]:
    """Return the step to points that have a smooth fit, these points, and the fit.

    It takes out the factor where that helps. A function of several variables may be too fast for a
    fit, and one of a group of them is not.
    """
    step = Reduction.none(data.x.shape[1])
    fit = smooth_fit(data)
    if factor and (new := smooth_fit(factor.data(data))).error < fit.error:
        step = factor
        fit = new
    here = step.data(data)
    starts = (Reduction.none(data.x.shape[1]), factor or step)
    if fit.error >= NO_FIT and (joined := _least_rough(starts, (data,), alone=False)):
        step = joined
        here = joined.data(data)
        fit = smooth_fit(here)
    return step, here, fit


def _least_rough(
    starts: Sequence[Reduction], points: Sequence[SearchData], *, alone: bool = True
) -> Reduction | None:
    """Return the single index, after one of the steps, along which y is least rough, or None."""
    found: list[tuple[float, Reduction]] = []
    for step, data in itertools.product(starts, points):
        inner = step.data(data)
        if np.isfinite(inner.y).all() and (index := single_index(inner, alone=alone)) is not None:
            found.append((index[0], step.then(index[1])))
    return min(found, key=lambda entry: entry[0], default=(0.0, None))[1]


def _is_as_good(before: float, after: float, in_y: float, noise: float) -> bool:
    """Return whether a fit of v = y / factor with error `after` is as good as one with `before`.

    The error of y by it is `in_y`. Noise of y makes an error `noise` of v, which is large where the
    factor is small. Few points of large v can hide that all others are wrong.
    """
    allowed = max(_ERROR_GROWTH * before, ACCURATE)
    if after <= allowed and before < _TOLERANCE:
        return True
    return after <= max(allowed, _ERROR_GROWTH * noise) and in_y <= allowed


def _error_in_y(
    data: SearchData, step: Reduction, then: SearchData, fit: GaussianProcessFit
) -> float:
    """Return the error of y by a fit of v after a step, on the validation points."""
    factor = step.factors(data.validation_x)
    v = np.exp(fit.predicted) * np.sign(then.y[0]) if fit.logarithmic else fit.predicted
    return data.error(lambda _: factor * v)


def _proposals(data: SearchData, fit: GaussianProcessFit) -> list[Reduction]:
    """Return steps to try, the surest first.

    If inputs are idle, they are left out first. Else these are all scalings of few inputs, pairs of
    inputs that act together, and all scalings at once or one by one.
    """
    # Slopes are at least as inaccurate as the fit, and most inaccurate at the edge of its points.
    tolerance = max(_TOLERANCE, _SLOPE_ERROR * fit.error)
    centred = np.abs(data.x - data.x.mean(0)) / np.maximum(np.ptp(data.x, axis=0), TINY)
    inner = np.argsort(centred.max(axis=1), kind="stable")[: max(len(data.x) // 2, _SLOPES)]
    x = data.x[inner]
    slopes = fit.gradient(x)
    inputs = x.shape[1]
    # Over decades, changes of the logarithm count.
    size = x * np.log(x).std(0) if data.is_positive else x.std(0)
    strength = np.sqrt(np.mean((slopes * size) ** 2, axis=0))
    idle = strength < max(_IDLE, _SLOPE_ERROR * fit.error) * strength.max()
    if idle.any():
        return [Reduction(inputs, tuple(np.array(input_symbols(inputs))[~idle]))]
    last = np.ones(len(x)) if fit.logarithmic else data.y[inner]
    found = _scalings(np.column_stack([x * slopes, last]), tolerance)
    counts = [int(np.count_nonzero(v[:-1])) for v in found]
    few = [v for v, n in zip(found, counts, strict=True) if n == 1 or (n == 2 and v[-1] == 0)]
    steps = [in_groups(data.x, few), in_groups(data.x, few[:1])]
    steps += _joined_pairs(x, slopes, tolerance)[:_PAIRS]
    steps += [in_groups(data.x, each) for each in (found, *([v] for v in found[:_SCALINGS]))]
    return list(dict.fromkeys(step for step in steps if step is not None))


def _null_vector(moments: Array, tolerance: float) -> tuple[float, Array] | None:
    """Return the smallest eigenvalue of scaled `moments` (n, n) and its vector of whole numbers.

    None if the eigenvalue is not small, or if no multiple of the vector has small whole entries.
    """
    sizes = np.sqrt(np.diag(moments))
    if not (np.isfinite(sizes).all() and sizes.all()):
        return None
    values, vectors = np.linalg.eigh(moments / np.outer(sizes, sizes))
    if values[0] > tolerance**2:
        return None
    vector = vectors[:, 0] / sizes
    vector = vector / vector[np.abs(vector).argmax()]
    for denominator in range(1, _DENOMINATOR + 1):
        whole = np.round(vector * denominator)
        if np.abs(vector * denominator - whole).max() < max(_RATIONAL, tolerance / 2) * denominator:
            whole *= np.sign(whole[np.flatnonzero(whole)[0]])
            off = float(whole @ moments @ whole / np.sum((whole * sizes) ** 2))
            return (max(off, float(values[0])), whole) if off <= tolerance**2 else None
    return None


def _scalings(rows: Array, tolerance: float) -> list[Array]:
    """Return independent vectors (inputs + 1,) of small whole numbers in the null space of `rows`.

    Those with few entries come first.
    """
    moments = rows.T @ rows / len(rows)
    inputs = rows.shape[1] - 1
    found: list[Array] = []
    for count in range(1, inputs + 1):
        ranked = []
        for subset in itertools.combinations(range(inputs), count):
            for inside in ([*subset, inputs], list(subset)):
                null = _null_vector(moments[np.ix_(inside, inside)], tolerance)
                if null is not None and all(null[1][:count]):
                    vector = np.zeros(inputs + 1)
                    vector[inside] = null[1]
                    ranked.append((null[0], tuple(vector)))
        for _, entries in sorted(ranked):
            vector = np.array(entries)
            if np.linalg.matrix_rank(np.array([*found, vector])) > len(found):
                found.append(vector)
    return found


def _joined_pairs(x: Array, slopes: Array, tolerance: float) -> list[Reduction]:
    """Return steps to a u + b v, a u^2 + b v^2 or a / u + b / v for whole a and b, surest first."""
    symbols = input_symbols(x.shape[1])
    ranked = list[tuple[float, int, Reduction]]()
    with np.errstate(all="ignore"):
        forms = ((1, slopes), (2, slopes / (2 * x)), (-1, -slopes * x**2))
    for power, rates in forms:
        for i, j in itertools.combinations(range(len(symbols)), 2):
            pair = rates[:, [j, i]] * (1, -1)
            null = _null_vector(pair.T @ pair / len(x), tolerance)
            if null is not None and null[1].all():
                a, b = (int(each) for each in null[1])
                joined = a * symbols[i] ** power + b * symbols[j] ** power
                rest = [each for k, each in enumerate(symbols) if k not in (i, j)]
                ranked.append((null[0], len(ranked), Reduction(len(symbols), (joined, *rest))))
    return [step for *_, step in sorted(ranked, key=lambda entry: entry[:2])]


@dataclass(frozen=True)
class GaussianProcessFit:
    """A smooth function g(x) of y or log |y|.

    `error` is relative, on validation points, `gradient` maps x (N, inputs) to dg/dx (N, inputs),
    `predicted` is g at the validation points, and `noise` the standard deviation of the noise with
    the largest likelihood, relative as the error.
    """

    gradient: Callable[[Array], Array]
    error: float
    logarithmic: bool
    predicted: Array
    noise: float

    @property
    def is_noise(self) -> bool:
        """True if all that the fit leaves is noise."""
        return bool(self.noise > _NOISE and self.error < _NOISE_FACTOR * self.noise)


@lru_cache(maxsize=4)
def smooth_fit(data: SearchData) -> GaussianProcessFit:
    """Return the best Gaussian process fit of y or log |y| in the inputs or their logarithms."""
    found: list[GaussianProcessFit] = []
    for of_inputs, of_output in itertools.product((False, True), repeat=2):
        if (of_inputs and not data.is_positive) or (of_output and not data.has_one_sign):
            continue
        found.append(_fit(data, of_inputs, of_output))
        if found[-1].error < ACCURATE:
            break
    return min(found, key=lambda fit: fit.error)


def is_exactly_smooth(data: SearchData) -> bool:
    """Return whether a smooth fit is accurate and leaves no noise."""
    fit = smooth_fit(data)
    return fit.noise <= _NOISE and fit.error <= _SMOOTH


def errors_are_relative(data: SearchData) -> bool:
    """Return whether errors of y are judged in proportion to y.

    Either y spans decades, twice as many if it has both signs or at its end, or its noise is in
    proportion to it: what a smooth fit of log |y| leaves is more likely as noise of the logarithm
    than as noise of y, by more than chance.
    """
    size = np.abs(data.all_points.y)
    size = size[size > UNDERFLOW]
    low, high = np.quantile(size, (_RARE, 1 - _RARE))
    if high > _WIDE ** (1 if data.has_one_sign else 2) * low or size.max() > _WIDE**2 * high:
        return True
    if not data.has_one_sign or size.max() <= _SIZES * size.min():
        return False
    fit = _fit(data, data.is_positive, True)
    held_out = np.abs(data.validation_y)
    if fit.error > NO_FIT:
        return False
    logarithmic = float(np.sqrt(np.mean((np.log(held_out) - fit.predicted) ** 2)))
    additive = float(np.sqrt(np.mean((held_out - np.exp(fit.predicted)) ** 2)))
    gain = held_out.size * np.log(additive / logarithmic) - float(np.log(held_out).sum())
    return fit.is_noise and bool(gain > _LIKELIER)


def _fit(data: SearchData, of_inputs: bool, of_output: bool) -> GaussianProcessFit:
    """Fit y or log |y| in the inputs or their logarithms."""

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
    few = slice(0, _TUNED)
    every = slice(0, _FITTED)
    rows = len(z[few])
    work = rows**2 * (COSTS.product * rows + COSTS.likelihood * (2 + z.shape[1]))
    try:
        kernel, noise = likeliest_kernel(
            z[few],
            target[few],
            steps=_STEPS,
            rtol=_LIKELIHOOD_RTOL,
            on_evaluation=lambda: count_work(work),
        )
        count_work(len(z[every]) ** 2 * (COSTS.product * len(z[every]) + COSTS.likelihood))
        process = fit_process(z[every], target[every], kernel, noise)
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
