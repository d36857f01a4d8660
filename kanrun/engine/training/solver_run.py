"""The run of a solver on one grid, its records, and the search for the weight of the penalty.

Steps with evaluation, events, stopping rules, a clock of training alone.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from time import perf_counter

from torch import Generator, Tensor, nn

from kanrun.engine.networks import Network
from kanrun.engine.training.data import (
    Errors,
    TrainingData,
    baseline_error,
    explain_non_finite,
    measure,
    rmse,
)
from kanrun.engine.training.data_fitting import SmoothnessPenalty, update_penalty_weight
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import Solver, make_solver
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Measuring looks at no more than this many times the samples that the steps did.
MEASURED_FACTOR = 2
#: Steps in a row below the plateau tolerance after which a grid is left.
PLATEAU = 2
#: Penalty weight at the start, relative to outputs of unit standard deviation and a domain of unit
#: width; its bounds.
FIRST_WEIGHT, MIN_WEIGHT, MAX_WEIGHT = 1e-18, 1e-30, 1e2
#: Factor between weights that are tried.
WEIGHT_FACTOR = 100.0
#: Number of lower weights tried on a grid, and on the last one.
TRIES, LAST_TRIES = 5, 8
#: Fraction of the validation error that a weight must gain.
MIN_GAIN = 0.03
# Upwards the search looks past MISSES weights that do not help (noise makes plateaus) and are up to
# TOO_FAR times worse. Grids with more unknowns than UPWARD_UNKNOWNS do not search upwards (noise
# shows on coarse grids already), nor do fits with a relative error below CLEAN.
MISSES, TOO_FAR, UPWARD_UNKNOWNS, CLEAN = 4, 1.5, 1000, 1e-6
# A first fit with a relative error above NOISY is followed by second differences of these weights,
# from nearly straight edges down. A later grid looks past PLATEAU_WEIGHTS of them that do not help.
NOISY, ROUGH_ORDER, ROUGH_STEPS, PLATEAU_WEIGHTS = 0.05, 2, 8, 2
ROUGH_WEIGHTS = tuple(10.0**-e for e in range(-1, 7))
# The evidence: second differences with this weight at the start, and the maximum number of updates
# with this many steps each, until the weight changes by less than the factor SETTLED.
EVIDENCE_WEIGHT, EVIDENCE_UPDATES, EVIDENCE_STEPS, SETTLED = 1e-6, 12, 3, 1.2


class Clock:
    """Seconds of training: it stands still while the consumer of its events works."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._start = perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return perf_counter() - self._start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock within the block."""
        before = self.seconds
        yield
        self._start = perf_counter() - before


@dataclass(frozen=True)
class Setup:
    """Common parts of the runs of one training."""

    data: TrainingData
    plan: Plan
    generator: Generator
    clock: Clock

    def solver(self, network: Network, penalty: SmoothnessPenalty) -> Solver:
        """Create the plan's solver on `network`."""
        return make_solver(network, self.data, self.plan, penalty, self.generator)


@dataclass(frozen=True)
class Step:
    """One solver step: the errors after it and the seconds of training so far."""

    stage: int
    step: int
    intervals: int | None
    errors: Errors
    seconds: float


@dataclass(frozen=True)
class GridTransfer:
    """The transfer of the function to a grid."""

    #: `start`, `insertion`, `least squares`, or `both`.
    method: str
    #: Change of the function, relative to its size.
    error: float
    #: Training error just before, and just after.
    before: float | None
    after: float


@dataclass(frozen=True)
class Stage:
    """A finished grid: the network at its best validation error, and the transfer to the grid."""

    stage: int
    intervals: int | None
    network: Network
    errors: Errors
    steps: int
    #: Seconds of training so far.
    seconds: float
    penalty: SmoothnessPenalty
    transfer: GridTransfer
    #: State of the generator.
    random: Tensor
    #: Expected error of new points over the training error, if nothing is held out.
    inflation: float = 1.0

    @property
    def selected(self) -> float:
        """The error that grids are compared by."""
        return self.errors.selected * self.inflation


