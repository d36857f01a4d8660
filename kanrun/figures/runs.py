"""Figures of one or several runs: learning curves, growth, and results over settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas import CategoricalDtype, DataFrame, Series, to_numeric

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
    numbered,
    one_panel,
    series,
    shape_name,
    ticks_at,
)
from kanrun.figures.prediction import (
    class_curves,
    confusion,
    effects,
    pair_maps,
    predictions,
    residuals,
)
from kanrun.figures.style import (
    BLUE,
    GREY,
    SPLITS,
    THIN,
    Figures,
    Look,
    first_seed,
    formula_text,
    named_columns,
    set_remark,
    shorten,
    styled,
)

#: Line styles. The validation curve is dashed and drawn last, since it often lies on the test
#: curve.
DASHES = {"train": "-", "test": "-", "validation": (0, (3, 2))}
#: Look of the points of steps whose network was not kept.
TRIED: Look = {"marker": ".", "ls": "", "alpha": 0.3, "zorder": 1}
#: Height of a learning curve (inches).
CURVE = 2.8


@styled
def loss_curve(metrics: DataFrame, error: str = "RMSE") -> Figure:
    """Draw the error over steps on a logarithmic axis, and the grid stages of the first seed.

    `metrics` has the columns seed, stage, intervals, train_rmse, validation_rmse, test_rmse and,
    optionally, cell and best (whether the network after the step is the best of its stage so far).
    With this column, curves show the errors of the best network, which training keeps, and pale
    dots show the errors of the other networks. Further seeds are thin lines. `error` is the label
    of the vertical axis.
    """
    figure, axes = one_panel(CURVE, width=WIDTH)
    keys = [name for name in ("cell", "seed") if name in metrics]
    seeds = [numbered(rows) for _, rows in metrics.groupby(keys)]
    drawn = [split for split in DASHES if (metrics[f"{split}_rmse"] > 0).any()]
    for index, rows in enumerate(seeds):
        kept = rows.get("best", Series(True, rows.index))
        for split in drawn:
            values = rows[f"{split}_rmse"].where(rows[f"{split}_rmse"] > 0)
            look: Any = {"color": SPLITS[split], "ls": DASHES[split], "label": split}
            if index:
                look |= THIN | {"label": f"further seeds: {len(seeds) - 1}"}
            axes.plot(values.where(kept).ffill(), **look)
            if not index and not kept.all():
                look = {"color": SPLITS[split], "label": "tried, not kept", **TRIED}
                axes.plot(values.where(~kept), **look)
    axes.set(yscale="log", xlabel="step", ylabel=error)
    axes.margins(x=0)
    if seeds[0]["intervals"].notna().any():
        mark_stages(axes, seeds[0])
        axes.set_title("above each stage: the intervals of its grid", color=GREY)
    return finish(figure, [axes], where="outside right upper")


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
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel=f"{error} RMSE")
    return finish(figure, [axes], where="outside right upper")


@styled
def over_settings(table: DataFrame, settings: Sequence[str], result: str) -> Figure:
    """Draw the median of a result over one or two swept settings.

    `table` has one row per point and seed. `result` is the column of the result, and `settings` are
    columns with the values of the settings as text. If there are more than two settings, the two
    with the most values are drawn, and medians are taken over the others.
    """
    over = 3.0  # height of a figure of results over settings (inches)
    table = table[np.isfinite(table[result].astype(float))].copy()
    shown = sorted(settings, key=lambda name: -table[name].nunique())[:2]
    for name in shown:
        numbers = to_numeric(table[name], errors="coerce")
        texts = CategoricalDtype(list(table[name].unique()), ordered=True)
        table[name] = table[name].astype(texts) if numbers.hasnans else numbers
    figure, panel = one_panel(over)
    panel.set(xlabel=shorten(shown[0]), ylabel=shorten([result, *shown[1:]][-1]))
    if len(shown) < 2:
        _draw_medians(panel, table[shown[0]], table[result])
        set_remark(figure, DOTS)
        return figure
    grid = table.groupby(shown[::-1], observed=True)[result].median().unstack()
    look: Any = {"cmap": "viridis_r", "origin": "lower"}
    look["norm"] = LogNorm() if _spans_decade(table[result]) else None
    names = list(grid.index), list(grid.columns)
    image = heat_map(panel, grid.to_numpy(dtype=float), *names, "{:.2g}".format, **look)
    figure.colorbar(image, ax=panel, label=shorten(result))
    others = [name for name in settings if name not in shown]
    set_remark(figure, f"medians over {', '.join(others)}" if others else "")
    return figure


def _draw_medians(panel: Axes, settings: Series[Any], results: Series[Any]) -> None:
    """Draw the results over the values of a setting: numbers, or text as a categorical column."""
    mark = 6  # size of the marks of medians over a setting (points)
    rows = DataFrame({"setting": settings, "result": results.astype(float)})
    style = "o-"
    if settings.dtype == "category":
        rows["setting"] = settings.cat.codes
        style = "_"
        name_places(panel.xaxis, list(settings.cat.categories))
        panel.margins(x=0.1)
    elif _spans_decade(settings):
        panel.set_xscale("log")
        ticks_at(panel.xaxis, settings)
    if _spans_decade(rows["result"]):
        panel.set_yscale("log")
    medians(panel, rows, ("setting", "result"), style, spread="dots", color=BLUE, ms=mark)


def _spans_decade(values: Series[Any]) -> bool:
    # Smallest ratio of the largest to the smallest value for which an axis is logarithmic.
    decade = 10.0
    return bool(values.min() > 0 and values.max() >= decade * values.min())


def training_figures(
    tables: Mapping[str, DataFrame], formulas: Mapping[str, str], on_request: bool = False
) -> Figures:
    """Yield the name of each figure of a training run, and a function that draws it.

    Args:
        tables: Recorded tables by name.
        formulas: Formulas of named targets, which become titles.
        on_request: Whether to include figures that are drawn only on request: edges and network of
            the automatic model of a table, which has many edges, and curves of the probabilities
            of more than two classes.
    """
    longest_title = 60  # largest number of characters of a formula that becomes a title
    is_table = "effects" in tables
    classifies = any(str(name).endswith("accuracy") for name in tables["summary"])
    if is_table:
        effect_tables = (
            tables["effects"],
            list(tables["importance"]["input"]),
            tables["input_values"],
        )
        yield "effects", partial(effects, *effect_tables, classes=classifies)
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
        title = f"y = {formula_text(formula)}" if 0 < len(formula) <= longest_title else None
        few = len(named_columns(predicted, "input:")) <= 2
        yield "predictions", partial(predictions, predicted if few else judged, title)
        yield "residuals", partial(residuals, judged)
    if "edges" in tables and (on_request or not is_table):
        yield "edges", partial(edges, tables["edges"])
        yield "network", partial(network_diagram, tables["edges"])
