"""Run folders read back by `load_run`, and predictions of their models for the rows of a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanrun.errors import UsageError
from kanrun.runs import Run, find_run
from kanrun.runs.files import write_named_file
from kanrun.runs.tables import as_text, formulas_in
from kanrun.study.checkpoints import model_from_checkpoint
from kanrun.study.model import Model
from kanrun.study.prediction import (
    contributions,
    count_out_of_range,
    interval_bounds,
    network_outputs,
    predicted_values,
    quantile_values,
    range_warnings,
)
from kanrun.targets import (
    TableLimits,
    check_output,
    column_kinds,
    column_names,
    is_parquet,
    read_blocks,
    read_inputs,
)
from kanrun.targets.encoding import unknown_levels
from kanrun.targets.notation import is_missing, read_numbers
from kanrun.targets.table_writing import table_writer


@dataclass(frozen=True)
class LoadedRun:
    """A run read back, or a point of it: `config`, `tables`, models, and its `points`."""

    run: Run

    @cached_property
    def points(self) -> tuple[LoadedRun, ...]:
        """Points in the order of their numbers; of a run of one point the run itself."""
        return tuple(LoadedRun(point) for point in self.run.points)

    @property
    def config(self) -> dict[str, Any]:
        """Stored configuration as plain values."""
        return deepcopy(self.run.config)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Recorded tables by name, each read when it is first asked for."""
        return self.run.frames

    @property
    def models(self) -> list[str]:
        """Names of the stored models: by cell, if there are several, then the lowest seed first."""
        names = (
            name
            for name in self.run.checkpoints
            if not re.fullmatch(r"resume-\d+-\d+|.*-seed\d+-stages", name)
        )
        return sorted(names, key=_place)

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or that of the first seed.

        Raises UsageError for a run without models or of several points, and for an unknown name.
        """
        if self.run.has_points:
            raise UsageError(
                f"{self.run.name} is a run of {len(self.run.points)} points; name one of them. "
                f"The best is {self.run.best.name}."
            )
        self.run.check_checkpoints()
        if not self.models:
            raise UsageError(
                f"{self.run.path} holds no trained model; only finished trainings leave one."
            )
        chosen = name or self.models[0]
        if chosen not in self.models:
            raise UsageError(
                f"{self.run.path} has no model {chosen}; it has {', '.join(self.models)}."
            )
        return replace(model_from_checkpoint(self.run.checkpoint(chosen)), tables=self.tables)

    def export(
        self, form: str, file: str | Path, name: str | None = None, **options: float
    ) -> list[str]:
        """Write the model called `name` (the first seed's), or the run's formula, to `file`.

        `options` are those of `Model.export`. Returns notes for the user. Raises UsageError for an
        unknown format and a file that cannot be written.
        """
        from kanrun.exports import TABLE_FORMATS, formula_bytes, identifier

        chosen = name or next(iter(self.models), "")
        found = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in found:
            seeds = [self.run.checkpoint(other) for other in ([name] if name else self.models)]
            units = self.config.get("target", {}).get("units")
            stored = [
                {**one.meta, **_numbers(one.arrays), "units": units}
                for one in seeds
                if "formula" in one.meta and one.meta.get("seed") == found.get("seed")
            ]
            content = formula_bytes(stored, form, file, identifier(Path(file).stem))
            write_named_file(Path(file), content)
            return []
        if form == "formula":
            raise UsageError(
                f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN."
            )
        model = self.model(name)
        notes = model.export(form, file, **options)
        if model.code is None or form in TABLE_FORMATS:
            return notes
        return [
            *notes,
            f"{file} takes the {len(model.inputs)} numbers that encode the columns of the table: "
            f"{', '.join(model.inputs)}",
        ]


def _numbers(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the domain of a stored formula, and knots and coefficients of its splines."""
    names = [key.removesuffix(".knots") for key in arrays if key.endswith(".knots")]
    splines = {
        name: (arrays[f"{name}.knots"].tolist(), arrays[f"{name}.coefficients"].tolist())
        for name in names
    }
    return {"domain": arrays["domain"].tolist(), "splines": splines}


def _place(name: str) -> tuple[int, str, int]:
    """Return cell, words and seed of a checkpoint's name, which may end with a hash."""
    cell, seed = re.match(r"cell(\d+)-", name), re.search(r"-seed(\d+)(-[0-9a-f]{8})?$", name)
    return int(cell[1]) if cell else 0, name.rpartition("-seed")[0], int(seed[1]) if seed else 0


def load_run(run: str | Path, outputs: str | Path = "outputs") -> LoadedRun:
    """Read the run that `run` names: configuration, tables, trained models.

    Nothing in its folder is ever executed.

    Args:
        run: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/7` for point 7 of a run of several, a
            path, a tag, or the beginning of a name in `outputs`.
        outputs: The folder of run folders.

    Returns:
        The run, or one point of it.

    Raises:
        UsageError: If there is no such run.

    Examples:
        >>> from kanrun import load_run
        >>> run = load_run("fit/latest")
        >>> run.model().inputs
        ('x0',)
        >>> len(run.tables["summary"])
        1
    """
    return LoadedRun(find_run(str(run), Path(outputs)))


#: Rows that are predicted at once; a file may be as long as a disk holds.
LIMITS = TableLimits(characters=2**40, cells=10**12)


@dataclass(frozen=True)
class PredictionOptions:
    """Settings of a file of predictions.

    Attributes:
        model: Name of the model's file; None: the model of the first seed.
        level: Coverage probability of the interval whose ends are added as the columns `lower:NAME`
            and `upper:NAME`.
        quantiles: Probabilities of the quantiles that are added as the columns `quantile P:NAME`.
        derivatives: Derivatives of a solution of `kanrun solve` that are added, such as u_xx.
        spreadsheet_safe: Mark cells that a spreadsheet would run with an apostrophe in front.
        explain: Add `start:NAME` and, for each input column, `effect:COLUMN on NAME`, which sum to
            the prediction; see `contributions`.
    """

    model: str | None = None
    level: float | None = None
    quantiles: Sequence[float] = ()
    derivatives: Sequence[str] = ()
    spreadsheet_safe: bool = False
    explain: bool = False


def predict_table(
    run: Run, source: Path, output: Path, options: PredictionOptions = PredictionOptions()
) -> list[str]:
    """Write the model's predictions for the rows of `source` to `output`, and return warnings.

    The file keeps all columns and adds one per output, in the units of training; a classifier adds
    the label and one column of probabilities per class. An added column whose name is taken is
    called `prediction:NAME`.

    Cells that a spreadsheet would run get an apostrophe in front if `spreadsheet_safe`, and
    otherwise are counted in a warning. Rows outside the trained range
    or in gaps of it are predicted and counted in a warning. Raises UsageError for missing columns,
    for text or missing values that the model cannot take, for an interval of classes, and for an
    output that cannot be written; no file is left then.
    """
    if output.is_dir():
        raise UsageError(f"cannot write {output}: it is a directory; choose another --output.")
    check_output(output)
    trained = LoadedRun(run).model(options.model)
    if (options.level is not None or options.quantiles) and trained.classes:
        raise UsageError(
            "--interval and --quantiles are for numbers, and this model predicts classes; the "
            "columns probability:CLASS show how certain it is. Remove the option."
        )
    kept = [name for name in column_names(source, LIMITS) if name]
    needed = [column.name for column in trained.code.columns] if trained.code else trained.inputs
    if not set(needed) <= set(kept):
        read_inputs(source, needed)  # which names the column that is not there
    kinds = column_kinds(source, LIMITS) if is_parquet(output) else {}
    unknown, row, formulas = Counter[str](), 1, 0
    counts = count_out_of_range(trained, np.empty((0, len(trained.inputs))))
    with table_writer(output, kinds) as write:
        for part in read_blocks(source, None, LIMITS):
            block = dict(part.columns)
            x, new = _inputs(trained, source, block, row)
            raw = network_outputs(trained, x)
            counts, unknown = counts + count_out_of_range(trained, x, raw), unknown + new
            added = _columns(trained, x, raw, options, row) | {
                name: trained.derivative(name, x) for name in options.derivatives
            }
            if options.explain:
                added |= _explanation(trained, x)
            block |= {
                f"prediction:{name}" if name in block else name: values.tolist()
                for name, values in added.items()
            }
            if not is_parquet(output):
                formulas += sum(map(formulas_in, block.values()))
                if options.spreadsheet_safe:
                    block = {
                        as_text(name): [as_text(v) if isinstance(v, str) else v for v in values]
                        for name, values in block.items()
                    }
            write(block)
            row += len(x)
    said = (
        f"{formulas} cells of {output.name} would be run by a spreadsheet; --spreadsheet-safe "
        "writes them as text"
    )
    return [
        *unknown_levels(unknown, row - 1),
        *range_warnings(trained, counts),
        *([said] if formulas and not options.spreadsheet_safe else []),
    ]


def _explanation(model: Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns that explain predictions: of two classes those of the second."""
    start, effects = contributions(model, x)
    names, added = model.classes or model.outputs, dict[str, np.ndarray]()
    for o in range(int(len(model.classes or ()) == 2), len(names)):
        added[f"start:{names[o]}"] = np.full(len(x), start[o])
        added |= {f"effect:{column} on {names[o]}": e[:, o] for column, e in effects.items()}
    return added


def _inputs(
    model: Model, source: Path, block: dict[str, list[Any]], row: int
) -> tuple[np.ndarray, Counter[str]]:
    """Return the model's inputs of a block that begins with data row `row`."""
    if model.code is not None:
        return model.code.encode(block)
    x = np.stack([read_numbers(block[name])[0] for name in model.inputs], 1)
    if np.isnan(x).any():
        read_inputs(source, model.inputs, LIMITS)  # which says where, and how many there are
        i, j = np.argwhere(np.isnan(x))[0]
        value = block[model.inputs[j]][i]
        rule = "missing" if is_missing(value) else "no finite number"
        raise UsageError(
            f"column {model.inputs[j]!r} of {source.name} is {rule} in data row {row + i}."
        )
    return x, Counter()


def _columns(
    model: Model, x: np.ndarray, raw: np.ndarray, options: PredictionOptions, row: int
) -> dict[str, np.ndarray]:
    """Return the added columns of a block that begins with data row `row`."""
    values = predicted_values(model, x, raw)
    if not np.isfinite(values).all():
        bad = np.flatnonzero((~np.isfinite(values)).any(1))
        raise UsageError(
            f"the prediction of data row {row + bad[0]} is not finite. Check for extreme inputs."
        )
    if model.classes:
        labels = {model.outputs[0]: np.array(model.classes)[values.argmax(1)]}
        return labels | {f"probability:{c}": values[:, i] for i, c in enumerate(model.classes)}
    added = {name: values[:, o] for o, name in enumerate(model.outputs)}
    if options.level is not None:
        low, high = interval_bounds(model, x, options.level, raw)
        for o, name in enumerate(model.outputs):
            added |= {f"lower:{name}": low[:, o], f"upper:{name}": high[:, o]}
    for p in options.quantiles:
        values = quantile_values(model, x, p, raw)
        added |= {f"quantile {p:g}:{name}": values[:, o] for o, name in enumerate(model.outputs)}
    return added
