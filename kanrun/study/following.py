"""A training's events as records, whatever the experiment makes of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from kanrun.engine.training import Event, Trained
from kanrun.runs.records import Record

Events = Generator[Event, None, Trained]


def follow(events: Events, records_of: Callable[[Event], Iterable[Record]]) -> Generator[Record, None, Trained]:
    """Yield what `records_of` makes of each event of a training; returns what was trained."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            trained: Trained = end.value
            return trained
        yield from records_of(event)
