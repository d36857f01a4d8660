"""The interface of solvers, and one solver's run on one grid: steps, stopping rules and records."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training.data import (
    Errors,
    Plan,
    TrainingData,
    explain_non_finite,
    measure,
    rmse,
)
from kanrun.engine.training.objective import Objective, SmoothnessPenalty
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached


@runtime_checkable
class Solver(Protocol):
    """Minimises an objective over the parameters of one network, in place, step by step.

    Attributes:
        network: The network that is trained.
        loss: The objective after the last step; for Adam, before this step.
        converged: Whether the solver cannot lower the objective any further.
        rows: Number of samples that one step uses.
        tolerance: Training on a grid ends after a step that lowers the objective by a smaller
            fraction than this; 0 disables the rule.
        plateau_tolerance: Training on a grid ends after two steps in a row that each lower the
            objective by a smaller fraction than this; 0 disables the rule.
        truncated: Whether the linear system of the last step was solved only approximately.
    """

    network: Network
    loss: float
    converged: bool
    rows: int
    tolerance: float
    plateau_tolerance: float
    truncated: bool = False

    def step(self) -> float:
        """Take one step and return `loss`.

        Raises:
            TrainingFailed: If the objective is not finite.
        """

    def state(self) -> dict[str, Tensor] | None:
        """Return the state from which a new solver on the same network continues identically.

        The result is None if the solver cannot be resumed after this step.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""


class Clock:
    """Clock of the seconds of training; it can be stopped while the caller handles events."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._start = perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return perf_counter() - self._start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Return a context manager in whose block the clock stands still."""
        before = self.seconds
        yield
        self._start = perf_counter() - before


@dataclass(frozen=True)
class Setup:
    """Data, plan, random generator and clock, which all solver runs of a training run share."""

    data: TrainingData
    plan: Plan
    generator: Generator
    clock: Clock

    def solver(self, network: Network, penalty: SmoothnessPenalty) -> Solver:
        """Create the plan's solver, which trains `network` in place with `penalty`."""
        objective = Objective.of(self.data, self.plan, penalty)
        solver: Solver = self.plan.settings.create(network, objective, self.plan, self.generator)
        return solver


@dataclass(frozen=True)
class Step:
    """Record of one solver step.

    Attributes:
        stage: Number of the stage, from 1.
        step: Number of the step within the stage, from 1.
        intervals: Number of grid intervals; None without grids.
        errors: Errors after the step.
        seconds: Seconds of training so far.
    """

    stage: int
    step: int
    intervals: int | None
    errors: Errors
    seconds: float


@dataclass(frozen=True)
class GridTransfer:
    """How the learned function was transferred to a new grid.

    Attributes:
        method: `start` if the grid did not change, `insertion` of knots, `least squares`, or
            `both` of these.
        error: Largest change of an output by the transfer, relative to the largest output; see
            `Regridded.change`.
        before: Training error on the previous grid; None on the first grid.
        after: Training error just after the transfer.
        kink: Number of the input and ends of the interval in which the residual is concentrated,
            if knots were inserted there; otherwise None.
    """

    method: str
    error: float
    before: float | None
    after: float
    kink: tuple[int, float, float] | None = None


@dataclass(frozen=True)
class Stage:
    """Result of training on one grid.

    Attributes:
        stage: Number of the stage, from 1.
        intervals: Number of grid intervals; None without grids.
        network: The network with the lowest validation error on this grid.
        errors: Errors of `network`.
        steps: Number of solver steps on this grid.
        seconds: Seconds of training so far.
        penalty: Smoothness penalty of `network`.
        transfer: How the function was transferred to this grid.
        random: State of the random generator at the end of the stage.
        truncated: Number of steps whose linear system was solved only approximately.
    """

    stage: int
    intervals: int | None
    network: Network
    errors: Errors
    steps: int
    seconds: float
    penalty: SmoothnessPenalty
    transfer: GridTransfer
    random: Tensor
    truncated: int = 0

    @property
    def selected(self) -> float:
        """Error by which stages are compared; see `Errors.selected`."""
        return self.errors.selected


@dataclass(frozen=True)
class Grown:
    """Stages of all shapes that growth tried, and the reason why growth ended."""

    tried: Sequence[Stage]
    reason: str


@dataclass
class Progress:
    """Progress of one solver run.

    Attributes:
        network: The network with the lowest validation error so far.
        error: Its validation error.
        taken: Number of steps so far.
        stalled: Number of consecutive steps, up to the last one, that each lowered the objective by
            a smaller fraction than the plateau tolerance.
        unimproved: Number of measurements since the lowest validation error.
    """

    network: Network
    error: float
    taken: int = 0
    stalled: int = 0
    unimproved: int = 0

    def measured(self, network: Network, errors: Errors) -> None:
        """Store a copy of `network` if its error is the lowest so far."""
        self.unimproved += 1
        if errors.selected < self.error:
            self.network = deepcopy(network)
            self.error = errors.selected
            self.unimproved = 0


