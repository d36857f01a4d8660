"""Numerical reference solutions of ordinary equations and of evolution in one space variable.

In space sixth-order finite differences on a uniform grid, trigonometric interpolation on a ring,
Chebyshev's points for equations of second order in time; in time scipy's `solve_ivp` with tight
tolerances. Boundary value problems in space have no reference here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sympy
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import fft, integrate, interpolate, sparse

from kanrun.engine.equations import Condition, System
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import MAX_ORDER, Relation

Array = NDArray[np.float64]
#: Nodes of a difference.
_STENCIL = 7
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]


@dataclass(frozen=True)
class ReferencePolicy:
    """Resolution and tolerances of references, which must be more precise than the networks."""

    #: Nodes between walls, for equations of first order in time.
    nodes: int = 1601
    #: Nodes for second order in time: differences at walls would excite their waves.
    chebyshev: int = 80
    #: Evenly spaced places at which these solutions are stored.
    even: int = 401
    #: Nodes of a periodic grid: the first number for which the highest tenth of the frequencies is
    #: below `tail`.
    rings: tuple[int, ...] = (128, 256, 512, 1024)
    tail: float = 1e-9
    #: Stored times, between which cubic splines interpolate.
    times: int = 401
    #: Relative tolerances of the time steps, and of the first attempt at ordinary equations.
    relative: float = 1e-10
    ordinary: float = 1e-13
    absolute: float = 1e-12
    #: Evaluations of an explicit method on a periodic grid before an implicit one is tried.
    explicit: int = 60_000
    #: Largest number of evaluations in time; beyond it there is no reference.
    evaluations: int = 50_000


def value_of(relation: Relation, points: Array) -> Array:
    """Return the value that a relation linear in its one derivative gives it at points."""
    zeros = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    return np.asarray(-relation.residual(zeros) / relation.slopes(zeros)[:, 0])


@dataclass(frozen=True)
class SpaceGrid:
    """Nodes with derivatives of values there, by order from 1 on.

    With `ends`, one condition on the value or the slope at each, the two outer nodes follow from
    the others by the rows `slopes` (2, nodes) of the first derivative. `closed` gives the values at
    evenly spaced places, both ends included.
    """

    x: Array
    derivatives: Sequence[Callable[[Array], Array]] = ()
    ends: Sequence[Relation] = ()
    slopes: Array | None = None
    closed: Callable[[Array], Array] = np.asarray

    def filled(self, values: Array, t: float) -> Array:
        """Return the values with those at the ends as their conditions require."""
        if not self.ends or self.slopes is None:
            return values
        values, sides, rows, right = values.copy(), [0, -1], np.eye(2), np.zeros(2)
        for i, relation in enumerate(self.ends):
            right[i] = value_of(relation, np.array([[self.x[sides[i]], t]]))[0]
            if relation.derivatives[0].index != (0, 0):
                rows[i] = self.slopes[i, sides]
                right[i] -= self.slopes[i, 1:-1] @ values[1:-1]
        values[sides] = np.linalg.solve(rows, right)
        return values


def _product(matrix: Any) -> Callable[[Array], Array]:
    return lambda values: np.asarray(matrix @ values)


def ring(low: float, high: float, nodes: int) -> SpaceGrid:
    """Return a periodic grid: derivatives by the discrete Fourier transform."""
    wave = 2j * np.pi * fft.rfftfreq(nodes, d=(high - low) / nodes)

    def derivative(values: Array, order: int) -> Array:
        return np.asarray(fft.irfft(wave**order * fft.rfft(values), n=len(values)))

    by_order = [partial(derivative, order=order) for order in range(1, MAX_ORDER + 1)]
    x = low + (high - low) * np.arange(nodes) / nodes
    return SpaceGrid(x, by_order, closed=lambda values: np.append(values, values[0]))


def differences(low: float, high: float, nodes: int, ends: Sequence[Relation]) -> SpaceGrid:
    """Return evenly spaced nodes: differences over the seven nearest nodes."""
    number, step = np.arange(nodes)[:, None], (high - low) / (nodes - 1)
    columns = np.clip(number - _STENCIL // 2, 0, nodes - _STENCIL) + np.arange(_STENCIL)
    powers = (columns - number).astype(float)[:, None, :] ** np.arange(_STENCIL)[:, None]
    matrices = []
    for order in range(1, MAX_ORDER + 1):
        wanted = np.broadcast_to(
            np.eye(_STENCIL)[order][:, None] * math.factorial(order), (nodes, _STENCIL, 1)
        )
        weights = np.linalg.solve(powers, wanted)[..., 0] / step**order
        rows = np.broadcast_to(number, columns.shape)
        matrices.append(
            sparse.csr_array(
                (weights.ravel(), (rows.ravel(), columns.ravel())), shape=(nodes, nodes)
            )
        )
    return SpaceGrid(
        np.linspace(low, high, nodes),
        [_product(each) for each in matrices],
        ends,
        matrices[0][[0, -1]].toarray(),
    )


def chebyshev_points(
    low: float, high: float, nodes: int, ends: Sequence[Relation], even: int
) -> SpaceGrid:
    """Return Chebyshev's points: derivatives of the polynomial through all of them."""
    points = -np.cos(np.pi * np.arange(nodes) / (nodes - 1))
    inverse = np.linalg.inv(chebyshev.chebvander(points, nodes - 1))
    matrices = [
        chebyshev.chebvander(points, nodes - 1 - order)
        @ chebyshev.chebder(np.eye(nodes), order)
        @ inverse
        * (2 / (high - low)) ** order
        for order in range(1, MAX_ORDER + 1)
    ]
    places = chebyshev.chebvander(np.linspace(-1, 1, even), nodes - 1) @ inverse
    x = low + (points + 1) / 2 * (high - low)
    return SpaceGrid(
        x, [_product(each) for each in matrices], ends, matrices[0][[0, -1]], _product(places)
    )


