"""The plain data that targets are made of; arrays are float64, (points, features), in the user's units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import sympy

    from kanrun.targets.encoding import TableCode

Array = NDArray[np.float64]


def root_mean_square(values: Array, weights: Array | None = None) -> Any:
    """Root of the weighted mean of squares over the first axis, for values of any size."""
    relative, exponent = in_own_units(values)
    return np.ldexp(np.sqrt(np.average(relative**2, 0, weights)), exponent)


def deviation(values: Array) -> Any:
    """The standard deviation over the first axis, for values of any size."""
    relative, exponent = in_own_units(values)
    return np.ldexp(relative.std(axis=0), exponent)


def in_own_units(values: Array) -> tuple[Array, NDArray[np.intp]]:
    """`values` in units of 2^exponent, an exact division after which the largest of each column is from 1 to 2, so that
    squares neither over- nor underflow."""
    exponent = np.frexp(np.abs(values).max(axis=0))[1] - 1
    return np.ldexp(values, -exponent), exponent


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs x (N, d) with outputs y (N, m); `weights` (N,) say how many rows each stands for, None: one.

    Rows with the same number in `groups` (N,) are left out together; with `forward` these numbers are times, and rows
    are left out by those before them.
    """

    x: Array
    y: Array
    weights: Array | None = None
    groups: Array | None = None
    forward: bool = False

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.ndim != 2 or len(self.x) != len(self.y):
            raise ValueError(
                f"x and y must be (N, d) and (N, m), not {self.x.shape} and {self.y.shape}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[np.intp]) -> Points:
        """The points of these rows, in their order."""
        weights, groups = (None if a is None else a[rows] for a in (self.weights, self.groups))
        return Points(self.x[rows], self.y[rows], weights, groups, self.forward)

    @property
    def shares(self) -> Array:
        """The weights, 1 where there are none, (N,)."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def box(self) -> Array:
        """The range of each input, (d, 2)."""
        return np.stack([self.x.min(axis=0), self.x.max(axis=0)], axis=1)


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be learned: a function, or points without a truth between them.

    `domain` is (d, 2): lower and upper end of each input. `function` maps (N, d) to (N, m); `expression` is in
    x0, x1, ... (the inputs in their order) where a formula is known. Without a function, `points` are all that is
    known; those of a table (`is_table`) are split into training and test rows and standardised by the training rows.
    For a classification y is one column with the class index, and `classes` are the labels in that order.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    expression: sympy.Expr | None = None
    function: Callable[[Array], Array] | None = None
    points: Points | None = None
    test: Points | None = None  # of a table whose test rows have a file of their own
    is_table: bool = False
    classes: tuple[str, ...] | None = None
    code: TableCode | None = (
        None  # how the inputs are made of a table's columns, where these are not plain numbers
    )
    notes: tuple[str, ...] = ()  # what to say of a table that was read


@dataclass(frozen=True, eq=False)
class Scaling:
    """(a - shift) / scale, feature by feature; shift and scale are (features,)."""

    shift: Array
    scale: Array

    @staticmethod
    def identity(features: int) -> Scaling:
        return Scaling(np.zeros(features), np.ones(features))

    def plain(self) -> dict[str, Any]:
        """JSON values, for `scaling_from_plain`."""
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    def apply(self, a: Array) -> Array:
        """User's units (..., features) to standardised ones."""
        return (a - self.shift) / self.scale

    def invert(self, a: Array) -> Array:
        """Standardised units (..., features) to the user's."""
        return a * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class PiecewiseScaling:
    """An increasing, piecewise linear map for each feature, constant beyond its first and last point.

    `points` and `values` hold one array per feature: the map takes points[j][i], in the user's units, to values[j][i].
    """

    points: tuple[Array, ...]
    values: tuple[Array, ...]

    def plain(self) -> dict[str, Any]:
        """JSON values, for `scaling_from_plain`."""
        return {
            "points": [a.tolist() for a in self.points],
            "values": [a.tolist() for a in self.values],
        }

    def times(self, exponent: NDArray[np.intp]) -> PiecewiseScaling:
        """The map of a multiplied by 2^exponent (features,)."""
        return PiecewiseScaling(tuple(map(np.ldexp, self.points, exponent)), self.values)

    def apply(self, a: Array) -> Array:
        """User's units (..., features) to the model's."""
        return self._mapped(a, self.points, self.values)

    def invert(self, a: Array) -> Array:
        """The model's units (..., features) to the user's."""
        return self._mapped(a, self.values, self.points)

    @property
    def scale(self) -> Array:
        """The user's units per unit of the model, on average, (features,)."""
        pairs = zip(self.points, self.values, strict=True)
        return np.array([(p[-1] - p[0]) / (v[-1] - v[0]) for p, v in pairs])

    @staticmethod
    def _mapped(a: Array, from_: tuple[Array, ...], to: tuple[Array, ...]) -> Array:
        return np.stack(
            [np.interp(a[..., j], x, y) for j, (x, y) in enumerate(zip(from_, to, strict=True))], -1
        )


def scaling_from_plain(plain: Mapping[str, Any]) -> Scaling | PiecewiseScaling:
    """The scaling of `plain()`. Raises KeyError, TypeError or ValueError for what is none."""
    if "points" in plain:
        points, values = (
            tuple(np.array(a, dtype=np.float64) for a in plain[key]) for key in ("points", "values")
        )
        return PiecewiseScaling(points, values)
    return Scaling(
        np.array(plain["shift"], dtype=np.float64), np.array(plain["scale"], dtype=np.float64)
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points to train on, to select on and to report on, all in the user's units.

    `train` excludes `validation`. Only `train` and a function's domain determine the scalings, which are the identity
    for functions of ordinary size. `notes` are sentences for the user.
    """

    target: Target
    train: Points
    validation: Points | None
    test: Points | None
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The labels of a classification."""
        return self.target.classes

    @property
    def task(self) -> str:
        """ "regression" or "classification"."""
        return "regression" if self.target.classes is None else "classification"
