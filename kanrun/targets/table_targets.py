"""Targets that are tables: files, tables of scikit-learn, and points of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.config import BundledTarget, PointsTarget, TableTarget
from kanrun.errors import UsageError
from kanrun.points import Array, Points
from kanrun.targets.arrays import array_target, check_family
from kanrun.targets.datasets import Target, check_known
from kanrun.targets.encoding import (
    EMPTY,
    Reading,
    TableCode,
    check_values,
    encode_columns,
    number_notes,
    numbers_of,
    read_inputs,
)
from kanrun.targets.table_files import (
    check_columns,
    check_path,
    column_names,
    read_table,
)
from kanrun.targets.table_text import canonical, is_number, read_days, read_numbers, text_of

if TYPE_CHECKING:
    pass

#: Loader of sklearn.datasets and task, by name.
BUNDLED = {
    "diabetes": ("load_diabetes", "regression"),
    "linnerud": ("load_linnerud", "regression"),
    "iris": ("load_iris", "classification"),
    "wine": ("load_wine", "classification"),
    "breast_cancer": ("load_breast_cancer", "classification"),
    "digits": ("load_digits", "classification"),
}
_INDICATOR = "set target.missing=indicator"
#: Names of columns that identify rows, without information on others.
_IDENTIFIERS = frozenset(("id", "index", "row", "rownames", "no", "nr", "unnamed: 0"))
_SPIRAL_POINTS, _UNEVEN = 24, 0.2
_SHOWN = 10  # names of columns in a message


def build_table(config: TableTarget) -> Target:
    """Return the table's columns as a target, whose domain is the range of all rows.

    Raises UsageError for an unsuitable table. An unchanged file is read once in a process.
    """
    files = [check_path(path) for path in (config.path, config.test_path) if path]
    states = [file.stat() for file in files]
    return _read_target(
        msgspec.json.encode(config),
        tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states),
    )


def check_names(config: TableTarget) -> None:
    """Raise UsageError for a column that the first row of the file does not name."""
    file = check_path(config.path)
    check_columns([*_inputs(config), *config.outputs], column_names(file), file.name)


@lru_cache(maxsize=4)
def _read_target(settings: bytes, _stamps: tuple[tuple[int, ...], ...]) -> Target:
    asked = msgspec.json.decode(settings, type=TableTarget)
    inputs = _inputs(asked)
    roles = filter(None, (asked.weight_column, asked.split_column))
    rows = _Rows(asked, asked.path, [*inputs, *asked.outputs, *roles])
    notes = rows.drop_missing(inputs)
    weights = rows.drop_weightless()
    if list(asked.inputs) == ["all"] and (counting := rows.counting(inputs)):
        inputs = tuple(name for name in inputs if name != counting)
        counts = f"the column {counting!r} counts the rows and is left out"
        notes.append(f"{counts}; name it in target.inputs to keep it")
    code, x, said = rows.encode(inputs)
    y, classes = rows.outputs()
    for name in () if classes else asked.outputs:
        values = rows.table.columns[name]
        notes += number_notes(name, values, read_numbers(values, rows.words)[1])
    test = None
    if asked.test_path:
        others = _Rows(asked, asked.test_path, [*inputs, *asked.outputs])
        others.drop_missing(())
        read = code.encode(others.table.columns, 1)[0] if code else others.numbers(inputs)
        test = Points(read, others.outputs(classes)[0])
    points = Points(x, y, weights, rows.groups(), asked.split.startswith("time:"))
    return check_family(
        Target(
            rows.file.name,
            code.features if code else inputs,
            tuple(asked.outputs),
            points.box,
            points=points,
            test=test,
            is_table=True,
            classes=classes,
            family=asked.family,
            offset=asked.offset,
            code=code,
            notes=(*notes, *said),
        )
    )


def _inputs(asked: TableTarget) -> tuple[str, ...]:
    """Return the columns that are inputs. Raises UsageError for unknown columns, and for none."""
    file = check_path(asked.path)
    names = column_names(file)
    roles = [one for one in (asked.weight_column, asked.split_column, asked.offset) if one]
    check_columns([*asked.exclude, *roles], names, file.name)
    if list(asked.inputs) != ["all"] or "all" in names:
        return tuple(dict.fromkeys([*asked.inputs, *([asked.offset] if asked.offset else [])]))
    taken = {*asked.outputs, *asked.exclude, asked.weight_column}
    if asked.split.startswith("group:"):
        taken.add(asked.split_column)
    kept = tuple(name for name in names if name not in taken)
    if not kept:
        raise UsageError(
            f"{file.name} has no column left to predict from; name some in target.inputs."
        )
    return kept


class _Rows:
    """Rows of a table file, with the settings that say how to read them."""

    def __init__(self, asked: TableTarget, path: str, names: Sequence[str]) -> None:
        self.asked, self.file = asked, check_path(path)
        self.table = read_table(self.file, list(dict.fromkeys(names)))
        self.words = tuple(map(canonical, asked.missing_values))

    def numbers(self, names: Sequence[str], **advice: str) -> Array:
        """Return columns of numbers, shape (rows, names)."""
        return numbers_of(self.file, self.table, names, self.words, **advice)

    def counting(self, inputs: Sequence[str]) -> str | None:
        """Return the first column with the name of an identifier whose values count the rows."""
        for name in inputs:
            if name.strip().casefold() in _IDENTIFIERS and len(inputs) > 1:
                numbers, faults = read_numbers(self.table.columns[name])
                if not faults and len(numbers) > 1 and (np.diff(numbers) == 1).all():
                    return name
        return None

    def drop_missing(self, inputs: Sequence[str]) -> list[str]:
        """Drop rows with missing values if this is asked for, and return notes on them."""
        notes: list[str] = []
        if self.asked.missing != "drop":
            return notes
        kept = np.ones(len(self.table.rows), dtype=bool)
        for what, names in (("inputs", inputs), ("outputs", self.asked.outputs)):
            labels = what == "outputs" and self.asked.task == "classification"
            columns = [self.table.columns[name] for name in names]
            given = np.all([_given(column, labels, self.words) for column in columns], axis=0)
            if not given.all():
                count = f"{(~given).sum()} of {len(given)} rows of {self.file.name}"
                notes.append(f"{count} have missing {what} and are left out")
            kept &= given
        if kept.sum() < min(2, len(kept)):
            raise UsageError(
                f"{self.file.name} has too few rows without missing values ({kept.sum()}); "
                f"{_INDICATOR}."
            )
        self.table = self.table.take(kept)
        return notes

    def drop_weightless(self) -> Array | None:
        """Drop rows of weight zero, and return the weights of the others over their mean."""
        if (column := self.asked.weight_column) is None:
            return None
        weights = self.numbers([column])[:, 0]
        kept = weights > 0
        if (weights < 0).any():
            raise UsageError(f"the column {column!r} of {self.file.name} has a negative weight.")
        if kept.sum() < 2:
            raise UsageError(
                f"the column {column!r} of {self.file.name} leaves {kept.sum()} rows with a weight."
            )
        self.table = self.table.take(kept)
        return np.asarray(weights[kept] / weights[kept].mean())

    def encode(self, inputs: tuple[str, ...]) -> tuple[TableCode | None, Array, tuple[str, ...]]:
        """Return the code of the inputs, their numbers (rows, features), and notes."""
        categorical = self.asked.categorical_columns
        if self.asked.missing == "error" and not categorical:
            hint = f"or {_INDICATOR}"
            return None, self.numbers(inputs, text=hint, missing=hint), ()
        raw = {name: self.table.columns[name] for name in inputs}
        advice = (
            f"correct such rows of {self.file.name}, name the text in target.missing_values if it "
            "means missing, or the column in target.categorical_columns"
        )
        day_first, rows = self.asked.day_first, self.table.rows
        return encode_columns(raw, Reading(categorical, self.words, day_first, rows, advice))

    def outputs(self, known: tuple[str, ...] | None = None) -> tuple[Array, tuple[str, ...] | None]:
        """Return the outputs (rows, outputs), and the classes that they number.

        Raises UsageError for a class that is not `known`, if these are given.
        """
        names, missing = self.asked.outputs, "or set target.missing=drop"
        if self.asked.task != "classification":
            text = "text labels need target.task=classification"
            return self.numbers(names, text=text, missing=missing), None
        # Only empty values are missing: a class may be called NA.
        labels = list(map(text_of, self.table.columns[names[0]]))
        empty = [i for i, label in enumerate(labels) if label == EMPTY]
        faults = {names[0]: {"missing": empty} if empty else {}}
        check_values(self.file, self.table, faults, {"missing": missing})
        classes, index = classes_of([*labels, *(known or ())], names[0])
        if known and (unknown := [name for name in classes if name not in known]):
            raise UsageError(
                f"{self.file.name} has the class {unknown[0]!r}, which is in no row of "
                f"{Path(self.asked.path).name}."
            )
        return index[: len(labels), None].astype(np.float64), classes

    def groups(self) -> Array | None:
        """Return the numbers of the groups of the rows, or their times."""
        way, _, column = self.asked.split.partition(":")
        if not column:
            return None
        values = self.table.columns[column]
        if way == "group":
            return np.unique(list(map(str, values)), return_inverse=True)[1].astype(np.float64)
        days, faults, _ = read_days(values, self.words, self.asked.day_first)
        return self.numbers([column])[:, 0] if faults["text"] else days


def _given(values: Sequence[Any], labels: bool, words: Sequence[str]) -> NDArray[np.bool_]:
    """Return which values are not missing; of labels and text only empty ones are."""
    numbers, faults = read_numbers(values, words)
    if labels or faults["text"] or faults["infinite"]:
        return np.array([text_of(value) != EMPTY for value in values])
    return ~np.isnan(numbers)


def classes_of(texts: Sequence[str], column: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the classes, sorted by number if all are whole, and the index of each row's."""
    keys: dict[str, Any] = {text: text for text in texts}
    if all(map(is_number, keys)):
        for text in keys:
            number = float(text)
            if not number.is_integer():
                raise UsageError(
                    f"column {column!r} holds {text}, which is not a class; labels are text or "
                    "whole numbers (numbers of any kind: target.task=regression)."
                )
            # Exactly, as float64 would merge two long ones.
            keys[text] = int(number if "e" in text.casefold() else Decimal(text))
    values = np.array([keys[text] for text in texts], dtype=object)  # integers of any size
    known, index = np.unique(values, return_inverse=True)
    if len(known) < 2:
        raise UsageError(
            f"column {column!r} has the one class {str(known[0])!r} only; at least two are needed."
        )
    return tuple(map(str, known)), index


