"""Figures of what a model predicts: numbers, classes, and the effects of its inputs.

Predicted numbers are drawn against true ones as curves, maps, parity plots and residuals; classes
as confusion matrices, ROC, precision and calibration curves; effects of single inputs as curves,
and of pairs of inputs as maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame, Series, crosstab

from kanrun.figures.panels import (
    MAX_LETTERS,
    MAX_NUMBERED,
    WIDTH,
    draw_map,
    finish,
    grid_of_panels,
    heat_map,
    map_with_bar,
    name_places,
    small_multiples,
    value_limits,
)
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    DASHED,
    FEW_TICKS,
    GREY,
    JUDGED,
    NUMBERS,
    SPLITS,
    VERMILLION,
    Look,
    error_limit,
    first_seed,
    named_columns,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    thin,
)
from kanrun.points import Array

#: Height and width of a panel of a parity plot (inches).
SQUARE = (3.2, 3.4)
#: Look of the points of a scatter plot.
POINTS: Look = {"s": 6, "alpha": 0.5, "rasterized": True}
GIVEN: Look = {**POINTS, "s": 10, "c": GREY, "label": "training points"}
FEW_POINTS: Look = {"s": 26, "c": BLACK, "alpha": 1.0, "zorder": 4}
UNSEEN: Look = {**POINTS, "s": 14, "c": BLACK, "marker": "x", "label": "test points"}
TRUTH: Look = {"color": BLACK, "lw": 2.4, "alpha": 0.45, "label": "truth"}
REFERENCE: Look = {"color": BLACK, "lw": 0.8, "zorder": 1}

#: For each output, a table with the columns split, fold, truth, guess and `input:<name>`.
Outputs = dict[str, DataFrame]
#: For each column of an input, its label.
Inputs = dict[str, str]


@styled
def predictions(table: DataFrame, title: str | None = None) -> Figure:
    """Draw predictions of the first seed against true values, in a form that suits the inputs.

    With one input, these are curves and the training points; with two, maps of truth, prediction
    and error; otherwise, parity plots. At most four outputs are drawn.

    `table` has the columns seed, split (train, validation, held out, test or grid), `input:<name>`
    for each input, and `prediction:<name>` and `truth:<name>` (NaN if unknown) for each output.
    """
    inputs, outputs, remark = _read(table)
    are_numbers = all(table[name].dtype.kind in NUMBERS for name in inputs)
    draw = {1: _curves, 2: _maps}.get(len(inputs) if are_numbers else 0, _parity)
    figure = draw(inputs, outputs)
    set_remark(figure, title or remark)
    return figure


def _read(table: DataFrame) -> tuple[Inputs, Outputs, str]:
    """Return the inputs and outputs of the first seed.

    The third result is a remark if there are more outputs than are drawn, otherwise "".
    """
    max_outputs = 4  # largest number of outputs that are drawn
    table = first_seed(table)
    inputs = named_columns(table, "input:")
    names = named_columns(table, "prediction:")
    outputs = {
        name: table[["split", *inputs]].assign(
            truth=table[f"truth:{name}"],
            guess=table[column],
            fold=table.get("fold", 0),
        )
        for column, name in list(names.items())[:max_outputs]
    }
    labels = {column: shorten(name) for column, name in inputs.items()}
    return labels, outputs, note_of_some(len(outputs), len(names), "outputs")


def _parity(inputs: Inputs, outputs: Outputs) -> Figure:
    """Draw the predicted against the true values of each output."""
    figure, panels = small_multiples(len(outputs), 2, *SQUARE)
    for axes, (output, rows) in zip(panels, outputs.items(), strict=True):
        for split, part in _errors(rows).groupby("split", sort=False):
            _scatter(axes, part, "truth", "guess", f"{split}, {_rmse(part)}")
            axes.axline((0, 0), slope=1, **REFERENCE)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        ends = np.array([axes.get_xlim(), axes.get_ylim()])
        limits = ends.min(), ends.max()
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set(xlabel=f"{shorten(output)}: truth", ylabel="prediction")
    return figure


def _curves(inputs: Inputs, outputs: Outputs) -> Figure:
    """Draw predicted curves with training points, and with true curves or test points."""
    figure, panels = small_multiples(len(outputs), width=WIDTH)
    ((x, name),) = inputs.items()
    for axes, (output, rows) in zip(panels, outputs.items(), strict=True):
        split = rows["split"]
        grid = rows[split == "grid"].sort_values(x)
        known = thin(rows[split.isin(["train", "validation"])])
        test = thin(rows[split == "test"])
        few = len(known) <= 30  # so few are drawn larger, and in front of the curves
        axes.scatter(known[x], known["truth"], **GIVEN | (FEW_POINTS if few else {}))
        if grid["truth"].notna().any():
            axes.plot(grid[x], grid["truth"], **TRUTH)
        elif len(test):
            axes.scatter(test[x], test["truth"], **UNSEEN)
        axes.plot(grid[x], grid["guess"], color=VERMILLION, label="prediction")
        axes.set(xlabel=name, ylabel=shorten(output))
        axes.margins(x=0.02 * few)
        axes.legend()
    return figure


def _maps(inputs: Inputs, outputs: Outputs) -> Figure:
    """Draw truth, prediction and error of each output side by side.

    If no true values are known, draw only the prediction. Truth and prediction share a colour
    scale.
    """
    alone = 3.2  # width of a map that stands alone (inches)
    (across, up), rows = inputs.values(), next(iter(outputs.values()))
    split = min(rows["split"], key=("grid", "test", "validation", "train").index)
    shown = rows["split"] == split
    known = any(rows.loc[shown, "truth"].notna().any() for rows in outputs.values())
    columns, width = (3, None) if known else (1, alone)
    figure, grid = grid_of_panels(len(outputs), columns, width=width, sharey=True)
    for line, (output, rows) in zip(grid, outputs.items(), strict=True):
        values = thin(rows.loc[shown, [*inputs, "truth", "guess"]])
        x, y, truth, guess = values.to_numpy(float).T
        limits = value_limits([*truth, *guess])
        maps: Any = {"prediction": (guess, limits)}
        if known:
            maps = {"truth": (truth, limits), **maps, "prediction - truth": (guess - truth, None)}
        for axes, (title, (drawn, common)) in zip(line, maps.items(), strict=True):
            map_with_bar(axes, x, y, drawn, common, shorten(output))
            axes.set(title=title, xlabel=across)
        line[0].set_ylabel(up)
    return figure


def _errors(rows: DataFrame) -> DataFrame:
    """Return the rows of JUDGED that have both values, with their `error`: prediction - truth."""
    error = rows["guess"] - rows["truth"]
    return rows.assign(error=error)[rows["split"].isin(JUDGED) & np.isfinite(error)]


def _rmse(part: DataFrame) -> str:
    """Return the RMSE in words.

    For held-out rows it is the mean over folds of their RMSEs, as in the summary.
    """
    errors = np.sqrt((part["error"] ** 2).groupby(part["fold"]).mean())
    folds = len(errors)
    return f"RMSE {number(errors.mean())}" + f" (mean of {folds} folds)" * (folds > 1)


def _scatter(axes: Axes, part: DataFrame, x: str, y: str, label: str) -> None:
    """Draw the points of one split; test points are in front."""
    rows = thin(part)
    split = rows["split"].iloc[0]
    order = 2 + (split == "test")
    axes.scatter(rows[x], rows[y], c=SPLITS[split], label=label, zorder=order, **POINTS)


@styled
def residuals(table: DataFrame) -> Figure:
    """Draw a histogram of the residuals, prediction - truth, and the residuals over the prediction.

    `table` has the columns of `predictions`. Each output has a row of panels. Only the first seed
    and the splits train, held out and test are drawn.
    """
    _, outputs, remark = _read(table)
    figure, grid = grid_of_panels(len(outputs), 2, room=0.1)
    remarks = [remark]
    for (left, right), output in zip(grid, outputs, strict=True):
        errors = _errors(outputs[output])
        limit = error_limit(errors["error"].to_numpy())
        clipped = errors.assign(error=errors["error"].clip(-limit, limit))
        for split, part in clipped.groupby("split", sort=False):
            share = np.full(len(part), 100 / len(part))
            look: Any = {"color": SPLITS[str(split)], "alpha": 0.5, "label": split}
            look |= {"range": (-limit, limit), "histtype": "stepfilled"}
            left.hist(part["error"], weights=share, **look)
            _scatter(right, part, "guess", "error", "")
        if len(errors):
            left.legend()
        if beyond := int((errors["error"].abs() > limit).sum()):
            remarks.append(f"{beyond} points of {shorten(output)} beyond, drawn at the border")
        right.axhline(0, **REFERENCE)
        left.set(xlabel="prediction - truth", ylabel="points (%)")
        right.set(xlabel=f"prediction of {shorten(output)}", ylabel="prediction - truth")
    set_remark(figure, *remarks)
    return figure


#: Largest number of classes in a confusion matrix. A remark says if there are more.
MAX_CLASSES = 30
#: Height and width of a confusion matrix (inches).
MATRIX = (3.2, 4.2)
CHANCE: Look = {"color": BLACK, "lw": 0.8, "ls": ":"}


@styled
def confusion(table: DataFrame) -> Figure:
    """Draw confusion matrices of the first seed for the training, held-out and test points.

    `table` has the columns seed, split, `truth:<name>` and `prediction:<name>`, where `<name>` is
    the output.
    """
    rows = first_seed(table)
    ((guess, output),) = named_columns(rows, "prediction:").items()
    true = f"truth:{output}"
    known = rows[rows["split"].isin(JUDGED)].dropna(subset=[true, guess])
    splits: Any = list(known.groupby("split", sort=False))
    figure, panels = small_multiples(len(splits), 2, *MATRIX)
    for axes, (split, part) in zip(panels, splits, strict=True):
        _draw_matrix(axes, part[true], part[guess], f"{shorten(output)}, {split}")
    count = len({*known[true], *known[guess]})
    set_remark(figure, note_of_some(MAX_CLASSES, count, "classes, the first in order"))
    return figure


def _draw_matrix(axes: Axes, truth: Series[str], predicted: Series[str], name: str) -> None:
    """Draw a confusion matrix; the title has the accuracy and the fraction of the largest class."""
    labels = sorted({*truth, *predicted}, key=_order)[:MAX_CLASSES]
    counts = crosstab(truth, predicted).reindex(index=labels, columns=labels, fill_value=0)
    values = counts.to_numpy(dtype=float)
    image = heat_map(axes, values, labels, labels, "{:.0f}".format, cmap="Blues", vmin=0)
    largest = truth.value_counts(normalize=True).max()
    title = f"{name}: {(truth == predicted).mean():.1%} correct\n(largest class {largest:.1%})"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    if counts.size > MAX_NUMBERED:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points")


def _order(label: str) -> tuple[float, str]:
    """Return a key that sorts numbers by their values, and other labels as text."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label


