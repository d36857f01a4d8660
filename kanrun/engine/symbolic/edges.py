"""The functions that edges of a graph carry: a spline, a candidate with its constants, or nothing.

All are immutable and numpy in, numpy out: values (N,), slopes (N,), and columns (N, size), the derivatives in the
edge's own parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.interpolate import BSpline, PPoly

from kanrun.engine.symbolic.candidates import CONSTANT, Array, Candidate, X, number

CONSTANTS = "abcd"


@runtime_checkable
class EdgeFunction(Protocol):
    """What a graph asks of the function on an edge."""

    @property
    def parameters(self) -> Array: ...

    def with_parameters(self, parameters: Array) -> EdgeFunction: ...

    def value(self, t: Array) -> Array: ...

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        """Values, slopes and columns at t."""


@dataclass(frozen=True)
class Identity:
    """phi(t) = t: carries a node's value on as it is."""

    @property
    def parameters(self) -> Array:
        return np.zeros(0)

    def with_parameters(self, parameters: Array) -> Identity:
        return self

    def value(self, t: Array) -> Array:
        return t

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        return t, np.ones_like(t), np.zeros((t.size, 0))


@dataclass(frozen=True)
class Spline:
    """A spline of `degree` with coefficients (G + degree,) on G equal intervals of [low, high], linear beyond."""

    low: float
    high: float
    parameters: Array
    degree: int = 3

    @classmethod
    def through(
        cls, points: Array, values: Array, ends: tuple[float, float], intervals: int, degree: int
    ) -> Spline:
        """The spline on `intervals` equal intervals between `ends` that is nearest to values (N,) at points (N,), by
        least squares; coefficients that no point determines are as small as can be."""
        empty = cls(*ends, np.zeros(intervals + degree), degree)
        design = empty.evaluate(points)[2]
        return empty.with_parameters(
            np.asarray(np.linalg.lstsq(design, values, rcond=1e-13)[0], dtype=np.float64)
        )

    @property
    def intervals(self) -> int:
        return self.parameters.size - self.degree

    def with_parameters(self, parameters: Array) -> Spline:
        return replace(self, parameters=parameters)

    def scaled(self, factor: float) -> Spline:
        """factor * phi."""
        return self.with_parameters(self.parameters * factor)

    def shifted(self, shift: float) -> Spline:
        """phi + shift: B-splines sum to one."""
        return self.with_parameters(self.parameters + shift)

    def value(self, t: Array) -> Array:
        powers, beyond, start = self._located(t)
        local = self.parameters[start[:, None] + np.arange(self.degree + 1)]
        matrix, slope_matrix = _pieces(self.degree)
        value = np.einsum("np,np->n", powers @ matrix, local)
        if beyond.any():
            value += (
                beyond
                * (self.intervals / (self.high - self.low))
                * np.einsum("np,np->n", powers @ slope_matrix, local)
            )
        return np.asarray(value)

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        basis, slopes, start = self.basis(t)
        index = start[:, None] + np.arange(self.degree + 1)
        local = self.parameters[index]
        values, slope = np.einsum("np,np->n", basis, local), np.einsum("np,np->n", slopes, local)
        dense = np.zeros((t.size, self.parameters.size))
        np.put_along_axis(dense, index, basis, axis=1)
        return values, slope, dense

    def basis(self, t: Array) -> tuple[Array, Array, NDArray[np.int64]]:
        """Local basis (N, k + 1), its slopes, and the first function that counts."""
        powers, beyond, start = self._located(t)
        matrix, slope_matrix = _pieces(self.degree)
        basis, slopes = (
            powers @ matrix,
            (powers @ slope_matrix) * (self.intervals / (self.high - self.low)),
        )
        if beyond.any():
            basis = basis + beyond[:, None] * slopes
        return basis, slopes, start

    def _located(self, t: Array) -> tuple[Array, Array, NDArray[np.int64]]:
        """Powers (N, k + 1) of the place within an interval, how far t is beyond the grid, and the interval."""
        clipped = np.clip(np.nan_to_num(t, nan=self.low), self.low, self.high)
        at = (clipped - self.low) * (self.intervals / (self.high - self.low))
        start = np.minimum(at.astype(np.int64), self.intervals - 1)
        powers = np.empty((t.size, self.degree + 1))
        powers[:, 0], within = 1.0, at - start
        for k in range(self.degree):
            powers[:, k + 1] = powers[:, k] * within
        return powers, t - clipped, start  # nan stays nan

    def refined(
        self, intervals: int, low: float | None = None, high: float | None = None
    ) -> Spline:
        """The nearest spline on another grid, by least squares on points of this one."""
        low, high = self.low if low is None else low, self.high if high is None else high
        points = np.linspace(low, high, 6 * (intervals + self.degree) + 1)
        return Spline.through(points, self.value(points), (low, high), intervals, self.degree)


