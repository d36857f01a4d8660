"""Seconds of training alone."""

from __future__ import annotations

from time import perf_counter


class Clock:
    """Runs while training runs, stands still while the consumer of its events works."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since: float | None = perf_counter()

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else perf_counter() - self._since)

    def stop(self) -> float:
        """The seconds so far; time does not count until `go`."""
        self._before, self._since = self.seconds, None
        return self._before

    def go(self) -> None:
        """Count on."""
        if self._since is None:
            self._since = perf_counter()