@dataclass(frozen=True)
class _Evolution:
    """A system solved for its highest time derivatives.

    The formulas contain x, t, and derivatives in space and in time.

    `states` are the pairs (unknown, order in time) that are integrated, `starts` their conditions
    at the beginning.
    """

    system: System
    formulas: tuple[sympy.Expr, ...]
    states: tuple[tuple[int, int], ...]
    starts: tuple[Condition, ...]


def reference_of(system: System, policy: ReferencePolicy = ReferencePolicy()) -> Reference | None:
    """Return a reference for an initial value problem in at most one space variable, or None.

    The last variable is time. Sought constants must have no guesses left: give a system without
    them.
    """
    if (
        system.vocabulary.constants
        or system.observations
        or not system.is_evolution
        or len(system.box) > 2
    ):
        return None
    found = _evolution(system)
    if found is None:
        return None
    if len(system.box) == 1:
        return _ordinary(found, policy)
    ends = [condition for condition in system.conditions if condition not in found.starts]
    table = _in_ring(found, policy) if ends and all(each.periodic == 0 for each in ends) else None
    if not any(each.periodic == 0 for each in ends):
        table = _between_walls(found, ends, policy)
    if table is None:
        return None
    (left, right), (low, high) = system.box.tolist()
    x, times = np.linspace(left, right, table.shape[1]), np.linspace(low, high, policy.times)
    made = [
        interpolate.RectBivariateSpline(times, x, table[..., u], kx=3, ky=5)
        for u in range(table.shape[2])
    ]
    return lambda points: np.stack(
        [each(points[:, 1], points[:, 0], grid=False) for each in made], axis=1
    )


