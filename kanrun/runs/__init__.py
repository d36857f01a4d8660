"""Run folders: their only writer (`RunFolder`), their reader (`Run`), and their records."""

from __future__ import annotations

from kanrun.runs.folder import RunFolder
from kanrun.runs.locations import find_run, find_runs
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Checkpoint,
    Claim,
    Manifest,
    Note,
    Point,
    Record,
    Row,
    RunLabels,
    Status,
    Table,
    Value,
)

__all__ = [
    "Checkpoint",
    "Claim",
    "Manifest",
    "Note",
    "Point",
    "Record",
    "Row",
    "Run",
    "RunFolder",
    "RunLabels",
    "Status",
    "Table",
    "Value",
    "find_run",
    "find_runs",
]
