"""A schedule as the configuration writes it, to the engine's object; and what is left of it under a limit of size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kanrun.engine.training.schedules import (
    DoublingSchedule,
    ListSchedule,
    PlateauSchedule,
    Schedule,
    is_nested,
)
from kanrun.errors import UsageError

_KEYS = {
    "list": {"intervals"},
    "doubling": {"first", "last", "nested"},
    "plateau": {"intervals", "first", "last", "nested", "patience", "steps"},
}


def schedule_of(entry: Mapping[str, Any]) -> Schedule:
    """The schedule that an entry of `schedules` describes. Raises UsageError for what it does not know or allow."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in _KEYS:
        raise UsageError(f"schedules has {entry}; each needs a kind, one of {', '.join(_KEYS)}.")
    given = {str(key): value for key, value in entry.items() if key != "kind"}
    unknown = sorted(given.keys() - _KEYS[kind])
    if unknown:
        raise UsageError(f"A {kind} schedule has no {unknown[0]}; it takes {', '.join(sorted(_KEYS[kind]))}.")
    if kind == "plateau":
        trigger = {key: _whole(key, given.pop(key)) for key in ("patience", "steps") if key in given}
        return PlateauSchedule(_along(given), **trigger)
    return _along(given)


def _along(given: Mapping[str, Any]) -> ListSchedule | DoublingSchedule:
    if "intervals" in given:
        if len(given) > 1 or not isinstance(given["intervals"], list):
            raise UsageError(f"A schedule has intervals, a list, or first and last, not {dict(given)}.")
        return ListSchedule(tuple(_whole("intervals", g) for g in given["intervals"]))
    if not {"first", "last"} <= given.keys():
        raise UsageError(f"A schedule needs intervals, or first and last; this one has {dict(given) or 'neither'}.")
    nested = given.get("nested", True)
    if not isinstance(nested, bool):
        raise UsageError(f"nested={nested} of a schedule must be true or false.")
    return DoublingSchedule(_whole("first", given["first"]), _whole("last", given["last"]), nested)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} of a schedule must be whole numbers, not {value}.")
    return value


def name_of(schedule: Schedule) -> str:
    """A few words for tables and figures, such as `doubling, nested`."""
    if len(schedule.grids) == 1:
        return f"G = {schedule.grids[0]} alone"
    if isinstance(schedule, PlateauSchedule):
        kind = "plateau"
    else:
        kind = "list" if isinstance(schedule, ListSchedule) else "doubling"
    return f"{kind}, {'nested' if is_nested(schedule.grids) else 'not nested'}"


def limited(schedule: Schedule, parameters_of: Callable[[int], int], most: int) -> tuple[Schedule, list[int]]:
    """The schedule without its grids of more than `most` parameters, and those grids.

    Raises UsageError when none would be left.
    """
    kept = tuple(g for g in schedule.grids if parameters_of(g) <= most)
    left_out = [g for g in schedule.grids if g not in kept]
    if not left_out:
        return schedule, []
    if not kept:
        least = parameters_of(schedule.grids[0])
        raise UsageError(f"most_parameters={most} leaves no grid of {list(schedule.grids)}; the first has {least}.")
    if isinstance(schedule, PlateauSchedule):
        return PlateauSchedule(ListSchedule(kept), schedule.patience, schedule.steps), left_out
    return ListSchedule(kept), left_out
