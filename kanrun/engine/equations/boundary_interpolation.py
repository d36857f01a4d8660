"""What a solution with built-in conditions consists of: u = g(x) + b(x) N(x), b zero on the faces of the conditions.

g satisfies the conditions by itself, one variable after the other: with the Hermite polynomials H of the ends e and the
orders m that have conditions, g <- g + sum H_em(x_i) (value_em - d^m g / dx_i^m at x_i = e), the Boolean sum of Gordon
(1971). b is the product of (x_i - e) to the number of conditions there, scaled to 1 inside the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import sympy

from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.equations.system import System
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy, variable

#: Points of each pair of faces at which conditions are compared where faces meet, and how far they may differ there,
#: relative to their size.
_MEETING_POINTS = 20
_AGREEMENT = 1e-8


def hard_conditions(system: System, *, last: bool) -> HardConditions | None:
    """All conditions of the system that can be built in; None where there is none.

    These give an unknown, or its derivative across the face, on a whole face of the box, with all lower derivatives
    given there too; other conditions stay residuals. `last` says whether those of the last variable are built in.
    Raises UsageError where conditions contradict each other where their faces meet.
    """
    names, box = system.vocabulary.variables, system.box
    offsets, factors = [], []
    for unknown in range(len(system.vocabulary.unknowns)):
        offset, factor = sympy.Integer(0), sympy.Integer(1)
        given = _given(system, unknown, range(len(names) if last else len(names) - 1))
        for number, ends in given.items():
            x = variable(names[number])
            low, high = (sympy.Rational(repr(float(end))) for end in box[number])
            orders = [(end, order) for end, values in ends.items() for order in range(len(values))]
            correction = sympy.Integer(0)
            for (end, order), polynomial in zip(orders, _hermite(x, orders), strict=True):
                left = ends[end][order] - sympy.diff(offset, x, order) if order else ends[end][order] - offset
                correction += polynomial * left.subs(x, end)
            offset += correction
            for end, values in ends.items():
                towards = (x - end) if end == low else (end - x)
                factor *= (towards / (high - low)) ** len(values) * (2 if len(ends) > 1 else 1) ** len(values)
        offsets.append(str(offset))
        factors.append(str(factor))
        _check_agreement(system, unknown, offset, given)
    made = HardConditions(names, tuple(offsets), tuple(factors))
    if all(text == "1" for text in factors):
        return None
    return made


def _given(system: System, unknown: int, variables: Iterable[int]) -> dict[int, dict[sympy.Expr, list[sympy.Expr]]]:
    """For each variable, for each of its ends: the value of the unknown there, then of its derivatives across."""
    names, found = system.vocabulary.variables, {}
    for number in variables:
        ends: dict[sympy.Expr, list[sympy.Expr]] = {}
        for end in map(float, system.box[number]):
            values: list[sympy.Expr] = []
            while (value := _value(system, unknown, number, end, len(values))) is not None:
                values.append(value.subs(variable(names[number]), sympy.Rational(repr(end))))
            if values:
                ends[sympy.Rational(repr(end))] = values
        if ends:
            found[number] = ends
    return found


def _value(system: System, unknown: int, number: int, end: float, order: int) -> sympy.Expr | None:
    """What a condition at this end says of the derivative of that order across it."""
    index = tuple(order * (i == number) for i in range(len(system.box)))
    for condition in system.conditions:
        held = condition.relation.derivatives
        there = ((number, end),) in condition.faces
        if there and len(held) == 1 and held[0].unknown == unknown and held[0].index == index:
            name, expression = variable(held[0].name), condition.relation.expression
            slope = sympy.diff(expression, name)
            if slope.is_number and slope != 0 and not expression.has(*map(variable, system.vocabulary.constants)):
                return sympy.expand(-expression.subs(name, 0) / slope)
    return None


def _hermite(x: sympy.Symbol, orders: Sequence[tuple[sympy.Expr, int]]) -> list[sympy.Expr]:
    """For each (end, order) the polynomial whose derivative of that order is 1 there, all others being 0."""
    powers = range(len(orders))
    rows = [[sympy.diff(x**p, x, order).subs(x, end) if order else end**p for p in powers] for end, order in orders]
    inverse = sympy.Matrix(rows).inv()
    return [sum((inverse[p, i] * x**p for p in powers), sympy.Integer(0)) for i in range(len(orders))]


def _check_agreement(
    system: System, unknown: int, offset: sympy.Expr, given: dict[int, dict[sympy.Expr, list[sympy.Expr]]]
) -> None:
    names, drawn = system.vocabulary.variables, np.random.default_rng(0)
    low, high = system.box[:, 0].numpy(), system.box[:, 1].numpy()
    for number, ends in given.items():
        for end, values in ends.items():
            for order, value in enumerate(values):
                points = low + drawn.random((_MEETING_POINTS, len(names))) * (high - low)
                points[:, number] = float(end)
                said = to_numpy(value, names)(points)
                x = variable(names[number])
                made = to_numpy(sympy.diff(offset, x, order) if order else offset, names)(points)
                if not np.abs(said - made).max() <= _AGREEMENT * (np.abs(said).max() + np.abs(made).max() + 1e-300):
                    raise UsageError(
                        f"conditions=hard: at {names[number]}={float(end):g} a condition of "
                        f"{system.vocabulary.unknowns[unknown]} differs from the conditions of the faces that meet it "
                        "there; make them agree, or take conditions=soft."
                    )
