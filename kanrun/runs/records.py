"""Records that an experiment yields for its run folder: plain values, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = str | int | float | bool | None


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
