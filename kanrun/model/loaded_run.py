"""Stored runs, as `load_run` returns them: configuration, tables and trained models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kanrun.errors import UsageError
from kanrun.model.model import Model
from kanrun.model.trained import from_checkpoint
from kanrun.runs import Run, find_run
from kanrun.runs.files import write_named_file

#: Pattern of the names of checkpoints with the models under a slider of the lesson.
SLIDER_NAME = re.compile(r".*-seed\d+-stages")


@dataclass(frozen=True)
class LoadedRun:
    """A stored run, or one of its points (a point is one combination of swept values).

    Use `config` for the configuration, `tables` for the recorded tables, `model()` for a trained
    model, and `points` for the points of a run with several points.
    """

    run: Run

    @cached_property
    def points(self) -> tuple[LoadedRun, ...]:
        """Points of the run, ordered by number; a run with a single point is its own point."""
        return tuple(LoadedRun(point) for point in self.run.points)

    @property
    def config(self) -> dict[str, Any]:
        """Copy of the stored configuration as nested dictionaries of plain values."""
        return deepcopy(self.run.config)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Recorded tables by name. A table is read on first access."""
        return self.run.frames

    @property
    def models(self) -> list[str]:
        """Names of the stored models, sorted by part of the study, if there are parts, and seed."""

        def natural(name: str) -> list[str | int]:
            """Return a sort key in which numbers count as numbers: cell 2 comes before cell 10."""
            parts = enumerate(re.split(r"(\d+)", name))
            return [int(part) if place % 2 else part for place, part in parts]

        internal = SLIDER_NAME, re.compile(r"resume-\d+-\d+")
        names = (
            name_of_model
            for name_of_model in self.run.checkpoints
            if not any(e.fullmatch(name_of_model) for e in internal)
        )
        return sorted(names, key=natural)

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, by default the first of `models`.

        Raises UsageError if the run has no models or several points, or if `name` is unknown.
        """
        self.run.check_single()
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
        return replace(from_checkpoint(self.run.checkpoint(chosen), Model), tables=self.tables)

    def export(self, form: str, file: str | Path, name: str | None = None) -> list[str]:
        """Write the model called `name`, or its formula if it has one, to `file`.

        Args:
            form: Format, as in `Model.export`, or "formula".
            file: Name of the file.
            name: Name of a model; None: the first of `models`.

        Returns:
            Notes for the user, as from `Model.export`.

        Raises:
            UsageError: If the format is unknown, if it is "formula" and the run has no formula, or
                if the file cannot be written.
        """
        from kanrun.exports import formula_bytes, identifier

        chosen = name or next(iter(self.models), "")
        meta = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in meta:
            all_of = [
                self.run.checkpoint(entry).meta for entry in ([name] if name else self.models)
            ]
            units = self.config.get("target", {}).get("units")
            stored = [
                {**entry, "units": units}
                for entry in all_of
                if "formula" in entry and entry.get("seed") == meta.get("seed")
            ]
            content = formula_bytes(stored, form, file, identifier(Path(file).stem))
            write_named_file(Path(file), content)
            return []
        if form == "formula":
            raise UsageError(
                f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN."
            )
        return self.model(name).export(form, file)


def load_run(run: str | Path, outputs: str | Path = "outputs") -> LoadedRun:
    """Read a stored run: its configuration, tables and trained models.

    No code from the run's folder is executed.

    Args:
        run: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/7` for point 7 of a run with several
            points, a path, a tag, or the beginning of the name of a run in `outputs`.
        outputs: The folder that contains the run folders.

    Returns:
        The run, or the point if `run` names one.

    Raises:
        UsageError: If the run does not exist.

    Examples:
        >>> from kanrun import load_run
        >>> run = load_run("fit/latest")
        >>> run.model().inputs
        ('x0',)
        >>> len(run.tables["summary"])
        1
    """
    return LoadedRun(find_run(str(run), Path(outputs)))
