"""What a training is to do, as plain numbers, and the choice of a solver by size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kanrun.config.registry import SOLVERS
from kanrun.engine.training.data import Task
from kanrun.engine.training.first_order import AdamOptions
from kanrun.engine.training.policy import SizePolicy, TrainingPolicy


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
    select_width: bool = False
    sparsity: float = 0.0  # weight of the paper's penalty of large edges: LBFGS's and Adam's
    magnitude: str = "rms"  # of an edge there, or mean_abs as in the paper
    update_grid: bool = True
    grid_eps: float = 1.0  # share of uniform spacing in grids that are redrawn, the rest being quantiles'
    freeze_unseen: bool = False
    settings: Any = None  # those of the solver, for one that has further ones
    stop_early: bool = False  # leave the schedule when two grids in a row did not help
    most_unknowns: int | None = None  # leave it before a grid with more
    history: int = 30
    adam: AdamOptions = field(default_factory=AdamOptions)
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
    return "adam", f"adam: {work.rows} values with {work.active} active terms each; mini-batches are the cheaper way."
