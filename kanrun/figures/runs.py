"""Learning curves, several runs over each other, and a result over the settings that vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from kanrun.figures.network import KEYS, Group, pruned_rows, strongest, title_of
from kanrun.figures.panels import (
    DOTS,
    finish,
    heat_map,
    mark_stages,
    medians,
    name_columns,
    name_rows,
    one_panel,
    seeds_across,
    small_multiples,
    ticks_at,
)
from kanrun.figures.style import (
    BLUE,
    CYCLE,
    GREY,
    SPLITS,
    as_bool,
    first_seed,
    note_of_some,
    set_remark,
    shorten,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Values that span at least this factor have a logarithmic axis.
DECADE = 10.0
MAX_EDGES = 11
#: Errors that learning curves may show, the preferred first.
ERRORS = ("validation_rmse", "test_rmse", "train_rmse")
#: Line styles; validation comes last, since it often lies on test.
DASHES = {"train": "-", "test": "-", "validation": (0, (3, 2))}
#: Widths, opacities and orders of the first seed and of the others.
LOOKS = ((1.4, 1.0, 3), (0.7, 0.35, 2))


@styled
def loss_curve(metrics: pandas.DataFrame, error: str = "RMSE") -> Figure:
    """Draw the error over steps on a logarithmic axis; mark the grid stages of the first seed.

    `error` names the recorded errors. `metrics` has the columns seed, stage, step, intervals,
    train_rmse, validation_rmse, test_rmse, and may have best (whether a step's network is the best
    of its stage so far). Curves then show the errors of the best network, which training keeps, and
    pale dots those of the others. Steps that restart with each stage are put one after the other.
    Further seeds are thin lines.
    """
    figure, axes = one_panel(2.8, width=6.5)
    keys = [name for name in ("cell", "seed") if name in metrics]
    groups = [rows for _, rows in metrics.groupby(keys)] if keys else [metrics]
    runs = [(_increasing(rows), rows) for rows in groups if len(rows)]
    handles, tried_any = [], False
    for split, dash in DASHES.items():
        name = f"{split}_rmse"
        pen: Any = {"color": SPLITS[split]}
        if name not in metrics or not (metrics[name] > 0).any():
            continue
        for index, (steps, rows) in enumerate(runs):
            values = rows[name].where(rows[name] > 0).to_numpy(dtype=float)
            path = _kept(rows, values)
            width, alpha, order = LOOKS[index > 0]
            axes.plot(steps, path, ls=dash, lw=width, alpha=alpha, zorder=order, **pen)
            if index == 0 and not np.array_equal(path, values, equal_nan=True):
                tried = np.where(path == values, np.nan, values)
                axes.plot(steps, tried, ".", alpha=0.3, zorder=1, **pen)
                tried_any = True
        handles.append(Line2D([], [], ls=dash, label=split, **pen))
    if tried_any:
        dots: Any = {"color": GREY, "ls": "", "marker": ".", "alpha": 0.6}
        handles.append(Line2D([], [], label="tried, not kept", **dots))
    if len(runs) > 1:
        label = f"{len(runs) - 1} more seed{'s' * (len(runs) > 2)}"
        handles.append(Line2D([], [], color=GREY, lw=0.7, alpha=0.6, label=label))
    axes.set(yscale="log", xlabel="step", ylabel=error)
    axes.margins(x=0.01)
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if runs:
        steps, rows = runs[0]
        if "intervals" in rows and rows["intervals"].notna().any():
            mark_stages(
                axes, steps, rows.get("stage", rows["intervals"]), rows["intervals"].to_numpy()
            )
            axes.set_title("above each stage: the intervals of its grid", size="medium", color=GREY)
    return figure


def _increasing(rows: pandas.DataFrame) -> NDArray[np.float64]:
    """Return the recorded steps, or their positions if these restart."""
    steps = rows["step"].to_numpy(dtype=float)
    return np.arange(len(rows), dtype=float) if np.any(np.diff(steps) <= 0) else steps


def _kept(rows: pandas.DataFrame, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the errors of the best network so far."""
    if "best" not in rows:
        return values
    best = np.where(as_bool(rows["best"]), np.arange(len(values)), 0)
    return np.asarray(values[np.maximum.accumulate(best)])


