"""The training loop: starts, grid stages, selection on validation data, and the final fit.

`train` is a generator: it yields a `Step` after every solver step and a `Stage` after every grid, and returns a
`Trained`. A `Stage` holds all that is needed to go on from there, so that an interrupted training continues to the same
numbers. Test errors are measured and reported; nothing looks at them.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from kanrun.engine.networks import KAN, Curve, Network, refine, regrid_hidden
from kanrun.engine.training.clock import Clock
from kanrun.engine.training.data import Errors, TrainingData, measure
from kanrun.engine.training.lm import LevenbergMarquardt
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import Solver, make_solver
from kanrun.engine.training.starts import MARGIN, Create, best_start
from kanrun.engine.training.weights import choose_weight
from kanrun.errors import TrainingFailed

#: Weight of the smoothness penalty on the first grid when validation is to choose it.
FIRST_WEIGHT = 1e-20
#: Grids up to this are drawn anew over the activations; finer ones refine the one before, exactly where nested.
REDRAWN = 16
#: A grid is left when the objective falls by less than this share in each of two steps.
STALLED = 0.01
#: Steps after the weight was chosen, and of the final fit on training and validation points together.
SETTLE, REFIT = 3, 6


@dataclass(frozen=True)
class Step:
    """One solver step: the errors after it and the seconds of training so far."""

    stage: int
    step: int
    intervals: int | None
    errors: Errors
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A finished grid: the network at its best validation error there, and how the grid was reached."""

    stage: int
    intervals: int | None
    network: Network
    errors: Errors
    steps: int
    seconds: float  # of training, up to here
    weight: float
    how: str  # `start`, or how the function was carried: insertion, least squares, both
    change: float  # of the function at the extension, relative to its size
    before: float | None  # training error just before and
    after: float  # just after the extension
    random: Tensor  # the generator's state


@dataclass(frozen=True)
class Trained:
    """The network at the stage that validation chose, and the way there."""

    network: Network
    chosen: Stage
    errors: Errors
    stages: list[Stage]
    seconds: float


def train(
    create: Create, data: TrainingData, plan: Plan, generator: Generator, done: list[Stage] | None = None
) -> Events[Step | Stage, None, Trained]:
    """Train a network that `create` makes; `done` are the stages of an interrupted training to go on from.

    Raises TrainingFailed where a value is not finite, saying at which stage and step; the stages that were yielded
    before hold the last good states.
    """
    return _Training(create, data, plan, generator, done or []).run()


def fit(create: Create, data: TrainingData, plan: Plan, generator: Generator) -> Trained:
    """`train` to its end, for callers that watch nothing."""
    events = train(create, data, plan, generator)
    while True:
        try:
            next(events)
        except StopIteration as end:
            trained: Trained = end.value
            return trained


