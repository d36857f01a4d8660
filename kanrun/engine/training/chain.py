"""One network on its way through the grids of a schedule."""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from kanrun.engine.networks import KAN, Network, activations, adapt_inputs, get_unknowns, refine, regrid_hidden
from kanrun.engine.training.carrying import carry
from kanrun.engine.training.clock import Clock
from kanrun.engine.training.data import Errors, TrainingData, measure, spread
from kanrun.engine.training.penalty import penalty
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import Memory, Smoothing, Solver, make_solver
from kanrun.engine.training.starts import MARGIN
from kanrun.errors import TrainingFailed

#: A hidden grid is kept while the activations lie inside it and fill this share of it.
FILLED = 0.8
#: A grid is left when the objective falls by less than this share in each of two steps, or hardly at all in one.
STALLED, HARDLY = 0.02, 1e-3
#: Steps of LBFGS before hidden grids follow the ranges that it found.
SETTLING = 30
#: The penalty's weight moves by this factor, within these bounds.
FACTOR, SMALLEST, LARGEST = 100.0, 1e-30, 1e2
#: A weight must lower the validation error by this share.
WORTH = 0.03
#: A penalty below this share of the objective holds nothing back: lower weights are not tried.
NEGLIGIBLE = 0.01
#: Upwards the search looks past so many weights that do not help (noise makes plateaus), up to this much worse.
MISSES, TOO_FAR = 4, 1.5
#: A first fit with a larger relative error is taken for noisy: second differences are penalised then, by one of these
#: weights (relative to outputs of unit deviation and a domain of unit width), each trained for some steps.
NOISY, ROUGH_ORDER, ROUGH_WEIGHTS, ROUGH_STEPS = 0.05, 2, tuple(10.0**-e for e in range(-1, 7)), 8
#: Measuring looks at no more than this many times the samples that the steps before it did.
MEASURED_SHARE = 2
#: Only grids with at most so many unknowns search upwards: noise shows on coarse grids already.
UPWARDS = 1000
#: At this relative error there is no noise to smooth, and the rounding of a heavily weighted penalty would show.
CLEAN = 1e-6


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
    order: int | None = None  # of the penalty, where that is not degree + 2
    memory: Memory = field(default_factory=dict)  # of the solver, at its end


