"""What watches a long computation: who is told how far it is, and when its CPU seconds are used up.

Loops call `advanced` and ask `time_is_up`; both do nothing until `watching` asks for them. A limit on seconds is the
only thing in kanrun after which numbers may depend on the machine.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from time import process_time


@dataclass(frozen=True)
class Advance:
    """How far a part of a computation is: `done` of `total` (None: unknown), and the lowest error so far."""

    part: str
    done: int
    total: int | None = None
    error: float | None = None


Listener = Callable[[Advance], None]


class _Watched(threading.local):
    listener: Listener | None = None
    end: float = inf  # in CPU seconds of this process


_watched = _Watched()


def advanced(part: str, done: int, total: int | None = None, error: float | None = None) -> None:
    """Tell whoever watches."""
    if _watched.listener is not None:
        _watched.listener(Advance(part, done, total, error))


def time_is_up() -> bool:
    """Whether the CPU seconds of this thread's watch are used up; False without one."""
    return _watched.end < inf and process_time() >= _watched.end


def end_now() -> None:
    """Let this thread's time be up until the end of its `watching`."""
    _watched.end = -inf


@contextlib.contextmanager
def watching(listener: Listener | None = None, end: float | None = None) -> Iterator[None]:
    """Tell `listener` in the body, and let time be up when this process has used `end` CPU seconds; None changes
    neither."""
    before = _watched.listener, _watched.end
    _watched.listener = listener if listener is not None else before[0]
    _watched.end = before[1] if end is None else min(before[1], end)
    try:
        yield
    finally:
        _watched.listener, _watched.end = before


def start_collecting() -> None:
    """Search for garbage from here on, and not in what was loaded: `kanrun.__main__` has let that be until now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


_held = 0  # bodies of `uninterrupted` that run
_kept: list[BaseException] = []


def interrupt(error: BaseException) -> None:
    """Raise `error` from a signal's handler, or at the end of `uninterrupted`."""
    if not _held:
        raise error
    _kept.append(error)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep signals back that end the command, so that the body happens as a whole or not at all."""
    global _held  # noqa: PLW0603  # signals belong to the process
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _kept:
            error = _kept[0]
            _kept.clear()
            raise error