@styled
def class_curves(held_out: DataFrame) -> Figure:
    """Draw ROC, precision-recall and calibration curves of the first seed's held-out rows.

    `held_out` has the columns seed, `truth:<output>` and `probability:<class>`. With two classes,
    the curves are those of the second class; otherwise each of the first classes is compared with
    all others. The legend gives the areas under the curves. The calibration curve compares the mean
    predicted probability in each tenth of the rows with the observed frequency.
    """
    side = 3.2  # height of a panel of curves (inches)
    table = first_seed(held_out)
    (truth,) = named_columns(table, "truth:")
    classes = list(named_columns(table, "probability:").items())
    figure, (panels,) = grid_of_panels(1, 3, side)
    roc, recall, calibration = panels
    for colour, (name, label) in zip(CYCLE, classes[len(classes) == 2 :], strict=False):
        rows = table.sort_values(name, ascending=False, kind="stable")
        hit = np.asarray(rows[truth].astype(str) == label, dtype=float)
        _draw_class(panels, hit, rows[name].to_numpy(dtype=float), label, colour)
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], **CHANCE)
    roc.set(xlabel="false positives", ylabel="true positives")
    recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    calibration.set(xlabel="predicted probability", ylabel="observed frequency")
    roc.legend(loc="lower right")
    recall.legend(loc="lower left")
    set_remark(figure, note_of_some(len(CYCLE), len(classes), "classes"))
    return figure


