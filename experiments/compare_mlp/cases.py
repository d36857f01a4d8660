"""The networks of a comparison: settings, equal numbers of steps, results, and which one wins.

A case is a target on which several networks are compared. The verdict on two networks is the ratio
of their errors over seeds, with a confidence interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Steps
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from torch import Generator

from kanrun.config.rules import DISTINCT, MISSING, Count, NonEmpty, Positive, copied
from kanrun.engine.networks import Network
from kanrun.engine.training import Trained
from kanrun.errors import UsageError
from kanrun.model.planning import LearningProblem, factory, parameters_of
from kanrun.model.settings import KANConfig, MLPConfig
from kanrun.points import Array
from kanrun.runs.records import Claim, Record, Row, Value
from kanrun.study import Cell, with_cell
from kanrun.study.recipe import Training, summary_of, train_and_record
from kanrun.study.resources import generator, make_problem
from kanrun.study.suite import refuse_unused, typed

from .config import CompareMLPConfig

Model = KANConfig | MLPConfig
#: Probability with which the confidence interval contains the true ratio.
LEVEL = 0.95


@dataclass
class CaseSettings:
    """Settings of one case, an entry of the setting `cases`."""

    target: Annotated[dict[str, Any], "what is learned, such as {kind: named, name: product}"] = (
        MISSING
    )
    shapes: Annotated[NonEmpty[list[Count]], "hidden widths, one list per KAN", DISTINCT] = copied(
        [[]]
    )
    sampling: Annotated[dict[str, Any], "differences from sampling"] = copied({})
    bound: Annotated[Positive | None, "kolmogorov_arnold: the relative error to be reached"] = None


@dataclass(frozen=True)
class Case:
    """A sampled target on which networks are compared. `name` is distinct among all cases."""

    problem: LearningProblem
    cfg: CompareMLPConfig
    name: str


def cases_of(cfg: CompareMLPConfig) -> list[Any]:
    """Return the entries of the setting `cases`, or a single case if `target` is set instead.

    Raises UsageError if there are no cases, or if an entry is not a case.
    """
    refuse_unused(cfg.model, {"intervals": "grids=[[...]]"})
    if cfg.target is not None:
        shape = list(cfg.model.widths)
        return [asdict(CaseSettings(asdict(cfg.target), [shape]))]
    if not cfg.cases:
        raise UsageError(
            "cases=[] names nothing to learn; give a target, as target=product, or cases."
        )
    refuse_unused(cfg.model, {"hidden": "shapes of the cases, or with a target, as target=product"})
    return [asdict(typed(CaseSettings(), case, "cases")) for case in cfg.cases]


def case_of(cfg: CompareMLPConfig, case: Cell, seed: int) -> Case:
    """Return the case with its target sampled for `seed`.

    Raises UsageError if settings are invalid, if there are no test points, or if the outputs are
    constant.
    """
    settings = with_cell(cfg, {key: case[key] for key in ("target", "sampling") if case.get(key)})
    problem = make_problem(settings, settings.target, settings.sampling, seed)
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
    return Case(problem, settings, name)


def kan_settings(cfg: CompareMLPConfig, hidden: list[int], grid: list[int]) -> KANConfig:
    """Return the settings of the KAN with these hidden widths and the schedule of grids `grid`.

    Raises UsageError if `cfg.model` is not a KAN.
    """
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"compare-mlp compares KANs with MLPs; set model=kan, not {cfg.model.kind}."
        )
    return replace(cfg.model, hidden=hidden, intervals=grid)


def schedule_text(grid: Sequence[int]) -> str:
    """Return a schedule of grids as text, such as 5,10,20."""
    return ",".join(map(str, grid))


def kan_name(case: Case, model: KANConfig) -> str:
    """Return the name of a KAN in tables: its shape and its grids."""
    assert isinstance(model.intervals, list)  # `kan_settings` always sets a list
    return f"[{schedule_text(case.problem.shape_of(model))}] G = {schedule_text(model.intervals)}"


def kan_of(case: Case, model: KANConfig) -> Network:
    """Return an untrained KAN on the last grid of its schedule, for counting its size."""
    assert isinstance(model.intervals, list)  # an invariant of `kan_settings`
    model = replace(model, intervals=model.intervals[-1])
    return factory(model, case.problem)(generator(0, "size"))


def model_of(case: Case, cell: Cell) -> Model:
    """Return the settings of a cell's network: a KAN, or an MLP.

    An MLP has `depth` hidden layers of the same `width`. The widths of an MLP that is matched to a
    KAN are not yet determined and are all 1.
    """
    if "activation" in cell:
        return MLPConfig([cell.get("width", 1)] * cell["depth"], cell["activation"])
    # The default is the width 2 n + 1 of the Kolmogorov-Arnold theorem for n inputs.
    hidden = cell.get("hidden", [2 * case.problem.inputs + 1])
    return kan_settings(case.cfg, hidden, cell["grid"])


def steps_of(case: Case, model: KANConfig) -> int:
    """Return the largest number of steps of a KAN on all grids of its schedule.

    It includes the search for the weight of the penalty.
    """
    plan = training_of(case, model).plan
    sizes = (parameters_of(model, case.problem, plan.solver, (g,)) for g in plan.intervals)
    # Largest factor by which the search for the penalty's weight increases the number of
    # steps of a KAN. MLPs have no penalty, but may take as many steps as the KAN with this
    # search.
    search = 3
    return sum(map(plan.steps_for, sizes)) * (search if plan.weight is None else 1)


def training_of(case: Case, model: Model, steps: int | None = None) -> Training:
    """Return the training of a network. An MLP takes up to `steps` steps, without a penalty."""
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
    """Train an MLP for up to `steps` steps, or a KAN along its schedule of grids.

    Both have the same number of random starts. Validation may select a coarser grid, which makes
    the KAN smaller. If `begin` is given, it is applied to each new network before training.
    """
    training = training_of(case, model, steps)
    if begin is not None:
        create = training.create
        change = begin
        training = replace(training, create=lambda draws: change(create(draws), draws))
    return train_and_record(training, seed)


def result(case: Case, trained: Trained, **marks: Value) -> Row:
    """Return a row of the summary with the sizes, seconds and errors of a trained network.

    The column `error`, by which networks are compared, is the test cross-entropy for classes and
    otherwise the test RMSE. `marks` are further columns.
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


