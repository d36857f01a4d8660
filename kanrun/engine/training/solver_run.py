"""A plan's solver and its run on one grid.

Steps with evaluation, events, stopping rules, a clock of training alone.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from kanrun.config.registry import SOLVERS
from kanrun.engine.least_squares import LMPolicy
from kanrun.engine.networks import Network
from kanrun.engine.training.data import (
    Errors,
    Task,
    TrainingData,
    explain_non_finite,
    measure,
    output_scale,
    rmse,
)
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt, SmoothnessPenalty
from kanrun.engine.training.first_order import Adam, Objective
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.plan import Plan
from kanrun.errors import TrainingFailed, UsageError
from kanrun.monitoring import report_progress, time_limit_reached

#: Steps of networks with grids; with more than SMALL unknowns fewer steps are taken, from a lower
#: first damping.
LM_WITH_GRID, SMALL, LARGE_DAMPING = LMPolicy(damping=1e-4), 300, 1e-7
#: Other networks have long valleys: many cheap steps lead further than few searched ones.
LM_WITHOUT_GRID = LMPolicy(damping=1e-2, damping_search=False, min_damping=1e-10)
#: Measuring looks at no more than this many times the samples that the steps did.
MEASURED_FACTOR = 2
#: Steps in a row below the plateau tolerance after which a grid is left.
PLATEAU = 2


@runtime_checkable
class Solver(Protocol):
    """Lowers its objective on one network, in place, a step at a time.

    Attributes:
        rows: Samples that one step looks at.
        tolerance: A grid is left after a step that lowers the objective by a smaller fraction; 0:
            never.
        plateau_tolerance: The same after PLATEAU such steps in a row.
    """

    name: str
    network: Network
    loss: float
    converged: bool
    rows: int
    tolerance: float
    plateau_tolerance: float

    def step(self) -> float:
        """Take one step and return the objective after it.

        Raises:
            TrainingFailed: If the objective is not finite.
        """

    def state(self) -> dict[str, Tensor] | None:
        """Return what a new solver on the same network needs to continue to the same numbers.

        None after steps from which it cannot.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""


def check_solver(name: str, task: Task, dtype: torch.dtype) -> None:
    """Raise UsageError for a solver that fits neither the task nor the precision."""
    if not SOLVERS[name].second_order:
        return
    if task == "classification":
        raise UsageError(
            f"solver={name} minimises squares, not cross-entropy. Use solver=auto, lbfgs or adam "
            "for classes."
        )
    if dtype != torch.float64:
        raise UsageError(
            f"solver={name} works in float64. Use precision=float64, or solver=lbfgs or adam for "
            "float32."
        )


def create_lm(
    network: Network,
    data: TrainingData,
    plan: Plan,
    penalty: SmoothnessPenalty,
    generator: Generator,
) -> Solver:
    settings, policy = plan.settings, LM_WITHOUT_GRID
    scale, tolerances = output_scale(data.train, data.task), (0.0, 0.0)
    if network.intervals is not None:
        policy, tolerances = LM_WITH_GRID, (settings.tolerance, settings.plateau_tolerance)
        if network.unknowns_at(None) > SMALL:
            policy = replace(policy, damping=LARGE_DAMPING)
    if settings.damping is not None:
        policy = replace(policy, damping=settings.damping)
    frozen = plan.freeze_unseen
    problem = DataFitting(network, data.train, scale, penalty, freeze_unseen=frozen)
    return LevenbergMarquardt(problem, policy, *tolerances)


def create_lbfgs(
    network: Network,
    data: TrainingData,
    plan: Plan,
    penalty: SmoothnessPenalty,
    generator: Generator,
) -> Solver:
    return LBFGS(network, _objective(data, plan, penalty), plan.settings.history_size)


def create_adam(
    network: Network,
    data: TrainingData,
    plan: Plan,
    penalty: SmoothnessPenalty,
    generator: Generator,
) -> Solver:
    return Adam(network, _objective(data, plan, penalty), plan.settings, generator, plan.steps)


def _objective(data: TrainingData, plan: Plan, penalty: SmoothnessPenalty) -> Objective:
    return Objective(
        data.train,
        output_scale(data.train, data.task),
        data.task,
        penalty,
        plan.freeze_unseen,
        plan.settings.sparsity,
        plan.settings.sparsity_norm,
    )


def make_solver(
    network: Network,
    data: TrainingData,
    plan: Plan,
    penalty: SmoothnessPenalty,
    generator: Generator,
) -> Solver:
    """Create the plan's solver on `network`."""
    solver: Solver = SOLVERS[plan.solver].build()(network, data, plan, penalty, generator)
    return solver


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
class Step:
    """One solver step: the errors after it and the seconds of training so far."""

    stage: int
    step: int
    intervals: int | None
    errors: Errors
    seconds: float


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
            with torch.no_grad():
                for old, new in zip(self.network.parameters(), network.parameters(), strict=True):
                    old.copy_(new)
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

    def __init__(self, solver: Solver, limit: int, plan: Plan, data: TrainingData) -> None:
        self.solver, self.settled, self._limit, self._plan = solver, False, limit, plan
        self._seen = replace(data, test=None)
        parts = (data.train, data.validation, data.test)
        rows = sum(len(part) for part in parts if part is not None)
        # Steps between two measurements: more than 1 if a step looks at few of many samples.
        self._every = max(1, rows // (MEASURED_FACTOR * solver.rows))
        self.taken = self.stalled = self.unimproved = 0

    def run(self, best: Best, log: StepLog) -> Events[Step, None, bool]:
        """Take the steps, offering the network to `best` as it is measured; return `settled`.

        Raises TrainingFailed if the error on training points is not finite.
        """
        solver, patience = self.solver, self._plan.patience
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
