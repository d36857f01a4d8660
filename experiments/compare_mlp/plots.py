"""The figures of `kanrun compare-mlp`, each from the tables that its run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from kanrun.figures.panels import (
    finished,
    log_log,
    medians,
    named_rows,
    power_law,
    seeds_across,
    shape_name,
    small_multiples,
    two_lines,
)
from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    VERMILLION,
    grid_of_axes,
    letters,
    new_figure,
    one_panel,
    only_some,
    say_above,
    styled,
)
from kanrun.study.experiment import Figures
from kanrun.study.statistics import exponents

MODELS = {"kan": (BLUE, "o", "KAN"), "mlp": (VERMILLION, "s", "MLP")}
SIZES = {"parameters": "parameters", "flops": "FLOPs per sample", "seconds": "seconds of training"}
#: An exponent is shown from this many sizes on; sizes nearer to each other than this factor count as one.
LEAST_SIZES, ONE_SIZE = 3, 1.2
SMALLEST = 1e-17  # differences below this, zero among them, are drawn here
MOST_ROWS = 40  # of the table
DASHED: dict[str, Any] = {"color": GREY, "lw": 0.8, "ls": (0, (4, 3)), "zorder": 1}


@styled
def pareto(summary: DataFrame) -> Figure:
    """Test error against parameters, FLOPs and seconds: medians with quartiles, and the front of each model."""
    targets = list(summary["target"].unique())
    figure = new_figure(1.9 * len(targets) + 0.4)
    for row, target in zip(grid_of_axes(figure, len(targets), len(SIZES)), targets, strict=True):
        rows = summary[summary["target"] == target]
        middle, low, high = _quartiles(rows)
        for panel, (size, label) in zip(row, SIZES.items(), strict=True):
            for model, (colour, marker, name) in MODELS.items():
                some = (middle["model"] == model).to_numpy()
                if some.any():
                    x, y = (
                        middle.loc[some, size].to_numpy(float),
                        middle.loc[some, "error"].to_numpy(float),
                    )
                    bars = np.array([np.maximum(y - low[some], 0), np.maximum(high[some] - y, 0)])
                    panel.errorbar(
                        x, y, bars, fmt=marker, color=colour, alpha=0.7, lw=0.7, label=name
                    )
                    panel.plot(*_front(x, y), color=colour, drawstyle="steps-post", lw=1.0)
            panel.set(xscale="log", yscale="log", xlabel=label if target == targets[-1] else "")
        row[0].set_ylabel(f"{two_lines(str(target), 22)}\n{rows['error_name'].iloc[0]}")
    title = "bars: quartiles over seeds; steps: nothing is smaller and better"
    where: Any = {"where": "outside upper center", "title": title, "title_fontsize": 7.5}
    return finished(figure, figure.axes[:1], ncols=2, **where)


def _front(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The points that no other one beats in both, by increasing x."""
    order = np.argsort(x, kind="stable")
    best = np.minimum.accumulate(y[order])
    kept = np.concatenate([[True], best[1:] < best[:-1]])
    return x[order][kept], y[order][kept]


@styled
def scaling(middle: DataFrame, fits: DataFrame) -> Figure:
    """Test error against parameters with the power law fitted to each model that has three sizes or more.

    `middle` has the columns target, model, parameters, error, error_name; `fits` target, model, exponent, low, high.
    """
    targets = list(middle["target"].unique())
    figure, panels = small_multiples(len(targets), 3, 2.5, 0.2)
    for panel, target in zip(panels, targets, strict=True):
        for model, (colour, marker, name) in MODELS.items():
            rows = middle[(middle["target"] == target) & (middle["model"] == model)]
            fit = fits[(fits["target"] == target) & (fits["model"] == model)]
            if not len(rows):
                continue
            sizes = _different_sizes(rows["parameters"])
            wide = sizes >= LEAST_SIZES and fit["high"].iloc[0] >= 2 * fit["low"].iloc[0]
            power = float(fit["exponent"].iloc[0]) if wide else np.nan
            counted = f"{sizes} size{'s' if sizes > 1 else ''}"
            label = f"{name}: {f'$N^{{{power:.1f}}}$, {counted}' if np.isfinite(power) else f'{counted}, no fit'}"
            panel.plot(rows["parameters"], rows["error"], marker, color=colour, label=label)
            if np.isfinite(power):
                power_law(panel, rows["parameters"], rows["error"], power, color=colour, lw=0.9)
        word = middle.loc[middle["target"] == target, "error_name"].iloc[0]
        panel.set(
            xscale="log",
            yscale="log",
            title=two_lines(str(target), 30),
            ylabel=word,
            xlabel="parameters $N$",
        )
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28))
    return figure


