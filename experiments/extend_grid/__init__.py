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
"""

from __future__ import annotations

import itertools
from typing import Any

from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.evaluation import truncation_notes
from kanrun.study.recipe import summary_of, train_and_record

from .config import ExtendGridConfig
from .convergence_claims import CLAIMS
from .extension import (
    Extension,
    from_scratch,
    penalises,
    prepare,
    schedule_of,
    stage_rows,
)


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
    noise = {"noise": cfg.overfit_noise}
    noisy = [{**settings, "sampling": {**settings["sampling"], **noise}} for settings in both]
    exact = [*(cell(grids, **settings) for settings in both), cell(grids[-1:], **bare)]
    return exact + [cell(grids, **settings) for settings in noisy if cfg.overfit_noise]


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
    """Return the claims of the parts that were run.

    They are about the exactness of knot insertion, the order of convergence, overfitting with and
    without the penalty, and the time that warm starts save.
    """
    return [claim for check in CLAIMS for claim in check(tables["stages"])]
