"""Points, scalings between the user's units and those of a model, and distributions of outputs.

Arrays are float64 of shape (points, features). A family of distributions has a link function, a
deviance and a variance: the variance of an output with mean m is the dispersion times V(m). The
normal score of an output y is the quantile of the standard normal distribution at the probability
that an output is at most y. Counts, and fractions that are 0 or 1, occur with a positive
probability, so their normal scores are randomised. The normal scores of held-out rows give
prediction intervals.

Sources: P. McCullagh and J. Nelder, Generalized Linear Models (1989), chapter 2; P. Dunn and G.
Smyth, Journal of Computational and Graphical Statistics 5 (1996) 236-244 (randomised quantiles).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import scipy  # submodules are imported on first use, because they are slow to import
from numpy.typing import NDArray

from kanrun.errors import InvalidData

Array = NDArray[np.float64]
#: Names of the families of numeric outputs.
FAMILIES = ("gaussian", "binomial", "poisson", "gamma")
#: Families with a logarithmic link, whose mean may be proportional to an exposure.
RATES = ("poisson", "gamma")
#: Smallest probability and dispersion, so that losses and scores are finite.
_SMALLEST = 1e-12


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
    """Divide each column by a power of 2, so that its largest absolute value is in [1, 2).

    The division is exact, and squares of the result neither overflow nor underflow.

    Returns:
        The divided values, and the exponent of each column, shape (columns,).
    """
    exponent = np.frexp(np.abs(values).max(axis=0))[1] - 1
    return np.ldexp(values, -exponent), exponent


def predicted_classes(probabilities: Array, threshold: float = 0.5) -> NDArray[np.intp]:
    """Return the number of the predicted class of each row, shape (rows,).

    The most probable class is predicted. Of two classes, the second one is predicted if its
    probability exceeds `threshold`. `probabilities` has the shape (rows, classes).
    """
    if probabilities.shape[1] == 2:
        return np.asarray(probabilities[:, 1] > threshold, dtype=np.intp)
    return np.asarray(probabilities.argmax(1))


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs and outputs of points.

    Attributes:
        x: Inputs, shape (points, inputs).
        y: Outputs, shape (points, outputs).
        weights: Number of rows that each point stands for, shape (points,); None: one row each.
        groups: Number of the group of each point, shape (points,). Cross-validation holds out whole
            groups. None: each point is a group.
        forward: Whether `groups` are times. Cross-validation then predicts points only from earlier
            points.
    """

    x: Array
    y: Array
    weights: Array | None = None
    groups: Array | None = None
    forward: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[Any]) -> Points:
        """Return the points with these indices, in this order."""
        weights, groups = (None if a is None else a[rows] for a in (self.weights, self.groups))
        return Points(self.x[rows], self.y[rows], weights, groups, self.forward)

    def join(self, other: Points) -> Points:
        """Return these points followed by `other`. The result has no weights and no groups."""
        return Points(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))

    @property
    def shares(self) -> Array:
        """Weights of all points, shape (points,); ones if `weights` is None."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def box(self) -> Array:
        """Smallest and largest value of each input, shape (inputs, 2)."""
        return np.stack([self.x.min(axis=0), self.x.max(axis=0)], axis=1)


class Scaling(msgspec.Struct, frozen=True, eq=False, tag=True):
    """Affine map (a - shift) / scale of each feature; shift and scale have shape (features,)."""

    shift: Array
    scale: Array

    @staticmethod
    def identity(features: int) -> Scaling:
        """Return the scaling that changes nothing."""
        return Scaling(np.zeros(features), np.ones(features))

    def apply(self, a: Array) -> Array:
        """Convert values (..., features) from the user's units to standardised ones."""
        return (a - self.shift) / self.scale

    def invert(self, a: Array) -> Array:
        """Convert values (..., features) from standardised units to the user's."""
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
        """Convert values (..., features) from the user's units to the model's."""
        return _interpolated(a, self.points, self.values)

    def invert(self, a: Array) -> Array:
        """Convert values (..., features) from the model's units to the user's."""
        return _interpolated(a, self.values, self.points)

    @property
    def scale(self) -> Array:
        """Mean number of the user's units per unit of the model, shape (features,)."""
        pairs = zip(self.points, self.values, strict=True)
        return np.array([np.ptp(points) / np.ptp(values) for points, values in pairs])