@dataclass(frozen=True)
class Verdict:
    """Ratio of two errors (geometric mean over seeds), with the ends of its confidence interval.

    With a single seed, the ends are NaN.
    """

    ratio: float
    low: float
    high: float
    seeds: int

    @property
    def above(self) -> bool:
        """True if the confidence interval lies above 1."""
        return self.low > 1

    @property
    def winner(self) -> str:
        """Which network wins, in words. The ratio must be the MLP's error over the KAN's."""
        if not np.isfinite([self.ratio, self.low]).all():
            return "undecided, an error is not finite" if self.seeds > 1 else "undecided"
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """Confidence interval in words."""
        if self.seeds < 2:
            return f"one seed has no {LEVEL:.0%} interval"
        return f"{LEVEL:.0%} interval {self.low:.3g} .. {self.high:.3g} over {self.seeds} seeds"

    def claim(self, sentence: str, bound: str, spread: str) -> Claim:
        """Return the claim `sentence`, which holds if the confidence interval lies above 1."""
        return Claim(sentence, self.ratio, bound, self.above, spread)


def judge(logs: Array) -> Verdict:
    """Return the verdict on ratios of errors, given their log10, shape (seeds, pairs).

    The logarithms are first averaged over the pairs of each seed, because pairs with the same seed
    share their data. The confidence interval is Student's t interval for the mean over seeds. It
    assumes that the logarithms are about normally distributed.
    """
    means = logs.mean(1)
    seeds = len(means)
    middle = means.mean()
    spread = means.std(ddof=1) if seeds > 1 else np.nan
    half = stdtrit(seeds - 1, (1 + LEVEL) / 2) * spread / seeds**0.5
    ratio, low, high = (float(10**end) for end in (middle, middle - half, middle + half))
    return Verdict(ratio, low, high, seeds)


def log_ratios(errors: pd.Series, others: pd.Series) -> Array:
    """Return log10 of `errors` / `others`, shape (seeds, pairs).

    Both are indexed by seed and pair. Seeds that lack some pair are left out. NaN is kept.
    """
    both = errors.index.intersection(others.index)
    smallest = np.finfo(float).tiny
    ratios: pd.Series = (errors[both] + smallest) / (others[both] + smallest)
    logs = ratios.map(np.log10)
    pairs = logs.groupby(level=0).transform("size")
    whole = logs[pairs == logs.index.get_level_values(1).nunique()]
    return np.asarray(whole.unstack(), dtype=np.float64)
