"""Predictions against the truth, numbers and classes, and what each input does to a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from kanrun.figures.panels import (
    MAX_NUMBERED,
    WIDTH,
    draw_map,
    grid_of_panels,
    heat_map,
    lay_out_by_hand,
    small_multiples,
)
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    DIVERGING,
    GREY,
    MARKERS,
    NUMBERS,
    SPLITS,
    VERMILLION,
    error_limit,
    first_seed,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    thin,
)

#: Splits on which predictions are judged, the most trustworthy last.
JUDGED = ("train", "held out", "test")
MAX_OUTPUTS, MAX_INPUTS, MAX_CLASSES = 4, 12, 30
#: Rows of a map: its cells are small, but files grow with them.
MAX_CELLS = 40_000
#: Heights and widths of panels (inches).
SQUARE, MATRIX, ALONE, EFFECT = (3.2, 3.4), (3.2, 4.2), 3.2, 1.9
#: Points of a scatter plot, wrong ones around them, and training points below a curve.
POINTS: dict[str, Any] = {"s": 6, "alpha": 0.5, "rasterized": True}
CLASS_POINTS: dict[str, Any] = {"s": 12, "lw": 0.3, "ec": "white"}
WRONG: dict[str, Any] = {"s": 45, "fc": "none", "ec": BLACK, "label": "misclassified"}
GIVEN: dict[str, Any] = {**POINTS, "s": 10, "c": GREY, "label": "training points"}
TRUTH: dict[str, Any] = {"color": BLACK, "lw": 2.4, "alpha": 0.45, "label": "truth"}
REFERENCE: dict[str, Any] = {"color": BLACK, "lw": 0.8, "zorder": 1}
BELOW: dict[str, Any] = {"location": "bottom", "pad": 0.04, "shrink": 0.9}
#: Length by width of the colour bars below two maps and below one.
LONG, SHORT = 44, 22
#: Room for numbers and titles of effects, and for numbers and names of maps.
EFFECTS_LAYOUT = (0.6, 0.3, 0.2, 0.3), (0.07, 0.32)
MAPS_LAYOUT = (0.6, 0.45, 0.2, 0.1), (0.25, 0.25)
#: Points between the dot of a level and its name, and free parts of the axis beside the levels.
BESIDE_DOTS, LEVELS_ROOM = 4, (0.3, 0.7)
#: Free part of an axis around its data.
ROOM = 0.08


@styled
def predictions(table: pandas.DataFrame, title: str | None = None) -> Figure:
    """Draw predictions of the first seed against true values, in a form that suits the inputs.

    `table` has the columns seed, split (train, validation, test, grid), `input:<name>` per input,
    and for each output `truth:<name>` (which may be missing or empty) and `prediction:<name>`. One
    input gives curves with the training points, two give maps of truth, prediction and error, more
    give a parity plot. Classes (text or whole numbers) give a confusion matrix, of two inputs with
    a map of the classes. At most four outputs are drawn.
    """
    table, inputs, outputs = _read(table)
    shown = outputs[:MAX_OUTPUTS]
    plain = all(table[f"input:{name}"].dtype.kind in NUMBERS for name in inputs)
    if shown and all(has_classes(table, name) for name in shown):
        figure = _classes(table, inputs if plain else [], shown)
    elif len(inputs) == 1 and plain:
        figure = _curves(table, inputs[0], shown)
    elif len(inputs) == 2 and plain:
        figure = _maps(table, inputs, shown)
    else:
        figure, panels = small_multiples(len(shown), 2, *SQUARE)
        for axes, output in zip(panels, shown, strict=True):
            _parity(axes, table, output)
    set_remark(figure, title or note_of_some(len(shown), len(outputs), "outputs"))
    return figure


def _read(table: pandas.DataFrame) -> tuple[pandas.DataFrame, list[str], list[str]]:
    """Return the first seed's rows with a column of truth for each output, inputs and outputs."""
    inputs, outputs = (
        [name.removeprefix(kind) for name in map(str, table) if name.startswith(kind)]
        for kind in ("input:", "prediction:")
    )
    unknown = {f"truth:{name}": np.nan for name in outputs if f"truth:{name}" not in table}
    return first_seed(table).assign(**unknown), inputs, outputs


def _curves(table: pandas.DataFrame, name: str, outputs: Sequence[str]) -> Figure:
    figure, panels = small_multiples(len(outputs), width=WIDTH)
    x = f"input:{name}"
    line = table[table["split"] == ("grid" if (table["split"] == "grid").any() else "test")]
    line = line.sort_values(x)
    given = thin(table[table["split"].isin(["train", "validation"])])
    for axes, output in zip(panels, outputs, strict=True):
        if len(given):
            axes.scatter(given[x], given[f"truth:{output}"], **GIVEN)
        if line[f"truth:{output}"].notna().any():
            axes.plot(line[x], line[f"truth:{output}"], **TRUTH)
        axes.plot(line[x], line[f"prediction:{output}"], color=VERMILLION, label="prediction")
        axes.set(xlabel=shorten(name), ylabel=shorten(output))
        axes.margins(x=0)
        axes.legend()
    return figure


