"""A run folder read back: what `load_run` gives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kanrun.config.former import translate
from kanrun.errors import UsageError
from kanrun.runs import Run, find_run

if TYPE_CHECKING:
    pass

from kanrun.runs.files import write_named_file
from kanrun.study.model import Model, model_from_checkpoint


class _RunTables(Mapping[str, pd.DataFrame]):
    """The tables of a run by name."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._run.tables:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._run.table(name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.tables)

    def __len__(self) -> int:
        return len(self._run.tables)


@dataclass(frozen=True)
class LoadedRun:
    """A run read back: `config`, `tables` by name, and its trained models; of a sweep, its `jobs`."""

    run: Run

    @cached_property
    def jobs(self) -> tuple[LoadedRun, ...]:
        """The runs of a sweep, in their order; none of a single run."""
        return tuple(LoadedRun(job) for job in self.run.jobs)

    @property
    def config(self) -> dict[str, Any]:
        """The stored configuration, keys of earlier versions under their names of today."""
        config = deepcopy(self.run.config)
        translate(config)
        return config

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The recorded tables by name, each read when it is first asked for; of a sweep, those that it has itself."""
        return _RunTables(self.run)

    @property
    def models(self) -> list[str]:
        """Names of the stored models: by cell, if there are several, then the lowest seed first."""
        names = (name for name in self.run.checkpoints if not re.fullmatch(r"resume-\d+-\d+|stages-seed\d+", name))
        return sorted(names, key=lambda name: (_cell_of(name), name.rpartition("-seed")[0], _seed_of(name)))

    def model(self, name: str | None = None) -> Model:
        """The model called `name`; without one, that of the first seed.

        Raises UsageError for a run without models, for a sweep, and for a name that is not there.
        """
        if self.run.is_sweep:
            raise UsageError(f"{self.run.name} is a sweep of {len(self.run.jobs)} runs; take one of its jobs.")
        self.run.check_checkpoints()
        if not self.models:
            raise UsageError(f"{self.run.path} holds no trained model; only finished trainings leave one.")
        chosen = name or self.models[0]
        if chosen not in self.models:
            raise UsageError(f"{self.run.path} has no model {chosen}; it has {', '.join(self.models)}.")
        return replace(model_from_checkpoint(self.run.checkpoint(chosen)), tables=self.tables)

    def _repr_html_(self) -> str:
        from kanrun.study.model_summary import run_html

        return run_html(self)

    def export(self, form: str, file: str | Path, name: str | None = None) -> list[str]:
        """Write the model called `name` (the first seed's), or the run's formula, to `file`; return what to say of it.

        Raises UsageError for a format that it does not have and a file that cannot be written.
        """
        from kanrun.exports import TABLE_FORMATS, identifier
        from kanrun.exports.formula_text import formula_bytes

        chosen = name or next(iter(self.models), "")
        found = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in found:
            seeds = [self.run.checkpoint(other).meta for other in ([name] if name else self.models)]
            stored = [meta for meta in seeds if "formula" in meta and meta.get("seed") == found.get("seed")]
            write_named_file(Path(file), formula_bytes(stored, form, file, identifier(Path(file).stem)))
            return []
        if form == "formula":
            raise UsageError(f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN.")
        model = self.model(name)
        model.export(form, file)
        if model.code is None or form in TABLE_FORMATS:
            return []
        return [
            f"{file} takes the {len(model.inputs)} numbers that the table's columns become: {', '.join(model.inputs)}"
        ]


def _cell_of(name: str) -> int:
    found = re.match(r"cell(\d+)-", name)
    return int(found[1]) if found else 0


def _seed_of(name: str) -> int:
    """The seed in a checkpoint's name, which ends with a mark where the target's name was no file name."""
    found = re.search(r"-seed(\d+)(-[0-9a-f]{8})?$", name)
    return int(found[1]) if found else 0


def load_run(run: str | Path, outputs: str | Path = "outputs") -> LoadedRun:
    """The run or sweep that `run` names: config, tables, trained models. Nothing in its folder is ever executed.

    `run` is `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/0`, a path, a tag, or the beginning of a name in `outputs`.
    Raises UsageError at once where there is no such run.
    """
    return LoadedRun(find_run(str(run), Path(outputs)))