def _interpolated(a: Array, points: tuple[Array, ...], values: tuple[Array, ...]) -> Array:
    maps = enumerate(zip(points, values, strict=True))
    return np.stack([np.interp(a[..., j], *one) for j, one in maps], -1)


@dataclass(frozen=True)
class Family:
    """A family of distributions of numbers or of classes.

    Attributes:
        name: One of `FAMILIES`; `gaussian` for classes.
        classes: Number of classes; None for numbers.
        dispersion: Variance of an output divided by V(m).
        ends: Two thresholds (low, high) for the beta distribution of fractions. Its values up to
            `low` count as 0, and its values from `high` on as 1, because fractions of few trials
            are often 0 or 1.
        single_trials: Whether all fractions are 0 or 1. They then have a Bernoulli distribution,
            whose dispersion is 1.
    """

    name: str = "gaussian"
    classes: int | None = None
    dispersion: float = 1.0
    ends: tuple[float, float] = (0.0, 1.0)
    single_trials: bool = False

    def of_outputs(self, y: Array) -> Family:
        """Return the family with `single_trials` set if it is binomial and all `y` are 0 or 1."""
        single_trials = self.name == "binomial" and bool(np.isin(y, (0, 1)).all())
        return replace(self, single_trials=single_trials)

    @property
    def has_link(self) -> bool:
        """Whether models predict a function of the mean: its logarithm, log-odds or logits."""
        return bool(self.classes) or self.name != "gaussian"

    @property
    def is_log(self) -> bool:
        """Whether the link is the logarithm."""
        return self.name in RATES

    @property
    def has_known_dispersion(self) -> bool:
        """Whether models are fitted with dispersion 1: those of classes, counts and single trials.

        If the dispersion of counts were estimated during the fit, it would absorb effects. For
        prediction intervals, it is estimated afterwards from held-out rows. Fractions of several
        trials have an unknown dispersion (quasi-likelihood), which includes the number of trials.
        """
        return bool(self.classes) or self.name == "poisson" or self.single_trials

    def link(self, mean: Array) -> Array:
        """Return the link function of `mean`: the logarithm or the log-odds."""
        return np.asarray(np.log(mean) if self.is_log else scipy.special.logit(mean))

    def mean(self, eta: Array) -> Array:
        """Return the means whose link is `eta`, or the probabilities of logits (rows, classes)."""
        if self.is_log:
            return np.asarray(np.exp(eta))
        several = eta.ndim > 1 and eta.shape[1] > 1
        return np.asarray(scipy.special.softmax(eta, 1) if several else scipy.special.expit(eta))

    def weight(self, mean: Array) -> Array:
        """Return the Fisher information of the link at `mean`, for dispersion 1."""
        if self.name == "gamma":
            return np.ones_like(mean)
        return mean if self.is_log else mean * (1 - mean)

    def score(self, y: Array, mean: Array) -> Array:
        """Return d log likelihood / d link of each output, for dispersion 1."""
        return (y - mean) / mean if self.name == "gamma" else y - mean

    def deviance(self, y: Array, mean: Array) -> Array:
        """Return the deviances 2 log(likelihood of mean y / likelihood of `mean`) of outputs."""
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
        """Return the fraction of the deviance that predictions explain, D^2.

        Args:
            y: Outputs, shape (rows, outputs).
            predicted: Predicted means, shape (rows, outputs).
            weights: Weights, shape (rows,).

        Returns:
            1 for perfect predictions, 0 for the mean of the outputs; None for constant outputs.
        """
        if np.ptp(y) == 0:
            return None
        constant = np.broadcast_to(np.average(y, 0, weights), y.shape)
        remaining = np.average(self.deviance(y, predicted), 0, weights).sum()
        total = np.average(self.deviance(y, constant), 0, weights).sum()
        return float(1 - remaining / total)

    def with_dispersion(self, y: Array, mean: Array, weights: Array) -> Family:
        """Return the family with the dispersion of these outputs, estimated by Pearson's statistic.

        The `ends` of fractions are chosen so that the probabilities of 0 and 1 equal their
        frequencies in `y`. The dispersion of single trials stays 1.

        Args:
            y: Outputs, shape (rows, 1).
            mean: Predicted means, shape (rows, 1); rows with NaN are ignored.
            weights: Weights, shape (rows,).
        """
        end_rows = 10_000  # largest number of rows from which `Family.ends` are estimated
        if self.single_trials:
            return self
        kept = ~np.isnan(mean[:, 0])
        y = y[kept, 0]
        mean = mean[kept, 0]
        squares = self.score(y, mean) ** 2 / np.maximum(self.weight(mean), np.finfo(float).tiny)
        dispersion = float(np.average(squares, weights=weights[kept]))
        family = replace(self, dispersion=max(dispersion, _SMALLEST))
        if self.name != "binomial":
            return family
        sample = slice(None, None, len(y) // end_rows + 1)
        y = y[sample]
        mean = mean[sample]
        low = family._end(mean, (y == 0).mean())
        high = 1 - family._end(1 - mean, (y == 1).mean())
        return replace(family, ends=(low, max(high, low)))

    def _end(self, mean: Array, fraction: float) -> float:
        """Return the quantile at level `fraction` of the mixture of outputs with these means."""
        end_tolerance = 1e-6  # absolute tolerance with which `Family.ends` are computed
        if not fraction:
            return 0.0
        distributions = self._distribution(mean)
        return float(
            scipy.optimize.brentq(
                lambda at: distributions.cdf(at).mean() - fraction, 0, 1, xtol=end_tolerance
            )
        )

    def _distribution(self, mean: Array) -> Any:
        """Return the outputs' distributions with these means, as a frozen distribution of scipy."""
        from scipy import stats  # slow to import

        if self.name == "gamma":
            return stats.gamma(1 / self.dispersion, scale=mean * self.dispersion)
        if self.single_trials:
            return stats.bernoulli(mean)
        if self.name == "binomial":  # fractions have a beta distribution
            # At a dispersion of 1, all fractions would be 0 or 1: no beta distribution.
            size = 1 / min(self.dispersion, 0.999) - 1
            mean = np.clip(mean, _SMALLEST, 1 - _SMALLEST)
            return stats.beta(mean * size, (1 - mean) * size)
        # The parameters of a negative binomial distribution overflow as the excess goes to 0.
        if (excess := self.dispersion - 1) <= 1e-3:
            return stats.poisson(mean)
        return stats.nbinom(mean / excess, 1 / (1 + excess))

    def normal_scores(self, y: Array, mean: Array) -> Array:
        """Return the normal scores of outputs (rows,) that have these means (rows,)."""
        seed = 7_301  # seed of the random numbers of normal scores
        distribution = self._distribution(mean)
        first, last = self.ends
        high = distribution.cdf(np.where(y == 0, first, y))
        is_count = self.name == "poisson" or self.single_trials
        below = np.ceil(y) - 1 if is_count else np.where(y == 1, last, y)
        low = distribution.cdf(below)
        position = np.random.default_rng(seed).random(len(y))
        probability = np.clip(low + position * (high - low), _SMALLEST, 1 - _SMALLEST)
        return np.asarray(scipy.special.ndtri(probability))

    def quantile(self, scores: Array, mean: Array) -> Array:
        """Return the outputs whose normal scores are `scores`, given their means."""
        y = np.asarray(self._distribution(mean).ppf(scipy.special.ndtr(scores)))
        if self.name != "binomial":
            return y
        first, last = self.ends
        return np.where(y <= first, 0.0, np.where(y >= last, 1.0, y))

    def check(self, y: Array, what: str) -> None:
        """Raise InvalidData if the family does not allow the outputs `y`, called `what`."""
        lowest = float(y.min())
        highest = float(y.max())
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
