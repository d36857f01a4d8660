"""The training loop: starts, the race of widths, grid stages, selection on validation data, the final fit.

`train` is a generator: it yields a `Step` after every solver step, a `Stage` after every grid, a `Pause` now and then
on a grid that takes long, and returns a `Trained`. The stages and the pause after them hold all that is needed to go
on, so that an interrupted training continues to the same numbers. Test errors are measured and reported; nothing looks
at them.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

from torch import Generator

from kanrun.engine.networks import KAN, Curve, Network, get_unknowns, halved, narrowed, padded
from kanrun.engine.training.chain import Chain, Pause, Stage
from kanrun.engine.training.clock import Clock
from kanrun.engine.training.data import Errors, TrainingData, measure, spread
from kanrun.engine.training.penalty import Smoothing
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import make_solver
from kanrun.engine.training.starts import COARSE_ENOUGH, Create, best_start
from kanrun.engine.training.stepping import Step, spent

#: Weight of the smoothness penalty at the start when validation is to choose it.
FIRST_WEIGHT = 1e-18
#: Widths race through the grids up to this many unknowns, or what the full width has on its first grid doubled.
RACE = 220
#: A width whose best start is this many times worse than the best one's does not race, unless its relative error is
#: small: what a coarse grid leaves of it can be a later grid's to gain.
HOPELESS, NEAR = 10.0, 0.1
#: Weights of the penalty tried downwards on a grid, and on the last one.
TRIES, LAST_TRIES = 5, 8
#: Relative validation error at which rounding is all that is left.
ROUNDING = 1e-13
#: Steps of the final fit on training and validation points together.
REFIT = 6


Event = Step | Stage | Pause


@dataclass(frozen=True)
class Trained:
    """The network at the stage that validation chose, and the way there."""

    network: Network
    chosen: Stage
    errors: Errors
    stages: list[Stage]
    seconds: float


@dataclass(frozen=True)
class Done:
    """What an interrupted training had done: its finished stages, and the last pause of the one after them."""

    stages: Sequence[Stage] = ()
    pause: Pause | None = None


def train(
    create: Create, data: TrainingData, plan: Plan, generator: Generator, done: Done | None = None
) -> Events[Event, None, Trained]:
    """Train a network that `create` makes; `done` is what an interrupted training goes on from.

    Raises TrainingFailed where a value is not finite, saying at which stage and step; the stages and pauses that were
    yielded before hold the last good states.
    """
    return _Training(create, data, plan, generator, done or Done()).run()


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
    def __init__(self, create: Create, data: TrainingData, plan: Plan, generator: Generator, done: Done) -> None:
        self.create, self.data, self.plan, self.generator = create, data, plan, generator
        self.done, self.last = done, done.pause or (done.stages[-1] if done.stages else None)
        self.clock = Clock(self.last.seconds if self.last else 0.0)
        self.spread = spread(data)
        self.schedule: tuple[int | None, ...] = plan.intervals or (None,)

    def run(self) -> Events[Event, None, Trained]:
        if self.last:
            chain, shape, pause = self._resumed(self.last), None, self.done.pause
        else:
            chain, shape, events = self._first()
            yield from self._shown(events)
            pause = None
        while len(chain.stages) < len(self.schedule) and not self._finished(chain):
            position = len(chain.stages)
            tries = LAST_TRIES if position == len(self.schedule) - 1 else TRIES
            stage = yield from chain.advance(self.schedule[position], tries=tries, pause=pause)
            pause = None
            yield from self._shown([stage])
        chosen = min(chain.stages, key=lambda stage: stage.errors.selected)
        network = self._final_fit(chosen)
        if isinstance(network, KAN) and network.shape != (full := shape or self.create(self.generator).shape):
            network = padded(network, full)
        errors = replace(measure(network, self.data), validation=chosen.errors.validation)
        return Trained(network, chosen, errors, chain.stages, self.clock.stop())

    def _first(self) -> tuple[Chain, tuple[int, ...], list[Event]]:
        """The chain that goes on, the shape asked for, and the events of the grids it raced through."""
        network, plan = self.create(self.generator), self.plan
        smoothing = Smoothing(FIRST_WEIGHT if plan.weight is None else plan.weight, plan.order)
        if isinstance(network, Curve):
            network.fit_linear(self.data.train.x, self.data.train.y)
        second_order = plan.solver == "lm"
        if isinstance(network, Curve) or not (plan.starts > 1 or (second_order and self._settles(network))):
            return self._chain(network, smoothing), network.shape, []
        if second_order:
            racing, grids, limit = self._quick(network, smoothing), self.schedule[:-1], self._affordable(network)
        else:
            others = [self.create(self.generator) for _ in range(plan.starts - 1)]
            racing = [self._chain(one, smoothing) for one in (network, *others)]
            grids, limit = self.schedule[:1], None
        events = self._raced(racing, grids, limit) if len(racing) > 1 else [[]]
        winner = min(range(len(racing)), key=lambda i: _selected(racing[i]))
        return racing[winner], network.shape, events[winner]

    def _quick(self, network: Network, smoothing: Smoothing) -> list[Chain]:
        """Chains from the best of several starts, one for each width that may win."""
        candidates = []
        race = self.plan.narrow and self.plan.starts > 1 and isinstance(network, KAN)
        for shape in halved(network.shape) if race else [network.shape]:
            create = partial(self._narrow, shape)
            start = best_start(create, self.data, self.plan.starts, smoothing.weight, self.generator)
            candidates.append((start.loss**0.5, self._chain(start.network, smoothing)))
        best = min(loss for loss, _ in candidates)
        return [chain for loss, chain in candidates if loss <= max(HOPELESS * best, NEAR)]

    def _settles(self, network: Network) -> bool:
        """Whether even one start is worth its quick steps, in which hidden grids find their place."""
        if not isinstance(network, KAN) or not self.plan.update_grid:
            return False
        return len(network.layers) > 1 and network.intervals <= COARSE_ENOUGH

    def _narrow(self, shape: tuple[int, ...], generator: Generator) -> Network:
        network = self.create(generator)
        return narrowed(network, shape) if isinstance(network, KAN) and network.shape != shape else network

    def _affordable(self, full: Network) -> int:
        """Unknowns of the grids that a race goes through: no more than the full width's first ones have."""
        each = get_unknowns(full).numel() / max(full.intervals if isinstance(full, KAN) else 1, 1)
        return max(RACE, round(each * 8))

    def _raced(self, chains: list[Chain], grids: Sequence[int | None], limit: int | None) -> list[list[Event]]:
        """Take each chain through those of `grids` with at most `limit` unknowns; the penalty's weight waits."""
        recorded: list[list[Event]] = []
        for chain in chains:
            events: list[Event] = []
            for intervals in grids:
                large = limit is not None and chain.network.unknowns_at(intervals) > limit
                if (chain.stages and large) or self._finished(chain):
                    break
                going = chain.advance(intervals, tries=0)
                while True:
                    try:
                        event = next(going)
                    except StopIteration as end:
                        events.append(end.value)
                        break
                    if isinstance(event, Step):  # what a race has done is not gone on from
                        events.append(event)
            recorded.append(events)
        return recorded

    def _finished(self, chain: Chain) -> bool:
        """Whether finer grids are too large or not worth it: rounding is reached, or two in a row did not help."""
        if not chain.stages:
            return False
        limit, intervals = self.plan.most_unknowns, self.schedule[min(len(chain.stages), len(self.schedule) - 1)]
        if limit is not None and chain.network.unknowns_at(intervals) > limit:
            return True
        if not self.plan.stop_early:
            return False
        errors = [stage.errors.selected for stage in chain.stages]
        if errors[-1] <= ROUNDING * self.spread:
            return True
        helped = [i for i, error in enumerate(errors) if i == 0 or error < 0.9 * min(errors[:i])]
        return len(errors) - 1 - helped[-1] >= 2

    def _shown(self, events: list[Event]) -> Events[Event, None, None]:
        self.clock.stop()
        yield from events
        self.clock.go()

    def _chain(self, network: Network, smoothing: Smoothing) -> Chain:
        return Chain(network, smoothing, self.data, self.plan, self.generator, self.clock)

    def _resumed(self, last: Stage | Pause) -> Chain:
        self.generator.set_state(last.random)
        chain = self._chain(last.network, last.smoothing)
        chain.stages = list(self.done.stages)
        if isinstance(last, Stage):
            chain.memory = last.memory
        return chain

    def _final_fit(self, chosen: Stage) -> Network:
        """The chosen network after some more steps on training and validation points together."""
        network = deepcopy(chosen.network)
        if isinstance(network, Curve):
            network.fit_linear(self.data.everything.x, self.data.everything.y)
        elif self.plan.solver == "lm" and self.data.validation is not None:
            everything = replace(self.data, train=self.data.everything, validation=None)
            solver = make_solver(network, everything, self.plan, chosen.smoothing, self.generator)
            for _ in range(REFIT):
                before = solver.loss
                solver.step()
                if spent(solver, before):
                    break
        return network


def _selected(chain: Chain) -> float:
    return min((stage.errors.selected for stage in chain.stages), default=float("inf"))
