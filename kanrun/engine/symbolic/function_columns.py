"""The points of a search, and the columns of its regressions: functions F(c z) of monomials z.

Monomials come in the order of their bits. Each function has a grid of scales c that suits the
values of its argument z.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, Domain, X
from kanrun.engine.symbolic.templates import (
    FUNCTION,
    OPERATION,
    Coordinates,
    Factor,
    Monomial,
    take_two_values,
)

#: Relative accuracy of values in the weights of rows: without it few large values decide alone.
RELATIVE = 0.01
#: Denominator of exponents: they are multiples of a half.
EXPONENT_STEPS = 2
#: Values of -c z nearest to 1 in 1 + c z.
_POLES = np.array([0.2, 0.5, 0.8, 0.95, 0.99, 0.9999])
#: Scales of the arguments of waves in natural units.
_NATURAL = np.array([0.5, 1.0, 2.0, 3.0, np.pi, 2 * np.pi])
#: Range in radians from which on the steps of frequencies have one size.
_SLOW = 4.0
#: Size of these steps, from which a fit reaches the next frequency.
_APART = 1.3
#: Range of a fast wave of several inputs, and of one.
FAST = (60.0, 300.0)
#: Functions with periods.
WAVES = ("sin", "cos", "tan")
#: Largest exponent of a monomial.
LARGEST_EXPONENT = 6


@dataclass(frozen=True)
class Sample:
    """Points of a search: coordinates, y (N,), an estimate of its noise, and functions to use."""

    coordinates: Coordinates
    y: Array
    noise: float
    inputs: int
    functions: tuple[Candidate, ...]

    @cached_property
    def log_weights(self) -> Array:
        """Reciprocals of the errors of log |y|, at most 1."""
        size = np.abs(self.y)
        if not self.noise:
            return np.where(size > 0, 1.0, 0.0)
        noise = min(self.noise, 0.1 * float(np.std(self.y)))
        seen = size > 2 * noise
        if seen.sum() < 50:
            seen = size >= np.sort(size)[-min(50, len(size))]
        return np.where(seen, RELATIVE * size / np.sqrt(noise**2 + (RELATIVE * size) ** 2), 0.0)

    @cached_property
    def log_y(self) -> Array:
        size = np.abs(self.y)
        return np.log(np.maximum(size, 1e-3 * self.noise + 1e-300))

    @cached_property
    def base(self) -> Array:
        """Weighted logarithms of the inputs and a constant, (N, inputs + 1)."""
        logs = self.coordinates.logs[: self.inputs]
        return np.column_stack([np.ones(len(self.y)), *logs]) * self.log_weights[:, None]

    @cached_property
    def orthonormal(self) -> Array:
        """Orthonormal basis of the base."""
        u, s, _ = np.linalg.svd(self.base, full_matrices=False)
        return np.asarray(u[:, s > 1e-9 * s[0]])

    def projected(self, columns: Array) -> Array:
        """Return what the base leaves of columns (N, columns)."""
        count_work(2 * COSTS.product * columns.size * self.orthonormal.shape[1])
        return columns - self.orthonormal @ (self.orthonormal.T @ columns)


def _function(name: str, expression: sympy.Expr, bits: float) -> Candidate:
    return Candidate(name, expression, bits, "a", Domain())


ONE_PLUS = _function("1+x", 1 + X, OPERATION + 1)
SINE = _function("sin", sympy.sin(X), FUNCTION)
COSINE = _function("cos", sympy.cos(X), FUNCTION)
#: Functions of products by the candidates that they are made of.
_MADE: dict[str, tuple[Candidate, ...]] = {
    "exp": (
        _function("exp", sympy.exp(X), FUNCTION),
        _function("exp-1", sympy.exp(X) - 1, FUNCTION + OPERATION + 1),
        _function("exp+1", sympy.exp(X) + 1, FUNCTION + OPERATION + 1),
    ),
    "sin": (SINE, COSINE),
    "cos": (SINE, COSINE),
    "tan": (_function("tan", sympy.tan(X), FUNCTION),),
    "tanh": (_function("tanh", sympy.tanh(X), FUNCTION),),
    "log": (
        _function("log", sympy.log(X), FUNCTION),
        _function("log(1+x)", sympy.log(1 + X), FUNCTION + OPERATION + 1),
    ),
    "arcsin": (_function("arcsin", sympy.asin(X), FUNCTION),),
    "arccos": (_function("arccos", sympy.acos(X), FUNCTION),),
}


def functions_for(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the functions of products that are made of the candidates, those of users included."""
    names = {each.name for each in candidates}
    own = [each for each in candidates if each.name not in TABLE]
    made = [each for name, functions in _MADE.items() if name in names for each in functions]
    return tuple(dict.fromkeys((ONE_PLUS, *made, *own)))


