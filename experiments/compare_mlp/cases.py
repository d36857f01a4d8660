"""One network of a comparison: its settings from a case, its equal budget, and its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kanrun.config import CompareMLPConfig, FitConfig, KANConfig, MLPConfig
from kanrun.config.rules import MISSING, setting
from kanrun.engine.networks import Network
from kanrun.engine.networks.counting import KANSize, kan_parameters
from kanrun.engine.training import Plan, Trained, fit
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint, Record, Row, Value
from kanrun.study.build import (
    LearningProblem,
    check_model,
    edge_spec,
    factory,
    make_plan,
    make_problem,
    network_shape,
    refuse_unused,
)
from kanrun.study.checkpoints import slider_checkpoint
from kanrun.study.evaluation import relative_error, scores
from kanrun.study.resources import generator
from kanrun.study.suite import typed, with_cell

Cell = Mapping[str, Any]
#: Passes of which the fastest counts: noise only ever adds time.
PASSES = 9
#: Maximum number of steps on a grid with the search for the penalty's weight, over those without:
#: opponents may take as many.
SEARCH = 3


class ComparisonSubject(Protocol):
    """Subject of a comparison: its cells, a check of the settings, and the records of a cell."""

    def cells(self, cfg: CompareMLPConfig, /) -> list[dict[str, Any]]: ...

    def check(self, cfg: CompareMLPConfig, /) -> None: ...

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int, /) -> Iterator[Record]: ...


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
        shapes = [getattr(cfg.model, "hidden", None) or []]
        return [asdict(CaseSettings(asdict(cfg.target), shapes))]
    if not cfg.cases:
        raise UsageError(
            "cases=[] names nothing to learn; give a target, as target=product, or cases."
        )
    refuse_unused(cfg.model, {"hidden": "shapes of the cases, or with a target, as target=product"})
    return [asdict(typed(CaseSettings(), case, "cases")) for case in cfg.cases]


def case_of(cfg: CompareMLPConfig, case: Mapping[str, Any], seed: int) -> Case:
    """Return the case's target sampled for `seed`. Raises UsageError for invalid settings."""
    settings = _settings(cfg, case)
    problem = make_problem(settings, settings.target, settings.sampling, seed)
    name = problem.dataset.target.name
    if problem.data.test is None:
        raise UsageError(
            f"{name} has no test points, by which networks are compared; "
            "sampling.n_test must be 1 or more."
        )
    y = problem.data.train.y
    if (y == y[0]).all():
        raise UsageError(
            f"{name} is the same at all training points, so that there is nothing to compare."
        )
    return Case(problem, settings, name + _difference(cfg, case))


def _settings(cfg: CompareMLPConfig, case: Mapping[str, Any]) -> FitConfig:
    shared = {name: getattr(cfg, name) for name in ("seed", "precision", "device", "threads")}
    base = FitConfig(model=cfg.model, solver=cfg.solver, sampling=cfg.sampling, **shared)
    return with_cell(base, {key: case[key] for key in ("target", "sampling") if case.get(key)})


def _difference(cfg: CompareMLPConfig, case: Mapping[str, Any]) -> str:
    """Return the settings in which a case differs from others of its target, as (train 500)."""
    equal = [other for other in cases_of(cfg) if _target_name(other) == _target_name(case)]
    if len(equal) < 2:
        return ""
    own, *others = (
        {**asdict(one.target), **asdict(one.sampling)}
        for one in (_settings(cfg, each) for each in (case, *equal))
    )
    differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
    words = ", ".join(
        f"{key.removeprefix('n_')} {own[key]}" for key in differing if own[key] is not None
    )
    return f" ({words})" if words else ""


def _target_name(case: Mapping[str, Any]) -> str:
    """Return the target's name by its settings alone: no table is read for it."""
    target = case["target"]
    if "path" in target:
        return Path(str(target["path"])).name
    names = (target.get(key) for key in ("name", "formula", "id", "kind"))
    return str(next(filter(None, names), None))


def check_once(networks: Iterable[str]) -> None:
    """Raise UsageError for a network that is listed twice: its trainings would look the same."""
    twice = [network for network, times in Counter(networks).items() if times > 1]
    if twice:
        raise UsageError(f"{twice[0]} is listed twice; list each shape and grid of a case once.")


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


def last_grid(grid: Any) -> int:
    """Return the last number of intervals of a schedule, or the number itself."""
    return int(grid[-1]) if isinstance(grid, list) else int(grid)


def schedule_text(grid: Any) -> str:
    """Return the schedule as text, as 5,10,20."""
    return ",".join(map(str, grid)) if isinstance(grid, list) else str(grid)


def kan_of(case: Case, model: KANConfig) -> Network:
    """Return an untrained KAN on the last grid of its schedule, to count and to time."""
    model = replace(model, intervals=last_grid(model.intervals))
    return factory(model, case.problem)(generator(0, "size"))


def budget_of(case: Case, model: KANConfig) -> tuple[Plan, int]:
    """Return the KAN's plan and its steps on all grids, including the search for the penalty."""
    plan, _ = make_plan(model, case.settings.solver, case.problem)
    shape = network_shape(model, case.problem.inputs, case.problem.outputs)
    nodes, spec = tuple(model.multiplication_nodes), edge_spec(model, plan.solver)
    each = (
        plan.steps_for(kan_parameters(KANSize(shape, g, model.degree, nodes), spec))
        for g in plan.intervals
    )
    return replace(plan, select_width=False), sum(each) * (SEARCH if plan.weight is None else 1)


def train_kan(case: Case, model: KANConfig, seed: int) -> Trained:
    """Train along the schedule; validation may choose a coarser grid and thus a smaller KAN."""
    plan, _ = budget_of(case, model)
    create = factory(model, case.problem, plan.solver)
    return fit(create, case.problem.data, plan, generator(seed, "training"))


def train_mlp(case: Case, model: MLPConfig, steps: int, seed: int) -> Trained:
    """Train with the solver and starts of the KANs, for up to `steps` steps and without penalty."""
    plan, _ = make_plan(model, case.settings.solver, case.problem)
    plan = replace(plan, steps=steps, weight=0.0)
    return fit(factory(model, case.problem), case.problem.data, plan, generator(seed, "training"))


def result(case: Case, trained: Trained, marks: Mapping[str, Value]) -> Row:
    """Return the row of the summary: size by every measure, seconds, errors.

    Networks are compared by `error`: cross-entropy for classes, otherwise the RMSE.
    """
    network, errors = trained.network, trained.errors
    quality = scores(network, case.problem)
    entropy = quality.get("test_cross_entropy")
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
        "error": errors.test if "test_cross_entropy" not in quality else entropy,
        "error_name": "test RMSE" if "test_cross_entropy" not in quality else "test cross-entropy",
    }
    return Row("summary", {**marks, **values})


def page_network(case: Case, trained: Trained, grid: Any, seed: int) -> Iterator[Checkpoint]:
    """Yield the KAN for the run's page, where those of one case and shape share a slider."""
    shape = "-".join(map(str, trained.network.shape))
    named, title = (
        {f"G = {schedule_text(grid)}": trained.network},
        f"The KAN {shape} on {case.name}",
    )
    yield from slider_checkpoint(case.problem, named, "grid", title, seed)


def inference_seconds(network: nn.Module, x: Tensor) -> float:
    """Return the seconds of one pass over `x`, the fastest of several."""
    times = []
    with torch.no_grad():
        network(x)
        for _ in range(PASSES):
            start = perf_counter()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(perf_counter() - start)
    return min(times)
