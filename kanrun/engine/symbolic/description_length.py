"""Fit the constants of a template, and compute the description length of the result in bits.

The description length is the sum of the bits of the structure, of each constant at the precision
that the points support, and of the residuals. Residuals below `ROUNDING` count as this large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.linalg import qr

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.templates import OPERATION, Coordinates, Template

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
