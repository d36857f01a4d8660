"""Where tasks run: one interface, three executors. This file has the interface and the serial one.

An executor is a generator of events. It never raises for a task that failed: the failure is an event, and
the other tasks go on. Closing the generator (or an exception thrown into it) stops all work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from kanrun.runs.records import Checkpoint, Record
from kanrun.study.experiment import Failure, Job, Task


@dataclass(frozen=True)
class Started:
    task: Task


@dataclass(frozen=True)
class Recorded:
    task: Task
    record: Record


@dataclass(frozen=True)
class Finished:
    task: Task
    seconds: float


@dataclass(frozen=True)
class Retried:
    """The task failed or its worker was lost; it starts again, and what it recorded does not count."""

    task: Task
    failure: Failure


@dataclass(frozen=True)
class Failed:
    """The task failed for good; what it recorded stays."""

    task: Task
    failure: Failure


@dataclass(frozen=True)
class Warned:
    """Something that the user should know, of no task in particular."""

    text: str


Event = Started | Recorded | Finished | Retried | Failed | Warned
Resume = Callable[[Task], Checkpoint | None]
ATTEMPTS = 2  # of a task in other processes; in this process the same error would come again


def run_serial(job: Job, tasks: Sequence[Task], resume: Resume) -> Generator[Event, None, None]:
    """Run the tasks one after the other in this process; records come as the experiment yields them."""
    for task in tasks:
        yield Started(task)
        clock = time.monotonic()
        with contextlib.closing(job.run(task, resume(task))) as records:
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    yield Finished(task, time.monotonic() - clock)
                    break
                except Exception as error:  # any error of an experiment is a failure of its task
                    yield Failed(task, Failure.of(error))
                    break
                yield Recorded(task, record)
