"""Targets that are tables: your own file, the tables of scikit-learn; and the points of a planar curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.config import BundledTarget, PointsTarget, TableTarget, check
from kanrun.errors import UsageError
from kanrun.suggestions import did_you_mean
from kanrun.points import Array, Points
from kanrun.targets.data import Target
from kanrun.targets.encoding import TableCode, code_of, days_of
from kanrun.targets.table_file import check_path, positions
from kanrun.targets.tables import (
    column_names,
    columns_of,
    is_number,
    lenient_numbers,
    read_columns,
    read_inputs,
    read_values,
)

#: name -> (loader of sklearn.datasets, task)
BUNDLED = {
    "diabetes": ("load_diabetes", "regression"),
    "linnerud": ("load_linnerud", "regression"),
    "iris": ("load_iris", "classification"),
    "wine": ("load_wine", "classification"),
    "breast_cancer": ("load_breast_cancer", "classification"),
    "digits": ("load_digits", "classification"),
}


def build_table(config: TableTarget) -> Target:
    """The table's columns as a target; its domain is the range of all rows.

    Raises UsageError for a table that is not fit. A process that asks for the same columns of an unchanged file again
    gets the same target, so that a run reads and parses its table once.
    """
    files = [check_path(path) for path in (config.path, config.test_path) if path]
    states = [file.stat() for file in files]
    return _read_table(
        msgspec.json.encode(config),
        tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states),
    )


def _inputs(config: TableTarget, file: Path) -> tuple[str, ...]:
    """The columns that are inputs. Raises UsageError for an excluded one that is not there, and where none is left."""
    names = [name for name in column_names(file) if name]
    positions(
        [*config.exclude, *(name for name in (config.weight_column, config.split_column) if name)],
        names,
        file,
    )
    if list(config.inputs) != ["all"] or "all" in names:
        return tuple(config.inputs)
    taken = {*config.outputs, *config.exclude, config.weight_column}
    if config.split.startswith("group:"):
        taken.add(config.split_column)
    kept = tuple(name for name in names if name not in taken)
    if not kept:
        raise UsageError(
            f"{file.name} has no column left to predict from; name some in target.inputs."
        )
    return kept


@lru_cache(maxsize=4)
def _read_table(settings: bytes, _stamps: tuple[tuple[int, ...], ...]) -> Target:
    asked = msgspec.json.decode(settings, type=TableTarget)
    file, outputs = check_path(asked.path), tuple(asked.outputs)
    inputs = _inputs(asked, file)
    y, labels = _outputs(file, asked)
    code, x, kept, notes = _encoded(file, inputs, asked.categorical_columns, asked.missing)
    weights, groups = _roles(file, asked)
    there = _known(y, labels)
    if not there.all():
        notes = (
            *notes,
            f"{(~there).sum()} of {len(there)} rows of {file.name} have missing outputs and are left out",
        )
    keep, x = np.flatnonzero(kept & there), x[there[kept]]
    if len(keep) < min(2, len(there)):
        raise UsageError(
            f"{file.name} has {len(keep)} rows without missing values; set target.missing=indicator."
        )
    if weights is not None and (weights < 0).any():
        raise UsageError(f"the column {asked.weight_column!r} of {file.name} has a negative weight.")
    if weights is not None:
        keep = keep[weights[keep] > 0]
        x = x[weights[kept & there] > 0]
        if len(keep) < 2:
            raise UsageError(
                f"the column {asked.weight_column!r} of {file.name} leaves {len(keep)} rows with a weight."
            )
        weights = (
            weights[keep] * len(keep) / weights[keep].sum()
        )  # of mean 1: they say how rows compare
    classes = None
    if labels is not None:
        classes, index = classes_of([labels[i] for i in keep], outputs[0])
        y = index[:, None].astype(np.float64)
    else:
        y = y[keep]
    forward = asked.split.startswith("time:")
    points = Points(x, y, weights, None if groups is None else groups[keep], forward)
    names = code.features if code else inputs
    test = _test_points(asked, inputs, code, classes) if asked.test_path else None
    return Target(
        file.name,
        names,
        outputs,
        points.box,
        points=points,
        test=test,
        is_table=True,
        classes=classes,
        code=code,
        notes=notes,
    )


def _outputs(file: Path, asked: TableTarget) -> tuple[Array, list[str] | None]:
    drop = asked.missing == "drop"  # NaN and "" are then left out
    if asked.task == "regression":
        advice = dict.fromkeys(asked.outputs, "text labels need target.task=classification")
        return read_columns(file, asked.outputs, advice=advice, drop=drop)[0], None
    y, (labels,) = read_columns(file, (), asked.outputs, drop=drop)
    return y, labels


def _known(y: Array, labels: list[str] | None) -> NDArray[np.bool_]:
    """The rows that have all outputs."""
    return np.asarray(~np.isnan(y).any(1) if labels is None else [label != "" for label in labels])


def _roles(file: Path, asked: TableTarget) -> tuple[Array | None, Array | None]:
    """The weights of the rows, and the numbers of their groups or their times."""
    weights = read_columns(file, (asked.weight_column,))[0][:, 0] if asked.weight_column else None
    way, _, column = asked.split.partition(":")
    if not column:
        return weights, None
    values = read_values(file, (column,))[column]
    if way == "group":
        return weights, np.unique([str(value) for value in values], return_inverse=True)[1].astype(
            np.float64
        )
    times = days_of(values)
    return weights, read_columns(file, (column,))[0][:, 0] if times is None else times


def _test_points(
    asked: TableTarget,
    inputs: tuple[str, ...],
    code: TableCode | None,
    classes: tuple[str, ...] | None,
) -> Points:
    """The rows of the file of test rows. Raises UsageError for a class that is in no training row."""
    file = check_path(asked.test_path or "")
    y, labels = _outputs(file, asked)
    x = read_columns(file, inputs)[0] if code is None else code.encode(read_values(file, inputs))[0]
    there = _known(y, labels)
    x, y = x[there], y[there]
    if labels is None or classes is None:
        return Points(x, y)
    labels = [label for label in labels if label]
    names, index = classes_of([*labels, *classes], asked.outputs[0])
    if unknown := [name for name in names if name not in classes]:
        raise UsageError(
            f"{file.name} has the class {unknown[0]!r}, which is in no row of {Path(asked.path).name}."
        )
    return Points(x, index[: len(labels), None].astype(np.float64))


def _encoded(
    file: Path, inputs: tuple[str, ...], categories: Sequence[str], missing: str
) -> tuple[TableCode | None, Array, NDArray[np.bool_], tuple[str, ...]]:
    """How the inputs are encoded, their numbers, which rows are kept, and what to say of it."""
    if missing == "error" and not categories:
        x, _ = read_columns(
            file, inputs, advice=dict.fromkeys(inputs, "or set target.missing=indicator")
        )
        return None, x, np.ones(len(x), dtype=bool), ()
    raw = read_values(file, inputs)
    kept = np.ones(len(next(iter(raw.values()))), dtype=bool)
    notes = []
    if missing == "drop":
        for values in raw.values():
            numbers, text = lenient_numbers(values)
            kept &= (
                np.array([str(v).strip() != "" for v in values])
                if text is not None
                else ~np.isnan(numbers)
            )
        raw = {
            name: [v for v, keep in zip(values, kept, strict=True) if keep]
            for name, values in raw.items()
        }
        if not kept.all():
            notes.append(
                f"{(~kept).sum()} of {len(kept)} rows of {file.name} have missing inputs and are left out"
            )
        if not kept.any():
            raise UsageError(
                f"{file.name} has no row without missing inputs; set target.missing=indicator."
            )
    advice = f"correct such rows of {file.name}, or name the column in target.categorical_columns"
    code, said = code_of(raw, categories, advice)
    if code is None:
        return (
            None,
            np.stack([lenient_numbers(values)[0] for values in raw.values()], 1),
            kept,
            tuple(notes),
        )
    return code, code.encode(raw)[0], kept, (*notes, *said)


def classes_of(texts: Sequence[str], column: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The sorted classes (by number where all are whole numbers) and the index of each row's."""
    different = sorted(set(texts))
    key = {text: text for text in different}
    names = different
    if all(is_number(text) for text in different):
        numbers = {text: _whole(text, column) for text in different}
        names = [str(number) for number in sorted(set(numbers.values()))]
        key = {text: str(number) for text, number in numbers.items()}
    if len(names) < 2:
        raise UsageError(
            f"column {column!r} has the one class {names[0]!r} only; at least two are needed."
        )
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([index[key[text]] for text in texts], dtype=np.intp)