@lru_cache(maxsize=8)
def _pieces(degree: int) -> tuple[Array, Array]:
    """Row p, column i: coefficient of u^p in the i-th local basis function, and in its derivative."""
    element: Any = BSpline.basis_element(np.arange(degree + 2.0), extrapolate=False)
    piecewise = PPoly.from_spline(element)
    pieces = (
        piecewise.c[::-1, -(degree + 1) - degree : piecewise.c.shape[1] - degree]
        if degree
        else piecewise.c[::-1]
    )
    matrix = np.ascontiguousarray(pieces[:, ::-1])
    slopes = np.zeros_like(matrix)
    slopes[:-1] = matrix[1:] * np.arange(1, degree + 1)[:, None]
    return matrix, slopes


@dataclass(frozen=True)
class Symbolic:
    """phi(t) = c f(a t + b) + d; `free` names those of a, b, c, d that a fit may move, `exact` those that were
    rounded, with the number that they are."""

    candidate: Candidate
    constants: tuple[float, float, float, float]
    free: str = CONSTANTS
    exact: tuple[tuple[str, sympy.Expr], ...] = ()

    @property
    def parameters(self) -> Array:
        return np.array([self.constants[CONSTANTS.index(name)] for name in self.free])

    def with_parameters(self, parameters: Array) -> Symbolic:
        return self.changed(**dict(zip(self.free, parameters.tolist(), strict=True)))

    def value(self, t: Array) -> Array:
        a, b, c, d = self.constants
        return c * self.candidate.value(a * t + b) + d

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        a, b, c, d = self.constants
        argument = a * t + b
        f, slope = self.candidate.value(argument), self.candidate.slope(argument)
        columns = np.empty((t.size, len(self.free)))
        for i, name in enumerate(self.free):
            columns[:, i] = (
                c * slope * t
                if name == "a"
                else c * slope
                if name == "b"
                else f
                if name == "c"
                else 1.0
            )
        return c * f + d, c * a * slope, columns

    def changed(self, fixed: str = "", **constants: float) -> Symbolic:
        """The function with some constants changed, those named in `fixed` no longer free."""
        values = dict(zip(CONSTANTS, self.constants, strict=True)) | constants
        free = "".join(name for name in self.free if name not in fixed)
        return Symbolic(
            self.candidate, (values["a"], values["b"], values["c"], values["d"]), free, self.exact
        )

    def expression(self, argument: sympy.Expr = X) -> sympy.Expr:
        """c f(a u + b) + d of the argument u."""
        exact = dict(self.exact)
        a, b, c, d = (
            exact.get(name, number(value))
            for name, value in zip(CONSTANTS, self.constants, strict=True)
        )
        if self.candidate is CONSTANT:
            return d
        return c * self.candidate.expression.xreplace({X: a * argument + b}) + d

    def scaled(self, factor: float) -> Symbolic:
        """factor * phi."""
        return self.changed(c=self.constants[2] * factor, d=self.constants[3] * factor)

    def shifted(self, shift: float) -> Symbolic:
        """phi + shift, with a free constant."""
        free = self.free if "d" in self.free else self.free + "d"
        return replace(self, free=free).changed(d=self.constants[3] + shift)

    def allows(self, t: Array) -> bool:
        """Whether the candidate is defined on the whole range of t, without a pole inside."""
        a, b, _, _ = self.constants
        ends = sorted((a * float(t.min()) + b, a * float(t.max()) + b))
        return self.candidate.domain.allows(ends[0], ends[1])
