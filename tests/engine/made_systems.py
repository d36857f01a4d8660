"""Functions that read systems of equations from text and run their solvers."""

import torch
from kanrun.experiments.solve.config import EquationConfig
from kanrun.experiments.solve.problem import EquationParser

from kanrun.engine.equations import EquationPolicy, Grids
from kanrun.engine.equations.slab_solution import solve_evolution
from kanrun.engine.equations.system import evolution_system
from kanrun.engine.equations.tensor_solution import solve_directly


def parsed(variables, formula, conditions, unknowns=("u",), **more):
    config = EquationConfig(
        variables=variables,
        formula=formula,
        conditions=list(conditions),
        unknowns=list(unknowns),
        **more,
    )
    return EquationParser(config).system()


def finished(running):
    """Run a generator to its end, and return the value that it returns."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


LINE = {"x": [0, 1]}
SQUARE = {"x": [0, 1], "y": [0, 1]}
BOX = {"x": [0, 1], "t": [0, 1]}
WALLS = "u = 0 at x=0, x=1"


def evolution(variables, formula, conditions, unknowns=("u",)):
    return evolution_system(parsed(variables, formula, conditions, unknowns))


def marched(variables, formula, conditions, tolerance, *more):
    """Return the solution of an evolution equation by slabs of time."""
    return finished(solve_evolution(evolution(variables, formula, conditions), tolerance, *more))


def directly(system, intervals, tolerance=1e-6, *, grows=False, policy=EquationPolicy()):  # noqa: B008
    """Return the solution of a system by tensor products of splines."""
    drawn = torch.Generator().manual_seed(0)
    grids = Grids(tuple(intervals), grows)
    return finished(solve_directly(system, grids, policy, drawn, tolerance))
