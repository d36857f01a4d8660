"""Effects of columns, and their standard errors.

An effect is linear in the coefficients, so its variance follows from their posterior. That of a
stack of candidates, which see the same rows, is the weighted mean of their standard deviations.
The variances of the components are not known exactly either, see `variance_components.widened`.
Where columns act together, an effect is a mean over the rows, and these are a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray

from kanrun.engine.tables.gaussian_process import half_solved
from kanrun.engine.tables.reduced_basis import RowFunctions, RowInputs, RowOutputs, blocks, spaced
from kanrun.engine.tables.table_candidates import MainPosterior
from kanrun.engine.tables.table_fit import TableFit

#: Fewest and most rows over which effects of neighbourhoods are averaged.
_MEAN_ROWS = 100, 1000
#: Inputs times centres times rows up to which more than the fewest are taken.
_MEAN_WORK = 10**8
#: Rows over which effects of jumps are averaged.
JUMP_ROWS = 100
#: Values of an input at which effects of neighbourhoods and of jumps are computed.
_PLACES = 100
#: Rows and values of an input from which the variance of interactions is estimated.
_SAMPLE_ROWS = 60
_SAMPLE_PLACES = 13


def column_effect(
    fit: TableFit, inputs: Sequence[int], u: RowInputs, h: RowFunctions
) -> RowOutputs:
    """Return the effect of a column of inputs, that of neighbourhoods being averaged over rows.

    `h` holds the functions of single inputs for u.
    """
    terms, radial, jumps = fit.terms, fit.design.radial, fit.design.jumps
    mine = np.flatnonzero(np.isin(fit.design.basis.column, inputs))
    effect = h[:, mine] @ terms.main[:, mine].T
    if radial is None and not jumps:
        return np.asarray(effect)
    rows, size = _mean_rows(fit), len(fit.design.main)
    bells = terms.main[:, len(fit.design.lines) : size]
    at, places = _places(np.concatenate([u[:, inputs], rows[:, inputs]]))
    levels = jump_effect(fit, rows[spaced(len(rows), JUMP_ROWS)], inputs, at)
    if radial is not None:
        levels += radial.means(rows, inputs, at) @ radial.of_centres(bells).T
    moved = np.stack([places(one) for one in levels.T], 1)
    return np.asarray(effect + moved[: len(u)] - moved[len(u) :].mean(0))


def jump_effect(fit: TableFit, rows: RowInputs, inputs: Sequence[int], at: ndarray) -> ndarray:
    """Return the mean of the jumps (points, outputs) over rows with these inputs set to `at`."""
    heights = fit.terms.main[:, len(fit.design.main) :]
    effect = np.zeros((len(at), len(heights)))
    for one, height in zip(fit.design.jumps, heights.T, strict=True):
        effect += np.outer(one.partial_dependence(rows, inputs, at), height)
    return effect


def standard_errors(
    fit: TableFit, columns: Sequence[Sequence[int]], grids: Sequence[ndarray]
) -> list[ndarray]:
    """Return the standard errors (points, outputs) of the effect of each column on its grid.

    They are NaN for outputs whose posterior is not kept.
    """
    functions = [_effect_functions(fit, *pair) for pair in zip(columns, grids, strict=True)]
    found = [np.zeros((len(grid), len(fit.unit))) for grid in grids]
    weights = {name: fit.weights.get(name, 0.0) for name in fit.posteriors}
    total = sum(weights.values())
    for name, weight in weights.items():
        for output, unit in enumerate(np.abs(fit.unit) * weight / total if weight else ()):
            known = fit.posteriors[name](output, True)
            for h, errors in zip(functions, found, strict=True):
                errors[:, output] += unit * (np.nan if known is None else _errors(h, known))
    return [
        np.sqrt(errors**2 + _sampling_variance(fit, inputs, grid))
        for errors, inputs, grid in zip(found, columns, grids, strict=True)
    ]


def _errors(functions: ndarray, known: MainPosterior) -> ndarray:
    """Return the standard deviations of sums of functions (points, functions)."""
    mine = np.flatnonzero(functions[:, : len(known.prior)].any(0))
    own, covariance = functions[:, mine], known.covariance[np.ix_(mine, mine)]
    return np.asarray(np.sqrt(np.maximum(((own @ covariance) * own).sum(1), 0.0)))


def _effect_functions(fit: TableFit, inputs: Sequence[int], u: RowInputs) -> ndarray:
    """Return functions (points, functions) whose sum with the coefficients is the effect."""
    design, size = fit.design, len(fit.design.lines)
    found = np.zeros((len(u), len(design.main)))
    mine = np.isin(design.basis.column, inputs)
    found[:, :size][:, mine] = design.basis.values(u)[:, mine]
    if design.radial is not None:
        rows = _mean_rows(fit)
        middle, means = (design.radial.means(rows, inputs, x[:, inputs]) for x in (rows, u))
        found[:, size:] = half_solved(design.radial.root, (means - middle.mean(0)).T).T
    return found


def _sampling_variance(fit: TableFit, inputs: Sequence[int], u: RowInputs) -> RowOutputs:
    """Return the variance of an effect (points, outputs) by the choice of the rows.

    It is the variance over rows of their own effects, over the number of rows.
    """
    design = fit.design
    if design.radial is None and not design.jumps and not len(fit.terms.places):
        return np.zeros((len(u), len(fit.unit)))
    at = u[:, inputs] if len(inputs) > 1 else u[spaced(len(u), _SAMPLE_PLACES)][:, inputs]
    rows, size = fit.u[spaced(len(fit.u), _SAMPLE_ROWS)], len(design.main)
    moved = np.repeat(rows, len(at), 0)
    moved[:, inputs] = np.tile(at, (len(rows), 1))
    values = np.zeros((2, len(moved), len(fit.unit)))
    for part in blocks(len(moved), size):
        h = design.functions(moved[part])
        smooth = fit.raw(h[:, :size])
        values[:, part] = smooth, fit.raw(h) - smooth
    curves = values.reshape(2, len(rows), len(at), -1)
    some = fit.u[spaced(len(fit.u), _MEAN_ROWS[1])][:, inputs]
    nearest = ((at**2).sum(1) - 2 * some @ at.T).argmin(1)
    shares = np.bincount(nearest, minlength=len(at)) / len(nearest)
    middles = np.einsum("krpo,p->kro", curves, shares)[:, :, None]
    count = len(fit.u) if design.radial is None else len(_mean_rows(fit))
    smooth, jumps = np.var(curves - middles, axis=1)
    variance: RowOutputs = smooth / count + jumps / JUMP_ROWS
    if len(inputs) > 1:
        return variance
    return np.stack([np.interp(u[:, inputs[0]], at[:, 0], one) for one in variance.T], 1)


def _mean_rows(fit: TableFit) -> RowInputs:
    """Return the rows over which effects of neighbourhoods and of jumps are averaged."""
    count = JUMP_ROWS
    if fit.design.radial is not None:
        work = fit.u.shape[1] * len(fit.design.radial.root)
        count = int(np.clip(_MEAN_WORK // work, *_MEAN_ROWS))
    return np.asarray(fit.u[spaced(len(fit.u), count)])


def _places(values: ndarray) -> tuple[ndarray, Callable[[ndarray], ndarray]]:
    """Return the distinct rows of `values`, and a map from numbers of these to those of all rows.

    Of a single column they are at most `_PLACES` quantiles, between which the map interpolates.
    """
    at, place = np.unique(values, axis=0, return_inverse=True)
    if values.shape[1] > 1 or len(at) <= _PLACES:
        return at, lambda numbers: numbers[place.ravel()]
    at = np.quantile(at, np.linspace(0, 1, _PLACES), axis=0)
    return at, lambda numbers: np.interp(values[:, 0], at[:, 0], numbers)
