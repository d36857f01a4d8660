"""The table of candidate functions for edges.

A candidate is a sympy expression f in x0, together with its domain. It is fitted to an edge as
c f(a x + b) + d. The NumPy function and the derivative of a candidate are generated from the
expression. Some of the constants a, b, c, d are redundant: for powers, the scale a can be absorbed
in c; for exp, the shift b in c; for log, the scale a in d. `free` names the constants that are not
redundant; the others stay fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.config.registry import CANDIDATES
from kanrun.errors import UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse, variable

Array = NDArray[np.float64]
Numeric = Callable[[Array], Array]

X = variable("x0")


@dataclass(frozen=True)
class Domain:
    """Open interval (low, high) in which the argument of a candidate must lie.

    If `period` is given, the function also has poles at `pole` plus all multiples of `period`, and
    the range of the argument must not contain a pole.
    """

    low: float = -np.inf
    high: float = np.inf
    pole: float = 0.0
    period: float | None = None

    def allows(self, low: Array | float, high: Array | float) -> NDArray[np.bool_]:
        """Return whether each interval [low, high] is inside the domain and contains no pole."""
        inside = np.isfinite(low) & np.isfinite(high) & (low >= self.low) & (high <= self.high)
        if self.period is None:
            return np.asarray(inside)
        with np.errstate(all="ignore"):
            turns = np.floor((np.stack([low, high]) - self.pole) / self.period)
        return np.asarray(inside & (turns[0] == turns[1]))


@dataclass(frozen=True)
class Candidate:
    """A function f that is fitted to edges as c f(a x + b) + d.

    Attributes:
        name: Name of the function in settings and tables.
        expression: f as a sympy expression in x0.
        complexity: Penalty for f when formulas are compared; 1 for f(x) = x.
        free: Letters of the constants a, b, c, d that are not redundant.
        domain: Arguments at which f is defined.
    """

    name: str
    expression: sympy.Expr
    complexity: float
    free: str = "abcd"
    domain: Domain = Domain()

    @cached_property
    def value(self) -> Numeric:
        return _numeric(self.expression)

    @cached_property
    def slope(self) -> Numeric:
        return _numeric(sympy.diff(self.expression, X))

    @cached_property
    def parity(self) -> int:
        """1 if f is even, -1 if f is odd, otherwise 0.

        For an even or odd function, only positive scales a need to be tried.
        """
        mirrored = self.expression.xreplace({X: -X})
        return int(mirrored == self.expression) - int(mirrored == -self.expression)

    @property
    def homogeneous(self) -> bool:
        """True if f(s x) = s^p f(x) for all s > 0, so that the argument needs no scale."""
        return "a" not in self.free and self.name != "log"


@lru_cache(maxsize=512)
def _numeric(expression: sympy.Expr) -> Numeric:
    function = to_numpy(expression, ["x0"])

    def value(x: Array) -> Array:
        return function(x.reshape(-1, 1)).reshape(x.shape)

    return value


def number(value: float) -> sympy.Expr:
    """Return `value` as a sympy number: an Integer if it is -1, 0 or 1, otherwise a Float."""
    return sympy.Integer(int(value)) if value in _WHOLE else sympy.Float(value, DIGITS)


def combination(factors: Sequence[float] | Array, terms: Sequence[sympy.Expr]) -> sympy.Expr:
    """Return the linear combination of `terms` with the coefficients `factors`."""
    return sympy.Add(
        *(number(float(factor)) * term for factor, term in zip(factors, terms, strict=True))
    )


def input_names(count: int) -> list[str]:
    """Return the names x0, x1, ... of `count` inputs."""
    return [f"x{i}" for i in range(count)]


def input_symbols(count: int) -> list[sympy.Symbol]:
    """Return the sympy symbols x0, x1, ... of `count` inputs."""
    return [variable(name) for name in input_names(count)]


def apart(product: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Split a product into its constant factor and the rest."""
    return product.as_independent(*product.free_symbols, as_Add=False)  # type: ignore[no-any-return]


#: Smallest divisor. A divisor that could be zero is replaced by the larger of itself and this.
TINY = 1e-300
#: Number of decimal digits with which a float64 is written in an expression.
DIGITS = 17
#: Numbers that become integers in an expression.
_WHOLE = (-1.0, 0.0, 1.0)

#: Domain of roots and logarithms.
_POSITIVE = Domain(low=0.0)
#: Domain of arcsin, arccos and arctanh.
_UNIT = Domain(-1.0, 1.0)
#: Domain of reciprocals; the period is so large that 0 is the only pole.
_NONZERO = Domain(period=1e300)

