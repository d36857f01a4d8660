"""Targets that are tables: files, bundled tables, data in memory, and points of a curve.

Data in memory (arrays, tensors, DataFrames) are converted to checked float64 matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.errors import InvalidData, UsageError
from kanrun.points import FAMILIES, RATES, Array, Family, Points
from kanrun.targets.datasets import Target, check_known
from kanrun.targets.encoding import (
    EMPTY,
    Reading,
    TableCode,
    encode_columns,
    plain_code,
    read_inputs,
)
from kanrun.targets.settings import BundledTarget, PointsTarget, TableTarget
from kanrun.targets.table_files import (
    ReadOptions,
    TableFile,
    check_columns,
    check_distinct,
    check_path,
)
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
    # Outputs with at most this many different values, all whole numbers, may be classes.
    most_classes = 10
    assert target.points is not None
    if asked.task or target.classes or len(asked.outputs) > 1 or asked.family != "gaussian":
        return []
    values = np.unique(target.points.y)
    most = min(most_classes, len(target.points) // 2)
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
    # Largest shift of a point along the built-in spiral, in radians; also the increase of the
    # spiral's radius per radian. With a larger value, the points are spaced less evenly.
    uneven = 0.2
    # Number of points of the built-in spiral, which has two turns. More points make the curve
    # easier to follow.
    spiral_points = 24
    # The built-in points lie on a spiral, unevenly spaced. A spiral is not the graph of a function.
    if config.path is None:
        angle = np.linspace(0.0, 4 * np.pi, spiral_points)
        angle += uneven * np.sin(5 * np.arange(spiral_points))
        radius = 2 * uneven + uneven * angle
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


#: Data that public functions accept: an array-like, a tensor, a DataFrame of pandas or polars, or a
#: mapping from names to columns.
Data = Any
#: Default rules by which columns in memory are read.
IN_MEMORY = Reading()
_WHOLE = 2.0**53  # float64 represents all integers below this exactly


def is_frame(x: Data) -> bool:
    """Return whether `x` has columns by name: a DataFrame of pandas or polars, or a mapping."""
    return isinstance(x, Mapping) or (hasattr(x, "columns") and hasattr(x, "__getitem__"))


def frame_columns(
    x: Data, names: Sequence[str] | None = None, what: str = "x"
) -> dict[str, np.ndarray]:
    """Return columns of a DataFrame or mapping as arrays, by name.

    `names` are the columns to return (None: all), and `what` is the name of the data in messages.
    Raises InvalidData if a column is missing, if two columns have the same name, or if the lengths
    of columns differ.
    """
    labels = list(x if isinstance(x, Mapping) else x.columns)
    check_distinct(list(map(str, labels)), what)
    keys = {str(key): key for key in labels}
    wanted = list(keys) if names is None else names
    check_columns(wanted, list(keys), what)
    columns = {name: np.asarray(x[keys[name]]) for name in wanted}
    if len({column.shape for column in columns.values()}) > 1:
        lengths = ", ".join(str(column.size) for column in columns.values())
        raise InvalidData(f"the columns of {what} differ in length: {lengths}.")
    return columns


def as_array(x: Data, what: str = "x") -> np.ndarray:
    """Return `x` as a NumPy array; `what` is its name in messages.

    Raises InvalidData if `x` is None, a string, or a sparse, ragged or complex array.
    """
    if x is None or isinstance(x, str):
        raise InvalidData(f"{what} is {x!r}, where an array, a tensor or a DataFrame is needed.")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise InvalidData(
            f"{what} is a sparse matrix, which kanrun does not take; give {what}.toarray()."
        )
    if hasattr(x, "detach"):
        x = x.detach().cpu().to_dense()
        x = x.double() if x.is_floating_point() else x  # NumPy has no bfloat16
    try:
        array = np.asarray(x)
    except ValueError:
        raise InvalidData(f"{what} is not an array: its rows differ in length.") from None
    if np.iscomplexobj(array):
        raise InvalidData(
            f"{what} holds complex numbers. Complex data not supported: give real and imaginary "
            "parts."
        )
    return array


def as_numbers(x: Data, what: str = "x") -> Array:
    """Return `x` as a float64 array; `what` is its name in messages.

    Raises InvalidData if a value is text, NaN or infinite.
    """
    array = as_array(x, what)
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        first = next((value for value in array.ravel() if not is_number(str(value))), "text")
        raise InvalidData(f"{what} holds {str(first)!r}, which is not a number.") from None
    if not (finite := np.isfinite(numbers)).all():
        where = np.argwhere(~finite)[0]
        axes = zip(("row", "column"), where, strict=False)
        place = ", ".join(f"{axis} {index}" for axis, index in axes) or "its place"
        missing = "NaN" if np.isnan(numbers[tuple(where)]) else "infinity"
        raise InvalidData(
            f"{what} contains {missing} ({(~finite).sum()} in all, the first in {place}, counted "
            "from 0)."
        )
    return numbers


def input_rows(x: Data, names: Sequence[str], code: TableCode | None = None) -> tuple[Array, bool]:
    """Convert `x` to a model's inputs.

    Args:
        x: Rows, or a single point. The columns of a DataFrame or mapping are found by name; the
            columns of an array must be in the model's order.
        names: Names of the model's inputs.
        code: Encoding of table columns, if the model has one; `x` then has the columns of `code`.

    Returns:
        Encoded inputs, shape (rows, inputs), and whether `x` was a single point.

    Raises:
        InvalidData: If columns are missing, their number is wrong, or values are not finite
            numbers.
    """
    raw = [column.name for column in code.columns] if code else list(names)
    index = None if is_frame(x) else getattr(x, "index", None)
    if index is not None and not callable(index) and set(map(str, index)) == set(raw):
        x = dict(zip(map(str, index), x, strict=True))  # a row of a DataFrame
    if is_frame(x):
        columns = {name: np.atleast_1d(values) for name, values in frame_columns(x, raw).items()}
        single = isinstance(x, Mapping) and np.ndim(x[next(iter(x))]) == 0
        return (code or plain_code(names)).encode(columns), single
    array = as_array(x)
    single = array.ndim == 1 and len(raw) > 1
    wanted = f"(rows, {len(raw)}), or one point ({len(raw)},)"
    array = array[None] if single else _matrix(array, "x", wanted)
    if code and array.shape[1] == len(raw):
        return code.encode(dict(zip(raw, array.T, strict=True))), single
    if array.shape[1] != len(names):
        listed = ", ".join(raw[:_SHOWN]) + ", ..." * (len(raw) > _SHOWN)
        raise InvalidData(
            f"x has {array.shape[1]} columns, and the model has {len(raw)} inputs: {listed}."
        )
    return as_numbers(array), single


def _matrix(array: np.ndarray, what: str, wanted: str) -> np.ndarray:
    """Return an array of one or two dimensions as a matrix (rows, columns).

    Raises InvalidData for other arrays. `wanted` describes the valid shapes in the message.
    """
    if array.ndim not in (1, 2):
        raise InvalidData(f"{what} has {array.ndim} dimensions; give {wanted}. Reshape your data.")
    return array[:, None] if array.ndim == 1 else array


def array_target(
    x: Data,
    y: Data,
    *,
    classification: bool = False,
    reading: Reading = IN_MEMORY,
    weights: Data = None,
    family: str = "gaussian",
    offset: str | None = None,
) -> Target:
    """Return a target whose points are the rows of data in memory.

    Columns of a DataFrame are encoded as numbers; the inputs of an array are called x0, x1, ...

    Args:
        x: Inputs, shape (rows, inputs), or a DataFrame.
        y: Outputs, shape (rows,) or (rows, outputs), or labels, shape (rows,).
        classification: Whether y holds labels.
        reading: Rules by which the columns of a DataFrame are encoded.
        weights: Weights of the rows, shape (rows,); a row of weight 2 counts as two rows.
        family: Distribution of numeric outputs, one of `kanrun.points.FAMILIES`.
        offset: Name of the input to which the mean of counts or positive numbers is proportional.

    Raises:
        InvalidData: If values are not finite numbers, there are fewer than two rows, the lengths
            differ, or the outputs do not fit the family.
    """
    names, inputs, code, notes = _inputs(x, reading)
    classes = None
    if classification:
        outputs, values, classes = _labels(y)
    else:
        outputs, values = _outputs(y, reading)
    if len(inputs) != len(values):
        raise InvalidData(f"x has {len(inputs)} rows and y has {len(values)}.")
    outputs = _apart(outputs, y, x)
    points = Points(inputs, values, _weights(weights, len(values)))
    if points.weights is not None:
        points = points.take(np.flatnonzero(points.weights))
    _check_learnable(points, classes, family, reading.file or "x")
    return check_family(
        Target(
            "data",
            names,
            outputs,
            points.box,
            points=points,
            is_table=True,
            classes=classes,
            family=family,
            offset=offset,
            code=code,
            notes=notes,
        )
    )


def _check_learnable(
    points: Points, classes: tuple[str, ...] | None, family: str, what: str
) -> None:
    """Raise InvalidData if there are fewer than two rows or classes, or labels have a family.

    `what` is the name of the data in messages.
    """
    if len(points) < 2:
        raise InvalidData(f"{what} has {len(points)} row of data; at least 2 are needed.")
    if classes is not None and np.ptp(points.y) == 0:
        raise InvalidData(
            f"y has one class only, {classes[int(points.y[0, 0])]!r}; at least two classes are "
            "needed."
        )
    if classes is not None and family != "gaussian":
        raise InvalidData(f"family={family} is for numbers, and y holds labels.")


def check_family(target: Target) -> Target:
    """Return `target` unchanged; raise InvalidData if outputs or offset do not fit the family."""
    family = target.family
    offset = target.offset
    inputs = target.inputs
    check_known("family", family, FAMILIES, "families of distributions")
    if family != "gaussian" and len(target.outputs) > 1:
        raise InvalidData(f"family={family} takes one output, and there are {len(target.outputs)}.")
    if offset and (family not in RATES or offset not in inputs):
        raise InvalidData(
            f"offset={offset!r} must be an input of numbers, for family=poisson or gamma."
        )
    for points in (target.points, target.test):
        if points is None:
            continue
        Family(family).check(points.y, "the output")
        if offset and (
            f"{offset} is missing" in inputs or points.x[:, inputs.index(offset)].min() <= 0
        ):
            raise InvalidData(
                f"the exposures of column {offset!r} must be numbers above 0 in every row, and not "
                "their logarithms; correct or remove other rows."
            )
    return target


def _inputs(
    x: Data, reading: Reading
) -> tuple[tuple[str, ...], Array, TableCode | None, tuple[str, ...]]:
    if not is_frame(x):
        if reading.categorical:
            raise InvalidData(
                f"categorical_columns={list(reading.categorical)} name columns of a DataFrame, and "
                "x is an array."
            )
        array = _matrix(as_array(x), "x", "(rows, inputs)")
        if 0 in array.shape:
            raise InvalidData(
                f"x is empty: {array.shape[0]} sample(s) of {array.shape[1]} feature(s)."
            )
        names = tuple(f"x{i}" for i in range(array.shape[1]))
        if array.dtype.kind != "f" or not np.isnan(array).any():
            return names, as_numbers(array), None, ()
        x = dict(zip(names, array.T, strict=True))
    columns = frame_columns(x)
    check_columns(list(reading.categorical), list(columns), "categorical_columns: x")
    if not columns or not len(next(iter(columns.values()))):
        raise InvalidData("x is empty: it has no columns or no rows.")
    code, numbers, notes = encode_columns(columns, reading)
    return code.features if code else tuple(columns), numbers, code, notes


def _outputs(y: Data, reading: Reading) -> tuple[tuple[str, ...], Array]:
    """Return the names of the outputs and their values (rows, outputs)."""
    if is_frame(y):
        columns = frame_columns(y, what="y")
        return tuple(columns), reading.outputs(columns)
    values = _matrix(as_numbers(y, "y"), "y", "(rows,) or (rows, outputs)")
    if not values.shape[1]:
        raise InvalidData(f"y must be (rows,) or (rows, outputs), not {values.shape}.")
    name = str(getattr(y, "name", None) or "y")
    several = values.shape[1] > 1
    return tuple(f"y{o}" for o in range(values.shape[1])) if several else (name,), values


def _apart(outputs: tuple[str, ...], y: Data, x: Data) -> tuple[str, ...]:
    """Return the names of the outputs, after names that are also names of inputs are changed.

    An output has the name of an input if y is a Series computed from a column of x, because such a
    Series keeps the name. The output is then called "output NAME". Raises InvalidData if the column
    equals y.
    """
    columns = frame_columns(x) if is_frame(x) else {}
    values = frame_columns(y, what="y") if is_frame(y) else dict.fromkeys(outputs, as_array(y))
    for name in columns.keys() & outputs:
        if np.array_equal(columns[name], values[name].reshape(columns[name].shape)):
            raise InvalidData(
                f"x has the column {name!r}, which is y; remove it by x.drop(columns={name!r})."
            )
    return tuple(f"output {name}" if name in columns else name for name in outputs)


def _labels(y: Data) -> tuple[tuple[str, ...], Array, tuple[str, ...]]:
    # Imported late, because TAB completion reads column names and pandas loads slowly.
    from pandas import isna

    name = getattr(y, "name", None)
    labels = y
    if is_frame(y):
        name, labels = next(iter(frame_columns(y, what="y").items()))
    labels = as_array(labels, "y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidData(f"y must be labels (rows,), not {labels.shape}.")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise InvalidData("y contains NaN or infinity, which are not labels.")
        if (np.abs(labels) < _WHOLE).all() and not (labels % 1).any():
            labels = labels.astype(np.int64)  # so that 1.0 is the class 1
    elif isna(labels).any():
        raise InvalidData("y contains missing labels.")
    try:
        classes, index = np.unique(labels, return_inverse=True)
    except TypeError:
        raise InvalidData("y mixes labels of several types, which have no order.") from None
    return (str(name or "y"),), index.astype(np.float64)[:, None], tuple(map(str, classes))


def _weights(weights: Data, rows: int) -> Array | None:
    if weights is None:
        return None
    shares = as_numbers(weights, "sample_weight")
    if shares.shape != (rows,):
        raise InvalidData(
            f"sample_weight must be one number for each of {rows} rows, not {shares.shape}."
        )
    if (shares < 0).any() or not shares.any():
        raise InvalidData("sample_weight must not be negative, nor zero for all rows.")
    return None if (shares == 1).all() else shares