def _different_sizes(values: Series[Any]) -> int:
    """How many sizes there are: those within a fifth of each other, as networks matched to one KAN, are one."""
    count, last = 0, 0.0
    for value in sorted(values):
        if value > ONE_SIZE * last:
            count, last = count + 1, value
    return count


@styled
def conventions(counts: DataFrame) -> Figure:
    """A network's parameters by every convention, relative to what its modules hold, and its FLOPs by two.

    `counts` has the columns kan, exact, convention, formula, count, and may have flops (executed), kanbefair_flops.
    """
    networks = counts.drop_duplicates("kan")["kan"].tolist()[: len(CYCLE)]
    flops = {
        "flops": "executed:\nlocal basis functions, once per input",
        "kanbefair_flops": "KANbeFair:\nall basis functions, once per edge",
    }
    both = all(name in counts and counts[name].notna().any() for name in flops)
    figure = new_figure(5.0 if both else 2.8)
    panels = figure.subplots(1 + both, 1, squeeze=False)[:, 0]
    names = counts.drop_duplicates("convention")
    parts = [counts[counts["kan"] == kan].drop_duplicates("convention") for kan in networks]
    _grouped_bars(panels[0], [part["count"] / part["exact"] for part in parts])
    for bars, kan, part in zip(panels[0].containers, networks, parts, strict=True):
        bars.set_label(f"{kan}: {part['exact'].iloc[0]} parameters")
    panels[0].axhline(1, color=BLACK, lw=0.8)
    pairs = zip(names["convention"], names["formula"], strict=True)
    words = [f"{name.replace('_', ' ')}\n{formula}" for name, formula in pairs]
    panels[0].set_xticks(range(len(names)), words, fontsize=6.5)
    panels[0].set_ylabel("parameters by convention\n/ trainable numbers")
    if both:
        _grouped_bars(panels[1], [part[list(flops)].iloc[0] for part in parts])
        for bars in panels[1].containers:
            panels[1].bar_label(bars, fmt="{:,.0f}", fontsize=6, padding=1)
        panels[1].set_xticks(range(len(flops)), list(flops.values()))
        panels[1].set(yscale="log", ylabel="FLOPs per sample")
        panels[1].margins(y=0.12)
    return finished(figure, panels[:1], where="outside upper center", ncols=3)


def _grouped_bars(panel: Axes, heights: Sequence[Series[Any]]) -> None:
    """A group of bars for each entry of the series, in it one bar per series."""
    width = 0.8 / max(1, len(heights))
    for index, series in enumerate(heights):
        offset = (index - (len(heights) - 1) / 2) * width
        panel.bar(
            np.arange(len(series)) + offset, series.to_numpy(float), width, color=CYCLE[index]
        )
    panel.grid(axis="x", visible=False)


@styled
def growth(table: DataFrame) -> Figure:
    """Parameters of real modules against width, depth and G + k, with lines of the lecture's powers."""
    laws = {"width": ("nodes $N$", 2), "depth": ("layers $L$", 1), "functions": ("$G + k$", 1)}
    figure = new_figure(2.6)
    panels = figure.subplots(1, len(laws), sharey=True)
    for panel, (name, (label, power)) in zip(panels, laws.items(), strict=True):
        for model, (colour, marker, word) in MODELS.items():
            rows = table[table["model"] == model].dropna(subset=[name])
            for column in laws.keys() - {name}:
                rows = rows[rows[column].isna() | (rows[column] == rows[column].max())]
            if len(rows):
                panel.plot(rows[name], rows["parameters"], marker, color=colour, label=word)
                power_law(panel, rows[name], rows["parameters"], power, color=colour, lw=0.9)
        log_log(panel, table[name].dropna(), xlabel=label, title=f"lines: power {power}")
    panels[0].set_ylabel("parameters")
    panels[0].legend(loc="upper left")
    return figure


