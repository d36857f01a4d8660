"""One network on its way through the grids of a schedule."""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Generator, Tensor

from kanrun.engine.networks import (
    KAN,
    Network,
    Regridded,
    activations,
    adapt_inputs,
    get_unknowns,
    refine,
    regrid_hidden,
)
from kanrun.engine.training.carrying import carry
from kanrun.engine.training.clock import Clock
from kanrun.engine.training.data import Errors, TrainingData, measure
from kanrun.engine.training.penalty import Smoothing
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import Memory, Solver, make_solver
from kanrun.engine.training.starts import MARGIN
from kanrun.engine.training.stepping import Best, Counter, Step, Stretch
from kanrun.engine.training.weighing import Weighing

#: A hidden grid is kept while the activations lie inside it and fill this share of it.
FILLED = 0.8
#: Steps of LBFGS before hidden grids follow the ranges that it found.
SETTLING = 30
#: Seconds of training on one grid after which what it takes to go on is handed out.
PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class Reached:
    """How a grid was reached."""

    how: str  # `start`, or how the function was carried: insertion, least squares, both
    change: float  # of the function at the extension, relative to its size
    before: float | None  # training error just before and
    after: float  # just after the extension


@dataclass(frozen=True)
class Stage:
    """A finished grid: the network at its best validation error there, and how the grid was reached."""

    stage: int
    intervals: int | None
    network: Network
    errors: Errors
    steps: int
    seconds: float  # of training, up to here
    smoothing: Smoothing
    reached: Reached
    random: Tensor  # the generator's state
    memory: Memory = field(default_factory=dict)  # of the solver, at its end


@dataclass(frozen=True)
class Pause:
    """A grid in the middle of its steps: what it takes to go on from there to the same numbers."""

    network: Network  # where the solver is
    best: Network
    lowest: float  # the best one's validation error
    solver: Memory  # its state
    taken: int  # steps of the solver, and of the stage
    steps: int
    stalled: int
    unimproved: int
    seconds: float
    smoothing: Smoothing
    reached: Reached
    random: Tensor