def _maps(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Draw truth, prediction and error of each output side by side.

    Without truth, draw the prediction alone. Truth and prediction share their colours; those of the
    error are centred at zero.
    """
    splits = [name for name in ("grid", "test", "train") if (table["split"] == name).any()]
    rows = thin(table[table["split"].isin(splits[:1])], MAX_CELLS)
    x, y = (rows[f"input:{name}"].to_numpy(dtype=float) for name in inputs)
    known = bool(rows[[f"truth:{name}" for name in outputs]].notna().any(axis=None))
    columns, width = (3, None) if known else (1, ALONE)
    figure, grid = grid_of_panels(len(outputs), columns, width=width, sharey=True)
    for line, output in zip(grid, outputs, strict=True):
        truth, guess = rows[[f"truth:{output}", f"prediction:{output}"]].to_numpy(dtype=float).T
        finite = np.concatenate([truth, guess])[np.isfinite([*truth, *guess])]
        limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        shown = [("truth", truth), ("prediction", guess)][not known :]
        for axes, (title, values) in zip(line, shown, strict=False):
            image = draw_map(axes, x, y, values, limits)
            axes.set_title(title)
        figure.colorbar(image, ax=line[:2], aspect=LONG, label=shorten(output), **BELOW)
        if known:
            error = guess - truth
            limit, largest = error_limit(error), float(np.nanmax(np.abs(error), initial=0.0))
            image = draw_map(line[2], x, y, error, (-limit, limit), DIVERGING)
            line[2].set_title("prediction - truth")
            extend = "both" if largest > limit else "neither"
            look: Any = {"aspect": SHORT, "ticks": MaxNLocator(3), "extend": extend}
            bar = figure.colorbar(image, ax=line[2], **look, **BELOW)
            bar.set_label(f"largest {number(largest)}", loc="left")
        for axes in line:
            axes.set_xlabel(shorten(inputs[0]))
        line[0].set_ylabel(shorten(inputs[1]))
    return figure


def _errors(table: pandas.DataFrame, output: str) -> dict[str, pandas.DataFrame]:
    """Return, for each split, the columns truth, guess and error of the rows that have both."""
    both = table[[f"truth:{output}", f"prediction:{output}"]].set_axis(["truth", "guess"], axis=1)
    both = both.apply(pandas.to_numeric, errors="coerce")
    both = both.assign(split=table["split"], error=both["guess"] - both["truth"])
    both = both[np.isfinite(both["error"])]
    parts = {split: both[both["split"] == split] for split in JUDGED}
    return {split: part for split, part in parts.items() if len(part)}


def _scatter(axes: Axes, part: pandas.DataFrame, x: str, y: str, split: str, label: str) -> None:
    rows, order = thin(part), 2 + (split == "test")
    axes.scatter(rows[x], rows[y], c=SPLITS[split], label=label, zorder=order, **POINTS)


def _parity(axes: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = _errors(table, output)
    for split, part in parts.items():
        rmse = float(np.sqrt(np.mean(part["error"] ** 2)))
        _scatter(axes, part, "truth", "guess", split, f"{split}, RMSE {number(rmse)}")
    if parts:
        axes.axline((0, 0), slope=1, **REFERENCE)
        ends = pandas.concat(parts.values())[["truth", "guess"]].to_numpy(dtype=float)
        margin = ROOM * float(np.ptp(ends)) or 1.0
        limits = ends.min() - margin, ends.max() + margin
        axes.set(xlim=limits, ylim=limits)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set(xlabel=f"{shorten(output)}: truth", ylabel="prediction")
    axes.set_aspect("equal", adjustable="box")


@styled
def residuals(table: pandas.DataFrame) -> Figure:
    """Draw a histogram of prediction - truth, and it over the prediction, for each numeric output.

    `table` is as for `predictions`; rows of the first seed and the splits train and test count. For
    classes, draw the confusion matrix of each split.
    """
    table, _, outputs = _read(table)
    if outputs and all(has_classes(table, name) for name in outputs):
        rows, labels = _labelled(table, outputs[0])
        splits = [split for split in JUDGED if (rows["split"] == split).any()]
        return _matrices([(outputs[0], rows[rows["split"] == each], labels) for each in splits])
    shown = outputs[:MAX_OUTPUTS]
    figure, grid = grid_of_panels(max(1, len(shown)), 2, room=0.1)
    for (left, right), output in zip(grid, shown, strict=False):
        parts = _errors(table, output)
        errors = np.concatenate([np.empty(0), *(part["error"] for part in parts.values())])
        limit = error_limit(errors)
        for split, part in parts.items():
            clipped = part.assign(error=part["error"].clip(-limit, limit))
            share = np.full(len(part), 100 / len(part))
            look: Any = {"color": SPLITS[split], "alpha": 0.5, "label": split}
            look |= {"range": (-limit, limit), "histtype": "stepfilled"}
            left.hist(clipped["error"], weights=share, **look)
            _scatter(right, clipped, "guess", "error", split, "")
        if parts:
            left.legend()
        if beyond := int((np.abs(errors) > limit).sum()):
            right.set_title(f"{beyond} points beyond, drawn at the border", color=GREY)
        right.axhline(0, **REFERENCE)
        left.set(xlabel="prediction - truth", ylabel="points (%)")
        right.set(xlabel=f"prediction of {shorten(output)}", ylabel="prediction - truth")
    set_remark(figure, note_of_some(len(shown), len(outputs), "outputs"))
    return figure


def has_classes(table: pandas.DataFrame, output: str) -> bool:
    """Return whether an output is text, or whole numbers in both truth and prediction."""
    truth, guess = (table[f"{kind}:{output}"].dropna() for kind in ("truth", "prediction"))
    if guess.dtype.kind not in NUMBERS or (len(truth) and truth.dtype.kind not in NUMBERS):
        return True
    return bool(len(truth) and len(guess)) and not (pandas.concat([truth, guess]) % 1).any()


def _labelled(table: pandas.DataFrame, output: str) -> tuple[pandas.DataFrame, list[str]]:
    """Return the columns split, truth and guess with labels as text, and the sorted labels.

    A label 7 may have been read as 7.0.
    """
    sides = table[[f"truth:{output}", f"prediction:{output}"]].astype(object)
    values = sides.melt()["value"].dropna().unique()
    numeric = all(isinstance(value, int | float) for value in values)
    ordered = sorted(values, key=None if numeric else str)
    texts = {value: f"{value:.15g}" if numeric else str(value) for value in ordered}
    rows = sides.map(texts.get).set_axis(["truth", "guess"], axis=1)
    return rows.assign(split=table["split"]), list(texts.values())[:MAX_CLASSES]


def _classes(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Draw a confusion matrix per output; for two numeric inputs, also a map of the classes."""
    parts = [(output, *_labelled(table, output)) for output in outputs]
    if len(inputs) != 2 or len(outputs) != 1 or not (table["split"] == "grid").any():
        return _matrices(parts)
    (_, rows, labels), *_ = parts
    figure, ((left, right),) = grid_of_panels(1, 2, ALONE)
    x, y = (table[f"input:{name}"].astype(float) for name in inputs)
    _draw_areas(left, rows.assign(x=x, y=y), labels)
    names = [shorten(name) for name in inputs]
    left.set(xlabel=names[0], ylabel=names[1], title="areas: prediction; points: truth")
    _confusion(right, *parts[0])
    return figure


def _matrices(parts: Sequence[tuple[str, pandas.DataFrame, list[str]]]) -> Figure:
    """Draw confusion matrices, two in a row."""
    figure, panels = small_multiples(len(parts), 2, *MATRIX)
    for axes, part in zip(panels, parts, strict=False):
        _confusion(axes, *part)
    return figure


def _confusion(axes: Axes, output: str, rows: pandas.DataFrame, labels: list[str]) -> None:
    split = max(set(rows["split"]) & set(JUDGED), key=JUDGED.index, default="train")
    rows = rows[rows["split"] == split].dropna()
    if not labels:
        axes.set_axis_off()
        return
    table = pandas.crosstab(rows["truth"], rows["guess"])
    counts = table.reindex(index=labels, columns=labels, fill_value=0).to_numpy(dtype=float)
    look: Any = {"cmap": "Blues", "vmin": 0, "vmax": max(1, counts.max())}
    image = heat_map(axes, counts, labels, labels, "{:.0f}".format, **look)
    right = (rows["truth"] == rows["guess"]).sum() / max(1, len(rows))
    largest = counts.sum(1).max(initial=0) / max(1, len(rows))
    title = f"{shorten(output)}, {split}: {right:.1%} correct\n(largest class {largest:.1%})"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    if counts.size > MAX_NUMBERED:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points")


def _draw_areas(axes: Axes, rows: pandas.DataFrame, labels: list[str]) -> None:
    """Draw the predicted class as pale areas, and points in the colour of their true class."""
    numbers = rows["guess"].map({label: i for i, label in enumerate(labels[: len(CYCLE)])})
    grid = rows["split"] == "grid"
    x, y, guess = rows.assign(guess=numbers).loc[grid, ["x", "y", "guess"]].to_numpy(dtype=float).T
    pale = ListedColormap([to_rgba(colour, BAND["alpha"]) for colour in CYCLE])
    draw_map(axes, x, y, guess, (-0.5, len(CYCLE) - 0.5), pale)
    points = thin(rows[~grid]).dropna()
    for colour, label, marker in zip(CYCLE, labels, MARKERS, strict=False):
        some = points[points["truth"] == label]
        pen: Any = {"c": colour, "marker": marker, "label": shorten(label), **CLASS_POINTS}
        axes.scatter(some["x"], some["y"], **pen)
    wrong = points[points["truth"] != points["guess"]]
    if len(wrong):
        axes.scatter(wrong["x"], wrong["y"], **WRONG)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


@styled
def effects(
    table: pandas.DataFrame, importance: pandas.DataFrame, values: pandas.DataFrame
) -> Figure:
    """Draw a panel per input, the most important first: its effect with the others at their mean.

    `table` has the columns input, level (of a category), output, x, value, lower, upper and, of
    older runs not, is_date (x are days since 1970-01-01); `importance` orders the inputs; `values`
    holds quantiles of each input, drawn as ticks along the axis. All panels share the scale of the
    output.
    """
    table, importance, values = (first_seed(one) for one in (table, importance, values))
    names = [name for name in importance["input"] if name in set(table["input"])]
    shown = names[:MAX_INPUTS]
    figure, panels = small_multiples(len(shown), 3, EFFECT, room=0.3, sharey=True)
    lay_out_by_hand(figure, *EFFECTS_LAYOUT)
    part = table[table["input"].isin(shown)]
    low, high = float(part["value"].min()), float(part["value"].max())
    room = ROOM * (high - low) or 1.0
    for axes, name in zip(panels, shown, strict=True):
        own = part[part["input"] == name].sort_values("x")
        for colour, (output, rows) in zip(CYCLE, own.groupby("output"), strict=False):
            levels, ends = rows["level"].fillna(""), (rows["x"], rows["lower"], rows["upper"])
            if levels.all():
                axes.vlines(*ends, color=colour)
                # Within the panel, over the axis: the panel below leaves no room for long names.
                names_of_levels = [shorten(each) for each in levels]
                axes.set_xticks(rows["x"], names_of_levels, rotation=90, va="bottom", ha="left")
                axes.tick_params(axis="x", pad=-4)
                beside = ScaledTranslation(BESIDE_DOTS / 72, 0, figure.dpi_scale_trans)
                for label in axes.get_xticklabels():
                    label.set_transform(label.get_transform() + beside)
                axes.set_xlim(rows["x"].min() - LEVELS_ROOM[0], rows["x"].max() + LEVELS_ROOM[1])
            else:
                axes.fill_between(*ends, color=colour, **BAND)
            style = "o" if levels.all() else "o-" if len(rows) <= 2 else "-"
            axes.plot(rows["x"], rows["value"], style, color=colour, label=shorten(output))
        if "is_date" in own and own["is_date"].astype(bool).any():
            locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            form = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_formatter(form)
        at = values.loc[values["input"] == name, "x"]
        bottom: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(at, 0 * at, "|", color=GREY, ms=5, **bottom)
        axes.set(title=shorten(name), ylim=(low - room, high + room))
    outputs = part["output"].unique()
    if len(outputs) > 1:
        panels[0].legend()
    elif panels:
        panels[0].set_ylabel(shorten(outputs[0]))
    set_remark(figure, note_of_some(len(shown), len(names), "inputs"))
    return figure


@styled
def pair_maps(table: pandas.DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, value and rows. Dots show where training
    rows lie. All maps share the colours of the output.
    """
    table = first_seed(table)
    pairs: Any = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, room=0.2)
    lay_out_by_hand(figure, *MAPS_LAYOUT)
    limits = float(table["value"].min()), float(table["value"].max())
    for axes, ((first, second), rows) in zip(panels, pairs, strict=True):
        x, y, values = rows[["x", "y", "value"]].to_numpy(dtype=float).T
        image = draw_map(axes, x, y, values, limits)
        some = rows[rows["rows"] > 0]
        size = 1 + 14 * np.sqrt(some["rows"] / rows["rows"].max())
        axes.scatter(some["x"], some["y"], s=size, color="white", alpha=0.6)
        axes.set(xlabel=shorten(first), ylabel=shorten(second))
    if panels:
        figure.colorbar(image, ax=panels, label=shorten(table["output"].iloc[0]))
    return figure
