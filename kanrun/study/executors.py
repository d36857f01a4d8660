"""Executors: tasks in this process, or in other processes of this machine (`kanrun.study.dask` has those of a cluster).

An executor is a generator of events. It never raises for a task that failed: the failure is an event, and
the other tasks continue. Closing the generator (or an exception thrown into it) stops all work.

The local executor has one pipe for each worker process. No shared queue has a lock that a killed worker could hold, and
no pool breaks when one process dies, as those of `concurrent.futures` and loky do: a lost worker is an end of file on
its pipe, its exit code is known, and the records of a task come as it yields them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs.records import Checkpoint, Record
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
    """How far a part of the task is, as its computation says; nothing of it is recorded."""

    task: Task
    advance: ProgressUpdate


@dataclass(frozen=True)
class Finished:
    task: Task
    seconds: float
    time_was_up: bool = False  # of its worker


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
    """A warning for the user that belongs to no single task."""

    text: str


TaskEvent = Started | Recorded | Progressed | Finished | Retried | Failed | Warned
TaskEvents = Generator[TaskEvent, None, None]
Resume = Callable[[Task], Checkpoint | None]
ATTEMPTS = 2  # of a task in other processes; in this process the same error would come again
TOLD_EVERY = 0.5  # seconds between two words of a worker on how far it is
PATIENCE = 5.0  # seconds that a worker process gets to end before it is killed


def run_serial(runner: TaskRunner, tasks: Sequence[Task], resume: Resume) -> TaskEvents:
    """Run the tasks one after the other in this process; records come as the experiment yields them.

    None but the first begins once the time of this thread's watch is up, which also hears how far they are.
    """
    for number, task in enumerate(tasks):
        if number and time_limit_reached():
            return
        yield Started(task)
        yield from events_of(runner, task, resume(task))


def events_of(runner: TaskRunner, task: Task, resume: Checkpoint | None) -> TaskEvents:
    """Run one task here: what it records, and how it ended; any error of an experiment is a failure of its task."""
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
    tasks: Sequence[Task],
    resume: Resume,
    workers: int,
    seconds: float | None = None,
) -> TaskEvents:
    """Run the tasks in `workers` processes; records come as the experiments yield them.

    With `seconds`, each worker's time is up after its share of these CPU seconds; no task begins after that.
    A task that fails, or whose process dies, is run once more in a fresh process, then given up.
    """
    waiting = deque(tasks)
    attempts = dict.fromkeys((task.pair for task in tasks), 0)
    busy: dict[Any, _Worker] = {}  # by connection
    idle: list[_Worker] = []
    share = None if seconds is None else seconds / workers
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(runner, share)
                task = waiting.popleft()
                busy[worker.connection] = worker
                # A task runs again from its start, not from a checkpoint of the attempt that failed.
                worker.give(task, resume(task) if attempts[task.pair] == 0 else None)
                attempts[task.pair] += 1
                yield Started(task)
            for connection in wait(list(busy)):
                worker = busy[connection]
                event = worker.next_event()
                if isinstance(event, Recorded | Progressed):
                    yield event
                    continue
                del busy[connection]
                if isinstance(event, Finished):
                    if event.time_was_up:
                        waiting.clear()
                    idle.append(worker)
                    yield event
                    continue
                worker.end()
                again = attempts[event.task.pair] < ATTEMPTS
                if again:
                    waiting.appendleft(event.task)
                yield Retried(event.task, event.failure) if again else event
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
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it died idle, which `next_event` reports
            self.connection.send((task, resume))

    def next_event(self) -> Recorded | Progressed | Finished | Failed:
        """Wait for the next event of the worker; Failed if it is gone."""
        if self._task is None:
            raise RuntimeError("the worker has no task")
        try:
            event: Recorded | Progressed | Finished | Failed = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return Failed(self._task, Failure(self._epitaph()))
        return event

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
    """Run in a worker process, which may use so many CPU seconds: take tasks, send back their records."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task, resume = connection.recv()
        except EOFError:
            return
        with monitored(_sender(connection, task), seconds):
            for event in events_of(runner, task, resume):
                connection.send(event)


def _sender(connection: Connection, task: Task) -> Callable[[ProgressUpdate], None]:
    """A listener that sends what it hears to the parent, no more often than that can show it."""
    last = -TOLD_EVERY

    def send(advance: ProgressUpdate) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            connection.send(Progressed(task, advance))

    return send


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
