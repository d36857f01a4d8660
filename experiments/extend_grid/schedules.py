"""Grid schedules: which grids a KAN is trained on, one after the other, and when it leaves each.

Refining to a multiple of a grid (*nested*) keeps the function exactly; any other grid is reached by least squares.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kanrun.engine.training import Plan
from kanrun.errors import UsageError

_KEYS = {
    "list": {"intervals"},
    "doubling": {"first", "last", "nested"},
    "plateau": {"intervals", "first", "last", "nested", "patience", "steps"},
}


@dataclass(frozen=True)
class Schedule:
    """`grids` are numbers of intervals, strictly increasing. Raises UsageError for others.

    A grid is left when its steps are done or gain nothing; with `patience`, a plateau's, when the validation error has
    not fallen for so many steps, at most `steps` of them, and the schedule once two grids in a row gave no lower error.
    """

    grids: tuple[int, ...]
    kind: str = "list"
    patience: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        grids = list(self.grids)
        if not grids:
            raise UsageError("A schedule needs at least one grid.")
        if min(grids) < 1:
            raise UsageError(f"The schedule {grids} has a grid of {min(grids)}; a grid needs at least 1 interval.")
        for coarse, fine in itertools.pairwise(grids):
            if fine <= coarse:
                how = f"shrinks from {coarse} to {fine}" if fine < coarse else f"has {fine} twice"
                raise UsageError(f"The schedule {grids} {how}; each grid must be finer than the one before.")
        if any(given is not None and given < 1 for given in (self.patience, self.steps)):
            raise UsageError(f"A plateau's patience={self.patience} and steps={self.steps} must be at least 1.")

    def applied(self, plan: Plan) -> Plan:
        """`plan` along this schedule."""
        if self.patience is None:
            return replace(plan, intervals=self.grids)
        return replace(plan, intervals=self.grids, patience=self.patience, steps=self.steps, stop_early=True)

    @property
    def nested(self) -> bool:
        """Whether every grid divides the next, so that each extension can be exact."""
        return all(fine % coarse == 0 for coarse, fine in itertools.pairwise(self.grids))

    @property
    def name(self) -> str:
        """A few words for tables and figures, such as `doubling, nested`."""
        if len(self.grids) == 1:
            return f"G = {self.grids[0]} alone"
        return f"{self.kind}, {'nested' if self.nested else 'not nested'}"


def doubled(first: int, last: int, *, nested: bool = True) -> tuple[int, ...]:
    """first, 2 first, 4 first, ... up to `last`. Raises UsageError unless 1 <= first <= last.

    Not nested it is first, 2 first + 1, ...: each grid twice as fine as the one before, and sharing none of its inner
    breakpoints (G and 2 G + 1 have no common divisor).
    """
    if first < 1:
        raise UsageError(f"A schedule cannot begin with {first} intervals; a grid needs at least 1.")
    if last < first:
        raise UsageError(f"A schedule from {first} to {last} intervals shrinks; lower first.")
    grids = [first]
    while (finer := 2 * grids[-1] + (not nested)) <= last:
        grids.append(finer)
    return tuple(grids)


def schedule_of(entry: Mapping[str, Any]) -> Schedule:
    """The schedule that an entry of `schedules` describes. Raises UsageError for what it does not know or allow."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in _KEYS:
        raise UsageError(f"schedules has {entry}; each needs a kind, one of {', '.join(_KEYS)}.")
    given = {str(key): value for key, value in entry.items() if key != "kind"}
    unknown = sorted(given.keys() - _KEYS[kind])
    if unknown:
        raise UsageError(f"A {kind} schedule has no {unknown[0]}; it takes {', '.join(sorted(_KEYS[kind]))}.")
    if kind != "plateau":
        return Schedule(_grids(given), kind)
    patience, steps = (_whole(key, given.pop(key, usual)) for key, usual in (("patience", 2), ("steps", 200)))
    return Schedule(_grids(given), kind, patience, steps)


def _grids(given: Mapping[str, Any]) -> tuple[int, ...]:
    if "intervals" in given:
        if len(given) > 1 or not isinstance(given["intervals"], list):
            raise UsageError(f"A schedule has intervals, a list, or first and last, not {dict(given)}.")
        return tuple(_whole("intervals", g) for g in given["intervals"])
    if not {"first", "last"} <= given.keys():
        raise UsageError(f"A schedule needs intervals, or first and last; this one has {dict(given) or 'neither'}.")
    nested = given.get("nested", True)
    if not isinstance(nested, bool):
        raise UsageError(f"nested={nested} of a schedule must be true or false.")
    return doubled(_whole("first", given["first"]), _whole("last", given["last"]), nested=nested)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} of a schedule must be whole numbers, not {value}.")
    return value


def limited(schedule: Schedule, parameters_of: Callable[[int], int], most: int) -> tuple[Schedule, list[int]]:
    """The schedule without its grids of more than `most` parameters, and those grids.

    Raises UsageError when none would be left.
    """
    kept = tuple(g for g in schedule.grids if parameters_of(g) <= most)
    if not kept:
        least = parameters_of(schedule.grids[0])
        raise UsageError(f"most_parameters={most} leaves no grid of {list(schedule.grids)}; the first has {least}.")
    return replace(schedule, grids=kept), [g for g in schedule.grids if g not in kept]


def threshold_intervals(parameters_of: Callable[[int], int], points: int) -> int:
    """The smallest G whose `parameters_of(G)` reach `points`: from there on a network can interpolate them."""
    bound = next(g for g in (1 << n for n in itertools.count()) if parameters_of(g) >= points)
    return bisect_left(range(bound), points, key=parameters_of)
