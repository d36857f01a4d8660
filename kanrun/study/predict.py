"""`kanrun predict`: a stored model on new rows of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs.files import write_atomic
from kanrun.study.saved import Model, load_run
from kanrun.targets import check_output, read_inputs, table_bytes


def predict(run: Path, source: Path, output: Path, model: str | None = None) -> list[str]:
    """Write the model's predictions for the rows of `source` to `output`, as its ending says, and return warnings.

    The file keeps the input columns and adds one a prediction, in the units of training; a classifier adds the label
    and a column of probability a class. Rows outside the trained range are predicted and counted in a warning.
    Raises UsageError for missing columns, text or missing values, and an output that cannot be written or is of no kind
    of table that kanrun writes.
    """
    if output.is_dir():
        raise UsageError(f"cannot write {output}: it is a directory; choose another --output.")
    check_output(output)
    trained = load_run(run).model(model)
    x = read_inputs(source, trained.inputs)
    table = pd.DataFrame(x, columns=list(trained.inputs))
    values = trained.values(x)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(1).sum())
        raise UsageError(
            f"{bad} of {len(x)} predictions are not finite; the first is that of data row {_first(values)}."
        )
    for name, column in _columns(trained, values):
        table[name] = column
    try:
        write_atomic(output, table_bytes(table, output))
    except StorageFailed as error:
        raise UsageError(f"{str(error).rstrip('.')}; choose another --output.") from error
    return trained.cautions(x)


def _columns(model: Model, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if model.classes:
        labels = np.array(model.classes)[values.argmax(1)]
        return [(model.outputs[0], labels)] + [(f"probability:{c}", values[:, i]) for i, c in enumerate(model.classes)]
    return [(name, values[:, o]) for o, name in enumerate(model.outputs)]


def _first(values: np.ndarray) -> int:
    return int(np.flatnonzero((~np.isfinite(values)).any(1))[0]) + 1