@styled
def widths(summary: DataFrame, wanted: Sequence[float]) -> Figure:
    """Relative error of one hidden layer against its width, each seed and the median; lines at the wanted errors."""
    figure = new_figure(3.0)
    panels = grid_of_axes(figure, 1, summary["target"].nunique())[0]
    for panel, (target, rows) in zip(panels, summary.groupby("target", sort=False), strict=True):
        for index, (activation, some) in enumerate(rows.groupby("activation", sort=False)):
            style, colour = f"{'osD^vPX'[index % 7]}-", CYCLE[index % len(CYCLE)]
            label = f"{activation}: median"
            medians(
                panel,
                some,
                ("width", "relative_error"),
                style,
                color=colour,
                label=label,
                spread="dots",
            )
        panel.plot([], [], "o", color=GREY, ms=2.5, alpha=0.5, label="a seed, in its colour")
        for error in wanted:
            panel.axhline(error, label="wanted errors", **DASHED)
        log_log(panel, rows["width"], title=two_lines(str(target), 30), xlabel="hidden nodes")
    panels[0].set_ylabel("test RMSE / deviation")
    return finished(figure, panels, ncols=4)


@styled
def bars(summary: DataFrame) -> Figure:
    """Relative error of every seed of a target and grid, and their median, with the stated bound as a line."""
    groups = [rows for _, rows in summary.groupby(["target", "grid"], sort=False)]
    figure, panel = one_panel(0.32 * len(groups) + 1.0, 5.4)
    for place, rows in enumerate(groups):
        seeds_across(panel, rows["relative_error"], place)
        panel.plot(
            [rows["bound"].iloc[0]] * 2,
            [place - 0.35, place + 0.35],
            color=VERMILLION,
            label="bound",
        )
    several = summary["grid"].nunique() > 1
    named_rows(panel, [_network(rows.iloc[0], several) for rows in groups])
    panel.set(xscale="log", xlabel="test RMSE / deviation")
    return finished(figure, [panel], where="outside upper center", ncols=3)


def _network(row: Series[Any], several: bool) -> str:
    """The target with the network's shape, and its grids on a second line where there are several."""
    grids = f"\nG = {row['grid']}" if several else ""
    return f"{two_lines(str(row['target']), 34)}  {shape_name(row['shape'])}{grids}"


@styled
def differences(linear: DataFrame) -> Figure:
    """How far networks without activations are from least squares and from the product of their matrices."""
    names = {
        "from_least_squares": "from ordinary least squares",
        "from_product": "from the product of the matrices",
    }
    figure, panel = one_panel(2.9, 4.6)
    for index, (column, label) in enumerate(names.items()):
        values, beside = linear[column].clip(lower=SMALLEST), linear["depth"] + 0.08 * (index - 0.5)
        panel.plot(beside, values, "os"[index], color=CYCLE[index], label=label)
    panel.set(yscale="log", xlabel="hidden layers", ylabel="largest difference, relative")
    panel.set_xticks(sorted(linear["depth"].unique()))
    least = float(linear[list(names)].to_numpy(float).min(initial=1.0))
    remark = "one mark per seed" + ("; at 10⁻¹⁷: that or less" if least < SMALLEST else "")
    return finished(figure, [panel], remark, ncols=2)


@styled
def variants(summary: DataFrame) -> Figure:
    """Test error of a KAN with all tricks and with each switched off: dots are seeds, bars medians."""
    names = list(summary["variant"].unique())
    figure = new_figure(0.28 * len(names) + 1.2)
    panels = grid_of_axes(figure, 1, summary["target"].nunique())[0]
    for panel, (target, rows) in zip(panels, summary.groupby("target", sort=False), strict=True):
        for place, variant in enumerate(names):
            errors = rows.loc[rows["variant"] == variant, "error"]
            seeds_across(panel, errors, place)
            if place == 0:
                panel.axvline(errors.median(), label=f"median, {variant}", **DASHED)
        panel.set(xscale="log", title=two_lines(str(target), 30), xlabel=rows["error_name"].iloc[0])
        named_rows(panel, names if panel is panels[0] else [""] * len(names))
    return finished(figure, panels, ncols=3)