@styled
def overlaid(runs: Mapping[str, Mapping[str, pandas.DataFrame]]) -> Figure:
    """Draw learning curves and the strongest edges of the first run, coloured by run.

    `runs` maps a run's name to its tables `metrics` (columns stage, step and errors) and `edges`
    (as for `edges`). Edges are drawn if several runs have them.
    """
    tables: dict[str, dict[str, pandas.DataFrame]] = {"metrics": {}, "edges": {}}
    for name, recorded in runs.items():
        for kind in tables.keys() & recorded.keys():
            tables[kind][name] = first_seed(recorded[kind])
    metrics, functions = tables["metrics"], tables["edges"]
    groups: list[Group] = []
    remark = ""
    if len(functions) > 1:
        first = next(iter(functions.values()))
        first = first[~pruned_rows(first)]
        groups = strongest(first, MAX_EDGES)
        total = len(first.drop_duplicates(KEYS))
        remark = note_of_some(len(groups), total, "edges, those with the highest scores")
    curves = bool(metrics)
    figure, panels = small_multiples(
        curves + len(groups), 4 if groups else 1, 1.6 if groups else 2.8
    )
    colours = {name: CYCLE[index % len(CYCLE)] for index, name in enumerate(runs)}
    if curves:
        _draw_errors(panels[0], metrics, colours)
    for axes, (key, group) in zip(panels[curves:], groups, strict=True):
        for name, table in functions.items():
            rows = table[(table[KEYS] == list(key)).all(axis=1)].sort_values("x")
            axes.plot(rows["x"], rows["y"], color=colours[name], label=shorten(name))
        axes.set_title(title_of(key, group), size="medium")
    return finish(figure, panels[:2], remark, ncols=min(4, len(runs)))


def _draw_errors(
    axes: Axes, metrics: Mapping[str, pandas.DataFrame], colours: Mapping[str, str]
) -> None:
    """Draw the lowest value so far (that network is kept) of the first error that all runs have."""
    common = [
        name
        for name in ERRORS
        if all(name in table and (table[name] > 0).any() for table in metrics.values())
    ]
    for name, table in metrics.items():
        if common:
            lowest = table[common[0]].where(table[common[0]] > 0).cummin().to_numpy(dtype=float)
            axes.plot(lowest, color=colours[name], label=shorten(name))
    axes.set_yscale("log")
    what = common[0].replace("_rmse", " RMSE") if common else "RMSE"
    axes.set(xlabel="recorded step", ylabel=f"lowest {what} so far")


@styled
def over_settings(table: pandas.DataFrame, settings: Sequence[str], result: str) -> Figure:
    """Draw the median of `result` over `settings`, columns of text as typed.

    `table` has one row per point and seed. Of more than two settings, draw the two with the most
    values, and take medians over the others.
    """
    table = table[np.isfinite(table[result].astype(float))]
    axes = sorted(settings, key=lambda name: -table[name].nunique())[:2]
    figure, panel = one_panel(3.0)
    if not axes:
        seeds_across(panel, table[result], 0)
        name_rows(panel, [shorten(result)])
        panel.legend(loc="upper right")
    elif len(axes) == 1:
        _draw_curve(panel, table, axes[0], result)
    else:
        across, up = axes
        grid = table.groupby([up, across], sort=False)[result].median().unstack()
        grid = grid.reindex(index=_in_order(grid.index), columns=_in_order(grid.columns))
        values = grid.to_numpy(dtype=float)
        look: Any = {"cmap": "viridis_r", "origin": "lower"}
        look["norm"] = LogNorm() if _spans_decade(table[result]) else None
        image = heat_map(
            panel, values, list(grid.index), list(grid.columns), "{:.2g}".format, **look
        )
        panel.set(xlabel=shorten(across), ylabel=shorten(up))
        figure.colorbar(image, ax=panel, label=shorten(result))
    left = ", ".join(name for name in settings if name not in axes)
    set_remark(figure, f"medians over {left}" if left else DOTS if len(axes) == 1 else "")
    return figure


def _draw_curve(panel: Any, table: pandas.DataFrame, name: str, result: str) -> None:
    numbers = pandas.to_numeric(table[name], errors="coerce")
    look: Any = {"spread": "dots", "color": BLUE}
    if numbers.isna().any():
        words = list(dict.fromkeys(table[name]))
        table = table.assign(place=table[name].map(words.index))
        medians(panel, table, ("place", result), "_", ms=14, mew=2, **look)
        name_columns(panel, [shorten(word) for word in words])
        panel.margins(x=0.1)
    else:
        medians(panel, table.assign(place=numbers), ("place", result), **look)
        if _spans_decade(numbers):
            panel.set_xscale("log")
            ticks_at(panel.xaxis, numbers)
    if _spans_decade(table[result].astype(float)):
        panel.set_yscale("log")
    panel.set(xlabel=shorten(name), ylabel=shorten(result))


def _spans_decade(values: pandas.Series[Any]) -> bool:
    return bool(values.min() > 0 and values.max() >= DECADE * values.min())


def _in_order(words: Any) -> list[str]:
    """Return numbers sorted by size, other words as they came."""
    numbers = pandas.to_numeric(pandas.Series(words), errors="coerce")
    return list(words) if numbers.isna().any() else [words[i] for i in np.argsort(numbers)]
