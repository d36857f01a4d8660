"""Entry point of the process `kanrun`: output that nobody reads, and Ctrl-C outside of a run."""

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
        _drop_unread_output()
        from kanrun.cli.app import main as command

        code = command()
    except KeyboardInterrupt:
        code = 130
    gc.freeze()  # otherwise a last garbage collection would take a second
    try:
        # While libraries are taken down, Ctrl-C would show their tracebacks.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


class _SafeFile(io.FileIO):
    """A file that drops its output once nobody reads it, as after `| head`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _drop_unread_output() -> None:
    """Let a run continue if the reader of its standard output or standard error is gone."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if (known := getattr(sys, name)) is not None:
            stream = io.TextIOWrapper(
                io.BufferedWriter(_SafeFile(number, "w", closefd=False)),
                known.encoding,
                known.errors,
                line_buffering=number == 2 or os.isatty(number),
            )
            setattr(sys, f"__{name}__", stream)
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
