"""Data that callers hold in memory: arrays, tensors, DataFrames and sparse matrices as checked float64 matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanrun.errors import InvalidData
from kanrun.suggestions import did_you_mean
from kanrun.points import Array, Points
from kanrun.targets.data import Target
from kanrun.targets.encoding import TableCode, code_of
from kanrun.targets.tables import is_number

#: What the inputs of a function may be: an array-like, a tensor, or a frame or mapping of columns by name.
Data = Any


def is_frame(x: Data) -> bool:
    """Whether `x` has columns by name: a DataFrame of pandas or polars, or a mapping."""
    return isinstance(x, Mapping) or (hasattr(x, "columns") and hasattr(x, "__getitem__"))


def frame_names(x: Data, what: str = "x") -> list[str]:
    """The names of a frame's columns, as text. Raises InvalidData where two are the same."""
    names = [str(name) for name in (x if isinstance(x, Mapping) else x.columns)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidData(f"{what} has two columns called {twice!r}.")
    return names


def frame_columns(x: Data, names: Sequence[str], what: str = "x") -> dict[str, np.ndarray]:
    """The columns `names` of a frame, wherever they stand there. Raises InvalidData for one that is not there."""
    own = frame_names(x, what)
    keys = dict(zip(own, x if isinstance(x, Mapping) else x.columns, strict=True))
    for name in names:
        if name not in keys:
            there = ", ".join(map(repr, own[:10])) or "none"
            raise InvalidData(
                f"{what} has no column {name!r}; its columns are {there}{did_you_mean(name, own) or '.'}"
            )
    columns = {name: np.asarray(x[keys[name]]) for name in names}
    if len({column.shape for column in columns.values()}) > 1:
        lengths = ", ".join(str(column.size) for column in columns.values())
        raise InvalidData(f"the columns of {what} differ in length: {lengths}.")
    return columns


def as_array(x: Data, what: str = "x") -> np.ndarray:
    """`x` as an array of any shape. Raises InvalidData for sparse matrices, ragged lists and complex numbers."""
    if x is None or isinstance(x, str):
        raise InvalidData(f"{what} is {x!r}, where an array, a tensor or a DataFrame is needed.")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise InvalidData(
            f"{what} is a sparse matrix, which kanrun does not take; give {what}.toarray()."
        )
    if hasattr(x, "detach"):
        x = x.detach().cpu().to_dense()
        x = x.double() if x.is_floating_point() else x  # bfloat16 is no type of numpy
    try:
        array = np.asarray(x)
    except ValueError:
        raise InvalidData(f"{what} is not an array: its rows differ in length.") from None
    if np.iscomplexobj(array):
        raise InvalidData(
            f"{what} holds complex numbers. Complex data not supported: give real and imaginary parts."
        )
    return array


def as_numbers(x: Data, what: str = "x") -> Array:
    """`x` as float64 of any shape. Raises InvalidData as `as_array`, for what is not numbers, NaN and infinity."""
    array = as_array(x, what)
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        first = next((value for value in array.ravel() if not is_number(str(value))), "text")
        raise InvalidData(f"{what} holds {str(first)!r}, which is not a number.") from None
    if not (finite := np.isfinite(numbers)).all():
        where = np.argwhere(~finite)[0]
        place = (
            f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
            if len(where)
            else "its place"
        )
        missing = "NaN" if np.isnan(numbers[tuple(where)]) else "infinity"
        raise InvalidData(
            f"{what} contains {missing} ({(~finite).sum()} in all, the first in {place}, counted from 0)."
        )
    return numbers


def input_rows(x: Data, names: Sequence[str], code: TableCode | None = None) -> tuple[Array, bool]:
    """The inputs `names` of a model as (rows, inputs), and whether `x` was one point without the axis of rows.

    Columns of a frame are found by name, those of `code` where the model encodes its columns; arrays have as many
    columns, in that order. Raises InvalidData for columns that are not there, another width, and values that are not
    finite numbers.
    """
    raw = [column.name for column in code.columns] if code else list(names)
    if is_frame(x):
        columns = {name: np.atleast_1d(values) for name, values in frame_columns(x, raw).items()}
        single = isinstance(x, Mapping) and np.ndim(x[next(iter(x))]) == 0
        if code:
            return code.encode({name: list(values) for name, values in columns.items()})[0], single
        return np.stack(
            [as_numbers(values, f"the column {name!r}") for name, values in columns.items()], 1
        ), single
    array = as_array(x)
    if (
        hasattr(x, "index") and not callable(x.index) and set(map(str, x.index)) == set(raw)
    ):  # one point, by name
        array = np.array([dict(zip(map(str, x.index), array, strict=True))[name] for name in raw])
    single = array.ndim == 1 and len(raw) > 1
    array = array[None] if single else array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise InvalidData(
            f"x has {array.ndim} dimensions; give (rows, {len(raw)}), or one point ({len(raw)},)."
        )
    if code and array.shape[1] == len(raw):
        return code.encode({name: list(array[:, i]) for i, name in enumerate(raw)})[0], single
    if array.shape[1] != len(names):
        raise InvalidData(
            f"x has {array.shape[1]} columns, and the model has {len(raw)} inputs: {', '.join(map(str, raw[:10]))}"
            f"{', ...' if len(raw) > 10 else ''}."
        )
    return as_numbers(array), single


def array_target(
    x: Data,
    y: Data,
    *,
    classification: bool = False,
    categorical_columns: Sequence[str] = (),
    weights: Data = None,
) -> Target:
    """Rows in memory as a target: x (rows, inputs) or a DataFrame, y (rows,) or (rows, outputs) or labels (rows,).

    Columns of a DataFrame are encoded as those of a table file (text as indicators of its levels, missing numbers as
    median and indicator); an array's inputs are x0, x1, ... A row of weight w counts as w rows. Raises InvalidData for
    values that are not finite numbers, for fewer than two rows, and for lengths that differ.
    """
    names, inputs, code, notes = _inputs(x, categorical_columns)
    outputs, values, classes = _labels(y) if classification else _outputs(y)
    if len(inputs) != len(values):
        raise InvalidData(f"x has {len(inputs)} rows and y has {len(values)}.")
    shares = _weights(weights, len(values))
    if shares is not None:
        kept = np.flatnonzero(shares)
        inputs, values, shares = inputs[kept], values[kept], shares[kept]
    if len(values) < 2:
        raise InvalidData(
            f"there is {len(values)} row of data, and nothing can be learned from fewer than 2."
        )
    if classes is not None and len(set(values[:, 0])) < 2:
        raise InvalidData(
            f"y has one class only, {classes[int(values[0, 0])]!r}; at least two classes are needed."
        )
    points = Points(inputs, values, shares)
    return Target(
        "data",
        names,
        outputs,
        points.box,
        points=points,
        is_table=True,
        classes=classes,
        code=code,
        notes=notes,
    )


def _inputs(
    x: Data, categories: Sequence[str]
) -> tuple[tuple[str, ...], Array, TableCode | None, tuple[str, ...]]:
    if not is_frame(x):
        if categories:
            raise InvalidData(
                f"categorical_columns={list(categories)} name columns of a DataFrame, and x is an array."
            )
        array = as_array(x)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise InvalidData(
                f"x has {array.ndim} dimensions; give (rows, inputs). Reshape your data."
            )
        if 0 in array.shape:
            raise InvalidData(
                f"x is empty: {array.shape[0]} sample(s) of {array.shape[1]} feature(s)."
            )
        return tuple(f"x{i}" for i in range(array.shape[1])), as_numbers(array), None, ()
    names = frame_names(x)
    if unknown := [name for name in categories if name not in names]:
        raise InvalidData(
            f"categorical_columns names {unknown[0]!r}, which is no column of x{did_you_mean(unknown[0], names) or '.'}"
        )
    columns = frame_columns(x, names)
    if not columns or not len(next(iter(columns.values()))):
        raise InvalidData("x is empty: it has no columns or no rows.")
    raw = {name: list(values) for name, values in columns.items()}
    code, notes = code_of(raw, categories, "correct such rows, or name the column in categorical_columns")
    if code is None:
        numbers = [as_numbers(values, f"the column {name!r}") for name, values in columns.items()]
        return tuple(names), np.stack(numbers, 1), None, tuple(notes)
    return code.features, code.encode(raw)[0], code, tuple(notes)


def _outputs(y: Data) -> tuple[tuple[str, ...], Array, None]:
    if is_frame(y):
        names = frame_names(y, "y")
        return (
            tuple(names),
            np.stack(
                [as_numbers(v, f"y's column {n!r}") for n, v in frame_columns(y, names).items()], 1
            ),
            None,
        )
    values = as_numbers(y, "y")
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.shape[1]:
        raise InvalidData(f"y must be (rows,) or (rows, outputs), not {values.shape}.")
    name = getattr(y, "name", None)
    count = values.shape[1]
    return (str(name or "y"),) if count == 1 else tuple(f"y{o}" for o in range(count)), values, None


def _labels(y: Data) -> tuple[tuple[str, ...], Array, tuple[str, ...]]:
    name = frame_names(y, "y")[0] if is_frame(y) else getattr(y, "name", None)
    labels = as_array(y, "y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidData(f"y must be labels (rows,), not {labels.shape}.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InvalidData("y contains NaN or infinity, which is no label.")
    if labels.dtype == object and any(label is None or label != label for label in labels):  # noqa: PLR0124 (NaN)
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
