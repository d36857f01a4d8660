"""What a training is to do: its constants and rules, the plan as plain numbers, and the choice of a solver by size.

Errors are relative to the spread of the outputs unless a field says otherwise; every rule can be switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kanrun.config.registry import SOLVERS
from kanrun.config.solvers import AdamSolver
from kanrun.engine.least_squares import LMPolicy
from kanrun.engine.training.data import Task
from kanrun.engine.training.lbfgs import LBFGSPolicy


@dataclass(frozen=True)
class MultistartPolicy:
    """Random starts on a coarse grid by quick steps; `batches=1, rounds_after=0` train each start equally."""

    coarse: int = 4  #: intervals of a start, where the schedule begins finer than `coarse_enough`
    coarse_enough: int = 8
    steps: int = 10  #: of a round; hidden grids are redrawn before each
    rounds_before: int = 2  #: rounds of all starts, and of those that are kept
    rounds_after: int = 3
    batches: int = 10  #: batches of starts tried until one fits to the error `good`
    good: float = 0.03
    #: After so many batches a network that leaves this error is taken to be too small, or the data for noisy.
    enough: int = 3
    poor: float = 0.5
    samples_per_unknown: int = 5  #: samples that a start is trained on, and at least so many
    least_samples: int = 400
    matrix_numbers: int = (
        1 << 26
    )  #: numbers of the normal equations of starts that are trained side by side
    jacobian_numbers: int = (
        1 << 18
    )  #: numbers of their dense Jacobian held at once: what stays in a core's cache
    settles: bool = (
        True  #: a single start takes the rounds too, in which hidden grids find their place
    )
    damping: float = 0.1  #: of the first step; a later round begins with the last damping, at least `least_damping`
    least_damping: float = 1e-4
    gain: float = 1e-4  #: a start waits for the next round after two steps in a row that lower the objective by less
    #: Steps take few dampings each: another linearisation is cheaper than a seventh damping.
    steps_policy: LMPolicy = LMPolicy(thorough=False, tries=6)


@dataclass(frozen=True)
class WidthPolicy:
    """The choice among narrower networks (`select_width`), trained along the coarse grids in turn."""

    #: They are compared on grids up to this many unknowns, or what the full width has on so many intervals.
    unknowns: int = 220
    intervals: int = 8


@dataclass(frozen=True)
class GridPolicy:
    """The steps on a grid and the way to the next one."""

    margin: float = (
        0.05  #: hidden grids reach this share of the activations' range beyond it; from 0
    )
    filled: float = (
        0.8  #: a hidden grid is kept while the activations fill this share of it; 0 to 1
    )
    settling: int = (
        30  #: steps of LBFGS before hidden grids follow the ranges that it found; 0 for never
    )
    #: A grid is left when the objective falls by less than `stalled` in each of two steps, or by less than `hardly` in
    #: one (of thorough steps); 0 to 1, 0 for never.
    stalled: float = 0.02
    hardly: float = 1e-3
    #: Steps of Levenberg-Marquardt on a grid, by the most unknowns that take so many.
    steps: tuple[tuple[float, int], ...] = ((300.0, 20), (1000.0, 10), (float("inf"), 6))
    measured_share: int = (
        2  #: measuring looks at no more than this many times the samples that the steps did
    )
    snapshot_seconds: float = 10.0  #: of training on one grid between two snapshots
    helped: float = (
        0.9  #: a grid helps where the validation error falls below this share of the best before
    )
    unhelpful: int = 2  #: grids in a row without help after which an automatic schedule ends
    rounding: float = (
        1e-13  #: validation error at which an automatic schedule ends: rounding is all that is left
    )


@dataclass(frozen=True)
class PenaltyPolicy:
    """The choice of the smoothness penalty's weight by the validation error on each grid."""

    first: float = 1e-18  #: weight at the start, relative to outputs of unit deviation and a domain of unit width
    searches: bool = True  #: whether other weights are tried at all
    factor: float = 100.0  #: between weights that are tried, within these bounds
    smallest: float = 1e-30
    largest: float = 1e2
    tries: int = 5  #: weights tried downwards on a grid, and on the last one
    last_tries: int = 8
    worth: float = 0.03  #: share of the validation error that a weight must gain
    #: Upwards the search looks past so many weights that do not help (noise makes plateaus), up to this much worse.
    upwards: bool = True
    misses: int = 4
    too_far: float = 1.5
    upward_unknowns: int = (
        1000  #: grids with more do not search upwards: noise shows on coarse grids already
    )
    clean: float = 1e-6  #: error at which there is no noise to smooth
    #: A first fit with an error above `noisy` is followed by second differences of these weights, from nearly straight
    #: edges down, `rough_steps` each; infinity for never. A later grid looks past `plateau` of them that do not help.
    noisy: float = 0.05
    rough_order: int = 2
    rough_weights: tuple[float, ...] = tuple(10.0**-e for e in range(-1, 7))
    rough_steps: int = 8
    plateau: int = 2
    #: By the evidence: second differences (`rough_order`) with this weight at the start, at most so many updates with
    #: so many steps each, until the weight changes by less than the factor `settled`.
    evidence_first: float = 1e-6
    evidence_updates: int = 12
    evidence_steps: int = 3
    settled: float = 1.2


