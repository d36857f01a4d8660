"""The training of one network, grid after grid, with the search for its penalty on each."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf

from kanrun.engine.networks import Network, Regridded
from kanrun.engine.networks.reshaping import halve_intervals
from kanrun.engine.training.data import Plan, baseline_error, measure, predict
from kanrun.engine.training.objective import SmoothnessPenalty
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
#: A grid helps if its error falls below this fraction of the lowest error before. A larger value
#: continues for smaller gains.
HELPED = 0.9
#: Number of grids in a row without help that end an automatic schedule, and of rounds of knot
#: insertion that are tried. A larger number overcomes longer plateaus and takes more time.
UNHELPFUL = 2
#: Relative validation error at which an automatic schedule ends: only rounding is left.
ROUNDING = 1e-13
#: Smallest weight of the smoothness penalty that is tried. A smaller value lets searches go on to
#: rougher functions.
MIN_WEIGHT = 1e-30
#: Weight of the smoothness penalty below which all tried weights stay. A larger value lets
#: searches go on to smoother functions.
MAX_WEIGHT = 1e2
#: Factor between weights that are tried.
WEIGHT_FACTOR = 100.0
#: Largest number of lower weights tried on each grid but the last. More tries take more steps
#: there.
TRIES = 5
#: Largest number of lower weights tried on the last grid, whose result is final. More tries may
#: lower its error and take more steps.
LAST_TRIES = 8
#: Fraction of the validation error that a weight must gain.
MIN_GAIN = 0.03
#: Weights in a row that may not help on the way to higher ones, since noise makes plateaus.
MISSES = 3
#: Largest number of higher weights; with WEIGHT_FACTOR more would leave the bounds.
HIGHER_TRIES = 16
#: Ratio of the errors after and before a weight at which no further weight is tried.
TOO_FAR = 1.5
#: Number of unknowns up to which higher weights are tried: noise shows on coarse grids already.
UPWARD_UNKNOWNS = 1000
#: Relative error below which data count as free of noise, so that no higher weight is tried.
CLEAN = 1e-6
#: Relative error of a first fit above which data count as noisy: second differences are tried.
NOISY = 0.05
#: Order of these differences.
ROUGH_ORDER = 2
#: Their weights, from nearly straight edges down.
ROUGH_WEIGHTS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
#: Steps with each of these weights.
ROUGH_STEPS = 8
#: Lower weights of second differences in a row that may not help on a later grid.
PLATEAU_WEIGHTS = 2
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
        setup = self.setup
        before = self.chosen
        network = before.network
        train = setup.data.train
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
            errors = measure(network, setup.data)
            old = before.errors.train
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
        setup = self.setup
        plan = self.setup.plan
        number = len(self.stages) + 1
        if snapshot is None:
            self.log = StepLog(number)
            run, transfer = yield from self._begun(intervals)
        else:
            self.log = StepLog(number, snapshot.steps, snapshot.truncated)
            run = self._resumed(snapshot)
            transfer = snapshot.transfer
        yield from self._run(run, transfer)
        if plan.second_order and plan.weight is None and tries:
            if self.log.stage == 1:
                yield from self._smooth()
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
            self.log.truncated,
        )
        self.stages.append(stage)
        return stage

    def _begun(self, intervals: int | None) -> Events[Step, None, tuple[SolverRun, GridTransfer]]:
        """Return the main run on the next grid, before its first step."""
        before = self.stages[-1].errors.train if self.stages else None
        network = self.network
        setup = self.setup
        plan = self.setup.plan
        x = self.setup.data.train.x
        moved = Regridded(network)
        adapts = plan.update_grid and plan.grid_eps < 1
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
        if self.log.stage == 1 and hidden and plan.settings.curvature:
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
                self.best = Best(network, reached.error)
                self.penalty = penalty

    def _search(self, budget: int, tries: int, *, settled: bool) -> Events[Step, None, None]:
        """Try lower weights while they help, and higher weights if no lower one does.

        Higher weights are tried only after the steps have settled: before, they would win by their
        additional steps.
        """
        patience = PLATEAU_WEIGHTS if self.penalty.order == ROUGH_ORDER else 0
        lower = yield from self._walk(1 / WEIGHT_FACTOR, max(3, budget // 2), tries, patience)
        noisy = self.best.error >= CLEAN * baseline_error(self.setup.data)
        small = self.best.network.unknowns_at(None) <= UPWARD_UNKNOWNS
        if settled and noisy and small and not lower:
            yield from self._walk(WEIGHT_FACTOR, max(3, budget // 3), HIGHER_TRIES, MISSES)

    def _walk(
        self, factor: float, steps: int, tries: int, patience: int
    ) -> Events[Step, None, bool]:
        """Try weights, each `factor` times the last; return whether validation kept one.

        It ends after more than `patience` weights in a row that do not help, and at one that is
        far worse.
        """
        kept = False
        missed = 0
        weight = self.penalty.weight
        for _ in range(tries):
            weight *= factor
            inside = MIN_WEIGHT * 0.9 <= weight < MAX_WEIGHT
            if missed > patience or not inside or time_limit_reached():
                break
            before = self.best.error
            helped, reached = yield from self._try(weight, steps)
            kept = kept or helped
            missed = 0 if helped else missed + 1
            if reached > TOO_FAR * before:
                break
        return kept

    def _try(self, weight: float, steps: int) -> Events[Step, None, tuple[bool, float]]:
        """Return whether validation keeps this weight, and the error that it led to."""
        penalty = replace(self.penalty, weight=weight)
        reached = yield from self._trained(deepcopy(self.best.network), penalty, steps)
        helped = reached.error < (1 - MIN_GAIN) * self.best.error
        if helped:
            self.best = reached
            self.penalty = penalty
        return helped, reached.error

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
    return SmoothnessPenalty(plan.first_weight if plan.weight is None else plan.weight, plan.order)
