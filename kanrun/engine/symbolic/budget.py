"""Work instead of seconds: a search ends at the same structure on an idle and on a busy machine.

What takes time counts its work before it begins: evaluations of graphs and fits by their size,
dictionaries and regressions by their entries, sympy by the size of the expression. A unit is one
second of one core of a busy machine. If the CPU time of a search is far beyond its count all the
same, the search stops by the clock (`Budget`).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import thread_time
from typing import TypeVar

from kanrun.monitoring import time_limit_reached

Event = TypeVar("Event")


@dataclass(frozen=True)
class WorkCosts:
    """Units of work, from CPU seconds of parts of the search on points and terms of many sizes.

    Attributes:
        edge: The evaluation of a function of an edge, plus `value` for each of its values; a spline
            takes `SPLINE` times as long.
        slopes: Its slopes and columns of a Jacobian, plus `entry` for each of their entries.
        step: A step of a fit, plus `trial` for each of its trials.
        product: A multiplication of matrices, in factors and solutions too.
        term: An entry of a dictionary, plus `term_value` for each of its values.
        pair: A pair of terms whose explained variance is compared.
        operation: An operation of an expression that becomes a graph, or the rounding of a number.
        transform: One that sympy transforms, for each expanded term and decimal number.
        likelihood: A value of the covariance of a Gaussian process, for each input.
    """

    edge: float = 1e-5
    value: float = 1.5e-8
    slopes: float = 3e-5
    entry: float = 2e-8
    step: float = 3e-4
    trial: float = 1.5e-4
    product: float = 4e-11
    term: float = 5e-6
    term_value: float = 3e-8
    pair: float = 1.1e-8
    operation: float = 5e-4
    transform: float = 7e-4
    likelihood: float = 7e-9

    def evaluated(self, edges: int, splines: int, points: int) -> float:
        """Return the units of the values of a graph with `edges`, `splines` of them numeric."""
        return (edges + (SPLINE - 1) * splines) * (self.edge + self.value * points)

    def linearised(self, edges: int, parameters: int, points: int) -> float:
        """Return the units of the slopes and the Jacobian of a graph."""
        return self.slopes * edges + self.entry * points * (parameters + edges)


#: Time of a spline, relative to that of another function.
SPLINE = 3
#: Multiplications of a least squares solution by singular values for each entry and column.
LEAST_SQUARES = 10
COSTS = WorkCosts()
#: CPU seconds at which a search stops by the clock: a multiple of its budget, and so many more.
_OVERRUN = 1.5
_MORE_SECONDS = 3.0
#: Fraction of an outer limit that a budget may use, so that its owner stops cleanly.
_BELOW_LIMIT = 0.95


class _Clock(threading.local):
    """Work of this thread so far, and its work and CPU seconds at which it stops."""

    done: float = 0.0
    limit: float = math.inf
    end: float = math.inf


_clock = _Clock()


def work_done() -> float:
    """Return the work of this thread so far.

    As with `time.thread_time`, only differences have a meaning.
    """
    return _clock.done


def count_work(units: float) -> None:
    """Advance the clock of this thread; raise WorkSpent at a limit."""
    _clock.done += units
    if _clock.done > _clock.limit or thread_time() > _clock.end:
        raise WorkSpent


class WorkSpent(Exception):
    """Exhaustion of the work that a part of a search was allowed."""


class Budget:
    """An allowance of `units` of this thread's work, from now on, slightly below an outer limit.

    If it is `timed`, the CPU seconds of the thread are limited too, as no count is certain: it is
    then `stopped` where they are used up.
    """

    def __init__(self, units: float, *, timed: bool = False) -> None:
        self._begun = work_done()
        self._seconds = thread_time()
        self.units = min(units, _BELOW_LIMIT * (_clock.limit - self._begun))
        self._end = self._seconds + _OVERRUN * units + _MORE_SECONDS if timed else math.inf
        self.stopped = False

    @property
    def used(self) -> float:
        return work_done() - self._begun

    @property
    def left(self) -> float:
        return self.units - self.used

    @property
    def seconds(self) -> float:
        """CPU seconds since the budget began."""
        return thread_time() - self._seconds

    @property
    def over(self) -> bool:
        return self.left <= 0 or thread_time() > _clock.end or time_limit_reached()

    @contextlib.contextmanager
    def enforced(self, fraction: float = 1.0) -> Iterator[None]:
        """Raise WorkSpent inside after this `fraction` of what is left, or at an outer limit."""
        outer = _clock.limit, _clock.end
        _clock.limit = min(outer[0], work_done() + fraction * self.left)
        _clock.end = min(outer[1], self._end)
        try:
            yield
        finally:
            _clock.limit, _clock.end = outer
            self.stopped |= thread_time() > self._end


def limited(events: Iterator[Event], budget: Budget) -> Iterator[Event]:
    """Yield the events that come within the budget."""
    while True:
        try:
            with budget.enforced():
                event = next(events)
        except (StopIteration, WorkSpent):
            return
        yield event
