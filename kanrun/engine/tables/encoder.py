"""Transform the inputs of a table for its model: scores, functions of the scores, and ranks.

The transformed value of an input is called its score. The maps between the user's units of the
outputs and those of the model are here too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import ndarray
from scipy import special

from kanrun.engine.splines import extend
from kanrun.engine.tables.likelihoods import Power
from kanrun.engine.tables.reduced_basis import DEGREE, PerRow, ReducedBasis, RowFunctions, RowInputs
from kanrun.points import Array, Family, PiecewiseScaling, Points, deviation, in_own_units

#: Kinds of models: only the mean, straight lines in the user's units, or all parts.
KINDS = ("mean", "linear", "full")
#: Shapes that an effect can be required to have, with the sign of its first or second derivative.
SHAPES = {"increasing": 1, "decreasing": -1, "convex": 1, "concave": -1}
#: Shapes that constrain the second derivative.
CURVATURES = ("convex", "concave")


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """Settings of the model of a table; see docs/tables.md."""

    #: Distribution of outputs that are numbers, one of `kanrun.points.FAMILIES`.
    family: str = "gaussian"
    #: Whether inputs may interact; otherwise there are no radial parts.
    pairs: bool = True
    #: Required shapes of effects, as pairs (index of an input, shape); see `SHAPES`. These inputs
    #: are not in the radial parts. If a shape is convex or concave, the output is not transformed.
    shapes: tuple[tuple[int, str], ...] = ()
    #: Extrapolation beyond the training range: `clip`, `linear`, `constant` or `zero`.
    extrapolation: str = "clip"
    #: Lower and upper limit of the outputs.
    bounds: tuple[float, float] = (-np.inf, np.inf)
    #: Index of the exposure, an input to which the outputs are proportional; None if there is none.
    exposure: int | None = None
    #: Number of folds of the cross-validation; below 2, leave-one-out predictions replace folds.
    folds: int = 5
    #: Whether only one of the folds is held out.
    single_fold: bool = False


@dataclass(frozen=True, eq=False)
class Encoder:
    """Transformations of a table's inputs, which are learned from the inputs alone.

    Attributes:
        inputs: Map from the user's units to scores u.
        ranks: Map from scores u to t, the average of u and its rank (see `rank_map`).
        basis: Straight lines and curves, as functions of the scores.
        policy: The settings of the model.
        kind: One of `KINDS`. Unless it is `full`, all inputs are only standardised.
    """

    inputs: PiecewiseScaling
    ranks: PiecewiseScaling
    basis: ReducedBasis
    policy: TablePolicy
    kind: str

    @staticmethod
    def of(x: RowInputs, weights: PerRow, policy: TablePolicy, kind: str) -> Encoder:
        """Learn the transformations from rows x (rows, inputs) in the user's units."""
        # Value of `ROOM` for linear models and for linear extrapolation.
        straight_room = 1e3
        # Largest total number of functions of all inputs; each input keeps at least a line and a
        # curve.
        all_functions = 600
        # Largest number of smooth functions of one input, including the straight line.
        functions = 10
        is_full = kind == "full"
        straight = [j for j, _ in policy.shapes] if is_full else range(x.shape[1])
        usual = ROOM if is_full else straight_room
        room = {"linear": straight_room, "constant": 0.0}.get(policy.extrapolation, usual)
        inputs = input_scores(x, weights, straight=straight, room=room)
        if policy.exposure is not None:
            inputs = with_logarithm(inputs, policy.exposure, x[:, policy.exposure])
        u = inputs.apply(x)
        most = int(np.clip(all_functions // u.shape[1], 2, functions))
        varied = u.copy()
        if policy.exposure is not None:
            varied[:, policy.exposure] = 0.0
        basis = ReducedBasis.of(varied, {"mean": 0, "linear": 1}.get(kind, most), weights)
        return Encoder(inputs, rank_map(u, weights), basis, policy, kind)

    def functions(self, u: RowInputs) -> RowFunctions:
        """Return the lines and curves at scores `u`, shape (rows, functions).

        With zero extrapolation, the functions of an input are 0 outside its training range.
        """
        values = self.basis.values(u)
        if self.policy.extrapolation == "zero":
            low, high = self.basis.breakpoints[:, [0, -1]].T
            values[((u < low) | (u > high))[:, self.basis.column]] = 0.0
        return values

    def interacting(self, u: RowInputs) -> ndarray:
        """Return whether each input is in the radial parts, shape (inputs,).

        These are inputs that vary on rows with the scores `u`, without a required shape. There are
        none with linear or zero extrapolation, because radial parts do not continue as straight
        lines.
        """
        policy = self.policy
        additive = [*dict(policy.shapes), policy.exposure]
        is_free = ~np.isin(np.arange(u.shape[1]), [j for j in additive if j is not None])
        is_local = policy.pairs and policy.extrapolation in ("clip", "constant")
        return np.asarray((is_local and self.kind == "full") & is_free & (np.ptp(u, axis=0) > 0))

    def constraints(self, features: int) -> ndarray | None:
        """Return the matrix A (conditions, features) of the shape constraints; None without shapes.

        The first features are the lines and curves. Effects with the coefficients c keep their
        shapes if A c >= 0. A spline increases if its B-spline coefficients increase, and is convex
        if those of its derivative increase.
        """
        rows = []
        for j, shape in self.policy.shapes:
            mine = self.basis.places[j]
            changes = np.diff(self.basis.coefficients[mine].T, axis=0)
            if shape in CURVATURES:
                # The slope of the spline has the coefficients 3 (c[i+1] - c[i]), each divided by
                # one of these spans of knots.
                knots = extend(torch.as_tensor(self.basis.breakpoints[j : j + 1]), DEGREE)[0]
                spans = (knots[DEGREE + 1 : -1] - knots[1 : -DEGREE - 1]).numpy()
                changes = np.diff(changes / spans[:, None], axis=0)
            row = np.zeros((len(changes), features))
            row[:, mine] = SHAPES[shape] * changes
            rows.append(row)
        return np.concatenate(rows) if rows else None


#: The map of an input extends beyond the training range by this fraction of the range on either
#: side.
ROOM = 0.25
#: Fraction of the training range of the output by which predictions may lie outside this range.
MARGIN = 0.1
#: Value of `MARGIN` for a linear model, which extrapolates.
LINEAR_MARGIN = 10.0
#: Inputs with at most this many distinct values are only standardised, and have no gaps.
_FEW_VALUES = 8
#: Number of points of the map of an input.
_KNOTS = 33
#: Quantile levels of these points.
_QUANTILES = np.linspace(0, 1, _KNOTS)
#: Number of points of the map of a transformed output beyond each end of the training range.
_BEYOND = 8
#: Smallest relative difference of values that count as different.
_SMALLEST = 1e-12
#: Quantile levels of the residuals over which a transformed output is averaged.
_ERROR_LEVELS = np.linspace(0.025, 0.975, 20)


def input_scores(
    x: RowInputs,
    weights: PerRow | float = 1.0,
    *,
    straight: Collection[int] = (),
    room: float = ROOM,
) -> PiecewiseScaling:
    """Return the map from each input to its score.

    The score of most inputs, and of all inputs whose numbers are in `straight`, is the standardised
    value. If an input has a long tail, its score is the average of the standardised value and the
    normal score, interpolated linearly between quantiles of the distinct values. The maps extend
    beyond the data by `room` times the range on either side.
    """
    weights = np.broadcast_to(weights, len(x))
    maps = [_score(column, weights, j in straight, room) for j, column in enumerate(x.T)]
    points, values = zip(*maps, strict=True)
    return PiecewiseScaling(points, values)


def _score(x: Array, weights: Array, straight: bool, room: float) -> tuple[Array, Array]:
    # Weight of the normal score in the score of inputs with longer tails.
    normal_fraction = 0.5
    # Inputs whose values are all within this many standard deviations of the mean are only
    # standardised.
    light_tail = 2.5
    x, exponent = in_own_units(x)
    distinct = np.unique(x)
    low, high = ends = distinct[[0, -1]]
    mean = np.average(x, weights=weights)
    std = deviation(x, weights)
    if std <= _SMALLEST * np.abs(ends).max():
        size = max(abs(low), 1.0)
        return np.ldexp([low - size, low + size], exponent), np.array([-1.0, 1.0])
    points = ends
    values = (ends - mean) / std
    if len(distinct) > _FEW_VALUES and np.abs(values).max() > light_tail and not straight:
        points = np.quantile(distinct, _QUANTILES)
        # Where points are closer than this, slopes would overflow.
        apart = np.diff(points) > _SMALLEST * (high - low)
        points = np.append(points[:-1][apart], high)
        rank = _ranks(x, weights, points)
        least = 1 / (2 * weights.sum())
        normal = special.ndtri(np.clip(rank, least, 1 - least))
        values = (1 - normal_fraction) * (points - mean) / std + normal_fraction * normal
    if room:
        width = room * (values[-1] - values[0])
        first, last = width * (np.diff(points) / np.diff(values))[[0, -1]]
        points = np.concatenate([points[:1] - first, points, points[-1:] + last])
        values = np.concatenate([values[:1] - width, values, values[-1:] + width])
    return np.ldexp(points, exponent), values


def gaps_of(x: RowInputs) -> tuple[ndarray, ...]:
    """Return the ends of the gaps between values (see `gap`): one (gaps, 2) array per input."""
    # Neighbouring values further apart than this fraction of the input's range enclose a gap, in
    # which nothing is learned.
    gap = 0.1
    found = []
    for column in x.T:
        distinct = np.unique(column)
        wide = np.flatnonzero(np.diff(distinct) > gap * (distinct[-1] - distinct[0]))
        wide = wide if len(distinct) > _FEW_VALUES else wide[:0]
        found.append(np.stack([distinct[wide], distinct[wide + 1]], 1))
    return tuple(found)


def rank_map(u: RowInputs, weights: PerRow | float = 1.0) -> PiecewiseScaling:
    """Return the map from each score u to the average of u and its rank.

    Ranks are scaled to mean 0 and variance 1, like u. For inputs with only two values, the average
    is u.
    """
    weights = np.broadcast_to(weights, len(u))
    points = []
    values = []
    for column in u.T:
        distinct = np.unique(column)
        at = distinct
        if len(distinct) > _KNOTS:  # with few values, ranks are steps, so all values are used
            at = np.quantile(distinct, _QUANTILES, method="nearest")
        at = at[np.append(True, np.diff(at) > _SMALLEST * np.ptp(at))]
        ranks = np.sqrt(12) * (_ranks(column, weights, at) - 0.5)
        if len(at) == 1:
            at = at[0] + np.array([-1.0, 1.0])
            ranks = np.array([-1.0, 1.0])
        points.append(at)
        values.append(at if len(at) == 2 else (at + ranks) / 2)
    return PiecewiseScaling(tuple(points), tuple(values))


def _ranks(x: Array, weights: Array, points: Array) -> Array:
    """Return the weighted fraction of the rows with x below each of `points`; ties count half."""
    order = np.argsort(x, kind="stable")
    # total weight of the first k rows in sorted order
    below = np.append(0.0, np.cumsum(weights[order]))
    ends = (below[np.searchsorted(x[order], points, side)] for side in ("left", "right"))
    return np.asarray(sum(ends) / (2 * weights.sum()))


def output_map(
    y: PerRow,
    power: Power,
    residuals: PerRow,
    margin: float = MARGIN,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[ndarray, ndarray]:
    """Return the map from an output in the user's units to latent values: points and values.

    If the output is transformed by a power, a latent value corresponds to the mean output over the
    latent value plus the `residuals` of the transformed output (smearing; N. Duan, JASA 78 (1983)
    605-610). Beyond the training range, the inverse transform continues as a straight line. The
    output is limited to `bounds` and to the training range, widened on either side by `margin`
    times its width.
    """
    # Upper limit of the margin, in multiples of the training range of the output.
    max_margin = 1e6
    # Number of points of the map of a transformed output within the training range.
    output_knots = 129
    margin = min(margin, max_margin)
    low = float(y.min())
    high = float(y.max())
    size = high - low if high > low else max(abs(low), 1.0)
    least = max(low - margin * size, bounds[0])
    most = min(high + margin * size, bounds[1])
    if power.exponent == 1 or high == low:
        ends = np.array([least, most])
        return ends, power.apply(ends)
    first, last = power.apply(np.array([low, high]))
    inside = np.linspace(first, last, output_knots)
    step = (last - first) / 8
    room = max(4.0, 8 * margin + 1)
    beyond = step * np.geomspace(0.1, room, _BEYOND)
    t = np.concatenate([first - beyond[::-1], inside, last + beyond])
    with_errors = t[:, None] + np.quantile(residuals, _ERROR_LEVELS)
    known = np.clip(with_errors, first, last)
    straight = (with_errors - known) * size / (last - first)
    means = np.clip(power.invert(known) + straight, least, most).mean(1)
    smallest = _SMALLEST * (most - least)
    start = int(np.flatnonzero(means <= means[0] + smallest)[-1])  # innermost point at the limit
    means = means[start:]
    t = t[start:]
    rising = np.append(True, np.diff(np.maximum.accumulate(means)) > smallest)
    return means[rising], t[rising]


def with_logarithm(inputs: PiecewiseScaling, j: int, exposures: PerRow) -> PiecewiseScaling:
    """Replace the map of input number `j` by the logarithm; the other maps are unchanged.

    The logarithm is defined for the range of `exposures` (rows,), widened by the factor
    `exposure_room` on either side.
    """
    # Exposures may be outside the range of the training rows by this factor.
    exposure_room = 1e3
    ends = np.log([exposures.min() / exposure_room, exposures.max() * exposure_room])
    logarithm = link_map(Family("poisson"), ends, margin=0.0)
    points = [*inputs.points]
    values = [*inputs.values]
    points[j] = logarithm.points[0]
    values[j] = logarithm.values[0]
    return PiecewiseScaling(tuple(points), tuple(values))


def per_exposure(points: Points, j: int, family: str) -> Points:
    """Convert outputs to rates by dividing them by the exposures, which are input number `j`.

    For counts (`poisson`), the weights of the rows are multiplied by the exposures.
    """
    exposures = points.x[:, j]
    weights = points.shares * exposures if family == "poisson" else points.weights
    return replace(points, y=points.y / exposures[:, None], weights=weights)


def link_map(
    family: Family, eta: ndarray, *, highest: float = np.inf, margin: float = MARGIN
) -> PiecewiseScaling:
    """Return the map from the mean of an output to the link of the mean (such as its logarithm).

    The map covers the range of the predicted links `eta`, cut at `highest` and then extended on
    either side by `margin` times its width (or by `margin`, if the width is below 1). Outside, the
    map is constant. Linear interpolation between its points has a relative error of at most 1e-4.
    """
    # Spacing h of the points of the map of a link. For exp, the relative error of linear
    # interpolation is h^2 / 8.
    link_step = 0.028
    low = float(eta.min())
    high = float(min(eta.max(), highest))
    room = margin * max(high - low, 1.0)
    values = np.linspace(low - room, high + room, int((high - low + 2 * room) / link_step) + 2)
    return PiecewiseScaling((family.mean(values),), (values,))


def error_quantiles(predicted: PerRow, errors: PerRow, levels: ndarray) -> ndarray:
    """Return the quantiles of the errors at the quantile levels `levels`, for bins of predictions.

    Returns:
        One row per bin, in increasing order of prediction: mean prediction, then the quantiles.
    """
    middles, scale = error_scale(predicted, errors)
    quantiles = np.quantile(errors / np.interp(predicted, middles, scale), levels)
    return np.column_stack([middles, scale[:, None] * quantiles])


def error_scale(predicted: PerRow, errors: PerRow) -> tuple[ndarray, ndarray]:
    """Return the mean prediction (bins,) and the scale of errors (bins,) in bins of predictions.

    Predictions are sorted into bins with equal numbers of rows. The scale in a bin is relative to
    the geometric mean over bins. Its logarithm is shrunk towards 0 by the fraction of the variance
    between bins that chance explains (empirical Bayes). If all predictions are equal, the scale is
    1.
    """
    # Largest number of bins of predictions, for estimating the scale of errors.
    max_bins = 8
    # Smallest number of rows in a bin of predictions, for estimating the scale of errors.
    bin_rows = 100
    bins = int(np.clip(len(errors) // bin_rows, 1, max_bins))
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    middles = np.array([predicted[part].mean() for part in parts])
    # Without this scaling, squares of errors may underflow or overflow.
    relative = in_own_units(errors)[0]
    smallest = np.sqrt(np.finfo(float).tiny)
    squares = [relative[part] ** 2 for part in parts]
    sizes = np.array([max(float(each.mean()), smallest) for each in squares])
    kurtosis = np.mean([(each**2).mean() for each in squares] / sizes**2)
    logs = np.log(sizes) / 2 - np.log(sizes).mean() / 2
    chance = max(kurtosis - 1, smallest) * bins / (4 * len(errors))
    varied = np.ptp(predicted) > 0
    return middles, np.exp(varied * logs * max(0.0, 1 - chance / max(logs.var(), chance)))
