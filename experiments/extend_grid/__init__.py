"""Grid extension: a KAN is trained on finer and finer grids, each time from the previous grid.

Reproduces the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3) on exp(sin(pi x0) + x1^2): the
staircase of the loss, the error against the number of grid intervals G, and the training time.
The setting `parts` selects what is run:

- `schedules`: each schedule of the configuration, in which each grid starts from the one before;
  the best grid is chosen on validation points;
- `scratch`: each grid of the first schedule from random starts, with the same solver, number of
  starts and steps;
- `order`: grids for several degrees k, to compare the order of convergence with the theoretical
  G^-(k + 1);
- `overfit`: few points, exact and noisy, once with a penalty chosen on validation points, and once
  with neither penalty nor validation.

There are two differences from the paper: the solver is of second order, and there is a smoothness
penalty whose weight is chosen on validation points.

If the number of intervals is multiplied by an integer (*nested* grids), knot insertion keeps the
function exactly; otherwise it is transferred to the new grid by least squares. The published test
errors are those of exp(sin(pi x0) + x1^2) on [-1, 1]^2 with 1000 training points and k = 3, for
each number of grid intervals: Liu et al., arXiv 2404.19756, Figure 2.3 (LBFGS, 200 steps per grid),
and pykan 0.2.8 run with the same settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from kanrun.config import SOLVERS
from kanrun.config.rules import INCREASING, Count, NonEmpty
from kanrun.engine.networks.kan import size_of
from kanrun.engine.training import Event, Plan, Step, Trained, fit
from kanrun.engine.training.data import baseline_error
from kanrun.errors import TrainingFailed, UsageError
from kanrun.model.planning import LearningProblem, parameters_of
from kanrun.model.settings import KANConfig
from kanrun.model.trained import predicted_values
from kanrun.runs.records import Claim, Note, Records, Row, Value
from kanrun.study import Cell, Claims, Figures, Tables, with_cell
from kanrun.study.evaluation import model_of, stage_row, step_row, truncation_notes
from kanrun.study.recipe import Training, claims_by, summary_of, train_and_record
from kanrun.study.resources import generator, make_problem
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    median,
    minimum,
    refuse_unused,
    typed,
    value_range,
)

from .config import ExtendGridConfig

#: Target, number of training points and degree k of the results in `published.csv`. Results of
#: training runs that diverged or were not made are missing there.
PUBLISHED = "exp_sin_square", 1000, 3
#: Configuration groups whose settings a cell may change.
GROUPS = ("model", "sampling", "solver")
#: For each kind of schedule, the settings that may define its grids.
WAYS = {
    "list": ("intervals",),
    "doubling": ("first and last",),
    "plateau": ("intervals", "first and last"),
}


@dataclass
class Schedule:
    """A sequence of grids: listed in `intervals`, or doubled from `first` up to `last`.

    If doubling is not `nested`, a grid of G intervals is followed by one of 2 G + 1 intervals, with
    which it shares no inner breakpoints. Training moves to the next grid at the step limit, or
    earlier if steps hardly lower the loss. With `kind=plateau`, it also moves on when the
    validation error has not fallen for `patience` steps; the step limit is then `steps`, and the
    schedule ends after two successive grids without a lower error.
    """

    intervals: Annotated[NonEmpty[Count] | None, "grids of a schedule", INCREASING] = None
    kind: Annotated[Literal["list", "doubling", "plateau"], "what a schedule is"] = "list"
    first: Annotated[Count | None, "the first of grids that double"] = None
    last: Annotated[Count | None, "how far grids double"] = None
    nested: bool = True
    patience: Annotated[Count | None, "steps without a lower validation error; null is 2"] = None
    steps: Annotated[Count | None, "most steps on a grid of a plateau; null is 200"] = None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield a message for each conflict between settings. `at` is the prefix of their keys."""
        set_names = [
            name for name in ("intervals", "first", "last") if vars(self)[name] is not None
        ]
        if " and ".join(set_names) not in WAYS[self.kind]:
            yield f"{at}kind={self.kind} needs {' or '.join(WAYS[self.kind])}."
        if self.kind != "plateau" and (self.patience or self.steps):
            yield f"{at}kind={self.kind} has no patience and steps; they are for kind=plateau."
        if self.first and self.last and self.last < self.first:
            yield f"{at}last={self.last} is less than {at}first={self.first}; grids become finer."

    @property
    def grids(self) -> tuple[int, ...]:
        """Numbers of intervals of all grids, in the order of training."""
        grids = list(self.intervals or [self.first or 1])
        while self.last and (finer := 2 * grids[-1] + (not self.nested)) <= self.last:
            grids.append(finer)
        return tuple(grids)

    def applied(self, plan: Plan) -> Plan:
        """Return `plan` with the step limit and stopping rules of a plateau schedule.

        The plan is returned unchanged for other kinds.
        """
        if self.kind != "plateau":
            return plan
        patience = self.patience or 2
        steps = self.steps or 200
        return replace(plan, patience=patience, steps=steps, stop_early=True)

    @property
    def exact(self) -> bool:
        """True if each number of intervals divides the next, so that extensions are exact."""
        return all(fine % coarse == 0 for coarse, fine in itertools.pairwise(self.grids))

    @property
    def name(self) -> str:
        """Description for tables and figures, such as `doubling, nested`."""
        if len(self.grids) == 1:
            return f"G = {self.grids[0]} alone"
        return f"{self.kind}, {'nested' if self.exact else 'not nested'}"


