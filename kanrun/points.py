"""Points, the scalings between their units and those of a model, and distributions of outputs.

Arrays are float64, (points, features). A distribution has a link, a deviance and normal scores
about its mean. The variance of an output of mean m is the dispersion times V(m). Normal scores are
the quantiles of the standard normal distribution at the probabilities of outputs, randomised where
an output has a probability of its own: counts, and fractions of 0 and 1. Those of held-out rows
give prediction intervals.

Sources: P. McCullagh and J. Nelder, Generalized Linear Models (1989), chapter 2; P. Dunn and G.
Smyth, Journal of Computational and Graphical Statistics 5 (1996) 236-244 (randomised quantiles).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import scipy  # its parts load, slowly, when they are used
from numpy.typing import NDArray

from kanrun.errors import InvalidData

Array = NDArray[np.float64]
#: Names of the families of numbers, and those whose mean is proportional to an exposure.
FAMILIES = ("gaussian", "binomial", "poisson", "gamma")
RATES = ("poisson", "gamma")
_SMALLEST = 1e-12  # probability, or dispersion, so that losses and scores are finite
# Dispersion of counts up to which they have a Poisson distribution, otherwise a negative binomial
# one; and that of fractions from which they are almost only 0 and 1.
_EXCESS, _MOST_SPREAD = 1e-3, 0.999
#: Rows from which the ends of fractions are found, at most, and their tolerance.
_END_ROWS = 10_000
_END_TOLERANCE = 1e-6
_STREAM = 7_301  # of the random numbers of scores


def root_mean_square(values: Array, weights: Array | None = None) -> Any:
    """Return the weighted root mean square over the first axis, for values of any size."""
    relative, exponent = in_own_units(values)
    return np.ldexp(np.sqrt(np.average(relative**2, 0, weights)), exponent)


def deviation(values: Array, weights: Array | None = None) -> Any:
    """Return the weighted standard deviation over the first axis, for values of any size."""
    relative, exponent = in_own_units(values)
    errors = relative - np.average(relative, 0, weights)
    return np.ldexp(np.sqrt(np.average(errors**2, 0, weights)), exponent)


def in_own_units(values: Array) -> tuple[Array, NDArray[np.intp]]:
    """Return each column over 2^exponent, and the exponents: the largest value is then from 1 to 2.

    The division is exact, and squares of the result neither over- nor underflow.
    """
    exponent = np.frexp(np.abs(values).max(axis=0))[1] - 1
    return np.ldexp(values, -exponent), exponent


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs x (points, inputs) with outputs y (points, outputs).

    Attributes:
        weights: How many rows each point stands for, shape (points,); None: one.
        groups: Points with the same number are left out together, shape (points,).
        forward: Whether these numbers are times: points are then predicted by those before them.
    """

    x: Array
    y: Array
    weights: Array | None = None
    groups: Array | None = None
    forward: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[Any]) -> Points:
        """Return the points of these rows, in their order."""
        weights, groups = (None if a is None else a[rows] for a in (self.weights, self.groups))
        return Points(self.x[rows], self.y[rows], weights, groups, self.forward)

    def join(self, other: Points) -> Points:
        """Return these points, which have no weights and groups, and then the others."""
        return Points(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))

    @property
    def shares(self) -> Array:
        """Weights, shape (points,); 1 by default."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def box(self) -> Array:
        """Range of each input, shape (inputs, 2)."""
        return np.stack([self.x.min(axis=0), self.x.max(axis=0)], axis=1)


class Scaling(msgspec.Struct, frozen=True, eq=False, tag=True):
    """Map (a - shift) / scale of each feature; shift and scale have shape (features,)."""

    shift: Array
    scale: Array

    @staticmethod
    def identity(features: int) -> Scaling:
        """Return the scaling that changes nothing."""
        return Scaling(np.zeros(features), np.ones(features))

    def apply(self, a: Array) -> Array:
        """Convert the user's units (..., features) to standardised ones."""
        return (a - self.shift) / self.scale

    def invert(self, a: Array) -> Array:
        """Convert standardised units (..., features) to the user's."""
        return a * self.scale + self.shift


