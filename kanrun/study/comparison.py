"""Several runs side by side: settings, results, learning curves and edge functions; and figures drawn again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kanrun.config import EXPERIMENTS
from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import storing
from kanrun.runs.folder import RunFolder
from kanrun.runs.index import flattened
from kanrun.runs.listing import differing

_ORIGIN = ("command", "git", "versions", "host", "device", "precision", "threads")
Side = dict[str, list[Any]]  # by name, one value a run; None where a run has none


class RunComparison:
    """Runs side by side. Raises UsageError for fewer than two."""

    def __init__(self, runs: Sequence[Run]) -> None:
        if len(runs) < 2:
            raise UsageError(f"two runs or more are compared, not {len(runs)}.")
        self.runs = list(runs)
        self.names = [run.name for run in runs]

    @cached_property
    def settings(self) -> Side:
        """The settings that differ, also those that a run does not have."""
        each = [_settings(run) for run in self.runs]
        names = list(dict.fromkeys(name for settings in each for name in settings))
        absent = [name for name in names if any(name not in settings for settings in each)]
        telling = {*differing(each), *absent}
        side = {name: [_words(settings.get(name)) for settings in each] for name in names if name in telling}
        return {name: values for name, values in side.items() if any(value != values[0] for value in values)}

    @cached_property
    def results(self) -> Side:
        """The medians over seeds of all runs, those that every run has first."""
        each = [_metrics(run) for run in self.runs]
        names = list(dict.fromkeys(name for metrics in each for name in metrics))
        names.sort(key=lambda name: -sum(name in metrics for metrics in each))
        return {name: [metrics.get(name) for metrics in each] for name in names}

    @cached_property
    def origins(self) -> Side:
        """What else of the records differs: command, commit, versions of packages, machine."""
        each = [_origin(run) for run in self.runs]
        names = list(dict.fromkeys(name for origin in each for name in origin))
        side = {name: [origin.get(name) for origin in each] for name in names}
        return {name: values for name, values in side.items() if any(value != values[0] for value in values)}


def write_figure_of(comparison: RunComparison, stem: Path) -> list[Path]:
    """Write learning curves and edge functions of all runs over each other, where they have them, as PNG and SVG.

    Raises UsageError for a run whose tables cannot be read.
    """
    from kanrun.figures.comparison import overlaid

    drawn: tuple[str, ...] = ("metrics", "edges")
    tables = {run.name: {name: run.table(name) for name in drawn if name in run.tables} for run in comparison.runs}
    if not any(tables.values()):
        return []
    stem = stem.with_suffix("") if stem.suffix in {".png", ".svg"} else stem
    with storing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    return write_figure(stem, overlaid(tables))


def redraw(run: Run, further: str | None = None) -> list[Path]:
    """Draw the figures of `run` again from its tables, `further` a format beside PNG and SVG, and return their files.

    Raises UsageError for a run that goes on, or an unknown command or format.
    """
    run.check_ended(force=True)
    experiment = EXPERIMENTS.find(run.manifest.command, "command").build()
    folder, before = RunFolder(run.path), {}
    with contextlib.suppress(OSError):
        before = {path: path.stat().st_mtime_ns for path in run.figures}
    tables = {name: run.table(name) for name in run.tables}
    if "summary" not in tables:
        raise UsageError(f"{run.name} has no results to draw: no training of it finished.")
    for name, figure in experiment.figures(tables):
        folder.figure(name, figure, further)
    return [path for path in run.figures if before.get(path) != path.stat().st_mtime_ns]


def _settings(run: Run) -> dict[str, Any]:
    try:
        return flattened(run.config)
    except KanrunError:
        return {}


def _metrics(run: Run) -> dict[str, float | None]:
    try:
        return dict(run.manifest.metrics)
    except KanrunError:
        return {}


def _origin(run: Run) -> dict[str, Any]:
    try:
        manifest = run.manifest
    except KanrunError:
        return {}
    found: dict[str, Any] = {}
    for name in _ORIGIN:
        value = getattr(manifest, name)
        found |= flattened(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _words(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value
