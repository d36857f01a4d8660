"""Progress reporting, CPU time limits and deferred signals for long computations.

Loops call `report_progress` and ask `time_limit_reached`; both do nothing outside `monitored`.
After a CPU time limit numbers may depend on the machine.
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
    """Progress of one part of a computation: `done` of `total` (None: unknown), lowest error."""

    part: str
    done: int
    total: int | None = None
    error: float | None = None


Listener = Callable[[ProgressUpdate], None]
Y = TypeVar("Y")
R = TypeVar("R")


class _Monitor(threading.local):
    listener: Listener | None = None
    #: Time limit in CPU seconds of this process.
    end: float = inf


_monitor = _Monitor()


def report_progress(
    part: str, done: int, total: int | None = None, error: float | None = None
) -> None:
    """Report progress to the listener of this thread, if there is one."""
    if _monitor.listener is not None:
        _monitor.listener(ProgressUpdate(part, done, total, error))


def time_limit_reached() -> bool:
    """Return whether the CPU time limit of this thread is used up; False without a limit."""
    return _monitor.end < inf and process_time() >= _monitor.end


def request_stop() -> None:
    """Let the time limit of this thread count as reached until its `monitored` ends."""
    _monitor.end = -inf


@contextlib.contextmanager
def monitored(listener: Listener, end: float = inf) -> Iterator[None]:
    """Report progress in the body to `listener`, and limit it to `end` CPU seconds of the process.

    A nested limit never extends an outer one.
    """
    before = _monitor.listener, _monitor.end
    _monitor.listener, _monitor.end = listener, min(before[1], end)
    try:
        yield
    finally:
        _monitor.listener, _monitor.end = before


def enable_gc() -> None:
    """Enable garbage collection, which `kanrun.__main__` disables, and skip the loaded modules."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


_uninterrupted = 0  # nesting depth of the bodies of `uninterrupted`
_deferred: list[BaseException] = []


def interrupt(error: BaseException) -> None:
    """Raise `error` from a signal's handler, or at the end of `uninterrupted`."""
    if not _uninterrupted:
        raise error
    _deferred.append(error)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer signals that stop the command, so that the body happens as a whole or not at all."""
    global _uninterrupted  # noqa: PLW0603  # signals belong to the process
    _uninterrupted += 1
    try:
        yield
    finally:
        _uninterrupted -= 1
        if not _uninterrupted and _deferred:
            error = _deferred[0]
            _deferred.clear()
            raise error


def finished(events: Generator[Y, None, R], tell: Callable[[Y], object] = lambda _: None) -> R:
    """Call `tell` with each of the events and return what their generator returns."""
    while True:
        try:
            tell(next(events))
        except StopIteration as end:
            result: R = end.value
            return result