@dataclass(frozen=True)
class SizePolicy:
    """How much work a solver is chosen for, see `choose_solver`."""

    lm_work: float = (
        1e11  #: multiplications of one Levenberg-Marquardt step: about a second on two cores
    )
    #: A start looks at a few samples for each unknown of the first grid and takes many steps: they are counted as so
    #: many times the cube of its unknowns.
    start_share: int = 40
    lbfgs_work: float = (
        1e7  #: numbers that a gradient touches (samples x active terms) before batches are better
    )


@dataclass(frozen=True)
class TrainingPolicy:
    """All constants of `train`."""

    #: Networks with grids; of more than `small` unknowns the first damping is `large_damping`: fewer steps are taken.
    lm: LMPolicy = LMPolicy(damping=1e-4)
    small: int = 300
    large_damping: float = 1e-7
    #: Other networks have long valleys: many cheap steps lead further than few thorough ones.
    lm_without_grid: LMPolicy = LMPolicy(damping=1e-2, thorough=False, smallest=1e-10)
    held_numbers: int = (
        1 << 25
    )  #: numbers of the Jacobian that are held at once; at least one sample's
    #: Without a penalty a coefficient is held while it would have to move this far to account for the residual, in
    #: units of the outputs' standard deviation; 0 holds none.
    farthest: float = 1e4
    multistart: MultistartPolicy = MultistartPolicy()
    lbfgs: LBFGSPolicy = LBFGSPolicy()
    widths: WidthPolicy = WidthPolicy()
    grids: GridPolicy = GridPolicy()
    penalty: PenaltyPolicy = PenaltyPolicy()
    final_steps: int = 6  #: of the final fit on training and validation points together; 0 for none

    def damped(self, damping: float) -> TrainingPolicy:
        """The same with this damping of the first step of Levenberg-Marquardt on every grid."""
        lm, other = (
            replace(self.lm, damping=damping),
            replace(self.lm_without_grid, damping=damping),
        )
        return replace(self, lm=lm, lm_without_grid=other, large_damping=damping)


@dataclass(frozen=True)
class Plan:
    """How one network is trained.

    `intervals` is the grid schedule (empty for networks without grids); `steps` bounds each grid's steps, None taking
    the solver's own rule; `starts` are tried on the first grid (by Levenberg-Marquardt quickly, on a coarse one), the
    best continues; `weight` is the smoothness penalty's, None to choose it by validation. `select_width` lets
    validation also choose fewer nodes than the shape has; the others are then pruned. This, and choosing a weight, are
    Levenberg-Marquardt's.
    """

    solver: str
    intervals: tuple[int, ...] = ()
    steps: int | None = None
    starts: int = 1
    weight: float | None = None
    order: int | None = None  # of the smoothness penalty, by default degree + 2
    selection: str = (
        "validation"  # what chooses the weight and the grid: validation points, or the evidence
    )
    select_width: bool = False
    sparsity: float = 0.0  # weight of the paper's penalty of large edges: LBFGS's and Adam's
    sparsity_norm: str = "rms"  # of an edge there, or mean_abs as in the paper
    update_grid: bool = True
    grid_eps: float = (
        1.0  # share of uniform spacing in grids that are redrawn, the rest being quantiles'
    )
    freeze_unseen: bool = False
    settings: Any = None  # those of the solver, for one that has further ones
    stop_early: bool = False  # leave the schedule when two grids in a row did not help
    most_unknowns: int | None = None  # leave it before a grid with more
    history_size: int = 30
    adam: AdamSolver = field(default_factory=AdamSolver)
    patience: int | None = None
    policy: TrainingPolicy = TrainingPolicy()

    def steps_for(self, unknowns: int) -> int:
        """Steps on a grid with so many unknowns: the plan's, or fewer the more a step costs."""
        if self.steps is not None:
            return self.steps
        if self.solver != "lm" or not self.intervals:
            return SOLVERS[self.solver].steps
        return next(steps for most, steps in self.policy.grids.steps if unknowns <= most)


@dataclass(frozen=True)
class Work:
    """The size of a training: samples x outputs, parameters at the last grid and at the first, active terms of one
    sample.
    """

    rows: int
    parameters: int
    first: int
    active: int


def second_order_work(rows: int, parameters: int) -> int:
    """Multiplications of one Levenberg-Marquardt step."""
    return 2 * rows * parameters**2 + parameters**3


def choose_solver(work: Work, task: Task, policy: SizePolicy = SizePolicy()) -> tuple[str, str]:
    """The solver for this size, and a sentence that says why."""
    lm = max(second_order_work(work.rows, work.parameters), policy.start_share * work.first**3)
    affordable = work.rows * work.active <= policy.lbfgs_work
    if task == "classification":
        name = "lbfgs" if affordable else "adam"
        return name, f"{name}: classification minimises cross-entropy, not squares."
    if lm <= policy.lm_work:
        return "lm", (
            f"lm: {work.parameters} parameters on {work.rows} values cost {lm:.1e} multiplications a second-order "
            f"step, starts considered, within {policy.lm_work:.0e}."
        )
    if affordable:
        return "lbfgs", (
            f"lbfgs: {work.parameters} parameters on {work.rows} values cost {lm:.1e} multiplications a "
            f"second-order step, starts considered, over {policy.lm_work:.0e}; whole-batch gradients are affordable."
        )
    return (
        "adam",
        f"adam: {work.rows} values with {work.active} active terms each; mini-batches are the cheaper way.",
    )
