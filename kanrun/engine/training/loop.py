"""The training loop: starts, the selection of a width, grid stages, selection on validation data, the final fit.

`train` is a generator: it yields a `Step` after every solver step, a `Stage` after every grid, a `Snapshot` now and
then on a grid that takes long, and returns a `Trained`. The stages and the snapshot after them hold all that is needed
to resume, so that an interrupted training continues to the same numbers. Test errors are measured and reported;
nothing looks at them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from torch import Generator

from kanrun.engine.networks import Network
from kanrun.engine.training.data import Errors, TrainingData, baseline_error, measure
from kanrun.engine.training.data_fitting import Smoothing
from kanrun.engine.training.grid_stages import GridTraining, Snapshot, Stage, TrainingState
from kanrun.engine.training.multistart import Create, best_start
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solver_run import Clock, Step, make_solver, spent
from kanrun.monitoring import time_limit_reached

Event = Step | Stage | Snapshot
Y = TypeVar("Y")
R = TypeVar("R")


@dataclass(frozen=True)
class Trained:
    """The network at the stage that validation chose, and the way there."""

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

    Raises TrainingFailed where a value is not finite, saying at which stage and step; the stages and snapshots that
    were yielded before hold the last good states.
    """
    return _Training(create, data, plan, generator, progress or TrainingState()).run()


def fit(create: Create, data: TrainingData, plan: Plan, generator: Generator) -> Trained:
    """`train` to its end, for callers that watch nothing."""
    found: list[Trained] = []
    deque(_ended(train(create, data, plan, generator), found.append), maxlen=0)
    return found[0]


def _ended(events: Events[Y, None, R], tell: Callable[[R], None]) -> Iterator[Y]:
    """The events, and `tell` called with what their generator returns."""
    tell((yield from events))


