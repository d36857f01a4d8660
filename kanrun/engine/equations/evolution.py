"""Evolution equations: systems in time and at most one space variable.

`EvolutionSystem` is the form that the solver in slabs of time needs. It separates initial values
from conditions at the ends of the space variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import sympy
from sympy import Expr

from kanrun.engine.equations.scan import Scan
from kanrun.engine.equations.system import (
    Array,
    Condition,
    System,
    Walls,
    derivative_function,
    exact_number,
    highest_orders,
)
from kanrun.formulas.equation_syntax import MAX_ORDER, Derivative
from kanrun.formulas.parsing import variable

#: A condition at an end of space: the factor of the space derivative of each order, and the
#: prescribed value of their sum, a function of time.
_WallRow = tuple[Array, Expr]


@dataclass(frozen=True, kw_only=True)
class EvolutionSystem(System):
    """System in time and at most one space variable, with its conditions sorted by kind.

    Attributes:
        orders: Highest order of the time derivatives of each unknown.
        initial: Initial values; the keys are (index of the unknown, order of the time derivative).
        walls: Linear boundary conditions of each unknown, as "combination of space derivatives =
            prescribed value": the combinations, those at the lower end of space first.
        prescribed: The prescribed values of these conditions, as functions of time.
        periodic: Whether the unknowns are periodic in space.
    """

    orders: tuple[int, ...]
    initial: Mapping[tuple[int, int], Expr]
    walls: tuple[Walls, ...]
    prescribed: tuple[tuple[Expr, ...], ...]
    periodic: bool

    @property
    def variables(self) -> int:
        return len(self.box)

    @cached_property
    def scan(self) -> Scan:
        """Scan of the explicit terms of equations and conditions at walls for narrow features."""
        return self._scan([*chain(*self.prescribed)])

    @cached_property
    def initial_scan(self) -> Scan:
        """Scan of the explicit terms of equations, conditions at walls and initial values."""
        return self._scan([*chain(*self.prescribed), *self.initial.values()])

    def split(self, derivative: Derivative) -> tuple[int, int]:
        """Return the orders of a derivative with respect to space and to time."""
        *space, time = derivative.index
        return sum(space), time

    def wall_values(self, unknown: int, order: int, times: Array) -> Array:
        """Evaluate a time derivative of the values that conditions at walls prescribe.

        Args:
            unknown: Index of the unknown whose conditions are evaluated.
            order: Order of the derivative.
            times: Times, shape (times,).

        Returns:
            Values, shape (conditions, times), in the order of `prescribed`.
        """
        time = self.vocabulary.variables[-1:]
        found = [
            derivative_function(each, time, (order,))(times[:, None])
            for each in self.prescribed[unknown]
        ]
        return np.array(found).reshape(-1, len(times))

    def initial_value(self, unknown: int, index: tuple[int, ...], points: Array) -> Array:
        """Return the prescribed initial value of a time derivative of an unknown at `points`.

        Only the order in time, `index[-1]`, is used. The values have the shape (points,).
        """
        value = self.initial[unknown, index[-1]]
        names = self.vocabulary.variables
        return derivative_function(value, names, (0,) * self.variables)(points)


def evolution_system(system: System) -> EvolutionSystem | None:
    """Convert a system to the form that the solver in slabs of time needs.

    Return None unless the system has time and at most one space variable, initial values of every
    unknown, and conditions at the ends of space that are either periodic or linear in the
    derivatives of one unknown with constant factors. Systems with unknown parameters or
    observations are excluded, because these must be fitted over the whole range of time.
    """
    if len(system.box) > 2 or not system.is_evolution or system.constants or system.observations:
        return None
    time = len(system.box) - 1
    count = len(system.vocabulary.unknowns)
    periodic = {condition.periodic for condition in system.conditions} == {None, 0}
    initial: dict[tuple[int, int], Expr] = {}
    walls: list[tuple[list[_WallRow], list[_WallRow]]] = [([], []) for _ in range(count)]
    for condition, face in ((each, face) for each in system.conditions for face in each.faces):
        (number, place), *more = face
        if more or place not in system.box[number].tolist():
            return None
        if number == time:
            given = condition.given()
            if given is None or any(given[0].index[:-1]):
                return None
            initial[given[0].unknown, given[0].index[-1]] = given[1]
        elif periodic or (row := _wall_row(system, condition, place)) is None:
            return None
        else:
            walls[row[0]][place == float(system.box[0, 1])].append(row[1:])
    orders = tuple(highest_orders(system.equations, time))
    needed = {(unknown, order) for unknown in range(count) for order in range(orders[unknown])}
    # A well-posed problem has as many conditions at the ends of space as its order in space.
    across = sum(highest_orders(system.equations, 0)) if time and not periodic else 0
    if 0 in orders or initial.keys() != needed or sum(map(len, chain(*walls))) != across:
        return None
    matrices = [[np.array([r for r, _ in e]) if e else None for e in ends] for ends in walls]
    return EvolutionSystem(
        system.vocabulary,
        system.box,
        system.equations,
        system.conditions,
        orders=orders,
        initial=initial,
        walls=tuple((low, high) for low, high in matrices),
        prescribed=tuple(tuple(value for _, value in chain(*ends)) for ends in walls),
        periodic=periodic,
    )


def _wall_row(system: System, condition: Condition, place: float) -> tuple[int, Array, Expr] | None:
    """Return the unknown in a condition at an end of space, the factors, and the prescribed value.

    The factors of the space derivatives are ordered by the order of the derivative. Return None if
    the condition is not linear, or if it contains several unknowns or time derivatives.
    """
    factors, rest = condition.linear() or ({}, sympy.S.Zero)
    unknowns = {each.unknown for each in factors}
    if len(unknowns) != 1 or any(each.index[-1] for each in factors):
        return None
    row = np.zeros(MAX_ORDER + 1)
    for each, factor in factors.items():
        row[each.index[0]] = float(factor)
    x = variable(system.vocabulary.variables[0])
    return unknowns.pop(), row, -rest.subs(x, exact_number(place))
