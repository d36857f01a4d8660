"""Find fewer variables from symmetries of a function: scalings, translations and norms.

A Gaussian process is fitted to the points, or to their logarithms, because its derivatives reveal
symmetries. The function is invariant under the scaling x_i -> s^(v_i) x_i, y -> s^w y if
sum_i v_i x_i dy/dx_i = w y at all points, that is, if (v, -w) is in the null space of the rows
(x_1 dy/dx_1, ..., y). This is dimensional analysis (Buckingham, Physical Review 4, 1914, 345) with
dimensions that are inferred from the points. Variables such as u + v, u - v, u^2 + v^2 and
1/u + 1/v are found in the same way. The points are then expressed exactly in the new variables, and
a new fit decides whether the reduction is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from kanrun.engine.symbolic.candidates import TINY, Array, input_symbols
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.reductions import (
    Reduction,
    in_groups,
    of_one_sign,
    power_factor,
    single_index,
)
from kanrun.engine.symbolic.smooth_fit import ACCURATE, NO_FIT, GaussianProcessFit, smooth_fit

#: Largest factor by which the error may grow when the number of variables is reduced.
_ERROR_GROWTH = 1.5
#: An input has no effect if its strength, the RMS change of the smooth fit that it causes, is below
#: this fraction of the largest strength of an input.
_IDLE = 1e-4
#: An eigenvalue of a scaled moment matrix (see `_null_vector`) counts as zero if its square root is
#: at most this.
_TOLERANCE = 0.03
#: Smallest number of points from which derivatives are used to find symmetries.
_SLOPES = 80
#: Largest factor by which a null vector is multiplied to make its entries integers.
_DENOMINATOR = 6


def reduce_variables(data: SearchData) -> Reduction:
    """Return a reduction of the number of variables, which is found step by step.

    If no reduction is found, or if it is not finite at all points, the result is `Reduction.none`.
    """
    reduction = _reduction_of(data)
    inner = reduction.data(data)
    is_finite = np.isfinite(inner.x).all() and np.isfinite(inner.y).all()
    return reduction if is_finite else Reduction.none(data.x.shape[1])


def _reduction_of(data: SearchData) -> Reduction:
    """Return a reduction that was found on a subset of the points.

    The factor or the variables of the reduction may be undefined at other points.
    """
    # An output counts as constant if its RMS deviation, relative to the standard deviation of y, is
    # at most this.
    constant = 1e-9
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
    # Standard deviation of the noise of y, if that is the same for all points.
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
                allowed = max(constant, _ERROR_GROWTH * fit.error) * here.y_std
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
    """Return a first reduction, the points in its variables, and a smooth fit to these points.

    `factor` is taken out of y if that makes the fit more accurate. If y varies too fast for a
    smooth fit in all variables, a single product or sum of some of them is tried (see
    `single_index`).
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
    """Return the product or sum along which y is least rough (see `single_index`), or None.

    Args:
        starts: Reductions after which the product or sum is searched.
        points: Sets of points to try.
        alone: See `single_index`.
    """
    found: list[tuple[float, Reduction]] = []
    for step, data in itertools.product(starts, points):
        inner = step.data(data)
        if np.isfinite(inner.y).all() and (index := single_index(inner, alone=alone)) is not None:
            found.append((index[0], step.then(index[1])))
    return min(found, key=lambda entry: entry[0], default=(0.0, None))[1]


def _is_as_good(before: float, after: float, in_y: float, noise: float) -> bool:
    """Return whether a fit in fewer variables is as good as the previous fit.

    The new fit predicts v = y / factor. Its relative error alone may mislead, because a few large
    values of v can hide errors of all others. Therefore the error of y is compared as well.

    Args:
        before: Relative error of the fit in more variables.
        after: Relative error of the new fit of v.
        in_y: Relative error of y that follows from the new fit of v.
        noise: Relative error of v that the noise of y causes; large if the factor is small.
    """
    allowed = max(_ERROR_GROWTH * before, ACCURATE)
    if after <= allowed and before < _TOLERANCE:
        return True
    return after <= max(allowed, _ERROR_GROWTH * noise) and in_y <= allowed


