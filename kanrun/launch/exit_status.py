"""The end of a run or a sweep: the sentences on standard error, the exit code, and the table of all jobs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from kanrun.errors import KanrunError
from kanrun.launch.request import Request
from kanrun.runs import Manifest, Run, Status
from kanrun.runs.files import write_atomic
from kanrun.runs.tables import csv_lines, read_rows


def ended_well(manifest: Manifest, request: Request, name: str = "") -> bool:
    """Whether a run did what was asked of it; says why not, and `name` of whom."""
    good = is_complete(manifest)
    if not good and (name or manifest.status != Status.COMPLETED):
        print(f"kanrun: {name}{manifest.reason or f'the run ended {manifest.status}'}", file=sys.stderr)
    # a study with several trainings has listed what failed already, unless it was told to be quiet
    for failure in manifest.failures if request.quiet and len(manifest.failures) > 1 else ():
        where = ", ".join(f"{key} {failure[key]}" for key in ("cell", "seed") if key in failure)
        print(f"kanrun: {name}{where}: {failure.get('reason', 'failed')}", file=sys.stderr)
    broken = [claim for claim in manifest.claims if not claim.holds] if request.strict else []
    for claim in broken:
        print(f"kanrun: {name}does not hold: {claim.sentence} ({claim.measured}, {claim.bound})", file=sys.stderr)
    return good and not broken


def is_complete(manifest: Manifest) -> bool:
    return manifest.status == Status.COMPLETED and not manifest.failures


def sweep_verdict(folder: Path, overrides: Sequence[Sequence[str]], request: Request) -> int:
    """Gathers the summaries of a sweep that is over, says which jobs failed, and returns the exit code."""
    gather_summaries(folder, overrides)
    _show_jobs(folder, request.quiet)
    good = 0
    for number, job in enumerate(overrides):
        name = f"job {number} ({' '.join(job)}): "
        try:
            good += ended_well(Run(folder / str(number)).manifest, request, name)
        except KanrunError as error:
            print(f"kanrun: {name}left no record: {error}", file=sys.stderr)
    if good < len(overrides):
        print(f"kanrun: {len(overrides) - good} of {len(overrides)} jobs failed", file=sys.stderr)
    return 0 if good == len(overrides) else 1


def _show_jobs(folder: Path, quiet: bool) -> None:
    """Prints the table of a sweep's jobs, and draws their results over the swept settings."""
    from kanrun.study import report
    from kanrun.study.comparison import draw_sweep, print_jobs

    sweep = Run(folder, f"{folder.parent.name}/{folder.name}")
    if not quiet:
        print_jobs(report.error_console(), sweep)
    try:
        draw_sweep(sweep)
    except Exception as error:  # the jobs are recorded, and nothing of them is lost
        print(f"kanrun: the sweep's figure was not drawn: {type(error).__name__}: {error}", file=sys.stderr)


def say_how_to_go_on(folder: Path, executor: str | None, address: str | None) -> None:
    """Prints the command that goes on with an interrupted run or sweep, in the same place, and its folder."""
    words = ["kanrun", "runs", "resume", str(folder)]
    for option, value in (("--executor", executor), ("--address", address)):
        words += [option, value] if value is not None else []
    print(f"kanrun: interrupted; `{shlex.join(words)}` goes on from there", file=sys.stderr)
    print(folder)


def gather_summaries(folder: Path, overrides: Sequence[Sequence[str]]) -> None:
    """Writes `summary.csv` at the top of a sweep: the jobs' rows with `job` and what differs between jobs.

    `overrides` has the `key=value` of each job; a job that left no summary has no rows.
    """
    settings = [dict(override.split("=", 1) for override in job if "=" in override) for job in overrides]
    varied = [key for key in (settings[0] if settings else ()) if len({job.get(key) for job in settings}) > 1]
    rows: list[dict[str, str]] = []
    for number, job in enumerate(settings):
        path = folder / str(number) / "summary.csv"
        if path.is_file():
            header, lines = read_rows(path)
            varying = {key: job.get(key, "") for key in varied}
            rows += [{"job": str(number), **varying, **dict(zip(header, line, strict=False))} for line in lines]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        body = ([row.get(column, "") for column in columns] for row in rows)
        write_atomic(folder / "summary.csv", csv_lines([columns, *body]))
