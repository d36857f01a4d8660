"""Conversion of data in memory (arrays, tensors, DataFrames) to checked float64 matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanrun.errors import InvalidData
from kanrun.points import FAMILIES, RATES, Array, Family, Points
from kanrun.targets.datasets import Target, check_known
from kanrun.targets.encoding import Reading, TableCode, encode_columns, plain_code
from kanrun.targets.table_files import check_columns, check_distinct
from kanrun.targets.table_text import is_number

#: Data that public functions accept: an array-like, a tensor, a DataFrame of pandas or polars, or a
#: mapping from names to columns.
Data = Any
#: Default rules by which columns in memory are read.
IN_MEMORY = Reading()
_SHOWN = 10  # largest number of names in a message
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
