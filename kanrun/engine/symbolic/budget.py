"""Limit a search by the amount of its work instead of by time.

Every slow operation estimates its work and adds it to a counter before it starts. A search
therefore ends at the same formula on an idle and on a busy machine. The estimates depend on the
number of points and on the size of what is computed, such as a graph, a regression or an
expression. One unit of work takes about one second on one core of a busy machine. A search that
uses much more CPU time than its counted work predicts is stopped by the clock (see `Budget`).
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
    """Units of work per operation, measured in CPU seconds for various numbers of points and terms.

    Attributes:
        edge: One evaluation of an edge's function, in addition to `value` for each point; a spline
            takes `SPLINE` times as long.
        value: One value of an edge's function.
        slopes: The slopes and Jacobian columns of one edge, in addition to `entry` for each entry.
        entry: One entry of a Jacobian.
        step: One step of a fit, in addition to `trial` for each trial step.
        trial: One trial step of a fit.
        product: One scalar multiplication in a matrix product, factorisation or solution.
        term: One term of a dictionary, in addition to `term_value` for each point.
        term_value: One value of a dictionary term.
        pair: The explained variance of one pair of terms.
        operation: One operation of an expression that is converted to a graph, or the rounding of
            one number.
        transform: One operation of an expression that sympy transforms, multiplied by the number of
            terms after expansion and by one plus the number of decimal numbers.
        likelihood: One entry of the covariance matrix of a Gaussian process, for each input.
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
        """Return the units of work for evaluating a graph at `points` points.

        Of its `edges` edges, `splines` are splines.
        """
        return (edges + (SPLINE - 1) * splines) * (self.edge + self.value * points)

    def solved(self, rows: int, columns: int) -> float:
        """Return the units of work for factorising a matrix, or for a least-squares fit with it."""
        each = self.value / 4 + self.product * LEAST_SQUARES * columns
        return 3 * self.edge + rows * columns * each

    def linearised(self, edges: int, parameters: int, points: int) -> float:
        """Return the units of work for the slopes and the Jacobian of a graph."""
        return self.slopes * edges + self.entry * points * (parameters + edges)


#: Time to evaluate a spline, relative to the time of a candidate function.
SPLINE = 3
#: Number of multiplications per matrix entry and column in a least-squares solution by singular
#: value decomposition.
LEAST_SQUARES = 10
COSTS = WorkCosts()


class _Clock(threading.local):
    """Work that this thread has done, and the work and CPU time at which it must stop."""

    done: float = 0.0
    limit: float = math.inf
    end: float = math.inf


_clock = _Clock()


def work_done() -> float:
    """Return the units of work that this thread has done.

    Only the difference between two calls is meaningful, as with `time.thread_time`.
    """
    return _clock.done


def count_work(units: float) -> None:
    """Add `units` to the work of this thread, and raise WorkSpent if a limit is exceeded."""
    _clock.done += units
    if _clock.done > _clock.limit or thread_time() > _clock.end:
        raise WorkSpent


class WorkSpent(Exception):
    """Raised when a search, or one of its stages, has used up its allowed work."""


class Budget:
    """Limit the further work of this thread to `units`.

    If another budget is active, the new one gets at most 95% of its remaining work. Because the
    counted work is an estimate, a `timed` budget also limits the CPU seconds of the thread.
    `stopped` tells whether the limit of CPU seconds was reached, and `spent` whether `limited`
    ended its events early.
    """

    def __init__(self, units: float, *, timed: bool = False) -> None:
        # A timed search is stopped after this many CPU seconds per unit of its budget, plus
        # more_seconds.
        # CPU seconds that a timed search may take in addition to those per unit of budget.
        # Fraction of the remaining work of an enclosing budget that a new budget may use, so that
        # the inner budget ends first.
        below_limit = 0.95
        more_seconds = 3.0
        overrun = 1.5
        self._begun = work_done()
        self._seconds = thread_time()
        self.units = min(units, below_limit * (_clock.limit - self._begun))
        self._end = self._seconds + overrun * units + more_seconds if timed else math.inf
        self.stopped = False
        self.spent = False

    @property
    def used(self) -> float:
        return work_done() - self._begun

    @property
    def left(self) -> float:
        return self.units - self.used

    @property
    def seconds(self) -> float:
        """CPU seconds of this thread since the budget was created."""
        return thread_time() - self._seconds

    @property
    def over(self) -> bool:
        return self.left <= 0 or thread_time() > _clock.end or time_limit_reached()

    @contextlib.contextmanager
    def enforced(self, fraction: float = 1.0) -> Iterator[None]:
        """Limit the work of a `with` block to `fraction` of the remaining work.

        Outer limits stay in force. If a limit is exceeded, `count_work` raises WorkSpent inside the
        block.
        """
        outer = _clock.limit, _clock.end
        _clock.limit = min(outer[0], work_done() + fraction * self.left)
        _clock.end = min(outer[1], self._end)
        try:
            yield
        finally:
            _clock.limit, _clock.end = outer
            self.stopped |= thread_time() > self._end


def limited(events: Iterator[Event], budget: Budget) -> Iterator[Event]:
    """Yield the events of a search until the events end or the budget is used up."""
    while True:
        try:
            with budget.enforced():
                event = next(events)
        except StopIteration:
            return
        except WorkSpent:
            budget.spent = True
            return
        yield event