def _draw_class(panels: Sequence[Axes], hit: Array, likely: Array, label: str, colour: str) -> None:
    """Draw the three curves of one class.

    `likely` has the predicted probabilities of the class in descending order. `hit` is 1 for rows
    of the class and 0 for others. Both have the shape (rows,).
    """
    fewest_rows = 10  # the precision curve starts at this many rows
    groups = 10  # number of groups in a calibration curve
    roc, recall, calibration = panels
    # The last row of each group of equal probabilities.
    last = np.append(np.flatnonzero(np.diff(likely)), len(likely) - 1)
    count = last + 1
    right = np.cumsum(hit)[last]
    recalled = right / max(1.0, hit.sum())
    false = (count - right) / max(1.0, (1 - hit).sum())
    precision = right / count
    area = np.trapezoid([0.0, *recalled], [0.0, *false])
    name = f"{shorten(label)}, area {number(area)}"
    roc.plot([0.0, *false], [0.0, *recalled], color=colour, label=name)
    drawn = count >= fewest_rows
    mean = number(float(np.diff(recalled, prepend=0.0) @ precision))
    recall.plot(recalled[drawn], precision[drawn], color=colour, label=f"mean {mean}")
    parts = [part for part in np.array_split(np.arange(len(hit)), groups) if len(part)]
    means = [(likely[part].mean(), hit[part].mean()) for part in parts]
    calibration.plot(*np.transpose(means[::-1]), "o-", color=colour, ms=3)


