"""One training along a grid schedule: its settings from a cell, the rows of its stages, and what others published.

The published test errors are those of exp(sin(pi x0) + x1^2) on [-1, 1]^2, 1000 training points, k = 3, by number of
grid intervals: Liu et al., arXiv 2404.19756, Figure 2.3 (LBFGS, 200 steps a grid), and pykan 0.2.8 run with the
same recipe.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from kanrun.experiments.extend_grid.schedules import (
    Schedule,
    limited,
    schedule_of,
    threshold_intervals,
)

from kanrun.config import ExtendGridConfig, KANConfig, SamplingConfig
from kanrun.engine.networks.counting import KANSize, kan_parameters
from kanrun.engine.training import Event, Plan, Stage, Step, Trained, fit, predict, train
from kanrun.engine.training.data import baseline_error
from kanrun.errors import TrainingFailed, UsageError
from kanrun.runs.records import Row, Value
from kanrun.study.build import check_model, edge_spec, factory, refuse_unused
from kanrun.study.evaluation import points_of, relative_error
from kanrun.study.problem import LearningProblem, make_problem
from kanrun.study.resources import generator
from kanrun.study.training_records import stage_row, step_row

#: The setting of `published.csv`; what diverged or was not run is left out there.
PUBLISHED = "exp_sin_square", 1000, 3


#: What a cell may change of `sampling`, by the cell's own name; and the settings that say on how many points a part is.
_SAMPLED = {"n_train": "points", "validation_fraction": "validation", "noise": "noise"}
_POINTS = {"order": "order_points", "sizes": "sizes", "overfit": "overfit_points"}
#: Errors below this share of the target's deviation are rounding, and no order is fitted to them.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Extension:
    """A cell made concrete: settings of one training, its schedule, and the words that its rows carry."""

    cfg: ExtendGridConfig
    schedule: Schedule
    left_out: list[int]
    marks: dict[str, Value]

    def step_rows(self, event: Event) -> Iterator[Row]:
        """A row of `metrics` for each step of the training."""
        if isinstance(event, Step):
            yield Row("metrics", {**self.marks, **step_row(event)})


def check_settings(cfg: ExtendGridConfig) -> None:
    """Raise UsageError for a model without grids or slopes, and for settings of it that are not used here."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"extend-grid extends the grids of a KAN; model={cfg.model.kind} has none, use model=kan."
        )
    refuse_unused(
        cfg.model,
        {"hidden": "shapes=[[...]]", "intervals": "schedules=[{kind: list, intervals: [...]}]"},
    )
    if not all(isinstance(hidden, list) for hidden in cfg.shapes):
        raise UsageError(
            f"shapes={cfg.shapes} must be a list of hidden widths, such as [[1], [5]]."
        )
    if cfg.model.degree < 1:
        raise UsageError(
            "model.degree: splines of degree 0 have no slope to learn by; use 1 or more."
        )


def extension(
    cfg: ExtendGridConfig, cell: Mapping[str, Any], inputs: int, outputs: int
) -> Extension:
    """The settings that `cell` stands for. Raises UsageError for a schedule or a model that breaks a rule."""
    hidden = list(cell.get("hidden", cfg.shapes[0]))
    degree = cell.get("degree", cfg.model.degree)
    shape = (inputs, *hidden, outputs)
    sampling, compared = sampling_of(cfg, cell), cell["schedule"] == cfg.schedules[0]
    solver = cfg.solver if cell.get("penalised", True) else replace(cfg.solver, smoothness_weight=0.0)
    cfg = replace(
        cfg,
        model=replace(cfg.model, hidden=hidden, degree=degree),
        sampling=sampling,
        solver=solver,
    )
    whole = schedule_of(cell["schedule"])
    schedule, left_out = limited(whole, lambda g: parameters(cfg, shape, g), cfg.max_parameters)
    cfg.model.intervals = list(schedule.grids)
    check_model(cfg.model, inputs)
    marks: dict[str, Value] = {
        "part": cell["part"],
        "schedule": whole.name,
        "start": "scratch" if len(whole.grids) == 1 else "warm",
        "shape": "-".join(map(str, shape)),
        "degree": degree,
        "train_points": sampling.n_train,
        "noise": sampling.noise,
        "penalised": penalises(solver),
        "compared": cell["part"] == "schedules" and compared,
    }
    return Extension(cfg, schedule, left_out, marks)


def sampling_of(cfg: ExtendGridConfig, cell: Mapping[str, Any]) -> SamplingConfig:
    """The cell's own number of training points, share held out and noise, where it has them."""
    return replace(
        cfg.sampling, **{name: cell[key] for name, key in _SAMPLED.items() if key in cell}
    )


def problem_of(cfg: ExtendGridConfig, cell: Mapping[str, Any], seed: int) -> LearningProblem:
    """The target, sampled as the cell says. Raises UsageError where it has not so many points, and none to test on."""
    try:
        problem = make_problem(cfg, cfg.target, sampling_of(cfg, cell), seed)
    except UsageError as error:
        if "points" not in cell:
            raise
        raise UsageError(
            f"the part {cell['part']} trains on {cell['points']} points: {error} Change {_POINTS[cell['part']]}, or "
            "choose other parts, as parts=[schedules,scratch]."
        ) from error
    if problem.data.test is None:
        name = problem.dataset.target.name
        raise UsageError(
            f"{name} has no test points to judge grids by; sampling.n_test must be 1 or more."
        )
    return problem


