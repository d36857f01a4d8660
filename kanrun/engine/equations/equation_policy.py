"""The constants of a solution, and the record that it leaves of each grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from kanrun.engine.equations.field import Field, OutputForm, Windows
from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.least_squares import LMPolicy, Stopping
from kanrun.engine.networks import Network

#: Makes a fresh network with the inputs of the box on [-1, 1] and as many outputs as asked for.
Create = Callable[[int, Generator], Network]


@dataclass(frozen=True)
class EquationPolicy:
    """The constants of a solution, chosen on 38 ordinary and partial equations with known or integrated solutions."""

    points: int = 2000  #: collocation points inside the box; from 1 on
    points_per_unknown: float = (
        2.5  #: and at least so many for each unknown, where networks grow by themselves
    )
    face_points: int = 60  #: points of each face; from 2 on
    pieces: int = 20  #: of the quadrature rule in one variable for networks without grids
    points_per_interval: int = (
        10  #: of that rule with grids, at most: it is then exact for squares of the residual
    )
    following: float = (
        0.5  #: share of points that follow the knots of each variable, where these are not uniform
    )
    added: float = 0.2  #: share of the points that is added after each grid where the residual is largest; from 0 on
    fresh: int = 4000  #: points at which a grid is measured
    negligible: float = 1e-6  #: of an unknown's estimated size: below it, as of one that is zero, changes do not count

    #: Starts on the first grid: how many random networks take part in each round, and the steps that each then takes.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    #: The same where functions of several variables at once are trained and a start has at most `small` numbers: such
    #: networks have more bad minima, which two of five seeds of a [2,2,1] reached with the rounds above.
    rounds_if_small: tuple[tuple[int, int], ...] = ((24, 8), (8, 20), (3, 60))
    small: int = 100
    random_if_separated: int = (
        5  #: random networks beside the polynomials that a separated form can start from
    )
    start_points: int = 400  #: collocation points of a start
    #: Bounds of the standard deviation of a start's coefficients, in units of the solution; drawn on a log scale.
    start_sizes: tuple[float, float] = (0.02, 0.5)
    start: Stopping = Stopping(gain=1e-2)
    stage: Stopping = Stopping(steps=30, gain=1e-3)  #: of one grid
    coarse: Stopping = Stopping(steps=15, gain=1e-2)  #: of a grid before the last planned one
    lm: LMPolicy = LMPolicy(damping=1e-4, smallest=1e-15, thorough=False, tries=12)
    #: First damping of a refined grid where unknowns are linear in the numbers: a larger one holds back smooth changes,
    #: which a beam's equation hardly sees beside those of single splines.
    damping_if_linear: float = 1e-12

    condition_weight: float = (
        100.0  #: of the conditions on the first grid, relative to the equation's
    )
    condition_weight_of_polynomials: float = 1e4  #: the same in windows with polynomials of time
    growth: float = 10.0  #: factor of that weight from grid to grid; at least 1
    largest_weight: float = 1e6
    #: Factor by which the conditions' part of the objective must exceed the equation's, and have risen, to be taken for
    #: contradictory: their weight then rises no further.
    outweighed: float = 10.0
    #: Weight of measured values on the first grid. It is divided by `growth` from grid to grid, as long as their part
    #: of the objective is larger than the equation's, down to `smallest_data_weight`.
    data_weight: float = 100.0
    smallest_data_weight: float = 1e-2
    below_noise: float = (
        0.25  #: share of the difference from measured values at which a residual is small enough
    )

    #: Around corners where conditions contradict each other residuals weigh less: by the distance, relative to the box
    #: and to this, to that power. No network holds the infinite derivatives there; unweighted, they spoil the rest.
    corner: float = 0.1
    corner_power: int = 2
    #: That distance is smaller where conditions differ by less than this share of their terms, by one power of it for
    #: values that jump and another for slopes: with the whole distance a front whose slope differed by 7 % from the
    #: wall's was wrong by 8e-4 instead of 4e-5.
    corner_whole: float = 0.3
    corner_growth: tuple[float, float] = (0.25, 1.0)

    margin: float = (
        0.1  #: of a hidden grid beyond the range of what reaches it, when it is drawn anew
    )
    filled: float = 0.5  #: share of a hidden grid below which it is drawn anew; in [0, 1]
    #: Factor by which the squared residual of an interval is taken to fall when it is halved: an interval is halved
    #: twice before another one is halved at all, where its residual is so many times larger.
    halved: float = 0.01
    narrowest: float = 1e-6  #: share of the range below which an interval is not halved

    # Grids and terms that are added as long as they help.
    enough: float = (
        1e-9  #: change from the last grid at which no further one follows in one variable
    )
    enough_in_more: float = 1e-6  #: the same in two and three variables
    helpful: float = (
        0.5  #: factor of the residual at most for which a refinement or further terms helped
    )
    most_intervals: int = 640  #: in one variable
    most_if_unsettled: int = (
        2560  #: the same as long as grids change the solution by more than `accepted_change`
    )
    most_intervals_in_windows: int = 80  #: in one variable that can be cut into windows
    most_intervals_in_more: int = 160
    most_unknowns: int = 1000
    most_terms: int = 16
    terms_added: int = 2
    #: Share of the change before that added terms leave at least: where a grid changed the solution by 7 % and terms by
    #: 0.03 %, it was wrong by 1.4 %.
    carried: float = 0.1
    added_size: float = 0.1  #: of the numbers of added terms, in units of the solution

    # Windows in time. Where there is one variable beside time, they hold polynomials of it (`OutputForm.fixed_last`).
    terms_in_time: int = 6  #: so many polynomials at first
    most_terms_in_time: int = 12
    most_unknowns_in_window: int = 1500
    held: float = 1e-3  #: relative difference from the initial values at most on the first grid
    coarser: float = 0.85  #: share of the intervals, beside one polynomial less, of a solution that estimates the error
    points_in_space: int = (
        3  #: points of the quadrature rule in each interval of the other variable
    )
    curvature: float = 0.85  #: share of knots that follow the root of the curvature at the end of the window before
    accepted: float = 1e-3  #: relative residual on fresh points of a window that holds
    accepted_of_polynomials: float = 3e-4  #: the same where windows hold polynomials of time
    #: The same at the beginning where conditions contradict each other, for the whole range the share of it by which
    #: they do.
    accepted_with_corners: float = 2e-3
    accepted_change: float = 1e-3  #: change from the last grid of a window that holds
    grown: float = 10.0  #: or so many times the change of the window before
    lost: float = 0.1  #: change from the last grid at which a later window ends the solution
    settling: int = 4  #: grids after which so large a change means that a shorter window is needed
    hopeless: float = 0.02  #: residual from the second grid on at which a window that grids do not help is given up
    most_windows: int = 256  #: a window is not made shorter than this part of the whole range
    longer: float = 1.5  #: factor from a window that held to the next

    def finest(self, *, one: bool, whole: bool) -> int:
        """The most intervals of a grid."""
        if not one:
            return self.most_intervals_in_more
        return self.most_intervals if whole else self.most_intervals_in_windows

    def reach(self, share: float, order: int) -> float:
        """The distance up to which residuals weigh less around a corner, where derivatives of that order differ."""
        power = self.corner_growth[order > 0]
        return self.corner * float(min(share / self.corner_whole, 1.0) ** power)


@dataclass(frozen=True)
class Residuals:
    """Residuals at fresh points, relative to the size of the largest term: root mean square, maximum and its place."""

    rms: float
    largest: float
    place: tuple[float, ...]


@dataclass(frozen=True)
class EquationStage:
    """A finished grid. `change` is the root mean square change of the solution from the grid before, relative."""

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
    standard_errors: Tensor  # of the sought constants; NaN without measured values
    seconds: float  # of CPU time, of this window
    points: Tensor  # collocation points inside, (points, variables)
    #: The largest change of the solution, relative to its size, for a change of all residuals by 1 (root mean square).
    sensitivity: float | None = None
    #: Root mean square difference from measured values, relative to the unknowns' sizes, and the least on any grid.
    data: float = 0.0
    least_data: float = 0.0
    inflated: float = 1.0  #: see `standard_errors`


@dataclass(frozen=True)
class Solution:
    """What solves the system: one field, or several in windows; the last grid of each window; and how far in the last
    variable it was `reached`."""

    network: Field | Windows
    last: tuple[EquationStage, ...]
    reached: float


@dataclass(frozen=True)
class Ansatz:
    """What the solution is sought as: fresh networks, how their outputs form the unknowns, and the grids.

    Networks without grids have None for each time that they are trained with a larger weight of the conditions. With
    `grows` further grids follow as long as they are needed, with `widens` further terms. `hard` builds in conditions:
    those that `hard_conditions` finds, which become `built_in`.
    """

    create: Create
    form: OutputForm
    intervals: tuple[int | None, ...]
    grows: bool = False
    widens: bool = False
    hard: bool = False
    built_in: HardConditions | None = None
