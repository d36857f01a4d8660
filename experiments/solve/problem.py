"""Problems of `kanrun solve`: systems and known solutions.

If no solution is known, networks are compared with a numerical reference solution, which is more
accurate than the networks. For initial value problems of ordinary equations, it is computed by
Runge-Kutta methods. Other systems are solved in slabs of time or on tensor products of splines; the
result is used as reference if its estimated error is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import check_determined, check_exact, incompatible_corners
from kanrun.experiments.solve.settings import (
    EquationParser,
    read_observations,
    read_reference,
    with_observations,
)
from scipy import integrate
from torch import Generator

from kanrun.config.rules import typed
from kanrun.engine.equations import (
    Ansatz,
    Array,
    EquationPolicy,
    EvolutionSystem,
    Grids,
    Method,
    System,
    evolution_system,
    is_direct,
    solve,
)
from kanrun.errors import TrainingFailed, UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import constant, variable
from kanrun.monitoring import finished
from kanrun.study import Cell, with_cell
from kanrun.study.resources import generator

from .config import EquationConfig, SolveConfig

#: Known solution; maps points (points, variables) to the unknowns (points, unknowns).
Reference = Callable[[Array], Array]

#: Methods of scipy's `solve_ivp` for reference solutions of ordinary equations, with their relative
#: tolerances. They are tried in this order.
METHODS: tuple[tuple[Literal["DOP853", "Radau"], float], ...] = ("DOP853", 1e-13), ("Radau", 1e-10)
#: Absolute tolerance of both methods, in the units of the unknowns. A smaller value gives more
#: accurate references and needs more evaluations.
ABSOLUTE = 1e-12
#: Largest number of evaluations of the right-hand side by one method, which fails if it needs more.
#: A larger number solves harder equations and takes more time.
EVALUATIONS = 50_000
#: First grid of reference solutions on tensor products of splines; finer ones follow automatically.
FIRST_GRID = Grids((8,), grows=True)
#: Wanted relative errors of reference solutions: in slabs of time, and on tensor products of
#: splines. Smaller values give more accurate references. On tensor products, they are expensive if
#: derivatives contradict each other in a corner.
TOLERANCES = (1e-8, 1e-5)
#: Largest estimated relative error of a reference that is used. A larger value allows less accurate
#: references.
LARGEST_ERROR = 1e-4
#: Default number of observations that are drawn from a reference solution.
_OBSERVATIONS = 200


@dataclass(frozen=True)
class Comparison:
    """Known solution against which errors are measured.

    Attributes:
        what: `exact` (a formula), `recorded` (a table) or `numerical` (another solver).
        values: Function that returns the unknowns, shape (points, unknowns).
        slopes: Function that returns the first derivatives of the unknowns, shape (points, unknowns
            * variables), ordered by unknown and then by variable; None if it is not known.
    """

    what: str
    values: Reference
    slopes: Reference | None = None


@dataclass(frozen=True)
class SolveProblem:
    """System to be solved, with its exact solution and true parameters as far as they are known.

    Attributes:
        name: Name of the equation in tables and figures.
        system: The system.
        exact: Formulas of the exact solution, one per unknown, or None.
        recorded: Points, shape (points, variables), and the known values of the unknowns there,
            shape (points, unknowns); or None.
        truth: True values of the unknown parameters by name; empty if they are not known.
        known: The system with the true parameters, or None if they are not known.
        easier: Systems with the constants of `equation.continuation`, which are solved first, in
            this order.
        near: Formulas that are nearly zero where the solution has a narrow feature. Errors are
            measured at additional points there.
    """

    name: str
    system: System
    exact: Sequence[sympy.Expr] | None
    recorded: tuple[Array, Array] | None
    truth: Mapping[str, float]
    known: System | None
    easier: Sequence[System]
    near: Sequence[sympy.Expr] = ()

    @cached_property
    def comparison(self) -> Comparison | None:
        """Known solution, or None: exact, otherwise recorded, otherwise numerical.

        A numerical solution is computed on first use.
        """
        names = self.system.vocabulary.variables
        if self.exact is not None:
            slopes = [sympy.diff(each, variable(name)) for each in self.exact for name in names]
            return Comparison("exact", _stacked(self.exact, names), _stacked(slopes, names))
        if self.recorded is not None:
            from scipy.spatial import KDTree

            values = self.recorded[1]
            tree = KDTree(self.recorded[0])
            return Comparison("recorded", lambda at: values[tree.query(at)[1]])
        found = None if self.known is None else reference_of(self.known)
        return None if found is None else Comparison("numerical", found)

    def compared_for(self, method: Method) -> SolveProblem:
        """Return the problem for a solver, without a numerical reference if the latter is useless.

        It is useless if the solver estimates its error, because the reference would take longer and
        be less accurate than the solution itself. Initial value problems of ordinary equations keep
        their reference.
        """
        ordinary = len(self.system.box) == 1 and self.system.is_evolution
        return self if ordinary or isinstance(method, Ansatz) else replace(self, known=None)


def _stacked(formulas: Sequence[sympy.Expr], names: Sequence[str]) -> Reference:
    functions = [to_numpy(each, names) for each in formulas]
    return lambda points: np.stack([each(points) for each in functions], axis=1)


def settings_of(cfg: SolveConfig, cell: Cell) -> SolveConfig:
    """Return the settings `cfg` with the changes of one cell.

    A cell is one part of a study, for example {equation: {formula: ..., ...}, name: heat, bounds:
    {l2: 1e-6}}. Its equation replaces the whole equation of `cfg`; its other settings replace
    single settings of `cfg`.

    Raises:
        UsageError: If a setting is not valid.
    """
    if "equation" in cell:
        cfg = replace(cfg, equation=typed(EquationConfig, cell["equation"], "equation."))
    named = ("network", "name", "equation", "facts", "near")
    return with_cell(cfg, {name: each for name, each in cell.items() if name not in named})


def make_solve_problem(cfg: SolveConfig, seed: int, near: Sequence[str] = ()) -> SolveProblem:
    """Build the problem that `cfg.equation` describes, and check it.

    Args:
        cfg: Settings.
        seed: Seed of observations that are drawn from a reference solution.
        near: Formulas for `SolveProblem.near`, as strings.

    Raises:
        UsageError: If the equation, a condition, the box or a table is not valid.
    """
    equation = cfg.equation
    truth = dict[str, float]()
    parser = EquationParser(equation)
    system = parser.system()
    if (data := equation.data) is not None:
        if isinstance(data, str) or set(data) >= set(system.vocabulary.variables):
            unknowns, columns = read_observations(data, system)
        else:
            unknowns, columns, truth = _draw_observations(data, equation, system, seed)
        system = with_observations(system, unknowns, columns)
    system = _checked(system)
    if (exact := parser.exact()) is not None:
        check_exact(system, exact, truth)
    easier = [
        _checked(EquationParser(replace(equation, constants=values)).system())
        for values in _continued_constants(equation)
    ]
    if any(not torch.equal(each.box, system.box) for each in easier):
        raise UsageError(
            "equation.continuation has a constant that a range of equation.variables contains. "
            "Remove it from equation.continuation."
        )
    recorded = None if equation.reference is None else read_reference(equation.reference, system)
    known = _known(equation, truth)
    narrow = [parser.formula(text) for text in near]
    return SolveProblem(equation.name, system, exact, recorded, truth, known, easier, narrow)


def _checked(system: System) -> System:
    check_determined(system)
    return replace(system, corners=incompatible_corners(system))


def _known(equation: EquationConfig, truth: Mapping[str, float]) -> System | None:
    """Return the system with the true parameters, or None if a parameter is not known."""
    if set(equation.unknown_parameters or ()) - set(truth):
        return None
    constants = {**(equation.constants or {}), **truth}
    known = replace(equation, constants=constants, unknown_parameters=None)
    return _checked(EquationParser(known).system())


def _continued_constants(equation: EquationConfig) -> list[dict[str, Any]]:
    """Return one dictionary of constants for each problem of `equation.continuation`."""
    given = dict(equation.continuation or {})
    constants = dict(equation.constants or {})
    for name, values in given.items():
        if name not in constants:
            raise UsageError(
                f"equation.continuation sets {name}, but equation.constants does not define it. "
                f"Add {name} to equation.constants."
            )
        if not isinstance(values, list | tuple) or len(values) != len(next(iter(given.values()))):
            raise UsageError(
                f"equation.continuation.{name}={values} must be a list, as long as the others."
            )
    rows = zip(*given.values(), strict=True)
    return [{**constants, **dict(zip(given, row, strict=True))} for row in rows]


def _draw_observations(
    data: Any, equation: EquationConfig, system: System, seed: int
) -> tuple[list[str], Array, dict[str, float]]:
    """Draw noisy observations from a reference solution.

    Args:
        data: Setting `equation.data`, a mapping with the keys points, noise and constants. The
            noise is a fraction of the standard deviation of each unknown.
        equation: Settings of the equation.
        system: The system with unknown parameters.
        seed: Seed of the points and the noise.

    Returns:
        Names of the unknowns; columns of the variables and of these unknowns, shape (points,
        variables + unknowns); and the true parameters by name.

    Raises:
        UsageError: If `data` has other keys, or no reference solution can be computed.
    """
    if not isinstance(data, Mapping) or set(data) - {"points", "noise", "constants"}:
        raise UsageError(
            f"equation.data={data} must be a file, or have the keys points, noise and constants."
        )
    truth = {name: constant(value) for name, value in dict(data.get("constants", {})).items()}
    known = _known(equation, truth)
    found = None if known is None or not known.is_evolution else reference_of(known)
    if found is None:
        raise UsageError(
            "equation.data can be drawn for initial value problems only, with all constants given "
            "in it."
        )
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator(seed, "data"))))
    low, high = system.box.numpy().T
    shape = (int(data.get("points", _OBSERVATIONS)), len(low))
    points = low + rng.random(shape) * (high - low)
    values = found(points)
    noise = constant(data.get("noise", 0.0)) * values.std(axis=0)
    values = values + noise * rng.standard_normal(values.shape)
    return list(system.vocabulary.unknowns), np.concatenate([points, values], axis=1), truth


def reference_of(system: System) -> Reference | None:
    """Solve a system without unknown parameters numerically, as a reference.

    Initial value problems of ordinary equations are integrated by scipy, others by the solvers that
    estimate their error. Return None if no such solver applies or its result is not accurate
    enough.
    """
    evolution = evolution_system(system)
    if len(system.box) == 1 and system.is_evolution:
        return None if evolution is None else _integrate(evolution)
    if system.corners:
        evolution = None
    if evolution is None and not is_direct(system):
        return None
    method = evolution or FIRST_GRID
    tolerance = TOLERANCES[evolution is None]
    drawn = Generator().manual_seed(0)
    try:
        solution = finished(solve(system, method, EquationPolicy(), drawn, tolerance=tolerance))
    except TrainingFailed:
        return None
    estimate = 1.0 if solution.estimate is None else solution.estimate
    if estimate > LARGEST_ERROR or solution.solved_until < float(system.box[-1, 1]):
        return None

    def values(points: Array) -> Array:
        with torch.no_grad():
            found: Array = solution.network(torch.as_tensor(points)).numpy()
        return found

    return values


def _integrate(system: EvolutionSystem) -> Reference | None:
    """Integrate ordinary equations by scipy, as a system of first order.

    The first of `METHODS` that reaches the end of the range is used. Return None if no method does,
    or if sympy cannot solve the equations for the highest derivatives.
    """
    vocabulary = system.vocabulary
    orders = system.orders
    (low, high), (time,) = system.box[0].tolist(), vocabulary.variables
    states = [(unknown, order) for unknown, top in enumerate(orders) for order in range(top)]

    def name(unknown: int, order: int) -> str:
        return f"{vocabulary.unknowns[unknown]}_{time * order}".rstrip("_")

    highest = [variable(name(unknown, order)) for unknown, order in enumerate(orders)]
    found = sympy.solve([each.expression for each in system.equations], highest, dict=True)
    formulas = [found[0].get(each) for each in highest] if len(found) == 1 else [None]
    if any(each is None or each.has(*highest) for each in formulas):
        return None
    right = [to_numpy(each, [time, *(name(*state) for state in states)]) for each in formulas]
    last = np.cumsum(orders) - 1
    start = [system.initial_value(u, (order,), np.array([[low]]))[0] for u, order in states]
    for method, relative in METHODS:
        calls = iter(range(EVALUATIONS))

        def slope(t: float, y: Array, calls: Any = calls) -> Array:
            next(calls)
            row = np.concatenate([[t], y])[None]
            rate = np.append(y[1:], 0.0)
            rate[last] = [float(each(row)[0]) for each in right]
            return rate

        # Scipy raises ValueError if a slope is not finite.
        with suppress(ValueError, StopIteration):
            found = integrate.solve_ivp(
                slope, (low, high), start, method, dense_output=True, rtol=relative, atol=ABSOLUTE
            )
            if found.success and (dense := found.sol) is not None:
                kept = np.append(0, last[:-1] + 1)
                return lambda points: np.asarray(dense(points[:, 0])[kept].T)
    return None
