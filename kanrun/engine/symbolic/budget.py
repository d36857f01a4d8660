"""Work instead of seconds: a search ends at the same structure on an idle and on a busy machine.

Nearly all of a search's time is spent in refits, which count what they do; the costs were measured on graphs of 1 to
900 parameters. A unit is about one second of one core.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from kanrun.watch import time_is_up

Event = TypeVar("Event")


@dataclass(frozen=True)
class WorkCosts:
    """Units of a Jacobian: for itself, for an edge, for an entry; of a trial step: for itself, for an entry, for one of
    the products that solve it; of a value of a candidate on a search grid; of a pair of them, and an entry of it."""

    jacobian: float = 2.5e-4
    edge: float = 1.2e-4
    entry: float = 2.2e-8
    trial: float = 1.8e-4
    trial_entry: float = 5e-10
    product: float = 2e-11
    grid_value: float = 4e-8
    pair: float = 4e-9
    pair_entry: float = 4e-11

    def refit(self, edges: int, parameters: int, points: int, jacobians: int, trials: int) -> float:
        """Units of a refit of `parameters` to `points`."""
        entries = points * parameters
        one = self.jacobian + self.edge * edges + self.entry * entries
        trial = self.trial + entries * (self.trial_entry + self.product * parameters)
        return jacobians * one + trials * trial


COSTS = WorkCosts()
_thread = threading.local()


def work_done() -> float:
    """The work of this thread so far. As with `time.thread_time`, only differences mean anything."""
    return getattr(_thread, "done", 0.0)


def count_work(units: float) -> None:
    """Advance the clock of this thread. Raises WorkSpent at the end of what `limited` allows."""
    _thread.done = work_done() + units
    if _thread.done > getattr(_thread, "limit", math.inf):
        raise WorkSpent


class WorkSpent(Exception):
    """The work that a part of a search was allowed is done."""


@contextlib.contextmanager
def at_most(units: float) -> Iterator[None]:
    """Work inside is cut off by WorkSpent after `units`, or where an outer limit is nearer."""
    outer = getattr(_thread, "limit", math.inf)
    _thread.limit = min(outer, work_done() + units)
    try:
        yield
    finally:
        _thread.limit = outer


def limited(events: Iterator[Event], units: float) -> Iterator[Event]:
    """The events that come within work of `units`."""
    budget = Budget(units)
    while True:
        try:
            with at_most(budget.left):
                event = next(events)
        except (StopIteration, WorkSpent):
            return
        yield event


class Budget:
    """An allowance of `units` of this thread's work, from now on."""

    def __init__(self, units: float) -> None:
        self.units, self._begun = units, work_done()

    @property
    def used(self) -> float:
        return work_done() - self._begun

    @property
    def left(self) -> float:
        return self.units - self.used

    @property
    def over(self) -> bool:
        return self.left <= 0 or time_is_up()
