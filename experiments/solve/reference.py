"""Numerical reference solutions, more precise than networks that are trained.

Ordinary initial value problems are integrated by Runge-Kutta methods. Other systems are solved in
windows of time or on tensor products of splines, as far as these estimate a small error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from scipy import integrate
from torch import Generator

from kanrun.engine.equations import (
    Ansatz,
    Condition,
    EquationPolicy,
    OutputForm,
    Solution,
    System,
    evolution_system,
    is_direct,
    solve,
)
from kanrun.engine.networks import Network
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
FIRST_GRID, TOLERANCES, LARGEST_ERROR = (8,), (1e-8, 1e-5), 1e-4


def reference_of(system: System) -> Reference | None:
    """Return a numerical reference for a system without unknown parameters, or None."""
    if len(system.box) == 1 and system.is_evolution:
        evolution = _evolution(system)
        return None if evolution is None else evolution.integrate()
    return _computed(system)


def _computed(system: System) -> Reference | None:
    """Return a solution in windows of time or on tensor products, if its error is small."""
    evolution = None if system.corners else evolution_system(system)
    if evolution is None and not is_direct(system):
        return None
    ansatz = Ansatz(
        _no_network,
        OutputForm(),
        FIRST_GRID,
        grows=True,
        evolution=evolution,
        direct=evolution is None,
        tolerance=TOLERANCES[evolution is None],
    )
    stages = solve(system, ansatz, EquationPolicy(), Generator().manual_seed(0))
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


def _no_network(outputs: int, _: Generator) -> Network:
    raise NotImplementedError(f"A direct solution makes its own network of {outputs} outputs.")


@dataclass(frozen=True)
class _Evolution:
    """Ordinary equations solved for their highest derivatives.

    `starts` are the initial conditions of the states that are integrated, pairs (unknown, order).
    """

    system: System
    formulas: Sequence[sympy.Expr]
    starts: Mapping[tuple[int, int], Condition]

    def slope(self) -> Callable[[float, Array], Array]:
        """Return a function of time and states to the derivatives of all states."""
        states = list(self.starts)
        names = [*self.system.vocabulary.variables, *(_name(self.system, *s) for s in states)]
        right = [to_numpy(formula, names) for formula in self.formulas]

        def slope(t: float, y: Array) -> Array:
            row = np.concatenate([[t], y])[None]
            return np.array(
                [
                    y[i + 1] if (u, order + 1) in self.starts else right[u](row)[0]
                    for i, (u, order) in enumerate(states)
                ]
            )

        return slope

    def integrate(self) -> Reference | None:
        """Integrate by the first method that reaches the end, or return None."""
        (low, high), slope = self.system.box[-1].tolist(), self.slope()
        given = (each.given() for each in self.starts.values())
        time = variable(self.system.vocabulary.variables[0])
        start = [float(each[1].subs(time, low)) for each in given if each is not None]
        kept = [number for number, (_, order) in enumerate(self.starts) if order == 0]
        for method, relative in METHODS:
            calls = iter(range(EVALUATIONS))

            def counted(t: float, y: Array, calls: Any = calls) -> Array:
                next(calls)
                return slope(t, y)

            # Scipy raises ValueError for slopes that are not finite.
            with suppress(ValueError, StopIteration):
                found = integrate.solve_ivp(
                    counted,
                    (low, high),
                    start,
                    method,
                    dense_output=True,
                    rtol=relative,
                    atol=ABSOLUTE,
                )
                if found.success and (dense := found.sol) is not None:
                    return lambda points: np.asarray(dense(points[:, 0])[kept].T)
        return None


def _name(system: System, unknown: int, order: int) -> str:
    time = system.vocabulary.variables[0] * order
    return system.vocabulary.unknowns[unknown] + (f"_{time}" if time else "")


def _evolution(system: System) -> _Evolution | None:
    """Solve ordinary equations for their highest derivatives.

    Return None if they are not linear in them, or an initial condition is missing.
    """
    unknowns = range(len(system.vocabulary.unknowns))
    every = system.derivatives
    orders = [max((d.index[0] for d in every if d.unknown == u), default=0) for u in unknowns]
    if not all(orders):
        return None
    names = [variable(_name(system, u, orders[u])) for u in unknowns]
    found = sympy.solve([relation.expression for relation in system.equations], names, dict=True)
    formulas = [found[0].get(name) for name in names] if len(found) == 1 else [None]
    if any(each is None or each.has(*names) for each in formulas):
        return None
    given = {
        (derivative.unknown, derivative.index[0]): condition
        for condition, derivative, _ in reversed(system.given)
        if system.is_initial(condition)
    }
    states = [(u, order) for u in unknowns for order in range(orders[u])]
    if not given.keys() >= set(states):
        return None
    return _Evolution(system, formulas, {state: given[state] for state in states})
