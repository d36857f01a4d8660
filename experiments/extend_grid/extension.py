"""One training along a grid schedule: its settings from a cell, and the rows of its stages.

Refining to a multiple of a grid (*nested*) keeps the function exactly; any other grid is reached by
least squares. The published test errors are those of exp(sin(pi x0) + x1^2) on [-1, 1]^2, 1000
training points, k = 3, by number of grid intervals: Liu et al., arXiv 2404.19756, Figure 2.3
(LBFGS, 200 steps a grid), and pykan 0.2.8 run with the same recipe.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from typing import Any

import pandas as pd

from kanrun.config import SOLVERS, ExtendGridConfig, KANConfig, SamplingConfig
from kanrun.config.models import check_model
from kanrun.config.rules import setting
from kanrun.engine.networks.counting import KANSize, kan_parameters
from kanrun.engine.training import Event, Plan, Stage, Step, Trained, fit, predict
from kanrun.engine.training.data import baseline_error
from kanrun.errors import TrainingFailed, UsageError
from kanrun.runs.records import Row, Value
from kanrun.study.build import Create, LearningProblem, edge_spec, make_problem, refuse_unused
from kanrun.study.evaluation import points_of, relative_error, stage_row, step_row
from kanrun.study.resources import generator
from kanrun.study.suite import typed

#: The setting of `published.csv`; what diverged or was not run is left out there.
PUBLISHED = "exp_sin_square", 1000, 3
#: Settings of `sampling` that a cell may change.
SAMPLED = ("n_train", "validation_fraction", "noise")
#: Errors below this fraction of the target's standard deviation are rounding: no order is fitted.
ROUNDING = 1e-10
#: Patience and maximum number of steps on a grid of a plateau.
PATIENCE, STEPS = 2, 200
#: How the grids of each kind may be given.
_LISTED, _DOUBLED = "intervals", "first and last"
_WAYS = {"list": (_LISTED,), "doubling": (_DOUBLED,), "plateau": (_LISTED, _DOUBLED)}


@dataclass
class Schedule:
    """Grids as listed, or doubled from `first` to `last`; not nested: first, 2 first + 1, ...

    G and 2 G + 1 share none of their inner breakpoints. Training moves to the next grid at the step
    limit or if steps gain nothing. On a plateau it does so if the validation error has not fallen
    for `patience` steps, after at most `steps`; the schedule ends once two grids in a row gave no
    lower error.
    """

    intervals: list[int] | None = setting(
        None, "grids of a schedule", least=1, minimum=1, increasing=True
    )
    kind: str = setting("list", "what a schedule is", choices=tuple(_WAYS))
    first: int | None = setting(None, "the first of grids that double", minimum=1)
    last: int | None = setting(None, "how far grids double", minimum=1)
    nested: bool = True
    patience: int | None = setting(
        None, "steps without a lower validation error; null is 2", minimum=1
    )
    steps: int | None = setting(None, "most steps on a grid of a plateau; null is 200", minimum=1)

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield conflicts of grids given in two ways, and of patience without a plateau."""
        given = [one is not None for one in (self.intervals, self.first, self.last)]
        way = {_LISTED: [True, False, False], _DOUBLED: [False, True, True]}
        if all(given != way[name] for name in _WAYS[self.kind]):
            yield f"{at}kind={self.kind} needs {' or '.join(_WAYS[self.kind])}."
        if self.kind != "plateau" and (self.patience or self.steps):
            yield f"{at}kind={self.kind} has no patience and steps; they are for kind=plateau."
        if self.first and self.last and self.last < self.first:
            yield f"{at}last={self.last} is less than {at}first={self.first}; grids become finer."

    @property
    def grids(self) -> tuple[int, ...]:
        """Numbers of intervals, in the order of training."""
        grids = list(self.intervals or [self.first or 1])
        while self.last and (finer := 2 * grids[-1] + (not self.nested)) <= self.last:
            grids.append(finer)
        return tuple(grids)

    def applied(self, plan: Plan) -> Plan:
        """Return `plan` along this schedule."""
        plan = replace(plan, intervals=self.grids)
        if self.kind != "plateau":
            return plan
        patience, steps = self.patience or PATIENCE, self.steps or STEPS
        return replace(plan, patience=patience, steps=steps, stop_early=True)

    @property
    def exact(self) -> bool:
        """True if every grid divides the next, so that each extension can be exact."""
        return all(fine % coarse == 0 for coarse, fine in itertools.pairwise(self.grids))

    @property
    def name(self) -> str:
        """A few words for tables and figures, such as `doubling, nested`."""
        if len(self.grids) == 1:
            return f"G = {self.grids[0]} alone"
        return f"{self.kind}, {'nested' if self.exact else 'not nested'}"


