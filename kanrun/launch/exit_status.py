"""The end of a run or a sweep: the sentences on standard error, the exit code, and the table of all jobs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from kanrun.errors import KanrunError
from kanrun.runs import Manifest, Run, Status, Sweep
from kanrun.runs.files import write_atomic
from kanrun.runs.tables import csv_lines, read_rows


def ended_well(manifest: Manifest, quiet: bool, strict: bool, name: str = "") -> bool:
    """Whether a run did what was asked of it; says why not, and `name` of whom."""
    good = is_complete(manifest)
    if not good and (name or manifest.status != Status.COMPLETED):
        print(f"kanrun: {name}{manifest.reason or f'the run ended {manifest.status}'}", file=sys.stderr)
    # a study with several trainings has listed what failed already, unless it was told to be quiet
    for failure in manifest.failures if quiet and len(manifest.failures) > 1 else ():
        where = ", ".join(f"{key} {failure[key]}" for key in ("cell", "seed") if key in failure)
        print(f"kanrun: {name}{where}: {failure.get('reason', 'failed')}", file=sys.stderr)
    broken = [claim for claim in manifest.claims if not claim.holds] if strict else []
    for claim in broken:
        print(f"kanrun: {name}does not hold: {claim.sentence} ({claim.measured}, {claim.bound})", file=sys.stderr)
    return good and not broken


def is_complete(manifest: Manifest) -> bool:
    return manifest.status == Status.COMPLETED and not manifest.failures


def sweep_verdict(folder: Path, quiet: bool, strict: bool) -> int:
    """Gathers, shows and draws the results of a sweep that is over, says what failed, and returns the exit code."""
    from kanrun.study import report
    from kanrun.study.comparison import draw_sweep, print_jobs

    gather_summaries(folder)
    sweep = Run(folder, f"{folder.parent.name}/{folder.name}")
    if not quiet:
        print_jobs(report.error_console(), sweep)
    try:
        draw_sweep(sweep)
    except Exception as error:  # the jobs are recorded, and nothing of them is lost
        print(f"kanrun: the sweep's figure was not drawn: {type(error).__name__}: {error}", file=sys.stderr)
    jobs, good = Sweep.read(folder).jobs, 0
    for number, job in enumerate(jobs):
        name = f"job {number} ({' '.join(job.overrides)}): "
        try:
            good += ended_well(Run(folder / str(number)).manifest, quiet, strict, name)
        except KanrunError as error:
            print(f"kanrun: {name}left no record: {error}", file=sys.stderr)
    if good < len(jobs):
        print(f"kanrun: {len(jobs) - good} of {len(jobs)} jobs failed", file=sys.stderr)
    return 0 if good == len(jobs) else 1


def say_how_to_go_on(folder: Path, executor: str | None, address: str | None) -> None:
    """Prints the command that goes on with an interrupted run or sweep, in the same place, and its folder."""
    words = ["kanrun", "runs", "resume", str(folder)]
    for option, value in (("--executor", executor), ("--address", address)):
        words += [option, value] if value is not None else []
    print(f"kanrun: interrupted; `{shlex.join(words)}` goes on from there", file=sys.stderr)
    print(folder)


def gather_summaries(folder: Path) -> None:
    """Writes `summary.csv` at the top of a sweep: the jobs' rows with `job` and what differs between jobs."""
    sweep, rows = Sweep.read(folder), list[dict[str, str]]()
    for number, settings in enumerate(sweep.settings):
        path = folder / str(number) / "summary.csv"
        if path.is_file():
            header, lines = read_rows(path)
            varying = {key: settings.get(key, "") for key in sweep.varied}
            rows += [{"job": str(number), **varying, **dict(zip(header, line, strict=False))} for line in lines]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        body = ([row.get(column, "") for column in columns] for row in rows)
        write_atomic(folder / "summary.csv", csv_lines([columns, *body]))