def _evolution(system: System) -> _Evolution | None:
    """Solve the system for its highest time derivatives.

    Return None if it is not linear in them, or an initial condition is missing.
    """
    unknowns, last = range(len(system.vocabulary.unknowns)), len(system.box) - 1
    held = [each for relation in system.equations for each in relation.derivatives]
    orders = [
        max((d.index[-1] for d in held if d.unknown == u and not sum(d.index[:-1])), default=0)
        for u in unknowns
    ]
    if not all(orders) or any(d.index[-1] and sum(d.index[:-1]) for d in held):
        return None
    names = [variable(_in_time(system, u, orders[u])) for u in unknowns]
    found = sympy.solve([relation.expression for relation in system.equations], names, dict=True)
    if len(found) != 1 or any(
        found[0].get(name) is None or found[0][name].has(*names) for name in names
    ):
        return None
    states, starts = tuple((u, o) for u in unknowns for o in range(orders[u])), list[Condition]()
    begin = (last, float(system.box[-1, 0]))
    for u, o in states:
        for condition in system.conditions:
            at_start = condition.faces and all(begin in face for face in condition.faces)
            if at_start and [(d.unknown, d.index) for d in condition.relation.derivatives] == [
                (u, (0,) * last + (o,))
            ]:
                starts.append(condition)
                break
    if len(starts) < len(states):
        return None
    return _Evolution(system, tuple(found[0][name] for name in names), states, tuple(starts))


def _in_time(system: System, unknown: int, order: int) -> str:
    name = system.vocabulary.unknowns[unknown]
    return f"{name}_{system.vocabulary.variables[-1] * order}" if order else name


def _ordinary(evolution: _Evolution, policy: ReferencePolicy) -> Reference | None:
    tries: list[tuple[int, dict[str, Any]]] = [
        (policy.evaluations, {"method": "DOP853", "rtol": policy.ordinary}),
        (policy.evaluations, {"method": "Radau", "rtol": policy.relative}),
    ]
    grids = [SpaceGrid(np.zeros(1))] * len(evolution.formulas)
    found = _integrated(evolution, grids, tries, atol=policy.absolute, dense_output=True)
    if found is None or found.sol is None:
        return None
    values, kept = (
        found.sol,
        [number for number, (_, order) in enumerate(evolution.states) if order == 0],
    )
    return lambda points: np.asarray(values(points[:, 0])[kept].T)


