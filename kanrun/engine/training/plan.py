"""The plan of a training as plain numbers, and the choice of a solver by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import SOLVERS
from kanrun.engine.training.data import Task

#: Multiplications of a Levenberg-Marquardt step up to which it is chosen: about a second on two
#: cores.
LM_WORK = 1e11
#: Numbers that a gradient touches (samples x active terms) up to which whole batches are chosen.
LBFGS_WORK = 1e7
#: A start uses a few samples for each unknown of the first grid and takes many steps: it counts as
#: this many times the cube of its unknowns.
START_WORK = 40
#: Hidden grids reach this fraction of the activations' range beyond it.
MARGIN = 0.05
#: Steps of Levenberg-Marquardt on a grid, by the maximum number of unknowns that take this many.
LM_STEPS = ((300.0, 20), (1000.0, 10), (float("inf"), 6))


@dataclass(frozen=True)
class GrowthPolicy:
    """Limits of the growth of a network from the additive model.

    Attributes:
        largest: Largest shape that is tried.
        given: Whether this is the shape that was asked for. Random networks of it compete with the
            grown ones then.
    """

    largest: tuple[int, ...]
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """Plan of the training of one network.

    Attributes:
        solver: Name of the solver.
        intervals: The grid schedule; empty for networks without grids.
        steps: Maximum number of steps on each grid; None: the solver's own rule.
        starts: Number of random starts on the first grid (by Levenberg-Marquardt: quickly, on a
            coarse one), of which the best continues; of a growth: of candidates for each width.
        weight: Weight of the smoothness penalty; None: chosen by validation (second-order solvers).
        order: Order of the penalised differences; None: degree + 2.
        selection: What chooses the weight and the grid: `validation` points, or the `evidence`.
        growth: Limits within which the shape grows from the additive model; None: a given shape.
        update_grid: Whether hidden grids follow the activations.
        grid_eps: Fraction of uniform spacing in redrawn grids; the rest follows quantiles.
        freeze_unseen: Whether coefficients of basis functions without samples stay as they are.
        stop_early: Whether the schedule ends after two grids in a row that did not help.
        max_unknowns: The schedule ends before a grid with more unknowns; None: no limit.
        patience: Steps without a lower validation error until a grid is left; None: no limit.
        settings: Settings of the solver; None: its defaults.
    """

    solver: str
    intervals: tuple[int, ...] = ()
    steps: int | None = None
    starts: int = 1
    weight: float | None = None
    order: int | None = None
    selection: str = "validation"
    growth: GrowthPolicy | None = None
    update_grid: bool = True
    grid_eps: float = 1.0
    freeze_unseen: bool = False
    stop_early: bool = False
    max_unknowns: int | None = None
    patience: int | None = None
    settings: Any = None

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", SOLVERS[self.solver].settings())

    @property
    def schedule(self) -> tuple[int | None, ...]:
        """The grids in turn; None for a network without grids."""
        return self.intervals or (None,)

    @property
    def second_order(self) -> bool:
        """Whether the solver minimises squares by second-order steps."""
        return SOLVERS[self.solver].second_order

    def steps_for(self, unknowns: int) -> int:
        """Return the maximum number of steps on a grid with `unknowns`.

        Fewer the more a step costs.
        """
        if self.steps is not None:
            return self.steps
        if not (self.second_order and self.intervals):
            return SOLVERS[self.solver].steps
        return next(steps for most, steps in LM_STEPS if unknowns <= most)


@dataclass(frozen=True)
class TrainingCost:
    """The size of a training."""

    #: Samples times outputs.
    rows: int
    #: Parameters on the last grid, and on the first.
    parameters: int
    first: int
    #: Active terms of one sample.
    active: int


def second_order_work(rows: int, parameters: int) -> int:
    """Return the number of multiplications of one Levenberg-Marquardt step."""
    return 2 * rows * parameters**2 + parameters**3


def choose_solver(cost: TrainingCost, task: Task, *, double: bool) -> tuple[str, str]:
    """Return the solver for this size, and a sentence with the reason.

    `double` says whether numbers are float64.
    """
    lm = max(second_order_work(cost.rows, cost.parameters), START_WORK * cost.first**3)
    affordable = cost.rows * cost.active <= LBFGS_WORK
    first_order = "lbfgs" if affordable else "adam"
    step = (
        f"{cost.parameters} parameters on {cost.rows} values cost {lm:.1e} multiplications a "
        "second-order step, starts "
        "considered"
    )
    if task == "classification":
        return first_order, f"{first_order}: classification minimises cross-entropy, not squares."
    if lm <= LM_WORK and double:
        return "lm", f"lm: {step}, within {LM_WORK:.0e}."
    if lm <= LM_WORK:
        return "lbfgs", "lbfgs: second-order steps need float64."
    if affordable:
        return "lbfgs", (
            f"lbfgs: {step}, over {LM_WORK:.0e}; whole-batch gradients are affordable."
        )
    return "adam", (
        f"adam: {cost.rows} values with {cost.active} active terms each; mini-batches are the "
        "cheaper way."
    )
