"""Constants of a solution, and the records of its grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kanrun.engine.equations.fields import Field, OutputForm, Windows
from kanrun.engine.equations.residuals import Residuals
from kanrun.engine.equations.system import EvolutionSystem
from kanrun.engine.networks import Network

#: Values of the unknown parameters of a system without any.
NO_CONSTANTS = torch.zeros(0, dtype=torch.float64)
#: Creates a network with the inputs of the box on [-1, 1], from the keyword `generator`.
Create = Callable[..., Network]


@dataclass(frozen=True)
class EquationPolicy:
    """Constants of a solution, chosen on 38 ordinary and partial equations with known solutions."""

    #: Collocation points inside the box; at least 1.
    collocation_points: int = 2000
    #: Points of each face; at least 2.
    boundary_points: int = 60
    #: New points at which a grid is evaluated.
    test_points: int = 4000

    #: Races on the first grid: networks in each round, and steps that each of them takes.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    #: Rounds for functions of several variables with few unknowns. They have
    #: more bad minima, which two of five seeds of a [2,2,1] reached with the rounds above.
    rounds_if_small: tuple[tuple[int, int], ...] = ((24, 8), (8, 20), (3, 60))
    #: Collocation points of a race.
    start_points: int = 400

    #: Steps of a grid at most.
    steps: int = 30


@dataclass(frozen=True)
class EquationStage:
    """Finished grid.

    Attributes:
        change: Relative root mean square change of the solution from the previous grid.
        standard_errors: Standard errors of the unknown parameters; NaN without observations.
        seconds: CPU time of this window.
        points: Collocation points inside, shape (points, variables).
        sensitivity: Largest relative change of the solution for a change of all residuals by 1
            (root mean square).
        data: Root mean square difference from the observations, relative to the sizes of the
            unknowns.
        least_data: Smallest value of `data` on any grid.
        inflation: Factor on a standard error from not knowing the other parameters, see
            `standard_errors`.
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
    """Solved system: its field or windows, their last grids, and the end of the last one.

    Attributes:
        estimate: Estimated relative L2 error over all windows, from a second solution; None without
            one.
        tolerance: What the estimate should be below.
        stopped: Why the solution ends before the range does, or above the tolerance.
        doubt: Why the estimate says little, as for ill-posed equations.
    """

    network: Field | Windows
    last: tuple[EquationStage, ...]
    solved_until: float
    estimate: float | None = None
    tolerance: float | None = None
    stopped: str = ""
    doubt: str | None = None


@dataclass(frozen=True)
class Grids:
    """Intervals of grids in turn, and whether finer ones follow as long as they help."""

    intervals: tuple[int, ...]
    grows: bool = False


@dataclass(frozen=True)
class Ansatz:
    """Form of a solution: networks, how their outputs form the unknowns, and the grids.

    Attributes:
        intervals: Grids in turn. A network without grids has None for each round of weights.
        grows: Whether finer grids follow as long as they help.
        free_terms: Whether initial values determine the number of terms.
        hard: Whether conditions are built in where possible.
    """

    create: Create
    form: OutputForm
    intervals: tuple[int | None, ...]
    grows: bool = False
    free_terms: bool = False
    hard: bool = False


#: How a system is solved: by networks on truncated Taylor series, on tensor products of splines, or
#: in windows of splines times polynomials of time.
Method = Ansatz | Grids | EvolutionSystem
