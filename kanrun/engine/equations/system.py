"""Differential equations on a box with conditions, also in the form of windows, and points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import chain, combinations

import numpy as np
import sympy
import torch
from jaxtyping import Float
from numpy.polynomial.polynomial import polyder, polyval
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import qmc
from sympy import Expr
from torch import Tensor

from kanrun.engine.equations.scan import Scan
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import (
    MAX_ORDER,
    Derivative,
    Relation,
    RowFunction,
    Vocabulary,
    parse_relation,
)

#: Derivatives of formulas that stay compiled.
COMPILED = 1024
#: Number of equally spaced points between which jumps and kinks of formulas are searched for. With
#: fewer points, two that lie close together may be missed.
JUMP_POINTS = 2001
#: Absolute error of the place of a jump, in units of the variable. The ends of the range are
#: excluded by this fraction of it. A larger value puts a breakpoint beside the jump.
JUMP_ERROR = 1e-15
Array = NDArray[np.float64]
#: Homogeneous linear conditions of an unknown at both ends, or None. Entry (i, r) is the factor of
#: the derivative of order r in condition i.
Walls = tuple[Array | None, Array | None]
#: Factors of the space derivatives of a condition by their order, and its value.
_WallRow = tuple[Array, Expr]
#: A face of the box: numbers and values of the variables that are fixed there.
Face = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Condition:
    """Relation on faces of the box, or between both ends of a `periodic` variable."""

    relation: Relation
    faces: tuple[Face, ...] = ()
    periodic: int | None = None

    def linear(self) -> tuple[dict[Derivative, Expr], Expr] | None:
        """Return the factors of the derivatives, and the other terms.

        None for factors that vary, and for unknown parameters.
        """
        contained = self.relation.derivatives
        expression = self.relation.expression
        factors = {each: sympy.diff(expression, variable(each.name)) for each in contained}
        unknown = map(variable, self.relation.vocabulary.constants)
        varies = not all(each.is_number for each in factors.values())
        if varies or self.periodic is not None or expression.has(*unknown):
            return None
        return factors, expression.subs({variable(each.name): 0 for each in contained})

    def given(self) -> tuple[Derivative, Expr] | None:
        """Return the only derivative of a linear condition and its value."""
        if (linear := self.linear()) is None or len(linear[0]) != 1:
            return None
        ((derivative, factor),) = linear[0].items()
        return derivative, -linear[1] / factor


@dataclass(frozen=True)
class IncompatibleCorner:
    """Place where faces meet and a condition differs from the others by `difference`."""

    face: Face
    relation: Relation
    difference: float


@dataclass(frozen=True)
class Observations:
    """Observed values (points,) of one unknown at points (points, variables).

    `relation` is unknown = 0.
    """

    relation: Relation
    points: Tensor
    values: Tensor


@dataclass(frozen=True)
class System:
    """Equations on `box` (variables, 2) with conditions and observations.

    Attributes:
        constants: Initial guesses of the unknown parameters.
        corners: Places where faces meet and conditions or their slopes contradict each other. The
            solution has infinite derivatives there.
    """

    vocabulary: Vocabulary
    box: Float[Tensor, "variables 2"]
    equations: tuple[Relation, ...]
    conditions: tuple[Condition, ...]
    observations: tuple[Observations, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    corners: tuple[IncompatibleCorner, ...] = ()

    @property
    def order(self) -> int:
        """Highest order of a derivative in the equations."""
        return max(each.order for each in self.equations)

    @cached_property
    def is_linear(self) -> bool:
        """Linearity of equations and conditions in the unknowns."""
        relations = [*self.equations, *(each.relation for each in self.conditions)]
        return all(each.is_linear for each in relations)

    @cached_property
    def derivatives(self) -> tuple[Derivative, ...]:
        """Derivatives that the equations contain, each once."""
        return tuple({d.name: d for each in self.equations for d in each.derivatives}.values())

    def bends(self, order: int) -> list[Relation]:
        """Return the relations by which derivatives of this order in each variable are zero."""
        vocabulary = self.vocabulary
        names = [f"{u}_{x * order}" for u in vocabulary.unknowns for x in vocabulary.variables]
        return [parse_relation(f"{name} = 0", vocabulary) for name in names]

    @cached_property
    def given(self) -> list[tuple[Condition, Derivative, Expr]]:
        """Conditions that give one derivative a value, see `Condition.given`."""
        found = ((each, each.given()) for each in self.conditions)
        return [(each, *given) for each, given in found if given is not None]

    def guesses(self) -> Float[Tensor, " constants"]:
        """Return the initial guesses of the unknown parameters, in the order of the vocabulary."""
        return self.box.new_tensor([self.constants[name] for name in self.vocabulary.constants])

    def jumps(self, number: int) -> list[float]:
        """Return the places inside the range of a variable at which formulas jump or have a kink.

        These are zeros of arguments of `sign`, `abs`, `min` and `max` that depend on it alone. In
        the last variable conditions count too.
        """
        (low, high), name = self.box[number].tolist(), self.vocabulary.variables[number]
        relations = [*self.equations]
        if number == len(self.box) - 1:
            relations += [each.relation for each in self.conditions]
        found = set[float]()
        at = np.linspace(low, high, JUMP_POINTS)
        kinds = sympy.sign, sympy.Abs, sympy.Max, sympy.Min
        for part in {each for e in relations for each in e.expression.atoms(*kinds)}:
            terms = part.args if len(part.args) > 1 else (0, *part.args)
            for difference in (one - other for one, other in combinations(terms, 2)):
                if difference.free_symbols != {variable(name)}:
                    continue
                function = to_numpy(difference, [name])
                values = function(at[:, None])
                found |= {*at[values == 0].tolist()}
                for i in np.flatnonzero(values[1:] * values[:-1] < 0):
                    zero = partial(lambda f, x: f(np.array([[x]]))[0], function)
                    found.add(brentq(zero, at[i], at[i + 1], xtol=JUMP_ERROR))
        inside = JUMP_ERROR * (high - low)
        return sorted(each for each in found if low + inside < each < high - inside)

    @cached_property
    def scan(self) -> Scan:
        """Scan of the explicit terms of the equations and of the conditions."""
        return self._scan([each.relation.expression for each in self.conditions])

    def _scan(self, more: Sequence[Expr]) -> Scan:
        names = self.vocabulary.variables
        unknowns = self.vocabulary.unknowns
        jumps = tuple(tuple(self.jumps(number)) for number in range(len(self.box)))
        expressions = (*(each.expression for each in self.equations), *more)
        return Scan(expressions, names, unknowns, self.box.numpy(), jumps)

    @property
    def is_evolution(self) -> bool:
        """True if all conditions in the last variable are initial."""
        last = len(self.box) - 1
        end = float(self.box[-1, 1])
        faces = [face for each in self.conditions for face in each.faces]
        values = [value for face in faces for number, value in face if number == last]
        periodic = any(each.periodic == last for each in self.conditions)
        return bool(values) and end not in values and not periodic


def highest_orders(equations: Sequence[Relation], number: int) -> list[int]:
    """Return the highest order of each unknown in one variable."""
    orders = [0] * len(equations[0].vocabulary.unknowns)
    for each in (derivative for relation in equations for derivative in relation.derivatives):
        orders[each.unknown] = max(orders[each.unknown], each.index[number])
    return orders


def differentiate(expression: Expr, names: Sequence[str], index: Sequence[int]) -> Expr:
    """Return the derivative of a formula by the multi-index `index`."""
    for name, times in zip(names, index, strict=True):
        expression = sympy.diff(expression, variable(name), times) if times else expression
    return expression


@lru_cache(maxsize=COMPILED)
def derivative_function(
    expression: Expr, names: tuple[str, ...], index: tuple[int, ...]
) -> RowFunction:
    """Return a derivative of a formula as a function of points (points, variables)."""
    return to_numpy(differentiate(expression, names, index), names)


def exact_number(value: float) -> sympy.Rational:
    """Return the number that a float is written as, for exact arithmetic."""
    return sympy.Rational(repr(float(value)))


def low_discrepancy(
    box: Tensor, count: int, seed: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """Return the first `count` points of a scrambled Sobol sequence in a box.

    If `edges` (breakpoints on [-1, 1]) are given, half of each variable's density is the same in
    all intervals, whatever their length; the other half stays uniform. A Sobol sequence must not be
    thinned by a stride: every fourth point lies in a quarter of the box.
    """
    sequence = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
    # Powers of two are balanced.
    share = sequence.random_base2(max(0, (count - 1).bit_length()))[:count]
    if edges is not None:
        for s, row in zip(share.T, (edges.cpu().numpy() + 1) / 2, strict=True):
            p = np.unique(row)
            s[:] = np.interp(s, (np.linspace(0, 1, len(p)) + p) / 2, p)
    return box[:, 0] + torch.as_tensor(share).to(box) * box.diff()[:, 0]


def on_face(
    face: Face, box: Tensor, count: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """Return about `count` points of a face.

    They follow `edges` (breakpoints on [-1, 1]), at least three for each: evenly spaced in every
    interval along one variable, and a low-discrepancy sequence along two, in which sums of products
    see as many values of each variable as there are points.
    """
    fixed = dict(face)
    free = [number for number in range(len(box)) if number not in fixed]
    count = count if edges is None else max(count, 3 * edges.shape[1] - 2)
    points = box[:, 0].repeat(count if free else 1, 1)
    if len(free) == 1:
        ends = np.array([-1.0, 1.0]) if edges is None else edges[free[0]].cpu().numpy().clip(-1, 1)
        place = np.interp(np.linspace(0, len(ends) - 1, count), range(len(ends)), ends)
        low, high = box[free[0]].tolist()
        points[:, free[0]] = torch.as_tensor(low + (place + 1) / 2 * (high - low))
    elif free:
        following = None if edges is None else edges[free]
        points[:, free] = low_discrepancy(box[free], count, count, following)
    points[:, list(fixed)] = points.new_tensor(list(fixed.values()))
    return points


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
    initial: Mapping[tuple[int, int], Expr]
    walls: tuple[Walls, ...]
    lifts: tuple[Expr, ...]
    periodic: bool

    @property
    def variables(self) -> int:
        return len(self.box)

    @cached_property
    def scan(self) -> Scan:
        """Scan of the explicit terms of the equations and of the values at walls."""
        return self._scan(self.lifts)

    @cached_property
    def initial_scan(self) -> Scan:
        """Scan of the initial values too."""
        return self._scan([*self.lifts, *self.initial.values()])

    def split(self, derivative: Derivative) -> tuple[int, int]:
        """Return the orders of a derivative in space and in time."""
        *space, time = derivative.index
        return sum(space), time

    def lift(self, unknown: int, index: tuple[int, ...], points: Array) -> Array:
        """Return a derivative of the lift of an unknown at points (points, variables)."""
        function = derivative_function(self.lifts[unknown], self.vocabulary.variables, index)
        return function(points)

    def lift_degree(self, unknown: int) -> int:
        """Return the largest degree in space of the lift of an unknown."""
        return sum(len(rows) for rows in self.walls[unknown] if rows is not None)

    def initial_value(self, unknown: int, index: tuple[int, ...], points: Array) -> Array:
        """Return a given time derivative of an unknown at points (points, variables)."""
        value = self.initial[unknown, index[-1]]
        names = self.vocabulary.variables
        return derivative_function(value, names, (0,) * self.variables)(points)


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
    # A well-posed problem has as many conditions at the ends as derivatives across them.
    across = sum(highest_orders(system.equations, 0)) if time and not periodic else 0
    if 0 in orders or initial.keys() != needed or sum(map(len, chain(*walls))) != across:
        return None
    matrices = [[np.array([r for r, _ in e]) if e else None for e in ends] for ends in walls]
    lifts = tuple(_lift(system, *each) for each in walls)
    return EvolutionSystem(
        system.vocabulary,
        system.box,
        system.equations,
        system.conditions,
        orders=orders,
        initial=initial,
        walls=tuple((low, high) for low, high in matrices),
        lifts=lifts,
        periodic=periodic,
    )


def _wall_row(system: System, condition: Condition, place: float) -> tuple[int, Array, Expr] | None:
    """Return unknown, factors of its space derivatives by order and given value of a condition."""
    factors, rest = condition.linear() or ({}, sympy.S.Zero)
    unknowns = {each.unknown for each in factors}
    if len(unknowns) != 1 or any(each.index[-1] for each in factors):
        return None
    row = np.zeros(MAX_ORDER + 1)
    for each, factor in factors.items():
        row[each.index[0]] = float(factor)
    x = variable(system.vocabulary.variables[0])
    return unknowns.pop(), row, -rest.subs(x, exact_number(place))


def _lift(system: System, low: list[_WallRow], high: list[_WallRow]) -> Expr:
    """Return the sum of given values times polynomials of space that satisfy the conditions."""
    given = [(row, value, end) for end, rows in ((-1, low), (1, high)) for row, value in rows]
    if all(value == 0 for _, value, _ in given):
        return sympy.Integer(0)
    ends = list(map(exact_number, system.box[0].tolist()))
    half = (ends[1] - ends[0]) / 2
    inner = (variable(system.vocabulary.variables[0]) - ends[0]) / half - 1
    powers = np.eye(len(given) + 1)
    orders = range(MAX_ORDER + 1)
    derivatives = [polyder(powers, order) / float(half) ** order for order in orders]
    rows = [row @ [polyval(end, each) for each in derivatives] for row, _, end in given]
    total = sympy.Integer(0)
    for (_, value, _), factors in zip(given, np.linalg.pinv(np.stack(rows)).T, strict=True):
        total += value * sum(sympy.Float(c, 17) * inner**power for power, c in enumerate(factors))
    return total