def schedule_of(entry: Any) -> Schedule:
    """Convert an entry of the setting `schedules`. Raises UsageError if it is invalid."""
    return typed(Schedule(), entry, "schedules")


@dataclass(frozen=True)
class Extension:
    """A training run with grid extension, and the columns that its rows share.

    Attributes:
        training: The training.
        left_out: Numbers of intervals of the grids that are skipped, because a network on them
            would have more than `max_parameters` parameters.
        marks: Columns that all rows have in common.
    """

    training: Training
    left_out: list[int]
    marks: dict[str, Value]

    def step_rows(self, event: Event) -> Iterator[Row]:
        """Yield a row of `metrics` for each step of the training."""
        if isinstance(event, Step):
            yield Row("metrics", {**self.marks, **step_row(event)})


def prepare(cfg: ExtendGridConfig, cell: Cell, seed: int) -> Extension:
    """Prepare the training of a cell. Raises UsageError if the cell cannot be trained."""
    check_model_of(cfg)
    compared = cell["part"] == "schedules" and cell["schedule"] == cfg.schedules[0]
    cfg = replace(cfg, model=replace(cfg.model, hidden=cfg.shapes[0]))
    cfg = with_cell(cfg, {name: cell[name] for name in GROUPS if name in cell})
    problem = problem_of(cfg, cell, seed)
    schedule = schedule_of(cell["schedule"])
    sizes = {g: parameters_of(cfg.model, problem, cfg.solver.kind, (g,)) for g in schedule.grids}
    kept = [g for g, size in sizes.items() if size <= cfg.max_parameters]
    if not kept:
        raise UsageError(
            f"max_parameters={cfg.max_parameters} leaves no grid of {list(sizes)}; the first "
            f"has {min(sizes.values())}."
        )
    model = replace(cfg.model, intervals=kept)
    training = Training.of(model, cfg.solver, problem)
    marks: dict[str, Value] = {
        "part": cell["part"],
        "schedule": schedule.name,
        "start": "scratch" if len(sizes) == 1 else "warm",
        "shape": "-".join(map(str, problem.shape_of(model))),
        "degree": model.degree,
        "train_points": len(problem.data.everything),
        "noise": cfg.sampling.noise,
        "penalised": penalises(cfg.solver),
        "compared": compared,
    }
    training = replace(training, plan=schedule.applied(training.plan))
    return Extension(training, [g for g in sizes if g not in kept], marks)


def check_model_of(cfg: ExtendGridConfig) -> None:
    """Raise UsageError if the model has no grids, has degree 0, or has unused settings."""
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


def problem_of(cfg: ExtendGridConfig, cell: Cell, seed: int) -> LearningProblem:
    """Sample the target of a cell. Raises UsageError for too few points or no test points."""
    part = cell["part"]
    sampling = cfg.sampling
    try:
        problem = make_problem(cfg, cfg.target, sampling, seed)
    except UsageError as error:
        if "sampling" not in cell:
            raise
        raise UsageError(
            f"the part {part} trains on {sampling.n_train} points: {error} Change "
            f"{part}_points, or choose other parts, as parts=[schedules,scratch]."
        ) from error
    if problem.data.test is None:
        name = problem.dataset.target.name
        raise UsageError(
            f"{name} has no test points to judge grids by; sampling.n_test must be 1 or more."
        )
    return problem


