"""Differential equations: Taylor series, residuals as least squares, solutions on a box."""

from collections.abc import Generator as Events
from dataclasses import replace

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Generator

from kanrun.engine.equations.collocation import EquationPolicy
from kanrun.engine.equations.fields import Field, OutputForm, Windows, breakpoints_of
from kanrun.engine.equations.network_solution import NetworkSolver
from kanrun.engine.equations.residuals import (
    Ansatz,
    Contradiction,
    EquationStage,
    Grids,
    Method,
    Missed,
    Solution,
    arguments_at,
)
from kanrun.engine.equations.scan import SEEN_WIDTH, SEEN_WIDTH_IN_TWO
from kanrun.engine.equations.slab_solution import solve_evolution
from kanrun.engine.equations.system import (
    Array,
    Condition,
    EvolutionSystem,
    Face,
    IncompatibleCorner,
    Observations,
    System,
    evolution_system,
)
from kanrun.engine.equations.tensor_solution import solve_directly
from kanrun.engine.equations.tensor_splines import is_direct


def solve(
    system: System,
    method: Method,
    policy: EquationPolicy,
    generator: Generator,
    *,
    tolerance: float = 1e-6,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yield every grid and return the solution.

    Args:
        system: Equations with their conditions.
        method: How they are solved.
        policy: Constants of the general solver.
        generator: Source of random starts and points.
        tolerance: Estimated relative L2 error at which a solution with an estimate ends.
        first: Initial guess.
    """
    # Threads wait for one another longer than a banded factorisation takes in one of them.
    with threadpool_limits(1 if isinstance(method, EvolutionSystem | Grids) else None):
        if isinstance(method, EvolutionSystem):
            return (yield from solve_evolution(method, tolerance, policy.budget))
        if isinstance(method, Grids):
            return (yield from solve_directly(system, method, policy, generator, tolerance, first))
    solver = NetworkSolver(system, method, policy, generator)
    stage = yield from solver.stages(first)
    last = (replace(stage, sensitivity=solver.sensitivity(stage)),)
    end = float(system.box[-1, 1])
    unseen = solver.rows.narrow_residual(stage.solution, stage.constants)
    return Solution(stage.solution, last, end, stopped=solver.stopped, unseen=unseen)
