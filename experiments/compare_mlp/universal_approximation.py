"""How wide one hidden layer must be for a given error: the universal approximation theorem, measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from kanrun.experiments.compare_mlp import matched_run

from kanrun.config import CompareMLPConfig, MLPConfig
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record, Row
from kanrun.study.build import make_plan

Cell = Mapping[str, Any]
#: Most solver steps of each network: the theorem is about the best weights, not about those found soon.
STEPS = 300


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Every width of every activation on every target."""
    return [
        {"case": case, "activation": activation, "width": width}
        for case in matched_run.cases_of(cfg)
        for activation in cfg.activations
        for width in cfg.widths
    ]


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError where nothing could be found out."""
    if not cfg.errors:
        raise UsageError(
            f"errors={cfg.errors} must list relative errors to be reached, such as [0.1, 0.01]."
        )
    if not cfg.widths:
        raise UsageError("widths=[] names no width; give some, such as widths=[1,2,4,8,16].")
    for cell in cells(cfg):
        case = matched_run.case_of(cfg, cell["case"], cfg.seed)
        make_plan(
            MLPConfig([cell["width"]], cell["activation"]), case.settings.solver, case.problem
        )


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train one width; its relative error and which of the wanted errors it reaches."""
    case = matched_run.case_of(cfg, cell["case"], seed)
    trained = matched_run.train_mlp(
        case, MLPConfig([cell["width"]], cell["activation"]), STEPS, seed
    )
    marks = {"comparison": cfg.comparison, "activation": cell["activation"], "width": cell["width"]}
    row = matched_run.result(case, trained, marks)
    yield row
    for error in cfg.errors:
        reached = row.values["relative_error"]
        yield Row(
            "reached", {"target": case.name, **marks, "wanted": error, "relative_error": reached}
        )


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """For each error, some width reaches it; the best seed decides, since the theorem says that weights exist."""
    found = []
    keys = ["target", "activation", "wanted", "width"]
    least = tables["reached"].groupby(keys, sort=False)["relative_error"].min()
    groups: Any = least.reset_index().groupby(["target", "activation", "wanted"], sort=False)
    for (target, activation, wanted), rows in groups:
        enough = rows.loc[rows["relative_error"] <= wanted, "width"]
        most = rows["width"].max()
        measured = (
            float(enough.min())
            if len(enough)
            else f"{rows['relative_error'].min():.2g} is the least reached"
        )
        sentence = f"{target}: hidden {activation} nodes for a relative RMSE of {wanted:g}"
        found.append(Claim(sentence, measured, f"some width <= {most}", len(enough) > 0))
    return found
