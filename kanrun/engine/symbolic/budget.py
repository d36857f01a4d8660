"""Work instead of seconds: a search ends at the same structure on an idle and on a busy machine.

Long computations count their work before they begin: refits by the step, grids and Gaussian
processes by their size, transforms of sympy by the size of the expression. The costs were measured
on graphs of 1 to 160 parameters and 120 to 1000 points; a unit is about one second of one core.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from kanrun.monitoring import time_limit_reached

Event = TypeVar("Event")


@dataclass(frozen=True)
class WorkCosts:
    """Units of work.

    Attributes:
        jacobian: A Jacobian, plus `edge` for each edge, `entry` for each entry, and `normal` for
            each product of its normal equations.
        trial: A trial step, plus `trial_edge` for each edge, `trial_value` for each of its values,
            and `solution` for each product that solves it.
        grid_value: A value of a candidate on a search grid.
        pair: A pair of functions, plus `pair_entry` for each entry.
        conversion: An expression made a graph in canonical form.
        least_squares: A product of a linear least squares solution.
        covariance: A product of a Gaussian process, plus `covariance_entry` for each entry of its
            covariance.
        operation: A transform of sympy, for each product of operations, expanded terms and numbers.
    """

    jacobian: float = 2.5e-4
    edge: float = 2.5e-5
    entry: float = 1.3e-8
    normal: float = 2.5e-11
    trial: float = 1.6e-4
    trial_edge: float = 2.5e-5
    trial_value: float = 5e-8
    solution: float = 1.6e-11
    grid_value: float = 2.5e-8
    pair: float = 2.6e-9
    pair_entry: float = 3.3e-11
    conversion: float = 3e-3
    least_squares: float = 2.3e-10
    covariance: float = 2.3e-11
    covariance_entry: float = 3.2e-9
    operation: float = 7e-4

    def linearised(self, edges: int, parameters: int, points: int) -> float:
        """Return the units of a Jacobian at `points` and of its normal equations."""
        return (
            self.jacobian
            + self.edge * edges
            + points * parameters * (self.entry + self.normal * parameters)
        )

    def tried(self, edges: int, parameters: int, points: int) -> float:
        """Return the units of a trial step at `points`."""
        per_edge = self.trial_edge + self.trial_value * points
        return self.trial + per_edge * edges + self.solution * parameters**3


COSTS = WorkCosts()
_thread = threading.local()


def work_done() -> float:
    """Return the work of this thread so far.

    As with `time.thread_time`, only differences have a meaning.
    """
    return getattr(_thread, "done", 0.0)


def count_work(units: float) -> None:
    """Advance the clock of this thread; raise WorkSpent at the limit."""
    _thread.done = work_done() + units
    if _thread.done > getattr(_thread, "limit", math.inf):
        raise WorkSpent


#: Fraction of an outer limit that a budget may use, so that its owner stops cleanly.
_BELOW_LIMIT = 0.95


class WorkSpent(Exception):
    """Exhaustion of the work that a part of a search was allowed."""


@contextlib.contextmanager
def at_most(units: float) -> Iterator[None]:
    """Raise WorkSpent inside after `units` of work, or at an outer limit."""
    outer = getattr(_thread, "limit", math.inf)
    _thread.limit = min(outer, work_done() + units)
    try:
        yield
    finally:
        _thread.limit = outer


def limited(events: Iterator[Event], units: float) -> Iterator[Event]:
    """Yield the events that come within work of `units`."""
    budget = Budget(units)
    while True:
        try:
            with at_most(budget.left):
                event = next(events)
        except (StopIteration, WorkSpent):
            return
        yield event


class Budget:
    """An allowance of `units` of this thread's work, from now on, slightly below an outer limit."""

    def __init__(self, units: float) -> None:
        self._begun = work_done()
        self.units = min(units, _BELOW_LIMIT * (getattr(_thread, "limit", math.inf) - self._begun))

    @property
    def used(self) -> float:
        return work_done() - self._begun

    @property
    def left(self) -> float:
        return self.units - self.used

    @property
    def over(self) -> bool:
        return self.left <= 0 or time_limit_reached()
