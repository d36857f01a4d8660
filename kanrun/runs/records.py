"""Records: what an experiment yields, and the content of a run's small files.

These are `run.json` (`Manifest`), `points.csv` (`Point`) and `labels.json` (`RunLabels`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from kanrun.errors import MALFORMED, StorageFailed, UsageError
from kanrun.runs.files import csv_lines, read_csv, read_json, storing, write_atomic, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST_FILE, LABELS_FILE, POINTS_FILE = "run.json", "labels.json", "points.csv"
Value = str | int | float | bool | None
Time = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True)
class Row:
    """One line of a table; all tables but `metrics` and `summary` are in `tables/`."""

    table: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Table:
    """A table as columns of equal length; it replaces what its training wrote before."""

    name: str
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Arrays and a description that JSON can hold, in `checkpoints/<name>.safetensors`."""

    name: str
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A sentence for the user and the log: a choice with its reason, or a warning.

    A `detail` is shown with -v only.
    """

    text: str
    warning: bool = False
    detail: bool = False


Record = Row | Table | Checkpoint | Note
Records = Iterator[Record]


class Status(StrEnum):
    """State of a run or of a point of it."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True)
class Claim:
    """A sentence that a run checks.

    Attributes:
        sentence: The claim.
        measured: The measured value; None if it was not finite and comes from a file.
        bound: The bound in words, such as "at most 1e-12".
        holds: Whether the measured value is within the bound.
        spread: Range over the seeds, such as "3e-7 .. 8e-7 over 5 seeds".
    """

    sentence: str
    measured: float | str | None
    bound: str
    holds: bool
    spread: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Content of `run.json`; times are ISO 8601 with their zone.

    Attributes:
        overrides: Arguments that give the configuration; of several points, see `points.csv`.
        config: Configuration of the first point, as composed.
        seeds: Seeds of the first point.
        cells: Number of cells of the first point.
        points: Number of points.
        trainings: Number of trainings of all points.
        seconds: Wall-clock seconds, summed over resumed parts.
        git: Commit, and in `of` whose: kanrun's or the working directory's; None without one.
        metrics: Medians over seeds of the numeric columns of `summary.csv`, for one point.
        claims: Claims of a run of one point; those of several are in `records.jsonl`.
        failures: Point, cell, seed, reason and trace of the first trainings that failed.
        checkpoints: Checksum of each checkpoint that the run left.
    """

    command: str
    argv: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    cells: int = 1
    points: int = 1
    trainings: int = 1
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

    def __str__(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in self.values.items())
        return f"point {self.number} ({words})" if words else f"point {self.number}"


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Write `points.csv`: number, base, one column for each swept key, and the overrides as JSON.

    A value is JSON, except for text that would not be read as JSON. Raises StorageFailed.
    """
    keys = list(points[0].values)
    rows: list[list[Any]] = [["point", "base", *keys, "overrides"]]
    for point in points:
        values = [value_text(point.values[key]) for key in keys]
        rows.append([point.number, point.base, *values, json.dumps(point.overrides)])
    write_atomic(folder / POINTS_FILE, csv_lines(rows), durable=True)


def read_points(folder: Path) -> list[Point]:
    """Return the points in `points.csv`. Raises StorageFailed if it is missing or damaged."""
    path, points = folder / POINTS_FILE, list[Point]()
    header, *rows = read_csv(path) or [[]]
    try:
        for number, (own, base, *values, overrides) in enumerate(rows):
            keyed = dict(zip(header[2:-1], map(_value, values), strict=True))
            points.append(Point(number, tuple(map(str, json.loads(overrides))), keyed, int(base)))
            if int(own) != number or int(base) < 0:
                raise ValueError(f"row {number} has the point {own} of the base {base}")
        if not points:
            raise ValueError("it has no rows")
    except MALFORMED as error:
        raise StorageFailed(f"{path} does not describe points: {error}.") from error
    return points


def value_text(value: Any) -> str:
    """Return the text of a swept value in tables."""
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class RunLabels:
    """Tags by which a run is found, and a sentence about it; both may change at any time."""

    tags: tuple[str, ...] = ()
    note: str = ""

    def store(self, folder: Path) -> None:
        """Write `labels.json`, or remove it if there are no labels. Raises StorageFailed."""
        if self == RunLabels():
            with storing(folder / LABELS_FILE):
                (folder / LABELS_FILE).unlink(missing_ok=True)
        else:
            write_json(folder / LABELS_FILE, self)

    @classmethod
    def read(cls, folder: Path) -> RunLabels:
        """Return the labels of the run in `folder`; none if the file is missing or damaged."""
        try:
            return read_json(folder / LABELS_FILE, cls)
        except StorageFailed:
            return cls()


def check_tags(tags: Iterable[str]) -> None:
    """Raise UsageError for a tag that could not be typed as the name of a run."""
    for tag in tags:
        if not re.fullmatch(r"[\w.+-]{1,40}", tag) or tag == "latest":
            raise UsageError(
                f"{tag!r} is not a valid tag: a tag has up to 40 letters, digits and . + - _, "
                "without blanks, and is not `latest`."
            )
