"""One network trained grid by grid: transfer, steps and weight of the penalty on each, and what it takes to resume."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf

from torch import Generator, Tensor

from kanrun.engine.networks import Network, Regridded
from kanrun.engine.networks.network import InputGrid
from kanrun.engine.training.data import Errors, TrainingData, baseline_error, measure
from kanrun.engine.training.data_fitting import Smoothing
from kanrun.engine.training.evidence import likelier_weight
from kanrun.engine.training.plan import PenaltyPolicy, Plan
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


@dataclass
class PenaltySearch:
    """Trains on from `best` with other weights; `best` and `smoothing` are those that validation chose so far."""

    best: Best
    smoothing: Smoothing
    data: TrainingData
    plan: Plan
    generator: Generator
    log: StepLog

    @property
    def policy(self) -> PenaltyPolicy:
        return self.plan.policy.penalty

    def smooth(self) -> Events[Step, None, None]:
        """Where the first fit is poor, noise is likely: try second differences, from nearly straight edges down.

        Their penalty keeps straight lines alone, where that of high order keeps polynomials that overfit.
        """
        if self.best.error <= self.policy.noisy * baseline_error(self.data):
            return
        network = deepcopy(self.best.network)
        for weight in self.policy.rough_weights:
            smoothing = Smoothing(weight, self.policy.rough_order)
            reached = yield from self._trained(network, smoothing, self.policy.rough_steps)
            network = reached.network
            if reached.error < self.best.error:
                self.best, self.smoothing = Best(network, reached.error), smoothing

    def search(self, budget: int, tries: int, settled: bool) -> Events[Step, None, None]:
        """Lower weights while they help; where not even the first does, higher ones.

        Higher ones are not tried before the steps have settled: they would win by the steps that they are given.
        """
        policy, moved, missed, tried = self.policy, False, 0, self.smoothing.weight
        patience = policy.plateau if self.smoothing.order == policy.rough_order else 0
        for _ in range(0 if time_limit_reached() else tries):
            tried /= policy.factor
            if tried < policy.smallest * 0.9 or missed > patience:
                break
            helped, _ = yield from self._try(tried, max(3, budget // 2))
            moved, missed = moved or helped, 0 if helped else missed + 1
        if not moved and settled and policy.upwards and self._may_be_noisy():
            yield from self._upwards(max(3, budget // 3))

    def _upwards(self, steps: int) -> Events[Step, None, None]:
        policy, missed, tried = self.policy, 0, self.smoothing.weight * self.policy.factor
        while tried < policy.largest and missed < policy.misses and not time_limit_reached():
            before = self.best.error
            helped, reached = yield from self._try(tried, steps)
            missed = 0 if helped else missed + 1
            if reached > policy.too_far * before:
                break
            tried *= policy.factor

    def _may_be_noisy(self) -> bool:
        small = self.best.network.unknowns_at(None) <= self.policy.upward_unknowns
        return small and self.best.error >= self.policy.clean * baseline_error(self.data)

    def _try(self, weight: float, steps: int) -> Events[Step, None, tuple[bool, float]]:
        """Whether validation keeps this weight, and the error that it led to."""
        smoothing = replace(self.smoothing, weight=weight)
        reached = yield from self._trained(deepcopy(self.best.network), smoothing, steps)
        helped = reached.error < (1 - self.policy.worth) * self.best.error
        if helped:
            self.best, self.smoothing = reached, smoothing
        return helped, reached.error

    def evidence(self) -> Events[Step, None, float]:
        """Weights of larger and larger evidence; returns the error of new points over the training error, expected."""
        policy, network, inflation = self.policy, self.best.network, 1.0
        for _ in range(policy.evidence_updates):
            weight, inflation = likelier_weight(network, self.data.train, self.smoothing)
            if (
                max(weight / self.smoothing.weight, self.smoothing.weight / weight) < policy.settled
                or time_limit_reached()
            ):
                break
            self.smoothing = replace(self.smoothing, weight=max(weight, policy.smallest))
            solver = make_solver(
                deepcopy(network), self.data, self.plan, self.smoothing, self.generator
            )
            run = SolverRun(solver, policy.evidence_steps, self.plan, self.data)
            yield from run.run(Best(network, 0.0), self.log)
            network = solver.network
        self.best = Best(network, measure(network, replace(self.data, test=None)).train * inflation)
        return inflation

    def _trained(
        self, network: Network, smoothing: Smoothing, steps: int
    ) -> Events[Step, None, Best]:
        """The best network of some steps from `network`, its own error left out of account."""
        solver = make_solver(network, self.data, self.plan, smoothing, self.generator)
        reached = Best(network, float("inf"))
        yield from SolverRun(solver, steps, self.plan, self.data).run(reached, self.log)
        return reached


@dataclass(frozen=True)
class GridTransfer:
    """The transfer of the function to a grid."""

    method: str  # `start`, `insertion`, `least squares`, or `both`
    error: float  # change of the function, relative to its size
    before: float | None  # training error just before
    after: float  # and just after


@dataclass(frozen=True)
class Stage:
    """A finished grid: the network at its best validation error there, and the transfer to the grid."""

    stage: int
    intervals: int | None
    network: Network
    errors: Errors
    steps: int
    seconds: float  # of training, up to here
    smoothing: Smoothing
    transfer: GridTransfer
    random: Tensor  # the generator's state
    inflation: float = (
        1.0  # the expected error of new points over the training error, where nothing is held out
    )

    @property
    def selected(self) -> float:
        """The error that grids are compared by."""
        return self.errors.selected * self.inflation


@dataclass(frozen=True)
class Snapshot:
    """A grid in the middle of its steps: what it takes to resume to the same numbers."""

    network: Network  # where the solver is
    best: Network
    lowest: float  # the best one's validation error
    solver: dict[str, Tensor]  # its state
    taken: int  # steps of the solver, and of the stage
    steps: int
    stalled: int
    unimproved: int
    seconds: float
    smoothing: Smoothing
    transfer: GridTransfer
    random: Tensor


@dataclass(frozen=True)
class TrainingState:
    """What an interrupted training had done: its finished stages, and the last snapshot of the one after them."""

    stages: Sequence[Stage] = ()
    snapshot: Snapshot | None = None


class GridTraining:
    """Trains one network grid by grid; `stages` so far, the last holding the network that continues."""

    def __init__(
        self,
        network: Network,
        smoothing: Smoothing,
        data: TrainingData,
        plan: Plan,
        generator: Generator,
        clock: Clock,
    ) -> None:
        self.network, self.smoothing, self.data, self.plan = network, smoothing, data, plan
        self.generator, self.clock = generator, clock
        self.stages: list[Stage] = []

    @property
    def lowest(self) -> float:
        """The lowest validation error of a stage."""
        return min((stage.selected for stage in self.stages), default=inf)

    def advance(
        self, intervals: int | None, *, tries: int, snapshot: Snapshot | None = None
    ) -> Events[Step | Snapshot, None, Stage]:
        """Move to a grid of `intervals` and train there; `snapshot` resumes that in the middle.

        `tries` weights of the penalty may be tried, none for 0.
        """
        log = StepLog(
            len(self.stages) + 1, self.clock, self.data, snapshot.steps if snapshot else 0
        )
        if snapshot is None:
            run, best, transfer = yield from self._begun(intervals, log)
        else:
            run, best, transfer = self._resumed(snapshot)
        yield from self._run(run, best, log, transfer)
        policy, inflation = self.plan.policy.penalty, 1.0
        if self.plan.solver == "lm" and self.plan.weight is None and policy.searches:
            search = PenaltySearch(best, self.smoothing, self.data, self.plan, self.generator, log)
            if self.plan.selection == "evidence":
                inflation, tries = (yield from search.evidence()), 0
            elif log.stage == 1:
                yield from search.smooth()
            if tries:
                yield from search.search(
                    self.plan.steps_for(best.network.unknowns_at(None)), tries, run.settled
                )
            best, self.smoothing = search.best, search.smoothing
        self.network = best.network
        stage = Stage(
            log.stage,
            best.network.intervals,
            best.network,
            measure(best.network, self.data),
            log.steps,
            self.clock.seconds,
            self.smoothing,
            transfer,
            self.generator.get_state(),
            inflation,
        )
        self.stages.append(stage)
        return stage

    def _begun(
        self, intervals: int | None, log: StepLog
    ) -> Events[Step, None, tuple[SolverRun, Best, GridTransfer]]:
        """The main run on the next grid, before its first step."""
        before = self.stages[-1].errors.train if self.stages else None
        moved = self._moved(intervals)
        network = moved.network
        errors = measure(network, replace(self.data, test=None))
        best, budget = (
            Best(network, errors.selected),
            self.plan.steps_for(network.unknowns_at(None)),
        )
        solver = make_solver(network, self.data, self.plan, self.smoothing, self.generator)
        hidden = self.plan.update_grid and network.intervals is not None and len(network.shape) > 2
        if log.stage == 1 and self.plan.solver == "lbfgs" and hidden:
            solver, moved = yield from self._settled(solver, moved, best, log)
        method = "start" if moved.how == "unchanged" else moved.how
        transfer = GridTransfer(method, moved.change, before, errors.train)
        return SolverRun(solver, budget - log.steps, self.plan, self.data), best, transfer

    def _resumed(self, snapshot: Snapshot) -> tuple[SolverRun, Best, GridTransfer]:
        """The same in the middle of its steps."""
        solver = make_solver(snapshot.network, self.data, self.plan, self.smoothing, self.generator)
        solver.restore(snapshot.solver)
        budget = self.plan.steps_for(snapshot.network.unknowns_at(None)) - (
            snapshot.steps - snapshot.taken
        )
        run = SolverRun(solver, budget, self.plan, self.data)
        run.taken, run.stalled, run.unimproved = (
            snapshot.taken,
            snapshot.stalled,
            snapshot.unimproved,
        )
        return run, Best(snapshot.best, snapshot.lowest), snapshot.transfer

    def _run(
        self, run: SolverRun, best: Best, log: StepLog, transfer: GridTransfer
    ) -> Events[Step | Snapshot, None, None]:
        """The main run, with a snapshot now and then."""
        shown = self.clock.seconds
        for step in run.run(best, log):
            yield step
            recent = step.seconds - shown < self.plan.policy.grids.snapshot_seconds
            if (
                recent or run.settled or (state := run.solver.state()) is None
            ):  # a settled run takes no further step
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
                self.smoothing,
                transfer,
                self.generator.get_state(),
            )

    def _moved(self, intervals: int | None) -> Regridded[Network]:
        """The network on the next grid."""
        network, x, plan = self.network, self.data.train.x, self.plan
        if network.intervals is None or intervals is None:
            return Regridded(network)
        adapts = plan.update_grid and plan.grid_eps < 1
        if adapts or (plan.update_grid and not network.covers(x, plan.policy.grids.filled)):
            return self._regridded(network, intervals, inputs="within" if adapts else "keep")
        return (
            Regridded(deepcopy(network))
            if intervals == network.intervals
            else network.refined(intervals, x)
        )

    def _regridded(
        self, network: Network, intervals: int | None, inputs: InputGrid = "keep"
    ) -> Regridded[Network]:
        margin, grid_eps = self.plan.policy.grids.margin, self.plan.grid_eps
        x = self.data.train.x
        return network.regrid(
            x, intervals=intervals, grid_eps=grid_eps, margin=margin, inputs=inputs
        )

    def _settled(
        self, solver: Solver, moved: Regridded[Network], best: Best, log: StepLog
    ) -> Events[Step, None, tuple[Solver, Regridded[Network]]]:
        """LBFGS on the first grid once the hidden ranges have settled, its hidden grids drawn anew over them."""
        network, grids = solver.network, self.plan.policy.grids
        steps = min(grids.settling, self.plan.steps_for(network.unknowns_at(None)))
        yield from SolverRun(solver, steps, self.plan, self.data).run(best, log)
        if network.covers(self.data.train.x, grids.filled):
            return solver, moved
        redrawn = self._regridded(network, None)
        return make_solver(
            redrawn.network, self.data, self.plan, self.smoothing, self.generator
        ), redrawn
