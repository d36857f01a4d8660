"""Work instead of seconds: a search ends at the same structure on an idle and on a busy machine.

What takes long counts itself before it begins: refits by the step, grids and Gaussian processes by their size, sympy by
the function calls that it makes. The costs were measured on graphs of 1 to 900 parameters; a unit is about one second
of one core.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from kanrun.monitoring import time_limit_reached

Event = TypeVar("Event")


@dataclass(frozen=True)
class WorkCosts:
    """Units of a Jacobian: for itself, for an edge, for an entry, for one of the products of its normal equations; of a
    trial step: for itself, for an edge, for one of the products that solve it; of a value of a candidate on a search
    grid; of a pair of functions, and an entry of it; of a guess that is fitted to all points; of least squares and of a
    Gaussian process for one of their products, and for an entry of a covariance; of a function call in sympy."""

    jacobian: float = 9.4e-5
    edge: float = 3.4e-5
    entry: float = 1.45e-8
    normal: float = 3e-11
    trial: float = 3e-5
    trial_edge: float = 2e-5
    solution: float = 1.3e-11
    grid_value: float = 3.4e-8
    pair: float = 1.9e-9
    pair_entry: float = 2.6e-11
    guess: float = 5e-3
    least_squares: float = 6.8e-10
    covariance: float = 6.8e-11
    covariance_entry: float = 9.4e-9
    call: float = 6.8e-7

    def linearised(self, edges: int, parameters: int, points: int) -> float:
        """Units of a Jacobian of `parameters` at `points` and its normal equations."""
        return (
            self.jacobian
            + self.edge * edges
            + points * parameters * (self.entry + self.normal * parameters)
        )

    def tried(self, edges: int, parameters: int) -> float:
        """Units of a step tried."""
        return self.trial + self.trial_edge * edges + self.solution * parameters**3


COSTS = WorkCosts()
_thread = threading.local()


def work_done() -> float:
    """The work of this thread so far. As with `time.thread_time`, only differences mean anything."""
    return getattr(_thread, "done", 0.0)


def count_work(units: float) -> None:
    """ProgressUpdate the clock of this thread. Raises WorkSpent at the end of what `limited` allows."""
    _thread.done = work_done() + units
    if _thread.done > getattr(_thread, "limit", math.inf):
        raise WorkSpent


def _counting(frame: FrameType, event: str, argument: Any) -> None:
    _thread.calls += 1
    if (
        _thread.calls >= _CALLS and not frame.f_code.co_flags & inspect.CO_GENERATOR
    ):  # which may be at its end: an
        _thread.calls = 0  # exception is ignored there
        count_work(_CALLS * COSTS.call)


@contextlib.contextmanager
def counted_calls() -> Iterator[None]:
    """Every call of a Python function inside is work: for libraries that have no limit of their own. Counting takes
    twice as long as the calls; WorkSpent is raised in the middle of one of them."""
    before, _thread.calls = sys.gettrace(), 0
    sys.settrace(_counting)
    try:
        yield
    finally:
        sys.settrace(before)


#: Function calls that are counted at once; share of what a limit leaves that a budget may use.
_CALLS, _IN_ORDER = 1000, 0.95


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
    """An allowance of `units` of this thread's work, from now on; a little less than an outer limit allows, so that who
    asks it ends in order."""

    def __init__(self, units: float) -> None:
        self._begun = work_done()
        self.units = min(units, _IN_ORDER * (getattr(_thread, "limit", math.inf) - self._begun))

    @property
    def used(self) -> float:
        return work_done() - self._begun

    @property
    def left(self) -> float:
        return self.units - self.used

    @property
    def over(self) -> bool:
        return self.left <= 0 or time_limit_reached()