@dataclass(frozen=True)
class Grown:
    """The grids of all shapes that a growth tried, and why it tried no further one."""

    tried: Sequence[Stage]
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """A grid in the middle of its steps: what it takes to resume to the same numbers."""

    #: The network of the solver, and the best one with its validation error.
    network: Network
    best: Network
    lowest: float
    #: State of the solver.
    solver: dict[str, Tensor]
    #: Steps of the solver, and of the stage.
    taken: int
    steps: int
    stalled: int
    unimproved: int
    seconds: float
    penalty: SmoothnessPenalty
    transfer: GridTransfer
    random: Tensor


@dataclass(frozen=True)
class TrainingState:
    """The progress of an interrupted training.

    Finished stages, and the last snapshot of the following one.
    """

    stages: Sequence[Stage] = ()
    snapshot: Snapshot | None = None


class Best:
    """A copy of the network with the lowest validation error so far, and that error."""

    def __init__(self, network: Network, error: float) -> None:
        self.network, self.error = deepcopy(network), error
        self._like: nn.Module = network

    def offer(self, network: Network, errors: Errors) -> bool:
        """Take `network` if its error is lower; return whether it was."""
        if not errors.selected < self.error:
            return False
        self.error = errors.selected
        if network is self._like:  # then only its parameters have changed
            self.network.load_state_dict(network.state_dict())
        else:
            self.network, self._like = deepcopy(network), network
        return True


class StepLog:
    """Numbers the steps of a stage.

    The clock stands while test errors are measured and the consumer looks at them.
    """

    def __init__(self, stage: int, clock: Clock, data: TrainingData, steps: int = 0) -> None:
        self.stage, self.steps, self._clock, self._data = stage, steps, clock, data

    def show(self, network: Network, errors: Errors) -> Events[Step, None, None]:
        """Yield the step just taken, with the error on test points."""
        seconds = self._clock.seconds
        with self._clock.stopped():
            errors = replace(errors, test=rmse(network, self._data.test, self._data))
            yield Step(self.stage, self.steps, network.intervals, errors, seconds)