def penalises(solver: Any) -> bool:
    """Whether trainings are smoothed: unless told not to, but with Adam only when told to."""
    weight = getattr(solver, "smoothness_weight", "auto")
    return bool(solver.kind != "adam" if weight == "auto" else float(weight) > 0)


def parameters(cfg: ExtendGridConfig, shape: tuple[int, ...], intervals: int) -> int:
    size = KANSize(shape, intervals, cfg.model.degree, tuple(cfg.model.multiplication_nodes))
    return kan_parameters(size, edge_spec(cfg.model, cfg.solver.kind))


def extend(
    one: Extension, problem: LearningProblem, plan: Plan, seed: int
) -> Generator[Event, None, Trained]:
    """The events of a training along the schedule."""
    create = factory(one.cfg.model, problem, plan.solver)
    return train(create, problem.data, one.schedule.applied(plan), generator(seed, "training"))


def from_scratch(one: Extension, problem: LearningProblem, plan: Plan, seed: int) -> Trained:
    """The best by validation of `plan.starts` trainings on the one grid, none of them on a coarser one first.

    Its seconds are those of all of them. Raises TrainingFailed when none stays finite.
    """
    create, alone = (
        factory(one.cfg.model, problem, plan.solver),
        replace(one.schedule.applied(plan), starts=1),
    )
    tries: list[Trained] = []
    for number in range(plan.starts):
        try:
            tries.append(fit(create, problem.data, alone, generator(seed, f"start {number}")))
        except TrainingFailed:
            if not tries and number == plan.starts - 1:
                raise
    best = min(tries, key=lambda trained: trained.chosen.errors.selected)
    seconds = sum(trained.seconds for trained in tries)
    stage = replace(best.chosen, seconds=seconds)
    return replace(best, chosen=stage, stages=[stage], seconds=seconds)


def stage_rows(one: Extension, problem: LearningProblem, trained: Trained) -> Iterator[Row]:
    """One row per stage, the chosen one marked, with both thresholds of interpolation."""
    points = points_of(problem.dataset.train)
    size = baseline_error(problem.data)
    for stage in trained.stages:
        test = stage.errors.test
        above = (
            test is not None and not test <= ROUNDING * size
        )  # NaN is left for the claims to see
        assert stage.intervals is not None  # only KANs are trained here
        in_order = (
            one.marks["part"] == "order" and stage.intervals >= one.cfg.order_first_grid and above
        )
        before, after = stage.transfer.before, stage.transfer.after
        measured = {
            "test_root_median_square": root_median_square(stage, problem),
            "loss_jump": after / before if before else None,
            **_thresholds(one, stage.network.shape, points),
        }
        told = {"in_order": in_order, "chosen": stage is trained.chosen}
        yield Row("stages", {**one.marks, **stage_row(stage), **measured, **told})


def _thresholds(one: Extension, shape: tuple[int, ...], points: int) -> dict[str, Value]:
    """From which grid a network of this shape, which may be narrower than asked for, can reproduce the points."""
    edges = KANSize(shape, 1, 0).edges
    return {
        "threshold": threshold_intervals(lambda g: parameters(one.cfg, shape, g), points),
        "paper_threshold": threshold_intervals(lambda g: edges * g, points),
    }


def root_median_square(stage: Stage, problem: LearningProblem) -> float | None:
    """sqrt(median of the squared test residuals), in the user's units; the paper shows it beside the RMSE."""
    test, unit = problem.data.test, problem.data.unit
    if test is None:
        return None
    difference = predict(stage.network, test.x) - test.y
    return float((difference if unit is None else difference * unit).abs().median())


def published_rows(one: Extension, problem: LearningProblem, trained: Trained) -> Iterator[Row]:
    """Our test errors beside those that were published for the same setting, if any were; of the first schedule."""
    setting = problem.dataset.target.name, one.cfg.sampling.n_train, one.cfg.model.degree
    if not one.marks["compared"] or setting != PUBLISHED:
        return
    shape, errors = (
        "-".join(map(str, trained.network.shape)),
        {s.intervals: s.errors.test for s in trained.stages},
    )
    with resources.files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        for fact in csv.DictReader(file):
            intervals = int(fact["intervals"])
            if fact["shape"] == shape and intervals in errors:
                theirs = {
                    name: float(fact[name]) if fact[name] else None for name in ("paper", "pykan")
                }
                values = {"intervals": intervals, "test_rmse": errors[intervals], **theirs}
                yield Row(
                    "published",
                    {"schedule": one.marks["schedule"], "shape": one.marks["shape"], **values},
                )


def summary(one: Extension, problem: LearningProblem, trained: Trained) -> dict[str, Value]:
    """The grid that validation chose, and what it reached."""
    chosen = trained.chosen
    return {
        **one.marks,
        "intervals": chosen.intervals,
        "parameters": chosen.network.count(),
        "validation_rmse": chosen.errors.validation,
        "test_rmse": trained.errors.test,
        "relative_error": relative_error(trained.errors.reported, problem.dataset),
        "steps": sum(stage.steps for stage in trained.stages),
        "seconds": trained.seconds,
    }
