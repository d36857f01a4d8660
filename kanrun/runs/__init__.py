"""Run folders: the class that writes them, the class that reads them, and finding runs."""

from kanrun.runs.folder import RunFolder
from kanrun.runs.locations import find_run, find_runs, remove_run, run_at
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