@styled
def results(summary: DataFrame) -> Figure:
    """The table of the comparison: sizes, seconds, and median and quartiles of the test error."""
    networks = _networks(summary)

    def sizes(values: Series[Any]) -> str:
        low, high = values.min(), values.max()
        return "" if np.isnan(low) else f"{low:.0f}" if low == high else f"{low:.0f} .. {high:.0f}"

    def median(column: str, form: str, scale: float = 1.0) -> Any:
        return (
            networks[column]
            .median()
            .map(lambda value: "" if np.isnan(value) else form.format(scale * value))
        )

    quartiles = networks["error"].quantile([0.25, 0.75]).unstack()
    columns = {"shape": networks["shape"].first()}
    columns |= {
        name: networks[size].agg(sizes)
        for name, size in {"G": "intervals", "parameters": "parameters", "FLOPs": "flops"}.items()
    }
    columns |= {
        "train s": median("seconds", "{:.2f}"),
        "pass ms": median("inference_seconds", "{:.2f}", 1000),
        " or ".join(summary["error_name"].unique()): median("error", "{:.3g}"),
        "quartiles": quartiles.apply(lambda row: f"{row[0.25]:.2g} .. {row[0.75]:.2g}", axis=1),
    }
    if "test_accuracy" in summary and summary["test_accuracy"].notna().any():
        columns["accuracy"] = median("test_accuracy", "{:.3g}")
    table = DataFrame(columns).reset_index()
    table = table.assign(model=table["model"].str.upper())[
        ["target", "model", "shape", "activation", *list(columns)[1:]]
    ]
    text = [[letters(str(cell), 40) for cell in row] for row in table.head(MOST_ROWS).to_numpy()]
    letters_wide = sum(max(map(len, column)) for column in zip(table.columns, *text, strict=True))
    figure = new_figure(0.17 * len(text) + 0.5, 0.062 * letters_wide + 0.13 * len(table.columns))
    say_above(figure, only_some(len(text), len(table), "networks"))
    panel = figure.subplots()
    panel.axis("off")
    options: Any = {
        "colLabels": list(table.columns),
        "loc": "center",
        "cellLoc": "right",
        "edges": "horizontal",
    }
    drawn = panel.table(text, **options)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    for cell in drawn.get_celld().values():
        cell.set_linewidth(0.3)
    drawn.auto_set_column_width(list(range(len(table.columns))))
    return figure


def _networks(rows: DataFrame) -> Any:
    """The rows of each network, one per seed."""
    return rows.groupby(
        [name for name in ("cell", "target", "model", "activation") if name in rows], sort=False
    )


def _quartiles(rows: DataFrame) -> tuple[DataFrame, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Medians over the seeds of each network, and the quartiles of its error."""
    grouped = _networks(rows)
    shapes = grouped["shape"].first().reset_index(drop=True)
    low, high = (grouped["error"].quantile(share).to_numpy(float) for share in (0.25, 0.75))
    return grouped.median(numeric_only=True).reset_index().assign(shape=shapes), low, high


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """The figures of the comparison that was run."""
    summary = tables["summary"]
    comparison = summary["comparison"].iloc[0]
    if comparison == "universal_approximation":
        yield "widths", partial(widths, summary, sorted(tables["reached"]["wanted"].unique()))
    elif comparison == "kolmogorov_arnold":
        yield "errors", partial(bars, summary)
    elif comparison == "no_activation":
        yield "differences", partial(differences, tables["linear"])
    elif comparison == "implementation_tricks":
        yield "variants", partial(variants, summary)
    else:
        yield "pareto", partial(pareto, summary)
        yield "results", partial(results, summary)
        sizes = summary.groupby(["target", "error_name", "model", "parameters"], sort=False)
        middle = sizes["error"].median().reset_index()
        fits = exponents(middle, ["target", "model"], "parameters", "error")
        yield "scaling", partial(scaling, middle, fits)
        yield "conventions", partial(conventions, tables["counts"])
        if "growth" in tables:
            yield "growth", partial(growth, tables["growth"])
