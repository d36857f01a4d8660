"""Training of one network on one grid after another, with a search for the penalty on each grid."""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf

from kanrun.engine.networks import Network, Regridded
from kanrun.engine.networks.reshaping import halve_intervals
from kanrun.engine.training.data import Plan, baseline_error, measure, predict
from kanrun.engine.training.objective import SmoothnessPenalty
from kanrun.engine.training.solver_run import (
    GridTransfer,
    Grown,
    Progress,
    Setup,
    Snapshot,
    SolverRun,
    Stage,
    Step,
    StepLog,
    take_steps,
)
from kanrun.monitoring import finished, time_limit_reached

#: The grid of a hidden layer is kept if the activations cover at least this fraction of the grid.
FILLED = 0.8
#: Shortest time between two snapshots on one grid, in seconds of training.
SNAPSHOT_SECONDS = 10.0
#: A grid counts as an improvement if its error is below this fraction of the lowest error before.
#: With a larger value, training continues for smaller gains.
HELPED = 0.9
#: Number of grids in a row without improvement after which an automatic schedule ends; also the
#: number of rounds of knot insertion. A larger number overcomes longer plateaus and takes more
#: time.
UNHELPFUL = 2
#: Relative validation error at which an automatic schedule ends, because only rounding errors are
#: left.
ROUNDING = 1e-13
#: Largest number of lower weights of the smoothness penalty that are tried on each grid but the
#: last. Each further weight takes a few solver steps.
TRIES = 5
#: Largest number of lower weights that are tried on the last grid, whose error is final. More tries
#: may lower this error, but take more steps.
LAST_TRIES = 8
#: Relative validation error of a first fit above which data count as noisy, so that a penalty on
#: second differences is tried.
NOISY = 0.05
#: Order of the differences that are penalised for noisy data.
ROUGH_ORDER = 2
#: Weights of the penalty on second differences, decreasing; with the first, edge functions are
#: nearly straight lines.
ROUGH_WEIGHTS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

Event = Step | Stage | Snapshot | Grown


