"""One training of `kanrun fit`: what it needs, and what it records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kanrun.experiments.fit.extra_points import EXTRA_POINTS, add_points

from kanrun.config import TARGETS, FitConfig, SamplingConfig
from kanrun.engine.training import (
    Event,
    Grown,
    Plan,
    Snapshot,
    Stage,
    Step,
    Trained,
    TrainingState,
    train,
)
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint, Note, Record, Row
from kanrun.study.build import (
    Create,
    LearningProblem,
    describe_training,
    factory,
    make_plan,
    make_problem,
)
from kanrun.study.evaluation import (
    doubts,
    effective_parameters,
    follow,
    growth_row,
    linear_rmse,
    model_records,
    relative_error,
    scores,
    stage_row,
    step_row,
)
from kanrun.study.resources import generator
from kanrun.study.saved import (
    from_checkpoint,
    slider_checkpoint,
    to_checkpoint,
)
from kanrun.study.suite import bound_rows, check_bounds, with_cell
from kanrun.targets import Target


@dataclass(frozen=True)
class Fit:
    """Input of one training; `why` explains its solver, and `create` makes new networks."""

    cfg: FitConfig
    problem: LearningProblem
    plan: Plan
    why: str
    create: Create

    @property
    def summary_line(self) -> str:
        """Solver, grids, starts and parameters."""
        return describe_training(self.cfg.model, self.plan, self.problem)

    def run(
        self, cell: Mapping[str, Any], seed: int, resume: Checkpoint | None
    ) -> Iterator[Record]:
        """Train; one row per step as it trains, the rest at the end."""
        problem, model = self.problem, self.cfg.model
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
        events = train(self.create, problem.data, self.plan, generator(seed, "training"), done)
        trained = yield from follow(events, Progress(done, resume, self.why))
        if most := self._extra_points:
            before = len(problem.data.train)
            problem, trained, ratio = add_points(problem, trained, self.plan, most, seed)
            more = len(problem.data.train) - before
            joined = f"{more} points joined the training points; " if more else ""
            yield Note(
                f"{joined}the error on new points is {ratio:.2g} times that on training points"
            )
        yield from results(replace(self, problem=problem), cell, seed, trained)

    @property
    def _extra_points(self) -> int:
        """The maximum number of further points; a number of training points that is set stays."""
        if (given := self.cfg.extra_points) is not None:
            return given
        sampling, function = self.cfg.sampling, self.problem.dataset.target.function
        usual = sampling.n_train == SamplingConfig().n_train and not sampling.noise
        growth = self.plan.growth
        return EXTRA_POINTS if growth and not growth.given and function and usual else 0


def make_fit(
    cfg: FitConfig, cell: Mapping[str, Any], seed: int, target: Target | None = None
) -> Fit:
    """Build what the training of one cell and seed needs, unless `target` is built already.

    Raises UsageError for settings against a rule.
    """
    check_bounds(cell)
    cfg = with_cell(cfg, cell)
    sampling = cfg.sampling
    if vars(cfg.model).get("selection") == "evidence":
        sampling = replace(sampling, validation_fraction=0.0)
    problem = make_problem(cfg, target or cfg.target, sampling, seed)
    if cfg.extra_points and (problem.dataset.target.function is None or sampling.noise):
        raise UsageError(
            f"extra_points={cfg.extra_points} needs a function without noise, of which more points "
            "can be drawn. Set it to 0."
        )
    plan, why = make_plan(cfg.model, cfg.solver, problem)
    return Fit(cfg, problem, plan, why, factory(cfg.model, problem, plan.solver))


class Progress:
    """Records of a training: a row per step and per grid, and checkpoints to resume from."""

    def __init__(self, state: TrainingState, resume: Checkpoint | None, why: str) -> None:
        self._why = why if resume is None else ""  # reported once, before the first step
        self._stages = list(state.stages)
        self._lowest = resume.meta["lowest"] if resume and state.snapshot else None

    def __call__(self, event: Event) -> Iterator[Record]:
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
            shapes = dict.fromkeys("-".join(map(str, s.network.shape)) for s in event.tried)
            yield Note(f"tried the shapes {', '.join(shapes)}, until {event.reason}")
            return
        if isinstance(event, Stage):
            self._stages.append(event)
            self._lowest = None
            yield Row("stages", stage_row(event))
        snapshot = event if isinstance(event, Snapshot) else None
        state = TrainingState(self._stages, snapshot)
        yield to_checkpoint("resume", state, lowest=self._lowest)


def results(fit: Fit, cell: Mapping[str, Any], seed: int, trained: Trained) -> Iterator[Record]:
    """Yield summary, bounds, predictions, edges and the trained model."""
    network, problem, dataset = trained.network, fit.problem, fit.problem.dataset
    errors = trained.errors
    stepped = any(stage.steps for stage in trained.stages)
    summary = {
        "target": dataset.target.name,
        "model": network.kind,
        "shape": "-".join(map(str, network.shape)),
        "train_points": len(problem.data.everything),
        "intervals": trained.chosen.intervals,
        "parameters": network.count(),
        "effective_parameters": effective_parameters(network, problem, trained.chosen.penalty),
        "train_rmse": errors.train,
        "validation_rmse": errors.validation,
        "test_rmse": errors.test,
        "relative_error": relative_error(errors.reported, dataset),
        **scores(network, problem),
        "solver": fit.plan.solver if stepped or fit.plan.growth else "least squares",
        "seconds": trained.seconds,
    }
    if not dataset.classes and len(dataset.test or ()):
        yield from doubts(summary["r2"], "test points")
    if TARGETS[fit.cfg.target.kind].table and (linear := linear_rmse(problem)) is not None:
        beaten = errors.test is not None and errors.test < linear
        verdict = f"the model {'beats' if beaten else 'does not beat'} ordinary least squares"
        yield Note(f"{verdict}, whose test RMSE is {linear:.4g}", warning=not beaten)
        summary["linear_rmse"] = linear
    yield Row("summary", summary)
    yield from bound_rows(cell, summary)
    yield from model_records(network, problem, summary, seed)
    if not cell and seed == fit.cfg.seed and len(trained.stages) > 1 and trained.chosen.intervals:
        grids = {f"{stage.intervals} intervals": stage.network for stage in trained.stages}
        grids[f"the chosen one: {trained.chosen.intervals} intervals"] = network
        yield from slider_checkpoint(problem, grids, "grid", "The network, grid by grid", seed)
