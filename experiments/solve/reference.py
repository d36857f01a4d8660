"""Numerical reference solutions, more precise than the networks.

`evolved` integrates ordinary equations, and evolution in one space variable by sixth-order finite
differences, by trigonometric interpolation on a ring, or on Chebyshev's points for equations of
second order in time. `collocated` fits Chebyshev polynomials to linear equations and conditions:
if the fit has full rank, what two resolutions agree on is the solution. Corners, layers or kinks
that polynomials of these degrees do not hold have no such reference. Source: rectangular
collocation (Driscoll and Hale 2016), here with more points than unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import fft, integrate, interpolate, linalg, sparse

from kanrun.engine.equations import Block, Condition, System
from kanrun.engine.equations.residuals import condition_blocks, with_units
from kanrun.engine.equations.system import low_discrepancy
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import MAX_ORDER, Relation

Array = NDArray[np.float64]
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]
#: Settings of `solve_ivp`, and the number of evaluations that it may take.
Attempt = tuple[int, dict[str, Any]]

#: Nodes between walls, for equations of first order in time, and of each of their differences.
NODES, STENCIL = 1601, 7
CHEBYSHEV_NODES = 80  #: For second order in time: differences at walls would excite their waves.
#: Nodes of a periodic grid: the first number for which the highest tenth of the frequencies is
#: below TAIL.
RINGS, TENTH, TAIL = (128, 256, 512, 1024), 10, 1e-9
#: Stored times and places, between which splines of these degrees interpolate.
STORED, TIME_DEGREE, SPACE_DEGREE = 401, 3, 5
#: Relative tolerances of the time steps, and of the first attempt at ordinary equations.
RELATIVE, ORDINARY, ABSOLUTE = 1e-10, 1e-13, 1e-12
#: Largest number of evaluations in time, beyond which there is no reference; and that of an
#: explicit method on a periodic grid before an implicit one is tried.
EVALUATIONS, EXPLICIT = 50_000, 60_000

#: Chebyshev polynomials of each variable, by the number of variables; and coefficients in all.
SIZES, LARGEST = ((24, 48, 96), (16, 24, 32), (7, 9, 11)), 1400
#: Points of each variable of its polynomials, and the weight of a condition's squared residual.
OVERSAMPLING, WEIGHT = 1.4, 1e4
#: Relative difference of two resolutions at most, the number of random points, the singular value
#: relative to the largest below which other functions fit as well.
AGREEMENT, POINTS, SINGULAR = 3e-5, 2000, 1e-13


def reference_of(system: System) -> Reference | None:
    """Return a numerical reference for a system without unknown parameters, or None."""
    return evolved(system) or collocated(system)


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
            if any(relation.derivatives[0].index):
                rows[i] = self.slopes[i, sides]
                right[i] -= self.slopes[i, 1:-1] @ values[1:-1]
        values[sides] = np.linalg.solve(rows, right)
        return values


def _given_values(relation: Relation, points: Array) -> Array:
    """Return the values that a relation linear in its one derivative gives it at points."""
    zeros = np.pad(points, ((0, 0), (0, 1)))
    return np.asarray(-relation.residual(zeros) / relation.slopes(zeros)[:, 0])


def ring(low: float, high: float, nodes: int) -> SpaceGrid:
    """Return a periodic grid: derivatives by the discrete Fourier transform."""
    wave = 2j * np.pi * fft.rfftfreq(nodes, d=(high - low) / nodes)
    return SpaceGrid(
        np.linspace(low, high, nodes, endpoint=False),
        lambda values, order: np.asarray(fft.irfft(wave**order * fft.rfft(values), n=nodes)),
        closed=lambda values: np.append(values, values[0]),
    )


def differences(low: float, high: float, ends: Sequence[Relation]) -> SpaceGrid:
    """Return evenly spaced nodes: differences over the nearest nodes."""
    x, step = np.linspace(low, high, NODES, retstep=True)
    number = np.arange(NODES)[:, None]
    columns = np.clip(number - STENCIL // 2, 0, NODES - STENCIL) + np.arange(STENCIL)
    powers = (columns - number).astype(float)[:, None, :] ** np.arange(STENCIL)[:, None]
    places = (np.broadcast_to(number, columns.shape).ravel(), columns.ravel())
    matrices = []
    for order in range(1, MAX_ORDER + 1):
        wanted = np.eye(STENCIL)[order][:, None] * math.factorial(order)
        weights = np.linalg.solve(powers, np.broadcast_to(wanted, (NODES, STENCIL, 1)))
        matrices.append(sparse.csr_array((weights.ravel() / step**order, places)))
    slopes = matrices[0][[0, -1]].toarray()
    return SpaceGrid(x, lambda values, k: np.asarray(matrices[k - 1] @ values), ends, slopes)


def chebyshev_points(low: float, high: float, ends: Sequence[Relation]) -> SpaceGrid:
    """Return Chebyshev's points: derivatives of the polynomial through all of them."""
    points = chebyshev.chebpts2(CHEBYSHEV_NODES)
    inverse = np.linalg.inv(chebyshev.chebvander(points, CHEBYSHEV_NODES - 1))
    matrices = [
        _polynomials(points, CHEBYSHEV_NODES, order) @ inverse * (2 / (high - low)) ** order
        for order in range(1, MAX_ORDER + 1)
    ]
    even = _polynomials(np.linspace(-1, 1, STORED), CHEBYSHEV_NODES, 0) @ inverse
    return SpaceGrid(
        low + (points + 1) / 2 * (high - low),
        lambda values, order: np.asarray(matrices[order - 1] @ values),
        ends,
        matrices[0][[0, -1]],
        lambda values: np.asarray(even @ values),
    )


