"""The shape of the Kolmogorov-Arnold theorem, [n, 2n + 1, 1], on continuous functions of n variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from kanrun.config import CompareMLPConfig
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record, Value
from kanrun.study.compare import contest
from kanrun.study.measured import middle, spread

Cell = Mapping[str, Any]


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Each target along each grid schedule."""
    return [{"case": case, "grid": grid} for case in contest.cases_of(cfg) for grid in cfg.grids]


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for what cannot be trained, and for an error to be reached that is none."""
    for cell in cells(cfg):
        case = contest.case_of(cfg, cell["case"], cfg.seed)
        if not isinstance(cell["case"].get("bound", 1.0), int | float):
            raise UsageError(f"bound of the case {case.name} must be a number, the relative error to be reached.")
        contest.budget_of(case, contest.kan_settings(cfg, _hidden(case), cell["grid"]))


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train the theorem's shape on one function."""
    case = contest.case_of(cfg, cell["case"], seed)
    model = contest.kan_settings(cfg, _hidden(case), cell["grid"])
    trained = contest.train_kan(case, model, seed)
    bound = cell["case"].get("bound")
    marks: dict[str, Value] = {"comparison": cfg.comparison, "activation": model.base, "bound": bound}
    yield contest.result(case, trained, marks)


def _hidden(case: contest.Case) -> list[int]:
    return [2 * case.problem.inputs + 1]


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """The relative test RMSE stays within what the case states, where it states something."""
    found = []
    summary = tables["summary"]
    groups: Any = summary[summary["bound"].notna()].groupby("target", sort=False)
    for target, rows in groups:
        measured, bound = middle(rows["relative_error"]), float(rows["bound"].iloc[0])
        shape = str(rows["shape"].iloc[0]).replace("-", ",")
        sentence = f"[{shape}] fits {target}: test RMSE over the target's deviation"
        found.append(Claim(sentence, measured, f"<= {bound:g}", measured <= bound, spread(rows["relative_error"])))
    return found
