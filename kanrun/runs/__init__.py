"""The run folder: its only writer (`RunFolder`), its reader (`Run`), and the records that go into it."""

from __future__ import annotations

from kanrun.runs.folder import RunFolder
from kanrun.runs.locations import find_run, find_runs
from kanrun.runs.manifest import Claim, Manifest, RunLabels, Status, Sweep, SweepJob
from kanrun.runs.reader import Run
from kanrun.runs.records import Checkpoint, Note, Record, Row, Table, Value

__all__ = [
    "Checkpoint",
    "Claim",
    "Manifest",
    "Note",
    "Record",
    "Row",
    "Run",
    "RunFolder",
    "RunLabels",
    "Status",
    "Sweep",
    "SweepJob",
    "Table",
    "Value",
    "find_run",
    "find_runs",
]
