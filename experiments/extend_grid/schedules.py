"""Grid schedules: which grids a KAN is trained on, one after the other, and when it leaves each.

Refining to a multiple of a grid (*nested*) keeps the function exactly; any other grid is reached by least squares.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kanrun.config.rules import setting
from kanrun.engine.training import Plan
from kanrun.errors import UsageError
from kanrun.study.suite import typed

PATIENCE, STEPS = 2, 200  # of a plateau
#: Which of `intervals`, `first` and `last` each kind takes.
_GIVEN = {"list": [(1, 0, 0)], "doubling": [(0, 1, 1)], "plateau": [(1, 0, 0), (0, 1, 1)]}


@dataclass
class Schedule:
    """Grids as listed, or doubled from `first` on up to `last`; not nested they are first, 2 first + 1, ...

    G and 2 G + 1 share none of their inner breakpoints. A grid is left when its steps are done or gain nothing; a
    plateau's when the validation error has not fallen for `patience` steps, at most `steps` of them, and the schedule
    once two grids in a row gave no lower error.
    """

    intervals: list[int] | None = setting(
        None, "grids of a schedule", least=1, minimum=1, increasing=True
    )
    kind: str = setting("list", "what a schedule is", choices=tuple(_GIVEN))
    first: int | None = setting(None, "the first of grids that double", minimum=1)
    last: int | None = setting(None, "how far grids double", minimum=1)
    nested: bool = True
    patience: int | None = setting(
        None, "steps without a lower validation error; null is 2", minimum=1
    )
    steps: int | None = setting(None, "most steps on a grid of a plateau; null is 200", minimum=1)

    def conflicts(self, at: str) -> Iterator[str]:
        """Grids are given in one of two ways; patience and steps are a plateau's."""
        given = tuple(int(one is not None) for one in (self.intervals, self.first, self.last))
        if given not in _GIVEN[self.kind]:
            ways = " or ".join(
                "intervals" if way[0] else "first and last" for way in _GIVEN[self.kind]
            )
            yield f"{at}kind={self.kind} needs {ways}."
        if self.kind != "plateau" and (self.patience or self.steps):
            yield f"{at}kind={self.kind} has no patience and steps; they are for kind=plateau."
        if self.first and self.last and self.last < self.first:
            yield f"{at}last={self.last} is less than {at}first={self.first}; grids become finer."

    @property
    def grids(self) -> tuple[int, ...]:
        grids = list(self.intervals or [self.first or 1])
        while self.last and (finer := 2 * grids[-1] + (not self.nested)) <= self.last:
            grids.append(finer)
        return tuple(grids)

    def applied(self, plan: Plan) -> Plan:
        """`plan` along this schedule."""
        if self.kind != "plateau":
            return replace(plan, intervals=self.grids)
        patience, steps = self.patience or PATIENCE, self.steps or STEPS
        return replace(plan, intervals=self.grids, patience=patience, steps=steps, stop_early=True)

    @property
    def exact(self) -> bool:
        """Whether every grid divides the next, so that each extension can be exact."""
        return all(fine % coarse == 0 for coarse, fine in itertools.pairwise(self.grids))

    @property
    def name(self) -> str:
        """A few words for tables and figures, such as `doubling, nested`."""
        if len(self.grids) == 1:
            return f"G = {self.grids[0]} alone"
        return f"{self.kind}, {'nested' if self.exact else 'not nested'}"


def schedule_of(entry: Any) -> Schedule:
    """The schedule that an entry of `schedules` describes. Raises UsageError for what it does not know or allow."""
    return typed(Schedule(), entry, "schedules")


def limited(
    schedule: Schedule, parameters_of: Callable[[int], int], most: int
) -> tuple[Schedule, list[int]]:
    """The schedule without its grids of more than `most` parameters, and those grids.

    Raises UsageError when none would be left.
    """
    kept = [g for g in schedule.grids if parameters_of(g) <= most]
    if not kept:
        least = parameters_of(schedule.grids[0])
        raise UsageError(
            f"max_parameters={most} leaves no grid of {list(schedule.grids)}; the first has {least}."
        )
    return replace(schedule, intervals=kept, first=None, last=None), [
        g for g in schedule.grids if g not in kept
    ]


def threshold_intervals(parameters_of: Callable[[int], int], points: int) -> int:
    """The smallest G whose `parameters_of(G)` reach `points`: from there on a network can interpolate them."""
    bound = next(g for g in (1 << n for n in itertools.count()) if parameters_of(g) >= points)
    return bisect_left(range(bound), points, key=parameters_of)
