"""The plain data that targets are made of; arrays are float64, (points, features), in the user's units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Target:
    """A function to learn, or the columns of a table.

    `domain` is (d, 2): lower and upper end of each input. `expression` is in x0, x1, ... (the inputs in their
    order) where a formula is known; `function` maps (N, d) to (N, m) where there is a truth at every point.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    expression: sympy.Expr | None
    function: Callable[[Array], Array] | None


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs x (N, d) with outputs y (N, m)."""

    x: Array
    y: Array

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.ndim != 2 or len(self.x) != len(self.y):
            raise ValueError(f"x and y must be (N, d) and (N, m), not {self.x.shape} and {self.y.shape}")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[np.intp]) -> Points:
        """The points of these rows, in their order."""
        return Points(self.x[rows], self.y[rows])


@dataclass(frozen=True, eq=False)
class Scaling:
    """(a - shift) / scale, feature by feature; shift and scale are (features,)."""

    shift: Array
    scale: Array

    @staticmethod
    def identity(features: int) -> Scaling:
        return Scaling(np.zeros(features), np.ones(features))

    def apply(self, a: Array) -> Array:
        """User's units (..., features) to standardised ones."""
        return (a - self.shift) / self.scale

    def invert(self, a: Array) -> Array:
        """Standardised units (..., features) to the user's."""
        return a * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points to train on, to select on and to report on.

    All are in the user's units. `train` excludes `validation`; only `train` and a function's domain made the scalings,
    which are the identity for functions of ordinary size. For task "classification" y is one column with the class
    index and `classes` are the labels in that order. `notes` are sentences for the user.
    """

    target: Target
    train: Points
    validation: Points | None
    test: Points | None
    input_scaling: Scaling
    output_scaling: Scaling
    task: str = "regression"
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
