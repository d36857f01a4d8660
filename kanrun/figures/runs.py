"""Figures of a training and of several runs: learning curves, and results over settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas import CategoricalDtype, DataFrame, Series, to_numeric

from kanrun.figures.classes import class_curves, confusion
from kanrun.figures.effects import effects, pair_maps
from kanrun.figures.network import (
    edges,
    network_diagram,
)
from kanrun.figures.panels import (
    DOTS,
    WIDTH,
    finish,
    heat_map,
    mark_stages,
    medians,
    name_places,
    one_panel,
    series,
    shape_name,
    ticks_at,
)
from kanrun.figures.prediction import predictions, residuals
from kanrun.figures.style import (
    BLUE,
    CYCLE,
    GREY,
    SPLITS,
    THIN,
    Figures,
    Look,
    as_bool,
    first_seed,
    formula_text,
    named_columns,
    set_remark,
    shorten,
    styled,
)

#: Smallest ratio of the largest to the smallest value for which an axis is logarithmic.
DECADE = 10.0
#: Errors that learning curves of several runs can show; the first one that all runs have is drawn.
ERRORS = ("validation_rmse", "test_rmse", "train_rmse")
#: Line styles. Validation is dashed and drawn last, since its curve often lies on that of test.
DASHES = {"train": "-", "test": "-", "validation": (0, (3, 2))}
#: Look of the steps whose network was not kept.
TRIED: Look = {"marker": ".", "ls": "", "alpha": 0.3, "zorder": 1}
#: Height of a learning curve (inches).
CURVE = 2.8
#: Height of a figure of results over settings (inches).
OVER = 3.0
#: Look of medians over a setting whose values are not numbers: bars instead of dots.
BAR: Look = {"ms": 14, "mew": 2}
LONGEST_TITLE = 60  # largest number of characters of a formula that becomes a title


@styled
def loss_curve(metrics: DataFrame, error: str = "RMSE") -> Figure:
    """Draw the error over steps on a logarithmic axis, and the grid stages of the first seed.

    `metrics` has the columns seed, stage, step, intervals, train_rmse, validation_rmse, test_rmse
    and, optionally, best (whether the network after the step is the best of its stage so far). With
    this column, curves show the errors of the best network, which training keeps, and pale dots
    those of the other networks. If steps are counted from 1 in each stage, the stages are drawn one
    after the other. Further seeds are thin lines. `error` is the label of the vertical axis.
    """
    figure, axes = one_panel(CURVE, width=WIDTH)
    keys = [name for name in ("cell", "seed") if name in metrics]
    runs: Any = [rows for _, rows in metrics.groupby(keys)] if keys else [metrics]
    drawn = [split for split in DASHES if (metrics.get(f"{split}_rmse", Series()) > 0).any()]
    for index, rows in enumerate(runs):
        steps = _steps(rows)
        kept = as_bool(rows.get("best", Series(True, rows.index)))
        for split in drawn:
            values = rows[f"{split}_rmse"].where(rows[f"{split}_rmse"] > 0)
            look: Any = {"color": SPLITS[split], "ls": DASHES[split], "label": split}
            if index:
                look |= THIN | {"label": f"{len(runs) - 1} more seed{'s' * (len(runs) > 2)}"}
            axes.plot(steps, values.where(kept).ffill(), **look)
            if not index and not kept.all():
                tried = values.where(~kept)
                axes.plot(steps, tried, color=SPLITS[split], label="tried, not kept", **TRIED)
    first = runs[0] if runs else metrics
    axes.set(yscale="log", xlabel="step", ylabel=error)
    axes.margins(x=0)
    if first.get("intervals", Series(dtype=float)).notna().any():
        stages = first.get("stage", first["intervals"])
        mark_stages(axes, _steps(first), stages, first["intervals"].to_numpy())
        axes.set_title("above each stage: the intervals of its grid", color=GREY)
    return finish(figure, [axes], where="outside right upper")


def _steps(rows: DataFrame) -> Any:
    """Return the recorded steps, or the numbers of the rows if the steps restart in each stage."""
    steps = rows["step"].to_numpy(dtype=float)
    return np.arange(len(rows), dtype=float) if (np.diff(steps) <= 0).any() else steps


@styled
def growth(growth: DataFrame) -> Figure:
    """Draw the validation error of each shape that was tried over its parameters, grid by grid.

    `growth` has the columns shape, parameters, validation_rmse, train_rmse and, optionally, seed.
    Without validation errors, the training errors are drawn.
    """
    rows = first_seed(growth).assign(shape=growth["shape"].map(shape_name))
    error = "validation" if rows["validation_rmse"].notna().any() else "train"
    figure, axes = one_panel(CURVE, width=WIDTH)
    series(axes, rows, ("parameters", f"{error}_rmse"), "shape")
    scale = "log" if (rows[f"{error}_rmse"] > 0).any() else "linear"
    axes.set(xscale="log", yscale=scale, xlabel="parameters", ylabel=f"{error} RMSE")
    return finish(figure, [axes], where="outside right upper")


@styled
def overlaid(runs: Mapping[str, DataFrame]) -> Figure:
    """Draw the lowest error of each run so far over its recorded steps.

    `runs` maps the name of each run to its table `metrics`. Only the first seed is drawn.
    """
    curves = {name: first_seed(metrics) for name, metrics in runs.items()}
    common = [
        name
        for name in ERRORS
        if all(name in rows and (rows[name] > 0).any() for rows in curves.values())
    ]
    error = common[0] if common else ""
    figure, panel = one_panel(CURVE)
    for (name, rows), colour in zip(curves.items(), itertools.cycle(CYCLE)):
        if error:
            # The network with the lowest error so far is kept.
            lowest = rows[error].where(rows[error] > 0).cummin().to_numpy(dtype=float)
            panel.plot(lowest, color=colour, label=shorten(name))
    what = error.replace("_rmse", " RMSE") or "RMSE"
    panel.set(yscale="log", xlabel="recorded step", ylabel=f"lowest {what} so far")
    return finish(figure, [panel], ncols=min(4, len(runs)))


@styled
def over_settings(table: DataFrame, settings: Sequence[str], result: str) -> Figure:
    """Draw the median of a result over one or two swept settings.

    `table` has one row per point and seed. `result` is the column of the result, and `settings` are
    columns with the values of the settings as text. If there are more than two settings, the two
    with the most values are drawn, and medians are taken over the others.
    """
    table = table[np.isfinite(table[result].astype(float))].copy()
    shown = sorted(settings, key=lambda name: -table[name].nunique())[:2]
    left = ", ".join(name for name in settings if name not in shown)
    for name in shown:
        numbers = to_numeric(table[name], errors="coerce")
        words = CategoricalDtype(list(table[name].unique()), ordered=True)
        table[name] = table[name].astype(words) if numbers.hasnans else numbers
    figure, panel = one_panel(OVER)
    look: Any = {"spread": "dots", "color": BLUE}
    if len(shown) < 2:
        values = table[shown[0]]
        if values.dtype == "category":
            medians(panel, table.assign(at=values.cat.codes), ("at", result), "_", **BAR, **look)
            name_places(panel.xaxis, list(values.cat.categories))
            panel.margins(x=0.1)
        else:
            medians(panel, table, (shown[0], result), **look)
            if _spans_decade(values):
                panel.set_xscale("log")
                ticks_at(panel.xaxis, values)
        if _spans_decade(table[result].astype(float)):
            panel.set_yscale("log")
        panel.set(xlabel=shorten(shown[0]), ylabel=shorten(result))
        set_remark(figure, DOTS)
        return figure
    across, up = shown
    grid = table.groupby([up, across], observed=True)[result].median().unstack()
    norm = LogNorm() if _spans_decade(table[result]) else None
    look = {"cmap": "viridis_r", "origin": "lower", "norm": norm}
    names = list(grid.index), list(grid.columns)
    image = heat_map(panel, grid.to_numpy(dtype=float), *names, "{:.2g}".format, **look)
    panel.set(xlabel=shorten(across), ylabel=shorten(up))
    figure.colorbar(image, ax=panel, label=shorten(result))
    set_remark(figure, f"medians over {left}" if left else "")
    return figure


def _spans_decade(values: Series[Any]) -> bool:
    return bool(values.min() > 0 and values.max() >= DECADE * values.min())


def training_figures(
    tables: Mapping[str, DataFrame], formulas: Mapping[str, str], on_request: bool = False
) -> Figures:
    """Yield the name of each figure of a training, and a function that draws it.

    Args:
        tables: Recorded tables by name.
        formulas: Formulas of named targets, which become titles.
        on_request: Whether to include figures that are drawn only on request: edges and network of
            the automatic model of a table, which has many edges, and curves of the probabilities
            of more than two classes.
    """
    is_table = "effects" in tables
    classifies = any(str(name).endswith("accuracy") for name in tables["summary"])
    if is_table:
        given = tables["effects"], list(tables["importance"]["input"]), tables["input_values"]
        yield "effects", partial(effects, *given, classes=classifies)
    if "pair_maps" in tables:
        yield "pair_maps", partial(pair_maps, tables["pair_maps"])
    # A model that is fitted in a single step, by least squares, has no learning curve.
    steps = tables["metrics"].groupby("seed")["train_rmse"] if "metrics" in tables else None
    if steps is not None and steps.nunique().max() > 1:
        error = "RMSE of the class probabilities" if classifies else "RMSE"
        yield "loss", partial(loss_curve, tables["metrics"], error)
    if "growth" in tables and tables["growth"]["shape"].nunique() > 1:
        yield "growth", partial(growth, tables["growth"])
    predicted = tables["predictions"]
    judged = tables.get("held_out", predicted)
    if classifies:
        yield "predictions", partial(confusion, judged)
        two = len(named_columns(judged, "probability:")) == 2
        if "held_out" in tables and (two or on_request):
            yield "class_curves", partial(class_curves, judged)
    else:
        formula = formulas.get(str(tables["summary"]["target"].iloc[0]), "")
        title = f"y = {formula_text(formula)}" if 0 < len(formula) <= LONGEST_TITLE else None
        few = len(named_columns(predicted, "input:")) <= 2
        yield "predictions", partial(predictions, predicted if few else judged, title)
        yield "residuals", partial(residuals, judged)
    if "edges" in tables and (on_request or not is_table):
        yield "edges", partial(edges, tables["edges"])
        yield "network", partial(network_diagram, tables["edges"])
