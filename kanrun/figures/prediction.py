"""Figures of predicted numbers against true ones: curves, maps, parity plots and residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.panels import (
    WIDTH,
    grid_of_panels,
    map_with_bar,
    small_multiples,
    value_limits,
)
from kanrun.figures.style import (
    BLACK,
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

#: Largest number of outputs that are drawn.
MAX_OUTPUTS = 4
#: Height and width of a panel of a parity plot (inches).
SQUARE = (3.2, 3.4)
#: Width of a map that stands alone (inches).
ALONE = 3.2
#: Look of the points of a scatter plot.
POINTS: Look = {"s": 6, "alpha": 0.5, "rasterized": True}
GIVEN: Look = {**POINTS, "s": 10, "c": GREY, "label": "training points"}
#: Largest number of training points that are drawn larger, and in front of the curves.
FEW = 30
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
    table = first_seed(table)
    inputs = named_columns(table, "input:")
    names = named_columns(table, "prediction:")
    outputs = {
        name: table[["split", *inputs]].assign(
            truth=table[f"truth:{name}"],
            guess=table[column],
            fold=table.get("fold", 0),
        )
        for column, name in list(names.items())[:MAX_OUTPUTS]
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
        few = len(known) <= FEW
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
    (across, up), rows = inputs.values(), next(iter(outputs.values()))
    split = min(rows["split"], key=("grid", "test", "validation", "train").index)
    shown = rows["split"] == split
    known = any(rows.loc[shown, "truth"].notna().any() for rows in outputs.values())
    columns, width = (3, None) if known else (1, ALONE)
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
