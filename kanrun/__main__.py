"""Entry point of the process `kanrun`: handles closed streams, and Ctrl-C outside of a run."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Run `kanrun` as a process and exit with its exit code."""
    # Imports create no garbage; keeping collection off until `enable_gc` saves 0.5 s.
    gc.disable()
    try:
        _open_streams()
        from kanrun.cli.app import main as command

        code = command()
    except KeyboardInterrupt:
        code = 130
    gc.freeze()  # otherwise a last garbage collection would take a second
    try:
        # While libraries are taken down, Ctrl-C would show their tracebacks.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


class _SafeFile(io.FileIO):
    """A file that drops its output once its pipe is closed or its device is full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _open_streams() -> None:
    """Open standard streams that are closed, so that no other file gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
    for number, name in ((1, "stdout"), (2, "stderr")):
        known = getattr(sys, name)
        stream = io.TextIOWrapper(
            io.BufferedWriter(_SafeFile(number, "w", closefd=False)),
            known.encoding if known else "utf-8",
            known.errors if known else "backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
        )
        setattr(sys, f"__{name}__", stream)
        setattr(sys, name, stream)


if __name__ == "__main__":
    main()
