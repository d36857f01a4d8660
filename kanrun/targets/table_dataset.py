"""A table as a target and a dataset: which columns, the seeded split, the classes and the standardisation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanrun.config import SamplingConfig, TableTarget
from kanrun.errors import UsageError
from kanrun.near import near
from kanrun.targets.data import Array, Dataset, Points, Scaling, Target
from kanrun.targets.sampling import check_sampling, generator, split_order, validation_count, with_noise
from kanrun.targets.table_columns import is_number, read_columns
from kanrun.targets.table_file import check_path

TASKS = ("regression", "classification")
TEST_SHARE = 0.2  # of a table, where the config gives no numbers
FEWEST_TRAIN = 2  # rows: one has no deviation to standardise by
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


@dataclass(frozen=True, eq=False)
class RowTable:
    """The chosen columns of all rows; for classification, `labels` is the class index of each row."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    points: Points
    classes: tuple[str, ...] | None = None
    labels: NDArray[np.intp] | None = None


def build_table(config: TableTarget) -> Target:
    """The table's columns as a target without a function; its domain is the range of all rows."""
    return table_target(read_rows(config))


def table_target(table: RowTable, x: Array | None = None) -> Target:
    """The target whose domain is the range of `x`, or of all rows."""
    x = table.points.x if x is None else x
    domain = np.stack([x.min(axis=0), x.max(axis=0)], axis=1)
    return Target(table.name, table.inputs, table.outputs, domain, None, None)


def table_dataset(table: RowTable, sampling: SamplingConfig, seed: int) -> Dataset:
    """The rows split by `seed` into training, validation and test rows, standardised by the training rows.

    The target's domain is the range of the training inputs; a constant column has lower = upper there. Raises
    UsageError for a table that has too few rows.
    """
    check_sampling(sampling)
    if table.classes is not None and sampling.noise:
        raise UsageError(f"sampling.noise={sampling.noise} does not apply to class labels; set it to 0.")
    count, test_count = _counts(len(table.points), sampling, table.name)
    order = split_order(len(table.points), generator(seed, "rows"), table.labels)
    chosen, test_rows = np.sort(order[:count]), np.sort(order[count : count + test_count])
    within = split_order(count, generator(seed, "validation"), None if table.labels is None else table.labels[chosen])
    kept = count - validation_count(count, sampling.validation)
    drawn = with_noise(table.points.take(chosen), sampling.noise, generator(seed, "noise"))
    train, validation = drawn.take(np.sort(within[:kept])), drawn.take(np.sort(within[kept:]))
    input_scaling, output_scaling = _scaling(train.x, table.name), _scaling(train.y, table.name)
    return Dataset(
        target=table_target(table, train.x),
        train=train,
        validation=validation if len(validation) else None,
        test=table.points.take(test_rows) if test_count else None,
        input_scaling=input_scaling,
        output_scaling=output_scaling if table.classes is None else Scaling.identity(1),
        task="regression" if table.classes is None else "classification",
        classes=table.classes,
        notes=tuple(_notes(table, train)),
    )


def read_rows(config: TableTarget) -> RowTable:
    """The columns of the config, read from its file. Raises UsageError for a table that is not fit."""
    if config.task not in TASKS:
        raise UsageError(f"target.task={config.task!r} is unknown{near(config.task, TASKS)}; use {' or '.join(TASKS)}.")
    for key, names in (("inputs", config.inputs), ("outputs", config.outputs)):
        if not names or isinstance(names, str):
            raise UsageError(f"target.{key} must list at least one column, such as target.{key}=[a,b].")
        if twice := sorted({name for name in names if list(names).count(name) > 1}):
            raise UsageError(f"target.{key} lists the column {twice[0]!r} twice.")
    if both := [name for name in config.inputs if name in config.outputs]:
        raise UsageError(f"the column {both[0]!r} is both in target.inputs and in target.outputs.")
    file = check_path(config.path)
    inputs, outputs = tuple(config.inputs), tuple(config.outputs)
    if config.task == "regression":
        hints = dict.fromkeys(config.outputs, "text labels need target.task=classification")
        values = read_columns(file, [*config.inputs, *config.outputs], hints=hints).numbers
        split = len(config.inputs)
        return RowTable(file.name, inputs, outputs, Points(values[:, :split], values[:, split:]))
    if len(config.outputs) != 1:
        raise UsageError(f"classification takes one output column, target.outputs has {len(config.outputs)}.")
    columns = read_columns(file, config.inputs, config.outputs)
    classes, labels = classes_of(columns.labels[0], config.outputs[0])
    points = Points(columns.numbers, labels[:, None].astype(np.float64))
    return RowTable(file.name, inputs, outputs, points, classes, labels)


def classes_of(texts: list[str], column: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The sorted classes (by number where all are whole numbers) and the index of each row's."""
    different = sorted(set(texts))
    if all(is_number(text) for text in different):
        numbers = {text: _whole(text, column) for text in different}
        names = [str(number) for number in sorted(set(numbers.values()))]
        key = {text: str(number) for text, number in numbers.items()}
    else:
        names = different
        key = {name: name for name in names}
    if len(names) < 2:
        raise UsageError(f"column {column!r} has the one class {names[0]!r} only; at least two are needed.")
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([index[key[text]] for text in texts], dtype=np.intp)


def _whole(text: str, column: str) -> int:
    """The whole number that a label writes, exactly: float64 would make one class of two long ones."""
    if _WHOLE.fullmatch(text):
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise UsageError(
            f"column {column!r} holds {text}, which is not a class; "
            "labels are text or whole numbers (numbers of any kind: target.task=regression)."
        )
    return int(number)


def _counts(rows: int, sampling: SamplingConfig, name: str) -> tuple[int, int]:
    """How many rows to train on (validation included) and to test on."""
    train, test = sampling.train, sampling.test
    if train is not None and train < FEWEST_TRAIN:
        raise UsageError(f"sampling.train={train} must be at least {FEWEST_TRAIN} for a table.")
    if test is None:
        test = max(round(TEST_SHARE * rows), 1) if train is None else max(rows - train, 0)
    if train is None:
        train = max(rows - test, FEWEST_TRAIN)
    if train + test > rows:
        has = f"has {rows} row{'' if rows == 1 else 's'}"
        raise UsageError(f"{train} training and {test} test rows are {train + test}, but {name} {has}.")
    return train, test


def _scaling(values: Array, name: str) -> Scaling:
    """By mean and standard deviation; a column that is constant (to rounding) is only shifted."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = values.mean(axis=0), values.std(axis=0)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise UsageError(f"{name} has values too large for float64 to average; rescale such columns.")
    return Scaling(mean, np.where(_constant(values), 1.0, deviation))


def _constant(values: Array) -> NDArray[np.bool_]:
    spread = values.max(axis=0) - values.min(axis=0)
    return np.asarray(spread <= 1e-13 * np.abs(values).max(axis=0))


def _notes(table: RowTable, train: Points) -> list[str]:
    names, values = list(table.inputs), train.x
    if table.classes is None:
        names, values = [*names, *table.outputs], np.concatenate([train.x, train.y], axis=1)
    notes = [
        f"column {name!r} of {table.name} is constant ({value:g}) in the training rows"
        for name, constant, value in zip(names, _constant(values), values[0], strict=True)
        if constant
    ]
    for i, name in enumerate(table.classes or ()):
        if not (train.y[:, 0] == i).any():
            notes.append(f"class {name!r} of {table.name} is in no training row, so it cannot be learned")
    return notes
