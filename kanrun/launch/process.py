"""The state of the process that a run changes, put back afterwards: logging, standard output, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from kanrun.errors import Terminated


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Gives the root logger its level and handlers back, whatever Hydra makes of them in the body."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Sends what the body and its child processes write to standard output to standard error.

    Standard output belongs to the one line that names the run's folder; what Hydra's launchers, their workers
    and libraries print goes to standard error, also when it is written past Python.
    """
    sys.stdout.flush()
    try:
        out, err = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
        kept = os.dup(out)
    except (AttributeError, OSError, ValueError):  # no real files behind them
        out = err = kept = -1
    try:
        if kept >= 0:
            os.dup2(err, out)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        if kept >= 0:
            os.dup2(kept, out)
            os.close(kept)


class Signals:
    """Whether SIGTERM came; `exit_code` is what an interrupted command ends with."""

    terminated = False

    @property
    def exit_code(self) -> int:
        return 143 if self.terminated else 130


@contextlib.contextmanager
def sigterm_raises() -> Iterator[Signals]:
    """Turns SIGTERM into the exception Terminated in the body, so that a run ends like after Ctrl-C."""
    signals = Signals()

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clean ending short
        signals.terminated = True
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # signals can only be set in the main thread
        yield signals
        return
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)
