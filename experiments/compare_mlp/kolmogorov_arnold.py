"""The shape [n, 2n + 1, 1] of the Kolmogorov-Arnold theorem on functions of n variables."""

from __future__ import annotations

from kanrun.runs.records import Records
from kanrun.study import Cell, Claims, Tables
from kanrun.study.recipe import claims_by
from kanrun.study.suite import median

from .cases import Case, model_of, result, schedule_text, train
from .config import CompareMLPConfig

FIGURES = ("errors",)


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return a KAN for each schedule of grids, with the hidden width of the theorem."""
    return [{"grid": grid} for grid in cfg.grids]


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train a KAN with the shape of the Kolmogorov-Arnold theorem on one function."""
    trained = yield from train(case, model_of(case, cell), seed)
    marks = {"bound": cell["case"]["bound"], "grid": schedule_text(cell["grid"])}
    yield result(case, trained, activation=case.cfg.model.base, **marks)


def claims(tables: Tables) -> Claims:
    """Claim that the median relative test RMSE is at most the bound of the case, if it has one."""
    summary = tables["summary"]
    rows = summary[summary["bound"].notna()].astype({"shape": str})
    rows["shape"] = rows["shape"].str.replace("-", ",")
    along = " with G = {grid}" * (summary["grid"].nunique() > 1)
    what = "test RMSE over the target's standard deviation"
    sentence = f"[{{shape}}] fits {{target}}{along}: {what}"
    yield from claims_by(rows, sentence, "relative_error", "bound", measure=median)
