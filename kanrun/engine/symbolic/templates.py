"""Hypotheses of the search, the fit of their constants, and their description length in bits.

A template is M g^-1((a_1 t_1 + a_2 t_2 + ...) / (1 + b_1 s_1 + ...)): g transforms the output, the
terms M, t and s are products of powers of coordinates and of functions F(c z) of monomials z. Its
price is the bits of its structure, of each constant at the precision that the points support, and
of the residuals, whose size is at least that of rounding: exact points are noise of that size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.linalg import qr

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate, input_symbols, number

#: Bits of an operation of a formula.
OPERATION = 2.5
#: Bits of a function of a formula.
FUNCTION = 4.0
#: Bits of a half in an exponent.
_HALF = 3.0
#: Root mean square error, relative to the size of y, that counts as rounding.
ROUNDING = 1e-14
#: Largest number of steps of a fit of constants.
_STEPS = 30
#: Relative gain of the sum of squares below which a fit of constants ends.
_GAIN = 1e-7
#: Relative change of a constant by which slopes are measured.
_DIFFERENCE = 1e-7
#: Range in radians above which a wave of an input with frequency 1 differs from a line.
_LEAST_TURN = 0.5
#: Size in radians of an input below which a wave with frequency 1 has few turns.
_MOST_TURNS = 50.0

#: Exponents of atoms, each an index and an exponent, in the order of the indices.
Monomial = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True)
class Atom:
    """A coordinate: an input, or a sum, difference, sine or cosine of inputs."""

    expression: sympy.Expr
    values: Array
    bits: float
    inputs: frozenset[int]

    @property
    def is_algebraic(self) -> bool:
        """True for an input, a sum or a difference."""
        return not self.expression.has(sympy.sin, sympy.cos)


def take_two_values(values: Array) -> NDArray[np.bool_]:
    """Return whether `values` (..., N) have at most two distinct values each, shape (...).

    An indicator of a text has. Every function and every power of it is a line in it on the points,
    so the regressions have no columns of these.
    """
    low = values.min(axis=-1, keepdims=True)
    high = values.max(axis=-1, keepdims=True)
    return np.asarray(((values == low) | (values == high)).all(axis=-1))


class Coordinates:
    """Atoms with their values at the points, from which monomials are computed."""

    def __init__(self, atoms: Sequence[Atom]) -> None:
        self.atoms = list(atoms)
        values = np.array([atom.values for atom in atoms])
        floor = [0.1 * np.min(np.abs(v[v != 0]), initial=np.inf) for v in values]
        self.sizes = np.maximum(np.abs(values), np.where(np.isfinite(floor), floor, 1.0)[:, None])
        self.logs = np.log(self.sizes)
        self.values = values
        self.signs = np.sign(values)
        self.positive: list[bool] = [bool((column > 0).all()) for column in values]
        self.linear: list[bool] = take_two_values(values).tolist()

    @classmethod
    def of_inputs(cls, x: Array, waves: bool = True) -> Coordinates:
        """Return the inputs x (N, inputs), their differences and sums, and their waves."""
        symbols = input_symbols(x.shape[1])
        count = x.shape[1]
        bits = math.log2(count + 1) + 1
        atoms = [Atom(symbols[i], x[:, i], bits, frozenset([i])) for i in range(count)]
        for i in range(count):
            for j in range(i):
                for sign in (-1, 1):
                    values = x[:, j] + sign * x[:, i]
                    pair = frozenset([i, j])
                    expression = symbols[j] + sign * symbols[i]
                    ratio = np.median(np.abs(x[:, j])) / max(np.median(np.abs(x[:, i])), 1e-300)
                    if 1e-2 < ratio < 1e2 and np.ptp(values) > 0:
                        cost = 2 * bits + OPERATION
                        atoms.append(Atom(expression, values, cost, pair))
                        if waves and sign < 0 and _waves_differ(values):
                            wave = sympy.cos(expression)
                            atoms.append(Atom(wave, np.cos(values), cost + FUNCTION, pair))
        if waves:
            for i in range(count):
                if _waves_differ(x[:, i]):
                    for name in (sympy.sin, sympy.cos):
                        wave = np.sin(x[:, i]) if name is sympy.sin else np.cos(x[:, i])
                        inputs = frozenset([i])
                        atoms.append(Atom(name(symbols[i]), wave, bits + FUNCTION, inputs))
        return cls(atoms)

    def allows(self, monomial: Monomial) -> bool:
        """Return whether the monomial is real at all points, and no power of two values."""
        return all(
            p in (0, 1) or ((p.denominator == 1 or self.positive[i]) and not self.linear[i])
            for i, p in monomial
        )

    def value(self, monomial: Monomial) -> Array:
        """Return the values (N,) of a monomial."""
        result = np.ones(self.values.shape[1])
        for i, p in monomial:
            if p.denominator > 1:
                result = result * np.exp(float(p) * self.logs[i])
            elif p < 0:
                result = result / (self.signs[i] * self.sizes[i] + (self.signs[i] == 0)) ** int(-p)
            else:
                result = result * self.values[i] ** int(p)
        return result

    def log_size(self, monomial: Monomial) -> Array:
        return reduce(
            operator.add, (float(p) * self.logs[i] for i, p in monomial), 0.0 * self.logs[0]
        )

    def expression(self, monomial: Monomial) -> sympy.Expr:
        """Return the monomial as a sympy expression."""
        parts = (
            self.atoms[i].expression ** sympy.Rational(p.numerator, p.denominator)
            for i, p in monomial
        )
        return sympy.Mul(*parts)

    def bits(self, monomial: Monomial) -> float:
        """Return the bits of a monomial."""
        each = [self.atoms[i].bits + exponent_bits(p) for i, p in monomial]
        return sum(each) + OPERATION * max(len(each) - 1, 0)


def _waves_differ(values: Array) -> bool:
    """Return whether a sine of `values` (N,) differs from a line and has few turns.

    Beyond a few turns, a wave of a fixed frequency is a constant of its own.
    """
    is_moderate = np.ptp(values) > _LEAST_TURN and np.abs(values).max() < _MOST_TURNS
    return bool(is_moderate and not take_two_values(values))


def exponent_bits(p: Fraction) -> float:
    """Return the bits of an exponent: 0 for 1, a sign for -1, else an operation and its size."""
    size = abs(p)
    if size == 1:
        return 0.5 * (p < 0)
    cost = 2.0 + math.log2(max(float(size.numerator), 1.0)) + _HALF * (size.denominator > 1) / 2
    return cost + 0.5 * (p < 0)


@dataclass(frozen=True)
class Factor:
    """F(scale * monomial)^power of a `function` F, or with an `argument` of a fixed scale."""

    function: Candidate
    monomial: Monomial
    power: Fraction
    scale: float

    @property
    def bits(self) -> float:
        return self.function.complexity + exponent_bits(self.power)


@dataclass(frozen=True)
class Term:
    """A coefficient times a monomial and factors."""

    coefficient: float
    monomial: Monomial = ()
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Transform:
    """A transformation g of the output: `forward`, its slope, `inverse` and its expression."""

    name: str
    forward: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    expression: Callable[[sympy.Expr], sympy.Expr]
    bits: float


@dataclass(frozen=True)
class Template:
    """A hypothesis; `above` and `below` are its terms, `common` is their factor M."""

    transform: Transform
    common: Term
    above: tuple[Term, ...]
    below: tuple[Term, ...] = ()

    def terms(self) -> Iterator[Term]:
        yield self.common
        yield from self.above
        yield from self.below

    @property
    def constants(self) -> Array:
        """Coefficients of the terms, then the scales of the factors."""
        coefficients = [term.coefficient for term in (*self.above, *self.below)]
        scales = [factor.scale for term in self.terms() for factor in term.factors]
        return np.array(coefficients + scales)

    def with_constants(self, constants: Array) -> Template:
        """Return the template with other constants."""
        values = iter(constants.tolist())
        coefficients = [next(values) for _ in (*self.above, *self.below)]

        def changed(term: Term, coefficient: float) -> Term:
            factors = tuple(replace(factor, scale=next(values)) for factor in term.factors)
            return Term(coefficient, term.monomial, factors)

        common = changed(self.common, self.common.coefficient)
        pairs = zip((*self.above, *self.below), coefficients, strict=True)
        terms = [changed(*pair) for pair in pairs]
        cut = len(self.above)
        return Template(self.transform, common, tuple(terms[:cut]), tuple(terms[cut:]))

    def key(self) -> object:
        """Return the structure without its constants."""

        def shape(term: Term) -> object:
            factors = [(f.function.name, f.monomial, f.power, f.scale > 0) for f in term.factors]
            return term.monomial, tuple(sorted(factors, key=str))

        above, below = (
            tuple(sorted(map(shape, terms), key=str)) for terms in (self.above, self.below)
        )
        if len(above) == 1 and not below and not self.common.factors:
            powers = dict(self.common.monomial)
            for i, p in self.above[0].monomial:
                powers[i] = powers.get(i, Fraction(0)) + p
            above = (tuple(sorted((i, p) for i, p in powers.items() if p)), above[0][1])  # type: ignore[index]
            return self.transform.name, (), above, below
        return self.transform.name, shape(self.common), above, below

    def structure_bits(self, coordinates: Coordinates) -> float:
        """Return the bits of everything but the constants."""
        bits = self.transform.bits + OPERATION * (len(self.above) - 1 + len(self.below))
        bits += OPERATION * bool(self.below)
        for term in self.terms():
            bits += coordinates.bits(term.monomial)
            parts = bool(term.monomial) + len(term.factors)
            bits += OPERATION * (parts if term is not self.common else max(parts - 1, 0))
            bits += sum(f.bits + coordinates.bits(f.monomial) + OPERATION for f in term.factors)
        return bits + OPERATION * bool(self.common.monomial or self.common.factors)

    def expression(self, coordinates: Coordinates) -> sympy.Expr:
        """Return the template as a sympy expression."""

        def of(term: Term) -> sympy.Expr:
            result = number(term.coefficient) * coordinates.expression(term.monomial)
            for f in term.factors:
                argument = number(f.scale) * coordinates.expression(f.monomial)
                value = f.function.expression.subs(
                    dict.fromkeys(f.function.expression.free_symbols, argument)
                )
                result *= value ** sympy.Rational(f.power.numerator, f.power.denominator)
            return result

        above = sympy.Add(*map(of, self.above))
        below = 1 + sympy.Add(*map(of, self.below)) if self.below else sympy.S.One
        return of(self.common) * self.transform.expression(above / below)


class Fit:
    """Least squares fit of a template's constants to y (N,) by Levenberg and Marquardt.

    `rows` (N,) are the reciprocals of the units of errors: of the standard deviation of y, or of
    |y| where errors are relative.
    """

    def __init__(self, template: Template, coordinates: Coordinates, y: Array, rows: Array) -> None:
        self.template = template
        self.coordinates = coordinates
        self.rows = rows
        self.y = y * rows
        self._bases = [coordinates.value(term.monomial) for term in template.terms()]
        self._arguments = [
            [coordinates.value(factor.monomial) for factor in term.factors]
            for term in template.terms()
        ]

    def values(self, constants: Array) -> Array:
        """Return the values (N,) of the template; nan where they are not real."""
        template = self.template
        scales = iter(constants[len(self.template.above) + len(self.template.below) :])
        rows = []
        for term, base, arguments in zip(
            template.terms(), self._bases, self._arguments, strict=True
        ):
            row = base
            for factor, argument in zip(term.factors, arguments, strict=True):
                value = factor.function.value(next(scales) * argument)
                row = row * (value ** float(factor.power) if factor.power != 1 else value)
            rows.append(row)
        cut = 1 + len(template.above)
        result = constants[: cut - 1] @ np.array(rows[1:cut])
        if template.below:
            result = result / (
                1 + constants[cut - 1 : cut - 1 + len(template.below)] @ np.array(rows[cut:])
            )
        value = template.transform.inverse(result) * rows[0] * template.common.coefficient
        return value * self.rows

    def jacobian(self, constants: Array, value: Array) -> Array:
        """Return the slopes (N, constants) by differences."""
        columns = []
        for k, constant in enumerate(constants):
            step = _DIFFERENCE * abs(constant) or _DIFFERENCE
            moved = constants.copy()
            moved[k] += step
            columns.append((self.values(moved) - value) / step)
        return np.array(columns).T

    def run(self, steps: int = _STEPS) -> Fitted | None:
        """Return the fitted template, or None if it is not finite."""
        constants = self.template.constants
        count_work(COSTS.trial * (1 + len(constants)) * 2)
        with np.errstate(all="ignore"):
            value = self.values(constants)
            loss = _squares(value - self.y)
            if not np.isfinite(loss):
                return None
            damping = 1e-3
            jacobian = None
            for _ in range(steps):
                jacobian = self.jacobian(constants, value)
                norms = np.linalg.norm(jacobian, axis=0)
                if not (np.isfinite(norms).all() and norms.all()):
                    return None
                count_work(COSTS.entry * self.y.size * (1 + len(constants)) ** 2)
                q, r = np.linalg.qr(jacobian / norms)
                residual = q.T @ (self.y - value)
                gained = False
                for _ in range(8):
                    rows = np.concatenate([r, math.sqrt(damping) * np.eye(len(norms))])
                    move = np.linalg.lstsq(rows, np.concatenate([residual, 0 * norms]), rcond=None)[
                        0
                    ]
                    trial = constants + move / norms
                    new = self.values(trial)
                    lower = _squares(new - self.y)
                    if lower < loss:
                        gained = True
                        break
                    damping = max(4 * damping, 1e-12)
                if not gained:
                    break
                gain = 1 - lower / loss
                damping = damping / 8
                constants = trial
                value = new
                loss = lower
                if gain < _GAIN:
                    break
        return Fitted.of(self, constants, value)


def _squares(residual: Array) -> float:
    return float(residual @ residual)


@dataclass(frozen=True)
class Fitted:
    """A template with fitted constants, its RMS error and its bits.

    `size` are the bits of its structure, and of constants of few digits. The residual (N,) has the
    units of rows.
    """

    template: Template
    error: float
    bits: float
    size: float
    residual: Array

    @classmethod
    def of(cls, fit: Fit, constants: Array, value: Array) -> Fitted | None:
        template = fit.template.with_constants(constants)
        y = fit.y
        jacobian = fit.jacobian(constants, value)
        norms = np.linalg.norm(jacobian, axis=0)
        if not (np.isfinite(norms).all() and norms.all()) or len(y) <= len(constants) + 2:
            return None
        count = len(y)
        residual = y - value
        error = math.sqrt(_squares(residual) / (count - len(constants)))
        bits = count * math.log2(max(math.sqrt(_squares(residual) / count), ROUNDING))
        parts = jacobian * constants / max(error, ROUNDING)
        structure = template.structure_bits(fit.coordinates)
        size = structure + math.log2(count) / 2 * len(constants)
        bits += structure + constants_bits(constants, parts, len(template.above))
        return cls(template, error, bits, size, residual)


def constants_bits(constants: Array, parts: Array, summands: int) -> float:
    """Return the bits of constants, or of the ratios of the summands' coefficients if fewer.

    `parts` (N, constants) are the changes of the values, in units of the noise, if a constant
    changes by its own size. What a part adds to the others says how many digits its constant needs.
    """
    plain = _bits_of_parts(constants, parts)
    if summands < 2:
        return plain
    first = int(np.argmax(np.linalg.norm(parts[:, :summands], axis=0)))
    ratios = constants.copy()
    columns = parts.copy()
    ratios[:summands] = constants[:summands] / constants[first]
    ratios[first] = constants[first]
    columns[:, first] = parts[:, :summands].sum(axis=1)
    return min(plain, _bits_of_parts(ratios, columns) + OPERATION)


def _bits_of_parts(constants: Array, parts: Array) -> float:
    _, r, order = qr(parts, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(r))
    inverse = np.linalg.pinv(r, rcond=1e-13)
    errors = np.linalg.norm(inverse, axis=1)
    return sum(
        constant_bits(value, size, error, len(parts))
        for value, size, error in zip(
            constants[order].tolist(), sizes.tolist(), errors.tolist(), strict=True
        )
    )


def constant_bits(value: float, size: float, error: float, count: int) -> float:
    """Return the bits of a constant: its digits, or its name.

    `size` is its effect in units of the noise, `error` its relative standard error.
    """
    generic = max(math.log2(max(size, 1.0)) + 1, math.log2(count) / 2)
    near = Fraction(value).limit_denominator(4) if abs(value) < 100 else Fraction(round(value))
    if near == 0 or abs(near) > 1e6:
        return generic
    misfit = (value / float(near) - 1) / max(error, 1e-14)
    if abs(misfit) > 3:
        return generic
    named = 2 * math.log2(abs(near.numerator) * near.denominator) + 1.0 + 0.72 * misfit**2
    return min(generic, named)


def _identity(u: Array) -> Array:
    return u


def _root(u: Array) -> Array:
    """Return the root of u (N,), 0 where a fit makes u negative."""
    return np.asarray(np.sqrt(np.maximum(u, 0.0)))


IDENTITY_TRANSFORM = Transform("y", _identity, np.ones_like, _identity, lambda u: u, 0.0)
SQUARE = Transform("y^2", np.square, lambda y: 2 * y, _root, sympy.sqrt, 3.5)
LOGARITHM = Transform("log y", np.log, np.reciprocal, np.exp, sympy.exp, FUNCTION)