@dataclass
class GridTraining:
    """Training of one network grid by grid, with a search for the penalty on each grid.

    Attributes:
        network: The network that the next stage begins with.
        penalty: Smoothness penalty that the next stage begins with.
        setup: Data, plan, random generator and clock.
        stages: Finished stages.
        events: Events of `compare`, which does not yield them.
        best: Progress of the solver run with the lowest validation error in the present stage.
        log: Number of steps of the present stage.
    """

    network: Network
    penalty: SmoothnessPenalty
    setup: Setup
    stages: list[Stage] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    best: Progress = field(init=False)
    log: StepLog = field(init=False)

    @property
    def lowest(self) -> float:
        """Lowest validation error of all stages; infinity before the first."""
        return min((stage.selected for stage in self.stages), default=inf)

    @property
    def chosen(self) -> Stage:
        """The last stage if it has inserted knots, otherwise the one with the lowest error."""
        last = self.stages[-1]
        return last if last.transfer.kink else min(self.stages, key=lambda one: one.selected)

    @property
    def ends(self) -> bool:
        """Whether training should not continue on finer grids.

        Training ends if the next grid would have too many unknowns, or if knots were inserted. With
        `plan.stop_early`, it also ends if only rounding errors are left, or if the last UNHELPFUL
        grids brought no improvement.
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
        """Insert knots where the residual of an additive network is concentrated, and train again.

        This resolves kinks and jumps of the target. Training has no smoothness penalty, which would
        be infinite for a kink. Up to UNHELPFUL rounds of insertion are tried. Return the new stage,
        or None if no round lowers the training error below HELPED times its old value while the
        validation error stays below 1.05 times the lowest.
        """
        setup = self.setup
        before = self.chosen
        network = before.network
        train = setup.data.train
        exact = self.lowest <= ROUNDING * baseline_error(setup.data)
        if exact or len(network.shape) > 2 or setup.data.validation is None:
            return None
        # A residual counts as concentrated if fewer than this fraction of the samples account for
        # half of its sum of squares.
        rare = 0.05
        # Inserted knots are kept only if the validation error stays below this multiple of the
        # lowest.
        risen = 1.05
        for _ in range(UNHELPFUL):
            squares = (predict(network, train.x) - train.y).square().sum(1)
            if (halved := halve_intervals(network, train.x, squares, rare)) is None:
                break
            network, kink = halved
            penalty = replace(before.penalty, weight=0.0)
            budget = setup.plan.steps_for(network.unknowns_at(None))
            steps = take_steps(setup.solver(network, penalty), budget)
            errors = measure(network, setup.data.untested)
            old = before.errors.train
            if errors.train < HELPED * old and errors.selected < risen * self.lowest:
                self.penalty = penalty
                self.log = StepLog(self.stages[-1].stage + 1, steps)
                return self._finished(network, GridTransfer("insertion", 0.0, old, old, kink))
        return None

    def compare(self, intervals: int | None) -> None:
        """Train on a grid with this number of intervals and a constant penalty weight.

        This is used to compare several networks. The steps and the stage are appended to `events`.
        Snapshots are dropped, because a comparison is never resumed.
        """
        steps = list[Step | Snapshot]()
        stage = finished(self.advance(intervals, 0), steps.append)
        self.events += [*(step for step in steps if isinstance(step, Step)), stage]

    def advance(
        self, intervals: int | None, tries: int, snapshot: Snapshot | None = None
    ) -> Events[Step | Snapshot, None, Stage]:
        """Transfer the network to a grid with `intervals` intervals and train on it.

        Args:
            intervals: Number of grid intervals; None for networks without grids.
            tries: Largest number of lower penalty weights that are tried; with 0, the penalty is
                not changed at all.
            snapshot: State of this stage to resume from, if it was interrupted.

        Yields:
            Steps and snapshots.

        Returns:
            The finished stage, which is also appended to `stages`.
        """
        plan = self.setup.plan
        number = len(self.stages) + 1
        if snapshot is None:
            self.log = StepLog(number)
            run, transfer = yield from self._begun(intervals)
        else:
            self.log = snapshot.log
            run = self._resumed(snapshot)
            transfer = snapshot.transfer
        yield from self._run(run, transfer)
        self.best = run.progress
        if plan.second_order and plan.weight is None and tries:
            budget = plan.steps_for(self.best.network.unknowns_at(None))
            yield from self._search(budget, tries, settled=run.settled)
        return self._finished(self.best.network, transfer)

    def _finished(self, network: Network, transfer: GridTransfer) -> Stage:
        """Return the stage that ends with `network`, which is also appended to `stages`."""
        self.network = network
        stage = Stage(
            self.log.stage,
            network.intervals,
            network,
            measure(network, self.setup.data),
            self.log.steps,
            self.setup.clock.seconds,
            self.penalty,
            transfer,
            self.setup.generator.get_state(),
            self.log.truncated,
        )
        self.stages.append(stage)
        return stage

    def _begun(self, intervals: int | None) -> Events[Step, None, tuple[SolverRun, GridTransfer]]:
        """Transfer the network to the next grid; return the main solver run and the transfer.

        On the first grid, LBFGS takes a few steps before the grids of hidden layers are adapted to
        the activations. Grids that the activations cover are not changed.
        """
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
        progress = Progress(deepcopy(network), errors.selected)
        budget = plan.steps_for(network.unknowns_at(None))
        solver = setup.solver(network, self.penalty)
        hidden = plan.update_grid and network.intervals is not None and len(network.shape) > 2
        # Number of LBFGS steps on the first grid before the grids of hidden layers are adapted to
        # the activations.
        settling = 30
        if self.log.stage == 1 and hidden and plan.settings.curvature:
            # The ranges of the activations have settled after these steps, so adapt hidden grids
            # that do not fit them.
            yield from SolverRun(solver, min(settling, budget), setup, progress).run(self.log)
            progress = Progress(progress.network, progress.error)
            if not network.covers(x, FILLED):
                moved = network.regrid(x, grid_eps=plan.grid_eps)
                solver = setup.solver(moved.network, self.penalty)
        run = SolverRun(solver, budget - self.log.steps, setup, progress)
        method = "start" if moved.how == "unchanged" else moved.how
        return run, GridTransfer(method, moved.change, before, errors.train)

    def _resumed(self, snapshot: Snapshot) -> SolverRun:
        """Return the main solver run as it was when `snapshot` was taken."""
        budget = self.setup.plan.steps_for(snapshot.network.unknowns_at(None))
        solver = self.setup.solver(snapshot.network, self.penalty)
        solver.restore(snapshot.solver)
        progress = snapshot.progress
        return SolverRun(solver, budget - (self.log.steps - progress.taken), self.setup, progress)

    def _run(self, run: SolverRun, transfer: GridTransfer) -> Events[Step | Snapshot, None, None]:
        """Yield the steps of the main run, with a snapshot about every SNAPSHOT_SECONDS."""
        shown = self.setup.clock.seconds
        for step in run.run(self.log):
            yield step
            # Once a run has settled, it takes no further step.
            early = step.seconds - shown < SNAPSHOT_SECONDS or run.settled
            if early or (state := run.solver.state()) is None:
                continue
            shown = step.seconds
            copies = deepcopy((run.solver.network, run.progress, self.log))
            random = self.setup.generator.get_state()
            yield Snapshot(*copies, state, shown, self.penalty, transfer, random)

    # -------------------- the weight of the penalty

    def _search(self, budget: int, tries: int, *, settled: bool) -> Events[Step, None, None]:
        """Try lower penalty weights while they help, and higher weights if no lower one helps.

        On the first grid, `_smooth` comes first if the fit is poor, since noise is then likely.

        `budget` is the number of steps of the main run, and `settled` whether it ended by a
        stopping rule. Only then are higher weights tried; otherwise they could win merely by their
        additional steps.
        """
        scale = baseline_error(self.setup.data)
        if self.log.stage == 1 and self.best.error > NOISY * scale:
            yield from self._smooth()
        # Number of lower weights in a row that may fail before the search ends, if second
        # differences are penalised.
        more = 2
        patience = more if self.penalty.order == ROUGH_ORDER else 0
        # Ratio of consecutive weights that are tried.
        factor = 100.0
        lower = self._weights(1 / factor, tries)
        if (yield from self._walk(lower, max(3, budget // 2), patience)):
            return
        # Largest number of unknowns of a grid on which higher weights are tried; noise can be seen
        # on coarse grids already.
        unknowns = 1000
        small = self.best.network.unknowns_at(None) <= unknowns
        # Number of higher weights in a row that may fail before the search ends. It is above 0
        # because noise causes plateaus in the validation error.
        misses = 3
        # Largest number of higher weights that are tried; more would exceed the bound.
        most_tries = 16
        # Relative validation error below which data count as free of noise and no higher weight is
        # tried.
        clean = 1e-6
        if settled and small and self.best.error >= clean * scale:
            higher = self._weights(factor, most_tries)
            yield from self._walk(higher, max(3, budget // 3), misses)

    def _smooth(self) -> Events[Step, None, None]:
        """Try penalties on second differences, each from the network reached with the previous one.

        With the first and largest weight, edge functions are nearly straight lines. The usual
        penalty on differences of order m > 2 does not prevent overfitting, because it does not
        penalise polynomials of degree below m.
        """
        reached = self.best
        # Largest number of solver steps with each of the ROUGH_WEIGHTS.
        steps = 8
        for weight in ROUGH_WEIGHTS:
            penalty = SmoothnessPenalty(weight, ROUGH_ORDER)
            reached = yield from self._trained(reached.network, penalty, steps)
            if reached.error < self.best.error:
                self.best, self.penalty = reached, penalty

    def _weights(self, factor: float, tries: int) -> list[SmoothnessPenalty]:
        """Return up to `tries` penalties whose weights change by `factor` from one to the next.

        The first is the present weight times `factor`. Weights outside 1e-30 to 100 are
        left out.
        """
        weights = (self.penalty.weight * factor ** (n + 1) for n in range(tries))
        # Smallest weight of the smoothness penalty that is tried. A smaller value allows rougher
        # functions.
        least = 1e-30
        # Upper bound (exclusive) of the weights of the smoothness penalty that are tried. A larger
        # value allows smoother functions.
        most = 1e2
        inside = (weight for weight in weights if least * 0.9 <= weight < most)
        return [replace(self.penalty, weight=weight) for weight in inside]

    def _walk(
        self, penalties: Iterable[SmoothnessPenalty], steps: int, patience: int
    ) -> Events[Step, None, bool]:
        """Train the best network so far with each penalty in turn.

        A penalty helps if it lowers the validation error by at least 3%; its
        network and the penalty are then kept. The search ends after more than `patience` penalties
        in a row that do not help, or if an error exceeds 1.5 times the best error. Return
        whether any penalty helped.
        """
        kept = False
        missed = 0
        # Smallest relative decrease of the validation error for which a new weight is kept.
        gain = 0.03
        # The search ends if the validation error with a weight exceeds the best one by this factor.
        too_far = 1.5
        for penalty in penalties:
            if missed > patience or time_limit_reached():
                break
            # A network reached with a penalty that did not help may be stuck, so training goes on
            # from the best one.
            reached = yield from self._trained(self.best.network, penalty, steps)
            before = self.best.error
            missed += 1
            if reached.error < (1 - gain) * before:
                self.best, self.penalty = reached, penalty
                kept = True
                missed = 0
            if reached.error > too_far * before:
                break
        return kept

    def _trained(
        self, network: Network, penalty: SmoothnessPenalty, steps: int
    ) -> Events[Step, None, Progress]:
        """Train a copy of `network` for up to `steps` steps.

        Returns:
            The best network after any of the steps, with its validation error. The error before the
            first step is not considered.
        """
        progress = Progress(network, inf)
        solver = self.setup.solver(deepcopy(network), penalty)
        yield from SolverRun(solver, steps, self.setup, progress).run(self.log)
        return progress


def without_help(errors: Sequence[float]) -> int:
    """Return the number of errors after the last improvement.

    An error is an improvement if it is below HELPED times the lowest error before it.
    """
    helped = [i for i, error in enumerate(errors) if i == 0 or error < HELPED * min(errors[:i])]
    return len(errors) - 1 - helped[-1]


def first_penalty(plan: Plan) -> SmoothnessPenalty:
    """Return the smoothness penalty with which training begins."""
    return SmoothnessPenalty(plan.first_weight if plan.weight is None else plan.weight, plan.order)
