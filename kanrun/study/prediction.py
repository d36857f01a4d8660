"""Predictions for the rows of a file, block after block, beside every column of it: what `kanrun predict` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.study.model import Model, SampleCounts
from kanrun.study.saved import load_run
from kanrun.targets import TableLimits, check_output, is_parquet, lenient_numbers, read_inputs
from kanrun.targets.encoding import unknown_levels
from kanrun.targets.table_writing import table_writer
from kanrun.targets.tables import MISSING_WORDS, column_kinds, column_names, value_blocks

#: Rows that are predicted at once; a file may be as long as a disk holds.
LIMITS = TableLimits(characters=2**40, cells=10**12)


def predict_table(
    run: Path,
    source: Path,
    output: Path,
    model: str | None = None,
    level: float | None = None,
    derivatives: Sequence[str] = (),
) -> list[str]:
    """Write the model's predictions for the rows of `source` to `output`, as its ending says, and return warnings.

    The file keeps all columns as they are and adds one per output, in the units of training; a classifier adds the
    label and one column of probabilities per class. An added column whose name is taken is called `prediction:NAME`.
    `derivatives` of a solution of `kanrun solve`, such as u_xx, are further columns.
    With `level` there are columns `lower:NAME` and `upper:NAME`, between which the output lies with that probability.
    Rows outside the trained range or in gaps of it are predicted and counted in a warning. Raises UsageError for
    missing columns, text or missing values where the model has none, and for an output that cannot be written or is not
    a kind of table that kanrun writes; no file is left then.
    """
    if output.is_dir():
        raise UsageError(f"cannot write {output}: it is a directory; choose another --output.")
    check_output(output)
    trained = load_run(run).model(model)
    kept = [name for name in column_names(source, LIMITS) if name]
    needed = [column.name for column in trained.code.columns] if trained.code else trained.inputs
    if not set(needed) <= set(kept):
        read_inputs(source, needed)  # which names the column that is not there
    kinds = column_kinds(source, LIMITS) if is_parquet(output) else {}
    unknown, row = Counter[str](), 1
    counts: SampleCounts | None = None
    with table_writer(output, kinds) as write:
        for block in value_blocks(source, None, LIMITS):
            x, new = _inputs(trained, source, block, row)
            raw = trained.raw(x)
            counted = trained.counts(x, raw)
            counts, unknown = counted if counts is None else counts + counted, unknown + new
            added = _columns(trained, x, raw, level, row) | {name: trained.derivative(name, x) for name in derivatives}
            write({**block, **{f"prediction:{name}" if name in block else name: a for name, a in added.items()}})
            row += len(x)
    return [*unknown_levels(unknown, row - 1), *trained.sentences(counts or _none(trained))]


def _none(model: Model) -> SampleCounts:
    nothing = np.zeros(len(model.inputs))
    return SampleCounts(0, nothing, nothing, 0)


def _inputs(model: Model, source: Path, block: dict[str, list[Any]], row: int) -> tuple[np.ndarray, Counter[str]]:
    """The model's inputs of a block that begins with data row `row`."""
    if model.code is not None:
        return model.code.encode_counting(block)
    columns = [lenient_numbers(block[name]) for name in model.inputs]
    x = np.stack([numbers for numbers, _ in columns], 1)
    if np.isnan(x).any():
        read_inputs(source, model.inputs, LIMITS)  # which says where, and how many there are
        i, j = np.argwhere(np.isnan(x))[0]
        value = block[model.inputs[j]][i]
        rule = "missing" if str(value).casefold() in MISSING_WORDS else "no finite number"
        raise UsageError(f"column {model.inputs[j]!r} of {source.name} is {rule} in data row {row + i}.")
    return x, Counter()


def _columns(model: Model, x: np.ndarray, raw: np.ndarray, level: float | None, row: int) -> dict[str, np.ndarray]:
    """The added columns of a block that begins with data row `row`."""
    values = model.values(x, raw)
    if not np.isfinite(values).all():
        bad = np.flatnonzero((~np.isfinite(values)).any(1))
        raise UsageError(f"the prediction of data row {row + bad[0]} is not finite; are there inputs of extreme size?")
    if model.classes:
        labels = {model.outputs[0]: np.array(model.classes)[values.argmax(1)]}
        return labels | {f"probability:{c}": values[:, i] for i, c in enumerate(model.classes)}
    added = {name: values[:, o] for o, name in enumerate(model.outputs)}
    if level is not None:
        low, high = model.ends(x, level, raw)
        for o, name in enumerate(model.outputs):
            added |= {f"lower:{name}": low[:, o], f"upper:{name}": high[:, o]}
    return added
