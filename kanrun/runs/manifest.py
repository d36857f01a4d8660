"""Content of the record files of a run folder: `run.json`, `labels.json` and `points.csv`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs.files import plain, read_json, storing, write_atomic, write_json
from kanrun.runs.tables import csv_lines, read_rows

MANIFEST_FILE, LABELS_FILE, POINTS_FILE = "run.json", "labels.json", "points.csv"
Time = Annotated[datetime, Meta(tz=True)]


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
        measured: The measured value.
        bound: The bound in words, such as "at most 1e-12".
        holds: Whether the measured value is within the bound.
        spread: Range over the seeds, such as "3e-7 .. 8e-7 over 5 seeds".
    """

    sentence: str
    measured: float | str
    bound: str
    holds: bool
    spread: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Content of `run.json`; times are ISO 8601 with their zone.

    Attributes:
        overrides: Arguments that give the configuration; of several points, see `points.csv`.
        seeds: Seeds of the first point.
        cells: Number of cells of the first point.
        points: Number of points.
        trainings: Number of trainings of all points.
        seconds: Wall-clock seconds, summed over resumed parts.
        git: Commit, and in `of` whose: kanrun's or the working directory's; None without one.
        metrics: Medians over seeds of the numeric columns of `summary.csv`, for one point.
        claims: Claims of a run of one point; those of several are in `progress.jsonl`.
        failures: Point, cell, seed, reason and trace of the first trainings that failed.
        checkpoints: Checksum of each checkpoint that the run left.
    """

    command: str
    argv: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
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

    @property
    def is_complete(self) -> bool:
        """Whether the run has nothing left to do."""
        return self.status == Status.COMPLETED and not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the content as JSON has it; numbers that are not finite become null or text."""
        content: dict[str, Any] = plain(self)
        content["metrics"] = finite_or_none(content["metrics"])
        content["claims"] = claims_to_json(self.claims)
        if self.git is None:
            del content["git"]
        return content


def claims_to_json(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Return claims as plain values; measured values that are not finite become text."""
    content: list[dict[str, Any]] = plain(list(claims))
    for claim in content:
        measured = claim["measured"]
        claim["measured"] = measured if _is_finite(measured) else str(measured)
    return content


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics with None for numbers that are not finite."""
    return {name: value if _is_finite(value) else None for name, value in metrics.items()}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
    header = ["point", "base", *keys, "overrides"]
    rows = (
        [
            point.number,
            point.base,
            *(value_text(point.values[key]) for key in keys),
            json.dumps(point.overrides),
        ]
        for point in points
    )
    write_atomic(folder / POINTS_FILE, csv_lines([header, *rows]), durable=True)


def read_points(folder: Path) -> list[Point]:
    """Return the points in `points.csv`. Raises StorageFailed if it is missing or damaged."""
    path, points = folder / POINTS_FILE, list[Point]()
    header, rows = read_rows(path)
    try:
        for number, (own, base, *values, overrides) in enumerate(rows):
            keyed = dict(zip(header[2:-1], map(_value, values), strict=True))
            points.append(Point(number, tuple(map(str, json.loads(overrides))), keyed, int(base)))
            if int(own) != number or int(base) < 0:
                raise ValueError(f"row {number} has the point {own} of the base {base}")
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageFailed(f"{path} does not describe points: {error}.") from error
    if not points:
        raise StorageFailed(f"{path} does not describe points: it has no rows.")
    return points


def value_text(value: Any) -> str:
    """Return the text of a swept value in tables."""
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
