"""What the jobs of a sweep are to do, stored before the first begins, so that others can go on with the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanrun.errors import StorageFailed
from kanrun.runs.atomic import read_json, to_json, write_atomic

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class SweepJob:
    """One run: its overrides as typed, and its configuration as plain values."""

    overrides: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The command and its words as typed; job i has the folder i inside the sweep's."""

    command: str
    argv: tuple[str, ...]
    jobs: tuple[SweepJob, ...]

    def store(self, folder: Path) -> None:
        """Write `sweep.json`. Raises StorageFailed."""
        write_atomic(folder / SWEEP_FILE, to_json(asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """The sweep in `folder`; StorageFailed if its `sweep.json` is missing or damaged."""
        content = read_json(folder / SWEEP_FILE)
        try:
            jobs = tuple(SweepJob(_words(job["overrides"]), dict(job["config"])) for job in content["jobs"])
            found = cls(str(content["command"]), _words(content["argv"]), jobs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageFailed(f"{folder / SWEEP_FILE} does not describe a sweep.") from error
        if not jobs:
            raise StorageFailed(f"{folder / SWEEP_FILE} does not describe a sweep: it has no jobs.")
        return found


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return tuple(str(word) for word in value)