TABLE: dict[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        Candidate("0", sympy.Integer(0), 0.0, "d"),
        Candidate("x", X, 1.0, "cd"),
        Candidate("x^2", X**2, 2.0, "bcd"),
        Candidate("x^3", X**3, 3.0, "bcd"),
        Candidate("x^4", X**4, 3.5, "bcd"),
        Candidate("x^5", X**5, 4.0, "bcd"),
        Candidate("1/x", 1 / X, 2.0, "bcd", _NONZERO),
        Candidate("1/x^2", 1 / X**2, 3.0, "bcd", _NONZERO),
        Candidate("sqrt", sympy.sqrt(X), 2.0, "bcd", _POSITIVE),
        Candidate("1/sqrt", 1 / sympy.sqrt(X), 3.0, "bcd", _POSITIVE),
        Candidate("exp", sympy.exp(X), 2.0, "acd"),
        Candidate("log", sympy.log(X), 2.0, "bcd", _POSITIVE),
        Candidate("sin", sympy.sin(X), 2.0),
        Candidate("cos", sympy.cos(X), 2.0),
        Candidate("tan", sympy.tan(X), 3.0, domain=Domain(pole=np.pi / 2, period=np.pi)),
        Candidate("tanh", sympy.tanh(X), 3.0),
        Candidate("sigmoid", 1 / (1 + sympy.exp(-X)), 3.0),
        Candidate("arcsin", sympy.asin(X), 3.5, domain=_UNIT),
        Candidate("arccos", sympy.acos(X), 3.5, domain=_UNIT),
        Candidate("arctan", sympy.atan(X), 3.5),
        Candidate("arcsinh", sympy.asinh(X), 3.5),
        Candidate("arctanh", sympy.atanh(X), 3.5, domain=_UNIT),
        Candidate("abs", sympy.Abs(X), 3.0, "bcd"),
        Candidate("gaussian", sympy.exp(-(X**2)), 3.5),
        Candidate("cosh", sympy.cosh(X), 4.0),
        Candidate("j0", sympy.besselj(0, X), 5.0),
    )
}
"""Candidates by name.

With other constants, tanh, arcsin and sin equal sigmoid, arccos and cos, so only one function of
each pair is fitted to edges (see `TWINS`).
"""

#: Pairs of functions that differ only by constants. If both are candidates, only the second one is
#: fitted to edges.
TWINS = {"sigmoid": "tanh", "arccos": "arcsin", "cos": "sin"}

#: The candidate x.
IDENTITY = TABLE["x"]
#: The candidate 0. Its only free constant is the shift d, so it is a constant function.
CONSTANT = TABLE["0"]
#: The identity, for edges that pass a value unchanged. It is never fitted to an edge and adds no
#: complexity.
CARRY = Candidate("=", X, 0.0, "")


@lru_cache(maxsize=64)
def power(exponent: int | Fraction | sympy.Rational) -> Candidate:
    """Return the candidate x^exponent, from the table if it is there, otherwise a new candidate."""
    # Complexity of powers that are not in the table, to which a term for the exponent is added.
    power_size = 2.5
    p = sympy.Rational(exponent)
    found = next((each for each in TABLE.values() if each.expression == X**p), None)
    if found is not None:
        return found
    size = power_size + float(abs(p)) / 4 + (int(bool(p < 0)) + p.q - 1) / 2
    domain = Domain(low=0.0) if p.q > 1 else _NONZERO if p < 0 else Domain()
    return Candidate(f"x^{p}", X**p, size, "bcd", domain)


def search_grid(candidate: Candidate) -> Array:
    """Return the pairs (a, b) for which f(a tau + b) is compared with an edge.

    tau is the argument of the edge, scaled to [-1, 1]. Constants that are redundant for f have a
    single value.

    Returns:
        Array of shape (pairs, 2).
    """
    domain = candidate.domain
    if "a" not in candidate.free and (domain.low == 0.0 or domain.period):
        a = _SIGNS
        b = _BEYOND_POLES
    elif "a" not in candidate.free:
        a = np.ones(1)
        b = _SHIFTS
    elif "b" not in candidate.free:
        a = np.multiply.outer(_SIGNS, _RATES).ravel()
        b = np.zeros(1)
    elif candidate.name in ("sin", "cos"):
        a = _FREQUENCIES
        b = _PHASES
    else:
        sizes = np.multiply.outer(_SIGNS[: 1 if candidate.parity else 2], _SCALES)
        return np.array([(k, -k * centre) for k in sizes.ravel() for centre in _CENTRES])
    return np.array(list(itertools.product(a, b)))


