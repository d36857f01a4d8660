"""Targets that are tables: files, tables of scikit-learn, NIST's sets, and points of a curve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.config import BundledTarget, NistTarget, PointsTarget, TableTarget, check
from kanrun.errors import UsageError, did_you_mean
from kanrun.points import Array, Points
from kanrun.targets.arrays import array_target
from kanrun.targets.datasets import Target
from kanrun.targets.encoding import (
    EMPTY,
    Conversion,
    TableCode,
    code_of,
    column_kinds,
    days_of,
    is_number,
    read_inputs,
    read_numbers,
    text_of,
)
from kanrun.targets.table_files import (
    ColumnBlock,
    check_columns,
    check_path,
    column_names,
    read_table,
)

if TYPE_CHECKING:
    import sympy

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
_SPIRAL_POINTS, _UNEVEN = 24, 0.2
_LINES = re.compile(r"(Certified Values|Data)\s+\(lines\s+(\d+)\s+to\s+(\d+)\)")
_MODEL = re.compile(r"^ +(?P<left>log\[y\]|y) *=(?P<right>[^=]*?)\+ *e *$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?")


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


@lru_cache(maxsize=4)
def _read_target(settings: bytes, _stamps: tuple[tuple[int, ...], ...]) -> Target:
    asked = msgspec.json.decode(settings, type=TableTarget)
    file, inputs = check_path(asked.path), _inputs(asked, check_path(asked.path))
    roles = [name for name in (asked.weight_column, asked.split_column) if name]
    table = read_table(file, list(dict.fromkeys([*inputs, *asked.outputs, *roles])))
    table, notes = _complete_rows(file, table, inputs, asked)
    weights = None
    if column := asked.weight_column:
        weights = _numbers(file, table, [column])[:, 0]
        if (weights < 0).any():
            raise UsageError(f"the column {column!r} of {file.name} has a negative weight.")
        table, weights = table.take(weights > 0), weights[weights > 0]
        if len(weights) < 2:
            raise UsageError(
                f"the column {column!r} of {file.name} leaves {len(weights)} rows with a weight."
            )
        weights /= weights.mean()  # they say how rows compare
    code, x, said = _encode(file, table, inputs, asked)
    y, classes = _outputs(file, table, asked)
    forward = asked.split.startswith("time:")
    points = Points(x, y, weights, _groups(file, table, asked), forward)
    return Target(
        file.name,
        code.features if code else inputs,
        tuple(asked.outputs),
        points.box,
        points=points,
        test=_test_points(asked, inputs, code, classes) if asked.test_path else None,
        is_table=True,
        classes=classes,
        code=code,
        notes=(*notes, *said),
    )


def _inputs(config: TableTarget, file: Path) -> tuple[str, ...]:
    """Return the columns that are inputs. Raises UsageError for unknown columns, and for none."""
    names = [name for name in column_names(file) if name]
    roles = [name for name in (config.weight_column, config.split_column) if name]
    check_columns([*config.exclude, *roles], names, file)
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


def _complete_rows(
    file: Path, table: ColumnBlock, inputs: Sequence[str], asked: TableTarget
) -> tuple[ColumnBlock, list[str]]:
    """Return the rows that are not dropped, and notes on the others."""
    notes: list[str] = []
    if asked.missing != "drop":
        return table, notes
    kept = np.ones(len(table.rows), dtype=bool)
    for what, names in (("inputs", inputs), ("outputs", asked.outputs)):
        labels = what == "outputs" and asked.task == "classification"
        given = np.all([_given(table.columns[name], labels) for name in names], axis=0)
        if not given.all():
            count = f"{(~given).sum()} of {len(given)} rows of {file.name}"
            notes.append(f"{count} have missing {what} and are left out")
        kept &= given
    if kept.sum() < min(2, len(kept)):
        raise UsageError(f"{file.name} has {kept.sum()} rows without missing values; {_INDICATOR}.")
    return table.take(kept), notes


def _given(values: Sequence[Any], labels: bool) -> NDArray[np.bool_]:
    """Return which values are not missing; of labels and text only empty ones are."""
    numbers, faults = read_numbers(values)
    if labels or faults["text"] or faults["infinite"]:
        return np.array([text_of(value) != EMPTY for value in values])
    return ~np.isnan(numbers)


def _numbers(
    file: Path, table: ColumnBlock, names: Sequence[str], advice: Mapping[str, str] | None = None
) -> Array:
    """Return columns of numbers, shape (rows, names)."""
    conversion = Conversion(file, advice or {})
    found = conversion.numbers(table, names)
    conversion.check()
    return found


def _outputs(
    file: Path, table: ColumnBlock, asked: TableTarget, known: tuple[str, ...] | None = None
) -> tuple[Array, tuple[str, ...] | None]:
    """Return the outputs (rows, outputs), and the classes that they number.

    Raises UsageError for a class that is not `known`, if these are given.
    """
    advice = {
        "text": "text labels need target.task=classification",
        "missing": "or set target.missing=drop",
    }
    if asked.task != "classification":
        return _numbers(file, table, asked.outputs, advice), None
    conversion = Conversion(file, advice)
    labels = conversion.labels(table, asked.outputs[0])
    conversion.check()
    classes, index = classes_of([*labels, *(known or ())], asked.outputs[0])
    if known and (unknown := [name for name in classes if name not in known]):
        raise UsageError(
            f"{file.name} has the class {unknown[0]!r}, which is in no row of "
            f"{Path(asked.path).name}."
        )
    return index[: len(labels), None].astype(np.float64), classes


def _groups(file: Path, table: ColumnBlock, asked: TableTarget) -> Array | None:
    """Return the numbers of the groups of the rows, or their times."""
    way, _, column = asked.split.partition(":")
    if not column:
        return None
    values = table.columns[column]
    if way == "group":
        return np.unique([str(value) for value in values], return_inverse=True)[1].astype(float)
    times = days_of(values)
    return _numbers(file, table, [column])[:, 0] if times is None else times


def _test_points(
    asked: TableTarget,
    inputs: tuple[str, ...],
    code: TableCode | None,
    classes: tuple[str, ...] | None,
) -> Points:
    """Return the rows of the test file. Raises UsageError for a class without training rows."""
    file = check_path(asked.test_path or "")
    table = read_table(file, list(dict.fromkeys([*inputs, *asked.outputs])))
    table, _ = _complete_rows(file, table, (), asked)
    x = _numbers(file, table, inputs) if code is None else code.encode(table.columns)[0]
    return Points(x, _outputs(file, table, asked, classes)[0])


def _encode(
    file: Path, table: ColumnBlock, inputs: tuple[str, ...], asked: TableTarget
) -> tuple[TableCode | None, Array, list[str]]:
    """Return the code of the inputs, their numbers (rows, features), and notes."""
    if asked.missing == "error" and not asked.categorical_columns:
        hints = dict.fromkeys(("text", "missing"), f"or {_INDICATOR}")
        return None, _numbers(file, table, inputs, hints), []
    raw = {name: table.columns[name] for name in inputs}
    advice = f"correct such rows of {file.name}, or name the column in target.categorical_columns"
    code, notes = code_of(raw, asked.categorical_columns, advice)
    if code is None:
        return None, _numbers(file, table, inputs), notes
    return code, code.encode(raw)[0], notes


def classes_of(texts: Sequence[str], column: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the classes, sorted by number if all are whole, and the index of each row's."""
    names = {text: text for text in sorted(set(texts))}
    known = list(names.values())
    if all(map(is_number, names)):
        whole = {text: _whole(text, column) for text in names}
        names = {text: str(number) for text, number in whole.items()}
        known = list(map(str, sorted(set(whole.values()))))
    if len(known) < 2:
        raise UsageError(
            f"column {column!r} has the one class {known[0]!r} only; at least two are needed."
        )
    index = {name: i for i, name in enumerate(known)}
    return tuple(known), np.array([index[names[text]] for text in texts], dtype=np.intp)