def build_bundled(config: BundledTarget) -> Target:
    """Return a table of scikit-learn, with classes such as `target virginica`.

    Raises UsageError for an unknown table.
    """
    name = config.name
    check_known("target.name", name, BUNDLED, "bundled tables")
    import sklearn.datasets  # late, as it loads slowly

    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    y, classification = data.target, task == "classification"
    if classification:
        y = y.map(lambda number: f"{y.name} {data.target_names[number]}")
    return replace(array_target(data.data, y, classification=classification), name=name)


def planar_points(config: PointsTarget) -> tuple[Array, Array | None]:
    """Return the points (points, 2) of a curve in their order, and their parameters if given.

    Raises UsageError for a file that is not a table, and for columns that are missing or hold
    anything but finite numbers.
    """
    if config.path is None:  # unevenly spaced on a spiral, which is not the graph of a function
        angle = np.linspace(0.0, 4 * np.pi, _SPIRAL_POINTS)
        angle += _UNEVEN * np.sin(5 * np.arange(_SPIRAL_POINTS))
        radius = 2 * _UNEVEN + _UNEVEN * angle
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), None
    path, columns = config.path, list(config.columns or ())
    if not columns:  # x and y if both are there, otherwise the first two that hold numbers
        found = read_table(path).columns
        shown = ", ".join(list(found)[:_SHOWN])
        if all(map(is_number, found)):
            raise UsageError(
                f"{path} begins with numbers ({shown}); name its columns in a first row, as x,y."
            )
        numeric = [name for name in found if "text" not in read_numbers(found[name])[1]]
        columns = ["x", "y"] if {"x", "y"} <= found.keys() else numeric[:2]
        if len(columns) < 2:
            raise UsageError(
                f"{path} has {len(numeric)} columns of numbers among {shown}; a curve needs two."
            )
    wanted = columns if config.parameter is None else [*columns, config.parameter]
    numbers = read_inputs(path, wanted)
    return numbers[:, :2], None if config.parameter is None else numbers[:, 2]