class SolverRun:
    """Up to `limit` steps of `solver`.

    `settled` says whether it converged, stalled or lost patience before.
    """

    def __init__(self, solver: Solver, limit: int, setup: Setup) -> None:
        self.solver, self.settled, self._limit, data = solver, False, limit, setup.data
        self._seen, self._patience = replace(data, test=None), setup.plan.patience
        parts = (data.train, data.validation, data.test)
        rows = sum(len(part) for part in parts if part is not None)
        # Steps between two measurements: more than 1 if a step looks at few of many samples.
        self._every = max(1, rows // (MEASURED_FACTOR * solver.rows))
        self.taken = self.stalled = self.unimproved = 0

    def run(self, best: Best, log: StepLog) -> Events[Step, None, bool]:
        """Take the steps, offering the network to `best` as it is measured; return `settled`.

        Raises TrainingFailed if the error on training points is not finite.
        """
        solver, patience = self.solver, self._patience
        while self.taken < self._limit and not self.settled and not time_limit_reached():
            before = solver.loss
            solver.step()
            self.taken += 1
            log.steps += 1
            if self.taken % self._every and self.taken < self._limit and not solver.converged:
                continue
            errors = measure(solver.network, self._seen)
            if not errors.train < float("inf"):
                cause = explain_non_finite(solver.network, self._seen.train)
                raise TrainingFailed(
                    f"The error is not finite at stage {log.stage}, step {log.steps}: {cause}."
                )
            self.unimproved = 0 if best.offer(solver.network, errors) else self.unimproved + 1
            slow = _gains_less(solver, before, solver.plateau_tolerance)
            self.stalled = self.stalled + 1 if slow else 0
            impatient = patience is not None and self.unimproved >= patience
            self.settled = spent(solver, before) or self.stalled >= PLATEAU or impatient
            part = f"grid of {solver.network.intervals}" if solver.network.intervals else "steps"
            report_progress(part, self.taken, self._limit, best.error)
            yield from log.show(solver.network, errors)
        return self.settled


def spent(solver: Solver, before: float) -> bool:
    """Return whether another step after that from the objective `before` is not worth its time."""
    return solver.converged or _gains_less(solver, before, solver.tolerance)


def _gains_less(solver: Solver, before: float, tolerance: float) -> bool:
    return tolerance > 0 and solver.loss > (1 - tolerance) * before


def first_penalty(plan: Plan) -> SmoothnessPenalty:
    """Return the penalty that a training begins with."""
    if plan.weight is None and plan.selection == "evidence":
        return SmoothnessPenalty(EVIDENCE_WEIGHT, ROUGH_ORDER)
    return SmoothnessPenalty(FIRST_WEIGHT if plan.weight is None else plan.weight, plan.order)


@dataclass
class PenaltySearch:
    """Continues training from `best` with other weights.

    `best` and `penalty` are the ones chosen so far.
    """

    best: Best
    penalty: SmoothnessPenalty
    setup: Setup
    log: StepLog

    def smooth(self) -> Events[Step, None, None]:
        """Try penalties on second differences if the first fit is poor, since noise is likely.

        The weights decrease from nearly straight edges. This penalty does not affect straight
        lines; a penalty of high order does not affect polynomials, which overfit.
        """
        if self.best.error <= NOISY * baseline_error(self.setup.data):
            return
        network = deepcopy(self.best.network)
        for weight in ROUGH_WEIGHTS:
            penalty = SmoothnessPenalty(weight, ROUGH_ORDER)
            reached = yield from self._trained(network, penalty, ROUGH_STEPS)
            network = reached.network
            if reached.error < self.best.error:
                self.best, self.penalty = Best(network, reached.error), penalty

    def search(self, budget: int, tries: int, *, settled: bool) -> Events[Step, None, None]:
        """Try lower weights while they help, and higher weights if the first lower one does not.

        Higher weights are tried only after the steps have settled: before, they would win by their
        additional steps.
        """
        moved, missed, weight = False, 0, self.penalty.weight
        patience = PLATEAU_WEIGHTS if self.penalty.order == ROUGH_ORDER else 0
        for _ in range(0 if time_limit_reached() else tries):
            weight /= WEIGHT_FACTOR
            if weight < MIN_WEIGHT * 0.9 or missed > patience:
                break
            helped, _ = yield from self._try(weight, max(3, budget // 2))
            moved, missed = moved or helped, 0 if helped else missed + 1
        noisy = self.best.error >= CLEAN * baseline_error(self.setup.data)
        small = self.best.network.unknowns_at(None) <= UPWARD_UNKNOWNS
        if moved or not (settled and noisy and small):
            return
        missed, weight = 0, self.penalty.weight * WEIGHT_FACTOR
        while weight < MAX_WEIGHT and missed < MISSES and not time_limit_reached():
            before = self.best.error
            helped, reached = yield from self._try(weight, max(3, budget // 3))
            missed = 0 if helped else missed + 1
            if reached > TOO_FAR * before:
                break
            weight *= WEIGHT_FACTOR

    def _try(self, weight: float, steps: int) -> Events[Step, None, tuple[bool, float]]:
        """Return whether validation keeps this weight, and the error that it led to."""
        penalty = replace(self.penalty, weight=weight)
        reached = yield from self._trained(deepcopy(self.best.network), penalty, steps)
        helped = reached.error < (1 - MIN_GAIN) * self.best.error
        if helped:
            self.best, self.penalty = reached, penalty
        return helped, reached.error

    def evidence(self) -> Events[Step, None, float]:
        """Increase the evidence of the weight.

        Return the expected error of new points over the training error.
        """
        network, inflation = self.best.network, 1.0
        for _ in range(EVIDENCE_UPDATES):
            weight, inflation = update_penalty_weight(network, self.setup.data.train, self.penalty)
            before = self.penalty.weight
            if max(weight / before, before / weight) < SETTLED or time_limit_reached():
                break
            self.penalty = replace(self.penalty, weight=max(weight, MIN_WEIGHT))
            run = self._run(deepcopy(network), self.penalty, EVIDENCE_STEPS)
            yield from run.run(Best(network, 0.0), self.log)
            network = run.solver.network
        errors = measure(network, replace(self.setup.data, test=None))
        self.best = Best(network, errors.train * inflation)
        return inflation

    def _trained(
        self, network: Network, penalty: SmoothnessPenalty, steps: int
    ) -> Events[Step, None, Best]:
        """Return the best network of some steps from `network`, whose own error does not count."""
        reached = Best(network, inf)
        yield from self._run(network, penalty, steps).run(reached, self.log)
        return reached

    def _run(self, network: Network, penalty: SmoothnessPenalty, steps: int) -> SolverRun:
        return SolverRun(self.setup.solver(network, penalty), steps, self.setup)
