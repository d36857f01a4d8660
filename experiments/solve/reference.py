"""Plain numerical solutions to compare with: ordinary equations by Runge-Kutta, evolution in one space by lines.

In space fourth-order finite differences on a uniform grid (trigonometric interpolation on a ring), in time scipy's
`solve_ivp` with tight tolerances. Boundary value problems in space have no reference here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy import fft, integrate, interpolate

from kanrun.engine.equations import Condition, System
from kanrun.formulas import to_numpy
from kanrun.formulas.equations import Relation
from kanrun.formulas.functions import variable

Array = NDArray[np.float64]
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]


@dataclass(frozen=True)
class ReferencePolicy:
    """Resolution and tolerances: the reference is to be more precise than what is compared with it."""

    nodes: int = 1601  #: of the space grid with walls
    ring: int = 1024  #: of the periodic space grid
    times: int = 401  #: kept, between which cubic splines interpolate
    relative: float = 1e-10  #: tolerances of the time steps
    absolute: float = 1e-12


def reference_of(system: System, policy: ReferencePolicy = ReferencePolicy()) -> Reference | None:
    """A reference for initial value problems in time, alone or with one space variable; None for all others.

    The last variable is time. Sought constants must have no guesses left: give a system without them.
    """
    if system.vocabulary.constants or system.measured or not system.evolves:
        return None
    solved = _solved_for_time(system)
    if solved is None:
        return None
    if len(system.box) == 1:
        return _ordinary(system, solved, policy)
    first_order = all(order == 1 for order in solved.orders)
    if len(system.box) == 2 and len(system.vocabulary.unknowns) == 1 and first_order:
        return _by_lines(system, solved, policy)
    return None


@dataclass(frozen=True)
class _Solved:
    """For each unknown its highest derivative in time as a formula of `names`, and the order of that derivative."""

    formulas: tuple[sympy.Expr, ...]
    orders: tuple[int, ...]


def _time_name(system: System, unknown: str, order: int) -> str:
    return f"{unknown}_{system.vocabulary.variables[-1] * order}" if order else unknown


def _solved_for_time(system: System) -> _Solved | None:
    """The equations solved for the highest time derivatives; None where they are not linear in them."""
    variables, orders = len(system.box), []
    for number in range(len(system.vocabulary.unknowns)):
        found = [
            derivative.index[-1]
            for relation in system.equations
            for derivative in relation.derivatives
            if derivative.unknown == number and sum(derivative.index[:-1]) == 0
        ]
        orders.append(max(found, default=0))
    if not all(orders):
        return None
    names = [variable(_time_name(system, u, o)) for u, o in zip(system.vocabulary.unknowns, orders, strict=True)]
    mixed = [
        derivative
        for relation in system.equations
        for derivative in relation.derivatives
        if variables > 1 and derivative.index[-1] > 0 and sum(derivative.index[:-1]) > 0
    ]
    if mixed:
        return None
    found = sympy.solve([relation.expression for relation in system.equations], names, dict=True)
    if len(found) != 1 or any(found[0].get(name) is None or found[0][name].has(*names) for name in names):
        return None
    return _Solved(tuple(found[0][name] for name in names), tuple(orders))


def _initial(system: System, number: int, order: int) -> Condition | None:
    """The condition at the lower end of time that fixes the derivative of that order of unknown `number`."""
    last, start = len(system.box) - 1, float(system.box[-1, 0])
    index = (0,) * last + (order,)
    for condition in system.conditions:
        at_start = all((last, start) in face for face in condition.faces) and condition.faces
        held = condition.relation.derivatives
        if at_start and len(held) == 1 and held[0].unknown == number and held[0].index == index:
            return condition
    return None


def _value(relation: Relation, points: Array) -> Array:
    """The value that a relation linear in its one derivative gives it at points."""
    zeros = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    slope = relation.slopes(zeros)[:, 0]
    return np.asarray(-relation.residual(zeros) / slope)


def _ordinary(system: System, solved: _Solved, policy: ReferencePolicy) -> Reference | None:
    time = system.vocabulary.variables[0]
    start, end = map(float, system.box[0])
    states: list[tuple[int, int]] = [(u, o) for u, order in enumerate(solved.orders) for o in range(order)]
    conditions = [_initial(system, *state) for state in states]
    if any(condition is None for condition in conditions):
        return None
    first = np.array([_value(each.relation, np.array([[start]]))[0] for each in conditions if each is not None])
    names = [time, *(_time_name(system, system.vocabulary.unknowns[u], o) for u, o in states)]
    highest = [to_numpy(formula, names) for formula in solved.formulas]

    def slope(t: float, y: Array) -> Array:
        row = np.concatenate([[t], y])[None]
        return np.array([
            float(highest[u](row)[0]) if o + 1 == solved.orders[u] else y[states.index((u, o + 1))] for u, o in states
        ])  # fmt: skip

    found = integrate.solve_ivp(
        slope, (start, end), first, method="DOP853", rtol=1e-13, atol=policy.absolute, dense_output=True
    )
    if not found.success or found.sol is None:
        return None
    values, kept = found.sol, [states.index((u, 0)) for u in range(len(solved.orders))]
    return lambda points: np.asarray(values(points[:, 0])[kept].T)


def _by_lines(system: System, solved: _Solved, policy: ReferencePolicy) -> Reference | None:
    start_condition = _initial(system, 0, 0)
    ends = [condition for condition in system.conditions if condition is not start_condition]
    if start_condition is None:
        return None
    space = _Ring.of(system, ends, policy) or _Walls.of(system, ends, policy)
    if space is None:
        return None
    variables, unknown = system.vocabulary.variables, system.vocabulary.unknowns[0]
    held = sorted({each.index[0] for relation in system.equations for each in relation.derivatives})
    names = [*variables, *(f"{unknown}_{variables[0] * order}" if order else unknown for order in held)]
    right = to_numpy(solved.formulas[0], names)
    low, high = map(float, system.box[1])

    def slope(t: float, inner: Array) -> Array:
        values = space.filled(inner, t)
        parts = [space.derivative(values, order) for order in held]
        columns = [space.x, np.full_like(space.x, t), *parts]
        return space.inner(np.asarray(right(np.stack(columns, axis=1))))

    times = np.linspace(low, high, policy.times)
    first = _value(start_condition.relation, np.stack([space.x, np.full_like(space.x, low)], axis=1))
    found = integrate.solve_ivp(
        slope, (low, high), space.inner(first), method="LSODA", t_eval=times,
        rtol=policy.relative, atol=policy.absolute, lband=space.band, uband=space.band,
    )  # fmt: skip
    if not found.success:
        return None
    values = np.stack([space.closed(space.filled(found.y[:, i], t)) for i, t in enumerate(times)])
    table = interpolate.RectBivariateSpline(times, space.closed_x, values, kx=3, ky=5)
    return lambda points: np.asarray(table(points[:, 1], points[:, 0], grid=False))[:, None]


class _Ring:
    """A periodic space grid: derivatives by the discrete Fourier transform."""

    band: int | None = None

    def __init__(self, low: float, high: float, nodes: int) -> None:
        self.x = low + (high - low) * np.arange(nodes) / nodes
        self.closed_x = np.append(self.x, high)
        self._wave = 2j * np.pi * fft.rfftfreq(nodes, d=(high - low) / nodes)

    @classmethod
    def of(cls, system: System, ends: list[Condition], policy: ReferencePolicy) -> _Ring | None:
        if not ends or any(condition.periodic != 0 for condition in ends):
            return None
        low, high = system.box[0].tolist()
        return cls(low, high, policy.ring)

    def derivative(self, values: Array, order: int) -> Array:
        return values if order == 0 else np.asarray(fft.irfft(self._wave**order * fft.rfft(values), n=len(values)))

    def filled(self, inner: Array, t: float) -> Array:
        return inner

    def inner(self, values: Array) -> Array:
        return values

    def closed(self, values: Array) -> Array:
        return np.append(values, values[0])


class _Walls:
    """A space grid with one condition, on the value or the slope, at each end; differences over seven nodes."""

    band = 7

    def __init__(self, low: float, high: float, nodes: int, ends: list[Relation]) -> None:
        self.x = self.closed_x = np.linspace(low, high, nodes)
        self._ends = ends
        self._step = (high - low) / (nodes - 1)
        self._weights = {order: _difference_weights(order) for order in range(1, 5)}

    @classmethod
    def of(cls, system: System, ends: list[Condition], policy: ReferencePolicy) -> _Walls | None:
        found: list[Relation] = []
        for end in map(float, system.box[0]):
            there = [each for each in ends if any((0, end) in face for face in each.faces)]
            if len(there) != 1 or len(there[0].relation.derivatives) != 1:
                return None
            if there[0].relation.derivatives[0].index not in ((0, 0), (1, 0)):
                return None
            found.append(there[0].relation)
        low, high = system.box[0].tolist()
        return cls(low, high, policy.nodes, found)

    def derivative(self, values: Array, order: int) -> Array:
        if order == 0:
            return values
        inside, left = self._weights[order]
        result = np.empty_like(values)
        result[3:-3] = np.convolve(values, inside[::-1], mode="valid")
        for i in range(3):
            result[i] = left[i] @ values[:7]
            result[-1 - i] = (-1) ** order * (left[i] @ values[:-8:-1])
        return result / self._step**order

    def filled(self, inner: Array, t: float) -> Array:
        """All nodes from the inner ones: the ends follow from their conditions."""
        values = np.concatenate([[0.0], inner, [0.0]])
        left = self._weights[1][1][0] / self._step
        for end, relation in ((0, self._ends[0]), (-1, self._ends[1])):
            wanted = float(_value(relation, np.array([[self.x[end], t]]))[0])
            if relation.derivatives[0].index == (0, 0):
                values[end] = wanted
            else:
                sign = 1.0 if end == 0 else -1.0
                near = values[1:7] if end == 0 else values[-2:-8:-1]
                values[end] = (sign * wanted - left[1:] @ near) / left[0]
        return values

    def inner(self, values: Array) -> Array:
        return values[1:-1]

    def closed(self, values: Array) -> Array:
        return values


def _difference_weights(order: int) -> tuple[Array, Array]:
    """Weights of seven nodes at unit distance for a derivative at the middle node, and at the first three."""
    nodes = np.arange(7.0)
    rows = []
    for at in (3.0, 0.0, 1.0, 2.0):
        powers = np.vander(nodes - at, 7, increasing=True).T
        rows.append(np.linalg.solve(powers, np.eye(7)[order] * float(sympy.factorial(order))))
    return rows[0], np.stack(rows[1:])
