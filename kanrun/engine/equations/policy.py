"""Constants of a solution, and the records of its grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.fields import Field, OutputForm, Windows
from kanrun.engine.equations.residuals import Residuals
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria
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
    #: Lower bound of that number per unknown, in several variables.
    points_per_unknown: float = 2.5
    #: Points of each face; at least 2.
    boundary_points: int = 60
    #: New points at which a grid is evaluated.
    test_points: int = 4000

    #: Races on the first grid: networks in each round, and steps that each of them takes.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    #: Rounds for functions of several variables with at most `small_network` unknowns. They have
    #: more bad minima, which two of five seeds of a [2,2,1] reached with the rounds above.
    rounds_if_small: tuple[tuple[int, int], ...] = ((24, 8), (8, 20), (3, 60))
    small_network: int = 100
    #: Collocation points of a race.
    start_points: int = 400

    start: StoppingCriteria = StoppingCriteria(rtol=1e-2)
    #: Stopping criteria on the last planned grid and on finer ones.
    stage: StoppingCriteria = StoppingCriteria(max_steps=30, rtol=1e-3)
    #: Stopping criteria on coarser grids.
    coarse: StoppingCriteria = StoppingCriteria(max_steps=15, rtol=1e-2)
    lm: LMPolicy = LMPolicy(damping=1e-4, min_damping=1e-15, damping_search=False, max_trials=12)
    #: First damping on a refined grid if the unknowns are linear in the coefficients. A larger one
    #: holds back smooth changes, which the equation of a beam hardly sees next to those of single
    #: splines.
    damping_if_linear: float = 1e-12

    #: Weight of the conditions on the first grid, relative to the equation.
    condition_weight: float = 100.0
    #: Factor of that weight from grid to grid; at least 1.
    weight_growth: float = 10.0
    max_weight: float = 1e6
    #: Conditions are incompatible if their part of the objective rises and exceeds that of the
    #: equation by this factor. Their weight then stays constant.
    incompatible_factor: float = 10.0
    #: Weight of observations on the first grid, and its lower bound. It is divided by
    #: `weight_growth` from grid to grid as long as their part of the objective is larger than that
    #: of the equation.
    data_weight: float = 100.0
    min_data_weight: float = 1e-2
    #: No grid follows once the residual is below this fraction of the difference from the
    #: observations, and the last one changed the solution by no more than `settled_change`.
    noise_fraction: float = 0.25
    settled_change: float = 1e-3

    #: Residuals are down-weighted within this distance (relative to the box) of an incompatible
    #: corner, whose infinite derivatives no network can represent. Without this they spoil the rest
    #: of the solution.
    corner_radius: float = 0.1
    #: The distance shrinks if the conditions differ by less than this fraction of their terms: with
    #: the power 1/4 of it for values, 1 for slopes. With the full distance, a front whose slope
    #: differed by 7% from that of the wall was wrong by 8e-4 instead of 4e-5.
    corner_full_gap: float = 0.3

    #: Change between grids at which refinement stops, in one variable and in several.
    enough_change: tuple[float, float] = (1e-9, 1e-6)
    #: Unknowns of a grid that follows automatically.
    max_unknowns: int = 1000
    #: Terms of given initial values.
    max_terms: int = 16

    def corner_reach(self, gap: float, order: int) -> float:
        """Return the radius of a corner where derivatives of this order differ by `gap`."""
        share = min(gap / self.corner_full_gap, 1.0)
        return self.corner_radius * (share if order > 0 else sqrt(sqrt(share)))


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
