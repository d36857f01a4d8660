"""Space grids of reference solutions: their derivatives, and the conditions at their ends."""

from __future__ import annotations

import numpy as np
import sympy
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import fft

from kanrun.engine.equations import System
from kanrun.formulas.equations import Relation

Array = NDArray[np.float64]


def value_of(relation: Relation, points: Array) -> Array:
    """The value that a relation linear in its one derivative gives it at points."""
    zeros = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    slope = relation.slopes(zeros)[:, 0]
    return np.asarray(-relation.residual(zeros) / slope)


class Ring:
    """A periodic space grid: derivatives by the discrete Fourier transform."""

    band: int | None = None

    def __init__(self, low: float, high: float, nodes: int) -> None:
        self.x = low + (high - low) * np.arange(nodes) / nodes
        self._wave = 2j * np.pi * fft.rfftfreq(nodes, d=(high - low) / nodes)

    @classmethod
    def over(cls, system: System, nodes: int) -> Ring:
        low, high = system.box[0].tolist()
        return cls(low, high, nodes)

    def derivative(self, values: Array, order: int) -> Array:
        return values if order == 0 else np.asarray(fft.irfft(self._wave**order * fft.rfft(values), n=len(values)))

    def filled(self, values: Array, t: float) -> Array:
        return values

    def fix(self, slopes: Array) -> None:
        """Nothing: all nodes move."""

    def closed(self, values: Array) -> Array:
        return np.append(values, values[0])


class Chebyshev:
    """A space grid of Chebyshev's points with one condition, on the value or the slope, at each end."""

    band: int | None = None

    def __init__(self, low: float, high: float, nodes: int, ends: list[Relation], even: int) -> None:
        points = -np.cos(np.pi * np.arange(nodes) / (nodes - 1))
        self.x = low + (points + 1) / 2 * (high - low)
        self._ends = ends
        inverse = np.linalg.inv(chebyshev.chebvander(points, nodes - 1))
        self._even = chebyshev.chebvander(np.linspace(-1, 1, even), nodes - 1) @ inverse
        self._matrices = [
            chebyshev.chebvander(points, nodes - 1 - order)
            @ chebyshev.chebder(np.eye(nodes), order) @ inverse * (2 / (high - low)) ** order
            for order in range(1, 5)
        ]  # fmt: skip

    def derivative(self, values: Array, order: int) -> Array:
        return values if order == 0 else np.asarray(self._matrices[order - 1] @ values)

    def filled(self, values: Array, t: float) -> Array:
        """The values with those at the ends as their conditions say."""
        values = values.copy()
        slope, sides = self._matrices[0], [0, -1]
        rows, right = np.eye(2), np.zeros(2)
        for i, relation in enumerate(self._ends):
            right[i] = value_of(relation, np.array([[self.x[sides[i]], t]]))[0]
            if relation.derivatives[0].index != (0, 0):
                rows[i] = slope[sides[i], sides]
                right[i] -= slope[sides[i], 1:-1] @ values[1:-1]
        if self._ends:
            values[sides] = np.linalg.solve(rows, right)
        return values

    def fix(self, slopes: Array) -> None:
        """Nodes at ends with conditions do not move by the equation."""
        if self._ends:
            slopes[[0, -1]] = 0.0

    def closed(self, values: Array) -> Array:
        return np.asarray(self._even @ values)


class Walls:
    """A space grid with one condition, on the value or the slope, at each end; differences over seven nodes.

    An unknown without derivatives in space has no conditions and no fixed nodes.
    """

    band = 7

    def __init__(self, low: float, high: float, nodes: int, ends: list[Relation]) -> None:
        self.x = np.linspace(low, high, nodes)
        self._ends = ends
        self._step = (high - low) / (nodes - 1)
        self._weights = {order: _difference_weights(order) for order in range(1, 5)}

    def derivative(self, values: Array, order: int) -> Array:
        if order == 0:
            return values
        inside, left = self._weights[order]
        result = np.empty_like(values)
        result[3:-3] = np.convolve(values, inside[::-1], mode="valid")
        for i in range(3):
            result[i] = left[i] @ values[:7]
            result[-1 - i] = (-1) ** order * (left[i] @ values[:-8:-1])
        return result / self._step**order

    def filled(self, values: Array, t: float) -> Array:
        """The values with those at the ends as their conditions say."""
        values = values.copy()
        left = self._weights[1][1][0] / self._step
        for end, relation in zip((0, -1), self._ends, strict=False):
            wanted = float(value_of(relation, np.array([[self.x[end], t]]))[0])
            if relation.derivatives[0].index == (0, 0):
                values[end] = wanted
            else:
                sign = 1.0 if end == 0 else -1.0
                near = values[1:7] if end == 0 else values[-2:-8:-1]
                values[end] = (sign * wanted - left[1:] @ near) / left[0]
        return values

    def fix(self, slopes: Array) -> None:
        """Nodes at ends with conditions do not move by the equation."""
        if self._ends:
            slopes[[0, -1]] = 0.0

    def closed(self, values: Array) -> Array:
        return values


def _difference_weights(order: int) -> tuple[Array, Array]:
    """Weights of seven nodes at unit distance for a derivative at the middle node, and at the first three."""
    nodes = np.arange(7.0)
    rows = []
    for at in (3.0, 0.0, 1.0, 2.0):
        powers = np.vander(nodes - at, 7, increasing=True).T
        rows.append(np.linalg.solve(powers, np.eye(7)[order] * float(sympy.factorial(order))))
    return rows[0], np.stack(rows[1:])