class PiecewiseScaling(msgspec.Struct, frozen=True, eq=False, tag=True):
    """An increasing, piecewise linear map of each feature, constant beyond its ends.

    Attributes:
        points: For each feature, points in the user's units.
        values: For each feature, the values of these points in the model's units.
    """

    points: tuple[Array, ...]
    values: tuple[Array, ...]

    def apply(self, a: Array) -> Array:
        """Convert the user's units (..., features) to the model's."""
        return _interpolated(a, self.points, self.values)

    def invert(self, a: Array) -> Array:
        """Convert the model's units (..., features) to the user's."""
        return _interpolated(a, self.values, self.points)

    @property
    def scale(self) -> Array:
        """User's units per unit of the model, on average, shape (features,)."""
        pairs = zip(self.points, self.values, strict=True)
        return np.array([np.ptp(points) / np.ptp(values) for points, values in pairs])


def _interpolated(a: Array, points: tuple[Array, ...], values: tuple[Array, ...]) -> Array:
    maps = enumerate(zip(points, values, strict=True))
    return np.stack([np.interp(a[..., j], *one) for j, one in maps], -1)


@dataclass(frozen=True)
class Family:
    """A family of distributions, of numbers or of classes.

    Attributes:
        name: One of `FAMILIES`; `gaussian` also for classes.
        classes: Number of classes, None for numbers.
        dispersion: Variance over V(m).
        ends: Fractions up to the first count as 0, and from the second as 1, since fractions of few
            trials are often 0 or 1.
    """

    name: str = "gaussian"
    classes: int | None = None
    dispersion: float = 1.0
    ends: tuple[float, float] = (0.0, 1.0)

    @property
    def has_link(self) -> bool:
        """True if models predict a function of the mean: log, log-odds or logits."""
        return bool(self.classes) or self.name != "gaussian"

    @property
    def is_log(self) -> bool:
        """True if that function is the logarithm."""
        return self.name in RATES

    @property
    def has_known_dispersion(self) -> bool:
        """True if models are fitted with dispersion 1: of classes, and of counts.

        An estimate from counts would hide effects: an intercept alone leaves 5 of 1 at a mean of
        0.3. The dispersion of held-out rows is estimated afterwards, for intervals.
        """
        return bool(self.classes) or self.name == "poisson"

    def link(self, mean: Array) -> Array:
        """Return the logarithms or log-odds of means."""
        return np.asarray(np.log(mean) if self.is_log else scipy.special.logit(mean))

    def mean(self, eta: Array) -> Array:
        """Return the means of `link`; of several logits (rows, classes) the probabilities."""
        if self.is_log:
            return np.asarray(np.exp(eta))
        several = eta.ndim > 1 and eta.shape[1] > 1
        return np.asarray(scipy.special.softmax(eta, 1) if several else scipy.special.expit(eta))

    def weight(self, mean: Array) -> Array:
        """Return the Fisher information of the link, for dispersion 1."""
        if self.name == "gamma":
            return np.ones_like(mean)
        return mean if self.is_log else mean * (1 - mean)

    def score(self, y: Array, mean: Array) -> Array:
        """Return the derivatives of the log likelihood by the link, for dispersion 1."""
        return (y - mean) / mean if self.name == "gamma" else y - mean

    def deviance(self, y: Array, mean: Array) -> Array:
        """Return the deviance of each output: twice the logarithm of a ratio of likelihoods."""
        if self.is_log:
            mean = np.maximum(mean, np.finfo(float).tiny)
        if self.name == "poisson":
            return np.asarray(2 * scipy.special.kl_div(y, mean))
        if self.name == "gamma":
            return np.asarray(2 * (y / mean - 1 - np.log(y / mean)))
        mean = np.clip(mean, _SMALLEST, 1 - _SMALLEST)
        return np.asarray(
            2 * (scipy.special.rel_entr(y, mean) + scipy.special.rel_entr(1 - y, 1 - mean))
        )

    def explained(self, y: Array, predicted: Array, weights: Array | None = None) -> float | None:
        """Return the fraction of the deviance (rows, outputs) that predictions explain, D^2.

        None for constant outputs.
        """
        base = np.broadcast_to(np.average(y, 0, weights), y.shape)
        ours, whole = (
            float(np.average(self.deviance(y, each), 0, weights).sum())
            for each in (predicted, base)
        )
        return 1 - ours / whole if np.ptp(y) > 0 else None

    def with_dispersion(self, y: Array, mean: Array, weights: Array) -> Family:
        """Return the family with the dispersion of these outputs, by Pearson's statistic.

        The ends of fractions are where 0 and 1 are expected as often as they occur. Outputs and
        means have the shape (rows, 1); rows without a mean, NaN, do not count.
        """
        kept = ~np.isnan(mean[:, 0])
        y, mean = y[kept, 0], mean[kept, 0]
        squares = self.score(y, mean) ** 2 / np.maximum(self.weight(mean), np.finfo(float).tiny)
        found = float(np.average(squares, weights=weights[kept]))
        known = replace(self, dispersion=max(found, _SMALLEST))
        if self.name != "binomial":
            return known
        some = slice(None, None, len(y) // _END_ROWS + 1)
        y, mean = y[some], mean[some]
        low, high = (
            known._end(tail, (y == end).mean()) for end, tail in ((0, mean), (1, 1 - mean))
        )
        return replace(known, ends=(low, max(1 - high, low)))

    def _end(self, mean: Array, fraction: float) -> float:
        """Return the output that this fraction of outputs with these means does not exceed."""
        if not fraction:
            return 0.0
        distributions = self._distribution(mean)
        return float(
            scipy.optimize.brentq(
                lambda at: distributions.cdf(at).mean() - fraction, 0, 1, xtol=_END_TOLERANCE
            )
        )

    def _distribution(self, mean: Array) -> Any:
        """Return the distributions with these means, frozen ones of scipy."""
        from scipy import stats  # late, as it loads slowly

        if self.name == "gamma":
            return stats.gamma(1 / self.dispersion, scale=mean * self.dispersion)
        if self.name == "binomial":  # of fractions: beta
            size = 1 / min(self.dispersion, _MOST_SPREAD) - 1
            return stats.beta(mean * size, (1 - mean) * size)
        if (excess := self.dispersion - 1) <= _EXCESS:
            return stats.poisson(mean)
        return stats.nbinom(mean / excess, 1 / (1 + excess))

    def normal_scores(self, y: Array, mean: Array) -> Array:
        """Return the normal scores of outputs (rows,) given their means."""
        known = self._distribution(mean)
        first, last = self.ends
        high = known.cdf(np.where(y == 0, first, y))
        below = np.ceil(y) - 1 if self.name == "poisson" else np.where(y == 1, last, y)
        low = known.cdf(below)
        between = np.random.default_rng(_STREAM).random(len(y))
        likely = np.clip(low + between * (high - low), _SMALLEST, 1 - _SMALLEST)
        return np.asarray(scipy.special.ndtri(likely))

    def quantile(self, scores: Array, mean: Array) -> Array:
        """Return the outputs that have these normal scores given their means."""
        found = np.asarray(self._distribution(mean).ppf(scipy.special.ndtr(scores)))
        if self.name != "binomial":
            return found
        first, last = self.ends
        return np.where(found <= first, 0.0, np.where(found >= last, 1.0, found))

    def check(self, y: Array, what: str) -> None:
        """Raise InvalidData for outputs that the family does not have."""
        lowest, highest = float(y.min()), float(y.max())
        rule = {
            "poisson": "counts, 0 or above and not all 0" * (lowest < 0 or highest == 0),
            "gamma": "numbers above 0" * (lowest <= 0),
            "binomial": "fractions from 0 to 1 and not all 0 or all 1"
            * (lowest < 0 or highest > 1 or highest == 0 or lowest == 1),
        }.get(self.name)
        if rule:
            raise InvalidData(
                f"{what} ranges from {lowest:g} to {highest:g}, and family={self.name} is for "
                f"{rule}. Choose another family."
            )
