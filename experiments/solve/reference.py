"""Plain numerical solutions to compare with: ordinary equations by Runge-Kutta, evolution in one space by lines.

In space sixth-order finite differences on a uniform grid, trigonometric interpolation on a ring, Chebyshev's points
for equations of second order in time; in time scipy's `solve_ivp` with tight tolerances. Boundary value problems in
space have no reference here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from kanrun.experiments.solve.space_grids import Chebyshev, Ring, Walls, value_of
from numpy.typing import NDArray
from scipy import fft, integrate, interpolate

from kanrun.engine.equations import Condition, System
from kanrun.formulas import to_numpy
from kanrun.formulas.equations import Relation
from kanrun.formulas.parsing import variable

Array = NDArray[np.float64]
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]


@dataclass(frozen=True)
class ReferencePolicy:
    """Resolution and tolerances: the reference is to be more precise than what is compared with it."""

    nodes: int = 1601  #: of the space grid with walls, for equations of first order in time
    chebyshev: int = 80  #: nodes for equations of second order in time, whose waves differences at walls would excite
    even: int = 401  #: evenly spaced places at which these solutions are kept
    #: Nodes of a periodic grid, the first number for which the highest tenth of the frequencies is below `tail`.
    rings: tuple[int, ...] = (128, 256, 512, 1024)
    tail: float = 1e-9
    times: int = 401  #: kept, between which cubic splines interpolate
    relative: float = 1e-10  #: tolerances of the time steps
    absolute: float = 1e-12
    explicit: int = 60_000  #: evaluations of an explicit method on a periodic grid, before an implicit one is tried
    evaluations: int = 50_000  #: of the slope in time at most; beyond it there is no reference


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
    return _by_lines(system, solved, policy) if len(system.box) == 2 else None


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


def _ordinary(system: System, solved: _Solved, policy: ReferencePolicy) -> Reference | None:
    time = system.vocabulary.variables[0]
    start, end = map(float, system.box[0])
    states: list[tuple[int, int]] = [(u, o) for u, order in enumerate(solved.orders) for o in range(order)]
    conditions = [_initial(system, *state) for state in states]
    if any(condition is None for condition in conditions):
        return None
    first = np.array([value_of(each.relation, np.array([[start]]))[0] for each in conditions if each is not None])
    names = [time, *(_time_name(system, system.vocabulary.unknowns[u], o) for u, o in states)]
    highest = [to_numpy(formula, names) for formula in solved.formulas]

    def slope(t: float, y: Array) -> Array:
        row = np.concatenate([[t], y])[None]
        return np.array([
            float(highest[u](row)[0]) if o + 1 == solved.orders[u] else y[states.index((u, o + 1))] for u, o in states
        ])  # fmt: skip

    tries: list[tuple[int, dict[str, Any]]] = [
        (policy.evaluations, {"method": "DOP853", "rtol": 1e-13}),
        (policy.evaluations, {"method": "Radau", "rtol": policy.relative}),
    ]
    found = _stepped(slope, (start, end), first, tries, atol=policy.absolute, dense_output=True)
    if found is None or found.sol is None:
        return None
    values, kept = found.sol, [states.index((u, 0)) for u in range(len(solved.orders))]
    return lambda points: np.asarray(values(points[:, 0])[kept].T)


def _by_lines(system: System, solved: _Solved, policy: ReferencePolicy) -> Reference | None:
    states = [(u, o) for u, order in enumerate(solved.orders) for o in range(order)]
    starts = [_initial(system, *state) for state in states]
    if any(condition is None for condition in starts):
        return None
    ends = [condition for condition in system.conditions if condition not in starts]
    if all(condition.periodic == 0 for condition in ends) and ends:
        kept = None
        for nodes in policy.rings:
            found = _integrated(system, solved, [Ring.over(system, nodes)] * len(solved.orders), policy)
            if found is None:
                return None
            kept, spectrum = found, np.abs(fft.rfft(found[:, :-1], axis=1)).max(axis=(0, 2))
            if spectrum[-len(spectrum) // 10 :].max() <= policy.tail * spectrum.max():
                break
        return None if kept is None else _interpolated(system, kept, policy)
    relations = [_at_walls(system, number, ends) for number in range(len(solved.orders))]
    if any(found is None for found in relations):
        return None
    low, high = system.box[0].tolist()
    spaces: list[Walls | Chebyshev] = [
        Walls(low, high, policy.nodes, found or [])
        if max(solved.orders) == 1
        else Chebyshev(low, high, policy.chebyshev, found or [], policy.even)
        for found in relations
    ]
    table = _integrated(system, solved, spaces, policy)
    return None if table is None else _interpolated(system, table, policy)


def _integrated(
    system: System, solved: _Solved, spaces: Sequence[Ring | Walls | Chebyshev], policy: ReferencePolicy
) -> Array | None:
    """The unknowns (times, nodes, unknowns) at evenly spaced times and nodes, both ends included."""
    variables, unknowns = system.vocabulary.variables, system.vocabulary.unknowns
    states = [(u, o) for u, order in enumerate(solved.orders) for o in range(order)]
    held = sorted({(each.unknown, each.index[0]) for relation in system.equations for each in relation.derivatives})
    named = [f"{unknowns[u]}_{variables[0] * order}" if order else unknowns[u] for u, order in held]
    lower = [_time_name(system, unknowns[u], o) for u, o in states if o]
    right = [to_numpy(formula, [*variables, *named, *lower]) for formula in solved.formulas]
    low, high = map(float, system.box[1])
    x, count = spaces[0].x, len(states)

    def slope(t: float, y: Array) -> Array:
        rows = y.reshape(len(x), count)
        now = [spaces[u].filled(rows[:, states.index((u, 0))], t) for u in range(len(unknowns))]
        parts = [spaces[u].derivative(now[u], order) for u, order in held]
        columns = np.stack(
            [x, np.full_like(x, t), *parts, *(rows[:, i] for i, (_, o) in enumerate(states) if o)], axis=1
        )
        result = np.empty_like(rows)
        for i, (u, o) in enumerate(states):
            result[:, i] = right[u](columns) if o + 1 == solved.orders[u] else rows[:, states.index((u, o + 1))]
            spaces[u].fix(result[:, i])
        return result.reshape(-1)

    times, first = np.linspace(low, high, policy.times), []
    for u, o in states:
        condition = _initial(system, u, o)
        assert condition is not None  # an invariant: asked for before
        first.append(value_of(condition.relation, np.stack([x, np.full_like(x, low)], axis=1)))
    band = None if spaces[0].band is None else spaces[0].band * count
    tries: list[tuple[int, dict[str, Any]]] = [(policy.evaluations, {"method": "LSODA", "lband": band, "uband": band})]
    if isinstance(spaces[0], Chebyshev):
        tries = [(policy.evaluations, {"method": "DOP853"})]
    elif isinstance(spaces[0], Ring):  # waves in a ring need no implicit steps, which damp them
        tries.insert(0, (policy.explicit, {"method": "DOP853"}))
    begun = np.stack(first, axis=1).reshape(-1)
    found = _stepped(slope, (low, high), begun, tries, t_eval=times, rtol=policy.relative, atol=policy.absolute)
    if found is None or not np.isfinite(found.y).all():
        return None
    kept = found.y.reshape(len(x), count, len(times))
    return np.stack(
        [
            np.stack([spaces[u].closed(spaces[u].filled(kept[:, states.index((u, 0)), i], t))
                      for u in range(len(unknowns))], axis=1)
            for i, t in enumerate(times)
        ]
    )  # fmt: skip


class _TooLong(Exception):
    """The time steps take more evaluations than they may."""


def _stepped(
    slope: Callable[[float, Array], Array], span: tuple[float, float], first: Array,
    tries: Sequence[tuple[int, dict[str, Any]]], **settings: Any,
) -> Any | None:  # fmt: skip
    """The first of `tries`, a method with the evaluations that it may take, that reaches the end; None without one."""
    for most, method in tries:
        calls = itertools.count()

        def counted(t: float, y: Array, calls: itertools.count[int] = calls, most: int = most) -> Array:
            if next(calls) >= most:
                raise _TooLong
            return slope(t, y)

        with suppress(_TooLong, ValueError):  # scipy refuses slopes that are not finite by a ValueError
            found = integrate.solve_ivp(counted, span, first, **settings, **method)
            if found.success:
                return found
    return None


def _interpolated(system: System, table: Array, policy: ReferencePolicy) -> Reference:
    (left, right), (low, high) = system.box.tolist()
    x, times = np.linspace(left, right, table.shape[1]), np.linspace(low, high, policy.times)
    made = [interpolate.RectBivariateSpline(times, x, table[..., u], kx=3, ky=5) for u in range(table.shape[2])]
    return lambda points: np.stack([each(points[:, 1], points[:, 0], grid=False) for each in made], axis=1)


def _at_walls(system: System, unknown: int, ends: list[Condition]) -> list[Relation] | None:
    """The conditions of an unknown at both ends, [] where it has none and needs none; None for others than one each."""
    of_it = [each for each in ends if any(d.unknown == unknown for d in each.relation.derivatives)]
    orders = [
        each.index[0] for relation in system.equations for each in relation.derivatives if each.unknown == unknown
    ]
    if max(orders, default=0) == 0 and not of_it:
        return []
    found: list[Relation] = []
    for end in system.box[0].tolist():
        there = [each for each in of_it if any((0, end) in face for face in each.faces)]
        if len(there) != 1 or len(there[0].relation.derivatives) != 1:
            return None
        if there[0].relation.derivatives[0].index not in ((0, 0), (1, 0)):
            return None
        found.append(there[0].relation)
    return found