def _whole(text: str, column: str) -> int:
    """The whole number that a label writes, exactly: float64 would make one class of two long ones."""
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise UsageError(
            f"column {column!r} holds {text}, which is not a class; "
            "labels are text or whole numbers (numbers of any kind: target.task=regression)."
        )
    return int(number)


def build_bundled(config: BundledTarget) -> Target:
    """A table that scikit-learn brings, its classes called by their names, such as `target virginica`.

    Raises UsageError for a table that is not known, or where scikit-learn is not installed.
    """
    name = config.name
    if name not in BUNDLED:
        raise UsageError(
            f"target.name={name!r}: there is no bundled table {name}{did_you_mean(name, BUNDLED)}; "
            f"known are {', '.join(BUNDLED)}."
        )
    try:
        import sklearn.datasets
    except ImportError:
        raise UsageError(
            f"the table {name} comes with scikit-learn, which is not installed; run: pip install 'kanrun[datasets]'."
        ) from None
    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    inputs = tuple(str(column) for column in data.data.columns)
    outputs = tuple(str(column) for column in data.frame.columns if column not in data.data.columns)
    y, classes = data.frame[list(outputs)], None
    if task == "classification":
        labels = [f"{outputs[0]} {data.target_names[number]}" for number in y[outputs[0]]]
        classes, index = classes_of(labels, outputs[0])
        y = index[:, None]
    points = Points(data.data.to_numpy(dtype=np.float64), np.asarray(y, dtype=np.float64))
    return Target(name, inputs, outputs, points.box, points=points, is_table=True, classes=classes)


