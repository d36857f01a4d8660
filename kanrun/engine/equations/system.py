"""Systems of differential equations on a box, with their conditions and observations.

This module also generates points in the box and on its faces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import chain, combinations

import numpy as np
import sympy
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import qmc
from sympy import Expr
from torch import Tensor

from kanrun.engine.equations.scan import Scan
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equation_syntax import MAX_ORDER, Derivative, Vocabulary
from kanrun.formulas.equations import Relation, RowFunction, parse_relation
from kanrun.formulas.parsing import variable

#: Largest number of compiled derivatives of formulas that are kept in memory.
COMPILED = 1024
Array = NDArray[np.float64]
#: Homogeneous linear conditions on one unknown: a matrix for the lower and one for the upper end of
#: the space variable, or None for an end without conditions. Entry (i, r) is the factor of the
#: derivative of order r in condition i.
Walls = tuple[Array | None, Array | None]
#: A face, edge or corner of the box: a pair (index, value) for each variable that is fixed there.
Face = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Condition:
    """Relation that holds on `faces` of the box, or between both ends of a variable.

    Attributes:
        relation: The relation, left - right = 0.
        faces: Faces on which the relation holds; empty for a periodic condition.
        periodic: Index of the variable in which the condition is periodic: left - right must have
            the same value at both ends of its range. None for a condition on faces.
    """

    relation: Relation
    faces: tuple[Face, ...] = ()
    periodic: int | None = None

    def linear(self) -> tuple[dict[Derivative, Expr], Expr] | None:
        """Split left - right into the factor of each derivative, and the terms without derivatives.

        Return None if a factor is not a number, if the condition is periodic, or if it contains an
        unknown parameter.
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
        """Return the single derivative in a linear condition, and the value prescribed for it.

        Return None if the condition is not linear or contains several derivatives.
        """
        if (linear := self.linear()) is None or len(linear[0]) != 1:
            return None
        ((derivative, factor),) = linear[0].items()
        return derivative, -linear[1] / factor


@dataclass(frozen=True)
class IncompatibleCorner:
    """Corner at which `relation`, a condition on one face, contradicts conditions on other faces.

    `face` is the corner. `difference` is |left - right| of `relation` there, for the values that
    the other conditions prescribe.
    """

    face: Face
    relation: Relation
    difference: float


@dataclass(frozen=True)
class Observations:
    """Observed values of one unknown.

    Attributes:
        relation: "unknown = 0", so that the residual is the value of the unknown.
        points: Points of the observations, shape (points, variables).
        values: Observed values, shape (points,).
    """

    relation: Relation
    points: Tensor
    values: Tensor