def _polynomials(t: Array, size: int, order: int) -> Array:
    """Return derivatives of the first `size` Chebyshev polynomials at t, shape (points, size)."""
    return np.asarray(chebyshev.chebval(t, chebyshev.chebder(np.eye(size), order)).T)


@dataclass(frozen=True)
class _Evolution:
    """A system solved for its highest time derivatives.

    The formulas contain x, t, and derivatives in space and in time. `starts` are the initial
    conditions of the states that are integrated, pairs (unknown, order in time).
    """

    system: System
    formulas: Sequence[sympy.Expr]
    starts: Mapping[tuple[int, int], Condition]

    def slope(self, grids: Sequence[SpaceGrid]) -> Callable[[float, Array], Array]:
        """Return a function of time and states to the time derivatives of all states."""
        system, states, x = self.system, list(self.starts), grids[0].x
        places = [x] if len(system.box) > 1 else []
        in_space = sorted({(d.unknown, sum(d.index[:-1])) for d in system.derivatives})
        in_time = [(number, *state) for number, state in enumerate(states) if state[1]]
        names = [
            *system.vocabulary.variables,
            *(_name(system, u, order) for u, order in in_space),
            *(_name(system, u, 0, order) for _, u, order in in_time),
        ]
        right = [to_numpy(formula, names) for formula in self.formulas]

        def slope(t: float, y: Array) -> Array:
            rows = y.reshape(len(x), -1)
            now = [grid.fill(rows[:, states.index((u, 0))], t) for u, grid in enumerate(grids)]
            parts = [grids[u].derivative(now[u], k) if k else now[u] for u, k in in_space]
            lower = (rows[:, number] for number, *_ in in_time)
            values = np.stack([*places, np.full_like(x, t), *parts, *lower], axis=1)
            result = np.empty_like(rows)
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
        starts = [_given_values(each.relation, at) for each in self.starts.values()]
        for evaluations, method in attempts:
            calls = iter(range(evaluations))

            def counted(t: float, y: Array, calls: Any = calls) -> Array:
                next(calls)
                return slope(t, y)

            # Scipy raises ValueError for slopes that are not finite.
            with suppress(ValueError, StopIteration):
                start, rest = np.stack(starts, axis=1).reshape(-1), {**settings, **method}
                found = integrate.solve_ivp(counted, (low, high), start, atol=ABSOLUTE, **rest)
                if found.success:
                    return found
        return None

    def table(self, grids: Sequence[SpaceGrid], *attempts: Attempt) -> Array | None:
        """Return the unknowns (times, nodes, unknowns) at evenly spaced times and nodes."""
        low, high = self.system.box[1].tolist()
        times = np.linspace(low, high, STORED)
        found = self.integrate(grids, attempts, t_eval=times, rtol=RELATIVE)
        if found is None or not np.isfinite(found.y).all():
            return None
        kept = found.y.reshape(len(grids[0].x), len(self.starts), -1)
        tables = []
        for u, grid in enumerate(grids):
            rows = zip(kept[:, list(self.starts).index((u, 0))].T, times, strict=True)
            tables.append([grid.closed(grid.fill(row, t)) for row, t in rows])
        return np.stack(tables, axis=2)

    def table_in_space(self) -> Array | None:
        """Return the same in one space variable, on the grid that suits the conditions."""
        system, count = self.system, len(self.formulas)
        low, high = system.box[0].tolist()
        ends = [each for each in system.conditions if each not in self.starts.values()]
        if ends and all(each.periodic == 0 for each in ends):
            # Waves in a ring need no implicit steps, which damp them.
            attempts = (EXPLICIT, {"method": "DOP853"}), (EVALUATIONS, {"method": "LSODA"})
            for nodes in RINGS:
                table = self.table([ring(low, high, nodes)] * count, *attempts)
                if table is None:
                    return None
                spectrum = np.abs(fft.rfft(table[:, :-1], axis=1)).max(axis=(0, 2))
                if spectrum[-len(spectrum) // TENTH :].max() <= TAIL * spectrum.max():
                    break
            return table
        walls = [_wall_conditions(system, number, ends) for number in range(count)]
        known = [each for each in walls if each is not None]
        if any(each.periodic == 0 for each in ends) or len(known) < count:
            return None
        if any(order for _, order in self.starts):
            grids = [chebyshev_points(low, high, each) for each in known]
            return self.table(grids, (EVALUATIONS, {"method": "DOP853"}))
        band = STENCIL * len(self.starts)
        grids = [differences(low, high, each) for each in known]
        return self.table(grids, (EVALUATIONS, {"method": "LSODA", "lband": band, "uband": band}))


def _name(system: System, unknown: int, in_space: int, in_time: int = 0) -> str:
    variables = system.vocabulary.variables
    suffix = variables[0] * in_space + variables[-1] * in_time
    return system.vocabulary.unknowns[unknown] + (f"_{suffix}" if suffix else "")


def evolved(system: System) -> Reference | None:
    """Return a reference for an initial value problem, or None: in at most one space variable."""
    if not system.is_evolution or len(system.box) > 2:
        return None
    if (evolution := _evolution(system)) is None:
        return None
    if len(system.box) == 1:
        grids = [SpaceGrid(np.zeros(1))] * len(evolution.formulas)
        attempts: list[Attempt] = [
            (EVALUATIONS, {"method": "DOP853", "rtol": ORDINARY}),
            (EVALUATIONS, {"method": "Radau", "rtol": RELATIVE}),
        ]
        found = evolution.integrate(grids, attempts, dense_output=True)
        if found is None:
            return None
        kept = [number for number, (_, order) in enumerate(evolution.starts) if order == 0]
        return lambda points: np.asarray(found.sol(points[:, 0])[kept].T)
    if (table := evolution.table_in_space()) is None:
        return None
    (left, right), (low, high) = system.box.tolist()
    x, times = np.linspace(left, right, table.shape[1]), np.linspace(low, high, STORED)
    splines = [
        interpolate.RectBivariateSpline(times, x, each, kx=TIME_DEGREE, ky=SPACE_DEGREE)
        for each in np.moveaxis(table, 2, 0)
    ]
    return lambda points: np.stack([each.ev(points[:, 1], points[:, 0]) for each in splines], 1)


def _evolution(system: System) -> _Evolution | None:
    """Solve the system for its highest time derivatives.

    Return None if it is not linear in them, or an initial condition is missing.
    """
    unknowns = range(len(system.vocabulary.unknowns))
    in_time = [d for d in system.derivatives if not any(d.index[:-1])]
    orders = [max((d.index[-1] for d in in_time if d.unknown == u), default=0) for u in unknowns]
    if not all(orders) or any(d.index[-1] and any(d.index[:-1]) for d in system.derivatives):
        return None
    names = [variable(_name(system, u, 0, orders[u])) for u in unknowns]
    found = sympy.solve([relation.expression for relation in system.equations], names, dict=True)
    formulas = [found[0].get(name) for name in names] if len(found) == 1 else [None]
    if any(each is None or each.has(*names) for each in formulas):
        return None
    given = dict[tuple[int, int], Condition]()
    for condition in filter(system.is_initial, system.conditions):
        first, *more = condition.relation.derivatives
        if not more and not any(first.index[:-1]):
            given.setdefault((first.unknown, first.index[-1]), condition)
    states = [(u, order) for u in unknowns for order in range(orders[u])]
    if not given.keys() >= set(states):
        return None
    return _Evolution(system, formulas, {state: given[state] for state in states})


def _wall_conditions(system: System, unknown: int, ends: list[Condition]) -> list[Relation] | None:
    """Return an unknown's conditions at both ends, [] if it needs none, None if it lacks them."""
    mine = [each for each in ends if any(d.unknown == unknown for d in each.relation.derivatives)]
    if not mine and not any(d.index[0] for d in system.derivatives if d.unknown == unknown):
        return []
    found: list[Relation] = []
    for end in system.box[0].tolist():
        there = [each.relation for each in mine if any((0, end) in face for face in each.faces)]
        if len(there) != 1 or [d.index for d in there[0].derivatives] not in ([(0, 0)], [(1, 0)]):
            return None
        found.append(there[0])
    return found


def collocated(system: System) -> Reference | None:
    """Return a reference for a linear system, or None if two resolutions do not agree on one."""
    relations = [*system.equations, *(each.relation for each in system.conditions)]
    if not all(map(_is_linear, relations)):
        return None
    points, variables, before = (
        low_discrepancy(system.box, POINTS, 0).numpy(),
        len(system.box),
        None,
    )
    for size in SIZES[variables - 1]:
        if size**variables * len(system.vocabulary.unknowns) > LARGEST:
            return None
        solution = _fitted(system, size)
        values = None if solution is None else solution(points)
        if values is None or not np.isfinite(values).all():
            return None
        allowed = AGREEMENT * np.abs(values).max()
        if before is not None and np.abs(values - before).max() <= allowed:
            return solution
        before = values
    return None


def _is_linear(relation: Relation) -> bool:
    names = [variable(each.name) for each in relation.derivatives]
    return not any(sympy.diff(relation.expression, name).has(*names) for name in names)


def _fitted(system: System, size: int) -> Reference | None:
    """Fit `size` polynomials per variable; return None if other functions fit as well."""
    box, unknowns = system.box.numpy(), len(system.vocabulary.unknowns)
    nodes = chebyshev.chebpts1(int(OVERSAMPLING * size) + 2)
    places = np.meshgrid(
        *(low + (nodes + 1) / 2 * (high - low) for low, high in box), indexing="ij"
    )
    inside = torch.as_tensor(np.stack(places, axis=-1).reshape(-1, len(box)))
    blocks = [Block("equation", relation, inside) for relation in system.equations]
    blocks += condition_blocks(system, len(nodes) ** (len(box) - 1), WEIGHT)

    def rows(relation: Relation, points: Array) -> Array:
        """Return the derivatives of left - right by the coefficients, and last its value at 0."""
        zeros = np.pad(points, ((0, 0), (0, len(relation.derivatives))))
        matrix = np.zeros((len(points), unknowns, size ** len(box)))
        for slope, each in zip(relation.slopes(zeros).T, relation.derivatives, strict=True):
            matrix[:, each.unknown] += slope[:, None] * _products(points, box, size, each.index)
        return np.column_stack([matrix.reshape(len(points), -1), relation.residual(zeros)])

    parts = []
    for block in with_units(blocks, system, torch.ones(unknowns, dtype=torch.float64)):
        part = rows(block.relation, block.points.numpy())
        if block.partner is not None:
            part -= rows(block.relation, block.partner.numpy())
        parts.append(part * block.scale)
    matrix, right = np.split(np.concatenate(parts), [-1], axis=1)
    found, _, rank, _ = linalg.lstsq(matrix, -right, lapack_driver="gelsy", cond=SINGULAR)
    coefficients = found.reshape(unknowns, -1)
    if rank < matrix.shape[1]:
        return None
    return lambda points: _products(points, box, size, (0,) * len(box)) @ coefficients.T


def _products(points: Array, box: Array, size: int, index: Sequence[int]) -> Array:
    """Return derivatives of all products of polynomials, shape (points, size ** variables)."""
    product = np.ones((len(points), 1))
    for column, (low, high), order in zip(points.T, box, index, strict=True):
        values = _polynomials((2 * column - low - high) / (high - low), size, order)
        values = values * (2 / (high - low)) ** order
        product = np.einsum("pa,pb->pab", product, values).reshape(len(points), -1)
    return product