def schedule_of(entry: Any) -> Schedule:
    """Return the schedule of an entry of `schedules`. Raises UsageError for invalid entries."""
    return typed(Schedule(), entry, "schedules")


@dataclass(frozen=True)
class Extension:
    """Settings of one training, its schedule, and the columns that its rows have in common."""

    cfg: ExtendGridConfig
    schedule: Schedule
    left_out: list[int]
    marks: dict[str, Value]

    def step_rows(self, event: Event) -> Iterator[Row]:
        """Yield a row of `metrics` for each step of the training."""
        if isinstance(event, Step):
            yield Row("metrics", {**self.marks, **step_row(event)})


def check_settings(cfg: ExtendGridConfig) -> None:
    """Raise UsageError for a model without grids or slopes, and for unused settings of it."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"extend-grid extends the grids of a KAN; model={cfg.model.kind} has none. "
            "Use model=kan."
        )
    refuse_unused(
        cfg.model,
        {"hidden": "shapes=[[...]]", "intervals": "schedules=[{kind: list, intervals: [...]}]"},
    )
    if cfg.model.degree < 1:
        raise UsageError(
            "model.degree: splines of degree 0 have no slope to learn by; use 1 or more."
        )


def extension(
    cfg: ExtendGridConfig, cell: Mapping[str, Any], inputs: int, outputs: int
) -> Extension:
    """Return the settings of a cell. Raises UsageError for an invalid schedule or model."""
    hidden, solver = list(cell.get("hidden", cfg.shapes[0])), cfg.solver
    degree = cell.get("degree", cfg.model.degree)
    compared = cell["part"] == "schedules" and cell["schedule"] == cfg.schedules[0]
    if not cell.get("penalised", True):
        solver = replace(solver, smoothness_weight=0.0)
    model = replace(cfg.model, hidden=hidden, degree=degree)
    cfg = replace(cfg, model=model, sampling=sampling_of(cfg, cell), solver=solver)
    whole, shape = schedule_of(cell["schedule"]), (inputs, *hidden, outputs)
    kept = [g for g in whole.grids if parameters(cfg, shape, g) <= cfg.max_parameters]
    if not kept:
        raise UsageError(
            f"max_parameters={cfg.max_parameters} leaves no grid of {list(whole.grids)}; the first "
            f"has {parameters(cfg, shape, whole.grids[0])}."
        )
    model.intervals = kept
    check_model(model, inputs)
    marks: dict[str, Value] = {
        "part": cell["part"],
        "schedule": whole.name,
        "start": "scratch" if len(whole.grids) == 1 else "warm",
        "shape": "-".join(map(str, shape)),
        "degree": degree,
        "train_points": cfg.sampling.n_train,
        "noise": cfg.sampling.noise,
        "penalised": penalises(solver),
        "compared": compared,
    }
    schedule = replace(whole, intervals=kept, first=None, last=None)
    return Extension(cfg, schedule, [g for g in whole.grids if g not in kept], marks)


def sampling_of(cfg: ExtendGridConfig, cell: Mapping[str, Any]) -> SamplingConfig:
    """Return the sampling with the cell's number of training points, validation and noise."""
    return replace(cfg.sampling, **{name: cell[name] for name in SAMPLED if name in cell})


def problem_of(cfg: ExtendGridConfig, cell: Mapping[str, Any], seed: int) -> LearningProblem:
    """Return the target, sampled for a cell. Raises UsageError for too few or no test points."""
    try:
        problem = make_problem(cfg, cfg.target, sampling_of(cfg, cell), seed)
    except UsageError as error:
        if "n_train" not in cell:
            raise
        raise UsageError(
            f"the part {cell['part']} trains on {cell['n_train']} points: {error} Change "
            f"{cell['part']}_points, or choose other parts, as parts=[schedules,scratch]."
        ) from error
    if problem.data.test is None:
        name = problem.dataset.target.name
        raise UsageError(
            f"{name} has no test points to judge grids by; sampling.n_test must be 1 or more."
        )
    return problem


