"""Process of the command line: closed standard streams, and Ctrl-C before and after a run."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import IO, Any


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
    gc.freeze()  # or all that libraries hold is searched for garbage, for a second, only to end
    try:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # while libraries are taken down, it would show their tracebacks
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


class BrokenPipeSafeStream:
    """A text stream that drops its output once its pipe is closed or its device is full."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_streams() -> None:
    """Open missing standard streams, so that no file of a run gets the number of a closed one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(
                number, "w", encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, f"__{name}__", stream)
        setattr(sys, name, BrokenPipeSafeStream(stream))


if __name__ == "__main__":
    main()
