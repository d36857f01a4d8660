"""Maps between a table's units and those of its model: scores of the inputs, a symmetric output and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kanrun.targets.data import Array, PiecewiseScaling, Points, in_own_units


@dataclass(frozen=True)
class ScorePolicy:
    """How inputs become scores and how far predictions may go.

    An input with more than `few` distinct values, one of them more than `light` standard deviations from the mean,
    becomes the mean of its standardised value and its normal score, as the piecewise linear map through `knots`
    quantiles of the distinct values; others are standardised. The map is
    continued to `room` of the range of scores on either side and constant beyond (`straight_room` for straight scores,
    which only the linear model has). Predictions are held within the range of the training outputs, widened by `margin`
    of it on either side, those of the linear model by `linear_margin`: on long tails a line goes on as far as the rows.
    They never leave `bounds`, which all outputs or each of them have.
    Between neighbouring values further apart than `gap` of an input's range nothing was learned. A column whose largest
    value is beyond 2^-ordinary or 2^ordinary is fitted in units of it.
    """

    few: int = 8
    light: float = 2.5
    knots: int = 33
    blend: float = 0.5
    room: float = 0.25
    straight_room: float = 1e3
    margin: float = 0.1
    linear_margin: float = 10.0
    output_knots: int = 129
    gap: float = 0.1
    ordinary: int = 30
    bounds: tuple[Any, Any] = (-np.inf, np.inf)


def ordinary_units(
    points: Points, classes: int | None, policy: ScorePolicy = ScorePolicy()
) -> tuple[Points, Any, Any]:
    """The points with every column over 2^exponent, and the exponents of x and y, which are 0 for ordinary sizes."""

    def exponents(a: Array) -> NDArray[np.intp]:
        found = in_own_units(a)[1]
        return np.where(a.any(axis=0) & (np.abs(found) > policy.ordinary), found, 0)

    x, y = exponents(points.x), np.zeros(1, dtype=np.intp) if classes else exponents(points.y)
    if not (x.any() or y.any()):
        return points, x, y
    return replace(points, x=np.ldexp(points.x, -x), y=np.ldexp(points.y, -y)), x, y


def input_scores(
    x: Array,
    policy: ScorePolicy = ScorePolicy(),
    weights: Array | None = None,
    *,
    straight: Sequence[int] = (),
) -> PiecewiseScaling:
    """The map of each column of the training rows x (rows, inputs), those of `straight` only standardised.

    A row of weight w (rows,) counts as w rows.
    """
    weights = np.ones(len(x)) if weights is None else weights
    maps = [_scores(column, weights, policy, j in straight) for j, column in enumerate(x.T)]
    return PiecewiseScaling(
        tuple(points for points, _ in maps), tuple(values for _, values in maps)
    )


def _scores(x: Array, weights: Array, policy: ScorePolicy, straight: bool) -> tuple[Array, Array]:
    distinct = np.unique(x)
    count = float(weights.sum())
    mean = float(weights @ x) / count
    low, high, deviation = (
        distinct[0],
        distinct[-1],
        float(np.sqrt(weights @ (x - mean) ** 2 / count)),
    )
    if deviation <= 1e-12 * max(abs(low), abs(high)):
        size = max(abs(low), 1.0)
        return np.array([low - size, low + size]), np.array([-1.0, 1.0])
    points = np.array([low, high])
    values = (points - mean) / deviation
    if len(distinct) > policy.few and np.abs(values).max() > policy.light and not straight:
        points = np.quantile(distinct, np.linspace(0, 1, policy.knots))
        apart = np.diff(points) > 1e-12 * (high - low)  # nearer ones have slopes that overflow
        points = np.append(points[:-1][apart], high)
        order = np.argsort(x, kind="stable")
        below = np.concatenate(
            [[0.0], np.cumsum(weights[order])]
        )  # the weight of the first k rows in order
        ends = (below[np.searchsorted(x[order], points, side)] for side in ("left", "right"))
        rank = sum(ends) / (2 * count)
        normal = special.ndtri(np.clip(rank, 1 / (2 * count), 1 - 1 / (2 * count)))
        values = (1 - policy.blend) * (points - mean) / deviation + policy.blend * normal
    room = (policy.straight_room if straight else policy.room) * (values[-1] - values[0])
    first = room * (points[1] - points[0]) / (values[1] - values[0])
    last = room * (points[-1] - points[-2]) / (values[-1] - values[-2])
    if room == 0:
        return points, values
    return (
        np.concatenate([[points[0] - first], points, [points[-1] + last]]),
        np.concatenate([[values[0] - room], values, [values[-1] + room]]),
    )


def gaps_of(x: Array, policy: ScorePolicy = ScorePolicy()) -> tuple[Array, ...]:
    """Of each column of x (rows, inputs) the gaps (gaps, 2) between neighbouring values that are wider than
    `policy.gap` of the column's range; none of a column with `policy.few` values or less."""
    found = []
    for column in x.T:
        distinct = np.unique(column)
        wide = np.flatnonzero(np.diff(distinct) > policy.gap * (distinct[-1] - distinct[0]))
        wide = wide if len(distinct) > policy.few else wide[:0]
        found.append(
            np.stack([distinct[wide], distinct[wide + 1]], 1) if len(wide) else np.zeros((0, 2))
        )
    return tuple(found)