def penalises(solver: Any) -> bool:
    """Return whether trainings are smoothed: without a weight, not those of Adam."""
    weight, kind = getattr(solver, "smoothness_weight", "auto"), SOLVERS[solver.kind]
    return kind.second_order or kind.curvature if weight == "auto" else float(weight) > 0


def root_median_square(stage: Stage, problem: LearningProblem) -> float:
    """Return the root of the median squared test residual, in the user's units, as the paper."""
    test, unit = problem.data.test, problem.data.unit
    assert test is not None  # `problem_of` rejects targets without
    difference = predict(stage.network, test.x) - test.y
    return float((difference if unit is None else difference * unit).abs().median())


def parameters(cfg: ExtendGridConfig, shape: tuple[int, ...], intervals: int) -> int:
    """Return the number of parameters of a KAN of the model's kind."""
    size = KANSize(shape, intervals, cfg.model.degree, tuple(cfg.model.multiplication_nodes))
    return kan_parameters(size, edge_spec(cfg.model, cfg.solver.kind))


def threshold_intervals(parameters_of: Callable[[int], int], points: int) -> int:
    """Return the smallest G for which a network can interpolate the points.

    `parameters_of` G is linear.
    """
    first, second = parameters_of(1), parameters_of(2)
    return 1 + max(0, -(-(points - first) // (second - first)))


def from_scratch(create: Create, problem: LearningProblem, plan: Plan, seed: int) -> Trained:
    """Return the best of `plan.starts` trainings on one grid, by validation error.

    Its seconds are those of all of them. Raises TrainingFailed if none stays finite.
    """
    alone, tries = replace(plan, starts=1, growth=None), list[Trained]()
    for number in range(plan.starts):
        with suppress(TrainingFailed):
            tries.append(fit(create, problem.data, alone, generator(seed, f"start {number}")))
    if not tries:
        raise TrainingFailed(f"none of {plan.starts} starts from scratch stays finite.")
    best = min(tries, key=lambda trained: trained.chosen.errors.selected)
    seconds = sum(trained.seconds for trained in tries)
    stage = replace(best.chosen, seconds=seconds)
    return replace(best, chosen=stage, stages=[stage], seconds=seconds)


def stage_rows(one: Extension, problem: LearningProblem, trained: Trained) -> Iterator[Row]:
    """Yield one row per stage, the chosen one marked, with both thresholds of interpolation."""
    points, rounding = points_of(problem.dataset.train), ROUNDING * baseline_error(problem.data)
    for stage in trained.stages:
        assert stage.intervals is not None  # only KANs are trained here
        ordered = one.marks["part"] == "order" and stage.intervals >= one.cfg.order_first_grid
        test, shape, transfer = stage.errors.test, stage.network.shape, stage.transfer
        measured = {
            "test_root_median_square": root_median_square(stage, problem),
            "loss_jump": transfer.after / transfer.before if transfer.before else None,
            # The grid from which a network of this (possibly narrower) shape can interpolate the
            # points.
            "threshold": threshold_intervals(partial(parameters, one.cfg, shape), points),
            "paper_threshold": -(-points // KANSize(shape, 1, 0).edges),
            # NaN is left for the claims to see.
            "in_order": ordered and test is not None and not test <= rounding,
            "chosen": stage is trained.chosen,
        }
        yield Row("stages", {**one.marks, **stage_row(stage), **measured})


def published_rows(one: Extension, problem: LearningProblem, trained: Trained) -> Iterator[Row]:
    """Yield test errors next to those published for the same setting, for the first schedule."""
    setting = problem.dataset.target.name, one.cfg.sampling.n_train, one.cfg.model.degree
    if not one.marks["compared"] or setting != PUBLISHED:
        return
    marks = {name: one.marks[name] for name in ("schedule", "shape")}
    table = pd.read_csv(str(resources.files(__package__) / "published.csv")).astype(object)
    facts: Any = table.where(table.notna(), None).set_index(["shape", "intervals"]).to_dict("index")
    shape = "-".join(map(str, trained.network.shape))
    for stage in trained.stages:
        if (known := facts.get((shape, stage.intervals))) is not None:
            values = {"intervals": stage.intervals, "test_rmse": stage.errors.test}
            yield Row("published", {**marks, **values, **known})


def summary(one: Extension, problem: LearningProblem, trained: Trained) -> dict[str, Value]:
    """Return the grid that validation chose, and its errors."""
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
