"""Systems that evolve from given initial values, and which of their conditions are built in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.equations.space import Array, WallCondition
from kanrun.engine.equations.system import Condition, System, differentiate
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import Derivative, Relation


@dataclass(frozen=True)
class EvolutionSystem:
    """A system in time and at most one space variable, with its conditions by kind.

    Attributes:
        orders: Order in time of each unknown.
        initial: Initial value of each unknown and of its time derivatives below its order.
        walls: Homogeneous conditions of each unknown at both ends of space.
        lifts: Functions that satisfy the given conditions at the ends; 0 for homogeneous ones.
    """

    system: System
    orders: tuple[int, ...]
    initial: tuple[tuple[sympy.Expr, ...], ...]
    walls: tuple[tuple[WallCondition | None, WallCondition | None], ...]
    lifts: tuple[sympy.Expr, ...]
    periodic: bool

    @property
    def variables(self) -> int:
        return len(self.system.box)

    @property
    def equations(self) -> tuple[Relation, ...]:
        return self.system.equations

    @cached_property
    def derivatives(self) -> tuple[Derivative, ...]:
        """All derivatives in the equations, each once."""
        return tuple({each.name: each for r in self.equations for each in r.derivatives}.values())

    def split(self, derivative: Derivative) -> tuple[int, int]:
        """Return the orders of a derivative in space and in time."""
        *space, time = derivative.index
        return sum(space), time

    def lift(self, unknown: int, index: tuple[int, ...], points: Array) -> Array:
        """Return a derivative of the lift of an unknown at points (points, variables)."""
        return self._function(self.lifts[unknown], index, points)

    def initial_values(self, unknown: int, points: Array) -> Array:
        """Return initial value and time derivatives of u - lift, shape (points, order)."""
        columns = []
        for order, value in enumerate(self.initial[unknown]):
            index = (*[0] * (self.variables - 1), order)
            given = self._function(value, (0,) * self.variables, points)
            columns.append(given - self.lift(unknown, index, points))
        return np.stack(columns, axis=1)

    @cached_property
    def _compiled(self) -> dict[tuple[sympy.Expr, tuple[int, ...]], object]:
        return {}

    def _function(self, formula: sympy.Expr, index: tuple[int, ...], points: Array) -> Array:
        if formula == 0:
            return np.zeros(len(points))
        names = self.system.vocabulary.variables
        if (formula, index) not in self._compiled:
            self._compiled[formula, index] = to_numpy(differentiate(formula, names, index), names)
        return self._compiled[formula, index](points)  # type: ignore[operator, no-any-return]


def evolution_system(system: System) -> EvolutionSystem | None:
    """Return the system in the form of windows, or None if it has another form.

    It needs time and at most one space variable; initial values of every unknown; and conditions at
    the ends of space that are periodic, or linear in the derivatives of one unknown with constant
    factors. Unknown parameters and observations need the whole range at once.
    """
    if len(system.box) > 2 or not system.is_evolution or system.constants or system.observations:
        return None
    count, time = len(system.vocabulary.unknowns), len(system.box) - 1
    every = [each for relation in system.equations for each in relation.derivatives]
    orders = tuple(
        max((each.index[-1] for each in every if each.unknown == unknown), default=0)
        for unknown in range(count)
    )
    periodic = {condition.periodic for condition in system.conditions} == {None, 0}
    initial: list[dict[int, sympy.Expr]] = [{} for _ in range(count)]
    rows = [([], []) for _ in range(count)]  # type: ignore[var-annotated]
    for condition in system.conditions:
        if condition.periodic is not None:
            continue
        for face in condition.faces:
            if len(face) != 1:
                return None
            ((number, place),) = face
            given = condition.given()
            if number == time and given is not None and sum(given[0].index) == given[0].index[-1]:
                initial[given[0].unknown][given[0].index[-1]] = given[1]
            elif number != time and not periodic and (row := _wall_row(condition)) is not None:
                side = int(place == float(system.box[0, 1]))
                rows[row[0]][side].append((row[1], _at(system, row[2], 0, place)))
            else:
                return None
    if 0 in orders or any(
        set(found) != set(range(order)) for found, order in zip(initial, orders, strict=True)
    ):
        return None
    # A well-posed problem has as many conditions at the ends as derivatives across them.
    across = [
        max((each.index[0] for each in every if each.unknown == unknown), default=0) * (time > 0)
        for unknown in range(count)
    ]
    if not periodic and sum(map(len, itertools.chain(*rows))) != sum(across):
        return None
    walls = tuple(tuple(map(_wall, each)) for each in rows)
    lifts = tuple(_lift(system, each) for each in rows)
    values = tuple(tuple(found[r] for r in range(len(found))) for found in initial)
    return EvolutionSystem(system, orders, values, walls, lifts, periodic)  # type: ignore[arg-type]


def _wall_row(condition: Condition) -> tuple[int, dict[int, float], sympy.Expr] | None:
    """Return unknown, factors of its space derivatives and given value of a condition."""
    contained, expression = condition.relation.derivatives, condition.relation.expression
    unknowns, row = {each.unknown for each in contained}, {}
    for each in contained:
        slope = sympy.diff(expression, variable(each.name))
        if not slope.is_number or each.index[-1]:
            return None
        row[each.index[0]] = float(slope)
    rest = expression.subs({variable(each.name): 0 for each in contained})
    return (unknowns.pop(), row, -rest) if len(unknowns) == 1 else None


def _at(system: System, formula: sympy.Expr, number: int, place: float) -> sympy.Expr:
    name = system.vocabulary.variables[number]
    return formula.subs(variable(name), sympy.Rational(repr(float(place))))


def _wall(rows: list[tuple[dict[int, float], sympy.Expr]]) -> WallCondition | None:
    if not rows:
        return None
    orders = max(len(rows), 1 + max(max(row) for row, _ in rows))
    return WallCondition(np.array([[row.get(r, 0.0) for r in range(orders)] for row, _ in rows]))


def _lift(
    system: System, sides: tuple[list[tuple[dict[int, float], sympy.Expr]], ...]
) -> sympy.Expr:
    """Return the sum of given values times polynomials of space that satisfy the conditions."""
    given = [(row, value, side) for side, rows in enumerate(sides) for row, value in rows]
    if all(value == 0 for _, value, _ in given):
        return sympy.Integer(0)
    x = variable(system.vocabulary.variables[0])
    low, high = (sympy.Rational(repr(end)) for end in system.box[0].tolist())
    inner = (2 * x - low - high) / (high - low)
    powers = [inner**power for power in range(len(given) + 1)]
    matrix = np.array(
        [
            [
                sum(
                    factor * float(sympy.diff(power, x, order).subs(x, (low, high)[side]))
                    for order, factor in row.items()
                )
                for power in powers
            ]
            for row, _, side in given
        ]
    )
    polynomials = np.linalg.pinv(matrix).T
    return sum(
        (
            value * sum(sympy.Float(c, 17) * power for c, power in zip(row, powers, strict=True))
            for (_, value, _), row in zip(given, polynomials, strict=True)
        ),
        sympy.Integer(0),
    )
