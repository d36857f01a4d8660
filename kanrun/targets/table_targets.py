"""Targets that are tables: table files, tables bundled with scikit-learn, and points of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.points import Array, Points
from kanrun.targets.arrays import array_target, check_family, frame_columns
from kanrun.targets.datasets import Target, check_known
from kanrun.targets.encoding import (
    EMPTY,
    Reading,
    TableCode,
    plain_code,
    read_inputs,
)
from kanrun.targets.settings import BundledTarget, PointsTarget, TableTarget
from kanrun.targets.table_files import ReadOptions, TableFile, check_path
from kanrun.targets.table_text import (
    Values,
    canonical,
    is_number,
    other_notation,
    read_days,
    read_numbers,
    text_of,
)

#: Bundled tables by name: the loader in sklearn.datasets, and the task.
BUNDLED = {
    "diabetes": ("load_diabetes", "regression"),
    "linnerud": ("load_linnerud", "regression"),
    "iris": ("load_iris", "classification"),
    "wine": ("load_wine", "classification"),
    "breast_cancer": ("load_breast_cancer", "classification"),
    "digits": ("load_digits", "classification"),
}
#: Advice for messages about texts among the numbers of an input (_OUTPUT_REMEDY: of an output).
_REMEDY = (
    ' (target.drop_rows={rows}), say that they mean missing ("target.read.na_values={texts}"), or '
    "that the column is a category (target.categorical_columns=[{name}])"
)
_OUTPUT_REMEDY = (
    " (target.drop_rows={rows}), say that they mean missing, which leaves such rows out "
    '("target.read.na_values={texts}"), or that the column holds labels '
    "(target.task=classification)"
)
#: Words in a last row that show that the row summarises the other rows.
_TOTALS = frozenset(("total", "totals", "sum", "mean", "average", "summe", "gesamt", "mittelwert"))
#: Number of points of the built-in spiral, which has two turns. More points make the curve easier
#: to follow.
_SPIRAL_POINTS = 24
#: Largest shift of a point along the built-in spiral, in radians; also the increase of the spiral's
#: radius per radian. With a larger value, the points are spaced less evenly.
_UNEVEN = 0.2
#: Outputs with at most this many different values, all whole numbers, may be classes.
_MOST_CLASSES = 10
_SHOWN = 10  # largest number of column names in a message


def build_table(config: TableTarget) -> Target:
    """Return the target of a table file. Its domain is the range of all rows.

    Files are cached: within a process, an unchanged file with the same settings is read only once.
    Raises UsageError if the table cannot be used.
    """
    files = [check_path(path) for path in (config.path, config.test_path) if path]
    states = [file.stat() for file in files]
    return _read_target(
        msgspec.json.encode(config),
        tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states),
    )


@lru_cache(maxsize=4)
def _read_target(settings: bytes, _stamps: tuple[tuple[int, ...], ...]) -> Target:
    asked = msgspec.json.decode(settings, type=TableTarget)
    table = asked.file()
    inputs = asked.input_columns(table)
    roles = filter(None, (asked.weight_column, asked.split_column))
    rows = _Rows(asked, table, [*inputs, *asked.outputs, *roles])
    if all(map(is_number, table.names())):
        rows.notes.append(
            f"the header of {rows.name} holds numbers only ({', '.join(table.names()[:_SHOWN])}); "
            "if it is a row of data, write the names of the columns above it"
        )
    rows.drop_rows()
    rows.drop_missing(inputs)
    weights = rows.drop_weightless()
    target = array_target(
        rows.table[list(inputs)],
        rows.outputs(),
        classification=rows.holds_labels,
        reading=rows.reading(inputs),
        weights=_balanced(rows, weights) if asked.class_weight else weights,
        family=asked.family,
        offset=asked.offset,
    )
    assert target.points is not None
    _check_classes(asked, len(target.classes or ()))
    points = replace(target.points, groups=rows.groups(), forward=asked.split.startswith("time:"))
    test = _test_points(asked, inputs, target) if asked.test_path else None
    notes = (*rows.notes, *target.notes, *_advice(asked, target), *_kinds(target.code))
    target = replace(target, name=rows.name, points=points, test=test, notes=notes)
    if asked.read != ReadOptions():
        target = replace(target, code=replace(target.code or plain_code(inputs), read=asked.read))
    return check_family(replace(target, threshold=asked.threshold))


def _kinds(code: TableCode | None) -> list[str]:
    """Return a list with a note on the columns that hold no numbers; [] if all are numbers."""
    columns = code.columns if code else ()
    dates = [column.name for column in columns if column.parts is not None]
    categories = [column.name for column in columns if column.levels is not None]
    kinds = {"dates": dates, "categories": categories}
    said = [f"{', '.join(names)} as {kind}" for kind, names in kinds.items() if names]
    if not said:
        return []
    others = " and all other inputs as numbers" * (len(dates) + len(categories) < len(columns))
    return [f"columns are read by their values: {' and '.join(said)}{others}"]


def _balanced(rows: _Rows, weights: Array | None) -> Array | None:
    """Return weights (rows,) with mean 1, each divided by the frequency of the row's class.

    `weights` are the rows' weights before; None: equal weights. Returned unchanged if the output
    holds no labels.
    """
    if not rows.holds_labels:
        return weights
    # Imported late, because it loads slowly.
    from sklearn.utils.class_weight import compute_sample_weight

    balanced = compute_sample_weight("balanced", list(map(str, rows.labels())))
    balanced = balanced if weights is None else balanced * weights
    return np.asarray(balanced / balanced.mean())


def _check_classes(asked: TableTarget, classes: int) -> None:
    """Raise UsageError if `class_weight` or `threshold` does not fit the number of classes.

    The number is 0 for a regression.
    """
    moved = asked.threshold != TableTarget.threshold
    if (asked.class_weight and not classes) or (moved and classes != 2):
        holds = f"has {classes} classes" if classes else "holds numbers (see target.task)"
        raise UsageError(
            "target.class_weight is for classes and target.threshold for two classes, but the "
            f"output {asked.outputs[0]!r} {holds}. Remove the setting."
        )


def _test_points(asked: TableTarget, inputs: Sequence[str], target: Target) -> Points:
    """Read the file of test rows, and return its rows, encoded like those of `target`."""
    rows = _Rows(asked, TableFile(str(asked.test_path), asked.read), [*inputs, *asked.outputs])
    rows.holds_labels = bool(target.classes)
    rows.drop_missing(())
    code = target.code or plain_code(inputs)
    x = code.encode(frame_columns(rows.table, inputs), rows.name, list(rows.table.index))
    if target.classes:
        return Points(x, rows.known_labels(target.classes))
    return Points(x, rows.reading(()).outputs(rows.outputs()))


def _advice(asked: TableTarget, target: Target) -> list[str]:
    """Return a list with a note if outputs that were read as numbers may be classes; else []."""
    assert target.points is not None
    if asked.task or target.classes or len(asked.outputs) > 1 or asked.family != "gaussian":
        return []
    values = np.unique(target.points.y)
    most = min(_MOST_CLASSES, len(target.points) // 2)
    if not 2 <= len(values) <= most or (values % 1).any():
        return []
    return [
        f"the output {asked.outputs[0]!r} has {len(values)} whole numbers and is predicted as a "
        "number; set target.task=classification if they are classes, regression if not"
    ]


class _Rows:
    """The rows of a table file while they are being prepared, with settings and notes.

    Attributes:
        asked: Settings of the target.
        name: Name of the file.
        table: The rows that are left so far.
        words: Additional texts that count as missing values, as returned by `canonical`.
        notes: Notes for the user.
        holds_labels: Whether the output holds labels. This is so if the settings say so, or if all
            its values are text and occur at least twice on average.
    """

    def __init__(self, asked: TableTarget, source: TableFile, names: Sequence[str]) -> None:
        self.asked, self.name = asked, source.file.name
        self.table = source.read(list(dict.fromkeys(names)))
        self.words = tuple(map(canonical, asked.read.na_values))
        self.notes: list[str] = []
        self.holds_labels = asked.task == "classification"
        if asked.task is None and asked.family == "gaussian" and len(asked.outputs) == 1:
            values = self.table[asked.outputs[0]].to_numpy()
            _, faults = read_numbers(values, self.words)
            texts = values[faults["text"]]
            is_text = len(values) - len(faults["missing"]) == len(texts)
            is_text = is_text and other_notation([str(text) for text in texts]) is None
            if is_text and len(texts) >= 2 * len(set(texts)) > 0:
                self.holds_labels = True
                self.notes.append(
                    f"the output {asked.outputs[0]!r} is text, so its values are classes; "
                    "target.task decides"
                )

    def outputs(self) -> dict[str, Values]:
        """Return the outputs by name: labels, or unchanged values from the file."""
        if self.holds_labels:
            return {self.asked.outputs[0]: self.labels()}
        return {**frame_columns(self.table, self.asked.outputs)}

    def reading(self, inputs: Sequence[str]) -> Reading:
        """Return the rules by which the columns `inputs` are read, with advice for messages."""
        asked = self.asked
        return Reading(
            [name for name in asked.categorical_columns if name in inputs],
            self.words,
            asked.day_first,
            self.name,
            list(self.table.index),
            _REMEDY,
            _OUTPUT_REMEDY,
            asked.missing != "error",
        )

    def drop_rows(self) -> None:
        """Drop the rows listed in the settings, and note if the last row left looks like totals."""
        asked = self.asked.drop_rows
        if unknown := [row for row in asked if row not in self.table.index]:
            raise UsageError(f"target.drop_rows={unknown}: {self.name} has no such row of data.")
        self.table = self.table.drop(index=asked)
        if self.table.empty:
            raise UsageError(f"target.drop_rows leaves no row of {self.name}.")
        row = self.table.index[-1]
        for text in map(text_of, self.table.iloc[-1]):
            if text.casefold().rstrip(": ") in _TOTALS:
                self.notes.append(
                    f"row {row}, the last of {self.name}, holds {text!r} and is used as data; "
                    f"target.drop_rows=[{row}] leaves it out"
                )

    def drop_missing(self, inputs: Sequence[str]) -> None:
        """Drop rows with missing outputs, and if `missing=drop`, also rows with missing inputs.

        If `missing=error`, no rows are dropped. In columns of labels, and in inputs that hold text,
        only empty values and `read.na_values` count as missing.
        """
        way = self.asked.missing
        columns = {
            "outputs": [] if way == "error" else self.asked.outputs,
            "inputs": list(inputs) if way == "drop" else [],
        }
        for what, names in columns.items():
            complete = np.ones(len(self.table), dtype=bool)
            for name in names:
                values = self.table[name].to_numpy()
                _, faults = read_numbers(values, self.words)
                if self.holds_labels if what == "outputs" else faults["text"]:
                    texts = map(text_of, values)
                    complete &= [
                        text != EMPTY and canonical(text) not in self.words for text in texts
                    ]
                else:
                    complete[faults["missing"]] = False
            if complete.all():
                continue
            if complete.sum() < 2:
                raise UsageError(
                    f"{self.name} has too few rows without missing {what} ({complete.sum()}); at "
                    "least two are needed."
                )
            self.notes.append(
                f"{(~complete).sum()} of {len(complete)} rows of {self.name} have missing {what} "
                "and are left out"
            )
            self.table = self.table[complete]

    def drop_weightless(self) -> Array | None:
        """Drop rows of weight zero, and return the other weights divided by their mean.

        Returns None if the settings name no column of weights.
        """
        if (column := self.asked.weight_column) is None:
            return None
        weights = self._numbers(column)
        kept = weights > 0
        if (weights < 0).any():
            raise UsageError(f"the column {column!r} of {self.name} has a negative weight.")
        if kept.sum() < 2:
            raise UsageError(
                f"the column {column!r} of {self.name} leaves {kept.sum()} rows with a weight."
            )
        self.table = self.table[kept]
        return np.asarray(weights[kept] / weights[kept].mean())

    def labels(self) -> NDArray[Any]:
        """Return the labels (rows,): integers if all labels are whole numbers, otherwise texts."""
        column = self.asked.outputs[0]
        texts = list(map(text_of, self.table[column]))
        if EMPTY in texts:
            raise UsageError(
                f"column {column!r} of {self.name} has missing labels; target.missing=drop leaves "
                "out such rows."
            )
        labels: list[Any] = texts
        if all(map(is_number, texts)):
            if fraction := next((text for text in texts if not float(text).is_integer()), None):
                raise UsageError(
                    f"column {column!r} holds {fraction}, which is not a class; labels are text or "
                    "whole numbers (numbers of any kind: target.task=regression)."
                )
            # Converted exactly, because float64 would merge long numbers.
            labels = [int(Decimal(text)) for text in texts]
        return np.array(labels, dtype=object)

    def known_labels(self, classes: Sequence[str]) -> Array:
        """Return the index in `classes` of every row's label, shape (rows, 1).

        Raises UsageError if a label is not in `classes`.
        """
        number = {name: float(index) for index, name in enumerate(classes)}
        labels = list(map(str, self.labels()))
        if unknown := [label for label in labels if label not in number]:
            raise UsageError(
                f"{self.name} has the class {unknown[0]!r}, which is in no row of "
                f"{Path(self.asked.path).name}."
            )
        return np.array([[number[label]] for label in labels])

    def groups(self) -> Array | None:
        """Return the groups' numbers or the times (rows,) by which rows are split.

        Returns None if rows are split at random.
        """
        way, _, column = self.asked.split.partition(":")
        if not column:
            return None
        values = self.table[column].to_numpy()
        if way == "group":
            return np.unique(list(map(str, values)), return_inverse=True)[1].astype(np.float64)
        days, faults, _ = read_days(values, self.words, self.asked.day_first)
        if not faults["text"]:
            return days
        return self._numbers(column)

    def _numbers(self, column: str) -> Array:
        """Return a column as numbers (rows,). Raises UsageError if a value is not a number."""
        return self.reading(()).outputs(frame_columns(self.table, [column]))[:, 0]


def build_bundled(config: BundledTarget) -> Target:
    """Return the target of a table bundled with scikit-learn.

    Labels are texts such as `target virginica`. Raises UsageError if the table is unknown.
    """
    name = config.name
    check_known("target.name", name, BUNDLED, "bundled tables")
    import sklearn.datasets  # imported late, because it loads slowly

    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    y = data.target
    classification = task == "classification"
    if classification:
        y = y.map(lambda number: f"{y.name} {data.target_names[number]}")
    return replace(array_target(data.data, y, classification=classification), name=name)


def planar_points(config: PointsTarget) -> tuple[Array, Array | None]:
    """Return the points of a curve in order, shape (points, 2), and their parameters (points,).

    The parameters are None unless the settings name a column for them. Raises UsageError if the
    file is not a table, or a column is missing or contains values that are not finite numbers.
    """
    # The built-in points lie on a spiral, unevenly spaced. A spiral is not the graph of a function.
    if config.path is None:
        angle = np.linspace(0.0, 4 * np.pi, _SPIRAL_POINTS)
        angle += _UNEVEN * np.sin(5 * np.arange(_SPIRAL_POINTS))
        radius = 2 * _UNEVEN + _UNEVEN * angle
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), None
    path = config.path
    columns = list(config.columns or ())
    if not columns:  # the columns x and y if both exist, otherwise the first two columns of numbers
        table = TableFile(path, config.read).read()
        shown = ", ".join(table.columns[:_SHOWN])
        if all(map(is_number, table.columns)):
            raise UsageError(
                f"{path} begins with numbers ({shown}); name its columns in a first row, as x,y."
            )
        numeric = [
            name
            for name in map(str, table)
            if "text" not in read_numbers(table[name].to_numpy())[1]
        ]
        columns = ["x", "y"] if {"x", "y"} <= set(table.columns) else numeric[:2]
        if len(columns) < 2:
            raise UsageError(
                f"{path} has {len(numeric)} columns of numbers among {shown}; a curve needs two."
            )
    wanted = columns if config.parameter is None else [*columns, config.parameter]
    numbers = read_inputs(path, wanted, options=config.read, key="target.read.")
    return numbers[:, :2], None if config.parameter is None else numbers[:, 2]
