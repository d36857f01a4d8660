"""Numerical reference solutions, more precise than networks that are trained.

Ordinary initial value problems are integrated by Runge-Kutta methods. Other systems are solved in
windows of time or on tensor products of splines, as far as these estimate a small error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from scipy import integrate
from torch import Generator

from kanrun.engine.equations import (
    EquationPolicy,
    EvolutionSystem,
    Grids,
    Solution,
    System,
    evolution_system,
    is_direct,
    solve,
)
from kanrun.errors import TrainingFailed
from kanrun.formulas import to_numpy, variable

Array = NDArray[np.float64]
#: From points (points, variables) to values of the unknowns (points, unknowns).
Reference = Callable[[Array], Array]

#: Methods for ordinary equations in turn, with relative tolerances; absolute tolerance, and number
#: of evaluations beyond which there is no reference.
METHODS: tuple[tuple[Literal["DOP853", "Radau"], float], ...] = ("DOP853", 1e-13), ("Radau", 1e-10)
ABSOLUTE, EVALUATIONS = 1e-12, 50_000
#: First grid on tensor products; tolerances in windows and on tensor products, where slopes that
#: differ in a corner make smaller ones expensive; the largest estimated error of a reference.
FIRST_GRID, TOLERANCES, LARGEST_ERROR = Grids((8,), grows=True), (1e-8, 1e-5), 1e-4


def reference_of(system: System) -> Reference | None:
    """Return a numerical reference for a system without unknown parameters, or None."""
    evolution = evolution_system(system)
    if len(system.box) == 1 and system.is_evolution:
        return None if evolution is None else _integrate(evolution)
    if system.corners:
        evolution = None
    if evolution is None and not is_direct(system):
        return None
    stages = solve(
        system,
        evolution or FIRST_GRID,
        EquationPolicy(),
        Generator().manual_seed(0),
        tolerance=TOLERANCES[evolution is None],
    )
    while True:
        try:
            next(stages)
        except TrainingFailed:
            return None
        except StopIteration as end:
            solution: Solution = end.value
            break
    estimate = 1.0 if solution.estimate is None else solution.estimate
    if estimate > LARGEST_ERROR or solution.solved_until < float(system.box[-1, 1]):
        return None

    def values(points: Array) -> Array:
        with torch.no_grad():
            found: Array = solution.network(torch.as_tensor(points)).numpy()
        return found

    return values


def _integrate(system: EvolutionSystem) -> Reference | None:
    """Integrate ordinary equations by the first method that reaches the end, or return None.

    States are the unknowns and their derivatives below the highest, for which the equations are
    solved.
    """
    vocabulary, orders = system.vocabulary, system.orders
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
    start = [float(system.initial_value(*each, np.array([[low]]))[0]) for each in states]
    for method, relative in METHODS:
        calls = iter(range(EVALUATIONS))

        def slope(t: float, y: Array, calls: Any = calls) -> Array:
            next(calls)
            row, rate = np.concatenate([[t], y])[None], np.append(y[1:], 0.0)
            rate[last] = [float(each(row)[0]) for each in right]
            return rate

        # Scipy raises ValueError for slopes that are not finite.
        with suppress(ValueError, StopIteration):
            found = integrate.solve_ivp(
                slope, (low, high), start, method, dense_output=True, rtol=relative, atol=ABSOLUTE
            )
            if found.success and (dense := found.sol) is not None:
                kept = np.append(0, last[:-1] + 1)
                return lambda points: np.asarray(dense(points[:, 0])[kept].T)
    return None