@dataclass(frozen=True)
class PowerTransform:
    """Yeo-Johnson of y / unit with exponent `power`, shifted and scaled to mean 0 and deviation 1 on the training rows.

    Source: I.-K. Yeo and R. Johnson, Biometrika 87 (2000) 954-959.
    """

    unit: float
    power: float
    mean: float
    deviation: float

    @staticmethod
    def of(y: Array) -> PowerTransform | None:
        """The transform from logarithm to logarithm of -y that makes y (rows,) most normal, None where y is constant.

        Stronger ones have a pole, near which the way back turns small errors into endless ones.
        """
        from scipy import stats  # takes half a second, which only tables need pay

        spread = float(y.std())
        if spread <= 0 or not np.isfinite(spread):
            return None
        unit = spread / 100  # far below the spread, so that positive outputs get nearly a logarithm
        power = float(np.clip(stats.yeojohnson_normmax(y / unit), 0.0, 2.0))
        t = stats.yeojohnson(y / unit, lmbda=power)
        return PowerTransform(unit, power, float(t.mean()), max(float(t.std()), 1e-300))

    def apply(self, y: Array) -> Array:
        from scipy import stats

        return np.asarray(
            (stats.yeojohnson(y / self.unit, lmbda=self.power) - self.mean) / self.deviation
        )

    def invert(self, t: Array) -> Array:
        """y, for t of the outputs."""
        t = t * self.deviation + self.mean
        up, down = (
            special.inv_boxcox1p(np.abs(t), power) for power in (self.power, 2 - self.power)
        )
        return np.asarray(self.unit * np.where(t >= 0, up, -down))


def output_map(
    y: Array,
    transform: PowerTransform | None,
    residuals: Array,
    policy: ScorePolicy = ScorePolicy(),
    *,
    margin: float = 0.1,
) -> PiecewiseScaling:
    """The way between the model's output and the user's units, for each column of the training outputs y.

    Without a transform the units are the user's. With one (a single output) the map gives the mean of the output over
    the left-out `residuals` of the transformed one (smearing; N. Duan, JASA 78 (1983) 605-610); beyond the training
    range the way back goes on as the straight line between its ends. It is constant beyond the range widened by
    `margin` of it, and at the policy's bounds.
    """
    low, high = y.min(0), y.max(0)
    room = min(margin, _UNHELD) * np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    least, most = (
        np.maximum(low - room, policy.bounds[0]),
        np.minimum(high + room, policy.bounds[1]),
    )
    if transform is None:
        ends = tuple(np.array(pair) for pair in zip(least, most, strict=True))
        return PiecewiseScaling(ends, ends)
    first, last = transform.apply(np.array([low[0], high[0]]))
    inside = np.linspace(first, last, policy.output_knots)
    step = (inside[-1] - inside[0]) / 8
    t = np.concatenate(
        [inside[0] - step * np.arange(4, 0, -1), inside, inside[-1] + step * np.arange(1, 5)]
    )
    errors = np.quantile(residuals, np.linspace(0.025, 0.975, 20))
    ends = (least[0], most[0])
    with_errors = t[:, None] + errors
    known = np.clip(with_errors, first, last)
    means = np.clip(
        transform.invert(known) + (with_errors - known) * (high - low) / (last - first), *ends
    ).mean(1)
    rising = np.concatenate(
        [[True], np.diff(np.maximum.accumulate(means)) > 1e-12 * (ends[1] - ends[0])]
    )
    return PiecewiseScaling((means[rising],), (t[rising],))


_UNHELD = (
    1e6  # ranges of the output, beyond which predictions that may leave it are held nevertheless
)
