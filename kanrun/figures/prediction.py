"""Predictions against the truth: numbers, classes and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import CategoricalDtype, DataFrame, concat, crosstab, to_numeric

from kanrun.figures.panels import (
    MAX_NUMBERED,
    WIDTH,
    draw_map,
    grid_of_panels,
    heat_map,
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
    Look,
    error_limit,
    first_seed,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    thin,
)
from kanrun.points import Array

#: Splits on which predictions are judged, the most trustworthy last.
JUDGED = ("train", "held out", "test")
#: Largest number of outputs that are drawn.
MAX_OUTPUTS = 4
#: Largest number of classes of a confusion matrix.
MAX_CLASSES = 30
#: Rows of a map: its cells are small, but files grow with them.
MAX_CELLS = 40_000
#: Height and width of a panel of a parity plot (inches).
SQUARE = (3.2, 3.4)
#: Height and width of a confusion matrix (inches).
MATRIX = (3.2, 4.2)
#: Width of a map that stands alone (inches).
ALONE = 3.2
#: Height of a panel of curves of probabilities (inches).
CURVES = 3.1
#: Points of a scatter plot, wrong ones around them, and training points below a curve.
POINTS: Look = {"s": 6, "alpha": 0.5, "rasterized": True}
CLASS_POINTS: Look = {"s": 12, "lw": 0.3, "ec": "white"}
WRONG: Look = {"s": 45, "fc": "none", "ec": BLACK, "label": "misclassified"}
GIVEN: Look = {**POINTS, "s": 10, "c": GREY, "label": "training points"}
#: Number of training points up to which they are drawn larger, and over the curves.
FEW = 30
FEW_POINTS: Look = {"s": 26, "c": BLACK, "alpha": 1.0, "zorder": 4}
UNSEEN: Look = {**POINTS, "s": 14, "c": BLACK, "marker": "x", "label": "test points"}
TRUTH: Look = {"color": BLACK, "lw": 2.4, "alpha": 0.45, "label": "truth"}
REFERENCE: Look = {"color": BLACK, "lw": 0.8, "zorder": 1}
BELOW: Look = {"location": "bottom", "pad": 0.04, "shrink": 0.9}
#: Length over width of the colour bar below two maps.
LONG = 44
#: Length over width of the colour bar below one map.
SHORT = 22
#: Groups of rows with similar probabilities, whose mean is compared with the observed frequency.
BINS = 10
#: Number of rows whose precision is drawn first: that of fewer rows jumps between 0 and 1.
FEWEST_ROWS = 10
CHANCE: Look = {"color": BLACK, "lw": 0.8, "ls": ":"}


#: For each output, its rows: the columns split, fold, truth, guess and `input:<name>`.
Outputs = dict[str, DataFrame]
#: The columns of the inputs, and the names that label them.
Inputs = dict[str, str]


@styled
def predictions(table: DataFrame, title: str | None = None) -> Figure:
    """Draw predictions of the first seed against true values, in a form that suits the inputs.

    `table` has the columns seed, split (train, validation, test, grid), `input:<name>` per input,
    and for each output `truth:<name>` (which may be missing or empty) and `prediction:<name>`. One
    input gives curves with the training points, two give maps of truth, prediction and error, more
    give a parity plot. Classes (text or whole numbers) give a confusion matrix, of two inputs with
    a map of the classes. At most four outputs are drawn.
    """
    inputs, outputs, remark = _read(table)
    are_numbers = all(table[name].dtype.kind in NUMBERS for name in inputs)
    if outputs and all(map(has_classes, outputs.values())):
        figure = _classes(inputs if are_numbers else {}, outputs)
    elif len(inputs) == 1 and are_numbers:
        figure = _curves(inputs, outputs)
    elif len(inputs) == 2 and are_numbers:
        figure = _maps(inputs, outputs)
    else:
        figure, panels = small_multiples(len(outputs), 2, *SQUARE)
        for axes, (output, rows) in zip(panels, outputs.items(), strict=True):
            parts = _errors(rows)
            for split, part in parts.items():
                _scatter(axes, part, "truth", "guess", split, f"{split}, {_rmse(part)}")
            if parts:
                axes.axline((0, 0), slope=1, **REFERENCE)
                (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
                limits = min(left, bottom), max(right, top)
                axes.set(xlim=limits, ylim=limits)
                axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
            axes.set(xlabel=f"{shorten(output)}: truth", ylabel="prediction")
            axes.set_aspect("equal", adjustable="box")
    set_remark(figure, title or remark)
    return figure


def _read(table: DataFrame) -> tuple[Inputs, Outputs, str]:
    """Return inputs and outputs of the first seed, and a remark if not all outputs are there."""
    table = first_seed(table)
    inputs, names = (
        {name: name.removeprefix(kind) for name in map(str, table) if name.startswith(kind)}
        for kind in ("input:", "prediction:")
    )
    outputs = {
        name: table[["split", *inputs]].assign(
            truth=table.get(f"truth:{name}", np.nan),
            guess=table[column],
            fold=table.get("fold", 0),
        )
        for column, name in list(names.items())[:MAX_OUTPUTS]
    }
    labels = {column: shorten(name) for column, name in inputs.items()}
    return labels, outputs, note_of_some(len(outputs), len(names), "outputs")


def _curves(inputs: Inputs, outputs: Outputs) -> Figure:
    figure, panels = small_multiples(len(outputs), width=WIDTH)
    ((x, name),) = inputs.items()
    for axes, (output, rows) in zip(panels, outputs.items(), strict=True):
        is_grid = (rows["split"] == "grid").any()
        line = rows[rows["split"] == ("grid" if is_grid else "test")].sort_values(x)
        given = thin(rows[rows["split"].isin(["train", "validation"])])
        if len(given):
            look = GIVEN | FEW_POINTS if len(given) <= FEW else GIVEN
            axes.scatter(given[x], given["truth"], **look)
        is_known = is_grid and line["truth"].notna().any()
        if is_known:
            axes.plot(line[x], line["truth"], **TRUTH)
        elif len(test := thin(rows[rows["split"] == "test"])):
            axes.scatter(test[x], test["truth"], **UNSEEN)
        if is_grid:
            axes.plot(line[x], line["guess"], color=VERMILLION, label="prediction")
        else:
            axes.scatter(line[x], line["guess"], color=VERMILLION, label="prediction", **POINTS)
        axes.set(xlabel=name, ylabel=shorten(output))
        axes.margins(x=0.02 * (len(given) <= FEW))
        axes.legend()
    return figure


def _maps(inputs: Inputs, outputs: Outputs) -> Figure:
    """Draw truth, prediction and error of each output side by side.

    Without truth, draw the prediction alone. Truth and prediction share their colours; those of the
    error are centred at zero.
    """
    (across, up), some = inputs.values(), next(iter(outputs.values()))["split"]
    split = next((name for name in ("grid", "test", "train") if (some == name).any()), "")
    drawn = {name: thin(rows[some == split], MAX_CELLS) for name, rows in outputs.items()}
    known = any(rows["truth"].notna().any() for rows in drawn.values())
    columns, width = (3, None) if known else (1, ALONE)
    figure, grid = grid_of_panels(len(drawn), columns, width=width, sharey=True)
    for line, (output, rows) in zip(grid, drawn.items(), strict=True):
        x, y, truth, guess = rows[[*inputs, "truth", "guess"]].to_numpy(dtype=float).T
        finite = np.concatenate([truth, guess])[np.isfinite([*truth, *guess])]
        limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        shown = [("truth", truth), ("prediction", guess)][not known :]
        for axes, (title, values) in zip(line, shown, strict=False):
            image = draw_map(axes, x, y, values, limits)
            axes.set_title(title)
        figure.colorbar(image, ax=line[:2], aspect=LONG, label=shorten(output), **BELOW)
        if known:
            error = guess - truth
            limit = error_limit(error)
            largest = float(np.nanmax(np.abs(error), initial=0.0))
            image = draw_map(line[2], x, y, error, (-limit, limit), DIVERGING)
            line[2].set_title("prediction - truth")
            extend = "both" if largest > limit else "neither"
            look: Any = {"aspect": SHORT, "ticks": MaxNLocator(3), "extend": extend}
            bar = figure.colorbar(image, ax=line[2], **look, **BELOW)
            bar.set_label(f"largest {number(largest)}", loc="left")
        for axes in line:
            axes.set_xlabel(across)
        line[0].set_ylabel(up)
    return figure


def _errors(rows: DataFrame) -> dict[str, DataFrame]:
    """Return, for each split, the columns truth, guess and error of the rows that have both."""
    both = rows[["truth", "guess"]].apply(to_numeric, errors="coerce")
    error = both["guess"] - both["truth"]
    both = both.assign(split=rows["split"], fold=rows["fold"], error=error)
    both = both[np.isfinite(both["error"])]
    parts = {split: both[both["split"] == split] for split in JUDGED}
    return {split: part for split, part in parts.items() if len(part)}


def _rmse(part: DataFrame) -> str:
    """Return the RMSE in words: of held-out rows the mean over folds, which summaries have."""
    squares = part["error"] ** 2
    if part["fold"].nunique() < 2:
        return f"RMSE {number(float(np.sqrt(squares.mean())))}"
    folds = np.sqrt(squares.groupby(part["fold"]).mean())
    return f"RMSE {number(float(folds.mean()))} (mean of {len(folds)} folds)"


def _scatter(axes: Axes, part: DataFrame, x: str, y: str, split: str, label: str) -> None:
    rows = thin(part)
    order = 2 + (split == "test")
    axes.scatter(rows[x], rows[y], c=SPLITS[split], label=label, zorder=order, **POINTS)


@styled
def residuals(table: DataFrame) -> Figure:
    """Draw a histogram of prediction - truth, and it over the prediction, for each numeric output.

    `table` is as for `predictions`; rows of the first seed and the splits train and test count. For
    classes, draw the confusion matrix of each split.
    """
    _, outputs, remark = _read(table)
    if outputs and all(map(has_classes, outputs.values())):
        output, rows = next(iter(outputs.items()))
        rows = _labelled(rows)
        splits = [split for split in JUDGED if (rows["split"] == split).any()]
        return _matrices([(output, rows[rows["split"] == split]) for split in splits])
    figure, grid = grid_of_panels(max(1, len(outputs)), 2, room=0.1)
    remarks = [remark]
    for (left, right), output in zip(grid, outputs, strict=False):
        parts = _errors(outputs[output])
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
            where = f" of {shorten(output)}" * (len(outputs) > 1)
            remarks.append(f"{beyond} points{where} beyond, drawn at the border")
        right.axhline(0, **REFERENCE)
        left.set(xlabel="prediction - truth", ylabel="points (%)")
        right.set(xlabel=f"prediction of {shorten(output)}", ylabel="prediction - truth")
    set_remark(figure, "; ".join(filter(None, remarks)))
    return figure


def has_classes(rows: DataFrame) -> bool:
    """Return whether truth and guess are text, or whole numbers on both sides.

    Floats of 2^53 and more have no fractions, and count as measured.
    """
    truth = rows["truth"].dropna()
    guess = rows["guess"].dropna()
    if guess.dtype.kind not in NUMBERS or (len(truth) and truth.dtype.kind not in NUMBERS):
        return True
    if not len(truth) or not len(guess):
        return False
    values = concat([truth, guess])
    return bool((values.abs() < 2**53).all()) and not (values % 1).any()


def _labelled(rows: DataFrame) -> DataFrame:
    """Return the rows with truth and guess as categories of text in the order of their values.

    A label 7 may have been read as 7.0.
    """
    sides = rows[["truth", "guess"]].astype(object)
    values = sides.melt()["value"].dropna().unique()
    numeric = all(isinstance(value, int | float) for value in values)
    ordered = sorted(values, key=None if numeric else str)
    texts = {value: f"{value:.15g}" if numeric else str(value) for value in ordered}
    labels = CategoricalDtype(list(dict.fromkeys(texts.values())))
    return rows.assign(**sides.map(texts.get).astype(labels))


def _classes(inputs: Inputs, outputs: Outputs) -> Figure:
    """Draw a confusion matrix per output; for two numeric inputs, also a map of the classes."""
    parts = [(output, _labelled(rows)) for output, rows in outputs.items()]
    (_, rows), *_ = parts
    if len(inputs) != 2 or len(parts) != 1 or not (rows["split"] == "grid").any():
        return _matrices(parts)
    figure, ((left, right),) = grid_of_panels(1, 2, ALONE)
    _confusion(right, *parts[0])
    (x, across), (y, up) = inputs.items()
    left.set(xlabel=across, ylabel=up, title="areas: prediction; points: truth")
    is_grid = rows["split"] == "grid"
    codes = rows["guess"].cat.codes[is_grid]
    codes = codes.where(codes.between(0, len(CYCLE) - 1))
    pale = ListedColormap([to_rgba(colour, BAND["alpha"]) for colour in CYCLE])
    draw_map(left, rows[x][is_grid], rows[y][is_grid], codes, (-0.5, len(CYCLE) - 0.5), pale)
    points = thin(rows[~is_grid]).dropna()
    for colour, label, marker in zip(CYCLE, rows["truth"].cat.categories, MARKERS, strict=False):
        some = points[points["truth"] == label]
        pen: Any = {"c": colour, "marker": marker, "label": shorten(label), **CLASS_POINTS}
        left.scatter(some[x], some[y], **pen)
    wrong = points[points["truth"] != points["guess"]]
    if len(wrong):
        left.scatter(wrong[x], wrong[y], **WRONG)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def _matrices(parts: Sequence[tuple[str, DataFrame]]) -> Figure:
    """Draw confusion matrices, two in a row."""
    figure, panels = small_multiples(len(parts), 2, *MATRIX)
    for axes, part in zip(panels, parts, strict=False):
        _confusion(axes, *part)
    return figure


def _confusion(axes: Axes, output: str, rows: DataFrame) -> None:
    split = max(set(rows["split"]) & set(JUDGED), key=JUDGED.index, default="train")
    rows = rows.loc[rows["split"] == split, ["truth", "guess"]].dropna()
    counts = crosstab(rows["truth"], rows["guess"], dropna=False)
    counts = counts.iloc[:MAX_CLASSES, :MAX_CLASSES]
    if counts.empty:
        axes.set_axis_off()
        return
    look: Any = {"cmap": "Blues", "vmin": 0, "vmax": max(1, counts.to_numpy().max())}
    names = list(counts.index), list(counts.columns)
    image = heat_map(axes, counts.to_numpy(dtype=float), *names, "{:.0f}".format, **look)
    right = (rows["truth"] == rows["guess"]).sum() / max(1, len(rows))
    largest = counts.sum(axis=1).max() / max(1, len(rows))
    title = f"{shorten(output)}, {split}: {right:.1%} correct\n(largest class {largest:.1%})"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    if counts.size > MAX_NUMBERED:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points")


@styled
def class_curves(held_out: DataFrame) -> Figure:
    """Draw ROC, precision-recall and calibration curves of the first seed's held-out rows.

    `held_out` has the columns seed, truth:<output> and probability:<class>. Of two classes the
    second is drawn, of more the first few against all others. Areas under the curves are named; the
    precision of fewer than 10 rows is not drawn. The calibration compares the mean probability of
    tenths of the rows with the observed frequency.
    """
    table = first_seed(held_out)
    truth = next(table[name].astype(str) for name in table if str(name).startswith("truth:"))
    classes = [name for name in table if str(name).startswith("probability:")]
    figure, ((roc, recall, calibration),) = grid_of_panels(1, 3, CURVES)
    for colour, name in zip(CYCLE, classes[1:] if len(classes) == 2 else classes, strict=False):
        label = str(name).removeprefix("probability:")
        order = np.argsort(-table[name].to_numpy(dtype=float), kind="stable")
        likely = table[name].to_numpy(dtype=float)[order]
        hit = (truth == label).to_numpy().astype(float)[order]
        _draw_class((roc, recall, calibration), hit, likely, label, colour)
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], **CHANCE)
    roc.set(xlabel="false positives", ylabel="true positives")
    recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    calibration.set(xlabel="predicted probability", ylabel="observed frequency")
    for axes in (roc, recall):
        axes.legend(loc="lower right" if axes is roc else "lower left")
    return figure


def _draw_class(panels: Sequence[Axes], hit: Array, likely: Array, label: str, colour: str) -> None:
    """Draw the three curves of a class: whether rows have it, the most likely ones first."""
    roc, recall, calibration = panels
    last = np.append(np.flatnonzero(np.diff(likely)), len(likely) - 1)  # of equal probabilities
    count = last + 1
    right = np.cumsum(hit)[last]
    found = right / max(1, int(hit.sum()))
    false = (count - right) / max(1, len(hit) - int(hit.sum()))
    precision = right / count
    steps = np.diff(found, prepend=0.0)
    area = float(np.sum(np.diff(false, prepend=0.0) * (found - steps / 2)))
    name = f"{shorten(label)}, area {number(area)}"
    roc.plot([0.0, *false], [0.0, *found], color=colour, label=name)
    drawn = count >= FEWEST_ROWS
    mean = number(float(np.sum(steps * precision)))
    recall.plot(found[drawn], precision[drawn], color=colour, label=f"mean {mean}")
    parts = np.array_split(np.arange(len(hit)), BINS)
    means = [(likely[part].mean(), hit[part].mean()) for part in parts if len(part)]
    calibration.plot(*np.transpose(means[::-1]), "o-", color=colour, ms=3)
