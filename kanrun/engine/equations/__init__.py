"""Solvers of differential equations on a box.

Every solver minimises the sum of squared residuals of the equations and their conditions. There are
three solvers: for networks with exact derivatives, for tensor products of splines, and for slabs of
time.
"""

from collections.abc import Generator as Events
from dataclasses import replace

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Generator

from kanrun.engine.equations.collocation import EquationPolicy
from kanrun.engine.equations.fields import Field, OutputForm, Windows, breakpoints_of
from kanrun.engine.equations.network_solution import NetworkSolver
from kanrun.engine.equations.residuals import arguments_at
from kanrun.engine.equations.scan import SEEN_WIDTH, SEEN_WIDTH_IN_TWO
from kanrun.engine.equations.slab_solution import solve_evolution
from kanrun.engine.equations.solution import (
    Ansatz,
    Contradiction,
    EquationStage,
    Grids,
    Method,
    Missed,
    Solution,
)
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
from kanrun.errors import UsageError


def solve(
    system: System,
    method: Method,
    policy: EquationPolicy,
    generator: Generator,
    *,
    tolerance: float = 1e-6,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yield a record of every grid and return the solution.

    Args:
        system: Equations with their conditions.
        method: Settings, whose type selects the solver: `Ansatz` for networks, `Grids` for tensor
            products of splines, `EvolutionSystem` for slabs of time.
        policy: Numbers of points and steps of the network solver, and the budget of all solvers.
        generator: Source of random initial guesses and points.
        tolerance: Estimated relative L2 error at which solvers stop. Networks ignore it, because
            their solver does not estimate the error.
        first: Initial guess, or None. Slabs of time accept none.

    Raises:
        UsageError: If there is an initial guess for a solution in slabs of time.
        TrainingFailed: If the residual is not finite at any initial guess, or if not even the first
            slab of time can be solved.
    """
    # With several threads, a banded factorisation takes longer than with a single one.
    with threadpool_limits(1 if isinstance(method, EvolutionSystem | Grids) else None):
        if isinstance(method, EvolutionSystem):
            if first is not None:
                raise UsageError("Slabs of time start from initial values, not from a guess.")
            return (yield from solve_evolution(method, tolerance, policy.budget))
        if isinstance(method, Grids):
            return (yield from solve_directly(system, method, policy, generator, tolerance, first))
    solver = NetworkSolver(system, method, policy, generator)
    stage = yield from solver.stages(first)
    last = (replace(stage, sensitivity=solver.sensitivity(stage)),)
    end = float(system.box[-1, 1])
    unseen = solver.rows.narrow_residual(stage.solution, stage.constants)
    return Solution(stage.solution, last, end, stopped=solver.stopped, unseen=unseen)