def monomials(
    coordinates: Coordinates,
    cap: int,
    largest: int = 3,
    halves: bool = False,
    members: int = 5,
    waves: bool = True,
    without: frozenset[int] = frozenset(),
) -> list[Monomial]:
    """Return the `cap` simplest monomials of the atoms, each input at most once, simplest first.

    They are subsets of at most `members` powers of atoms. In the order of their bits, the next ones
    after a subset are those with one more power, and with the next power in place of its last one.
    """
    exponents = [Fraction(p) for e in range(1, largest + 1) for p in (e, -e)]
    exponents += [Fraction(p, 2) for p in (1, -1)] if halves else []
    powers = sorted(
        (coordinates.bits(((i, p),)), i, p)
        for i, atom in enumerate(coordinates.atoms)
        for p in exponents
        if coordinates.allows(((i, p),))
        and not atom.inputs & without
        and (waves or atom.is_algebraic)
    )
    found: list[Monomial] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(powers[0][0], (0,))] if powers else []
    while waiting and len(found) < cap:
        bits, chosen = heapq.heappop(waiting)
        last = chosen[-1] + 1
        members_of = [coordinates.atoms[powers[k][1]].inputs for k in chosen]
        is_product = sum(map(len, members_of)) == len(frozenset().union(*members_of))
        if is_product:
            found.append(tuple(sorted((powers[k][1], powers[k][2]) for k in chosen)))
        if last < len(powers):
            step = powers[last][0]
            heapq.heappush(waiting, (bits + step - powers[last - 1][0], (*chosen[:-1], last)))
            if is_product and len(chosen) < members:
                heapq.heappush(waiting, (bits + step + OPERATION, (*chosen, last)))
    return found


def arguments(coordinates: Coordinates, cap: int, waves: bool = True) -> list[Monomial]:
    """Return those of the `cap` simplest monomials of which functions are more than lines."""
    every = monomials(coordinates, cap, waves=waves)
    return [each for each in every if not take_two_values(coordinates.value(each))]


def scales(
    function: Candidate, z: Array, size: float, middle: float, fastest: float = FAST[0]
) -> Array:
    """Return the scales of z (N,) that are tried in a function.

    `size` and `middle` are the largest and the median absolute value of z, `fastest` the largest
    range of waves in radians.
    """
    low = float(z.min())
    high = float(z.max())
    if function is ONE_PLUS:
        up = np.geomspace(0.1 / size, 10 / middle, 9)
        down = [-_POLES / high] if high > 0 else []
        down += [-_POLES / low, -up] if low < 0 else []
        return np.concatenate([up, *([-up] if high <= 0 else []), *down])
    if function.name in WAVES:
        turns = np.geomspace(0.3, 3, 12 if function.name != "tan" else 8)
        if function.name != "tan":
            turns = np.concatenate([turns, np.arange(_SLOW, fastest, _APART)])
        return np.concatenate([turns / (high - low), _NATURAL[_NATURAL * (high - low) < fastest]])
    if function.name in ("arcsin", "arccos"):
        return np.array([0.3, 0.6, 0.9, 0.99, 0.9999]) / size
    if function.name in ("exp-1", "exp+1", "tanh"):
        grid = np.geomspace(1 / size, 8 / middle, 10)
        return np.concatenate([grid, -grid]) if function.name == "exp+1" else grid
    grid = np.geomspace(0.1 / size, 10 / middle, 9)
    return np.concatenate([[1.0, -1.0], grid, -grid])


@dataclass(frozen=True)
class Column:
    """log |F(scale z)| of a monomial z; without a function log |z|; linear for exp."""

    function: Candidate | None
    monomial: Monomial
    scale: float

    @property
    def is_exponential(self) -> bool:
        return self.function is not None and self.function.name == "exp"

    def factor(self, power: float) -> Factor | None:
        """Return the factor of this column with this coefficient, or None for a plain monomial."""
        if self.function is None:
            return None
        if self.is_exponential:
            return Factor(self.function, self.monomial, Fraction(1), power * self.scale)
        return Factor(self.function, self.monomial, halves(power), self.scale)


def halves(value: float, steps: int = EXPONENT_STEPS) -> Fraction:
    """Return the nearest multiple of a half."""
    return Fraction(
        round(float(np.clip(value, -LARGEST_EXPONENT, LARGEST_EXPONENT)) * steps), steps
    )


def log_columns(function: Candidate, z: Array, grid: Array) -> Array:
    """Return log |F(c z)| (N, scales) for the scales c of a grid; nan where it is not defined."""
    with np.errstate(all="ignore"):
        values = function.value(np.multiply.outer(z, grid))
        return np.asarray(np.log(np.abs(values)))


def gains_of_pairs(gram: Array, first: Array, second: Array, largest: float) -> Array:
    """Return the sum of squares that each pair of columns of length 1 explains, shape (M, L).

    Args:
        gram: Products of the columns with each other, shape (M, L).
        first: Products of the M columns with the target.
        second: Products of the L columns with the target.
        largest: Size of a product from which on two columns count as one, which explains -1.
    """
    a = first[:, None]
    b = second[None, :]
    with np.errstate(all="ignore"):
        gain = (a**2 + b**2 - 2 * a * b * gram) / (1 - gram**2)
    gain[~(np.abs(gram) < largest)] = -1
    return np.asarray(gain)
