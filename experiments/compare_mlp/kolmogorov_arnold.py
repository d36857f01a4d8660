"""The shape of the Kolmogorov-Arnold theorem, [n, 2n + 1, 1], on continuous functions of n variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from kanrun.experiments.compare_mlp import matched_run

from kanrun.config import CompareMLPConfig
from kanrun.runs import Claim
from kanrun.runs.records import Record, Value
from kanrun.study.statistics import median, value_range

Cell = Mapping[str, Any]


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Each target along each grid schedule."""
    return [
        {"case": case, "grid": grid} for case in matched_run.cases_of(cfg) for grid in cfg.grids
    ]


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for what cannot be trained."""
    networks = []
    for cell in cells(cfg):
        case = matched_run.case_of(cfg, cell["case"], cfg.seed)
        matched_run.budget_of(case, matched_run.kan_settings(cfg, _hidden(case), cell["grid"]))
        networks.append(f"{case.name} with G = {matched_run.words_of(cell['grid'])}")
    matched_run.check_once(networks)


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train the theorem's shape on one function."""
    case = matched_run.case_of(cfg, cell["case"], seed)
    model = matched_run.kan_settings(cfg, _hidden(case), cell["grid"])
    trained = matched_run.train_kan(case, model, seed)
    marks: dict[str, Value] = {
        "comparison": cfg.comparison,
        "activation": model.base,
        "bound": cell["case"]["bound"],
    }
    yield matched_run.result(case, trained, {**marks, "grid": matched_run.words_of(cell["grid"])})
    if seed == cfg.seed:
        yield from matched_run.page_network(case, trained, cell["grid"], seed)


def _hidden(case: matched_run.Case) -> list[int]:
    return [2 * case.problem.inputs + 1]


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """The relative test RMSE stays within what the case states, where it states something."""
    found = []
    summary = tables["summary"]
    several = summary["grid"].nunique() > 1
    groups: Any = summary[summary["bound"].notna()].groupby(["target", "grid"], sort=False)
    for (target, grid), rows in groups:
        measured, bound = median(rows["relative_error"]), float(rows["bound"].iloc[0])
        shape = str(rows["shape"].iloc[0]).replace("-", ",")
        along = f" with G = {grid}" if several else ""
        sentence = f"[{shape}] fits {target}{along}: test RMSE over the target's deviation"
        found.append(
            Claim(
                sentence,
                measured,
                f"at most {bound:g}",
                measured <= bound,
                value_range(rows["relative_error"]),
            )
        )
    return found