#: Number of equally spaced arguments at which candidates are compared with an edge.
GRID_STEPS = 81
#: Shifts and centres that are tried outside the range [-1, 1] of the scaled argument tau.
_FAR = (-5.0, -3.0, -2.0, 2.0, 3.0, 5.0)
#: Signs of arguments on the grid.
_SIGNS = np.array([1.0, -1.0])
#: Distances from the middle of the argument's range, in units of half the range, at which a pole or
#: the end of a domain is tried.
_BEYOND_POLES = 1 + np.logspace(-4, 1.5, 40)
_SHIFTS = np.concatenate([np.linspace(-1.5, 1.5, 31), _FAR])
_RATES = np.logspace(-1.5, 1.3, 60)
_FREQUENCIES = np.concatenate([(0.25, 0.5, 0.75), np.arange(1.0, 30.0, 0.4)])
_PHASES = np.arange(8) * np.pi / 8
#: Scales of the functions that have no special rule in `search_grid`.
_SCALES = np.logspace(-1, 1.5, 22)
#: Centres of the functions that have no special rule in `search_grid`.
_CENTRES = np.concatenate([np.linspace(-1.5, 1.5, 25), _FAR])


@lru_cache(maxsize=64)
def grid_values(candidate: Candidate) -> tuple[Array, Array]:
    """Return the pairs (a, b) of the search grid, and the values f(a tau + b).

    Pairs are left out if f(a tau + b) is not defined for all tau in [-1, 1].

    Returns:
        The pairs, shape (pairs, 2), and the values at equally spaced tau in [-1, 1], shape
        (pairs, GRID_STEPS).
    """
    grid = search_grid(candidate)
    ends = np.sort(np.stack([grid[:, 1] - grid[:, 0], grid[:, 1] + grid[:, 0]]), axis=0)
    grid = grid[candidate.domain.allows(*ends)]
    with np.errstate(all="ignore"):
        f = candidate.value(grid[:, :1] * np.linspace(-1, 1, GRID_STEPS) + grid[:, 1:])
    usable = np.isfinite(f).all(axis=1)
    return grid[usable], f[usable]


#: Arguments at which a user's function is evaluated to find its domain.
_PROBES = np.linspace(-8.0, 8.0, 4001)


def choose(
    names: Sequence[str] | None, own: Mapping[str, str] | None = None
) -> tuple[Candidate, ...]:
    """Return the candidates with these names, followed by the user's functions.

    Args:
        names: Names of candidates of the table or of plug-ins; None means all of them.
        own: The user's functions, as a mapping from names to formulas in x0.

    Raises:
        UsageError: If a name is unknown, if a user's function has the name of a candidate, if a
            formula is not a function of x0 alone, or if only the constant function would be left.
    """
    declared = dict(CANDIDATES)
    own = own or {}
    known = [*TABLE, *declared]
    chosen = known if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            every = ", ".join(known)
            raise UsageError(f"candidates has {name!r}, which is not in the table: {every}.")
    for name in own:
        if name in known:
            raise UsageError(
                f"custom_candidates.{name} would replace a candidate of the table. "
                "Choose another name."
            )
    result = [TABLE[name] for name in chosen if name in TABLE]
    added = [(name, declared[name]) for name in chosen if name in declared]
    for name, formula in [*added, *own.items()]:
        expression = parse(formula, ["x0"])
        if expression.free_symbols != {X}:
            what = f"custom_candidates.{name}" if name in own else f"The plug-in's candidate {name}"
            raise UsageError(f"{what}={formula} must be a function of x0.")
        # Poles between the first and the last finite value are found later, when the function is
        # fitted to an edge.
        finite = np.isfinite(_numeric(expression)(_PROBES))
        inside = _PROBES[finite] if finite.any() else _PROBES
        low = -np.inf if inside[0] == _PROBES[0] else float(inside[0])
        high = np.inf if inside[-1] == _PROBES[-1] else float(inside[-1])
        size = 1.0 + float(sympy.count_ops(expression))
        result.append(Candidate(name, expression, size, domain=Domain(low, high)))
    if not any(candidate is not CONSTANT for candidate in result):
        raise UsageError(
            "No candidate is left. Name at least one function in candidates or custom_candidates."
        )
    return tuple(result)
