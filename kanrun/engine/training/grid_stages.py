"""One network trained grid by grid.

Transfer, steps and weight of the penalty on each, and what it takes to resume.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf

from torch import Generator, Tensor

from kanrun.config.registry import SOLVERS
from kanrun.engine.networks import Network, Regridded
from kanrun.engine.training.data import Errors, TrainingData, baseline_error, measure
from kanrun.engine.training.data_fitting import SmoothnessPenalty, update_penalty_weight
from kanrun.engine.training.plan import MARGIN, Plan
from kanrun.engine.training.solver_run import (
    Best,
    Clock,
    Solver,
    SolverRun,
    Step,
    StepLog,
    make_solver,
)
from kanrun.monitoring import time_limit_reached

#: A hidden grid is kept while the activations fill this fraction of it.
FILLED = 0.8
#: Steps of LBFGS before hidden grids follow the ranges that it found.
SETTLING = 30
#: Seconds of training on one grid between two snapshots.
SNAPSHOT_SECONDS = 10.0

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
    data: TrainingData
    plan: Plan
    generator: Generator
    log: StepLog

    def smooth(self) -> Events[Step, None, None]:
        """Try penalties on second differences if the first fit is poor, since noise is likely.

        The weights decrease from nearly straight edges. This penalty does not affect straight
        lines; a penalty of high order does not affect polynomials, which overfit.
        """
        if self.best.error <= NOISY * baseline_error(self.data):
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
        noisy = self.best.error >= CLEAN * baseline_error(self.data)
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
            weight, inflation = update_penalty_weight(network, self.data.train, self.penalty)
            before = self.penalty.weight
            if max(weight / before, before / weight) < SETTLED or time_limit_reached():
                break
            self.penalty = replace(self.penalty, weight=max(weight, MIN_WEIGHT))
            run = self._run(deepcopy(network), self.penalty, EVIDENCE_STEPS)
            yield from run.run(Best(network, 0.0), self.log)
            network = run.solver.network
        self.best = Best(network, measure(network, replace(self.data, test=None)).train * inflation)
        return inflation

    def _trained(
        self, network: Network, penalty: SmoothnessPenalty, steps: int
    ) -> Events[Step, None, Best]:
        """Return the best network of some steps from `network`, whose own error does not count."""
        reached = Best(network, inf)
        yield from self._run(network, penalty, steps).run(reached, self.log)
        return reached

    def _run(self, network: Network, penalty: SmoothnessPenalty, steps: int) -> SolverRun:
        solver = make_solver(network, self.data, self.plan, penalty, self.generator)
        return SolverRun(solver, steps, self.plan, self.data)


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


class GridTraining:
    """Trains one network grid by grid.

    The last of `stages` so far holds the network that continues.
    """

    def __init__(
        self,
        network: Network,
        penalty: SmoothnessPenalty,
        data: TrainingData,
        plan: Plan,
        generator: Generator,
        clock: Clock,
    ) -> None:
        self.network, self.penalty, self.data, self.plan = network, penalty, data, plan
        self.generator, self.clock = generator, clock
        self.stages: list[Stage] = []

    @property
    def lowest(self) -> float:
        """The lowest validation error of a stage."""
        return min((stage.selected for stage in self.stages), default=inf)

    def advance(
        self, intervals: int | None, *, tries: int, snapshot: Snapshot | None = None
    ) -> Events[Step | Snapshot, None, Stage]:
        """Move to a grid of `intervals` and train there; `snapshot` resumes in the middle.

        At most `tries` weights of the penalty are tried.
        """
        steps = snapshot.steps if snapshot else 0
        log = StepLog(len(self.stages) + 1, self.clock, self.data, steps)
        if snapshot is None:
            run, best, transfer = yield from self._begun(intervals, log)
        else:
            run, best, transfer = self._resumed(snapshot)
        yield from self._run(run, best, log, transfer)
        inflation = 1.0
        if self.plan.second_order and self.plan.weight is None:
            search = PenaltySearch(best, self.penalty, self.data, self.plan, self.generator, log)
            if self.plan.selection == "evidence":
                inflation, tries = (yield from search.evidence()), 0
            elif log.stage == 1:
                yield from search.smooth()
            if tries:
                budget = self.plan.steps_for(best.network.unknowns_at(None))
                yield from search.search(budget, tries, settled=run.settled)
            best, self.penalty = search.best, search.penalty
        self.network = best.network
        stage = Stage(
            log.stage,
            best.network.intervals,
            best.network,
            measure(best.network, self.data),
            log.steps,
            self.clock.seconds,
            self.penalty,
            transfer,
            self.generator.get_state(),
            inflation,
        )
        self.stages.append(stage)
        return stage

    def _begun(
        self, intervals: int | None, log: StepLog
    ) -> Events[Step, None, tuple[SolverRun, Best, GridTransfer]]:
        """Return the main run on the next grid, before its first step."""
        before = self.stages[-1].errors.train if self.stages else None
        moved = self._moved(intervals)
        network, data = moved.network, self.data
        errors = measure(network, replace(data, test=None))
        best = Best(network, errors.selected)
        budget = self.plan.steps_for(network.unknowns_at(None))
        solver = self._solver(network)
        hidden = self.plan.update_grid and network.intervals is not None and len(network.shape) > 2
        if log.stage == 1 and hidden and SOLVERS[self.plan.solver].curvature:
            # Once the hidden ranges have settled, hidden grids that do not fit them are redrawn.
            yield from SolverRun(solver, min(SETTLING, budget), self.plan, data).run(best, log)
            if not network.covers(data.train.x, FILLED):
                moved = network.regrid(data.train.x, grid_eps=self.plan.grid_eps, margin=MARGIN)
                solver = self._solver(moved.network)
        run = SolverRun(solver, budget - log.steps, self.plan, data)
        method = "start" if moved.how == "unchanged" else moved.how
        return run, best, GridTransfer(method, moved.change, before, errors.train)

    def _solver(self, network: Network) -> Solver:
        return make_solver(network, self.data, self.plan, self.penalty, self.generator)

    def _resumed(self, snapshot: Snapshot) -> tuple[SolverRun, Best, GridTransfer]:
        """Return the main run in the middle of its steps."""
        budget = self.plan.steps_for(snapshot.network.unknowns_at(None))
        solver = self._solver(snapshot.network)
        solver.restore(snapshot.solver)
        run = SolverRun(solver, budget - (snapshot.steps - snapshot.taken), self.plan, self.data)
        run.taken, run.stalled = snapshot.taken, snapshot.stalled
        run.unimproved = snapshot.unimproved
        return run, Best(snapshot.best, snapshot.lowest), snapshot.transfer

    def _run(
        self, run: SolverRun, best: Best, log: StepLog, transfer: GridTransfer
    ) -> Events[Step | Snapshot, None, None]:
        """Take the steps of the main run, with a snapshot from time to time."""
        shown = self.clock.seconds
        for step in run.run(best, log):
            yield step
            # A settled run takes no further step.
            if step.seconds - shown < SNAPSHOT_SECONDS or run.settled:
                continue
            if (state := run.solver.state()) is None:
                continue
            shown = step.seconds
            yield Snapshot(
                deepcopy(run.solver.network),
                deepcopy(best.network),
                best.error,
                state,
                run.taken,
                log.steps,
                run.stalled,
                run.unimproved,
                step.seconds,
                self.penalty,
                transfer,
                self.generator.get_state(),
            )

    def _moved(self, intervals: int | None) -> Regridded[Network]:
        """Return the network on the next grid."""
        network, x, plan = self.network, self.data.train.x, self.plan
        if network.intervals is None or intervals is None:
            return Regridded(network)
        adapts = plan.update_grid and plan.grid_eps < 1
        if adapts or (plan.update_grid and not network.covers(x, FILLED)):
            return network.regrid(
                x,
                intervals=intervals,
                grid_eps=plan.grid_eps,
                margin=MARGIN,
                inputs="within" if adapts else "keep",
            )
        if intervals == network.intervals:
            return Regridded(deepcopy(network))
        return network.refined(intervals, x)
