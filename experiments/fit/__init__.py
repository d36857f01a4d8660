"""Train one model on one target, and show what it learned.

The default reproduces the setting of the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3): a
[2, 5, 1] network on exp(sin(pi x0) + x1^2), with a grid that is extended during training. There are
two differences. The solver is of second order, with a smoothness penalty chosen on held-out
training points. The grid is selected by validation points instead of test points. If the setting
`suite` lists several targets or shapes, all of them are trained.

After training on a function, points are added where the error is large, and kinks and jumps are
reported. A random sample leaves gaps between the values of the hidden activations, and few values
near the ends of their ranges. In these gaps, where neither training nor validation points lie, the
error can be large, by an amount that depends on the seed. Because a function can be evaluated
anywhere, new random points reveal the gaps, and the points with the largest errors are added to the
training points. More points do not help where the function itself is not smooth.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanrun.config import MODELS, TARGETS
from kanrun.engine.training import (
    Event,
    Grown,
    Plan,
    Snapshot,
    Stage,
    Step,
    Trained,
    TrainingState,
    baseline_error,
    fit,
    predict,
)
from kanrun.errors import UsageError
from kanrun.model.planning import LearningProblem, describe_training, joined
from kanrun.model.trained import from_checkpoint, to_checkpoint
from kanrun.points import Array, deviation
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Note, Records, Row
from kanrun.study import (
    Cell,
    Claims,
    Figures,
    Tables,
    bound_rows,
    check_bounds,
    suite_cells,
    with_cell,
)
from kanrun.study.evaluation import (
    doubts,
    effective_parameters,
    growth_row,
    linear_rmse,
    model_records,
    slider_checkpoint,
    stage_row,
    step_row,
)
from kanrun.study.recipe import Training, summary_of, train_and_record
from kanrun.study.resources import generator, make_problem
from kanrun.study.suite import bound_claims
from kanrun.targets.datasets import NAMED, Dataset, Target, draw, shown
from kanrun.targets.datasets import generator as stream
from kanrun.targets.functions import rough_places

from .config import FitConfig

if TYPE_CHECKING:
    from .tables import TableFitting


def cells(cfg: FitConfig) -> list[Cell]:
    """Return the entries of the suite as cells, or a single cell without changes."""
    return suite_cells(cfg.suite)


def prepare(
    cfg: FitConfig, cell: Cell, seed: int, target: Target | None = None
) -> Fit | TableFitting:
    """Prepare the training run of one seed: build its data, model settings and plan.

    If given, `target` replaces the target of the settings.

    Raises UsageError if the settings conflict.
    """
    check_bounds(cell)
    cfg = with_cell(cfg, cell)
    if MODELS.find(cfg.model.kind, "model.kind").tables_only:
        from .tables import prepare_table

        return prepare_table(cfg, seed, target)
    return make_fit(cfg, seed, target)


def run(
    cfg: FitConfig,
    cell: Cell,
    seed: int,
    resume: Checkpoint | None = None,
    prepared: Fit | TableFitting | None = None,
) -> Records:
    """Train one model; yield a row per step during training, and all other records at the end."""
    yield from (prepared or prepare(cfg, cell, seed)).run(cell, seed, resume)


def figures(tables: Tables) -> Figures:
    """Yield the default figures of a training run; none if the run has several cells.

    They show the loss, predictions and residuals, and for KANs also the edges and the network.
    """
    from kanrun.figures import training_figures

    if "cell" not in tables["summary"]:
        yield from training_figures(tables, NAMED)


def more_figures(tables: Tables) -> Figures:
    """Yield all figures, including those that are drawn only on request."""
    from kanrun.figures import training_figures

    yield from training_figures(tables, NAMED, on_request=True)


def claims(tables: Tables) -> Claims:
    """Return the claims that results satisfy the bounds in the entries of the suite."""
    return bound_claims(tables) if "bounds" in tables else ()


@dataclass(frozen=True)
class Fit:
    """A prepared training run of one seed, and the settings of `kanrun fit`."""

    cfg: FitConfig
    training: Training

    @property
    def summary_line(self) -> str:
        """Solver, grids, number of starts and number of parameters, in one line."""
        return describe_training(self.cfg.model, self.training.plan, self.training.problem)

    def run(self, cell: Cell, seed: int, resume: Checkpoint | None) -> Records:
        """Train, or resume at `resume`; yield a row per step, and all other records at the end."""
        training = self.training
        model = self.cfg.model
        problem = training.problem
        plan = training.plan
        done = TrainingState()
        if resume is not None:
            done = from_checkpoint(resume, TrainingState, problem.domain.device)
        if resume is None:
            yield from (Note(text, warning=True) for text in problem.dataset.notes)
            if TARGETS[self.cfg.target.kind].table:
                yield Note(
                    f"trained with model={model.kind}, as its settings require; model=auto is the "
                    "default for tables"
                )
            yield Note(self.summary_line)
        recorder = TrainingRecorder(done, resume, training.why)
        trained = yield from train_and_record(training, seed, recorder, done)
        growth = plan.growth
        function = problem.dataset.target.function
        if most := most_extra_points(self.cfg, bool(growth and not growth.given and function)):
            before = len(problem.data.train)
            problem, trained, ratio = add_points(problem, trained, plan, most, seed)
            more = len(problem.data.train) - before
            said = f"{more} points joined the training points; " if more else ""
            yield Note(
                f"{said}the error on new points is {ratio:.2g} times that on the "
                "first training points"
            )
        yield from (*insertion_notes(problem, trained), *kink_notes(problem, trained))
        yield from results(self, problem, cell, seed, trained)


def make_fit(cfg: FitConfig, seed: int, target: Target | None = None) -> Fit:
    """Build the data and the plan for training with one seed.

    If given, `target` replaces the target of the settings. Raises UsageError if the settings
    conflict.
    """
    problem = make_problem(cfg, target or cfg.target, cfg.sampling, seed)
    if cfg.extra_points and (problem.dataset.target.function is None or cfg.sampling.noise):
        raise UsageError(
            f"extra_points={cfg.extra_points} needs a function without noise, of which more points "
            "can be drawn. Set it to 0."
        )
    return Fit(cfg, Training.of(cfg.model, cfg.solver, problem))


class TrainingRecorder:
    """Convert events of training to records: rows per step and per grid, and checkpoints."""

    def __init__(self, state: TrainingState, resume: Checkpoint | None, why: str) -> None:
        self._why = why if resume is None else ""  # reported once, before the first step
        self._stages = list(state.stages)
        self._lowest = resume.meta["lowest"] if resume and state.snapshot else None

    def __call__(self, event: Event) -> Records:
        if isinstance(event, Step):
            if self._why:
                yield Note(f"solver {self._why}", detail=True)
                self._why = ""
            best = self._lowest is None or event.errors.selected < self._lowest
            self._lowest = event.errors.selected if best else self._lowest
            yield Row("metrics", {**step_row(event), "best": best})
            return
        if isinstance(event, Grown):
            yield from (Row("growth", growth_row(stage)) for stage in event.tried)
            lowest: dict[str, float] = {}
            for stage in event.tried:
                name = stage.network.shape_text
                lowest[name] = min(lowest.get(name, inf), stage.selected)
            shapes = ", ".join(f"{name} ({error:.1e})" for name, error in lowest.items())
            yield Note(f"tried the shapes {shapes} (validation error), until {event.reason}")
            return
        if isinstance(event, Stage):
            self._stages.append(event)
            self._lowest = None
            yield Row("stages", stage_row(event))
        snapshot = event if isinstance(event, Snapshot) else None
        state = TrainingState(self._stages, snapshot)
        yield to_checkpoint("resume", state, lowest=self._lowest)


def results(
    fitting: Fit, problem: LearningProblem, cell: Cell, seed: int, trained: Trained
) -> Records:
    """Yield the tables summary, bounds, predictions and edges, and the checkpoint of the model."""
    network = trained.network
    dataset = problem.dataset
    plan = fitting.training.plan
    stepped = any(stage.steps for stage in trained.stages)
    summary: dict[str, Any] = {
        **summary_of(problem, trained),
        "effective_parameters": effective_parameters(network, problem, trained.chosen.penalty),
        "solver": plan.solver if stepped or plan.growth else "least squares",
    }
    if not dataset.classes and len(dataset.test or ()):
        yield from doubts(summary["r2"], "test points")
    if TARGETS[fitting.cfg.target.kind].table and (linear := linear_rmse(problem)) is not None:
        beaten = trained.errors.test is not None and trained.errors.test < linear
        verdict = f"the model {'beats' if beaten else 'does not beat'} ordinary least squares"
        yield Note(f"{verdict}, whose test RMSE is {linear:.4g}", warning=not beaten)
        summary["linear_rmse"] = linear
    yield Row("summary", summary)
    yield from bound_rows(cell, summary)
    yield from model_records(network, problem, summary, seed)
    is_first = not cell and seed == fitting.cfg.seed
    if is_first and len(trained.stages) > 1 and trained.chosen.intervals:
        grids = {f"{stage.intervals} intervals": stage.network for stage in trained.stages}
        grids[f"the chosen one: {trained.chosen.intervals} intervals"] = network
        yield from slider_checkpoint(problem, grids, "grid", seed)


#: Largest number of rounds. Each round adds at most 1 / ROUNDS of the maximum number of points.
ROUNDS = 4
#: Relative error on new points below which no more points are added.
ACCURATE = 1e-12
#: Kinks are searched for near this many test points, those with the largest errors.
LARGEST_ERRORS = 16
#: Words in notes for a place at which a function is not smooth.
NOT_SMOOTH = "a kink, a jump or an infinite slope"


def most_extra_points(cfg: FitConfig, grows: bool) -> int:
    """Return the largest number of points that may be added to the training points.

    The default is 0 if the number of training points was set, if there is noise, or if the network
    does not grow.
    """
    # Default maximum number of added points.
    extra_points = 1000
    if cfg.extra_points is not None:
        return cfg.extra_points
    as_needed = cfg.sampling.n_train is None and not cfg.sampling.noise
    return extra_points if grows and as_needed else 0


def insertion_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Yield a note for each input whose grid received additional knots.

    The note names the narrowest interval with such knots, and says whether the function has a kink
    or a jump there.
    """
    kinks = [stage.transfer.kink for stage in trained.stages if stage.transfer.kink]
    for i in dict.fromkeys(kink[0] for kink in kinks):
        ends = min((kink[1:] for kink in kinks if kink[0] == i), key=lambda one: one[1] - one[0])
        x = np.zeros((2, problem.inputs))
        x[:, i] = ends
        low, high = problem.dataset.input_scaling.invert(x)[:, i]
        points = problem.dataset.train.x[:LARGEST_ERRORS].copy()
        points[:, i] = (low + high) / 2
        rough = 2 * len(_rough_places(problem.dataset, points)) > len(points)
        yield Note(
            f"knots were inserted at {problem.dataset.target.inputs[i]} = {low:.4g} to {high:.4g}, "
            f"where {f'the function has {NOT_SMOOTH}' if rough else 'most of the error was'}"
        )


