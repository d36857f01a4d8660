"""Numerical reference solutions of ordinary equations and of evolution in one space variable.

Space is discretised by sixth-order finite differences on a uniform grid, by trigonometric
interpolation on a ring, or by Chebyshev's points for equations of second order in time. Time is
integrated by scipy's `solve_ivp` with tight tolerances. Boundary value problems in space have no
reference here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]
#: Settings of `solve_ivp`, and the number of evaluations that it may take.
Attempt = tuple[int, dict[str, Any]]
#: Nodes of a finite difference.
STENCIL = 7


@dataclass(frozen=True)
class ReferencePolicy:
    """Resolution and tolerances of references, which must be more precise than the networks."""

    #: Nodes between walls, for equations of first order in time.
    nodes: int = 1601
    #: Nodes for second order in time: differences at walls would excite their waves.
    chebyshev: int = 80
    #: Nodes of a periodic grid: the first number for which the highest tenth of the frequencies is
    #: below `tail`.
    rings: tuple[int, ...] = (128, 256, 512, 1024)
    tail: float = 1e-9
    #: Stored times and places, between which splines interpolate.
    stored: int = 401
    #: Relative tolerances of the time steps, and of the first attempt at ordinary equations.
    relative: float = 1e-10
    ordinary: float = 1e-13
    absolute: float = 1e-12
    #: Evaluations of an explicit method on a periodic grid before an implicit one is tried.
    explicit: int = 60_000
    #: Largest number of evaluations in time; beyond it there is no reference.
    evaluations: int = 50_000


def _given_values(relation: Relation, points: Array) -> Array:
    """Return the values that a relation linear in its one derivative gives it at points."""
    zeros = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    return np.asarray(-relation.residual(zeros) / relation.slopes(zeros)[:, 0])


@dataclass(frozen=True)
class SpaceGrid:
    """Nodes with the derivatives of values there, by order from 1 on.

    With `ends`, one condition on the value or the slope at each, the two outer nodes follow from
    the others by the rows `slopes` (2, nodes) of the first derivative. `closed` gives the values at
    evenly spaced places, both ends included.
    """

    x: Array
    derivative: Callable[[Array, int], Array] = lambda values, _: values
    ends: Sequence[Relation] = ()
    slopes: Array | None = None
    closed: Callable[[Array], Array] = np.asarray

    def fill(self, values: Array, t: float) -> Array:
        """Return the values with those at the ends as their conditions require."""
        if not self.ends or self.slopes is None:
            return values
        values, sides, rows, right = values.copy(), [0, -1], np.eye(2), np.zeros(2)
        for i, relation in enumerate(self.ends):
            right[i] = _given_values(relation, np.array([[self.x[sides[i]], t]]))[0]
            if relation.derivatives[0].index != (0, 0):
                rows[i] = self.slopes[i, sides]
                right[i] -= self.slopes[i, 1:-1] @ values[1:-1]
        values[sides] = np.linalg.solve(rows, right)
        return values


def ring(low: float, high: float, nodes: int) -> SpaceGrid:
    """Return a periodic grid: derivatives by the discrete Fourier transform."""
    wave = 2j * np.pi * fft.rfftfreq(nodes, d=(high - low) / nodes)
    return SpaceGrid(
        low + (high - low) * np.arange(nodes) / nodes,
        lambda values, order: np.asarray(fft.irfft(wave**order * fft.rfft(values), n=nodes)),
        closed=lambda values: np.append(values, values[0]),
    )


def differences(low: float, high: float, nodes: int, ends: Sequence[Relation]) -> SpaceGrid:
    """Return evenly spaced nodes: differences over the nearest nodes."""
    number, step = np.arange(nodes)[:, None], (high - low) / (nodes - 1)
    columns = np.clip(number - STENCIL // 2, 0, nodes - STENCIL) + np.arange(STENCIL)
    powers = (columns - number).astype(float)[:, None, :] ** np.arange(STENCIL)[:, None]
    places = (np.broadcast_to(number, columns.shape).ravel(), columns.ravel())
    matrices = []
    for order in range(1, MAX_ORDER + 1):
        wanted = np.eye(STENCIL)[order][:, None] * math.factorial(order)
        weights = np.linalg.solve(powers, np.broadcast_to(wanted, (nodes, STENCIL, 1)))
        entries = weights.ravel() / step**order
        matrices.append(sparse.csr_array((entries, places), shape=(nodes, nodes)))
    return SpaceGrid(
        np.linspace(low, high, nodes),
        lambda values, order: np.asarray(matrices[order - 1] @ values),
        ends,
        matrices[0][[0, -1]].toarray(),
    )


def chebyshev_points(
    low: float, high: float, nodes: int, ends: Sequence[Relation], stored: int
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
    even = chebyshev.chebvander(np.linspace(-1, 1, stored), nodes - 1) @ inverse
    return SpaceGrid(
        low + (points + 1) / 2 * (high - low),
        lambda values, order: np.asarray(matrices[order - 1] @ values),
        ends,
        matrices[0][[0, -1]],
        lambda values: np.asarray(even @ values),
    )


@dataclass(frozen=True)
class _Evolution:
    """A system solved for its highest time derivatives.

    The formulas contain x, t, and derivatives in space and in time. `states` are the pairs
    (unknown, order in time) that are integrated, `starts` their initial conditions.
    """

    system: System
    formulas: tuple[sympy.Expr, ...]
    states: tuple[tuple[int, int], ...]
    starts: tuple[Condition, ...]

    def name(self, unknown: int, in_space: int, in_time: int = 0) -> str:
        """Return the name of a derivative of an unknown in formulas."""
        return _name(self.system, unknown, in_space, in_time)

    def slope(self, grids: Sequence[SpaceGrid]) -> Callable[[float, Array], Array]:
        """Return a function of time and states to the time derivatives of all states."""
        system, states, x, count = self.system, self.states, grids[0].x, len(self.states)
        places = [x] if len(system.box) > 1 else []
        derivatives = (d for relation in system.equations for d in relation.derivatives)
        contained = sorted({(d.unknown, sum(d.index[:-1])) for d in derivatives})
        lower = [number for number, (_, order) in enumerate(states) if order]
        names = [
            *system.vocabulary.variables,
            *(self.name(u, order) for u, order in contained),
            *(self.name(states[number][0], 0, states[number][1]) for number in lower),
        ]
        right = [to_numpy(formula, names) for formula in self.formulas]

        def slope(t: float, y: Array) -> Array:
            rows = y.reshape(len(x), count)
            now = [grid.fill(rows[:, states.index((u, 0))], t) for u, grid in enumerate(grids)]
            parts = [grids[u].derivative(now[u], k) if k else now[u] for u, k in contained]
            columns = [*places, np.full_like(x, t), *parts, *(rows[:, each] for each in lower)]
            values, result = np.stack(columns, axis=1), np.empty_like(rows)
            for i, (u, order) in enumerate(states):
                higher = (u, order + 1) in states
                result[:, i] = rows[:, i + 1] if higher else right[u](values)
                if grids[u].ends:  # These nodes follow from the conditions.
                    result[[0, -1], i] = 0.0
            return result.reshape(-1)

        return slope

    def integrate(
        self, grids: Sequence[SpaceGrid], attempts: Sequence[Attempt], **settings: Any
    ) -> Any | None:
        """Integrate by the first of `attempts` that reaches the end, or return None."""
        (low, high), x, slope = self.system.box[-1].tolist(), grids[0].x, self.slope(grids)
        at = np.stack([*([x] if len(self.system.box) > 1 else []), np.full_like(x, low)], axis=1)
        starts = [_given_values(condition.relation, at) for condition in self.starts]
        for evaluations, method in attempts:
            calls = itertools.count()

            def counted(
                t: float, y: Array, calls: Any = calls, evaluations: int = evaluations
            ) -> Array:
                if next(calls) >= evaluations:
                    raise ValueError("too many evaluations")
                return slope(t, y)

            with suppress(ValueError):  # Scipy raises it for slopes that are not finite.
                start = np.stack(starts, axis=1).reshape(-1)
                found = integrate.solve_ivp(counted, (low, high), start, **settings, **method)
                if found.success:
                    return found
        return None

    def table(
        self, grids: Sequence[SpaceGrid], attempts: Sequence[Attempt], policy: ReferencePolicy
    ) -> Array | None:
        """Return the unknowns (times, nodes, unknowns) at evenly spaced times and nodes."""
        low, high = self.system.box[1].tolist()
        times = np.linspace(low, high, policy.stored)
        tolerances = {"rtol": policy.relative, "atol": policy.absolute}
        found = self.integrate(grids, attempts, t_eval=times, **tolerances)
        if found is None or not np.isfinite(found.y).all():
            return None
        kept = found.y.reshape(len(grids[0].x), len(self.states), -1)
        tables = []
        for u, grid in enumerate(grids):
            values = kept[:, self.states.index((u, 0))].T
            rows = zip(values, times, strict=True)
            tables.append([grid.closed(grid.fill(row, t)) for row, t in rows])
        return np.stack(tables, axis=2)


def _name(system: System, unknown: int, in_space: int, in_time: int) -> str:
    variables = system.vocabulary.variables
    suffix = variables[0] * in_space + variables[-1] * in_time
    return system.vocabulary.unknowns[unknown] + (f"_{suffix}" if suffix else "")


def reference_of(system: System, policy: ReferencePolicy = ReferencePolicy()) -> Reference | None:
    """Return a reference for an initial value problem in at most one space variable, or None.

    The last variable is time. Unknown parameters must have values: give a system without them.
    """
    known = not system.vocabulary.constants and not system.observations
    if not known or not system.is_evolution or len(system.box) > 2:
        return None
    if (evolution := _evolution(system)) is None:
        return None
    if len(system.box) == 1:
        grids = [SpaceGrid(np.zeros(1))] * len(evolution.formulas)
        attempts: list[Attempt] = [
            (policy.evaluations, {"method": "DOP853", "rtol": policy.ordinary}),
            (policy.evaluations, {"method": "Radau", "rtol": policy.relative}),
        ]
        found = evolution.integrate(grids, attempts, atol=policy.absolute, dense_output=True)
        if found is None or found.sol is None:
            return None
        kept = [number for number, (_, order) in enumerate(evolution.states) if order == 0]
        return lambda points: np.asarray(found.sol(points[:, 0])[kept].T)
    table = _table_in_space(evolution, policy)
    if table is None:
        return None
    (left, right), (low, high) = system.box.tolist()
    x, times = np.linspace(left, right, table.shape[1]), np.linspace(low, high, policy.stored)
    splines = [
        interpolate.RectBivariateSpline(times, x, table[..., u], kx=3, ky=5)
        for u in range(table.shape[2])
    ]
    return lambda points: np.stack(
        [each(points[:, 1], points[:, 0], grid=False) for each in splines], axis=1
    )


def _evolution(system: System) -> _Evolution | None:
    """Solve the system for its highest time derivatives.

    Return None if it is not linear in them, or an initial condition is missing.
    """
    unknowns, last = range(len(system.vocabulary.unknowns)), len(system.box) - 1
    contained = [each for relation in system.equations for each in relation.derivatives]
    in_time = [d for d in contained if not any(d.index[:-1])]
    orders = [max((d.index[-1] for d in in_time if d.unknown == u), default=0) for u in unknowns]
    if not all(orders) or any(d.index[-1] and sum(d.index[:-1]) for d in contained):
        return None
    names = [variable(_name(system, u, 0, orders[u])) for u in unknowns]
    found = sympy.solve([relation.expression for relation in system.equations], names, dict=True)
    if len(found) != 1:
        return None
    formulas = tuple(found[0].get(name) for name in names)
    if any(each is None or each.has(*names) for each in formulas):
        return None
    states, starts = tuple((u, o) for u in unknowns for o in range(orders[u])), list[Condition]()
    begin = (last, float(system.box[-1, 0]))
    for u, o in states:
        for condition in system.conditions:
            initial = condition.faces and all(begin in face for face in condition.faces)
            given = [(d.unknown, d.index) for d in condition.relation.derivatives]
            if initial and given == [(u, (0,) * last + (o,))]:
                starts.append(condition)
                break
    if len(starts) < len(states):
        return None
    return _Evolution(system, formulas, states, tuple(starts))


def _table_in_space(evolution: _Evolution, policy: ReferencePolicy) -> Array | None:
    """Return the unknowns (times, nodes, unknowns) in one space variable, or None."""
    system, count = evolution.system, len(evolution.formulas)
    low, high = system.box[0].tolist()
    ends = [condition for condition in system.conditions if condition not in evolution.starts]
    if ends and all(each.periodic == 0 for each in ends):
        # Waves in a ring need no implicit steps, which damp them.
        attempts: list[Attempt] = [
            (policy.explicit, {"method": "DOP853"}),
            (policy.evaluations, {"method": "LSODA"}),
        ]
        table = None
        for nodes in policy.rings:
            table = evolution.table([ring(low, high, nodes)] * count, attempts, policy)
            if table is None:
                return None
            spectrum = np.abs(fft.rfft(table[:, :-1], axis=1)).max(axis=(0, 2))
            if spectrum[-len(spectrum) // 10 :].max() <= policy.tail * spectrum.max():
                break
        return table
    walls = [_wall_conditions(system, number, ends) for number in range(count)]
    known = [each for each in walls if each is not None]
    if any(each.periodic == 0 for each in ends) or len(known) < count:
        return None
    if any(order for _, order in evolution.states):
        nodes = policy.chebyshev
        grids = [chebyshev_points(low, high, nodes, each, policy.stored) for each in known]
        return evolution.table(grids, [(policy.evaluations, {"method": "DOP853"})], policy)
    band = STENCIL * len(evolution.states)
    grids = [differences(low, high, policy.nodes, each) for each in known]
    method = {"method": "LSODA", "lband": band, "uband": band}
    return evolution.table(grids, [(policy.evaluations, method)], policy)


def _wall_conditions(system: System, unknown: int, ends: list[Condition]) -> list[Relation] | None:
    """Return the conditions of an unknown at both ends; [] if it needs none.

    Return None unless there is one at each end.
    """
    mine = [each for each in ends if any(d.unknown == unknown for d in each.relation.derivatives)]
    derivatives = (d for relation in system.equations for d in relation.derivatives)
    if not mine and not any(d.index[0] for d in derivatives if d.unknown == unknown):
        return []
    found: list[Relation] = []
    for end in system.box[0].tolist():
        there = [each.relation for each in mine if any((0, end) in face for face in each.faces)]
        if len(there) != 1 or [d.index for d in there[0].derivatives] not in ([(0, 0)], [(1, 0)]):
            return None
        found.append(there[0])
    return found
