"""Several runs side by side: settings, results, curves and edges; the jobs of a sweep; and figures drawn again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from kanrun.config import EXPERIMENTS
from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs import Run
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import storing
from kanrun.runs.folder import RunFolder
from kanrun.runs.index import flattened
from kanrun.runs.listing import RESULTS, differing
from kanrun.runs.manifest import Sweep
from kanrun.runs.reader import ERRORS
from kanrun.study import report

_ORIGIN = ("command", "git", "versions", "host", "device", "precision", "threads")
Side = dict[str, list[Any]]  # by name, one value a run; None where a run has none


class RunComparison:
    """Runs side by side. Raises UsageError for fewer than two."""

    def __init__(self, runs: Sequence[Run]) -> None:
        if len(runs) < 2:
            raise UsageError(f"two runs or more are compared, not {len(runs)}.")
        self.runs = list(runs)
        self.names = [run.name for run in runs]

    def columns(self, side: Side, title: str = "") -> Side:
        """`side` as a table: the names in a column called `title`, and one column per run."""
        return {title: list(side)} | {
            name: [values[at] for values in side.values()] for at, name in enumerate(self.names)
        }

    @cached_property
    def settings(self) -> Side:
        """The settings that differ, also those that a run does not have."""
        each = [_known(run, lambda run: flattened(run.config)) for run in self.runs]
        telling = {
            *differing(each),
            *(name for one in each for other in each for name in one.keys() - other.keys()),
        }
        return _differing(
            {
                name: list(map(_words, values))
                for name, values in _beside(each).items()
                if name in telling
            }
        )

    @cached_property
    def results(self) -> Side:
        """The medians over seeds of all runs, those that every run has first."""
        each = [_known(run, _metrics) for run in self.runs]
        side = _beside(each).items()
        return dict(sorted(side, key=lambda pair: -sum(pair[0] in metrics for metrics in each)))

    @cached_property
    def origins(self) -> Side:
        """What else of the records differs: command, commit, versions of packages, machine."""
        return _differing(_beside([_known(run, _origin) for run in self.runs]))


def _beside(each: Sequence[dict[str, Any]]) -> Side:
    """What each run has, by name."""
    names = dict.fromkeys(name for one in each for name in one)
    return {name: [one.get(name) for one in each] for name in names}


def _differing(side: Side) -> Side:
    return {
        name: values for name, values in side.items() if any(value != values[0] for value in values)
    }


def write_figure_of(comparison: RunComparison, stem: Path) -> list[Path]:
    """Draw learning curves and edge functions of several runs over each other into one file.

    Raises UsageError for a run whose tables cannot be read.
    """
    from kanrun.figures.comparison import overlaid

    drawn: tuple[str, ...] = ("metrics", "edges")
    tables = {
        run.name: {name: run.table(name) for name in drawn if name in run.tables}
        for run in comparison.runs
    }
    if not any(tables.values()):
        return []
    kind = stem.suffix.removeprefix(".") if stem.suffix in {".png", ".svg", ".pdf"} else "png"
    stem = stem.with_suffix("") if stem.suffix == f".{kind}" else stem
    with storing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    return write_figure(stem, overlaid(tables), [kind])


def redraw(run: Run, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Draw the figures of `run` again from its tables in these formats and return their files.

    Raises UsageError for a run that is not finished, or an unknown command or format.
    """
    run.check_ended(force=True)
    experiment = EXPERIMENTS.find(run.manifest.command, "command").build()
    folder, before = RunFolder(run.path), {}
    with contextlib.suppress(OSError):
        before = {path: path.stat().st_mtime_ns for path in run.figures}
    tables = {name: run.table(name) for name in run.tables}
    if "summary" not in tables:
        raise UsageError(f"{run.name} has no results to draw: no training of it finished.")
    for name, draw in experiment.figures(tables):
        folder.figure(name, draw(), formats)
    return [path for path in run.figures if before.get(path) != path.stat().st_mtime_ns]


def _known(run: Run, read: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """What `read` says of a run; nothing where its record cannot be read."""
    try:
        return read(run)
    except KanrunError:
        return {}


def _metrics(run: Run) -> dict[str, Any]:
    return dict(run.manifest.metrics)


def _origin(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _ORIGIN:
        value = getattr(run.manifest, name)
        found |= flattened(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _words(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


_SEEDS = ("seed", "n_seeds")


def print_jobs(console: Console, sweep: Run) -> None:
    """Print the jobs with the settings that differ, their results, and which has the lowest error."""
    settings, best = _swept(sweep), sweep.best_job
    columns: dict[str, list[Any]] = {
        "job": [job.name + (" *" if job is best else "") for job in sweep.jobs],
        "status": [job.status for job in sweep.jobs],
    }
    for name in differing(settings):
        columns[name] = [_words(each.get(name)) for each in settings]
    metrics = [_known(job, _metrics) for job in sweep.jobs]
    for name in (*RESULTS, "validation_rmse", "parameters", "seconds"):
        if any(each.get(name) is not None for each in metrics):
            columns[name] = [each.get(name) for each in metrics]
    _, left_out = report.print_table(console, columns, first=("job", *RESULTS, *columns))
    if left_out:
        report.print_line(
            console, f"  more columns in {sweep.path / 'summary.csv'}: {', '.join(left_out)}"
        )
    if best is not None:
        report.print_line(console, f"  *: the best job, {best.name}")


def _swept(sweep: Run) -> list[dict[str, Any]]:
    """The settings of each job of a sweep by their path, also of those that did not begin; empty where unknown."""
    stored: tuple[Any, ...] = ()
    with contextlib.suppress(StorageFailed):
        stored = Sweep.read(sweep.path).jobs
    settings = []
    for job in sweep.jobs:
        number = int(job.path.name)
        try:
            settings.append(
                flattened(stored[number].config if number < len(stored) else job.config)
            )
        except KanrunError:
            settings.append({})
    return settings


def draw_sweep(sweep: Run) -> list[Path]:
    """Draw the result over the swept settings, into `figures` of the sweep's folder, and return the files.

    Nothing is drawn without a result that more than one job has.
    """
    if "summary" not in sweep.tables:
        return []
    table, varied = sweep.table("summary"), Sweep.read(sweep.path).varied
    result = next(
        (name for name in (*RESULTS, *ERRORS) if name in table and table[name].notna().sum() > 1),
        None,
    )
    if result is None or not varied:
        return []
    from kanrun.figures.sweep import over_settings

    table = table.dropna(subset=[result]).astype(dict.fromkeys(varied, str))
    place = sweep.path / "figures"
    with storing(place):
        place.mkdir(exist_ok=True)
    return write_figure(
        place / "sweep", over_settings(table, [key for key in varied if key not in _SEEDS], result)
    )