#: Remark below a figure in which bands were cut off.
CUT = "wide bands are cut"
#: Prefix of the name of an input that is a day of the week, from 0 (Monday).
WEEKDAY = "weekday of "
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@styled
def effects(
    table: DataFrame,
    order: Sequence[str],
    values: DataFrame,
    remark: str = "",
    *,
    classes: bool = False,
) -> Figure:
    """Draw a panel per input, the most important first: its effect with the others at their mean.

    All panels share the scale of the output.

    Args:
        table: Columns input, level (of a category, otherwise empty), output, x, value, lower,
            upper, is_date (whether x is in days since 1970-01-01) and, optionally, ale (the
            accumulated local effect, a second curve).
        order: Names of the inputs, the most important first; at most 12 are drawn.
        values: Columns input and x: quantiles of the inputs, drawn as ticks.
        remark: Text above the panels.
        classes: Whether the values are probabilities. They are drawn on a log-odds scale, so that
            effects on rare classes are visible. Of two classes, only the second is drawn; of many,
            the first seven.
    """
    quantile = 25  # area of the marks at quantiles of an input (square points)
    # Largest total number of letters in the names of levels, plus two per name, for which the names
    # are written side by side below a panel of effects.
    level_letters = 24
    effect = 1.9  # height of a panel of effects (inches)
    max_inputs = 12  # largest number of inputs whose effects are drawn
    table = _placed(first_seed(table))
    values = first_seed(values)
    outputs = table["output"].unique()
    count = len(outputs)
    outputs = outputs[classes and count == 2 :][: len(CYCLE)]
    table = table[table["output"].isin(outputs)]
    names = [name for name in dict.fromkeys(order) if name in set(table["input"])]
    shown = names[:max_inputs]
    table = table[table["input"].isin(shown)]
    figure, panels = small_multiples(len(shown), 3, effect, sharey=True)
    cut = False
    for panel, name in zip(panels, shown, strict=True):
        rows = table[table["input"] == name].sort_values("x")
        for colour, output in zip(CYCLE, outputs, strict=False):
            _draw_effect(panel, rows[rows["output"] == output], colour, shorten(output))
        _show_input(panel.xaxis, rows, level_letters)
        x = values.loc[values["input"] == name, "x"]
        look: Any = {"transform": panel.get_xaxis_transform(), "clip_on": False}
        panel.scatter(x, 0 * x, quantile, GREY, marker="|", **look)
        panel.set_title(shorten(name))
    if panels:
        cut = _show_output(panels[0], table, is_probability=classes)
        several = len(outputs) > 1
        panels[0].set_ylabel("" if several else "probability of " * classes + shorten(outputs[0]))
    inputs = note_of_some(max_inputs, len(names), "inputs")
    set_remark(figure, remark, inputs, note_of_some(len(CYCLE), count, "outputs"), CUT * cut)
    return finish(figure, panels[: len(outputs) > 1], ncols=len(outputs))


def _placed(rows: DataFrame) -> DataFrame:
    """Return the rows with levels as text, and with x = 0, 1, ... for the levels of each input."""
    levels = rows["level"].astype(object).fillna("").astype(str)
    places = rows.groupby("input")["x"].rank("dense") - 1
    return rows.assign(level=levels, x=rows["x"].where(levels == "", places))


