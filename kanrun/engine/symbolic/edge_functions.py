"""Functions on the edges of a graph: splines, and candidates with their constants.

Both classes are immutable. `value` maps arguments (N,) to values (N,). `evaluate` returns values
(N,), derivatives with respect to the argument (N,), and derivatives with respect to the parameters
of the edge (N, parameters).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import sympy
from scipy.interpolate import BSpline

from kanrun.engine.symbolic.budget import COSTS, LEAST_SQUARES, count_work
from kanrun.engine.symbolic.candidates import CARRY, CONSTANT, Array, Candidate, X, number

CONSTANTS = "abcd"


@dataclass(frozen=True)
class Spline:
    """A spline phi on G equal intervals of [low, high]; outside, it continues as a straight line.

    `parameters` (G + degree,) are its B-spline coefficients.
    """

    low: float
    high: float
    parameters: Array
    degree: int = 3

    #: Name of the candidate, which a spline does not have.
    label: ClassVar[str] = ""

    @classmethod
    def through(
        cls, points: Array, values: Array, ends: tuple[float, float], intervals: int, degree: int
    ) -> Spline:
        """Fit a spline on `intervals` equal intervals between `ends` by least squares.

        The spline is fitted to values (N,) at points (N,). If the points do not determine all
        coefficients, those of minimum norm are returned.
        """
        # Singular values of a fit count as zero if they are below this fraction of the largest.
        rcond = 1e-13
        size = intervals + degree
        count_work(points.size * size * (COSTS.entry + COSTS.product * LEAST_SQUARES * size))
        empty = cls(*ends, np.zeros(size), degree)
        solution = np.linalg.lstsq(empty.evaluate(points)[2], values, rcond=rcond)[0]
        return empty.with_parameters(np.asarray(solution, dtype=np.float64))

    @property
    def intervals(self) -> int:
        return self.parameters.size - self.degree

    @property
    def complexity(self) -> float:
        # Complexity of a spline when formulas are compared; a line has complexity 1.
        return 10.0

    def with_parameters(self, parameters: Array) -> Spline:
        return replace(self, parameters=parameters)

    def scaled(self, factor: float) -> Spline:
        """Return factor * phi."""
        return self.with_parameters(self.parameters * factor)

    def shifted(self, shift: float) -> Spline:
        """Return phi + shift; B-splines sum to one."""
        return self.with_parameters(self.parameters + shift)

    @property
    def knots(self) -> Array:
        """Extended knots: equally spaced, with `degree` knots beyond each end."""
        steps = np.arange(-self.degree, self.intervals + self.degree + 1) / self.intervals
        return self.low + (self.high - self.low) * steps

    def value(self, t: Array) -> Array:
        inside = np.clip(t, self.low, self.high)
        spline = BSpline(self.knots, self.parameters, self.degree)
        beyond = t - inside
        inner = np.asarray(spline(inside))
        return inner + beyond * spline(inside, 1) if beyond.any() else inner

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        inside = np.clip(t, self.low, self.high)
        every = _basis(tuple(self.knots), self.degree)
        basis, slopes = (functions(inside) for functions in every)
        columns = basis + (t - inside)[:, None] * slopes
        return columns @ self.parameters, slopes @ self.parameters, columns

    def refined(self, intervals: int, ends: tuple[float, float]) -> Spline:
        """Return the least-squares approximation of this spline on a new grid.

        The grid consists of `intervals` equal intervals between `ends`.
        """
        # Number of points per coefficient at which a spline is fitted to another spline.
        points_each = 6
        points = np.linspace(*ends, points_each * (intervals + self.degree) + 1)
        return Spline.through(points, self.value(points), ends, intervals, self.degree)


@lru_cache(maxsize=1024)
def _basis(knots: tuple[float, ...], degree: int) -> tuple[BSpline, BSpline]:
    """Return all B-splines on these knots as one vector-valued function, and its derivative."""
    functions = BSpline(np.array(knots), np.eye(len(knots) - degree - 1), degree)
    return functions, functions.derivative()


@dataclass(frozen=True)
class Symbolic:
    """A candidate f with its constants: phi(t) = c f(a t + b) + d.

    Attributes:
        candidate: f.
        constants: a, b, c, d.
        free: Letters of the constants that a fit may change.
        exact: Letters and exact values of the constants that were rounded.
    """

    candidate: Candidate
    constants: tuple[float, float, float, float]
    free: str = CONSTANTS
    exact: tuple[tuple[str, sympy.Expr], ...] = ()

    @property
    def parameters(self) -> Array:
        return np.array([self.constants[CONSTANTS.index(name)] for name in self.free])

    def with_parameters(self, parameters: Array) -> Symbolic:
        return self.changed(**dict(zip(self.free, parameters.tolist(), strict=True)))

    @property
    def complexity(self) -> float:
        return self.candidate.complexity

    @property
    def label(self) -> str:
        """Name of the candidate."""
        return self.candidate.name

    def constant(self, name: str) -> float:
        return self.constants[CONSTANTS.index(name)]

    def value(self, t: Array) -> Array:
        a, b, c, d = self.constants
        return c * self.candidate.value(a * t + b) + d

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        a, b, c, d = self.constants
        argument = a * t + b
        f = self.candidate.value(argument)
        slope = self.candidate.slope(argument)
        columns = {"a": c * slope * t, "b": c * slope, "c": f, "d": np.ones_like(t)}
        chosen = [columns[name] for name in self.free]
        return c * f + d, c * a * slope, np.array(chosen).reshape(len(chosen), t.size).T

    def changed(self, fixed: str = "", **constants: float) -> Symbolic:
        """Return the function with other constants; those named in `fixed` are no longer free."""
        pairs = zip(CONSTANTS, self.constants, strict=True)
        a, b, c, d = (constants.get(name, value) for name, value in pairs)
        free = "".join(name for name in self.free if name not in fixed)
        return replace(self, constants=(a, b, c, d), free=free)

    def expression(self, argument: sympy.Expr = X) -> sympy.Expr:
        """Return c f(a u + b) + d as a sympy expression, for the argument u."""
        exact = dict(self.exact)
        pairs = zip(CONSTANTS, self.constants, strict=True)
        a, b, c, d = (exact.get(name, number(value)) for name, value in pairs)
        if self.candidate is CONSTANT:
            return d
        return c * self.candidate.expression.xreplace({X: a * argument + b}) + d

    def scaled(self, factor: float) -> Symbolic:
        """Return factor * phi."""
        return self.changed(c=self.constants[2] * factor, d=self.constants[3] * factor)

    def shifted(self, shift: float) -> Symbolic:
        """Return phi + shift, with the constant d as a free constant."""
        free = self.free if "d" in self.free else self.free + "d"
        return replace(self, free=free).changed(d=self.constants[3] + shift)

    def allows(self, t: Array) -> bool:
        """Return whether the candidate is defined on the whole range of t, without a pole."""
        a, b, _, _ = self.constants
        ends = np.sort(a * np.array([t.min(), t.max()]) + b)
        return bool(self.candidate.domain.allows(*ends))


def standardised(function: Symbolic) -> Symbolic:
    """Return the same function with its redundant constants in standard form.

    For powers and log, a is 1 or -1; for exp, b is 0; for odd and even functions, a is positive.
    """
    a, b, c, d = function.constants
    candidate = function.candidate
    if candidate is CONSTANT:
        return function
    if "a" not in candidate.free and a != 0.0:
        size = abs(a)
        if candidate.name == "log":
            d += c * float(np.log(size))
        else:
            c *= float(candidate.value(np.array([size]))[0] / candidate.value(np.ones(1))[0])
        a = a / size
        b = b / size
        if candidate.name == "x":
            d = d + c * b
            b = 0.0
    elif "b" not in candidate.free:
        c = c * float(np.exp(b))
        b = 0.0
    if a < 0 and candidate.parity:
        a = -a
        b = -b
        c = c * candidate.parity
    return replace(function, constants=(a, b, c, d))


#: The function of an edge that passes a value unchanged.
IDENTITY_EDGE = Symbolic(CARRY, (1.0, 0.0, 1.0, 0.0), "")


def flat(value: float) -> Symbolic:
    """Return the constant function with this value."""
    return Symbolic(CONSTANT, (1.0, 0.0, 0.0, value), "d")
