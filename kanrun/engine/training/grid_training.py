"""The training of one network, grid after grid, with the search for its penalty on each."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf

from kanrun.config.registry import SOLVERS
from kanrun.engine.networks import Network, Regridded
from kanrun.engine.networks.reshaping import halve_intervals
from kanrun.engine.training.data import Plan, baseline_error, measure, predict
from kanrun.engine.training.objective import SmoothnessPenalty, update_penalty_weight
from kanrun.engine.training.solver_run import (
    Best,
    GridTransfer,
    Grown,
    Setup,
    Snapshot,
    SolverRun,
    Stage,
    Step,
    StepLog,
    take_steps,
)
from kanrun.monitoring import finished, time_limit_reached

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
#: Bounds of the penalty weight.
MIN_WEIGHT, MAX_WEIGHT = 1e-30, 1e2
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
ROUGH_WEIGHTS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# The evidence: second differences with this weight at the start, and the maximum number of updates
# with this many steps each, until the weight changes by less than the factor SETTLED.
EVIDENCE_WEIGHT, EVIDENCE_UPDATES, EVIDENCE_STEPS, SETTLED = 1e-6, 12, 3, 1.2
#: A residual is concentrated if fewer than this fraction of the samples hold half of its square.
RARE = 0.05
#: Knots are inserted if the validation error stays below this many times the lowest.
RISEN = 1.05

Event = Step | Stage | Snapshot | Grown


@dataclass
class GridTraining:
    """Trains one network grid by grid, with the search for its penalty on each.

    The last of `stages` so far holds the network that continues.
    """

    network: Network
    penalty: SmoothnessPenalty
    setup: Setup
    stages: list[Stage] = field(default_factory=list)
    #: Events of `compare`.
    events: list[Event] = field(default_factory=list)
    #: The best network of the present stage, and the number of its steps.
    best: Best = field(init=False)
    log: StepLog = field(init=False)

    @property
    def lowest(self) -> float:
        """Lowest validation error of a stage."""
        return min((stage.selected for stage in self.stages), default=inf)

    @property
    def chosen(self) -> Stage:
        """Last stage if knots were inserted there, else the one with the lowest error."""
        last = self.stages[-1]
        return last if last.transfer.kink else min(self.stages, key=lambda one: one.selected)

    @property
    def ends(self) -> bool:
        """True if finer grids are too large or not worth it.

        Rounding is reached, some did not help, or knots were inserted.
        """
        if not self.stages:
            return False
        plan = self.setup.plan
        intervals = plan.schedule[min(len(self.stages), len(plan.schedule) - 1)]
        large = plan.max_unknowns and self.network.unknowns_at(intervals) > plan.max_unknowns
        if large or self.stages[-1].transfer.kink:
            return True
        if not plan.stop_early:
            return False
        errors = [stage.selected for stage in self.stages]
        if errors[-1] <= ROUNDING * baseline_error(self.setup.data):
            return True
        return without_help(errors) >= UNHELPFUL

    def insert_knots(self) -> Stage | None:
        """Insert knots where the residual of an additive network is concentrated, and train there.

        A kink or a jump bends a spline in a few intervals. The stage has no smoothness penalty,
        which would be infinite for a kink. Insertions are undone, and nothing returned, unless one
        or two of them lower the training error and the validation error does not rise.
        """
        setup, before = self.setup, self.chosen
        network, train = before.network, setup.data.train
        exact = self.lowest <= ROUNDING * baseline_error(setup.data)
        if exact or len(network.shape) > 2 or setup.data.validation is None:
            return None
        for _ in range(UNHELPFUL):
            squares = (predict(network, train.x) - train.y).square().sum(1)
            if (found := halve_intervals(network, train.x, squares, RARE)) is None:
                break
            network, kink = found
            penalty = replace(before.penalty, weight=0.0)
            budget = setup.plan.steps_for(network.unknowns_at(None))
            steps = take_steps(setup.solver(network, penalty), budget)
            errors, old = measure(network, setup.data), before.errors.train
            if errors.train < HELPED * old and errors.selected < RISEN * self.lowest:
                stage = replace(
                    before,
                    stage=self.stages[-1].stage + 1,
                    intervals=network.intervals,
                    network=network,
                    errors=errors,
                    steps=steps,
                    seconds=setup.clock.seconds,
                    penalty=penalty,
                    transfer=GridTransfer("insertion", 0.0, old, old, kink),
                    random=setup.generator.get_state(),
                )
                self.stages.append(stage)
                return stage
        return None

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
        number = len(self.stages) + 1
        if snapshot is None:
            self.log = StepLog(number)
            run, transfer = yield from self._begun(intervals)
        else:
            self.log = StepLog(number, snapshot.steps, snapshot.truncated)
            run, transfer = self._resumed(snapshot), snapshot.transfer
        yield from self._run(run, transfer)
        inflation = 1.0
        if plan.second_order and plan.weight is None:
            if plan.selection == "evidence":
                inflation, tries = (yield from self._maximise_evidence()), 0
            elif self.log.stage == 1 and tries:
                yield from self._smooth()
            if tries:
                budget = plan.steps_for(self.best.network.unknowns_at(None))
                yield from self._search(budget, tries, settled=run.settled)
        self.network = self.best.network
        stage = Stage(
            self.log.stage,
            self.network.intervals,
            self.network,
            measure(self.network, setup.data),
            self.log.steps,
            setup.clock.seconds,
            self.penalty,
            transfer,
            setup.generator.get_state(),
            inflation,
            self.log.truncated,
        )
        self.stages.append(stage)
        return stage

    def _begun(self, intervals: int | None) -> Events[Step, None, tuple[SolverRun, GridTransfer]]:
        """Return the main run on the next grid, before its first step."""
        before = self.stages[-1].errors.train if self.stages else None
        network, setup, plan, x = self.network, self.setup, self.setup.plan, self.setup.data.train.x
        moved, adapts = Regridded(network), plan.update_grid and plan.grid_eps < 1
        if network.intervals is not None and intervals is not None:
            if adapts or (plan.update_grid and not network.covers(x, FILLED)):
                moved = network.regrid(
                    x,
                    intervals=intervals,
                    grid_eps=plan.grid_eps,
                    inputs="within" if adapts else "keep",
                )
            elif intervals == network.intervals:
                moved = Regridded(deepcopy(network))
            else:
                moved = network.refined(intervals, x)
        network = moved.network
        errors = measure(network, setup.data.untested)
        self.best = Best(network, errors.selected)
        budget = plan.steps_for(network.unknowns_at(None))
        solver = setup.solver(network, self.penalty)
        hidden = plan.update_grid and network.intervals is not None and len(network.shape) > 2
        if self.log.stage == 1 and hidden and SOLVERS[plan.solver].curvature:
            # Once the hidden ranges have settled, hidden grids that do not fit them are redrawn.
            yield from SolverRun(solver, min(SETTLING, budget), setup).run(self.best, self.log)
            if not network.covers(x, FILLED):
                moved = network.regrid(x, grid_eps=plan.grid_eps)
                solver = setup.solver(moved.network, self.penalty)
        run = SolverRun(solver, budget - self.log.steps, setup)
        method = "start" if moved.how == "unchanged" else moved.how
        return run, GridTransfer(method, moved.change, before, errors.train)

    def _resumed(self, snapshot: Snapshot) -> SolverRun:
        """Return the main run in the middle of its steps."""
        budget = self.setup.plan.steps_for(snapshot.network.unknowns_at(None))
        solver = self.setup.solver(snapshot.network, self.penalty)
        solver.restore(snapshot.solver)
        run = SolverRun(solver, budget - (snapshot.steps - snapshot.taken), self.setup)
        run.taken, run.stalled = snapshot.taken, snapshot.stalled
        run.unimproved = snapshot.unimproved
        self.best = Best(snapshot.best, snapshot.lowest)
        return run

    def _run(self, run: SolverRun, transfer: GridTransfer) -> Events[Step | Snapshot, None, None]:
        """Take the steps of the main run, with a snapshot from time to time."""
        shown = self.setup.clock.seconds
        for step in run.run(self.best, self.log):
            yield step
            # A settled run takes no further step.
            early = step.seconds - shown < SNAPSHOT_SECONDS or run.settled
            if early or (state := run.solver.state()) is None:
                continue
            shown = step.seconds
            yield Snapshot(
                deepcopy(run.solver.network),
                deepcopy(self.best.network),
                self.best.error,
                state,
                run.taken,
                self.log.steps,
                run.stalled,
                run.unimproved,
                step.seconds,
                self.penalty,
                transfer,
                self.setup.generator.get_state(),
                self.log.truncated,
            )

    # -------------------- the weight of the penalty

    def _smooth(self) -> Events[Step, None, None]:
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

    def _search(self, budget: int, tries: int, *, settled: bool) -> Events[Step, None, None]:
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

    def _maximise_evidence(self) -> Events[Step, None, float]:
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
            solver = self.setup.solver(deepcopy(network), self.penalty)
            run = SolverRun(solver, EVIDENCE_STEPS, self.setup)
            yield from run.run(Best(network, 0.0), self.log)
            network = solver.network
        errors = measure(network, self.setup.data.untested)
        self.best = Best(network, errors.train * inflation)
        return inflation

    def _trained(
        self, network: Network, penalty: SmoothnessPenalty, steps: int
    ) -> Events[Step, None, Best]:
        """Return the best network of some steps from `network`, whose own error does not count."""
        reached = Best(network, inf)
        run = SolverRun(self.setup.solver(network, penalty), steps, self.setup)
        yield from run.run(reached, self.log)
        return reached


def without_help(errors: Sequence[float]) -> int:
    """Return how many errors follow the last that fell below HELPED times the lowest before it."""
    helped = [i for i, error in enumerate(errors) if i == 0 or error < HELPED * min(errors[:i])]
    return len(errors) - 1 - helped[-1]


def first_penalty(plan: Plan) -> SmoothnessPenalty:
    """Return the penalty that a training begins with."""
    if plan.weight is None and plan.selection == "evidence":
        return SmoothnessPenalty(EVIDENCE_WEIGHT, ROUGH_ORDER)
    return SmoothnessPenalty(plan.first_weight if plan.weight is None else plan.weight, plan.order)
