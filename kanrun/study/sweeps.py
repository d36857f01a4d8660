"""What a sweep came to: its jobs as a table, and figures of the result over the settings that were swept."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console

from kanrun.errors import KanrunError
from kanrun.runs import Run
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import storing
from kanrun.runs.listing import RESULTS, differing
from kanrun.runs.manifest import Sweep
from kanrun.runs.reader import ERRORS
from kanrun.runs.state import swept
from kanrun.study import report

_SEEDS = ("seed", "seeds")


def print_jobs(console: Console, sweep: Run) -> None:
    """Print the jobs with the settings that differ, their results, and which has the lowest error."""
    settings, best = swept(sweep), sweep.best_job
    columns: dict[str, list[Any]] = {
        "job": [job.name + (" *" if job is best else "") for job in sweep.jobs],
        "status": [job.status for job in sweep.jobs],
    }
    for name in differing(settings):
        columns[name] = [_word(each.get(name)) for each in settings]
    metrics = [_metrics(job) for job in sweep.jobs]
    for name in (*RESULTS, "validation_rmse", "parameters", "seconds"):
        if any(each.get(name) is not None for each in metrics):
            columns[name] = [each.get(name) for each in metrics]
    _, left_out = report.print_table(console, columns, first=("job", *RESULTS, *columns))
    if left_out:
        report.print_line(console, f"  more columns in {sweep.path / 'summary.csv'}: {', '.join(left_out)}")
    if best is not None:
        report.print_line(console, f"  *: the best job, {best.name}")


def draw_sweep(sweep: Run) -> list[Path]:
    """Draw the result over the swept settings, into `figures` of the sweep's folder, and return the files.

    Nothing is drawn without a result that more than one job has.
    """
    jobs = [dict(word.split("=", 1) for word in job.overrides if "=" in word) for job in Sweep.read(sweep.path).jobs]
    varied = [key for key in (jobs[0] if jobs else ()) if len({job.get(key) for job in jobs}) > 1]
    rows = []
    for number, settings in enumerate(jobs):
        with contextlib.suppress(KanrunError):
            columns = Run(sweep.path / str(number)).columns("summary")
            for at in range(len(next(iter(columns.values()), ()))):
                values = {name: column[at] for name, column in columns.items() if name in (*RESULTS, *ERRORS)}
                rows.append({f"set:{key}": settings.get(key) for key in varied} | values)
    result = next((name for name in (*RESULTS, *ERRORS) if sum(row.get(name) is not None for row in rows) > 1), None)
    if result is None or not varied:
        return []
    import pandas

    from kanrun.figures.sweep import over_settings

    table = pandas.DataFrame(rows).rename(columns={f"set:{key}": key for key in varied}).dropna(subset=[result])
    place = sweep.path / "figures"
    with storing(place):
        place.mkdir(exist_ok=True)
    return write_figure(place / "sweep", over_settings(table, [key for key in varied if key not in _SEEDS], result))


def _metrics(job: Run) -> dict[str, Any]:
    try:
        return dict(job.manifest.metrics)
    except KanrunError:
        return {}


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, list) else value
