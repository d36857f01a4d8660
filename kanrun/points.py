"""Points and the scalings between their units and those of a model.

Arrays are float64, (points, features).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
