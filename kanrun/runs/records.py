"""Records that an experiment yields for its run folder: plain values, sent between processes without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Row:
    """One line of a table: `metrics` and `summary` lie in the run folder itself, all others in `tables/`."""

    table: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Table:
    """A whole table at once, as columns of equal length; for tables/ (predictions, edges, ...)."""

    name: str
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Arrays and a JSON-able description; stored as `checkpoints/<name>.safetensors` and `<name>.json`."""

    name: str
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A sentence for the user and the log: a choice with its reason, or a warning.

    One in `detail` is shown to those who ask for it with -v.
    """

    text: str
    warning: bool = False
    detail: bool = False


Record = Row | Table | Checkpoint | Note
