"""Templates: structures of formulas with constants, and the description length of a structure.

A template is y = M g^-1(a_1 t_1 + a_2 t_2 + ...), that is, g(y/M) is a sum: g is an invertible
transform of the output, M a monomial, and a_i are constants. Each term t_i is a monomial times
powers of factors F(c z + d), where F is a function of one variable, z a monomial, and c and d are
constants. A monomial is a product of powers of atoms, which are inputs or simple functions of
inputs (see `Atom`).

Fit the constants of a template, and compute the description length of the result in bits.

The description length is the sum of the bits of the structure, of each constant at the precision
that the points support, and of the residuals. Residuals below `ROUNDING` count as this large.
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

#: Number of bits that an operation adds to the description of a formula.
OPERATION = 2.5
#: Number of bits that a function adds to the description of a formula.
FUNCTION = 4.0
#: A product of powers of atoms: pairs (index of the atom, exponent), sorted by index.
Monomial = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True)
class Atom:
    """An input, or a sum, difference, sine or cosine of inputs.

    Attributes:
        expression: The atom as an expression in the inputs.
        values: Values at the points, shape (N,).
        bits: Description length.
        inputs: Indices of the inputs in the atom.
    """

    expression: sympy.Expr
    values: Array
    bits: float
    inputs: frozenset[int]

    @property
    def is_algebraic(self) -> bool:
        """True for an input, a sum or a difference."""
        return not self.expression.has(sympy.sin, sympy.cos)


def take_two_values(values: Array) -> NDArray[np.bool_]:
    """Return whether `values` (..., N) have at most two distinct values along the last axis.

    This is so for indicators of categories. On the points, every function of such a variable equals
    a line, so the regressions use neither functions nor powers of it. The result has the shape
    (...).
    """
    low = values.min(axis=-1, keepdims=True)
    high = values.max(axis=-1, keepdims=True)
    return np.asarray(((values == low) | (values == high)).all(axis=-1))


class Coordinates:
    """Atoms with their values at the points, from which monomials are computed."""

    def __init__(self, atoms: Sequence[Atom]) -> None:
        self.atoms = list(atoms)
        count_work(COSTS.value * sum(atom.values.size for atom in atoms))
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
        """Return atoms for x (N, inputs): the inputs, then sums and differences of two inputs.

        Sums and differences are left out if one input is much larger than the other. With `waves`,
        sines and cosines of inputs, and cosines of differences, are included (see `_waves_differ`).
        """
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
        """Return whether the monomial may be used.

        It must be real at all points, and must not contain a power of an atom with two values.
        """
        return all(
            p in (0, 1) or ((p.denominator == 1 or self.positive[i]) and not self.linear[i])
            for i, p in monomial
        )

    def value(self, monomial: Monomial) -> Array:
        """Return the values (N,) of a monomial."""
        result = np.ones(self.values.shape[1])
        count_work(2 * COSTS.edge + COSTS.value / 2 * result.size * len(monomial))
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
        """Return the description length of a monomial in bits."""
        each = [self.atoms[i].bits + exponent_bits(p) for i, p in monomial]
        return sum(each) + OPERATION * max(len(each) - 1, 0)


def _waves_differ(values: Array) -> bool:
    """Return whether the sine of `values` (N,) differs from a straight line and has few periods.

    With many periods, sines of many frequencies could be tried, and there is no reason to prefer
    the frequency 1.
    """
    # Largest absolute value (radians) of a variable whose sine has few periods.
    most_turns = 50.0
    # Smallest range (radians) of a variable whose sine differs clearly from a straight line.
    least_turn = 0.5
    is_moderate = np.ptp(values) > least_turn and np.abs(values).max() < most_turns
    return bool(is_moderate and not take_two_values(values))


def exponent_bits(p: Fraction) -> float:
    """Return the bits of an exponent: 0 for 1, 0.5 for -1, more for larger numbers."""
    # Number of bits that a denominator adds to the description of an exponent.
    denominator = 1.5
    size = abs(p)
    if size == 1:
        return 0.5 * (p < 0)
    cost = 2.0 + math.log2(max(float(size.numerator), 1.0)) + denominator * (size.denominator > 1)
    return cost + 0.5 * (p < 0)


@dataclass(frozen=True)
class Factor:
    """A factor F(scale * monomial + shift)^power of a term, with the `function` F.

    If `shift` is None, it is 0 and not a constant of the template.
    """

    function: Candidate
    monomial: Monomial
    power: Fraction
    scale: float
    shift: float | None = None

    @property
    def constants(self) -> list[float]:
        return [self.scale] if self.shift is None else [self.scale, self.shift]

    def with_constants(self, values: Iterator[float]) -> Factor:
        """Return the factor with constants taken from the iterator `values`."""
        scale = next(values)
        return replace(self, scale=scale, shift=None if self.shift is None else next(values))

    def value(self, argument: Array) -> Array:
        """Return the values (N,) of the factor, given the values (N,) of its monomial."""
        value = self.function.value(self.scale * argument + (self.shift or 0.0))
        return value ** float(self.power) if self.power != 1 else value

    @property
    def bits(self) -> float:
        return self.function.complexity + exponent_bits(self.power)


@dataclass(frozen=True)
class Term:
    """A term: a coefficient times a monomial times the product of `factors`."""

    coefficient: float
    monomial: Monomial = ()
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Transform:
    """A transform g of the output.

    Attributes:
        name: Name of g.
        forward: g.
        slope: Derivative of g.
        inverse: Inverse of g.
        expression: Inverse of g for sympy expressions.
        bits: Description length.
    """

    name: str
    forward: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    expression: Callable[[sympy.Expr], sympy.Expr]
    bits: float


@dataclass(frozen=True)
class Template:
    """A structure of a formula with its constants (see the docstring of this module).

    Attributes:
        transform: Transform g of the output.
        common: The factor M, which has no functions; its coefficient is 1 or -1.
        terms: Terms a t of the sum.
    """

    transform: Transform
    common: Term
    terms: tuple[Term, ...]

    def shorter(self) -> Iterator[Template]:
        """Yield the templates with one term less, if there are at least two terms."""
        for term in self.terms if len(self.terms) > 1 else ():
            yield replace(self, terms=tuple(each for each in self.terms if each is not term))

    @property
    def constants(self) -> Array:
        """Coefficients of the terms, then the constants of all factors."""
        coefficients = [term.coefficient for term in self.terms]
        inner = (c for term in self.terms for factor in term.factors for c in factor.constants)
        return np.array([*coefficients, *inner])

    def with_constants(self, constants: Array) -> Template:
        """Return the template with other constants."""
        coefficients, inner = np.split(constants, [len(self.terms)])
        values = iter(inner.tolist())
        terms = (
            replace(
                term, coefficient=c, factors=tuple(f.with_constants(values) for f in term.factors)
            )
            for term, c in zip(self.terms, coefficients.tolist(), strict=True)
        )
        return replace(self, terms=tuple(terms))

    def key(self) -> object:
        """Return a hashable key of the structure, which does not depend on the constants."""

        def shape(term: Term, common: Monomial = ()) -> object:
            factors = [
                (f.function.name, f.monomial, f.power, f.scale > 0, f.shift is None)
                for f in term.factors
            ]
            powers = dict(common)
            for i, p in term.monomial:
                powers[i] = powers.get(i, Fraction(0)) + p
            monomial = tuple(sorted((i, p) for i, p in powers.items() if p))
            return monomial, tuple(sorted(factors, key=str))

        common = self.common.monomial
        if self.transform is IDENTITY_TRANSFORM and len(self.terms) == 1:
            return shape(self.terms[0], common)
        return self.transform.name, common, tuple(sorted(map(shape, self.terms), key=str))

    def structure_bits(self, coordinates: Coordinates) -> float:
        """Return the description length, in bits, of everything but the constants."""
        common = self.common.monomial
        bits = self.transform.bits + coordinates.bits(common) + OPERATION * bool(common)
        bits += OPERATION * (len(self.terms) - 1)
        for term in self.terms:
            bits += coordinates.bits(term.monomial)
            bits += OPERATION * (bool(term.monomial) + len(term.factors))
            bits += sum(f.bits + coordinates.bits(f.monomial) + OPERATION for f in term.factors)
        return bits

    def expression(self, coordinates: Coordinates) -> sympy.Expr:
        """Return the template as a sympy expression."""

        def of(term: Term) -> sympy.Expr:
            result = number(term.coefficient) * coordinates.expression(term.monomial)
            for f in term.factors:
                argument = number(f.scale) * coordinates.expression(f.monomial)
                argument += number(f.shift or 0.0)
                value = f.function.expression.subs(
                    dict.fromkeys(f.function.expression.free_symbols, argument)
                )
                result *= value ** sympy.Rational(f.power.numerator, f.power.denominator)
            return result

        return of(self.common) * self.transform.expression(sympy.Add(*map(of, self.terms)))


def _identity(u: Array) -> Array:
    return u


def _root(u: Array) -> Array:
    """Return the square root of u (N,), or 0 if u is negative during a fit."""
    return np.asarray(np.sqrt(np.maximum(u, 0.0)))


IDENTITY_TRANSFORM = Transform("y", _identity, np.ones_like, _identity, lambda u: u, 0.0)
SQUARE = Transform("y^2", np.square, lambda y: 2 * y, _root, sympy.sqrt, 3.5)
LOGARITHM = Transform("log y", np.log, np.reciprocal, np.exp, sympy.exp, FUNCTION)


#: RMS error, relative to the size of y, below which a formula is as accurate as rounding allows.
ROUNDING = 1e-14
#: Largest number of iterations when the constants of a template are fitted.
_STEPS = 30
#: A fit of constants ends when a step reduces the sum of squares by less than this fraction.
_GAIN = 1e-7


class TemplateFitting:
    """Levenberg-Marquardt fit of the constants of a template to y.

    Args:
        template: The template, with initial values of its constants.
        coordinates: The atoms (inputs and simple functions of inputs) with their values at the
            points.
        y: Outputs, shape (N,).
        rows: Factors by which residuals are multiplied, shape (N,): 1 / std(y), or 1 / |y| if
            errors are relative.
    """

    def __init__(self, template: Template, coordinates: Coordinates, y: Array, rows: Array) -> None:
        self.template = template
        self.coordinates = coordinates
        self.rows = rows
        self.y = y * rows
        common = template.common
        self._outer = coordinates.value(common.monomial) * common.coefficient * rows
        self._bases = [coordinates.value(term.monomial) for term in template.terms]
        self._arguments = [
            [coordinates.value(factor.monomial) for factor in term.factors]
            for term in template.terms
        ]

    def values(self, constants: Array) -> Array:
        """Return the values (N,) of the template times `rows`; nan where they are not real."""
        template = self.template
        parts = 1 + len(self._bases) + sum(map(len, self._arguments))
        count_work(COSTS.edge * (2 + parts) + COSTS.value / 2 * self.y.size * parts)
        coefficients, inner = np.split(constants, [len(template.terms)])
        values = iter(inner.tolist())
        terms = []
        for term, base, arguments in zip(template.terms, self._bases, self._arguments, strict=True):
            product = base
            for factor, argument in zip(term.factors, arguments, strict=True):
                product = product * factor.with_constants(values).value(argument)
            terms.append(product)
        return template.transform.inverse(coefficients @ np.array(terms)) * self._outer

    def jacobian(self, constants: Array, value: Array) -> Array:
        """Return the Jacobian (N, constants) of the weighted values, by finite differences.

        `value` (N,) contains the weighted values at `constants`.
        """
        # Relative change of a constant in the finite differences of the Jacobian.
        difference = 1e-7
        columns = []
        for k, constant in enumerate(constants):
            step = difference * abs(constant) or difference
            moved = constants.copy()
            moved[k] += step
            columns.append((self.values(moved) - value) / step)
        return np.array(columns).T

    def run(self, steps: int = _STEPS) -> Fitted | None:
        """Fit the constants in at most `steps` iterations.

        The result is None if values or derivatives are not finite, if a constant has no effect, or
        if there are too few points.
        """
        constants = self.template.constants
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
                count_work(5 * COSTS.edge + COSTS.solved(self.y.size, len(constants)))
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
    """A template with fitted constants.

    Attributes:
        template: The template.
        error: RMS of the weighted residuals, with N - constants degrees of freedom.
        bits: Description length of structure, constants and residuals.
        size: Bits of the structure, plus log2(N) / 2 for each constant.
        residual: Weighted residuals, shape (N,).
    """

    template: Template
    error: float
    bits: float
    size: float
    residual: Array

    @classmethod
    def of(cls, fit: TemplateFitting, constants: Array, value: Array) -> Fitted | None:
        template = fit.template.with_constants(constants)
        y = fit.y
        jacobian = fit.jacobian(constants, value)
        count_work(COSTS.step + 2 * COSTS.solved(fit.y.size, len(constants)))
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
        bits += structure + constants_bits(constants, parts, len(template.terms))
        return cls(template, error, bits, size, residual)


def constants_bits(constants: Array, parts: Array, summands: int) -> float:
    """Return the number of bits that describe the constants of a template.

    The number of digits that a constant needs follows from the part of its effect on the values
    that the other constants cannot compensate. The coefficients of a sum may also be described by
    their ratios to the largest coefficient, if that needs fewer bits.

    Args:
        constants: Constants, shape (constants,); the first `summands` are coefficients of a sum.
        parts: Derivatives of the values with respect to each constant, multiplied by the constant
            and divided by the noise, shape (N, constants).
        summands: Number of summands.
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
    """Return the number of bits of a constant, described by its digits or by a nearby fraction.

    The shorter of the two descriptions counts.

    Args:
        value: The constant.
        size: Norm of the constant's effect on all values, in units of the noise.
        error: Relative standard error of the constant.
        count: Number of points.
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