def _in_ring(evolution: _Evolution, policy: ReferencePolicy) -> Array | None:
    low, high = evolution.system.box[0].tolist()
    tries = [(policy.explicit, {"method": "DOP853"}), (policy.evaluations, {"method": "LSODA"})]
    table = None  # waves in a ring need no implicit steps, which damp them
    for nodes in policy.rings:
        table = _by_lines(
            evolution, [ring(low, high, nodes)] * len(evolution.formulas), tries, policy
        )
        if table is None:
            return None
        spectrum = np.abs(fft.rfft(table[:, :-1], axis=1)).max(axis=(0, 2))
        if spectrum[-len(spectrum) // 10 :].max() <= policy.tail * spectrum.max():
            break
    return table


def _between_walls(
    evolution: _Evolution, ends: list[Condition], policy: ReferencePolicy
) -> Array | None:
    low, high = evolution.system.box[0].tolist()
    known = [_at_walls(evolution.system, number, ends) for number in range(len(evolution.formulas))]
    walls = [each for each in known if each is not None]
    if len(walls) < len(known):
        return None
    tries: list[tuple[int, dict[str, Any]]]
    if any(order for _, order in evolution.states):
        grids = [chebyshev_points(low, high, policy.chebyshev, each, policy.even) for each in walls]
        tries = [(policy.evaluations, {"method": "DOP853"})]
    else:
        band = 7 * len(evolution.states)
        grids = [differences(low, high, policy.nodes, each) for each in walls]
        tries = [(policy.evaluations, {"method": "LSODA", "lband": band, "uband": band})]
    return _by_lines(evolution, grids, tries, policy)


def _by_lines(
    evolution: _Evolution,
    grids: Sequence[SpaceGrid],
    tries: Sequence[tuple[int, dict[str, Any]]],
    policy: ReferencePolicy,
) -> Array | None:
    """Return the unknowns (times, nodes, unknowns) at evenly spaced times and nodes."""
    begin, end = evolution.system.box[1].tolist()
    times = np.linspace(begin, end, policy.times)
    found = _integrated(
        evolution, grids, tries, t_eval=times, rtol=policy.relative, atol=policy.absolute
    )
    if found is None or not np.isfinite(found.y).all():
        return None
    kept = found.y.reshape(len(grids[0].x), len(evolution.states), -1)
    places = [evolution.states.index((u, 0)) for u in range(len(grids))]
    tables = [
        [grid.closed(grid.filled(kept[:, place, i], t)) for i, t in enumerate(times)]
        for grid, place in zip(grids, places, strict=True)
    ]
    return np.stack(tables, axis=2)


def _integrated(
    evolution: _Evolution,
    grids: Sequence[SpaceGrid],
    tries: Sequence[tuple[int, dict[str, Any]]],
    **settings: Any,
) -> Any | None:
    """Integrate by the first of `tries` that reaches the end, or return None.

    Each is a method with the number of evaluations that it may take.
    """
    system, states, unknowns = (
        evolution.system,
        evolution.states,
        evolution.system.vocabulary.unknowns,
    )
    space, (low, high) = system.vocabulary.variables[:-1], system.box[-1].tolist()
    x, count = grids[0].x, len(states)
    held = sorted(
        {
            (d.unknown, sum(d.index[:-1]))
            for relation in system.equations
            for d in relation.derivatives
        }
    )
    named = [f"{unknowns[u]}_{space[0] * order}" if order else unknowns[u] for u, order in held]
    lower = [number for number, (_, order) in enumerate(states) if order]
    names = [
        *system.vocabulary.variables,
        *named,
        *(_in_time(system, *states[number]) for number in lower),
    ]
    right = [to_numpy(formula, names) for formula in evolution.formulas]
    places = [x] if space else []

    def slope(t: float, y: Array) -> Array:
        rows = y.reshape(len(x), count)
        now = [grid.filled(rows[:, states.index((u, 0))], t) for u, grid in enumerate(grids)]
        parts = [grids[u].derivatives[order - 1](now[u]) if order else now[u] for u, order in held]
        columns = np.stack(
            [*places, np.full_like(x, t), *parts, *(rows[:, number] for number in lower)], axis=1
        )
        result = np.empty_like(rows)
        for i, (u, o) in enumerate(states):
            result[:, i] = rows[:, i + 1] if (u, o + 1) in states else right[u](columns)
            if grids[u].ends:  # nodes at ends with conditions do not move by the equation
                result[[0, -1], i] = 0.0
        return result.reshape(-1)

    at = np.stack([*places, np.full_like(x, low)], axis=1)
    begun = np.stack(
        [value_of(condition.relation, at) for condition in evolution.starts], axis=1
    ).reshape(-1)
    for most, method in tries:
        calls = itertools.count()

        def counted(
            t: float, y: Array, calls: itertools.count[int] = calls, most: int = most
        ) -> Array:
            if next(calls) >= most:
                raise ValueError("too many evaluations")
            return slope(t, y)

        with suppress(ValueError):  # scipy refuses slopes that are not finite by a ValueError
            found = integrate.solve_ivp(counted, (low, high), begun, **settings, **method)
            if found.success:
                return found
    return None


def _at_walls(system: System, unknown: int, ends: list[Condition]) -> list[Relation] | None:
    """Return the conditions of an unknown at both ends; [] if it needs none.

    Return None unless there is one at each end.
    """
    of_it = [each for each in ends if any(d.unknown == unknown for d in each.relation.derivatives)]
    held = [
        d for relation in system.equations for d in relation.derivatives if d.unknown == unknown
    ]
    if not of_it and not any(d.index[0] for d in held):
        return []
    found: list[Relation] = []
    for end in system.box[0].tolist():
        there = [each.relation for each in of_it if any((0, end) in face for face in each.faces)]
        if len(there) != 1 or [d.index for d in there[0].derivatives] not in ([(0, 0)], [(1, 0)]):
            return None
        found.append(there[0])
    return found