class Chain:
    """Trains one network grid by grid; `stages` so far, the last holding the network that goes on."""

    def __init__(
        self, network: Network, weight: float, data: TrainingData, plan: Plan, generator: Generator, clock: Clock
    ) -> None:
        self.network, self.smoothing, self.data, self.plan = network, Smoothing(weight, plan.order), data, plan
        self.generator, self.clock = generator, clock
        self.stages: list[Stage] = []
        self.memory: Memory = {}

    def advance(self, intervals: int | None, *, tries: int) -> Events[Step, None, Stage]:
        """Go to a grid of `intervals` and train there; `tries` weights of the penalty may be tried, none for 0."""
        number = len(self.stages) + 1
        before = self.stages[-1].errors.train if self.stages else None
        network, how, change = self._moved(intervals)
        after = measure(network, self.data).train
        best = _Best(network, self.data)
        budget = self.plan.steps_for(get_unknowns(network).numel())
        counted = _Counter(number, self.clock)
        solver = make_solver(network, self.data, self.plan, self.smoothing, self.generator, self._carried(network))
        if number == 1 and self.plan.solver == "lbfgs":
            solver = yield from self._settled(solver, min(SETTLING, budget), best, counted)
        settled = yield from self._run(solver, budget - counted.steps, best, counted)
        self.memory = carry(solver.memory(), solver.network, best.network)
        if self.plan.solver == "lm" and self.plan.weight is None:
            if number == 1 and best.error > NOISY * spread(self.data):
                yield from self._smooth(best, counted)
            if tries:
                yield from self._search_weight(best, budget, counted, tries, settled)
        self.network = best.network
        stage = Stage(
            number, _intervals(network), best.network, measure(best.network, self.data), counted.steps,
            self.clock.seconds, self.smoothing.weight, how, change, before, after, self.generator.get_state(),
            self.smoothing.order, self.memory,
        )  # fmt: skip
        self.stages.append(stage)
        return stage

    def _moved(self, intervals: int | None) -> tuple[Network, str, float]:
        """The network on the next grid, how its function was carried there, and the change that made."""
        network, x = self.network, self.data.train.x
        if not isinstance(network, KAN) or intervals is None:
            return network, "start", 0.0
        if self.plan.update_grid and self.plan.adapt > 0:
            hidden = regrid_hidden(network, x, intervals=intervals, adapt=self.plan.adapt, margin=MARGIN)
            moved = adapt_inputs(hidden.network, x, adapt=self.plan.adapt)
            moved = replace(moved, change=max(moved.change, hidden.change))
        elif self.plan.update_grid and not _fits(network, x):
            moved = regrid_hidden(network, x, intervals=intervals, adapt=self.plan.adapt, margin=MARGIN)
        elif intervals == network.intervals:
            return deepcopy(network), "start", 0.0
        else:
            moved = refine(network, intervals, x)
        return moved.network, moved.how, moved.change

    def _carried(self, network: Network) -> Memory:
        """The solver's memory on the last grid, for this one."""
        return carry(self.memory, self.network, network)

    def _settled(self, solver: Solver, steps: int, best: _Best, counted: _Counter) -> Events[Step, None, Solver]:
        """LBFGS on the first grid once the hidden ranges have settled, its hidden grids drawn anew over them."""
        network, x = solver.network, self.data.train.x
        if not isinstance(network, KAN) or len(network.layers) == 1 or not self.plan.update_grid:
            return solver
        yield from self._run(solver, steps, best, counted)
        if _fits(network, x):
            return solver
        moved = regrid_hidden(network, x, adapt=self.plan.adapt, margin=MARGIN).network
        memory = carry(solver.memory(), network, moved)
        return make_solver(moved, self.data, self.plan, self.smoothing, self.generator, memory)

    def _smooth(self, best: _Best, counted: _Counter) -> Events[Step, None, None]:
        """Where the first fit is poor, noise is likely: try second differences, from nearly straight edges down.

        Their penalty keeps straight lines alone, where that of high order keeps polynomials that overfit.
        """
        path = _Best(best.network, self.data)
        for weight in ROUGH_WEIGHTS:
            path.error = float("inf")
            smoothing = Smoothing(weight, ROUGH_ORDER)
            solver = make_solver(path.network, self.data, self.plan, smoothing, self.generator)
            yield from self._run(solver, ROUGH_STEPS, path, counted)
            if path.error < best.error:
                best.network, best.error, self.smoothing = deepcopy(path.network), path.error, smoothing

    def _search_weight(
        self, best: _Best, budget: int, counted: _Counter, tries: int, settled: bool
    ) -> Events[Step, None, None]:
        """Lower weights while they help; where not even the first does, higher ones.

        Higher ones are not tried before the steps have settled: they would win by the steps that they are given.
        """
        moved = False
        for _ in range(tries if self._penalty_matters(best.network) else 0):
            tried = self.smoothing.weight / FACTOR
            if tried < SMALLEST * 0.9 or not (yield from self._try(best, tried, max(3, budget // 2), counted)):
                break
            moved = True
        unknowns = get_unknowns(best.network).numel()
        if moved or not settled or unknowns > UPWARDS or best.error < CLEAN * spread(self.data):
            return
        missed, tried = 0, self.smoothing.weight * FACTOR
        while tried < LARGEST and missed < MISSES:
            error = best.error
            helped = yield from self._try(best, tried, max(3, budget // 3), counted)
            missed = 0 if helped else missed + 1
            if self._reached > TOO_FAR * error:
                break
            tried *= FACTOR

    def _penalty_matters(self, network: Network) -> bool:
        with torch.no_grad():
            rough = self.smoothing.weight * float(penalty(network, self.smoothing.order))
        return rough > NEGLIGIBLE * (rough + (measure(network, self.data).train / spread(self.data)) ** 2)

    def _try(self, best: _Best, weight: float, steps: int, counted: _Counter) -> Events[Step, None, bool]:
        """Train on from the best network with another weight; it is kept where validation says so."""
        trial = _Best(deepcopy(best.network), self.data)
        trial.error = float("inf")
        smoothing = replace(self.smoothing, weight=weight)
        solver = make_solver(trial.network, self.data, self.plan, smoothing, self.generator)
        yield from self._run(solver, steps, trial, counted)
        self._reached = trial.error
        if not trial.error < (1 - WORTH) * best.error:
            return False
        best.network, best.error, self.smoothing = trial.network, trial.error, smoothing
        return True

    def _run(self, solver: Solver, steps: int, best: _Best, counted: _Counter) -> Events[Step, None, bool]:
        """Steps of `solver` until it converges, stalls or loses patience, then True, or has taken `steps`."""
        stalled, unimproved, every = 0, 0, _measured_every(solver, self.data)
        for taken in range(1, steps + 1):
            before, loss = solver.loss, solver.step()
            counted.steps += 1
            if taken % every and taken < steps and not solver.converged:
                continue
            errors = measure(solver.network, self.data)
            if not errors.train < float("inf"):
                raise TrainingFailed(f"The error is not finite at stage {counted.stage}, step {counted.steps}.")
            unimproved = 0 if best.offer(solver.network, errors) else unimproved + 1
            yield from counted.show(_intervals(solver.network), errors)
            stalled = stalled + 1 if solver.stalls and loss > (1 - STALLED) * before else 0
            impatient = self.plan.patience is not None and unimproved >= self.plan.patience
            if spent(solver, before) or stalled >= 2 or impatient:
                return True
        return False


class _Best:
    """The network with the lowest validation error so far."""

    def __init__(self, network: Network, data: TrainingData) -> None:
        self.network, self.error = deepcopy(network), measure(network, data).selected

    def offer(self, network: object, errors: Errors) -> bool:
        if not errors.selected < self.error:
            return False
        self.network, self.error = deepcopy(network), errors.selected  # type: ignore[assignment]
        return True


class _Counter:
    """Numbers the steps of a stage, and lets the clock stand while the consumer looks at them."""

    def __init__(self, stage: int, clock: Clock) -> None:
        self.stage, self.steps, self._clock = stage, 0, clock

    def show(self, intervals: int | None, errors: Errors) -> Events[Step, None, None]:
        seconds = self._clock.stop()
        yield Step(self.stage, self.steps, intervals, errors, seconds)
        self._clock.go()


def spent(solver: Solver, before: float) -> bool:
    """Whether the step that came from the objective `before` says that another one is not worth its time."""
    return solver.converged or (solver.stalls and solver.loss > (1 - HARDLY) * before)


def _measured_every(solver: Solver, data: TrainingData) -> int:
    """Steps between two measurements: 1, but more where a step looks at few of many samples."""
    rows = sum(len(part) for part in (data.train, data.validation, data.test) if part is not None)
    return max(1, rows // (MEASURED_SHARE * solver.rows))


def _fits(network: KAN, x: Tensor) -> bool:
    """Whether all activations lie inside their grids and fill them well."""
    with torch.no_grad():
        for layer, values in list(zip(network, activations(network, x), strict=False))[1:]:
            low, high, width = values.amin(0), values.amax(0), layer.grid.high - layer.grid.low
            if bool((low < layer.grid.low).any() or (high > layer.grid.high).any()):
                return False
            if bool((high - low < FILLED * width).any()):
                return False
    return True


def _intervals(network: object) -> int | None:
    return network.intervals if isinstance(network, KAN) else None
