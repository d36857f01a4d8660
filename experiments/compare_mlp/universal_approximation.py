"""The width that a single hidden layer needs to reach given errors."""

from __future__ import annotations

import itertools
from typing import Any

from kanrun.errors import UsageError
from kanrun.runs.records import Claim, Records, Row
from kanrun.study import Cell, Claims, Tables

from .cases import Case, model_of, result, train
from .config import CompareMLPConfig

#: Largest number of solver steps of an MLP. It is large, because the universal approximation
#: theorem is about the best possible weights.
STEPS = 300
FIGURES = ("widths",)


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return an MLP with one hidden layer for each activation and width.

    Raises UsageError if no errors or no widths are listed.
    """
    if not cfg.errors:
        raise UsageError(
            f"errors={cfg.errors} must list relative errors to be reached, such as [0.1, 0.01]."
        )
    if not cfg.widths:
        raise UsageError("widths=[] names no width; give some, such as widths=[1,2,4,8,16].")
    pairs = itertools.product(cfg.activations, cfg.widths)
    return [{"activation": activation, "width": width, "depth": 1} for activation, width in pairs]


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train an MLP of one width; yield a row with its relative error for each error to reach."""
    trained = yield from train(case, model_of(case, cell), seed, STEPS)
    marks = {"activation": cell["activation"], "width": cell["width"]}
    row = result(case, trained, **marks)
    yield row
    reached = {"target": case.name, **marks, "relative_error": row.values["relative_error"]}
    yield from (Row("reached", {**reached, "wanted": error}) for error in case.cfg.errors)


def claims(tables: Tables) -> Claims:
    """Claim for each error to reach that networks of some width reach it.

    The seed with the lowest error counts, since the theorem states only that suitable weights
    exist.
    """
    keys = ["target", "activation", "wanted"]
    best = tables["reached"].groupby([*keys, "width"], sort=False)["relative_error"].min()
    groups: Any = best.reset_index().groupby(keys, sort=False)
    for (target, activation, wanted), rows in groups:
        enough = rows.loc[rows["relative_error"] <= wanted, "width"]
        lowest = f"{rows['relative_error'].min():.2g} is the least reached"
        measured = float(enough.min()) if len(enough) else lowest
        sentence = f"{target}: hidden {activation} nodes for a relative RMSE of {wanted:g}"
        yield Claim(sentence, measured, f"at most {rows['width'].max()}", len(enough) > 0)
