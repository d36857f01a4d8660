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

import numpy as np
import pandas as pd

from kanrun.runs.records import Claim, Note, Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.evaluation import truncation_notes
from kanrun.study.recipe import claims_by, summary_of, train_and_record
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    median,
    minimum,
    value_range,
)

from .config import ExtendGridConfig
from .extension import (
    Extension,
    from_scratch,
    penalises,
    prepare,
    schedule_of,
    stage_rows,
)

#: Largest accepted change of the function when knots are inserted, relative to the size of the
#: function. It is four digits above the rounding of float64.
EXACT = 1e-12
#: Largest accepted difference between the fitted exponent and its theoretical value, -(k + 1)
#: (de Boor, A Practical Guide to Splines, ch. XII).
ORDER = 0.3
#: The test error is said to turn up if its final value is at least this multiple of its lowest
#: value below the interpolation threshold.
OVERFITS = 2.0
#: The test error is said not to turn up if its final value is at most this multiple of its lowest
#: value below the interpolation threshold. Ratios between STAYS and OVERFITS are within the scatter
#: of seeds and support neither claim.
STAYS = 1.1


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
    """Yield the claims of the parts that were run.

    They are about the exactness of knot insertion, the order of convergence, overfitting with and
    without the penalty, and the time that warm starts save.
    """
    stages = tables["stages"]
    yield from exact_claims(stages)
    yield from order_claims(stages)
    yield from overfit_claims(stages)
    yield from warm_start_claims(stages)


def exact_claims(stages: pd.DataFrame) -> Claims:
    """Return the claims that knot insertion does not change the network's function.

    Networks that were overfitted on purpose have a claim of their own.
    """
    inserted = stages[stages["carried_by"] == "insertion"]
    # In overfitted networks, large edge functions of opposite signs nearly cancel, so rounding
    # errors are larger.
    overfitted = (inserted["part"] == "overfit") & ~inserted["penalised"]
    which = overfitted.map({False: "", True: " (networks overfitted on purpose)"})
    sentence = "A nested refinement changes the function by at most rounding, relative to its size"
    rows = inserted.assign(which=which).sort_values("which", kind="stable")
    yield from claims_by(rows, sentence + "{which}", "function_change", EXACT, of="extensions")


def order_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the error falls as G^-(k + 1)."""
    ranged = stages[(stages["part"] == "order") & stages["in_order"]]
    fits = exponents(ranged, ["shape", "degree", "seed"], "test_rmse")
    networks: Any = fits[fits["low"] < fits["high"]].groupby(["shape", "degree"])
    for (shape, degree), rows in networks:
        reach = f"G = {rows['low'].min()} to {rows['high'].max()}"
        network = f"k = {degree}: test RMSE of {_network(shape)}"
        sentence = f"{network} falls as G^-(k + 1) over {reach}"
        yield claim_near(sentence, rows["exponent"], -(int(degree) + 1), ORDER)


def _network(shape: Any) -> str:
    return f"[{str(shape).replace('-', ',')}]"


def overfit_claims(stages: pd.DataFrame) -> Claims:
    """Claim that the test error rises past the interpolation threshold only without a penalty.

    There is one claim for each combination of exact or noisy points, with or without a penalty, and
    training the last grid from scratch or after warm starts. Without a penalty, the last grid is
    trained until it reproduces the points. After a warm start, the last grid has little left to
    learn, so the last steps are short and may hardly change the function between the points.
    """
    groups: Any = stages[stages["part"] == "overfit"].groupby(["noise", "penalised"])
    for (noise, penalised), networks in groups:
        points = f"{100 * noise:.3g}% noise" if noise else "exact points"
        warm = networks[networks["start"] == "warm"]
        alone = networks[networks["start"] == "scratch"]
        # Training runs from scratch use only the finest grid, so the errors on coarser grids are
        # taken from the warm starts.
        both = pd.concat([warm[warm["intervals"] < warm["threshold"]], alone])
        for rows, way in ((both, "that grid from scratch"), (warm, "after warm starts")):
            if not len(ratios := overfit_ratio(rows)):
                continue
            left = rows[rows["intervals"] == rows["intervals"].max()]["train_rmse"].median()
            remarks = [value_range(ratios), f"training RMSE there {left:.2g}"]
            with_or, verb, claim, bound = (
                ("With", "does not turn up", claim_at_most, STAYS)
                if penalised
                else ("Without", "turns up", claim_at_least, OVERFITS)
            )
            sentence = (
                f"{with_or} the smoothness penalty, the test error {verb} past the threshold "
                f"({points}, {way}): final error over lowest before"
            )
            yield claim(sentence, median(ratios), bound, ", ".join(filter(None, remarks)))


def overfit_ratio(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's test RMSE on the finest grid, divided by its lowest on coarser grids.

    Of the coarser grids, only those below the interpolation threshold are used.
    """
    below = rows["intervals"] < rows["threshold"]
    lowest = rows[below].groupby("seed")["test_rmse"].agg(minimum)
    ends = rows[~below].sort_values("intervals").drop_duplicates("seed", keep="last")
    finest = ends.set_index("seed")["test_rmse"]
    return (finest / lowest)[lowest.index.intersection(finest.index)].astype(float)


def warm_start_claims(stages: pd.DataFrame) -> Claims:
    """Claim that extending grids takes less time than training the finest grid from scratch."""
    scratch = stages[stages["part"] == "scratch"]
    extended = stages[(stages["part"] == "schedules") & stages["compared"]]
    both = scratch.merge(extended, on=["shape", "seed", "intervals"], suffixes=("", "_extended"))
    for shape, grids in both.groupby("shape", sort=False):
        finest = grids["intervals"].max()
        rows = grids[grids["intervals"] == finest].drop_duplicates("seed")
        # The ratio is infinite if training from scratch ends with more than OVERFITS times the
        # error of extended grids, and NaN if one of the errors is NaN.
        excess = rows["test_rmse"] - OVERFITS * rows["test_rmse_extended"]
        ratios = rows["seconds"] / rows["seconds_extended"]
        ratios = ratios.mask(excess > 0, np.inf).mask(excess.isna())
        measured = median(ratios)
        lost = int(np.isinf(ratios).sum())
        sentence = (
            f"{_network(shape)}: extending grids reaches the error at G = {finest} in fewer seconds"
        )
        never = f"never reached from scratch by {lost} of {len(ratios)} seeds"
        shown = never if np.isinf(measured) else measured
        bound = "seconds from scratch over seconds extended above 1"
        yield Claim(sentence, shown, bound, measured > 1, value_range(ratios))
