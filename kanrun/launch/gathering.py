"""The summaries of a sweep's jobs as one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from kanrun.runs.files import write_atomic


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
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    rows.append({"job": str(number), **{key: job.get(key, "") for key in varied}, **row})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(folder / "summary.csv", text.getvalue().encode())