class _Training:
    def __init__(
        self,
        create: Create,
        data: TrainingData,
        plan: Plan,
        generator: Generator,
        progress: TrainingState,
    ) -> None:
        self.create, self.data, self.plan, self.generator, self.progress = (
            create,
            data,
            plan,
            generator,
            progress,
        )
        self.last = progress.snapshot or (progress.stages[-1] if progress.stages else None)
        self.clock = Clock(self.last.seconds if self.last else 0.0)
        self.schedule: tuple[int | None, ...] = plan.intervals or (None,)

    def run(self) -> Events[Event, None, Trained]:
        if self.last:
            training, shape, snapshot = self._resumed(self.last), None, self.progress.snapshot
        else:
            training, shape, events = self._first()
            with self.clock.stopped():
                yield from events
            snapshot = None
        penalty = self.plan.policy.penalty
        while len(training.stages) < len(self.schedule) and not self._finished(training):
            if training.stages and time_limit_reached():
                break
            position = len(training.stages)
            tries = penalty.last_tries if position == len(self.schedule) - 1 else penalty.tries
            stage = yield from training.advance(
                self.schedule[position], tries=tries, snapshot=snapshot
            )
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
        """The training that continues, the shape asked for, and the events of the grids where it was selected."""
        network, plan = self.create(self.generator), self.plan
        penalty = plan.policy.penalty
        smoothing = Smoothing(penalty.first if plan.weight is None else plan.weight, plan.order)
        if plan.selection == "evidence" and plan.weight is None:
            smoothing = Smoothing(penalty.evidence_first, penalty.rough_order)
        second_order = plan.solver == "lm"
        several = plan.starts > 1 or (second_order and self._settles(network))
        if (
            network.fit_linear(self.data.train.x, self.data.train.y, self.data.train.roots)
            or not several
        ):
            return self._training(network, smoothing), network.shape, []
        if second_order:
            rivals, grids, limit = (
                self._started(network, smoothing),
                self.schedule[:-1],
                self._affordable(network),
            )
        else:
            others = [self.create(self.generator) for _ in range(plan.starts - 1)]
            rivals = [self._training(one, smoothing) for one in (network, *others)]
            grids, limit = self.schedule[:1], None
        events = self._compared(rivals, grids, limit) if len(rivals) > 1 else [[]]
        winner = min(range(len(rivals)), key=lambda i: rivals[i].lowest)
        return rivals[winner], network.shape, events[winner]

    def _started(self, network: Network, smoothing: Smoothing) -> list[GridTraining]:
        """Trainings from the best of several starts, one for each width."""
        rivals: list[GridTraining] = []
        shapes = (
            network.subnetworks()
            if self.plan.select_width and self.plan.starts > 1
            else [network.shape]
        )
        for shape in shapes:
            if rivals and time_limit_reached():
                break
            create = partial(self._narrow, shape)
            start = best_start(create, self.data, self.plan, smoothing.weight, self.generator)
            rivals.append(self._training(start.network, smoothing))
        return rivals

    def _settles(self, network: Network) -> bool:
        """Whether even one start is worth its quick steps, in which hidden grids find their place."""
        policy, intervals = self.plan.policy.multistart, network.intervals
        if not (policy.settles and self.plan.update_grid) or intervals is None:
            return False
        return len(network.shape) > 2 and intervals <= policy.coarse_enough

    def _narrow(self, shape: tuple[int, ...], generator: Generator) -> Network:
        return self.create(generator).subnetwork(shape)

    def _affordable(self, full: Network) -> int:
        """Unknowns of the grids on which widths are compared: no more than the full width's first ones have."""
        policy, each = self.plan.policy.widths, full.unknowns_at(None) / max(full.intervals or 1, 1)
        return max(policy.unknowns, round(each * policy.intervals))

    def _compared(
        self, rivals: list[GridTraining], grids: Sequence[int | None], limit: int | None
    ) -> list[list[Event]]:
        """Take each through those of `grids` with at most `limit` unknowns; the penalty's weight waits."""
        recorded: list[list[Event]] = []
        for training in rivals:
            events: list[Event] = []
            for intervals in grids:
                large = limit is not None and training.network.unknowns_at(intervals) > limit
                if (training.stages and (large or time_limit_reached())) or self._finished(training):
                    break
                for event in _ended(training.advance(intervals, tries=0), events.append):
                    if isinstance(event, Step):  # nothing resumes in the middle of a comparison
                        events.append(event)
            recorded.append(events)
        return recorded

    def _finished(self, training: GridTraining) -> bool:
        """Whether finer grids are too large or not worth it: rounding is reached, or some in a row did not help."""
        if not training.stages:
            return False
        limit, intervals = (
            self.plan.most_unknowns,
            self.schedule[min(len(training.stages), len(self.schedule) - 1)],
        )
        if limit is not None and training.network.unknowns_at(intervals) > limit:
            return True
        if not self.plan.stop_early:
            return False
        policy, errors = self.plan.policy.grids, [stage.selected for stage in training.stages]
        if errors[-1] <= policy.rounding * baseline_error(self.data):
            return True
        helped = [
            i for i, error in enumerate(errors) if i == 0 or error < policy.helped * min(errors[:i])
        ]
        return len(errors) - 1 - helped[-1] >= policy.unhelpful

    def _training(self, network: Network, smoothing: Smoothing) -> GridTraining:
        return GridTraining(network, smoothing, self.data, self.plan, self.generator, self.clock)

    def _resumed(self, last: Stage | Snapshot) -> GridTraining:
        self.generator.set_state(last.random)
        training = self._training(last.network, last.smoothing)
        training.stages = list(self.progress.stages)
        return training

    def _final_fit(self, chosen: Stage) -> Network:
        """The chosen network after some more steps on training and validation points together."""
        network, policy, everything = (
            deepcopy(chosen.network),
            self.plan.policy,
            self.data.everything,
        )
        linear = network.fit_linear(everything.x, everything.y, everything.roots)
        if not linear and self.plan.solver == "lm" and self.data.validation is not None:
            data = replace(self.data, train=everything, validation=None)
            solver = make_solver(network, data, self.plan, chosen.smoothing, self.generator)
            for _ in range(policy.final_steps):
                before = solver.loss
                solver.step()
                if spent(solver, before, policy.grids) or time_limit_reached():
                    break
        return network
