"""The training of one network, grid after grid, with the search for its penalty on each."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

from kanrun.config.registry import SOLVERS
from kanrun.engine.networks import Network, Regridded
from kanrun.engine.training.data import baseline_error, measure
from kanrun.engine.training.data_fitting import SmoothnessPenalty
from kanrun.engine.training.plan import MARGIN
from kanrun.engine.training.solver_run import (
    Best,
    GridTransfer,
    Grown,
    PenaltySearch,
    Setup,
    Snapshot,
    SolverRun,
    Stage,
    Step,
    StepLog,
)

#: A hidden grid is kept while the activations fill this fraction of it.
FILLED = 0.8
#: Steps of LBFGS before hidden grids follow the ranges that it found.
SETTLING = 30
#: Seconds of training on one grid between two snapshots.
SNAPSHOT_SECONDS = 10.0
#: A grid helps if the validation error falls below this fraction of the best before. After
#: UNHELPFUL grids in a row without help an automatic schedule ends.
HELPED, UNHELPFUL = 0.9, 2
#: Relative validation error at which an automatic schedule ends: only rounding is left.
ROUNDING = 1e-13

Event = Step | Stage | Snapshot | Grown
Y = TypeVar("Y")
R = TypeVar("R")


@dataclass
class GridTraining:
    """Trains one network grid by grid.

    The last of `stages` so far holds the network that continues.
    """

    network: Network
    penalty: SmoothnessPenalty
    setup: Setup
    stages: list[Stage] = field(default_factory=list)
    #: Events of `compare`.
    events: list[Event] = field(default_factory=list)

    @property
    def lowest(self) -> float:
        """The lowest validation error of a stage."""
        return min((stage.selected for stage in self.stages), default=inf)

    @property
    def ends(self) -> bool:
        """Whether finer grids are too large or not worth it.

        Rounding is reached, or some did not help.
        """
        if not self.stages:
            return False
        plan = self.setup.plan
        intervals = plan.schedule[min(len(self.stages), len(plan.schedule) - 1)]
        if plan.max_unknowns and self.network.unknowns_at(intervals) > plan.max_unknowns:
            return True
        if not plan.stop_early:
            return False
        errors = [stage.selected for stage in self.stages]
        if errors[-1] <= ROUNDING * baseline_error(self.setup.data):
            return True
        helped = [i for i, error in enumerate(errors) if i == 0 or error < HELPED * min(errors[:i])]
        return len(errors) - 1 - helped[-1] >= UNHELPFUL

    def compare(self, intervals: int | None) -> None:
        """Train on a grid of `intervals` at a constant weight, to be compared with others.

        Nothing resumes in the middle of a comparison, so the events lack snapshots.
        """
        steps = list[Step | Snapshot]()
        stage = finished(self.advance(intervals, 0), steps.append)
        self.events += [*(step for step in steps if isinstance(step, Step)), stage]

    def advance(
        self, intervals: int | None, tries: int, snapshot: Snapshot | None = None
    ) -> Events[Step | Snapshot, None, Stage]:
        """Move to a grid of `intervals` and train there; `snapshot` resumes in the middle.

        At most `tries` weights of the penalty are tried; with 0 a poor first fit is not smoothed.
        """
        setup, plan = self.setup, self.setup.plan
        steps = snapshot.steps if snapshot else 0
        log = StepLog(len(self.stages) + 1, setup.clock, setup.data, steps)
        if snapshot is None:
            run, best, transfer = yield from self._begun(intervals, log)
        else:
            run, best, transfer = self._resumed(snapshot)
        yield from self._run(run, best, log, transfer)
        inflation = 1.0
        if plan.second_order and plan.weight is None:
            search = PenaltySearch(best, self.penalty, setup, log)
            if plan.selection == "evidence":
                inflation, tries = (yield from search.evidence()), 0
            elif log.stage == 1 and tries:
                yield from search.smooth()
            if tries:
                budget = plan.steps_for(best.network.unknowns_at(None))
                yield from search.search(budget, tries, settled=run.settled)
            best, self.penalty = search.best, search.penalty
        self.network = best.network
        stage = Stage(
            log.stage,
            best.network.intervals,
            best.network,
            measure(best.network, setup.data),
            log.steps,
            setup.clock.seconds,
            self.penalty,
            transfer,
            setup.generator.get_state(),
            inflation,
        )
        self.stages.append(stage)
        return stage

    def _begun(
        self, intervals: int | None, log: StepLog
    ) -> Events[Step, None, tuple[SolverRun, Best, GridTransfer]]:
        """Return the main run on the next grid, before its first step."""
        before = self.stages[-1].errors.train if self.stages else None
        moved, setup = self._moved(intervals), self.setup
        network, plan, x = moved.network, setup.plan, setup.data.train.x
        errors = measure(network, replace(setup.data, test=None))
        best = Best(network, errors.selected)
        budget = plan.steps_for(network.unknowns_at(None))
        solver = setup.solver(network, self.penalty)
        hidden = plan.update_grid and network.intervals is not None and len(network.shape) > 2
        if log.stage == 1 and hidden and SOLVERS[plan.solver].curvature:
            # Once the hidden ranges have settled, hidden grids that do not fit them are redrawn.
            yield from SolverRun(solver, min(SETTLING, budget), setup).run(best, log)
            if not network.covers(x, FILLED):
                moved = network.regrid(x, grid_eps=plan.grid_eps, margin=MARGIN)
                solver = setup.solver(moved.network, self.penalty)
        run = SolverRun(solver, budget - log.steps, setup)
        method = "start" if moved.how == "unchanged" else moved.how
        return run, best, GridTransfer(method, moved.change, before, errors.train)

    def _resumed(self, snapshot: Snapshot) -> tuple[SolverRun, Best, GridTransfer]:
        """Return the main run in the middle of its steps."""
        budget = self.setup.plan.steps_for(snapshot.network.unknowns_at(None))
        solver = self.setup.solver(snapshot.network, self.penalty)
        solver.restore(snapshot.solver)
        run = SolverRun(solver, budget - (snapshot.steps - snapshot.taken), self.setup)
        run.taken, run.stalled = snapshot.taken, snapshot.stalled
        run.unimproved = snapshot.unimproved
        return run, Best(snapshot.best, snapshot.lowest), snapshot.transfer

    def _run(
        self, run: SolverRun, best: Best, log: StepLog, transfer: GridTransfer
    ) -> Events[Step | Snapshot, None, None]:
        """Take the steps of the main run, with a snapshot from time to time."""
        shown = self.setup.clock.seconds
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
                self.setup.generator.get_state(),
            )

    def _moved(self, intervals: int | None) -> Regridded:
        """Return the network on the next grid."""
        network, x, plan = self.network, self.setup.data.train.x, self.setup.plan
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


def finished(events: Events[Y, None, R], tell: Callable[[Y], None]) -> R:
    """Call `tell` with each of the events and return what their generator returns."""
    while True:
        try:
            tell(next(events))
        except StopIteration as end:
            result: R = end.value
            return result
