"""Systems that evolve from given initial values, and which of their conditions are built in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import sympy
from numpy.polynomial.polynomial import polyder, polyval

from kanrun.engine.equations.space import Array
from kanrun.engine.equations.system import (
    Condition,
    System,
    derivative_function,
    exact_number,
    highest_orders,
)
from kanrun.formulas import variable
from kanrun.formulas.equations import Derivative

#: Factors of the space derivatives of a condition by their order, and its value.
_WallRow = tuple[dict[int, float], sympy.Expr]


@dataclass(frozen=True, kw_only=True)
class EvolutionSystem(System):
    """System in time and at most one space variable, with its conditions by kind.

    Attributes:
        orders: Order in time of each unknown.
        initial: Initial values of unknowns and their time derivatives, by unknown and order.
        walls: Homogeneous conditions of each unknown at both ends of space.
        lifts: Functions that satisfy the given conditions at the ends; 0 for homogeneous ones.
    """

    orders: tuple[int, ...]
    initial: Mapping[tuple[int, int], sympy.Expr]
    walls: tuple[tuple[Array | None, Array | None], ...]
    lifts: tuple[sympy.Expr, ...]
    periodic: bool

    @property
    def variables(self) -> int:
        return len(self.box)

    def split(self, derivative: Derivative) -> tuple[int, int]:
        """Return the orders of a derivative in space and in time."""
        *space, time = derivative.index
        return sum(space), time

    def lift(self, unknown: int, index: tuple[int, ...], points: Array) -> Array:
        """Return a derivative of the lift of an unknown at points (points, variables)."""
        function = derivative_function(self.lifts[unknown], self.vocabulary.variables, index)
        return function(points)

    def initial_value(self, unknown: int, order: int, points: Array) -> Array:
        """Return a given time derivative of an unknown at points (points, variables)."""
        index = (0,) * self.variables
        value, names = self.initial[unknown, order], self.vocabulary.variables
        return derivative_function(value, names, index)(points)


def evolution_system(system: System) -> EvolutionSystem | None:
    """Return the system in the form of windows, or None if it has another form.

    It needs time and at most one space variable; initial values of every unknown; and conditions at
    the ends of space that are periodic, or linear in the derivatives of one unknown with constant
    factors. Unknown parameters and observations need the whole range at once.
    """
    if len(system.box) > 2 or not system.is_evolution or system.constants or system.observations:
        return None
    time = len(system.box) - 1
    count = len(system.vocabulary.unknowns)
    periodic = {condition.periodic for condition in system.conditions} == {None, 0}
    initial: dict[tuple[int, int], sympy.Expr] = {}
    walls: list[tuple[list[_WallRow], list[_WallRow]]] = [([], []) for _ in range(count)]
    for condition, face in ((each, face) for each in system.conditions for face in each.faces):
        (number, place), *more = face
        if more:
            return None
        if number == time:
            given = condition.given()
            if given is None or sum(given[0].index) != given[0].index[-1]:
                return None
            initial[given[0].unknown, given[0].index[-1]] = given[1]
        elif periodic or (row := _wall_row(system, condition, place)) is None:
            return None
        else:
            walls[row[0]][place == float(system.box[0, 1])].append(row[1:])
    orders = tuple(highest_orders(system.equations, time))
    needed = {(unknown, order) for unknown in range(count) for order in range(orders[unknown])}
    # A well-posed problem has as many conditions at the ends as derivatives across them.
    across = sum(highest_orders(system.equations, 0)) if time and not periodic else 0
    if 0 in orders or initial.keys() != needed or sum(map(len, chain(*walls))) != across:
        return None
    matrices = tuple((_matrix(low), _matrix(high)) for low, high in walls)
    lifts = tuple(_lift(system, *each) for each in walls)
    return EvolutionSystem(
        system.vocabulary,
        system.box,
        system.equations,
        system.conditions,
        orders=orders,
        initial=initial,
        walls=matrices,
        lifts=lifts,
        periodic=periodic,
    )


def _wall_row(
    system: System, condition: Condition, place: float
) -> tuple[int, dict[int, float], sympy.Expr] | None:
    """Return unknown, factors of its space derivatives and given value of a condition."""
    contained, expression = condition.relation.derivatives, condition.relation.expression
    unknowns, row = {each.unknown for each in contained}, {}
    for each in contained:
        slope = sympy.diff(expression, variable(each.name))
        if not slope.is_number or each.index[-1]:
            return None
        row[each.index[0]] = float(slope)
    if len(unknowns) != 1:
        return None
    rest = expression.subs({variable(each.name): 0 for each in contained})
    x = variable(system.vocabulary.variables[0])
    return unknowns.pop(), row, -rest.subs(x, exact_number(place))


def _matrix(rows: list[_WallRow]) -> Array | None:
    """Return factors (conditions, orders) of the derivatives at one end."""
    if not rows:
        return None
    orders = max(len(rows), 1 + max(max(row) for row, _ in rows))
    return np.array([[row.get(r, 0.0) for r in range(orders)] for row, _ in rows])


def _lift(system: System, low: list[_WallRow], high: list[_WallRow]) -> sympy.Expr:
    """Return the sum of given values times polynomials of space that satisfy the conditions."""
    given = [(row, value, end) for end, rows in ((-1, low), (1, high)) for row, value in rows]
    if all(value == 0 for _, value, _ in given):
        return sympy.Integer(0)
    ends = list(map(exact_number, system.box[0].tolist()))
    half = (ends[1] - ends[0]) / 2
    inner = (variable(system.vocabulary.variables[0]) - ends[0]) / half - 1
    powers = np.eye(len(given) + 1)
    rows = [
        sum(
            f * polyval(end, polyder(powers, order)) / float(half) ** order
            for order, f in row.items()
        )
        for row, _, end in given
    ]
    total = sympy.Integer(0)
    for (_, value, _), factors in zip(given, np.linalg.pinv(np.stack(rows)).T, strict=True):
        total += value * sum(sympy.Float(c, 17) * inner**power for power, c in enumerate(factors))
    return total