def planar_points(config: PointsTarget) -> tuple[Array, Array | None]:
    """Points (N, 2) in the order of a curve, of the user's file or kanrun's own, and their parameters (N) if given.

    Raises UsageError for a file that is not a table, for columns that are not there or hold anything but
    finite numbers, and where no two columns of numbers are found.
    """
    check(config, "target.")
    if config.path is None:
        return _spiral(), None
    columns = list(config.columns) if config.columns is not None else _found_columns(config.path)
    wanted = columns if config.parameter is None else [*columns, config.parameter]
    numbers = read_inputs(config.path, wanted)
    return numbers[:, :2], numbers[:, 2] if config.parameter is not None else None


def _found_columns(path: str) -> list[str]:
    """x and y where both are there, else the first two columns that hold numbers."""
    columns = columns_of(path)
    names = list(columns)
    if all(is_number(name) for name in names):
        raise UsageError(
            f"{path} begins with numbers ({', '.join(names[:4])}); name its columns in a first row, as x,y."
        )
    if {"x", "y"} <= columns.keys():
        return ["x", "y"]
    numeric = [name for name, holds_numbers in columns.items() if holds_numbers]
    if len(numeric) < 2:
        raise UsageError(
            f"{path} has {len(numeric)} columns of numbers among {', '.join(names[:20])}; a curve needs two."
        )
    return numeric[:2]


def _spiral() -> Array:
    """24 points, unevenly apart, of a spiral of two turns, which is the graph of no function."""
    angle = np.linspace(0.0, 4 * np.pi, 24) + 0.2 * np.sin(5 * np.arange(24))
    radius = 0.4 + 0.2 * angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
