"""Settings of the solvers of differential equations, and records of their solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanrun.engine.equations.fields import Field, OutputForm, Windows
from kanrun.engine.equations.system import Array, EvolutionSystem, Face
from kanrun.engine.networks import Network

#: Empty vector: the unknown parameters of a system that has none.
NO_CONSTANTS = torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Residuals:
    """Summary of residuals (left - right) at points that were not used for fitting.

    Residuals are divided by the size of the largest term of their equation or condition.

    Attributes:
        rms: Root mean square residual.
        largest: Largest absolute residual.
        place: Point of the largest residual, one value per variable.
    """

    rms: float
    largest: float
    place: tuple[float, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> Residuals:
        """Summarise pairs of points, shape (rows, variables), and residuals, shape (rows,).

        If there are no pairs, all values are 0.
        """
        if not parts:
            return cls(0.0, 0.0, ())
        points, residual = (torch.cat(each) for each in zip(*parts, strict=True))
        at = int(residual.abs().argmax())
        rms = float(residual.square().mean().sqrt())
        return cls(rms, float(residual[at].abs()), tuple(points[at].tolist()))


@dataclass(frozen=True)
class Correction:
    """Newton step from a solution, whose size estimates the error of the solution.

    The step is taken in a space of splines in which the intervals of one variable are halved.

    Attributes:
        at: Values of this variable at the points where residuals are evaluated, shape (points,).
        squares: Squared residuals before the step, times quadrature weights, shape (points,).
        size: Root mean square of the step relative to the solution, for the unknown that changes
            most.
        equation: Residuals of the equations before the step, at points not used for fitting.
        conditions: Residuals of the conditions before the step, at points not used for fitting.
        remaining: Root mean square residual of the equations after the step, as a fraction of
            the one before the step.
    """

    at: Array
    squares: Array
    size: float
    equation: Residuals
    conditions: Residuals
    remaining: float


@dataclass(frozen=True)
class EquationStage:
    """Record of a solution on one grid, or of one window of time.

    Attributes:
        intervals: Number of intervals per variable; None for networks without grids.
        solution: Solution on this grid.
        unknowns: Number of unknowns of the least squares problem.
        steps: Number of solver steps; in windows of time, the mean over all windows.
        objective: Sum of the squared, weighted residuals at the solution; in a window of time,
            `equation.rms` squared.
        equation: Residuals of the equations at points not used for fitting.
        conditions: Residuals of the conditions at points not used for fitting.
        change: Relative error that the solver estimates. Networks have no such estimate: for them
            it is the relative root mean square change from the previous grid, None on the first.
        seconds: CPU time in seconds that this grid or window of time took, including attempts that
            were repeated and, for the first grid of a network, the search for an initial guess.
        points: Points to show in figures, shape (points, variables): the collocation points of
            networks, otherwise the breakpoints of the grid.
        window: Index of the window of time; 0 without windows.
        constants: Unknown parameters, shape (constants,).
        standard_errors: Standard errors of the unknown parameters; NaN without observations.
        sensitivity: Largest ratio of a relative change of the solution to the change of the
            residuals that causes it (both as root mean squares); None if it was not computed.
        data: Root mean square difference from the observations, relative to the sizes of the
            unknowns.
        least_data: Smallest value of `data` on any grid so far.
        inflation: Largest factor by which a standard error grows because the other parameters are
            unknown too, see `residuals.standard_errors`.
    """

    intervals: int | None
    solution: Field
    unknowns: int
    steps: int
    objective: float
    equation: Residuals
    conditions: Residuals
    change: float | None
    seconds: float
    points: Tensor
    window: int = 0
    constants: Tensor = NO_CONSTANTS
    standard_errors: Tensor = NO_CONSTANTS
    sensitivity: float | None = None
    data: float = 0.0
    least_data: float = 0.0
    inflation: float = 1.0


@dataclass(frozen=True)
class Solution:
    """Solution of a system, with what is known about its accuracy.

    Attributes:
        network: The solution as a function: one field, or one field per window of time.
        last: Record of the last grid; for windows of time, one record per window.
        solved_until: Value of the last variable up to which the system was solved.
        estimate: Estimated relative L2 error of the whole solution; None if the solver does not
            estimate errors.
        tolerance: Error below which the estimate should be; None if there is no estimate.
        stopped: Why the solver stopped before the end of the range, or above the tolerance; empty
            if it did neither.
        doubt: Why the estimate may be wrong, for example because the equation is ill-posed; or
            None.
        contradiction: Contradiction between the equation and its conditions, or None.
        unseen: Residual caused by features that are narrower than the grid (`Unseen.size`, the
            largest of all windows). For networks, the residual near narrow features of the
            formulas. None if the solver did not look for such features.
    """

    network: Field | Windows
    last: tuple[EquationStage, ...]
    solved_until: float
    estimate: float | None = None
    tolerance: float | None = None
    stopped: str = ""
    doubt: str | None = None
    contradiction: Contradiction | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class Missed:
    """Condition that functions violate if they satisfy the equation.

    `text` is the condition, and `difference` is the largest |left - right| on `face`.
    """

    text: str
    face: Face
    difference: float


@dataclass(frozen=True)
class Contradiction:
    """Contradiction between an equation and its conditions.

    Attributes:
        residual: Smallest possible root mean square residual of a function that satisfies the
            conditions, relative to the terms of the equation.
        missed: Conditions that functions violate if they satisfy the equation; empty if no function
            satisfies it.
    """

    residual: float
    missed: tuple[Missed, ...]


@dataclass(frozen=True)
class Grids:
    """Grids of the solver on tensor products of splines.

    Attributes:
        intervals: One number per planned grid: its number of intervals in each variable.
        grows: Whether finer grids follow as long as they help.
    """

    intervals: tuple[int, ...]
    grows: bool


@dataclass(frozen=True)
class Ansatz:
    """Settings of the network solver: the network, the form of the unknowns, and the grids.

    Attributes:
        create: Function that creates a network; its only argument is the keyword `generator`. The
            inputs of the network are the variables, scaled to [-1, 1].
        form: How the outputs of the network are combined into the unknowns.
        intervals: Number of intervals of each planned grid. For networks without grids, one None
            per training run; the weights of the conditions change from run to run.
        grows: Whether finer grids follow as long as they help.
        free_terms: Whether the number of terms of a separated form is chosen from the initial
            values. If false, it is at most `form.terms`.
    """

    create: Callable[..., Network]
    form: OutputForm
    intervals: tuple[int | None, ...]
    grows: bool = False
    free_terms: bool = False


#: Settings that select a solver: `Ansatz` for networks, `Grids` for tensor products of splines,
#: `EvolutionSystem` for slabs of time, in each of which the solution is a sum of splines in space
#: times polynomials in time.
Method = Ansatz | Grids | EvolutionSystem