@dataclass
class StepLog:
    """Number of a stage, number of its steps so far, and number of its truncated steps."""

    stage: int
    steps: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class Snapshot:
    """State of an unfinished stage, from which training resumes to exactly the same numbers.

    `seconds`, `penalty`, `transfer` and `random` are as in `Stage`.

    Attributes:
        network: The network that the solver trains, with its present parameters.
        progress: Progress of the main solver run of the stage.
        log: Numbers of steps of the stage, including steps of earlier solvers.
        solver: State of the solver.
    """

    network: Network
    progress: Progress
    log: StepLog
    solver: dict[str, Tensor]
    seconds: float
    penalty: SmoothnessPenalty
    transfer: GridTransfer
    random: Tensor


@dataclass(frozen=True)
class TrainingState:
    """State of an interrupted training run.

    Attributes:
        stages: Finished stages.
        snapshot: Last snapshot of the stage that was interrupted, if there is one.
    """

    stages: Sequence[Stage] = ()
    snapshot: Snapshot | None = None


class SolverRun:
    """Up to `limit` steps of `solver`. The run updates `progress` after each measurement.

    The clock is stopped while test errors are measured and while the caller handles events.

    Attributes:
        settled: Whether a stopping rule ended the run: the solver converged, the objective stalled,
            or the validation error did not fall for `plan.patience` measurements.
    """

    def __init__(self, solver: Solver, limit: int, setup: Setup, progress: Progress) -> None:
        self.solver = solver
        self.progress = progress
        self.settled = False
        self._limit = limit
        self._setup = setup
        data = setup.data
        parts = (data.train, data.validation, data.test)
        rows = sum(len(samples) for samples in parts if samples is not None)
        # If a step uses few of many samples, errors are measured only after several steps: on
        # average, on about this multiple of the samples that the steps use.
        factor = 2
        # Number of steps between two measurements; above 1 if a step uses few of many samples.
        self._every = max(1, rows // (factor * solver.rows))

    def run(self, log: StepLog) -> Events[Step, None, None]:
        """Take the steps, and yield a `Step` after each measurement.

        `log` is updated after each step. Raises TrainingFailed if the training error is NaN or
        infinite.
        """
        solver = self.solver
        progress = self.progress
        clock = self._setup.clock
        data = self._setup.data
        patience = self._setup.plan.patience
        # Number of steps in a row below the plateau tolerance after which training on a grid ends.
        plateau = 2
        while progress.taken < self._limit and not self.settled and not time_limit_reached():
            before = solver.loss
            solver.step()
            progress.taken += 1
            log.steps += 1
            log.truncated += solver.truncated
            last = progress.taken == self._limit or solver.converged
            if progress.taken % self._every and not last:
                continue
            errors = measure(solver.network, data.untested)
            if not errors.train < float("inf"):
                cause = explain_non_finite(solver.network, data.train)
                raise TrainingFailed(
                    f"The error is not finite at stage {log.stage}, step {log.steps}: {cause}."
                )
            progress.measured(solver.network, errors)
            slow = _gains_less(solver, before, solver.plateau_tolerance)
            progress.stalled = progress.stalled + 1 if slow else 0
            impatient = patience is not None and progress.unimproved >= patience
            self.settled = spent(solver, before) or progress.stalled >= plateau or impatient
            intervals = solver.network.intervals
            part = f"grid of {intervals}" if intervals else "steps"
            report_progress(part, progress.taken, self._limit, progress.error)
            seconds = clock.seconds
            with clock.stopped():
                errors = replace(errors, test=rmse(solver.network, data.test, data))
                yield Step(log.stage, log.steps, intervals, errors, seconds)


def take_steps(solver: Solver, limit: int) -> int:
    """Take steps until `spent` returns True, and at most `limit`; return the number of steps.

    Steps also end at the time limit.
    """
    taken = 0
    going = True
    while taken < limit and going:
        before = solver.loss
        solver.step()
        taken += 1
        going = not (spent(solver, before) or time_limit_reached())
    return taken


def spent(solver: Solver, before: float) -> bool:
    """Return whether the solver has converged or its last step gained less than its tolerance.

    `before` is the objective before the last step.
    """
    return solver.converged or _gains_less(solver, before, solver.tolerance)


def _gains_less(solver: Solver, before: float, tolerance: float) -> bool:
    return tolerance > 0 and solver.loss > (1 - tolerance) * before