class _Training:
    def __init__(self, create: Create, data: TrainingData, plan: Plan, generator: Generator, done: list[Stage]) -> None:
        self.create, self.data, self.plan, self.generator = create, data, plan, generator
        self.stages = list(done)
        self.clock = Clock(done[-1].seconds if done else 0.0)
        if done:
            generator.set_state(done[-1].random)

    def run(self) -> Events[Step | Stage, None, Trained]:
        for number in range(len(self.stages) + 1, max(len(self.plan.intervals), 1) + 1):
            stage = yield from self._stage(number)
            self.stages.append(stage)
            self.clock.stop()
            yield stage
            self.clock.go()
            if self.plan.stop_early and self._past_the_best():
                break
        chosen = min(self.stages, key=lambda stage: stage.errors.selected)
        network = self._final_fit(chosen)
        errors = replace(measure(network, self.data), validation=chosen.errors.validation)
        return Trained(network, chosen, errors, self.stages, self.clock.stop())

    def _stage(self, number: int) -> Events[Step, None, Stage]:
        network, weight, how, change = self._opened(number)
        before = self.stages[-1].errors.train if self.stages else None
        errors = measure(network, self.data)
        after = errors.train
        best, taken = (errors.selected, deepcopy(network)), 0
        for steps in self._rounds():
            solver = make_solver(network, self.data, self.plan, weight, self.generator)
            for errors in self._steps(solver, steps, number, taken):
                taken += 1
                self.clock.stop()
                yield Step(number, taken, _intervals(network), errors, self.clock.seconds)
                self.clock.go()
                if errors.selected <= best[0]:
                    best = (errors.selected, deepcopy(network))
            if isinstance(solver, LevenbergMarquardt) and self.plan.weight is None:
                network, weight = choose_weight(best[1], solver, self.data, weight)
                best = min(best, (measure(network, self.data).selected, deepcopy(network)), key=lambda pair: pair[0])
        return Stage(
            number, _intervals(network), best[1], measure(best[1], self.data), taken, self.clock.seconds,
            weight, how, change, before, after, self.generator.get_state(),
        )  # fmt: skip

    def _past_the_best(self) -> bool:
        errors = [stage.errors.selected for stage in self.stages]
        return len(errors) - 1 - errors.index(min(errors)) >= 2

    def _opened(self, number: int) -> tuple[Network, float, str, float]:
        """The network that stage `number` starts from, its penalty weight, how it came and the change that made."""
        if number == 1:
            weight = FIRST_WEIGHT if self.plan.weight is None else self.plan.weight
            network = self._started(weight)
            return network, weight, "start", 0.0
        last, intervals = self.stages[-1], self.plan.intervals[number - 1]
        network = last.network
        assert isinstance(network, KAN)  # only KANs have schedules; refused where plans are made otherwise
        x = self.data.train.x
        if self.plan.update_grid and len(network.layers) > 1 and intervals <= REDRAWN:
            moved = regrid_hidden(network, x, intervals=intervals, adapt=self.plan.adapt, margin=MARGIN)
        else:
            moved = refine(network, intervals, x)
        return moved.network, last.weight, moved.how, moved.change

    def _started(self, weight: float) -> Network:
        network = self.create(self.generator)
        if isinstance(network, Curve):
            network.fit(self.data.train.x, self.data.train.y)
            return network
        return best_start(self.create, self.data, self.plan, weight, self.generator).network

    def _rounds(self) -> list[int]:
        """Steps before each choice of the penalty weight, and after the last."""
        if self.plan.solver == "lm" and self.plan.weight is None:
            return [self.plan.steps, SETTLE]
        return [self.plan.steps]

    def _steps(self, solver: Solver, steps: int, stage: int, taken: int) -> Events[Errors, None, None]:
        """Steps of `solver` until it converges, stalls or has taken `steps`; the errors after each."""
        stalled, unimproved, best = 0, 0, float("inf")
        for step in range(1, steps + 1):
            before = solver.loss
            loss = solver.step()
            errors = measure(solver.network, self.data)
            if not errors.train < float("inf"):
                raise TrainingFailed(f"The error is not finite at stage {stage}, step {taken + step}.")
            yield errors
            stalled = stalled + 1 if solver.stalls and loss > (1 - STALLED) * before else 0
            unimproved = unimproved + 1 if errors.selected >= best else 0
            best = min(best, errors.selected)
            impatient = self.plan.patience is not None and unimproved >= self.plan.patience
            if solver.converged or stalled >= 2 or impatient:
                return

    def _final_fit(self, chosen: Stage) -> Network:
        """The chosen network after some more steps on training and validation points together."""
        network = deepcopy(chosen.network)
        if isinstance(network, Curve):
            network.fit(self.data.everything.x, self.data.everything.y)
            return network
        if not self.plan.refit or self.plan.solver != "lm" or self.data.validation is None:
            return network
        everything = replace(self.data, train=self.data.everything, validation=None)
        solver = make_solver(network, everything, self.plan, chosen.weight, self.generator)
        for _ in range(REFIT):
            solver.step()
            if solver.converged:
                break
        return network


def _intervals(network: Network) -> int | None:
    return network.intervals if isinstance(network, KAN) else None
