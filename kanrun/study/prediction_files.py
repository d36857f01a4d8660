"""Predictions of a trained model for the rows of a file, of any length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.runs.tables import as_text, formulas_in
from kanrun.study.model import Model
from kanrun.study.prediction import (
    Array,
    contributions,
    count_out_of_range,
    in_units,
    interval_bounds,
    network_outputs,
    quantile_values,
    range_warnings,
)
from kanrun.targets import (
    TableLimits,
    column_kinds,
    column_names,
    is_parquet,
    read_blocks,
    read_inputs,
)
from kanrun.targets.encoding import unknown_levels
from kanrun.targets.notation import is_missing, read_numbers
from kanrun.targets.table_files import table_writer

#: Rows that are predicted at once; a file may be as long as a disk holds.
LIMITS = TableLimits(characters=2**40, cells=10**12)


@dataclass(frozen=True)
class PredictionOptions:
    """Settings of a file of predictions.

    Attributes:
        level: Coverage probability of the interval whose ends are added as the columns `lower:NAME`
            and `upper:NAME`.
        quantiles: Probabilities of the quantiles that are added as the columns `quantile P:NAME`.
        derivatives: Derivatives of a solution of `kanrun solve` that are added, such as u_xx.
        spreadsheet_safe: Mark cells that a spreadsheet would run with an apostrophe in front.
        explain: Add `start:NAME` and, for each input column, `effect:COLUMN on NAME`, which sum to
            the prediction; see `contributions`.
    """

    level: float | None = None
    quantiles: Sequence[float] = ()
    derivatives: Sequence[str] = ()
    spreadsheet_safe: bool = False
    explain: bool = False


def predict_table(
    model: Model, source: Path, output: Path, options: PredictionOptions = PredictionOptions()
) -> list[str]:
    """Write the model's predictions for the rows of `source` to `output`, and return warnings.

    The file keeps all columns and adds one per output, in the units of training; a classifier adds
    the label and one column of probabilities per class. An added column whose name is taken is
    called `prediction:NAME`.

    Cells that a spreadsheet would run are counted in a warning, unless they are marked. Rows
    outside the trained range or in gaps of it are predicted and counted in a warning. Raises
    UsageError for missing columns, for text or missing values that the model cannot take, for an
    interval of classes, and for an output that cannot be written; no file is left then.
    """
    if (options.level is not None or options.quantiles) and model.classes:
        raise UsageError(
            "--interval and --quantiles are for numbers, and this model predicts classes; the "
            "columns probability:CLASS show how certain it is. Remove the option."
        )
    needed = [column.name for column in model.code.columns] if model.code else model.inputs
    if not set(needed) <= set(column_names(source, LIMITS)):
        read_inputs(source, needed)  # which names the column that is not there
    binary, safe = is_parquet(output), options.spreadsheet_safe
    unknown, counts, row, formulas = Counter[str](), Counter[Any](), 1, 0
    with table_writer(output, column_kinds(source, LIMITS) if binary else {}) as write:
        for part in read_blocks(source, None, LIMITS):
            block = dict(part.columns)
            x, new = _inputs(model, source, block, row)
            raw = network_outputs(model, x)
            counts, unknown = counts + count_out_of_range(model, x, raw), unknown + new
            for name, values in _added(model, x, raw, row, options).items():
                block[f"prediction:{name}" if name in part.columns else name] = values.tolist()
            if not binary:
                formulas += sum(map(formulas_in, block.values()))
            if safe and not binary:
                block = {
                    as_text(name): [as_text(v) if isinstance(v, str) else v for v in values]
                    for name, values in block.items()
                }
            write(block)
            row += len(x)
    found = [*unknown_levels(unknown, row - 1), *range_warnings(model, counts)]
    if formulas and not safe:
        said = f"{formulas} cells of {output.name} would be run by a spreadsheet"
        found.append(f"{said}; --spreadsheet-safe writes them as text")
    return found


def _inputs(
    model: Model, source: Path, block: dict[str, list[Any]], row: int
) -> tuple[Array, Counter[str]]:
    """Return the model's inputs of a block that begins with data row `row`."""
    if model.code is not None:
        return model.code.encode(block)
    x = np.stack([read_numbers(block[name])[0] for name in model.inputs], 1)
    if np.isnan(x).any():
        read_inputs(source, model.inputs, LIMITS)  # which says where, and how many there are
        i, j = np.argwhere(np.isnan(x))[0]
        rule = "missing" if is_missing(block[model.inputs[j]][i]) else "no finite number"
        raise UsageError(
            f"column {model.inputs[j]!r} of {source.name} is {rule} in data row {row + i}."
        )
    return x, Counter()


def _added(
    model: Model, x: Array, raw: Array, row: int, options: PredictionOptions
) -> dict[str, NDArray[Any]]:
    """Return the added columns of a block that begins with data row `row`."""
    values, names = in_units(model, raw), model.classes or model.outputs
    if not np.isfinite(values).all():
        bad = np.flatnonzero((~np.isfinite(values)).any(1))
        raise UsageError(
            f"the prediction of data row {row + bad[0]} is not finite. Check for extreme inputs."
        )
    added: dict[str, NDArray[Any]] = {}
    if model.classes:
        added[model.outputs[0]] = np.array(model.classes)[values.argmax(1)]
    prefix = "probability:" if model.classes else ""
    added |= {f"{prefix}{name}": values[:, o] for o, name in enumerate(names)}
    if options.level is not None:
        low, high = interval_bounds(model, raw, options.level)
        for o, name in enumerate(names):
            added |= {f"lower:{name}": low[:, o], f"upper:{name}": high[:, o]}
    for p in options.quantiles:
        bounds = quantile_values(model, raw, p)
        added |= {f"quantile {p:g}:{name}": bounds[:, o] for o, name in enumerate(names)}
    added |= {name: model.derivative(name, x) for name in options.derivatives}
    if options.explain:
        start, effects = contributions(model, x)
        for o in range(int(len(model.classes or ()) == 2), len(names)):  # of two the second
            added[f"start:{names[o]}"] = np.full(len(x), start[o])
            added |= {f"effect:{column} on {names[o]}": e[:, o] for column, e in effects.items()}
    return added
