"""The data that a formula is sought on, and the description length by which formulas are compared on them.

The description length is N log(error) + log(N) / 2 for every free constant and unit of complexity, in nats, over all N
points (Schwarz, Annals of Statistics 6, 1978, 461); of few points it is N / (N - k - 1) for each of the k constants and
halves of units, where that is more (Hurvich and Tsai, Biometrika 76, 1989, 297). On noisy data every further constant
must pay for itself; on exact data N log(error) dominates, down to EXACT, below which only the size counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree
from sklearn.preprocessing import PolynomialFeatures

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.graph import Graph


@dataclass(frozen=True)
class SearchData:
    """x (N, inputs), y (N,) for fitting; `validation_x`, `validation_y` for choosing. Where noise is `relative`, errors
    are those of log |y|, of which y of one sign is a function."""

    x: Array
    y: Array
    validation_x: Array
    validation_y: Array
    relative: bool = False

    @cached_property
    def y_std(self) -> float:
        """The standard deviation of y, or of log |y|: errors are small or large relative to it."""
        return max(float(np.std(np.log(np.abs(self.y)) if self.relative else self.y)), 1e-300)

    def residuals(self, model: Callable[[Array], Array], x: Array, y: Array) -> Array:
        """Of a model at x (N, inputs), y (N,); nan where a logarithm is none."""
        with np.errstate(all="ignore"):
            values = model(x)
            return np.log(values / y) if self.relative else values - y

    @cached_property
    def all_points(self) -> SearchData:
        """All points, for fitting and for choosing."""
        if np.array_equal(self.x, self.validation_x):
            return self
        x, y = (
            np.concatenate([self.x, self.validation_x]),
            np.concatenate([self.y, self.validation_y]),
        )
        return SearchData(x, y, x, y, self.relative)

    @cached_property
    def logarithms(self) -> SearchData:
        """The same points with log |y|."""
        return replace(
            self,
            y=np.log(np.abs(self.y)),
            validation_y=np.log(np.abs(self.validation_y)),
            relative=False,
        )

    @cached_property
    def no_skill_error(self) -> float:
        """The relative validation error from which on a model has learned nothing: that of the mean of y, less what the
        best of several models reaches by chance on so few points."""
        by_mean = self.error(lambda x: np.full(x.shape[0], float(np.mean(self.y))))
        return by_mean * max(0.8, 1 - 2 / float(np.sqrt(self.validation_y.size)))

    @cached_property
    def count(self) -> int:
        """N: all points, of too few to set some aside these once."""
        return self.y.size + (
            0 if np.array_equal(self.x, self.validation_x) else self.validation_y.size
        )

    def has_enough_points(self, constants: int) -> bool:
        """Whether there are points enough to tell a formula of so many constants that gives all of them from others
        that do."""
        return _POINTS_A_CONSTANT * constants + _POINTS <= self.count

    def interpolated_by(self, parameters: int) -> bool:
        """Whether there are hardly more points than a model has parameters, so that its error is no measure."""
        return self.count <= parameters + 1

    def overall_error(self, model: Callable[[Array], Array]) -> float:
        """The same as `error` over all points, those that constants were fitted to among them."""
        return self._size(self.residuals(model, self.all_points.x, self.all_points.y))

    def error(self, model: Callable[[Array], Array]) -> float:
        """Root mean square error on the validation data relative to the spread; inf where the model is not finite."""
        return self._size(self.residuals(model, self.validation_x, self.validation_y))

    def _size(self, rest: Array) -> float:
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.mean(rest**2))) / self.y_std
        return error if np.isfinite(error) else float("inf")

    def not_significantly_worse(
        self, model: Callable[[Array], Array], other: Callable[[Array], Array]
    ) -> bool:
        """Whether a model is worse than another one on validation points by no more than chance makes, `_CHANCE`
        standard errors."""
        first, second = (
            self.residuals(each, self.validation_x, self.validation_y) ** 2
            for each in (model, other)
        )
        worse = first - second
        return bool(np.mean(worse) <= _CHANCE * np.std(worse) / np.sqrt(worse.size))

    def residuals_are_noise(self, model: Callable[[Array], Array]) -> bool:
        """Whether the residuals of a model have nothing of the inputs in them: neighbours in any input, and nearest
        neighbours, are not alike beyond `_LIKE` standard errors, and no cubic polynomial predicts those held out."""
        x = np.concatenate([self.x, self.validation_x])
        held = np.arange(self.y.size, self.y.size + self.validation_y.size)
        rest = self.residuals(model, x, np.concatenate([self.y, self.validation_y]))
        size = float(np.std(rest))
        if not 0 < size < np.inf:
            return False
        rest = (rest - rest.mean()) / size
        inside = np.ptp(x, axis=0) > 0
        unit = (x[:, inside] - x[:, inside].mean(0)) / x[:, inside].std(0)
        nearest = np.asarray(cKDTree(unit).query(unit, 2)[1])[:, 1]
        alike = [float(np.mean(rest * rest[nearest])) * 0.7]  # pairs are counted twice
        for order in np.argsort(unit, axis=0).T:
            alike.append(float(np.mean(rest[order][1:] * rest[order][:-1])))
        if max(alike) > _LIKE / np.sqrt(rest.size):
            return False
        cubic = PolynomialFeatures(3 if unit.shape[1] <= _FEW else 2).fit_transform(unit)
        if cubic.shape[1] > held[0] / 4:
            return True
        guess = cubic @ np.linalg.lstsq(cubic[: held[0]], rest[: held[0]], rcond=None)[0]
        return float(np.mean((rest[held] - guess[held]) ** 2)) > (1 - _EXPLAINED) * float(
            np.mean(rest[held] ** 2)
        )


#: Standard errors of a difference that chance makes.
_CHANCE = 2.0
#: Points that a formula takes to be known as exact: for every constant, and beyond.
_POINTS_A_CONSTANT, _POINTS = 2, 5
#: Standard errors of a correlation, inputs up to which cubic polynomials are few enough, and the share of the residuals
#: that, explained, shows that they are no noise.
_LIKE, _FEW, _EXPLAINED = 3.5, 5, 0.05

#: Relative error at which a formula is taken as exact: nothing can be better.
EXACT = 1e-11


def description_length(graph: Graph, samples: SearchData) -> float:
    """Nats, up to a constant of the data; inf where the graph is not finite on them."""
    error = samples.overall_error(graph)
    return (
        length_of(error, graph.parameters.size, graph.complexity, samples)
        if np.isfinite(error)
        else np.inf
    )


def length_of(error: float, constants: int, complexity: float, samples: SearchData) -> float:
    """Nats for a relative `error` over all points; inf where there is no point more than the constants take."""
    count, each = samples.count, 0.5 * float(np.log(samples.count))
    taken = constants + complexity / 2
    if taken and count <= taken + 1:
        return float("inf")
    few = max(count / (count - taken - 1) - each, 0.0) * taken
    return count * float(np.log(max(error, EXACT))) + each * (constants + complexity) + few
