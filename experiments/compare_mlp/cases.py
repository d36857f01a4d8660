"""One network of a comparison: its settings from a case, its equal budget, and its row.

`NetworkComparison` is what all comparisons have in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor, nn

from kanrun.config import CompareMLPConfig, FitConfig, KANConfig, MLPConfig
from kanrun.config.models import check_model, widths_of
from kanrun.config.rules import MISSING, setting
from kanrun.engine.networks import Network
from kanrun.engine.training import Plan, Trained, fit
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint, Record, Row, Value
from kanrun.study.build import (
    LearningProblem,
    factory,
    make_plan,
    make_problem,
    network_shape,
    parameters_of,
    refuse_unused,
)
from kanrun.study.evaluation import relative_error, scores
from kanrun.study.resources import generator
from kanrun.study.saved import slider_checkpoint
from kanrun.study.suite import typed, with_cell

Cell = Mapping[str, Any]
Model = KANConfig | MLPConfig
#: Passes of which the fastest counts: noise only ever adds time.
PASSES = 9
#: Maximum number of steps on a grid with the search for the penalty's weight, over those without:
#: opponents may take as many.
SEARCH = 3


@dataclass
class CaseSettings:
    """An entry of `cases`."""

    target: dict[str, Any] = setting(
        MISSING, "what is learned, such as {kind: named, name: product}"
    )
    shapes: list[list[int]] = setting([[]], "hidden widths, one list per KAN", least=1, minimum=1)
    sampling: dict[str, Any] = setting({}, "differences from sampling")
    bound: float | None = setting(
        None, "kolmogorov_arnold: the relative error to be reached", above=0
    )


@dataclass(frozen=True)
class Case:
    """A target that networks are compared on; `name` distinguishes it from the other cases."""

    problem: LearningProblem
    settings: FitConfig
    name: str


def cases_of(cfg: CompareMLPConfig) -> list[Any]:
    """Return the cases that are listed, or the one target that is given in their place.

    Raises UsageError if there is none, and for an entry that is not a case.
    """
    refuse_unused(cfg.model, {"intervals": "grids=[[...]]"})
    if cfg.target is not None:
        shape = list(widths_of(getattr(cfg.model, "hidden", None)))
        return [asdict(CaseSettings(asdict(cfg.target), [shape]))]
    if not cfg.cases:
        raise UsageError(
            "cases=[] names nothing to learn; give a target, as target=product, or cases."
        )
    refuse_unused(cfg.model, {"hidden": "shapes of the cases, or with a target, as target=product"})
    return [asdict(typed(CaseSettings(), case, "cases")) for case in cfg.cases]


def case_of(cfg: CompareMLPConfig, case: Mapping[str, Any], seed: int) -> Case:
    """Return the case's target sampled for `seed`. Raises UsageError for invalid settings."""
    shared = {name: getattr(cfg, name) for name in ("seed", "precision", "device", "threads")}
    base = FitConfig(model=cfg.model, solver=cfg.solver, sampling=cfg.sampling, **shared)
    given = {key: case[key] for key in ("target", "sampling") if case.get(key)}
    settings = with_cell(base, given)
    problem = make_problem(settings, settings.target, settings.sampling, seed)
    name, y = problem.dataset.target.name, problem.data.train.y
    if problem.data.test is None:
        raise UsageError(
            f"{name} has no test points, by which networks are compared; "
            "sampling.n_test must be 1 or more."
        )
    if (y == y[0]).all():
        raise UsageError(
            f"{name} is the same at all training points, so that there is nothing to compare."
        )
    return Case(problem, settings, name + _difference(cfg, case))


def _difference(cfg: CompareMLPConfig, case: Mapping[str, Any]) -> str:
    """Return the settings in which a case differs from others of its target, as (train 500)."""

    def named(one: Mapping[str, Any]) -> str:
        target = one["target"]
        names = (target.get(key) for key in ("name", "formula", "id", "kind"))
        return Path(str(target.get("path", ""))).name or str(next(filter(None, names), None))

    def given(one: Mapping[str, Any]) -> dict[str, Any]:
        return {**one["target"], **(one.get("sampling") or {})}

    others = [given(other) for other in cases_of(cfg) if named(other) == named(case)]
    words = ", ".join(
        f"{key.removeprefix('n_')} {value}"
        for key, value in given(case).items()
        if value is not None and any(other.get(key) != value for other in others)
    )
    return f" ({words})" if words else ""


def kan_settings(cfg: CompareMLPConfig, hidden: list[int], grid: Any) -> KANConfig:
    """Return the KAN with these hidden widths, trained along `grid`: a number or a schedule."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"compare-mlp compares KANs with MLPs; model={cfg.model.kind} is none, use model=kan."
        )
    model = replace(cfg.model, hidden=hidden, intervals=grid)
    try:
        check_model(model, 1)
    except UsageError as error:
        raise UsageError(str(error).replace("model.intervals=", "the entry of grids ")) from error
    return model


def schedule_of(grid: Any) -> list[int]:
    """Return the schedule of an entry of `grids`, which may be a single number."""
    return list(grid) if isinstance(grid, list) else [grid]


def schedule_text(grid: Any) -> str:
    """Return the schedule as text, as 5,10,20."""
    return ",".join(map(str, schedule_of(grid)))


def kan_of(case: Case, model: KANConfig) -> Network:
    """Return an untrained KAN on the last grid of its schedule, to count and to time."""
    model = replace(model, intervals=schedule_of(model.intervals)[-1])
    return factory(model, case.problem)(generator(0, "size"))


def steps_of(case: Case, model: KANConfig) -> int:
    """Return the steps of a KAN on all grids, including the search for the penalty's weight."""
    plan = plan_of(case, model)
    each = (
        plan.steps_for(parameters_of(model, case.problem, plan.solver, (g,)))
        for g in plan.intervals
    )
    return sum(each) * (SEARCH if plan.weight is None else 1)