def _draw_effect(panel: Axes, rows: DataFrame, colour: str, label: str) -> None:
    """Draw the effect of an input on one output, with its band."""
    # Margin on either side of the levels of an input, as a fraction of their range.
    levels_room = 0.2
    x, value, lower, upper = rows[["x", "value", "lower", "upper"]].to_numpy(dtype=float).T
    is_level = bool(rows["level"].all())
    if is_level:
        panel.vlines(x, lower, upper, color=colour)
        panel.margins(x=levels_room)
    else:
        panel.fill_between(x, lower, upper, color=colour, **BAND)
    style = "o" if is_level else "o-" if len(rows) <= 2 else "-"
    panel.plot(x, value, style, color=colour, label=label)
    if "ale" in rows and not is_level:
        panel.plot(x, rows["ale"], **{**DASHED, "color": BLACK, "zorder": 2})


def _show_input(axis: Axis, rows: DataFrame, letters: int = MAX_LETTERS) -> None:
    """Set the ticks of an input's axis: names of levels, weekdays, dates, or numbers.

    Names of levels with more than `letters` letters in total are rotated.
    """
    levels = rows.drop_duplicates("x").sort_values("x")["level"]
    if levels.all():
        name_places(axis, list(levels), letters)
    elif str(rows["input"].iloc[0]).startswith(WEEKDAY):
        axis.set_ticks(range(len(DAYS)), DAYS)
    elif "is_date" in rows and rows["is_date"].any():
        locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
        axis.set_major_locator(locator)
        form = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
        axis.set_major_formatter(form)
    elif len(different := np.unique(rows["x"])) <= FEW_TICKS["nbins"]:
        axis.set_ticks(different)


def _show_output(panel: Axes, table: DataFrame, *, is_probability: bool) -> bool:
    """Set scale, limits and ticks of the vertical axis that all panels share.

    Probabilities get a logit scale. The limits follow the curves: bands are cut off where they
    extend too far beyond them. Return whether a band was cut off.
    """
    # How far a band may extend above or below the curves, as a multiple of the range of the curves.
    band_room = 1.0
    # Probabilities p are drawn between this and 1 minus this, since log-odds of 0 and 1 are
    # infinite.
    smallest_probability = 1e-6
    parts = table[["value", "lower", "upper"]].astype(float)
    if is_probability:
        parts = parts.clip(smallest_probability, 1 - smallest_probability)
        panel.set_yscale("logit", nonpositive="clip")
    scale = panel.yaxis.get_transform()
    values, lower, upper = (scale.transform(parts[name].to_numpy()) for name in parts)
    low = values.min()
    high = values.max()
    most = band_room * (high - low) or 1.0
    ends = np.nanmin([*lower, low]), np.nanmax([*upper, high])
    low = max(ends[0], low - most)
    high = min(ends[1], high + most)
    room = 0.08 * (high - low) or 1.0
    panel.set_ylim(*scale.inverted().transform(np.array([low - room, high + room])))
    if is_probability:
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())
    return bool(ends[0] < low or ends[1] > high)


@styled
def pair_maps(table: DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, level_1, level_2, value and rows. For a
    category, `level_1` or `level_2` has the name of the level with the number x or y. `rows` is the
    number of training rows at this point of the map, which the size of a dot shows. All maps share
    one colour scale.
    """
    larger = 14  # area that is added for the dot with the most rows (square points)
    smallest = 1  # area of the smallest dot on a map, for few rows (square points)

    table = first_seed(table)
    pairs: Any = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, height=2.6)
    limits = value_limits(table["value"])
    for panel, (names, rows) in zip(panels, pairs, strict=True):
        sides = [
            _placed(DataFrame({"input": name, "x": rows[at], "level": rows[level]}))
            for name, at, level in zip(names, "xy", ("level_1", "level_2"), strict=True)
        ]
        x, y = (side["x"] for side in sides)
        image = draw_map(panel, x, y, rows["value"], limits)
        some = rows["rows"] > 0
        size = smallest + larger * np.sqrt(rows["rows"][some] / rows["rows"].max())
        panel.scatter(x[some], y[some], s=size, color="white", alpha=0.6)
        for axis, side, name in zip((panel.xaxis, panel.yaxis), sides, names, strict=True):
            _show_input(axis, side)
            axis.set_label_text(shorten(name))
    if panels:
        figure.colorbar(image, ax=panels, label=shorten(table["output"].iloc[0]))
    return figure
