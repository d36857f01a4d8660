"""How far a solution can be trusted: its errors where the truth is known, and a verdict that does not look at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from kanrun.experiments.solve.checks import lacking
from kanrun.experiments.solve.problem import SolveProblem
from numpy.typing import NDArray

from kanrun.engine.equations import EquationStage, Field, Solution, System, Windows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class VerdictPolicy:
    """Bounds of the verdict, all relative: to the size of the equation's terms, or of the solution.

    A small residual alone proves nothing: a front may slip between the points, and an equation with too few conditions
    has many solutions. The change of the solution from the last grid is what tells most.
    """

    solved_change: float = 2e-3  #: of the solution from the last grid but one to the last
    solved_residual: float = 1e-2  #: root mean square at fresh points, and of the conditions at points between
    failed: float = 0.1  #: from here on of either, nothing of the solution is to be trusted
    #: Residual of a network without grids: its change from stage to stage says nothing of what it cannot represent.
    unrefined_residual: float = 1e-4
    #: Change of the solution for a change of the residuals by 1, see `EquationStage.sensitivity`, above which the
    #: conditions leave the solution open. It was at most 300 for the well-posed of 38 equations, 1e5 and more for
    #: those with a condition too few.
    open_sensitivity: float = 1e4
    #: The same where an unknown has fewer conditions in a variable than the equation's order.
    lacking_sensitivity: float = 500.0
    #: Relative error against an exact solution or a reference above which nothing is called solved; errors never
    #: raise a verdict.
    solved_error: float = 1e-2
    #: Factor between the last difference from measured values and the least on any grid (the first ones follow the
    #: values more closely) above which the equation is not taken to describe them.
    misfit: float = 2.0
    #: Factor by which not knowing the others raises the standard error of a constant, above which measured values do
    #: not tell the constants apart: what separates them then are errors of the solution. It was 1.2 for D and k of a
    #: reaction, 47 for two constants that change the solution alike.
    inseparable: float = 20.0


def verdict(
    solution: Solution, system: System, error: float | None = None, policy: VerdictPolicy = VerdictPolicy()
) -> tuple[str, str]:
    """`solved`, `doubtful` or `failed`, and the reason in one sentence; the worst window decides.

    `error` is the relative error where the solution is known, against which a verdict is lowered.
    """
    worst_change = max((stage.change for stage in solution.last if stage.change is not None), default=None)
    worst = max((stage.equation for stage in solution.last), key=lambda found: found.rms)
    place = ", ".join(f"{name}={at:.3g}" for name, at in zip(system.vocabulary.variables, worst.place, strict=True))
    residual = worst.rms
    conditions = max(stage.conditions.rms for stage in solution.last)
    open_by = max((stage.sensitivity for stage in solution.last if stage.sensitivity is not None), default=0.0)
    change = (
        "there was one grid only"
        if worst_change is None
        else f"the last grid changed the solution by {worst_change:.1e}"
    )
    reason = (
        f"{change}, the residual at fresh points is {residual:.1e} (largest at {place}) and that of the conditions "
        f"{conditions:.1e}"
    )
    measured = [residual, conditions, *([] if worst_change is None else [worst_change])]
    if error is not None:
        reason += f"; the error against the known solution is {error:.1e}"
        measured.append(error)
    if solution.reached < (end := float(system.box[-1, 1])):
        return "failed", (
            f"it could be followed up to {solution.reached:.6g} of {end:.6g} only, and nothing is known beyond "
            f"(a solution that is no longer smooth, or errors that grow); {reason}"
        )
    if not np.isfinite(measured).all() or max(measured) >= policy.failed:
        return "failed", reason
    if not open_by <= (policy.lacking_sensitivity if lacking(system) else policy.open_sensitivity):
        open_to = "the equation and its conditions leave the solution open: other functions satisfy them as well"
        return "doubtful", f"{open_to} (sensitivity {open_by:.1e}); {reason}"
    if any(each.data > max(policy.misfit * each.least_data, policy.solved_change) for each in solution.last):
        data = ", ".join(
            f"{each.data:.1e} of the solution's size, on another grid {each.least_data:.1e}" for each in solution.last
        )
        return "doubtful", f"the measured values are not what the equation gives (they differ by {data}); {reason}"
    if (inflated := max(stage.inflated for stage in solution.last)) > policy.inseparable:
        return "doubtful", (
            "the measured values hardly tell the sought constants apart (not knowing the others makes a standard error "
            f"{inflated:.0f} times as large); {reason}"
        )
    refined = all(stage.intervals is not None for stage in solution.last)
    small = max(residual, conditions) <= (policy.solved_residual if refined else policy.unrefined_residual)
    right = error is None or error <= policy.solved_error
    if small and right and worst_change is not None and worst_change <= policy.solved_change:
        return "solved", reason
    return "doubtful", reason


def errors(problem: SolveProblem, network: Field | Windows, points: Array) -> dict[str, float | None]:
    """Relative L2 and H1 errors, mean squared and largest error at `points` (points, variables)."""
    found: dict[str, float | None] = {"l2": None, "h1": None, "mse": None, "max_error": None}
    if problem.comparison is None:
        return found
    at = torch.as_tensor(points)
    with torch.no_grad():
        values = network(at).numpy()
    truth = problem.comparison.values(points)
    difference = values - truth
    if truth.any():  # else no error is relative to it
        found["l2"] = float(np.sqrt(np.mean(difference**2) / np.mean(truth**2)))
    found["mse"] = float(np.mean(difference**2))
    found["max_error"] = float(np.abs(difference).max())
    if problem.comparison.slopes is not None and truth.any():
        unit = np.eye(points.shape[1], dtype=int)
        slopes = np.stack([network.derivative(at, tuple(row.tolist())).numpy() for row in unit], axis=2).reshape(
            len(points), -1
        )
        known = problem.comparison.slopes(points)
        square = np.sum(difference**2) + np.sum((slopes - known) ** 2)
        found["h1"] = float(np.sqrt(square / (np.sum(truth**2) + np.sum(known**2))))
    return found


def stage_row(problem: SolveProblem, stage: EquationStage, points: Array) -> dict[str, float | int | None]:
    """A grid as a row of stages.csv; errors are of this window's part of the box."""
    box = stage.solution.box.numpy()
    inside = points[((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=1)]
    return {
        "window": stage.window,
        "intervals": stage.intervals,
        "unknowns": stage.unknowns,
        "steps": stage.steps,
        "objective": stage.objective,
        "residual_rms": stage.equation.rms,
        "residual_max": stage.equation.largest,
        "conditions_rms": stage.conditions.rms,
        "change": stage.change,
        **(errors(problem, stage.solution, inside) if len(inside) else {}),
        "seconds": stage.seconds,
        **{
            name: float(value) for name, value in zip(problem.system.vocabulary.constants, stage.constants, strict=True)
        },
    }
