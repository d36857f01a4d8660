"""The training loop: starts, the choice of a width, grid stages, selection, the final fit.

`train` is a generator: it yields a `Step` after every solver step, a `Stage` after every grid, a
`Snapshot` from time to time on a grid that takes long, and returns a `Trained`. The stages and the
snapshot after them hold all that is needed to resume, so that an interrupted training continues to
the same numbers. Test errors are measured and reported; nothing is selected by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Generator

from kanrun.engine.networks import Network
from kanrun.engine.training.data import Errors, TrainingData, baseline_error, measure
from kanrun.engine.training.data_fitting import SmoothnessPenalty
from kanrun.engine.training.grid_stages import (
    LAST_TRIES,
    TRIES,
    GridTraining,
    Snapshot,
    Stage,
    TrainingState,
    first_penalty,
)
from kanrun.engine.training.multistart import MAX_START_INTERVALS, Create, best_start
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solver_run import Clock, Step, make_solver, spent
from kanrun.monitoring import time_limit_reached

Event = Step | Stage | Snapshot
Y = TypeVar("Y")
R = TypeVar("R")

#: Widths are compared on grids with up to this many unknowns, or those of the full width on
#: WIDTH_INTERVALS intervals.
WIDTH_UNKNOWNS, WIDTH_INTERVALS = 220, 8
#: A grid helps if the validation error falls below this fraction of the best before.
HELPED = 0.9
#: Grids in a row without help after which an automatic schedule ends.
UNHELPFUL = 2
#: Relative validation error at which an automatic schedule ends: only rounding is left.
ROUNDING = 1e-13
#: Steps of the final fit on training and validation points together.
FINAL_STEPS = 6


@dataclass(frozen=True)
class Trained:
    """The network of the stage that validation chose, and the stages that led there."""

    network: Network
    chosen: Stage
    errors: Errors
    stages: list[Stage]
    seconds: float


def train(
    create: Create,
    data: TrainingData,
    plan: Plan,
    generator: Generator,
    progress: TrainingState | None = None,
) -> Events[Event, None, Trained]:
    """Train a network that `create` makes, resuming from `progress`.

    Raises TrainingFailed at the stage and step of a value that is not finite; the stages and
    snapshots yielded before hold the last good states.
    """
    return _Training(create, data, plan, generator, progress or TrainingState()).run()


def fit(create: Create, data: TrainingData, plan: Plan, generator: Generator) -> Trained:
    """Run `train` to its end, for callers that need no events."""
    return _finished(train(create, data, plan, generator), lambda event: None)


def _finished(events: Events[Y, None, R], tell: Callable[[Y], None]) -> R:
    """Call `tell` with each of the events and return what their generator returns."""
    while True:
        try:
            tell(next(events))
        except StopIteration as end:
            result: R = end.value
            return result


class _Training:
    def __init__(
        self,
        create: Create,
        data: TrainingData,
        plan: Plan,
        generator: Generator,
        progress: TrainingState,
    ) -> None:
        self.create, self.data, self.plan = create, data, plan
        self.generator, self.progress = generator, progress
        self.last = progress.snapshot or (progress.stages[-1] if progress.stages else None)
        self.clock = Clock(self.last.seconds if self.last else 0.0)
        self.schedule: tuple[int | None, ...] = plan.intervals or (None,)

    def run(self) -> Events[Event, None, Trained]:
        shape, snapshot = None, self.progress.snapshot
        if self.last:
            self.generator.set_state(self.last.random)
            training = self._training(self.last.network, self.last.penalty)
            training.stages = list(self.progress.stages)
        else:
            training, shape, events = self._first()
            with self.clock.stopped():
                yield from events
        while len(training.stages) < len(self.schedule) and not self._ends(training):
            if training.stages and time_limit_reached():
                break
            position = len(training.stages)
            tries = LAST_TRIES if position == len(self.schedule) - 1 else TRIES
            intervals = self.schedule[position]
            stage = yield from training.advance(intervals, tries=tries, snapshot=snapshot)
            snapshot = None
            with self.clock.stopped():
                yield stage
        chosen = min(training.stages, key=lambda stage: stage.selected)
        network = self._final_fit(chosen)
        if network.shape != (full := shape or self.create(self.generator).shape):
            network = network.padded(full)
        errors = replace(measure(network, self.data), validation=chosen.errors.validation)
        return Trained(network, chosen, errors, training.stages, self.clock.seconds)

    def _first(self) -> tuple[GridTraining, tuple[int, ...], list[Event]]:
        """Return the training that continues, the full shape, and the events of its selection."""
        network, plan, train = self.create(self.generator), self.plan, self.data.train
        penalty, shape = first_penalty(plan), network.shape
        # One start takes quick steps too, in which hidden grids find their place.
        settles = plan.update_grid and len(shape) > 2
        settles &= network.intervals is not None and network.intervals <= MAX_START_INTERVALS
        several = plan.starts > 1 or (plan.second_order and settles)
        if network.fit_linear(train.x, train.y, train.roots) or not several:
            return self._training(network, penalty), shape, []
        grids, limit = self.schedule[:1], None
        if plan.second_order:
            # Narrower networks are compared on grids no larger than the first ones of the full
            # width.
            each = network.unknowns_at(None) / max(network.intervals or 1, 1)
            grids, limit = (
                self.schedule[:-1],
                max(WIDTH_UNKNOWNS, round(each * WIDTH_INTERVALS)),
            )
            rivals = self._started(network, penalty)
        else:
            others = [self.create(self.generator) for _ in range(plan.starts - 1)]
            rivals = [self._training(one, penalty) for one in (network, *others)]
        events = self._compared(rivals, grids, limit) if len(rivals) > 1 else [[]]
        winner = min(range(len(rivals)), key=lambda i: rivals[i].lowest)
        return rivals[winner], shape, events[winner]

    def _started(self, network: Network, penalty: SmoothnessPenalty) -> list[GridTraining]:
        """Return trainings from the best of several starts, one for each width."""
        plan, rivals = self.plan, list[GridTraining]()
        several = plan.select_width and plan.starts > 1
        for shape in network.subnetworks() if several else [network.shape]:
            if rivals and time_limit_reached():
                break

            def narrow(generator: Generator, shape: tuple[int, ...] = shape) -> Network:
                return self.create(generator).subnetwork(shape)

            start = best_start(narrow, self.data, plan, penalty.weight, self.generator)
            rivals.append(self._training(start.network, penalty))
        return rivals

    def _compared(
        self, rivals: list[GridTraining], grids: Sequence[int | None], limit: int | None
    ) -> list[list[Event]]:
        """Train each on those of `grids` with at most `limit` unknowns, at a constant weight."""
        recorded: list[list[Event]] = []
        for training in rivals:
            events: list[Event] = []
            for intervals in grids:
                large = limit is not None and training.network.unknowns_at(intervals) > limit
                if (training.stages and (large or time_limit_reached())) or self._ends(training):
                    break
                # Nothing resumes in the middle of a comparison, so snapshots are dropped.
                steps = list[Step | Snapshot]()
                stage = _finished(training.advance(intervals, tries=0), steps.append)
                events += [*(step for step in steps if isinstance(step, Step)), stage]
            recorded.append(events)
        return recorded

    def _ends(self, training: GridTraining) -> bool:
        """Return whether finer grids are too large or not worth it.

        Rounding is reached, or some did not help.
        """
        if not training.stages:
            return False
        limit = self.plan.max_unknowns
        intervals = self.schedule[min(len(training.stages), len(self.schedule) - 1)]
        if limit is not None and training.network.unknowns_at(intervals) > limit:
            return True
        if not self.plan.stop_early:
            return False
        errors = [stage.selected for stage in training.stages]
        if errors[-1] <= ROUNDING * baseline_error(self.data):
            return True
        helped = [i for i, error in enumerate(errors) if i == 0 or error < HELPED * min(errors[:i])]
        return len(errors) - 1 - helped[-1] >= UNHELPFUL

    def _training(self, network: Network, penalty: SmoothnessPenalty) -> GridTraining:
        return GridTraining(network, penalty, self.data, self.plan, self.generator, self.clock)

    def _final_fit(self, chosen: Stage) -> Network:
        """Return the chosen network after more steps on training and validation points together."""
        network, everything = deepcopy(chosen.network), self.data.everything
        linear = network.fit_linear(everything.x, everything.y, everything.roots)
        if not linear and self.plan.second_order and self.data.validation is not None:
            data = replace(self.data, train=everything, validation=None)
            solver = make_solver(network, data, self.plan, chosen.penalty, self.generator)
            for _ in range(FINAL_STEPS):
                before = solver.loss
                solver.step()
                if spent(solver, before) or time_limit_reached():
                    break
        return network
