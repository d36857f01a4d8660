"""What `run.json` says about a run: its status, its settings, where it ran, and what came out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
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
    """The content of `run.json`; times are ISO 8601 in UTC, `seconds` add up over resumed parts.

    `metrics` are the medians of the numeric columns of `summary.csv` over its rows. `failures` has one
    entry (cell, seed, reason, trace) for each training that failed. `git` says in `of` whose commit it is, kanrun's or
    the working directory's, and is absent where neither lies in a repository.
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
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    resumed: tuple[str, ...] = ()
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    host: str | None = None
    pid: int | None = None
    process_start: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    failures: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able content; numbers that JSON does not have become null or text."""
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        content["claims"] = [_claim_dict(claim) for claim in self.claims]
        content["metrics"] = {name: _finite(value) for name, value in self.metrics.items()}
        if self.git is None:
            del content["git"]
        return content

    @classmethod
    def from_dict(cls, content: Any) -> Manifest:
        """Return the manifest that a `run.json` describes; a field of the wrong shape takes its default.

        Raises ValueError if the content is not an object, or has no status that kanrun knows.
        """
        if not isinstance(content, Mapping) or content.get("status") not in list(Status):
            raise ValueError("it has no status that kanrun knows")
        values: dict[str, Any] = {"command": ""}
        for name, accept in _SHAPES.items():
            if content.get(name) is not None:
                value = accept(content[name])
                if value is not None:
                    values[name] = value
        return cls(**values)


def _claim_dict(claim: Claim) -> dict[str, Any]:
    values = dataclasses.asdict(claim)
    values["holds"] = bool(claim.holds)
    measured = claim.measured
    if not isinstance(measured, str):
        values["measured"] = float(measured) if math.isfinite(measured) else str(float(measured))
    return values


def _claims(value: Any) -> tuple[Claim, ...] | None:
    if not isinstance(value, list):
        return None
    claims = []
    for item in value:
        if isinstance(item, Mapping) and isinstance(item.get("sentence"), str):
            said, spread = item.get("measured"), item.get("spread")
            number = _number(said)
            measured = str(said) if number is None else number
            bound, holds = str(item.get("bound", "")), item.get("holds") is True
            spread = None if spread is None else str(spread)
            claims.append(Claim(item["sentence"], measured, bound, holds, spread))
    return tuple(claims)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    return tuple(str(item) for item in value) if isinstance(value, list) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _wholes(value: Any) -> tuple[int, ...] | None:
    good = isinstance(value, list) and all(_whole(item) is not None for item in value)
    return tuple(value) if good else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def _object(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


def _strings(value: Any) -> dict[str, str] | None:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else None


def _numbers(value: Any) -> dict[str, float | None] | None:
    return {str(k): _number(v) for k, v in value.items()} if isinstance(value, Mapping) else None


def _objects(value: Any) -> tuple[dict[str, Any], ...] | None:
    return tuple(dict(v) for v in value if isinstance(v, Mapping)) if isinstance(value, list) else None


_SHAPES: dict[str, Any] = {
    **dict.fromkeys(("command", "device", "precision", "reason", "trace", "started", "ended"), _text),
    **dict.fromkeys(("host", "process_start"), _text),
    **dict.fromkeys(("argv", "overrides", "resumed", "notes"), _texts),
    **dict.fromkeys(("cells", "threads", "pid"), _whole),
    **dict.fromkeys(("executor", "git"), _object),
    "seeds": _wholes,
    "seconds": _number,
    "status": Status,
    "versions": _strings,
    "metrics": _numbers,
    "claims": _claims,
    "failures": _objects,
}
