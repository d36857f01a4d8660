"""Grid schedules: which grids a KAN is trained on, one after the other, and when it leaves each.

A schedule turns a plan into one that follows it; the loop itself knows only grids, steps and patience.
Refining to a multiple of a grid (*nested*) keeps the function exactly; any other grid is reached by least squares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from kanrun.engine.training.plan import Plan
from kanrun.errors import UsageError


@runtime_checkable
class Schedule(Protocol):
    """`grids` are the numbers of intervals in their order, strictly increasing."""

    @property
    def grids(self) -> tuple[int, ...]: ...

    def applied(self, plan: Plan) -> Plan:
        """`plan` along this schedule."""


@dataclass(frozen=True)
class ListSchedule:
    """The grids that are given; each is left when its steps are done or gain nothing."""

    grids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_grids(self.grids)

    def applied(self, plan: Plan) -> Plan:
        return replace(plan, intervals=self.grids)


@dataclass(frozen=True)
class DoublingSchedule:
    """first, 2 first, 4 first, ... up to `last`.

    Not nested it is first, 2 first + 1, ...: each grid twice as fine as the one before, and sharing none of its inner
    breakpoints (G and 2 G + 1 have no common divisor).
    """

    first: int
    last: int
    nested: bool = True

    def __post_init__(self) -> None:
        if self.first < 1:
            raise UsageError(f"A schedule cannot begin with {self.first} intervals; a grid needs at least 1.")
        if self.last < self.first:
            raise UsageError(f"A schedule from {self.first} to {self.last} intervals shrinks; lower first.")

    @property
    def grids(self) -> tuple[int, ...]:
        grids = [self.first]
        while (finer := 2 * grids[-1] + (not self.nested)) <= self.last:
            grids.append(finer)
        return tuple(grids)

    def applied(self, plan: Plan) -> Plan:
        return replace(plan, intervals=self.grids)


@dataclass(frozen=True)
class PlateauSchedule:
    """The grids of `along`, each left when the validation error has not fallen for `patience` steps.

    `steps` bounds the steps of one grid. The schedule ends early once two grids in a row gave no lower error.
    """

    along: ListSchedule | DoublingSchedule
    patience: int = 2
    steps: int = 200

    def __post_init__(self) -> None:
        if self.patience < 1 or self.steps < 1:
            raise UsageError(f"A plateau's patience={self.patience} and steps={self.steps} must be at least 1.")

    @property
    def grids(self) -> tuple[int, ...]:
        return self.along.grids

    def applied(self, plan: Plan) -> Plan:
        along = self.along.applied(plan)
        return replace(along, patience=self.patience, steps=self.steps, stop_early=True)


def check_grids(grids: Sequence[int]) -> None:
    """Raise UsageError unless there are grids, each of at least 1 interval and finer than the one before."""
    if not grids:
        raise UsageError("A schedule needs at least one grid.")
    if min(grids) < 1:
        raise UsageError(f"The schedule {list(grids)} has a grid of {min(grids)}; a grid needs at least 1 interval.")
    for coarse, fine in itertools.pairwise(grids):
        if fine <= coarse:
            how = f"shrinks from {coarse} to {fine}" if fine < coarse else f"has {fine} twice"
            raise UsageError(f"The schedule {list(grids)} {how}; each grid must be finer than the one before.")


def is_nested(grids: Sequence[int]) -> bool:
    """Whether every grid divides the next, so that each extension can be exact."""
    return all(fine % coarse == 0 for coarse, fine in itertools.pairwise(grids))


def threshold_intervals(parameters_of: Callable[[int], int], points: int) -> int:
    """The smallest G whose `parameters_of(G)` reach `points`: from there on a network can interpolate them."""
    low, high = 0, 1
    while parameters_of(high) < points:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if parameters_of(middle) >= points else (middle, high)
    return high
