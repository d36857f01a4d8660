"""What the JSON files of a run folder hold: `run.json`, `progress.json`, `labels.json`, and a sweep's `sweep.json`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs.files import plain, read_json, storing, write_atomic, write_json
from kanrun.runs.tables import csv_lines, read_rows

MANIFEST_FILE, PROGRESS_FILE, SWEEP_FILE, LABELS_FILE = (
    "run.json",
    "progress.json",
    "sweep.json",
    "labels.json",
)
POINTS_FILE = "points.csv"
Time = Annotated[datetime, Meta(tz=True)]
T = TypeVar("T")


class Status(StrEnum):
    STARTING = "STARTING"  # its folder is there, with its configuration, and no training has begun
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True)
class Claim:
    """A sentence that a run checks: what was measured, against which bound, and whether it holds.

    `spread` says how far the seeds lie apart, in words or numbers (`3e-7 .. 8e-7 over 5 seeds`).
    """

    sentence: str
    measured: float | str
    bound: str
    holds: bool
    spread: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of `run.json`; times are ISO 8601 with their zone, `seconds` add up over resumed parts.

    `metrics` are the medians of the numeric columns of `summary.csv` over its rows. `failures` has one
    entry (cell, seed, reason, trace) for each training that failed. `git` says in `of` whose commit it is, kanrun's or
    the working directory's, and is absent where neither lies in a repository. `checkpoints` has the checksum of each
    checkpoint that the run left.
    """

    command: str
    argv: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    cells: int = 1
    device: str = "cpu"
    precision: str = "float64"
    threads: int | None = None
    executor: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.RUNNING
    reason: str | None = None
    trace: str | None = None
    started: Time | None = None
    ended: Time | None = None
    seconds: float | None = None
    resumed: tuple[Time, ...] = ()
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    host: str | None = None
    pid: int | None = None
    process_start: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    failures: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    checkpoints: dict[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether a process writes the run, or did so until it was killed."""
        return self.status in {Status.STARTING, Status.RUNNING}

    def to_dict(self) -> dict[str, Any]:
        """The content as JSON has it: metrics that are not finite become null, such measured values text."""
        content: dict[str, Any] = plain(self)
        content["metrics"] = {
            name: value if _finite(value) else None for name, value in content["metrics"].items()
        }
        for claim in content["claims"]:
            claim["measured"] = (
                claim["measured"] if _finite(claim["measured"]) else str(claim["measured"])
            )
        if self.git is None:
            del content["git"]
        return content


def _read_or_empty(path: Path, kind: type[T]) -> T:
    try:
        return read_json(path, kind)
    except StorageFailed:
        return kind()


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class StudyProgress:
    """What a resumed study need not run again: its cells, and (cell, seed, rows in each table) of finished tasks."""

    cells: list[Any] | None = None
    finished: list[tuple[int, int, dict[str, int]]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> StudyProgress:
        """The progress of the run in `folder`; an empty one where the file is missing or damaged."""
        return _read_or_empty(folder / PROGRESS_FILE, cls)


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep: its overrides as typed, and its configuration as plain values."""

    overrides: tuple[str, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The command and its words as typed; job i has the folder i inside the sweep's."""

    command: str
    argv: tuple[str, ...]
    jobs: tuple[SweepJob, ...]

    @property
    def settings(self) -> list[dict[str, str]]:
        """The overrides of each job as typed, by their key."""
        return [
            dict(word.split("=", 1) for word in job.overrides if "=" in word) for job in self.jobs
        ]

    @property
    def varied(self) -> list[str]:
        """The keys in which jobs differ."""
        each = self.settings
        return [key for key in each[0] if len({job.get(key) for job in each}) > 1]

    def store(self, folder: Path) -> None:
        """Write `sweep.json`. Raises StorageFailed."""
        write_json(folder / SWEEP_FILE, self, durable=True)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """The sweep in `folder`. Raises StorageFailed if its `sweep.json` is missing or damaged."""
        try:
            sweep = read_json(folder / SWEEP_FILE, cls)
        except StorageFailed as error:
            raise StorageFailed(f"{folder} does not describe a sweep: {error}") from error
        if not sweep.jobs:
            raise StorageFailed(f"{folder / SWEEP_FILE} does not describe a sweep: it has no jobs.")
        return sweep


@dataclass(frozen=True)
class Point:
    """One setting of a study.

    Attributes:
        number: Number of the point, from 0.
        overrides: Arguments that would give this point without -m.
        values: Swept keys by their full name ("model.degree", "target" for a group); empty in a
            study of one point.
        base: Number of the composed configuration that the values are set on.
    """

    number: int
    overrides: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    base: int = 0

    @property
    def label(self) -> str:
        """The swept values in words, such as "model.degree=3, target=sine"."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Write `points.csv`: number, base, one column for each swept key, and the overrides as JSON.

    A value is JSON, except for text that would not be read as JSON. Raises StorageFailed.
    """
    keys = list(points[0].values)
    rows = [
        [point.number, point.base, *(_cell(point.values[key]) for key in keys)]
        + [json.dumps(point.overrides)]
        for point in points
    ]
    content = csv_lines([["point", "base", *keys, "overrides"], *rows])
    write_atomic(folder / POINTS_FILE, content, durable=True)


def read_points(folder: Path) -> list[Point]:
    """Return the points in `points.csv`. Raises StorageFailed if it is missing or damaged."""
    path = folder / POINTS_FILE
    header, rows = read_rows(path)
    points = []
    try:
        for number, row in enumerate(rows):
            _, base, *values, overrides = row
            keyed = dict(zip(header[2:-1], map(_value, values), strict=True))
            points.append(Point(number, tuple(json.loads(overrides)), keyed, int(base)))
            if int(row[0]) != number:
                raise ValueError(f"row {number} has the point {row[0]}")
    except (ValueError, TypeError) as error:
        raise StorageFailed(f"{path} does not describe points: {error}.") from error
    if not points:
        raise StorageFailed(f"{path} does not describe points: it has no rows.")
    return points


def _cell(value: Any) -> str:
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def plain_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the swept `values` that name a plain setting of the configuration `base`.

    The choice of a group (`target`, `study`) is no setting: `base` was composed with it.
    """
    return {key: value for key, value in values.items() if _names_setting(base, key, value)}


def _names_setting(base: Mapping[str, Any], key: str, value: Any) -> bool:
    node: Any = base
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return not isinstance(node, Mapping) or isinstance(value, Mapping)


@dataclass(frozen=True)
class RunLabels:
    """What people say of a run: words by which it is found, and a sentence. They may change at any time."""

    tags: tuple[str, ...] = ()
    note: str = ""

    def store(self, folder: Path) -> None:
        """Write `labels.json`, or remove it where there is nothing to say. Raises StorageFailed."""
        if self == RunLabels():
            with storing(folder / LABELS_FILE):
                (folder / LABELS_FILE).unlink(missing_ok=True)
        else:
            write_json(folder / LABELS_FILE, self)

    @classmethod
    def read(cls, folder: Path) -> RunLabels:
        """The labels of the run or sweep in `folder`; none where the file is missing or damaged."""
        return _read_or_empty(folder / LABELS_FILE, cls)


def check_tags(tags: Iterable[str]) -> None:
    """Raise UsageError for a tag that could not be typed as the name of a run, or would be taken for another one."""
    for tag in tags:
        if not re.fullmatch(r"[\w.+-]{1,40}", tag) or tag == "latest":
            raise UsageError(
                f"{tag!r} is no tag: it needs up to 40 letters, digits and . + - _, without blanks, and not `latest`."
            )
