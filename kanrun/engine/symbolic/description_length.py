"""The fit of a template's constants, and the description length of the fitted template in bits.

The price of a hypothesis is the bits of its structure, of each constant at the precision that the
points support, and of the residuals, whose size is at least that of rounding: exact points are
noise of that size.
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

#: Root mean square error, relative to the size of y, that counts as rounding.
ROUNDING = 1e-14
#: Largest number of iterations when the constants of a template are fitted.
_STEPS = 30
#: Relative gain of the sum of squares below which a fit of constants ends.
_GAIN = 1e-7
#: Relative change of a constant by which slopes are measured.
_DIFFERENCE = 1e-7


class TemplateFitting:
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
        inner = iter(constants[len(template.above) + len(template.below) :].tolist())
        rows = []
        for term, base, arguments in zip(
            template.terms(), self._bases, self._arguments, strict=True
        ):
            row = base
            for factor, argument in zip(term.factors, arguments, strict=True):
                row = row * factor.with_constants(inner).value(argument)
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
    def of(cls, fit: TemplateFitting, constants: Array, value: Array) -> Fitted | None:
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