def _rough_places(dataset: Dataset, points: Array) -> Array:
    """Return the locations near `points` at which the function is not smooth, (count, inputs).

    The result is empty if the target is a table, which has no function to examine.
    """
    target = dataset.target
    if target.function is None:
        return points[:0]
    sizes = deviation(dataset.train.y)
    sizes = np.where(sizes > 0, sizes, 1.0)
    places = rough_places(target.function, points, target.domain, sizes)
    return places[~np.isnan(places).any(axis=1)]


def kink_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Yield a note if most of the largest test errors are where the function is not smooth.

    This is checked on the function itself, because the errors of a network may be concentrated for
    other reasons.
    """
    dataset = problem.dataset
    test = problem.data.test
    if test is None or dataset.test is None:
        return
    squares = (predict(trained.network, test.x) - test.y).square().sum(1)
    accurate = ACCURATE * baseline_error(replace(problem.data, unit=None))
    if float(squares.mean().sqrt()) <= accurate:
        return
    worst = dataset.test.x[squares.argsort(descending=True)[:LARGEST_ERRORS].numpy(force=True)]
    rough = _rough_places(dataset, worst)
    if 2 * len(rough) > len(worst):
        yield Note(
            f"the largest errors are close to {NOT_SMOOTH} of the function, which limits the "
            f"accuracy: {shown(rough[0], dataset.target.inputs)}"
        )


def add_points(
    problem: LearningProblem, trained: Trained, plan: Plan, most: int, seed: int
) -> tuple[LearningProblem, Trained, float]:
    """Add up to `most` samples of the problem's function where the errors of `trained` are largest.

    Points are added in at most ROUNDS rounds, and the network is trained again in each. A round
    follows if the error on new points is more than twice the first training error, or if the last
    round more than halved the error on new points. Later training errors are not used, because the
    added points are those with the largest residuals.

    Returns:
        The problem and the trained network of the round with the lowest error on new points, and
        that error divided by the first training error.
    """
    # Number of new random points on which each check measures the error.
    check_points = 4000
    target = problem.dataset.target
    rng = stream(seed, "extra")
    data = problem.data.train
    first = float((predict(trained.network, data.x) - data.y).square().mean().sqrt())
    accurate = ACCURATE * baseline_error(replace(problem.data, unit=None))
    rounds: list[tuple[float, LearningProblem, Trained]] = []
    while True:
        points = draw(target, check_points, rng)
        new = joined(problem, points, only=True).data.train
        squares = (predict(trained.network, new.x) - new.y).square()
        rounds.append((float(squares.mean().sqrt()), problem, trained))
        if not more_points_help([error for error, *_ in rounds], first, accurate):
            break
        worst = squares.mean(1).argsort(descending=True)[: -(-most // ROUNDS)]
        problem = joined(problem, points.take(np.sort(worst.numpy(force=True))))
        trained = _continued(problem, trained, plan, seed)
    error, problem, trained = min(rounds, key=lambda entry: entry[0])
    return problem, trained, error / max(first, torch.finfo().tiny)


def more_points_help(errors: list[float], first: float, accurate: float) -> bool:
    """Return whether to add another round of points.

    Args:
        errors: RMSE on new points before each round so far.
        first: Training RMSE before points were added.
        accurate: RMSE at which the network is accurate enough.
    """
    # A further round follows if the error on new points is more than this multiple of the first
    # training error, or if the last round reduced the error on new points by more than this factor.
    agreeing = 2.0
    last = errors[-1]
    helped = len(errors) > 1 and errors[-1] < errors[-2] / agreeing
    return len(errors) <= ROUNDS and last > accurate and (helped or last > agreeing * first)


def _continued(problem: LearningProblem, trained: Trained, plan: Plan, seed: int) -> Trained:
    """Continue training the network on the points of `problem`.

    Training starts with the network's current grid and penalty, and then continues on the finer
    grids of `plan`.
    """
    network = trained.network
    penalty = trained.chosen.penalty
    finer = [grid for grid in plan.intervals if grid > (network.intervals or 0)]
    again = replace(
        plan,
        intervals=(network.intervals, *finer) if network.intervals else (),
        starts=1,
        first_weight=penalty.weight,
        order=penalty.order,
        growth=None,
        stop_early=True,
    )
    more = fit(lambda _: deepcopy(network), problem.data, again, generator(seed, "extra points"))
    inserted = [stage for stage in more.stages if stage.transfer.kink]
    stages = [*trained.stages, *inserted]
    seconds = trained.seconds + more.seconds
    return replace(more, stages=stages, seconds=seconds)
