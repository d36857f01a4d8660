"""Steps of one solver on one grid: measured, shown, and ended where more of them are not worth their time."""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from kanrun.engine.networks import KAN, Network
from kanrun.engine.training.clock import Clock
from kanrun.engine.training.data import Errors, TrainingData, measure, rmse
from kanrun.engine.training.solvers import Solver
from kanrun.errors import TrainingFailed

#: A grid is left when the objective falls by less than this share in each of two steps, or hardly at all in one.
STALLED, HARDLY = 0.02, 1e-3
#: Measuring looks at no more than this many times the samples that the steps before it did.
MEASURED_SHARE = 2


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

    @classmethod
    def of(cls, network: Network, data: TrainingData) -> Best:
        """`network` as it stands."""
        return cls(network, measure(network, data).selected)

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


class Counter:
    """Numbers the steps of a stage; the clock stands while test errors are measured and the consumer looks at them."""

    def __init__(self, stage: int, clock: Clock, data: TrainingData, steps: int = 0) -> None:
        self.stage, self.steps, self._clock, self._data = stage, steps, clock, data

    def show(self, network: Network, errors: Errors) -> Events[Step, None, None]:
        """The step just taken, with the error on test points."""
        seconds = self._clock.stop()
        intervals = network.intervals if isinstance(network, KAN) else None
        errors = replace(errors, test=rmse(network, self._data.test, self._data))
        yield Step(self.stage, self.steps, intervals, errors, seconds)
        self._clock.go()


class Stretch:
    """Up to `limit` steps of `solver`; `settled` says whether it converged, stalled or lost patience before."""

    def __init__(self, solver: Solver, limit: int, patience: int | None, data: TrainingData) -> None:
        self.solver, self.settled, self._limit, self._patience = solver, False, limit, patience
        self._seen = replace(data, test=None)
        self._every = _measured_every(solver, data)
        self.taken = self.stalled = self.unimproved = 0

    def run(self, best: Best, counted: Counter) -> Events[Step, None, bool]:
        """Take the steps, offering the network to `best` as it is measured; returns `settled`.

        Raises TrainingFailed where the error on training points is not finite.
        """
        solver = self.solver
        while self.taken < self._limit and not self.settled:
            before, loss = solver.loss, solver.step()
            self.taken += 1
            counted.steps += 1
            if self.taken % self._every and self.taken < self._limit and not solver.converged:
                continue
            errors = measure(solver.network, self._seen)
            if not errors.train < float("inf"):
                raise TrainingFailed(f"The error is not finite at stage {counted.stage}, step {counted.steps}.")
            self.unimproved = 0 if best.offer(solver.network, errors) else self.unimproved + 1
            self.stalled = self.stalled + 1 if solver.stalls and loss > (1 - STALLED) * before else 0
            impatient = self._patience is not None and self.unimproved >= self._patience
            self.settled = spent(solver, before) or self.stalled >= 2 or impatient
            yield from counted.show(solver.network, errors)
        return self.settled


def spent(solver: Solver, before: float) -> bool:
    """Whether the step that came from the objective `before` says that another one is not worth its time."""
    return solver.converged or (solver.stalls and solver.loss > (1 - HARDLY) * before)


def _measured_every(solver: Solver, data: TrainingData) -> int:
    """Steps between two measurements: 1, but more where a step looks at few of many samples."""
    rows = sum(len(part) for part in (data.train, data.validation, data.test) if part is not None)
    return max(1, rows // (MEASURED_SHARE * solver.rows))