def plan_of(case: Case, model: Model, steps: int | None = None) -> Plan:
    """Return the plan of a network: an MLP takes up to `steps` steps, without a penalty."""
    plan, _ = make_plan(model, case.settings.solver, case.problem)
    if isinstance(model, KANConfig):
        return replace(plan, growth=None)
    return replace(plan, steps=steps, weight=0.0)


def unchanged(fresh: Network, _: Generator) -> Network:
    """Return a fresh network as it is."""
    return fresh


def train(
    case: Case,
    model: Model,
    seed: int,
    steps: int | None = None,
    begin: Callable[[Network, Generator], Network] = unchanged,
) -> Trained:
    """Train an MLP for up to `steps` steps, or a KAN along its schedule; starts are the same.

    Validation may choose a coarser grid and thus a smaller KAN. `begin` may change fresh networks.
    """
    plan, data = plan_of(case, model, steps), case.problem.data
    create = factory(model, case.problem, plan.solver)
    return fit(lambda draws: begin(create(draws), draws), data, plan, generator(seed, "training"))


def result(cfg: CompareMLPConfig, case: Case, trained: Trained, **marks: Value) -> Row:
    """Return the row of the summary: size by every measure, seconds, errors.

    Networks are compared by `error`: cross-entropy for classes, otherwise the RMSE.
    """
    network, errors = trained.network, trained.errors
    quality = scores(network, case.problem)
    entropy = quality.get("test_cross_entropy")
    classes = case.problem.data.task == "classification"
    values: dict[str, Value] = {
        "target": case.name,
        "model": network.kind,
        "shape": "-".join(map(str, network.shape)),
        "intervals": network.intervals,
        "parameters": network.count(),
        **network.flops(),
        "seconds": trained.seconds,
        "inference_seconds": inference_seconds(network, case.problem.data.train.x),
        "train_rmse": errors.train,
        "validation_rmse": errors.validation,
        "test_rmse": errors.test,
        "relative_error": relative_error(errors.reported, case.problem.dataset),
        "test_accuracy": quality.get("test_accuracy"),
        "test_cross_entropy": entropy,
        "error": entropy if classes else errors.test,
        "error_name": "test cross-entropy" if classes else "test RMSE",
    }
    return Row("summary", {"comparison": cfg.comparison, **marks, **values})


def page_network(case: Case, trained: Trained, grid: Any, seed: int) -> Iterator[Checkpoint]:
    """Yield the KAN for the run's page, where those of one case and shape share a slider."""
    title = f"The KAN {'-'.join(map(str, trained.network.shape))} on {case.name}"
    named = {f"G = {schedule_text(grid)}": trained.network}
    yield from slider_checkpoint(case.problem, named, "grid", title, seed)


def inference_seconds(network: nn.Module, x: Tensor) -> float:
    """Return the seconds of one pass over `x`, the fastest of several."""
    times = []
    with torch.no_grad():
        for _ in range(1 + PASSES):
            start = perf_counter()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(perf_counter() - start)
    return min(times)


class NetworkComparison(ABC):
    """A comparison: its cells, the network that each cell trains, and the records of a cell."""

    @abstractmethod
    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network, with its `case`; a cell without one trains none."""

    def refuse(self, cfg: CompareMLPConfig) -> None:  # noqa: B027 (most refuse nothing)
        """Raise UsageError for settings that only this comparison cannot use."""

    def model(self, cfg: CompareMLPConfig, case: Case, cell: Cell) -> Model:
        """Return the settings of the cell's network."""
        return MLPConfig(list(cell["hidden"]), cell["activation"])

    def check(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for what cannot be trained, and for a KAN that is listed twice."""
        self.refuse(cfg)
        names = set[str]()
        for cell in self.cells(cfg):
            if "case" not in cell:
                continue
            case = case_of(cfg, cell["case"], cfg.seed)
            model = self.model(cfg, case, cell)
            plan_of(case, model)
            if isinstance(model, KANConfig):
                variant = f" {cell['variant']}" if "variant" in cell else ""
                name = f"{case.name}: the KAN {kan_name(case, model, cfg)}{variant}"
                if name in names:
                    raise UsageError(
                        f"{name} is listed twice; list each shape and grid of a case once."
                    )
                names.add(name)

    @abstractmethod
    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train the network of a cell and yield its records."""


def kan_name(case: Case, model: KANConfig, cfg: CompareMLPConfig) -> str:
    """Return a KAN's shape and last grid; all its grids if another of `grids` ends on that one."""
    shape = network_shape(model, case.problem.inputs, case.problem.outputs)
    last = schedule_of(model.intervals)[-1:]
    unique = [schedule_of(other)[-1:] for other in cfg.grids].count(last) == 1
    grid = last[0] if unique else schedule_text(model.intervals)
    return f"[{','.join(map(str, shape))}] G = {grid}"