@dataclass(frozen=True)
class System:
    """Equations on a box with conditions and observations.

    Attributes:
        vocabulary: Names of variables, unknowns and unknown parameters.
        box: Range of each variable, shape (variables, 2). If there is time, it is the last
            variable.
        equations: Equations that hold in the box.
        conditions: Conditions on faces of the box, and periodic conditions.
        observations: Observed values, one entry per observed unknown.
        constants: Initial guesses of the unknown parameters by name.
        corners: Corners of the box at which conditions or their derivatives contradict each other.
            The solution may have infinite derivatives there.
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
        """Highest order of a derivative in the equations, summed over the variables."""
        return max(each.order for each in self.equations)

    @cached_property
    def is_linear(self) -> bool:
        """Whether all equations and conditions are linear in the unknowns."""
        relations = [*self.equations, *(each.relation for each in self.conditions)]
        return all(each.is_linear for each in relations)

    @cached_property
    def derivatives(self) -> tuple[Derivative, ...]:
        """Derivatives that occur in the equations, without duplicates."""
        return tuple({d.name: d for each in self.equations for d in each.derivatives}.values())

    def bends(self, order: int) -> list[Relation]:
        """Return relations that set the derivatives of order `order` to zero.

        There is one relation per unknown and variable. For order 2, these are u_xx = 0, u_yy = 0
        and so on, so that the solution is as straight as possible.
        """
        vocabulary = self.vocabulary
        names = [f"{u}_{x * order}" for u in vocabulary.unknowns for x in vocabulary.variables]
        return [parse_relation(f"{name} = 0", vocabulary) for name in names]

    @cached_property
    def given(self) -> list[tuple[Condition, Derivative, Expr]]:
        """Conditions that prescribe a single derivative, with this derivative and its value."""
        found = ((each, each.given()) for each in self.conditions)
        return [(each, *given) for each, given in found if given is not None]

    def guesses(self) -> Float[Tensor, " constants"]:
        """Return the initial guesses of the unknown parameters, in the order of the vocabulary."""
        return self.box.new_tensor([self.constants[name] for name in self.vocabulary.constants])

    def jumps(self, number: int) -> list[float]:
        """Return the values of variable `number` at which formulas jump or have a kink, sorted.

        At these values, the argument of `sign` or `abs`, or the difference of two arguments of
        `min` or `max`, is zero. Only arguments that depend on this variable alone are examined. The
        equations are searched and, for the last variable (time), the conditions as well.
        """
        # Largest absolute error of the position of a jump, in units of the variable. Jumps closer
        # to an end of the range than this fraction of its length are ignored. With a larger value,
        # breakpoints would lie beside the jumps.
        jump_error = 1e-15
        # Number of equally spaced points between which formulas are searched for jumps and kinks.
        # With fewer points, two jumps that lie close together may be missed.
        jump_points = 2001
        (low, high), name = self.box[number].tolist(), self.vocabulary.variables[number]
        relations = [*self.equations]
        if number == len(self.box) - 1:
            relations += [each.relation for each in self.conditions]
        found = set[float]()
        at = np.linspace(low, high, jump_points)
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
                    found.add(brentq(zero, at[i], at[i + 1], xtol=jump_error))
        inside = jump_error * (high - low)
        return sorted(each for each in found if low + inside < each < high - inside)

    @cached_property
    def scan(self) -> Scan:
        """Scan of the explicit terms of equations and conditions for narrow features."""
        return self._scan([each.relation.expression for each in self.conditions])

    def _scan(self, more: Sequence[Expr]) -> Scan:
        names = self.vocabulary.variables
        unknowns = self.vocabulary.unknowns
        jumps = tuple(tuple(self.jumps(number)) for number in range(len(self.box)))
        expressions = (*(each.expression for each in self.equations), *more)
        return Scan(expressions, names, unknowns, self.box.numpy(), jumps)

    @property
    def is_evolution(self) -> bool:
        """Whether the last variable (time) has conditions, but none at its upper end.

        It is false if a condition is periodic in time.
        """
        last = len(self.box) - 1
        end = float(self.box[-1, 1])
        faces = [face for each in self.conditions for face in each.faces]
        values = [value for face in faces for number, value in face if number == last]
        periodic = any(each.periodic == last for each in self.conditions)
        return bool(values) and end not in values and not periodic


def highest_orders(equations: Sequence[Relation], number: int) -> list[int]:
    """Return each unknown's highest order of derivatives with respect to variable `number`."""
    orders = [0] * len(equations[0].vocabulary.unknowns)
    for each in (derivative for relation in equations for derivative in relation.derivatives):
        orders[each.unknown] = max(orders[each.unknown], each.index[number])
    return orders


def differentiate(expression: Expr, names: Sequence[str], index: Sequence[int]) -> Expr:
    """Differentiate `expression` `index[i]` times with respect to the variable `names[i]`."""
    for name, times in zip(names, index, strict=True):
        expression = sympy.diff(expression, variable(name), times) if times else expression
    return expression


@lru_cache(maxsize=COMPILED)
def derivative_function(
    expression: Expr, names: tuple[str, ...], index: tuple[int, ...]
) -> RowFunction:
    """Return a derivative of a formula (see `differentiate`) as a compiled function of points.

    It maps points of shape (points, variables) to values of shape (points,).
    """
    return to_numpy(differentiate(expression, names, index), names)


def exact_number(value: float) -> sympy.Rational:
    """Return the shortest decimal that rounds to `value` as an exact rational: 0.1 becomes 1/10."""
    return sympy.Rational(repr(float(value)))


def low_discrepancy(
    box: Tensor, count: int, seed: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """Return the first `count` points of a scrambled Sobol sequence in a box.

    If `edges` (breakpoints of each variable, scaled to [-1, 1]) are given, the density of the
    points in each variable is the mean of a uniform density and of one with equally many points in
    each interval. To get fewer points, reduce `count`; do not take every fourth point, because
    these may all lie in the same quarter of the box.
    """
    sequence = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
    # The sequence is drawn up to a power of two, at which it is balanced.
    share = sequence.random_base2(max(0, (count - 1).bit_length()))[:count]
    if edges is not None:
        for s, row in zip(share.T, (edges.cpu().numpy() + 1) / 2, strict=True):
            p = np.unique(row)
            s[:] = np.interp(s, (np.linspace(0, 1, len(p)) + p) / 2, p)
    return box[:, 0] + torch.as_tensor(share).to(box) * box.diff()[:, 0]


def on_face(
    face: Face, box: Tensor, count: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """Return about `count` points of a face; a single point if all variables are fixed on it.

    If `edges` (breakpoints of each variable, scaled to [-1, 1]) are given, the points are denser
    where intervals are short, and there are at least about three points per interval. On a face
    with one free variable, points are evenly spaced within each interval. With two free variables,
    the points form a low-discrepancy sequence, so that each variable takes as many different values
    as there are points.
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
