"""Constants of a solution, and the records of its grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from torch import Generator, Tensor

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.fields import Field, HardConditions, OutputForm, Windows
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria
from kanrun.engine.networks import Network

#: Creates a new network with the inputs of the box on [-1, 1] and the given number of outputs.
Create = Callable[[int, Generator], Network]


@dataclass(frozen=True)
class EquationPolicy:
    """Constants of a solution, chosen on 38 ordinary and partial equations with known solutions."""

    #: Collocation points inside the box; at least 1.
    collocation_points: int = 2000
    #: Lower bound of that number per unknown, for networks that grow automatically.
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
    #: observations.
    noise_fraction: float = 0.25

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
    #: A refinement helped if it reduced the residual to this fraction.
    helpful_residual_ratio: float = 0.5
    #: Intervals in one variable on the whole range, in one that can be cut into windows, and in
    #: several.
    max_intervals: tuple[int, int, int] = (640, 80, 160)
    #: Intervals in one variable as long as grids change the solution by more than
    #: `accepted_change`.
    max_unsettled_intervals: int = 2560
    max_unknowns: int = 1000
    max_terms: int = 16

    #: Relative residual at new points up to which a window is accepted.
    accepted_residual: float = 1e-3
    #: The same next to incompatible conditions; on the whole range times the gap of the conditions.
    accepted_residual_at_corners: float = 2e-3
    #: Change from the previous grid up to which a window is accepted, or this factor of the last
    #: window's.
    accepted_change: float = 1e-3
    max_change_growth: float = 10.0
    #: Change from the previous grid at which the solution ends.
    failed_change: float = 0.1
    #: A window is given up if finer grids do not reduce its residual below this.
    give_up_residual: float = 0.02
    #: The shortest window is the range divided by this number.
    max_windows: int = 256
    #: Factor from the length of an accepted window to that of the next.
    window_growth: float = 1.5

    def finest(self, variables: int, *, whole: bool = True) -> int:
        """Return the largest number of intervals of a grid in this many variables."""
        return self.max_intervals[2 if variables > 1 else 0 if whole else 1]

    def corner_reach(self, gap: float, order: int) -> float:
        """Return the radius of a corner where derivatives of this order differ by `gap`."""
        share = min(gap / self.corner_full_gap, 1.0)
        return self.corner_radius * (share if order > 0 else sqrt(sqrt(share)))


@dataclass(frozen=True)
class Residuals:
    """Residuals at new points relative to the largest term."""

    rms: float
    largest: float
    place: tuple[float, ...]


@dataclass(frozen=True)
class EquationStage:
    """A finished grid.

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

    window: int
    intervals: int | None
    solution: Field
    constants: Tensor
    unknowns: int
    steps: int
    objective: float
    equation: Residuals
    conditions: Residuals
    change: float | None
    standard_errors: Tensor
    seconds: float
    points: Tensor
    sensitivity: float | None = None
    data: float = 0.0
    least_data: float = 0.0
    inflation: float = 1.0


@dataclass(frozen=True)
class Solution:
    """A solved system: its field or windows, their last grids, and the end of the last one.

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
    stopped: str = "the solution is no longer smooth, or errors grow"
    doubt: str | None = None


@dataclass(frozen=True)
class Ansatz:
    """Form of a solution: networks, how their outputs form the unknowns, and the grids.

    Attributes:
        intervals: Grids in turn. A network without grids has None for each round of weights.
        grows: Whether finer grids follow as long as they help.
        widens: Whether further terms follow as long as they help.
        hard: Whether conditions are built in; those that can be become `built_in`.
        evolution: The system, if it is solved in windows of splines times polynomials of time.
        direct: Whether it is solved on tensor products of splines.
        tolerance: Relative L2 error at which such a solution ends.
    """

    create: Create
    form: OutputForm
    intervals: tuple[int | None, ...]
    grows: bool = False
    widens: bool = False
    hard: bool = False
    built_in: HardConditions | None = None
    evolution: EvolutionSystem | None = None
    direct: bool = False
    tolerance: float = 1e-6
