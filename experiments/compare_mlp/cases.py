"""One network of a comparison: its settings from a case, its equal budget, and its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Steps
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Generator

from kanrun.config.rules import DISTINCT, MISSING, Count, Positive, copied
from kanrun.engine.networks import Network
from kanrun.engine.training import Trained
from kanrun.errors import UsageError
from kanrun.model.planning import LearningProblem, factory, parameters_of
from kanrun.model.settings import KANConfig, MLPConfig, widths_of
from kanrun.runs.records import Record, Row, Value
from kanrun.study import Cell, with_cell
from kanrun.study.recipe import Training, summary_of, train_and_record
from kanrun.study.resources import generator, make_problem
from kanrun.study.suite import refuse_unused, typed

from .config import CompareMLPConfig

Model = KANConfig | MLPConfig
#: Largest number of steps on a grid with the search for the penalty's weight, divided by the steps
#: without it. MLPs may take as many.
SEARCH = 3


@dataclass
class CaseSettings:
    """Settings of one case, an entry of the setting `cases`."""

    target: Annotated[dict[str, Any], "what is learned, such as {kind: named, name: product}"] = (
        MISSING
    )
    shapes: Annotated[
        list[list[Count]], Meta(min_length=1), "hidden widths, one list per KAN", DISTINCT
    ] = copied([[]])
    sampling: Annotated[dict[str, Any], "differences from sampling"] = copied({})
    bound: Annotated[Positive | None, "kolmogorov_arnold: the relative error to be reached"] = None


@dataclass(frozen=True)
class Case:
    """A target that networks are compared on; `name` distinguishes it from the other cases."""

    problem: LearningProblem
    cfg: CompareMLPConfig
    name: str


def cases_of(cfg: CompareMLPConfig) -> list[Any]:
    """Return the cases that are listed, or the one target that is given in their place.

    Raises UsageError if there is none, and for an entry that is not a case.
    """
    refuse_unused(cfg.model, {"intervals": "grids=[[...]]"})
    if cfg.target is not None:
        shape = list(widths_of(getattr(cfg.model, "hidden", ())))
        return [asdict(CaseSettings(asdict(cfg.target), [shape]))]
    if not cfg.cases:
        raise UsageError(
            "cases=[] names nothing to learn; give a target, as target=product, or cases."
        )
    refuse_unused(cfg.model, {"hidden": "shapes of the cases, or with a target, as target=product"})
    return [asdict(typed(CaseSettings(), case, "cases")) for case in cfg.cases]


def case_of(cfg: CompareMLPConfig, case: Cell, seed: int) -> Case:
    """Return the case's target sampled for `seed`. Raises UsageError for invalid settings."""
    own = with_cell(cfg, {key: case[key] for key in ("target", "sampling") if case.get(key)})
    problem = make_problem(own, own.target, own.sampling, seed)
    name = problem.dataset.target.name
    y = problem.data.train.y
    if problem.data.test is None:
        raise UsageError(
            f"{name} has no test points, by which networks are compared; "
            "sampling.n_test must be 1 or more."
        )
    if (y == y[0]).all():
        raise UsageError(
            f"{name} is the same at all training points, so that there is nothing to compare."
        )
    return Case(problem, own, name)


def kan_settings(cfg: CompareMLPConfig, hidden: list[int], grid: list[int]) -> KANConfig:
    """Return the KAN with these hidden widths, trained along the schedule `grid`."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"compare-mlp compares KANs with MLPs; model={cfg.model.kind} is none, use model=kan."
        )
    return replace(cfg.model, hidden=hidden, intervals=grid)


def schedule_text(grid: Sequence[int]) -> str:
    """Return a schedule of grids as text, such as 5,10,20."""
    return ",".join(map(str, grid))


def kan_name(case: Case, model: KANConfig) -> str:
    """Return the name of a KAN in tables: its shape and its grids."""
    assert isinstance(model.intervals, list)  # an invariant of `kan_settings`
    return f"[{schedule_text(case.problem.shape_of(model))}] G = {schedule_text(model.intervals)}"


def kan_of(case: Case, model: KANConfig) -> Network:
    """Return an untrained KAN on the last grid of its schedule, to count and to time."""
    assert isinstance(model.intervals, list)  # an invariant of `kan_settings`
    model = replace(model, intervals=model.intervals[-1])
    return factory(model, case.problem)(generator(0, "size"))


def model_of(case: Case, cell: Cell) -> Model:
    """Return the network of a cell: a KAN, or an MLP, before its widths are matched to a KAN."""
    if "activation" in cell:
        return MLPConfig(cell.get("hidden", [1] * cell.get("depth", 0)), cell["activation"])
    # Without widths, those of the theorem of Kolmogorov and Arnold.
    hidden = cell.get("hidden", [2 * case.problem.inputs + 1])
    return kan_settings(case.cfg, hidden, cell["grid"])


def steps_of(case: Case, model: KANConfig) -> int:
    """Return the steps of a KAN on all grids, including the search for the penalty's weight."""
    plan = training_of(case, model).plan
    sizes = (parameters_of(model, case.problem, plan.solver, (g,)) for g in plan.intervals)
    return sum(map(plan.steps_for, sizes)) * (SEARCH if plan.weight is None else 1)


def training_of(case: Case, model: Model, steps: int | None = None) -> Training:
    """Return the training of a network: an MLP takes up to `steps` steps, without a penalty."""
    is_kan = isinstance(model, KANConfig)
    changes: dict[str, Any] = {"growth": None} if is_kan else {"steps": steps, "weight": 0.0}
    return Training.of(model, case.cfg.solver, case.problem, **changes)


def train(
    case: Case,
    model: Model,
    seed: int,
    steps: int | None = None,
    begin: Callable[[Network, Generator], Network] | None = None,
) -> Steps[Record, None, Trained]:
    """Train an MLP for up to `steps` steps, or a KAN along its schedule; starts are the same.

    Validation may choose a coarser grid and thus a smaller KAN. `begin` may change fresh networks.
    """
    training = training_of(case, model, steps)
    if begin is not None:
        create = training.create
        change = begin
        training = replace(training, create=lambda draws: change(create(draws), draws))
    return train_and_record(training, seed)


def result(case: Case, trained: Trained, **marks: Value) -> Row:
    """Return the row of the summary: size by every measure, seconds, errors.

    Networks are compared by `error`: cross-entropy for classes, otherwise the RMSE.
    """
    columns = summary_of(case.problem, trained)
    classes = case.problem.data.task == "classification"
    values: dict[str, Value] = {
        **columns,
        "target": case.name,
        **trained.network.flops(),
        "error": columns["test_cross_entropy" if classes else "test_rmse"],
        "error_name": "test cross-entropy" if classes else "test RMSE",
    }
    return Row("summary", {"comparison": case.cfg.comparison, **marks, **values})
