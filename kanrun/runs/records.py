"""Records that an experiment yields, and the contents of `run.json` and `labels.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs.files import read_json, storing, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: File of the manifest in the folder of a run; a folder without it is not a run.
MANIFEST_FILE = "run.json"
#: File of the labels in the folder of a run; missing if there are no labels.
LABELS_FILE = "labels.json"
Value = str | int | float | bool | None
Time = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True)
class Row:
    """One row of a table. Tables other than `metrics` and `summary` are stored in `tables/`."""

    table: str
    values: dict[str, Value]

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.table

    @property
    def columns(self) -> dict[str, tuple[Value]]:
        """The row as columns with one value each."""
        return {name: (value,) for name, value in self.values.items()}


@dataclass(frozen=True)
class Table:
    """Rows of the table `name`, as columns of equal length."""

    name: str
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Arrays and a description (`meta`), stored in `checkpoints/<name>.safetensors`.

    `meta` must be convertible to JSON.
    """

    name: str
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A sentence for the user and the log: a choice with its reason, or a warning.

    A note with `detail` is shown only with -v.
    """

    text: str
    warning: bool = False
    detail: bool = False


Record = Row | Table | Checkpoint | Note
Records = Iterator[Record]


class Status(StrEnum):
    """State of a run, or of one of its points."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True)
class Claim:
    """A statement that a run checked, with the result.

    Attributes:
        sentence: The claim.
        measured: The measured value. A value that is not finite is stored as null, so it is None
            when read from a file.
        bound: The bound in words, such as "at most 1e-12".
        holds: Whether the measured value is within the bound.
        spread: Range of the values, such as "3e-7 .. 8e-7 over 5 seeds".
    """

    sentence: str
    measured: float | str | None
    bound: str
    holds: bool
    spread: str | None = None


@dataclass(frozen=True)
class Point:
    """One combination of swept values.

    Attributes:
        number: Number of the point, from 0.
        overrides: Arguments that would give this point without -m.
        values: Swept values by full key, such as "model.degree", or "target" for a group. Empty if
            the study has only one point.
        base: Number of the composed configuration (in `bases` of the run) to which the values are
            applied.
    """

    number: Annotated[int, Meta(ge=0)]
    overrides: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    base: Annotated[int, Meta(ge=0)] = 0

    def __str__(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in self.values.items())
        return f"point {self.number} ({words})" if words else f"point {self.number}"


@dataclass(frozen=True)
class Manifest:
    """Contents of `run.json`. Times are ISO 8601 with their time zone.

    Attributes:
        points: Points of the run in the order of their numbers.
        bases: Composed configurations, to which the points apply their values.
        seeds: Seeds of the first point.
        cells: Number of cells of the first point.
        trainings: Number of training runs of all points.
        seconds: Wall-clock seconds, including those before the run was resumed.
        git: `commit` is the git commit; `of` says whether it is that of kanrun's code or of the
            working directory. None if neither is a git repository.
        metrics: Medians over seeds of the numeric columns of `summary.csv`. Empty if the run has
            several points or cells.
        claims: Claims, if the run has one point. Those of several points are in `records.jsonl`.
        failures: Point, cell, seed, settings, reason and traceback of the first failed training
            runs.
        checkpoints: Checksum of each stored checkpoint, by name.
    """

    command: str
    argv: tuple[str, ...] = ()
    points: tuple[Point, ...] = (Point(0),)
    bases: tuple[dict[str, Any], ...] = ({},)
    seeds: tuple[int, ...] = ()
    cells: int = 1
    trainings: int = 1
    device: str = "cpu"
    precision: str = "float64"
    threads: int | None = None
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
    process_start: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    failures: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    checkpoints: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLabels:
    """Tags by which a run can be found, and a note about the run. Both can be changed later."""

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
    """Raise UsageError for a tag that cannot be used on the command line like the name of a run."""
    for tag in tags:
        if not re.fullmatch(r"[\w.+-]{1,40}", tag) or tag == "latest":
            raise UsageError(
                f"{tag!r} is not a valid tag: a tag has up to 40 letters, digits and . + - _, "
                "without blanks, and is not `latest`."
            )