def _error_in_y(
    data: SearchData, step: Reduction, then: SearchData, fit: GaussianProcessFit
) -> float:
    """Return the relative validation error of y = factor * v, where v is predicted by a fit."""
    factor = step.factors(data.validation_x)
    v = np.exp(fit.predicted) * np.sign(then.y[0]) if fit.logarithmic else fit.predicted
    return data.error(lambda _: factor * v)


def _proposals(data: SearchData, fit: GaussianProcessFit) -> list[Reduction]:
    """Return the reductions to try next, the most certain first.

    If some inputs have no effect, leaving them out is the only proposal. Otherwise, the proposals
    use scalings of one or two inputs, pairs of inputs that can be combined, all scalings together,
    and single scalings, in this order.
    """
    # Largest number of scalings that are tried alone.
    scalings = 3
    # Largest number of reductions that join two inputs to one variable and are tried.
    pairs = 4
    # Typical ratio of the relative error of derivatives to the relative error of the fit.
    slope_error = 3.5
    # Derivatives are less accurate than the fit, in particular near the boundary of the points, so
    # only points near the centre are used.
    tolerance = max(_TOLERANCE, slope_error * fit.error)
    centred = np.abs(data.x - data.x.mean(0)) / np.maximum(np.ptp(data.x, axis=0), TINY)
    inner = np.argsort(centred.max(axis=1), kind="stable")[: max(len(data.x) // 2, _SLOPES)]
    x = data.x[inner]
    slopes = fit.gradient(x)
    inputs = x.shape[1]
    # The strength of a positive input is measured by changes of its logarithm.
    size = x * np.log(x).std(0) if data.is_positive else x.std(0)
    strength = np.sqrt(np.mean((slopes * size) ** 2, axis=0))
    idle = strength < max(_IDLE, slope_error * fit.error) * strength.max()
    if idle.any():
        return [Reduction(inputs, tuple(np.array(input_symbols(inputs))[~idle]))]
    last = np.ones(len(x)) if fit.logarithmic else data.y[inner]
    found = _scalings(np.column_stack([x * slopes, last]), tolerance)
    counts = [int(np.count_nonzero(v[:-1])) for v in found]
    few = [v for v, n in zip(found, counts, strict=True) if n == 1 or (n == 2 and v[-1] == 0)]
    steps = [in_groups(data.x, few), in_groups(data.x, few[:1])]
    steps += _joined_pairs(x, slopes, tolerance)[:pairs]
    steps += [in_groups(data.x, each) for each in (found, *([v] for v in found[:scalings]))]
    return list(dict.fromkeys(step for step in steps if step is not None))


def _null_vector(moments: Array, tolerance: float) -> tuple[float, Array] | None:
    """Return an integer vector in the null space of a moment matrix, with its residual.

    `moments` (n, n) is scaled to a unit diagonal. The eigenvector of the smallest eigenvalue is
    multiplied by a small factor and rounded to integers.

    Returns:
        The residual, which is the larger of the eigenvalue and the Rayleigh quotient of the integer
        vector, and the vector (n,). None if the residual is not small, or if the entries are not
        nearly fractions with a common small denominator.
    """
    # Largest distance of an entry of a null vector from the fraction to which it is rounded.
    rational = 0.04
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
        if np.abs(vector * denominator - whole).max() < max(rational, tolerance / 2) * denominator:
            whole *= np.sign(whole[np.flatnonzero(whole)[0]])
            off = float(whole @ moments @ whole / np.sum((whole * sizes) ** 2))
            return (max(off, float(values[0])), whole) if off <= tolerance**2 else None
    return None


def _scalings(rows: Array, tolerance: float) -> list[Array]:
    """Return linearly independent integer vectors (inputs + 1,) in the null space of `rows`.

    Vectors with few nonzero entries come first. `rows` has the shape (N, inputs + 1).
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
    """Return reductions that join two inputs u and v, the most certain first.

    The new variable is a u + b v, a u^2 + b v^2 or a / u + b / v with integers a and b.
    """
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