def _whole(text: str, column: str) -> int:
    """Return the whole number of a label, exactly: float64 would merge two long ones."""
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise UsageError(
            f"column {column!r} holds {text}, which is not a class; labels are text or whole "
            "numbers (numbers of any kind: target.task=regression)."
        )
    return int(number)


def build_bundled(config: BundledTarget) -> Target:
    """Return a table of scikit-learn, with classes such as `target virginica`.

    Raises UsageError for an unknown table, and if scikit-learn is not installed.
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
            f"the table {name} comes with scikit-learn, which is not installed; run: "
            "pip install 'kanrun[datasets]'."
        ) from None
    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    y, classification = data.target, task == "classification"
    if classification:
        y = y.map(lambda number: f"{y.name} {data.target_names[number]}")
    return replace(array_target(data.data, y, classification=classification), name=name)


@dataclass(frozen=True)
class NistSet:
    """A set of points with a certified fit.

    Attributes:
        x, y: Shapes (points, inputs) and (points,); y is the logarithm if the model is one of it.
        model: The model in x0, ... and `parameters`.
        starts: Two initial guesses of the parameters, shape (2, parameters).
        certified: Certified parameters.
        sum_of_squares: Certified sum of squared residuals.
    """

    name: str
    x: Array
    y: Array
    model: sympy.Expr
    parameters: tuple[str, ...]
    starts: Array
    certified: Array
    sum_of_squares: float


def read_nist(folder: str, name: str) -> NistSet:
    """Read `folder`/`name`.dat. Raises UsageError for a missing file, and for another format."""
    path = Path(folder) / f"{name}.dat"
    if not path.is_file():
        known = sorted(each.stem for each in Path(folder).glob("*.dat"))
        raise UsageError(
            f"target.name={name!r}: {folder} has no file {name}.dat"
            f"{did_you_mean(name, known) or '.'}"
        )
    try:
        return _read_nist(name, path.read_text(encoding="ascii"))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is not a file of NIST's nonlinear regression sets: {error}."
        ) from error


def _read_nist(name: str, text: str) -> NistSet:
    lines = text.splitlines()
    spans = {what: (int(first) - 1, int(last)) for what, first, last in _LINES.findall(text)}
    rows = [line for line in lines[slice(*spans["Certified Values"])] if "=" in line]
    numbers = np.array([_floats(row.split("=")[1])[:3] for row in rows])
    data = np.array([_floats(line) for line in lines[slice(*spans["Data"])] if line.strip()])
    match = _MODEL.search(text)
    if match is None or numbers.shape != (len(rows), 3) or data.ndim != 2:
        raise ValueError("its model, parameters or data are not where they are expected")
    parameters = tuple(row.split("=")[0].strip() for row in rows)
    inputs = [f"x{i}" for i in range(data.shape[1] - 1)]
    right = " ".join(match["right"].split()).translate(str.maketrans("[]", "()"))
    for number, ours in enumerate(inputs, 1):
        right = re.sub(r"\bx\b" if len(inputs) == 1 else rf"\bx{number}\b", ours, right)
    from kanrun.formulas.parsing import parse_expression  # which loads sympy

    residual = next(line for line in lines if line.startswith("Residual Sum of Squares"))
    return NistSet(
        name,
        data[:, 1:],
        np.log(data[:, 0]) if match["left"].startswith("log") else data[:, 0],
        parse_expression(right, [*inputs, *parameters]),
        parameters,
        numbers[:, :2].T,
        numbers[:, 2],
        _floats(residual)[0],
    )


def _floats(text: str) -> list[float]:
    return [float(number.replace("D", "E")) for number in _NUMBER.findall(text)]


def build_nist(config: NistTarget) -> Target:
    """Return all points of a set, without a known function between them."""
    found = read_nist(config.path, config.name)
    points = Points(found.x, found.y[:, None])
    inputs = tuple(f"x{i}" for i in range(found.x.shape[1]))
    return Target(found.name, inputs, ("y",), points.box, points=points)


def planar_points(config: PointsTarget) -> tuple[Array, Array | None]:
    """Return the points (points, 2) of a curve in their order, and their parameters if given.

    Raises UsageError for a file that is not a table, and for columns that are missing or hold
    anything but finite numbers.
    """
    check(config, "target.")
    if config.path is None:  # unevenly spaced on a spiral, which is not the graph of a function
        angle = np.linspace(0.0, 4 * np.pi, _SPIRAL_POINTS)
        angle += _UNEVEN * np.sin(5 * np.arange(_SPIRAL_POINTS))
        radius = 2 * _UNEVEN + _UNEVEN * angle
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), None
    columns = list(config.columns) if config.columns is not None else _found_columns(config.path)
    wanted = columns if config.parameter is None else [*columns, config.parameter]
    numbers = read_inputs(config.path, wanted)
    return numbers[:, :2], None if config.parameter is None else numbers[:, 2]


def _found_columns(path: str) -> list[str]:
    """Return x and y if both are there, otherwise the first two columns that hold numbers."""
    kinds = {name: str(kind) for name, kind in column_kinds(path).items()}
    if all(map(is_number, kinds)):
        raise UsageError(
            f"{path} begins with numbers ({', '.join(list(kinds)[:4])}); name its columns in a "
            "first row, as x,y."
        )
    if {"x", "y"} <= kinds.keys():
        return ["x", "y"]
    types = ("whole", "numbers", "int", "uint", "float", "double", "halffloat")
    numeric = [name for name, kind in kinds.items() if kind.startswith(types)]
    if len(numeric) < 2:
        raise UsageError(
            f"{path} has {len(numeric)} columns of numbers among {', '.join(list(kinds)[:20])}; "
            "a curve needs two."
        )
    return numeric[:2]