class Chain:
    """Trains one network grid by grid; `stages` so far, the last holding the network that goes on."""

    def __init__(
        self, network: Network, smoothing: Smoothing, data: TrainingData, plan: Plan, generator: Generator, clock: Clock
    ) -> None:
        self.network, self.smoothing, self.data, self.plan = network, smoothing, data, plan
        self.generator, self.clock = generator, clock
        self.stages: list[Stage] = []
        self.memory: Memory = {}
        self._paused = -inf

    def advance(
        self, intervals: int | None, *, tries: int, pause: Pause | None = None
    ) -> Events[Step | Pause, None, Stage]:
        """Go to a grid of `intervals` and train there, from `pause` on where that was left in the middle.

        `tries` weights of the penalty may be tried, none for 0.
        """
        counted = Counter(len(self.stages) + 1, self.clock, self.data, pause.steps if pause else 0)
        if pause is None:
            stretch, best, reached = yield from self._begun(intervals, counted)
        else:
            stretch, best, reached = self._taken_up(pause)
        yield from self._run(stretch, best, counted, reached)
        solver = stretch.solver
        self.memory = carry(solver.memory(), solver.network, best.network)
        if self.plan.solver == "lm" and self.plan.weight is None:
            weighing = Weighing(best, self.smoothing, self.data, self.plan, self.generator, counted)
            if counted.stage == 1:
                yield from weighing.smooth()
            if tries:
                yield from weighing.search(self._budget(best.network), tries, stretch.settled)
            best, self.smoothing = weighing.best, weighing.smoothing
        self.network = best.network
        stage = Stage(
            counted.stage, _intervals(best.network), best.network, measure(best.network, self.data), counted.steps,
            self.clock.seconds, self.smoothing, reached, self.generator.get_state(), self.memory,
        )  # fmt: skip
        self.stages.append(stage)
        return stage

    def _begun(self, intervals: int | None, counted: Counter) -> Events[Step, None, tuple[Stretch, Best, Reached]]:
        """The steps of the main run on the next grid, before the first."""
        before = self.stages[-1].errors.train if self.stages else None
        network, how, change = self._moved(intervals)
        errors = measure(network, replace(self.data, test=None))
        best, budget = Best(network, errors.selected), self._budget(network)
        memory = carry(self.memory, self.network, network)
        solver = make_solver(network, self.data, self.plan, self.smoothing, self.generator, memory)
        if counted.stage == 1 and self.plan.solver == "lbfgs":
            solver, settled = yield from self._settled(solver, min(SETTLING, budget), best, counted)
            how, change = (settled.how, settled.change) if settled else (how, change)
        return self._stretch(solver, budget - counted.steps), best, Reached(how, change, before, errors.train)

    def _taken_up(self, pause: Pause) -> tuple[Stretch, Best, Reached]:
        """The same in the middle of its steps."""
        solver = make_solver(pause.network, self.data, self.plan, self.smoothing, self.generator)
        solver.restore(pause.solver)
        left = self._budget(pause.network) - (pause.steps - pause.taken)
        stretch = self._stretch(solver, left)
        stretch.taken, stretch.stalled, stretch.unimproved = pause.taken, pause.stalled, pause.unimproved
        return stretch, Best(pause.best, pause.lowest), pause.reached

    def _run(
        self, stretch: Stretch, best: Best, counted: Counter, reached: Reached
    ) -> Events[Step | Pause, None, None]:
        """The main run, with a pause now and then."""
        self._paused = self.clock.seconds
        for step in stretch.run(best, counted):
            yield step
            if step.seconds - self._paused < PAUSE_SECONDS or (state := stretch.solver.state()) is None:
                continue
            self._paused = step.seconds
            yield Pause(
                deepcopy(stretch.solver.network), deepcopy(best.network), best.error, state, stretch.taken,
                counted.steps, stretch.stalled, stretch.unimproved, step.seconds, self.smoothing, reached,
                self.generator.get_state(),
            )  # fmt: skip

    def _stretch(self, solver: Solver, steps: int) -> Stretch:
        return Stretch(solver, steps, self.plan.patience, self.data)

    def _budget(self, network: Network) -> int:
        return self.plan.steps_for(get_unknowns(network).numel())

    def _moved(self, intervals: int | None) -> tuple[Network, str, float]:
        """The network on the next grid, how its function was carried there, and the change that made."""
        network, x = self.network, self.data.train.x
        if not isinstance(network, KAN) or intervals is None:
            return network, "start", 0.0
        if self.plan.update_grid and self.plan.adapt > 0:
            hidden = regrid_hidden(network, x, intervals=intervals, adapt=self.plan.adapt, margin=MARGIN)
            moved = adapt_inputs(hidden.network, x, adapt=self.plan.adapt)
            how = moved.how if moved.how == hidden.how else "both"
            moved = replace(moved, how=how, change=max(moved.change, hidden.change))
        elif self.plan.update_grid and not _fits(network, x):
            moved = regrid_hidden(network, x, intervals=intervals, adapt=self.plan.adapt, margin=MARGIN)
        elif intervals == network.intervals:
            return deepcopy(network), "start", 0.0
        else:
            moved = refine(network, intervals, x)
        return moved.network, moved.how, moved.change

    def _settled(
        self, solver: Solver, steps: int, best: Best, counted: Counter
    ) -> Events[Step, None, tuple[Solver, Regridded[KAN] | None]]:
        """LBFGS on the first grid once the hidden ranges have settled, its hidden grids drawn anew over them."""
        network, x = solver.network, self.data.train.x
        if not isinstance(network, KAN) or len(network.layers) == 1 or not self.plan.update_grid:
            return solver, None
        yield from self._stretch(solver, steps).run(best, counted)
        if _fits(network, x):
            return solver, None
        moved = regrid_hidden(network, x, adapt=self.plan.adapt, margin=MARGIN)
        memory = carry(solver.memory(), network, moved.network)
        return make_solver(moved.network, self.data, self.plan, self.smoothing, self.generator, memory), moved


def _fits(network: KAN, x: Tensor) -> bool:
    """Whether all activations lie inside their grids and fill them well."""
    with torch.no_grad():
        reaching = activations(network, x)
    for layer, values in list(zip(network, reaching, strict=False))[1:]:
        low, high, width = values.amin(0), values.amax(0), layer.grid.high - layer.grid.low
        if bool((low < layer.grid.low).any() or (high > layer.grid.high).any()):
            return False
        if bool((high - low < FILLED * width).any()):
            return False
    return True


def _intervals(network: Network) -> int | None:
    return network.intervals if isinstance(network, KAN) else None
