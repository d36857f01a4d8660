"""Data that callers hold in memory: arrays, tensors, DataFrames and sparse matrices as checked float64 matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanrun.errors import InvalidData
from kanrun.suggestions import near
from kanrun.targets.data import Array
from kanrun.targets.encoding import TableCode

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
            raise InvalidData(f"{what} has no column {name!r}; its columns are {there}{near(name, own) or '.'}")
    return {name: np.asarray(x[keys[name]]) for name in names}


def as_array(x: Data, what: str = "x") -> np.ndarray:
    """`x` as an array of any shape. Raises InvalidData for sparse matrices, ragged lists and complex numbers."""
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise InvalidData(f"{what} is a sparse matrix, which kanrun does not take; give {what}.toarray().")
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.double() if x.is_floating_point() else x  # bfloat16 is no type of numpy
    try:
        array = np.asarray(x)
    except ValueError:
        raise InvalidData(f"{what} is not an array: its rows differ in length.") from None
    if np.iscomplexobj(array):
        raise InvalidData(f"{what} holds complex numbers. Complex data not supported: give real and imaginary parts.")
    return array


def as_numbers(x: Data, what: str = "x") -> Array:
    """`x` as float64 of any shape. Raises InvalidData as `as_array`, for what is not numbers, NaN and infinity."""
    array = as_array(x, what)
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        first = next((value for value in array.ravel() if not _is_number(value)), "text")
        raise InvalidData(f"{what} holds {first!r}, which is not a number.") from None
    if not (finite := np.isfinite(numbers)).all():
        where = np.argwhere(~finite)[0]
        place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "") if len(where) else "its place"
        missing = "NaN" if np.isnan(numbers[tuple(where)]) else "infinity"
        raise InvalidData(
            f"{what} contains {missing} ({(~finite).sum()} in all, the first in {place}, counted from 0)."
        )
    return numbers


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def input_rows(x: Data, names: Sequence[str], code: TableCode | None = None) -> tuple[Array, bool]:
    """The inputs `names` of a model as (rows, inputs), and whether `x` was one point without the axis of rows.

    Columns of a frame are found by name, those of `code` where the model encodes its columns; arrays have as many
    columns, in that order. Raises InvalidData for columns that are not there, another width, and values that are not
    finite numbers.
    """
    raw = [column.name for column in code.columns] if code else list(names)
    if is_frame(x):
        columns = frame_columns(x, raw)
        if code:
            return code.encode({name: list(values) for name, values in columns.items()})[0], False
        return np.stack([as_numbers(values, f"the column {name!r}") for name, values in columns.items()], 1), False
    array = as_array(x)
    if hasattr(x, "index") and not callable(x.index) and set(map(str, x.index)) == set(raw):  # one point, by name
        array = np.array([dict(zip(map(str, x.index), array, strict=True))[name] for name in raw])
    single = array.ndim == 1 and len(raw) > 1
    array = array[None] if single else array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise InvalidData(f"x has {array.ndim} dimensions; give (rows, {len(raw)}), or one point ({len(raw)},).")
    if code and array.shape[1] == len(raw):
        return code.encode({name: list(array[:, i]) for i, name in enumerate(raw)})[0], single
    if array.shape[1] != len(names):
        raise InvalidData(
            f"x has {array.shape[1]} columns, and the model has {len(raw)} inputs: {', '.join(map(str, raw[:10]))}"
            f"{', ...' if len(raw) > 10 else ''}."
        )
    return as_numbers(array), single
