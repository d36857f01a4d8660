"""Maps between a table's units and those of its model: scores of inputs, and outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy import ndarray
from scipy import optimize, special

from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.points import Array, Family, PiecewiseScaling, Points, deviation, in_own_units

ROOM = 0.25  # of the range of scores, to which their maps continue on either side
STRAIGHT_ROOM = 1e3  # the same for straight maps of inputs that may leave their range
MARGIN = 0.1  # of the output's range, by which predictions may leave it
# The same for the linear model: in long tails a line continues as far as the rows.
LINEAR_MARGIN = 10.0
# Inputs with at most this many distinct values are standardised, and have no gaps.
_FEW_VALUES = 8
_LIGHT_TAIL = 2.5  # standard deviations from the mean within which inputs are standardised
_NORMAL_FRACTION = 0.5  # of the normal score in the score of other inputs
_KNOTS, _OUTPUT_KNOTS = 33, 129  # of the maps of inputs and of a transformed output
_GAP = 0.1  # of an input's range; between values further apart nothing is learned
_SMALLEST = 1e-12  # relative difference of values that count as different
_MAX_MARGIN = 1e6  # ranges of the output, by which any prediction may leave it at most
# Standard deviations over the unit of a transform: positive outputs get nearly a logarithm.
_UNIT = 100
_POWER_TOLERANCE = 1e-6
_LINK_STEP = 0.028  # between points of the map of a link: h^2 / 8 is the relative error of exp
_BIN_ROWS, _MAX_BINS = 100, 8  # of predictions, in which the size of errors is estimated
# Levels of the residuals over which a transformed output is averaged.
_ERROR_LEVELS = np.linspace(0.025, 0.975, 20)


def input_scores(
    x: RowInputs,
    weights: PerRow | float = 1.0,
    *,
    straight: Collection[int] = (),
    room: float = ROOM,
) -> PiecewiseScaling:
    """Return the map of each input; those of `straight` are only standardised.

    Other inputs with a long tail become the mean of their standardised value and their normal
    score, as a piecewise linear map through quantiles of the distinct values. Maps continue by
    `room` of their range on either side.
    """
    weights = np.broadcast_to(weights, len(x))
    maps = [_score(column, weights, j in straight, room) for j, column in enumerate(x.T)]
    points, values = zip(*maps, strict=True)
    return PiecewiseScaling(points, values)


def _score(x: Array, weights: Array, straight: bool, room: float) -> tuple[Array, Array]:
    x, exponent = in_own_units(x)
    distinct, count = np.unique(x), float(weights.sum())
    low, high, mean = distinct[0], distinct[-1], float(weights @ x) / count
    std = float(np.sqrt(weights @ (x - mean) ** 2 / count))
    if std <= _SMALLEST * max(abs(low), abs(high)):
        size = max(abs(low), 1.0)
        return np.ldexp([low - size, low + size], exponent), np.array([-1.0, 1.0])
    points = np.array([low, high])
    values = (points - mean) / std
    if len(distinct) > _FEW_VALUES and np.abs(values).max() > _LIGHT_TAIL and not straight:
        points = np.quantile(distinct, np.linspace(0, 1, _KNOTS))
        apart = np.diff(points) > _SMALLEST * (high - low)  # the slopes of nearer ones overflow
        points = np.append(points[:-1][apart], high)
        order = np.argsort(x, kind="stable")
        below = np.append(0.0, np.cumsum(weights[order]))  # weight of the first k rows in order
        ends = (below[np.searchsorted(x[order], points, side)] for side in ("left", "right"))
        rank = sum(ends) / (2 * count)
        normal = special.ndtri(np.clip(rank, 1 / (2 * count), 1 - 1 / (2 * count)))
        values = (1 - _NORMAL_FRACTION) * (points - mean) / std + _NORMAL_FRACTION * normal
    if room:
        width = room * (values[-1] - values[0])
        first, last = width * (np.diff(points) / np.diff(values))[[0, -1]]
        points = np.concatenate([points[:1] - first, points, points[-1:] + last])
        values = np.concatenate([values[:1] - width, values, values[-1:] + width])
    return np.ldexp(points, exponent), values


def gaps_of(x: RowInputs) -> tuple[ndarray, ...]:
    """Return the ends (gaps, 2) of the wide gaps between neighbouring values of each input."""
    found = []
    for column in x.T:
        distinct = np.unique(column)
        wide = np.flatnonzero(np.diff(distinct) > _GAP * (distinct[-1] - distinct[0]))
        wide = wide if len(distinct) > _FEW_VALUES else wide[:0]
        found.append(np.stack([distinct[wide], distinct[wide + 1]], 1))
    return tuple(found)


@dataclass(frozen=True)
class PowerTransform:
    """Yeo-Johnson transform of y / unit, standardised on the training rows.

    Source: I.-K. Yeo and R. Johnson, Biometrika 87 (2000) 954-959.
    """

    unit: float
    power: float
    mean: float
    std: float

    @staticmethod
    def of(y: PerRow) -> PowerTransform | None:
        """Return the transform between logarithm and logarithm of -y that makes y most normal.

        None for constant y. Stronger ones have a pole, near which the way back turns small errors
        into unlimited ones.
        """
        spread = float(deviation(y))
        if not 0 < spread < np.inf:
            return None
        unit = spread / _UNIT
        scaled = y / unit
        slopes = float((np.sign(scaled) * np.log1p(np.abs(scaled))).mean())

        def surprise(power: float) -> float:
            """Return minus the log likelihood of a normal distribution over the rows."""
            t = _both_sides(special.boxcox1p, scaled, power)
            return float(np.log(t.var())) / 2 - (power - 1) * slopes

        power = float(optimize.fminbound(surprise, 0.0, 2.0, xtol=_POWER_TOLERANCE))
        t = _both_sides(special.boxcox1p, scaled, power)
        return PowerTransform(unit, power, float(t.mean()), float(t.std()) or 1.0)

    def apply(self, y: Array) -> Array:
        """Transform outputs."""
        t = _both_sides(special.boxcox1p, y / self.unit, self.power)
        return (t - self.mean) / self.std

    def invert(self, t: Array) -> Array:
        """Return the outputs of transformed ones."""
        t = t * self.std + self.mean
        return self.unit * _both_sides(special.inv_boxcox1p, t, self.power)


def _both_sides(function: np.ufunc, a: Array, power: float) -> Array:
    """Apply a Box-Cox function to the sizes of numbers, with power 2 - `power` below zero."""
    up, down = function(np.abs(a), power), function(np.abs(a), 2 - power)
    return np.asarray(np.where(a >= 0, up, -down))


def output_map(
    y: RowOutputs,
    transform: PowerTransform | None = None,
    residuals: ndarray | None = None,
    *,
    margin: float = MARGIN,
    bounds: tuple[Any, Any] = (-np.inf, np.inf),
) -> PiecewiseScaling:
    """Return the map between the model's outputs and the user's units.

    Without a transform, these units are equal. With a transform of a single output, the map
    averages the output over the held-out `residuals` of the transformed output (smearing; N. Duan,
    JASA 78 (1983) 605-610). Beyond the training range, the inverse transform continues as the
    straight line between its ends. The map is constant beyond the training range widened by
    `margin`, and at `bounds`.
    """
    low, high = y.min(0), y.max(0)
    size = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    room = min(margin, _MAX_MARGIN) * size
    least, most = np.maximum(low - room, bounds[0]), np.minimum(high + room, bounds[1])
    if transform is None or residuals is None:
        ends = tuple(np.array(pair) for pair in zip(least, most, strict=True))
        return PiecewiseScaling(ends, ends)
    first, last = transform.apply(np.array([low[0], high[0]]))
    inside, step = np.linspace(first, last, _OUTPUT_KNOTS), (last - first) / 8
    beyond = step * np.arange(1, 5)
    t = np.concatenate([first - beyond[::-1], inside, last + beyond])
    with_errors = t[:, None] + np.quantile(residuals, _ERROR_LEVELS)
    known = np.clip(with_errors, first, last)
    straight = (with_errors - known) * (high - low) / (last - first)
    means = np.clip(transform.invert(known) + straight, least[0], most[0]).mean(1)
    rises = np.diff(np.maximum.accumulate(means)) > _SMALLEST * (most[0] - least[0])
    rising = np.append(True, rises)
    return PiecewiseScaling((means[rising],), (t[rising],))


def per_exposure(points: Points, place: int, family: str) -> Points:
    """Return the points with outputs per unit of the input at `place`, which is left out.

    The weights of counts are multiplied by it.
    """
    exposures = points.x[:, place]
    return replace(
        points,
        x=np.delete(points.x, place, 1),
        y=points.y / exposures[:, None],
        weights=points.shares * exposures if family == "poisson" else points.weights,
    )


def link_map(
    family: Family, eta: ndarray, *, highest: float = np.inf, margin: float = MARGIN
) -> PiecewiseScaling:
    """Return the map between means and their link, for rows with the predictions `eta`.

    It continues by `margin` of their range on either side, up to the link `highest`, and is
    constant beyond. Straight lines between points have a relative error of at most 1e-4.
    """
    low, high = float(eta.min()), float(min(eta.max(), highest))
    room = margin * max(high - low, 1.0)
    values = np.linspace(low - room, high + room, int((high - low + 2 * room) / _LINK_STEP) + 2)
    return PiecewiseScaling((family.mean(values),), (values,))


def error_quantiles(predicted: PerRow, errors: PerRow, levels: ndarray) -> ndarray:
    """Return quantiles of errors that vary with the prediction.

    The size of the errors in bins of predictions is shrunk towards that of all by the part of its
    variance that chance explains (empirical Bayes), and follows straight lines between bins. It is
    the same everywhere if the predictions are equal.

    Returns:
        A row per bin, ordered by its mean prediction, the first column; the others are quantiles.
    """
    bins = int(np.clip(len(errors) // _BIN_ROWS, 1, _MAX_BINS))
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    middles = np.array([predicted[part].mean() for part in parts])
    # Squares of errors in units of any size under- or overflow.
    relative, smallest = in_own_units(errors)[0], np.sqrt(np.finfo(float).tiny)
    squares = [relative[part] ** 2 for part in parts]
    sizes = np.array([max(float(each.mean()), smallest) for each in squares])
    kurtosis = np.mean([(each**2).mean() for each in squares] / sizes**2)
    logs = np.log(sizes) / 2 - np.log(sizes).mean() / 2
    chance = max(kurtosis - 1, smallest) * bins / (4 * len(errors))
    varied = np.ptp(predicted) > 0
    scale = np.exp(varied * logs * max(0.0, 1 - chance / max(logs.var(), chance)))
    quantiles = np.quantile(errors / np.interp(predicted, middles, scale), levels)
    return np.column_stack([middles, scale[:, None] * quantiles])