def penalises(solver: Any) -> bool:
    """Return whether training runs with `solver` have a smoothness penalty.

    With the weight `auto`, all solvers have a penalty except first-order ones such as Adam.
    """
    weight = getattr(solver, "smoothness_weight", "auto")
    kind = SOLVERS[solver.kind]
    return kind.second_order or kind.curvature if weight == "auto" else float(weight) > 0


def from_scratch(extended: Extension, seed: int) -> Trained:
    """Train on a single grid from several random starts; return the best by validation error.

    The recorded seconds are the sum over all starts. Raises TrainingFailed if all starts diverge.
    """
    training = extended.training
    tries = list[Trained]()
    alone = replace(training.plan, starts=1, growth=None)
    for number in range(training.plan.starts):
        with suppress(TrainingFailed):
            draws = generator(seed, f"start {number}")
            tries.append(fit(training.create, training.problem.data, alone, draws))
    if not tries:
        raise TrainingFailed(f"none of {training.plan.starts} starts from scratch stays finite.")
    best = min(tries, key=lambda trained: trained.chosen.errors.selected)
    seconds = sum(trained.seconds for trained in tries)
    stage = replace(best.chosen, seconds=seconds)
    return replace(best, chosen=stage, stages=[stage], seconds=seconds)


def stage_rows(cfg: ExtendGridConfig, extended: Extension, trained: Trained) -> Iterator[Row]:
    """Yield a row of the table `stages` for each grid.

    If an error was published for the grid, also yield a row of the table `published`.
    """
    problem = extended.training.problem
    published = published_errors(extended)
    points = len(problem.dataset.train)
    # Test errors below this fraction of the target's standard deviation are considered rounding
    # errors, and are omitted when the order of convergence is fitted.
    fraction = 1e-10
    rounding = fraction * baseline_error(problem.data)
    test = problem.dataset.test
    for stage in trained.stages:
        # `problem_of` rejects targets without test points, and only KANs are trained here.
        assert test is not None
        assert stage.intervals is not None
        ordered = extended.marks["part"] == "order" and stage.intervals >= cfg.order_first_grid
        error = stage.errors.test
        transfer = stage.transfer
        network = stage.network
        distances = np.abs(predicted_values(model_of(network, problem), test.x) - test.y)
        edges = size_of(network).edges
        measured = {
            # The paper reports the median of the squared errors instead of their mean.
            "test_root_median_square": float(np.quantile(distances, 0.5, method="lower")),
            "loss_jump": transfer.after / transfer.before if transfer.before else None,
            # Smallest number of intervals with which a network of this shape has as many parameters
            # as there are points; each interval adds one coefficient per edge.
            "threshold": max(1, stage.intervals - (network.count() - points) // edges),
            "paper_threshold": -(-points // edges),
            # Written so that it is true for NaN; the claim about the order then fails.
            "in_order": ordered and error is not None and not error <= rounding,
            "chosen": stage is trained.chosen,
        }
        yield Row("stages", {**extended.marks, **stage_row(stage), **measured})
        if (known := published.get((network.shape_text, stage.intervals))) is not None:
            marks = {name: extended.marks[name] for name in ("schedule", "shape")}
            ours = {"intervals": stage.intervals, "test_rmse": error}
            yield Row("published", {**marks, **ours, **known})


def published_errors(extended: Extension) -> dict[Any, dict[str, Any]]:
    """Return the published errors by (shape, intervals).

    The result is empty unless the training has the first schedule and the problem is PUBLISHED,
    since other errors are not comparable.
    """
    name = extended.training.problem.dataset.target.name
    setting = name, extended.marks["train_points"], extended.marks["degree"]
    if not extended.marks["compared"] or setting != PUBLISHED:
        return {}
    table = pd.read_csv(str(resources.files(__package__) / "published.csv")).astype(object)
    facts: Any = table.where(table.notna(), None).set_index(["shape", "intervals"]).to_dict("index")
    return dict(facts)


#: The test error is said to turn up if its final value is at least this multiple of its lowest
#: value below the interpolation threshold.
OVERFITS = 2.0


def cells(cfg: ExtendGridConfig) -> list[Cell]:
    """Return the cells of every part, as differences from the configuration."""
    return [{"part": part, **cell} for part in cfg.parts for cell in _cells_of(cfg, part)]


def _cells_of(cfg: ExtendGridConfig, part: str) -> list[Cell]:
    def cell(intervals: list[int], **differences: Any) -> dict[str, Any]:
        return {**differences, "schedule": {"kind": "list", "intervals": intervals}}

    if part == "schedules":
        pairs = itertools.product(cfg.shapes, cfg.schedules)
        return [{"model": {"hidden": hidden}, "schedule": entry} for hidden, entry in pairs]
    if part == "scratch":
        grids = cfg.scratch_intervals or schedule_of(cfg.schedules[0]).grids
        return [cell([g], model={"hidden": hidden}) for hidden in cfg.shapes for g in grids]
    if part == "order":
        # The narrowest shape is used, because with a wider shape the solver also tries smaller
        # shapes, and then it does not try the penalty on every grid.
        narrowest = min(cfg.shapes, key=sum)
        sampling = {"n_train": cfg.order_points}
        models = ({"hidden": narrowest, "degree": k} for k in cfg.degrees)
        return [cell(cfg.order_intervals, model=model, sampling=sampling) for model in models]
    grids = cfg.overfit_intervals
    few_points = {"n_train": cfg.overfit_points}
    # Without a penalty, networks are selected by the training error alone.
    bare: dict[str, Any] = {
        "solver": {"smoothness_weight": 0.0},
        "sampling": {**few_points, "validation_fraction": 0.0},
    }
    both: list[dict[str, Any]] = (
        [{"sampling": few_points}, bare] if penalises(cfg.solver) else [bare]
    )
    noisy = [{**settings, "sampling": {**settings["sampling"], "noise": 0.01}} for settings in both]
    exact = [*(cell(grids, **settings) for settings in both), cell(grids[-1:], **bare)]
    return exact + [cell(grids, **settings) for settings in noisy]


def run(cfg: ExtendGridConfig, cell: Cell, seed: int, prepared: Extension | None = None) -> Records:
    """Train along one schedule. Yield a row per step, then the rows of stages and the summary."""
    extended = prepared or prepare(cfg, cell, seed)
    if extended.left_out:
        yield Note(
            f"max_parameters={cfg.max_parameters} leaves out the grids {extended.left_out}",
            warning=True,
        )
    if extended.marks["start"] == "scratch":
        trained = from_scratch(extended, seed)
        yield from truncation_notes(trained)
    else:
        trained = yield from train_and_record(extended.training, seed, extended.step_rows)
    yield from stage_rows(cfg, extended, trained)
    steps = sum(stage.steps for stage in trained.stages)
    columns = summary_of(extended.training.problem, trained)
    yield Row("summary", {**columns, **extended.marks, "steps": steps})


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from .plots import draw_parts

    yield from draw_parts(tables)


def claims(tables: Tables) -> Claims:
    """Yield the claims of the parts that were run.

    They are about the exactness of knot insertion, the order of convergence, overfitting with and
    without the penalty, and the time that warm starts save.
    """
    stages = tables["stages"]
    yield from exact_claims(stages)
    yield from order_claims(stages)
    yield from overfit_claims(stages)
    yield from warm_start_claims(stages)


def exact_claims(stages: pd.DataFrame) -> Claims:
    """Return the claims that knot insertion does not change the network's function.

    Networks that were overfitted on purpose have a claim of their own.
    """
    inserted = stages[stages["carried_by"] == "insertion"]
    # In overfitted networks, large edge functions of opposite signs nearly cancel, so rounding
    # errors are larger.
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    which = overfitted.map({False: "", True: " (networks overfitted on purpose)"})
    sentence = "A nested refinement changes the function by at most rounding, relative to its size"
    rows = inserted.assign(which=which).sort_values("which", kind="stable")
    # Largest accepted change of the function when knots are inserted, relative to the size of the
    # function. It is four digits above the rounding of float64.
    exact = 1e-12
    yield from claims_by(rows, sentence + "{which}", "function_change", exact, of="extensions")


def order_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    fits = exponents(ranged, ["shape", "degree", "seed"], "test_rmse")
    networks: Any = fits[fits["low"] < fits["high"]].groupby(["shape", "degree"])
    # Largest accepted difference between the fitted exponent and its theoretical value, -(k + 1)
    # (de Boor, A Practical Guide to Splines, ch. XII).
    tolerance = 0.3
    for (shape, degree), rows in networks:
        reach = f"G = {rows['low'].min()} to {rows['high'].max()}"
        network = f"k = {degree}: test RMSE of {_network(shape)}"
        sentence = f"{network} falls as G^-(k + 1) over {reach}"
        yield claim_near(sentence, rows["exponent"], -(int(degree) + 1), tolerance)


def _network(shape: Any) -> str:
    return f"[{str(shape).replace('-', ',')}]"


def overfit_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the test error rises past the interpolation threshold only without a penalty.

    There is one claim for each combination of exact or noisy points, with or without a penalty, and
    training the last grid from scratch or after warm starts. Without a penalty, the last grid is
    trained until it reproduces the points. After a warm start, the last grid has little left to
    learn, so the last steps are short and may hardly change the function between the points.
    """
    groups: Any = stages[stages["part"] == "overfit"].groupby(["noise", "penalised"])
    # The test error is said not to turn up if its final value is at most this multiple of its
    # lowest value below the interpolation threshold. Ratios between this and OVERFITS are within
    # the scatter of seeds and support neither claim.
    stays = 1.1
    for (noise, penalised), networks in groups:
        points = f"{100 * noise:.3g}% noise" if noise else "exact points"
        warm = networks[networks["start"] == "warm"]
        alone = networks[networks["start"] == "scratch"]
        # Training runs from scratch use only the finest grid, so the errors on coarser grids are
        # taken from the warm starts.
        both = pd.concat([warm[warm["intervals"] < warm["threshold"]], alone])
        for rows, way in ((both, "that grid from scratch"), (warm, "after warm starts")):
            if not len(ratios := overfit_ratio(rows)):
                continue
            left = rows[rows["intervals"] == rows["intervals"].max()]["train_rmse"].median()
            remarks = [value_range(ratios), f"training RMSE there {left:.2g}"]
            with_or, verb, claim, bound = (
                ("With", "does not turn up", claim_at_most, stays)
                if penalised
                else ("Without", "turns up", claim_at_least, OVERFITS)
            )
            sentence = (
                f"{with_or} the smoothness penalty, the test error {verb} past the threshold "
                f"({points}, {way}): final error over lowest before"
            )
            yield claim(sentence, median(ratios), bound, ", ".join(filter(None, remarks)))


def overfit_ratio(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's test RMSE on the finest grid, divided by its lowest on coarser grids.

    Of the coarser grids, only those below the interpolation threshold are used.
    """
    below = rows["intervals"] < rows["threshold"]
    lowest = rows[below].groupby("seed")["test_rmse"].agg(minimum)
    ends = rows[~below].sort_values("intervals").drop_duplicates("seed", keep="last")
    finest = ends.set_index("seed")["test_rmse"]
    return (finest / lowest)[lowest.index.intersection(finest.index)].astype(float)


def warm_start_claims(stages: pd.DataFrame) -> Claims:
    """Claim that extending grids takes less time than training the finest grid from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    extended = stages[(stages["part"] == "schedules") & stages["compared"]]
    both = scratch.merge(extended, on=["shape", "seed", "intervals"], suffixes=("", "_extended"))
    for shape, grids in both.groupby("shape", sort=False):
        finest = grids["intervals"].max()
        rows = grids[grids["intervals"] == finest].drop_duplicates("seed")
        # The ratio is infinite if training from scratch ends with more than OVERFITS times the
        # error of extended grids, and NaN if one of the errors is NaN.
        excess = rows["test_rmse"] - OVERFITS * rows["test_rmse_extended"]
        ratios = rows["seconds"] / rows["seconds_extended"]
        ratios = ratios.mask(excess > 0, np.inf).mask(excess.isna())
        measured = median(ratios)
        lost = int(np.isinf(ratios).sum())
        sentence = (
            f"{_network(shape)}: extending grids reaches the error at G = {finest} in fewer seconds"
        )
        never = f"never reached from scratch by {lost} of {len(ratios)} seeds"
        shown = never if np.isinf(measured) else measured
        bound = "seconds from scratch over seconds extended above 1"
        yield Claim(sentence, shown, bound, measured > 1, value_range(ratios))
