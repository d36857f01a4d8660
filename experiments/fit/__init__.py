"""Train one model on one target, and show what it learned.

The default reproduces the setting of the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3): a
[2, 5, 1] network on exp(sin(pi x0) + x1^2), with a grid that is extended during training. There are
two differences. The solver is of second order, with a smoothness penalty chosen on held-out
training points. The grid is selected by validation points instead of test points. If the setting
`suite` lists several targets or shapes, all of them are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from kanrun.config import MODELS, TARGETS
from kanrun.engine.training import (
    Event,
    Grown,
    Snapshot,
    Stage,
    Step,
    Trained,
    TrainingState,
)
from kanrun.errors import UsageError
from kanrun.model.planning import LearningProblem, describe_training
from kanrun.model.trained import from_checkpoint, to_checkpoint
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
from kanrun.study.resources import make_problem
from kanrun.study.suite import bound_claims
from kanrun.targets.datasets import NAMED, Target

from .config import FitConfig
from .extra_points import (
    add_points,
    insertion_notes,
    kink_notes,
    most_extra_points,
)

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
