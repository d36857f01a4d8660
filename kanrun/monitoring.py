"""Progress reports, CPU time limits and deferred signals of long computations.

Loops call `report_progress` and `time_limit_reached`. Outside `monitored`, the first does nothing
and the second returns False. The result of a computation that a time limit stopped depends on the
speed of the machine.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from math import inf
from time import process_time
from typing import TypeVar


@dataclass(frozen=True)
class ProgressUpdate:
    """Progress of a part of a computation.

    Attributes:
        part: Name of the part, as the user sees it.
        done: Number of finished units, such as steps, folds, or seconds of a budget.
        total: Total number of units; None if it is unknown.
        error: Lowest error so far; None if the part has no errors.
    """

    part: str
    done: float
    total: float | None = None
    error: float | None = None


Listener = Callable[[ProgressUpdate], None]
Y = TypeVar("Y")
R = TypeVar("R")


class _Monitor(threading.local):
    listener: Listener | None = None
    #: Value of `process_time` in CPU seconds at which the computation stops.
    end: float = inf


_monitor = _Monitor()


def report_progress(
    part: str, done: float, total: float | None = None, error: float | None = None
) -> None:
    """Report progress to the listener of this thread, if it has one; see `ProgressUpdate`."""
    if _monitor.listener is not None:
        _monitor.listener(ProgressUpdate(part, done, total, error))


def time_limit_reached() -> bool:
    """Return whether the CPU time limit of this thread has passed."""
    return _monitor.end < inf and process_time() >= _monitor.end


def request_stop() -> None:
    """Make `time_limit_reached` return True in this thread until `monitored` ends."""
    _monitor.end = -inf


@contextlib.contextmanager
def monitored(listener: Listener, end: float = inf) -> Iterator[None]:
    """Send the progress reports of the body to `listener`, and set its time limit.

    Args:
        listener: Called with each `ProgressUpdate`.
        end: Value of `process_time`, in CPU seconds, at which the limit is reached. A nested limit
            never extends an outer one.
    """
    before = _monitor.listener, _monitor.end
    _monitor.listener, _monitor.end = listener, min(before[1], end)
    try:
        yield
    finally:
        _monitor.listener, _monitor.end = before


def enable_gc() -> None:
    """Enable garbage collection after the imports, during which `kanrun.__main__` disables it.

    Objects that exist already are never scanned.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


#: Number of nested `uninterrupted` contexts.
_depth = 0
#: Errors of the signals that arrived in these contexts.
_deferred: list[BaseException] = []


def interrupt(error: BaseException) -> None:
    """Raise `error`, inside `uninterrupted` only at its end. Signal handlers call this."""
    if not _depth:
        raise error
    _deferred.append(error)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the body complete before a signal stops the command."""
    global _depth  # noqa: PLW0603  # signals belong to the process
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth and _deferred:
            error = _deferred[0]
            _deferred.clear()
            raise error


def finished(events: Generator[Y, None, R], tell: Callable[[Y], object] = lambda _: None) -> R:
    """Call `tell` with each event of the generator, and return the generator's result."""
    while True:
        try:
            tell(next(events))
        except StopIteration as end:
            result: R = end.value
            return result
