"""Process state that a run changes and restores: logging, standard output, signals."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from kanrun import monitoring
from kanrun.errors import Terminated, UsageError


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Restore the level and the handlers of the root logger after the body."""
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
def logging_to(path: Path) -> Iterator[None]:
    """Append the log of the body to a file, and warnings to standard error.

    Raises UsageError if the file is a link.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a link; a run that is resumed must lie in one folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    file, console, root = (
        logging.FileHandler(path, encoding="utf-8"),
        logging.StreamHandler(),
        logging.getLogger(),
    )
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console.setFormatter(logging.Formatter("kanrun: %(message)s"))
    console.setLevel(logging.WARNING)
    with logging_kept():
        root.handlers[:] = [console, file]
        root.setLevel(logging.INFO)
        yield


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send standard output of the body and its child processes to standard error.

    Standard output belongs to the one line that names the run's folder. Output of workers and
    libraries goes to standard error, also when it is written past Python.
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
    """Signals that came, and the exit code of an interrupted command."""

    terminated = False
    interrupted = 0

    @property
    def exit_code(self) -> int:
        return 143 if self.terminated else 130


@contextlib.contextmanager
def signals_raise() -> Iterator[Signals]:
    """Stop the body cleanly: Ctrl-C as KeyboardInterrupt, SIGTERM and SIGHUP as Terminated.

    A second Ctrl-C ends the process at once, with what is recorded. SIGHUP stays ignored if it was
    (nohup).
    """
    signals = Signals()

    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.interrupted += 1
        if signals.interrupted > 1:
            end_at_once(signals.exit_code)
        _say_past_python("kanrun: stopping after this step; Ctrl-C once more ends at once\n")
        if not signals.terminated:
            monitoring.interrupt(KeyboardInterrupt())

    def terminate(number: int, frame: FrameType | None) -> None:
        if not signals.terminated and not signals.interrupted:
            signals.terminated = True  # a second one must not cut the clean ending short
            monitoring.interrupt(Terminated())

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = terminate
    if threading.current_thread() is not threading.main_thread():  # signals can only be set there
        yield signals
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(code: int) -> None:
    """End this process and its workers now; every file is whole or absent at any time."""
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)


def _say_past_python(text: str) -> None:
    """Write to standard error in a signal's handler, when Python's buffers may be in use."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.__stderr__.fileno(), text.encode())  # type: ignore[union-attr]
