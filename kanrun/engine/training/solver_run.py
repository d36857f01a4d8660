"""A plan's solver and its run on one grid: steps with evaluation, events, stopping rules, a clock of training alone."""

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
from kanrun.engine.networks import Network
from kanrun.engine.training.data import (
    Errors,
    TrainingData,
    measure,
    not_finite,
    output_scale,
    rmse,
)
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt, Smoothing
from kanrun.engine.training.first_order import Adam, Objective
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.plan import GridPolicy, Plan
from kanrun.errors import TrainingFailed, UsageError
from kanrun.monitoring import report_progress, time_limit_reached


@runtime_checkable
class Solver(Protocol):
    """Lowers its objective on one network, in place, a step at a time."""

    name: str
    network: Network
    loss: float
    converged: bool
    rows: int  # samples that one step looks at
    stalls: bool  # whether steps that gain little mean that the rest will too

    def step(self) -> float:
        """One step; the objective after it. Raises TrainingFailed where it is not finite."""

    def state(self) -> dict[str, Tensor] | None:
        """What, beside the network and the generator, a new solver on them goes on from to the same numbers.

        None after steps from which it cannot.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from another solver's `state()`."""


def create_lm(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator
) -> Solver:
    if data.task == "classification":
        raise UsageError(
            "solver=lm minimises squares; for classification use solver=lbfgs or solver=adam."
        )
    policy = plan.policy.lm_without_grid if network.intervals is None else plan.policy.lm
    if network.intervals is not None and network.unknowns_at(None) > plan.policy.small:
        policy = replace(policy, damping=plan.policy.large_damping)
    problem = DataFitting(
        network,
        data.train,
        output_scale(data.train, data.task),
        smoothing,
        freeze_unseen=plan.freeze_unseen,
        held_numbers=plan.policy.held_numbers,
        farthest=plan.policy.farthest,
    )
    return LevenbergMarquardt(problem, policy)


def create_lbfgs(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator
) -> Solver:
    objective = _objective(data, plan, smoothing)
    return LBFGS(network, objective, history=plan.history_size, policy=plan.policy.lbfgs)


def create_adam(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator
) -> Solver:
    return Adam(
        network, _objective(data, plan, smoothing), replace(plan.adam, steps=plan.steps), generator
    )


def _objective(data: TrainingData, plan: Plan, smoothing: Smoothing) -> Objective:
    return Objective(
        data.train,
        output_scale(data.train, data.task),
        data.task,
        weight=smoothing.weight,
        order=smoothing.order,
        freeze_unseen=plan.freeze_unseen,
        sparsity=plan.sparsity,
        magnitude=plan.sparsity_norm,
    )


def make_solver(
    network: Network,
    data: TrainingData,
    plan: Plan,
    smoothing: Smoothing | float,
    generator: Generator,
) -> Solver:
    """The plan's solver on `network`; second-order ones need float64.

    Raises UsageError for a solver that does not fit the task or the precision.
    """
    if plan.solver == "lm" and next(network.parameters()).dtype != torch.float64:
        raise UsageError(
            "solver=lm works in float64; use precision=float64, or solver=lbfgs or adam for float32."
        )
    if not isinstance(smoothing, Smoothing):
        smoothing = Smoothing(smoothing)
    solver: Solver = SOLVERS[plan.solver].build()(network, data, plan, smoothing, generator)
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
        """The time within does not count."""
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
        """Take `network` if its error is lower; says whether it was."""
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
    """Numbers the steps of a stage; the clock stands while test errors are measured and the consumer looks at them."""

    def __init__(self, stage: int, clock: Clock, data: TrainingData, steps: int = 0) -> None:
        self.stage, self.steps, self._clock, self._data = stage, steps, clock, data

    def show(self, network: Network, errors: Errors) -> Events[Step, None, None]:
        """The step just taken, with the error on test points."""
        seconds = self._clock.seconds
        with self._clock.stopped():
            errors = replace(errors, test=rmse(network, self._data.test, self._data))
            yield Step(self.stage, self.steps, network.intervals, errors, seconds)


class SolverRun:
    """Up to `limit` steps of `solver`; `settled` says whether it converged, stalled or lost patience before."""

    def __init__(self, solver: Solver, limit: int, plan: Plan, data: TrainingData) -> None:
        self.solver, self.settled, self._limit, self._plan = solver, False, limit, plan
        self._seen = replace(data, test=None)
        rows = sum(
            len(part) for part in (data.train, data.validation, data.test) if part is not None
        )
        # steps between two measurements: more than 1 where a step looks at few of many samples
        self._every = max(1, rows // (plan.policy.grids.measured_share * solver.rows))
        self.taken = self.stalled = self.unimproved = 0

    def run(self, best: Best, log: StepLog) -> Events[Step, None, bool]:
        """Take the steps, offering the network to `best` as it is measured; returns `settled`.

        Raises TrainingFailed where the error on training points is not finite.
        """
        solver, grids, patience = self.solver, self._plan.policy.grids, self._plan.patience
        while self.taken < self._limit and not self.settled and not time_limit_reached():
            before, loss = solver.loss, solver.step()
            self.taken += 1
            log.steps += 1
            if self.taken % self._every and self.taken < self._limit and not solver.converged:
                continue
            errors = measure(solver.network, self._seen)
            if not errors.train < float("inf"):
                cause = not_finite(solver.network, self._seen.train)
                raise TrainingFailed(
                    f"The error is not finite at stage {log.stage}, step {log.steps}: {cause}."
                )
            self.unimproved = 0 if best.offer(solver.network, errors) else self.unimproved + 1
            self.stalled = (
                self.stalled + 1 if solver.stalls and loss > (1 - grids.stalled) * before else 0
            )
            impatient = patience is not None and self.unimproved >= patience
            self.settled = spent(solver, before, grids) or self.stalled >= 2 or impatient
            part = f"grid of {solver.network.intervals}" if solver.network.intervals else "steps"
            report_progress(part, self.taken, self._limit, best.error)
            yield from log.show(solver.network, errors)
        return self.settled


def spent(solver: Solver, before: float, policy: GridPolicy) -> bool:
    """Whether the step that came from the objective `before` says that another one is not worth its time."""
    return solver.converged or (solver.stalls and solver.loss > (1 - policy.hardly) * before)
