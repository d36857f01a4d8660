"""Executors: tasks in this process, or in other processes of this machine; see also `dask`.

An executor is a generator of events, and takes tasks as it gets to them. It never raises for a task
that failed: the failure is an event, and the other tasks continue. Closing the generator stops all
work.

The local executor has one pipe for each worker process. There is no shared queue with a lock that a
killed worker could hold, and no pool that breaks when one process dies, as those of
`concurrent.futures` and loky do. A lost worker is an end of file on its pipe, its exit code is
known, and the records of a task arrive as it yields them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from kanrun.config import ExperimentConfig
from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs.records import Checkpoint, Record
from kanrun.runs.tables import Key
from kanrun.study.experiment import Failure, Task, TaskRunner


@dataclass(frozen=True)
class Started:
    task: Task


@dataclass(frozen=True)
class Recorded:
    task: Task
    record: Record


@dataclass(frozen=True)
class Progressed:
    """Progress of a part of the task, which is not recorded."""

    task: Task
    update: ProgressUpdate


@dataclass(frozen=True)
class Finished:
    task: Task
    seconds: float
    time_was_up: bool = False  # of its worker


@dataclass(frozen=True)
class Retried:
    """The task failed or its worker was lost; it restarts, and its records do not count."""

    task: Task
    failure: Failure


@dataclass(frozen=True)
class Failed:
    """The task failed for good; its records stay."""

    task: Task
    failure: Failure


@dataclass(frozen=True)
class Warned:
    """A warning for the user that belongs to no single task."""

    text: str


TaskEvent = Started | Recorded | Progressed | Finished | Retried | Failed | Warned
TaskEvents = Generator[TaskEvent, None, None]
Resume = Callable[[Task], Checkpoint | None]
#: Stands for the task in events from other processes, which need not send it back.
UNNAMED = Task(ExperimentConfig(), 0, {}, 0)
#: Attempts at a task in other processes; in this process the same error would come again.
ATTEMPTS = 2
#: Seconds between two progress messages of a worker.
TOLD_EVERY = 0.5
#: Seconds that a worker process gets to end before it is killed.
PATIENCE = 5.0


def run_serial(runner: TaskRunner, tasks: Iterable[Task], resume: Resume) -> TaskEvents:
    """Run the tasks one after the other in this process.

    The first task always runs; no further task starts once the time limit is reached.
    """
    for number, task in enumerate(tasks):
        if number and time_limit_reached():
            return
        yield Started(task)
        yield from events_of(runner, task, resume(task))


def events_of(
    runner: TaskRunner, task: Task, resume: Checkpoint | None
) -> Iterator[Recorded | Finished | Failed]:
    """Run one task here: yield its records, and how it ended; an error is a failure of its task."""
    clock = time.monotonic()
    try:
        for record in runner.run(task, resume):
            yield Recorded(task, record)
    except Exception as error:
        yield Failed(task, Failure.of(error))
    else:
        yield Finished(task, time.monotonic() - clock, time_limit_reached())


def run_local(
    runner: TaskRunner,
    tasks: Iterable[Task],
    resume: Resume,
    workers: int,
    seconds: float | None = None,
) -> TaskEvents:
    """Run the tasks in `workers` processes.

    With `seconds`, the time limit of each worker is its share of these CPU seconds; no task begins
    after that. A task that fails, or whose process dies, is run once more in a fresh process.
    """
    waiting, again = iter(tasks), deque[Task]()
    attempts: dict[Key, int] = {}
    busy: dict[Any, _Worker] = {}  # by connection
    idle: list[_Worker] = []
    share = None if seconds is None else seconds / workers
    try:
        while True:
            while len(busy) < workers and (
                task := again.popleft() if again else next(waiting, None)
            ):
                worker = idle.pop() if idle else _Worker(runner, share)
                busy[worker.connection] = worker
                # A second attempt starts from the beginning, not from a checkpoint of the first.
                worker.give(task, None if task.key in attempts else resume(task))
                attempts[task.key] = attempts.get(task.key, 0) + 1
                yield Started(task)
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]
                event = worker.next_event()
                if isinstance(event, Recorded | Progressed):
                    yield event
                    continue
                del busy[connection]
                tried = attempts.pop(event.task.key)
                if isinstance(event, Finished):
                    if event.time_was_up:
                        waiting = iter(())
                        again.clear()
                    idle.append(worker)
                    yield event
                    continue
                worker.end()
                if tried < ATTEMPTS:
                    again.append(event.task)
                    attempts[event.task.key] = tried
                    yield Retried(event.task, event.failure)
                else:
                    yield event
    finally:
        for worker in [*idle, *busy.values()]:
            worker.end()


class _Worker:
    """A worker process, seen from the parent."""

    def __init__(self, runner: TaskRunner, seconds: float | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, runner, seconds)
        self._process = context.Process(
            target=_serve, args=arguments, daemon=True, name="kanrun-worker"
        )
        self._process.start()
        theirs.close()
        self._task: Task | None = None

    def give(self, task: Task, resume: Checkpoint | None) -> None:
        self._task = task
        # A worker that died idle is reported by `next_event`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((task, resume))

    def next_event(self) -> Recorded | Progressed | Finished | Failed:
        """Wait for the next event of the worker; `Failed` if it is gone."""
        if self._task is None:
            raise RuntimeError("the worker has no task")
        try:
            event: Recorded | Progressed | Finished | Failed = self.connection.recv()
        except (EOFError, ConnectionResetError):
            event = Failed(self._task, Failure(self._epitaph()))
        return replace(event, task=self._task)

    def end(self) -> None:
        """End the process, whatever it does at the moment."""
        self.connection.close()
        self._process.terminate()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _epitaph(self) -> str:
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"its worker process was ended by {name}{hint}"
        return f"its worker process ended with exit code {code}"


def _serve(connection: Connection, runner: TaskRunner, seconds: float | None) -> None:
    """Take tasks in a worker process with this time limit, and send back their records."""
    # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task, resume = connection.recv()
        except EOFError:
            return
        with monitored(_sender(connection), seconds):
            for event in events_of(runner, task, resume):
                connection.send(replace(event, task=UNNAMED))


def _sender(connection: Connection) -> Callable[[ProgressUpdate], None]:
    """Return a listener that sends progress to the parent, at most every `TOLD_EVERY` seconds."""
    last = -TOLD_EVERY

    def send(update: ProgressUpdate) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            connection.send(Progressed(UNNAMED, update))

    return send


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
