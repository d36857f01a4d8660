"""The run of a solver on one grid: steps with evaluation, stopping rules, and their records."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter

from torch import Generator, Tensor, nn

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
from kanrun.engine.training.solvers import Solver
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Measuring looks at no more than this many times the samples that the steps did.
MEASURED_FACTOR = 2
#: Steps in a row below the plateau tolerance after which a grid is left.
PLATEAU = 2


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
        objective = Objective.of(self.data, self.plan, penalty)
        solver: Solver = self.plan.settings.create(network, objective, self.plan, self.generator)
        return solver


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
    """Transfer of the function to a grid."""

    #: `start`, `insertion`, `least squares`, or `both`.
    method: str
    #: Change of the function, relative to its size.
    error: float
    #: Training error just before, and just after.
    before: float | None
    after: float
    #: Input and ends of the interval in which the residual is concentrated, if knots were inserted.
    kink: tuple[int, float, float] | None = None


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
    #: Number of steps whose linear system was solved only in part.
    truncated: int = 0

    @property
    def selected(self) -> float:
        """Error that grids are compared by."""
        return self.errors.selected


@dataclass(frozen=True)
class Grown:
    """Grids of all shapes that a growth tried, and why it tried no further one."""

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
    #: See `Stage`.
    truncated: int = 0


@dataclass(frozen=True)
class TrainingState:
    """Progress of an interrupted training.

    Finished stages, and the last snapshot of the following one.
    """

    stages: Sequence[Stage] = ()
    snapshot: Snapshot | None = None


class Best:
    """A copy of the network with the lowest validation error so far, and that error."""

    def __init__(self, network: Network, error: float) -> None:
        self.network = deepcopy(network)
        self.error = error
        self._like: nn.Module = network

    def offer(self, network: Network, errors: Errors) -> bool:
        """Take `network` if its error is lower; return whether it was."""
        if not errors.selected < self.error:
            return False
        self.error = errors.selected
        if network is self._like:  # then only its parameters have changed
            self.network.load_state_dict(network.state_dict())
        else:
            self.network = deepcopy(network)
            self._like = network
        return True


@dataclass
class StepLog:
    """Number of a stage, and the number of its steps so far; `truncated` as in `Stage`."""

    stage: int
    steps: int = 0
    truncated: int = 0


class SolverRun:
    """Up to `limit` steps of `solver`.

    `settled` says whether it converged, stalled or lost patience before. The clock stands while
    test errors are measured and the consumer looks at them.
    """

    def __init__(self, solver: Solver, limit: int, setup: Setup) -> None:
        self.solver = solver
        self.settled = False
        self._limit = limit
        self._setup = setup
        data = setup.data
        parts = (data.train, data.validation, data.test)
        rows = sum(len(part) for part in parts if part is not None)
        # Steps between two measurements: more than 1 if a step looks at few of many samples.
        self._every = max(1, rows // (MEASURED_FACTOR * solver.rows))
        self.taken = self.stalled = self.unimproved = 0

    def run(self, best: Best, log: StepLog) -> Events[Step, None, bool]:
        """Take the steps, offering the network to `best` as it is measured; return `settled`.

        Raises TrainingFailed if the error on training points is not finite.
        """
        solver = self.solver
        clock = self._setup.clock
        data = self._setup.data
        patience = self._setup.plan.patience
        while self.taken < self._limit and not self.settled and not time_limit_reached():
            before = solver.loss
            solver.step()
            self.taken += 1
            log.steps += 1
            log.truncated += solver.truncated
            if self.taken % self._every and self.taken < self._limit and not solver.converged:
                continue
            errors = measure(solver.network, data.untested)
            if not errors.train < float("inf"):
                cause = explain_non_finite(solver.network, data.train)
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
            seconds = clock.seconds
            with clock.stopped():
                errors = replace(errors, test=rmse(solver.network, data.test, data))
                yield Step(log.stage, log.steps, solver.network.intervals, errors, seconds)
        return self.settled


def take_steps(solver: Solver, limit: int) -> int:
    """Take up to `limit` steps while they are worth their time; return their number."""
    taken = 0
    going = True
    while taken < limit and going:
        before = solver.loss
        solver.step()
        taken += 1
        going = not (spent(solver, before) or time_limit_reached())
    return taken


def spent(solver: Solver, before: float) -> bool:
    """Return whether another step after that from the objective `before` is not worth its time."""
    return solver.converged or _gains_less(solver, before, solver.tolerance)


def _gains_less(solver: Solver, before: float, tolerance: float) -> bool:
    return tolerance > 0 and solver.loss > (1 - tolerance) * before
