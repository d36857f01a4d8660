"""Tasks in processes of this machine.

Each worker process has a pipe of its own. There is no shared queue whose lock a killed worker could hold,
and no pool that breaks when one process dies: a lost worker is an end of file on its pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from kanrun.runs.records import Checkpoint
from kanrun.study.executor import ATTEMPTS, Event, Failed, Finished, Recorded, Resume, Retried, Started
from kanrun.study.experiment import Failure, Job, Task

_PATIENCE = 5.0  # seconds that a process gets to end before it is killed


def run_local(job: Job, tasks: Sequence[Task], resume: Resume, workers: int) -> Generator[Event, None, None]:
    """Run the tasks in `workers` processes; records come as the experiments yield them.

    A task that fails, or whose process dies, is run once more in a fresh process, then given up.
    """
    waiting = deque(tasks)
    attempts = dict.fromkeys((task.pair for task in tasks), 0)
    busy: dict[Any, _Worker] = {}  # by connection
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker, task = idle.pop() if idle else _Worker(job), waiting.popleft()
                busy[worker.connection] = worker
                # A task runs again from its start, not from a checkpoint of the attempt that failed.
                worker.give(task, resume(task) if attempts[task.pair] == 0 else None)
                attempts[task.pair] += 1
                yield Started(task)
            for connection in wait(list(busy)):
                worker = busy[connection]
                event = worker.next_event()
                if isinstance(event, Recorded):
                    yield event
                    continue
                del busy[connection]
                if isinstance(event, Finished):
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

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True, name="kanrun-worker")
        self._process.start()
        theirs.close()
        self._task: Task | None = None

    def give(self, task: Task, resume: Checkpoint | None) -> None:
        self._task = task
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died idle: `next_event` tells
            self.connection.send((task, resume))

    def next_event(self) -> Recorded | Finished | Failed:
        """Return what the worker says next; Failed if it is gone. Blocks until then."""
        task = self._task
        if task is None:
            raise RuntimeError("the worker has no task")
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return Failed(task, Failure(self._epitaph()))
        if kind == "record":
            return Recorded(task, value)
        return Finished(task, value) if kind == "finished" else Failed(task, value)

    def end(self) -> None:
        """End the process, whatever it does at the moment."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _epitaph(self) -> str:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"its worker process was ended by {name}{hint}"
        return f"its worker process ended with exit code {code}"


def _serve(connection: Connection, job: Job) -> None:
    """Run in a worker process: take tasks, send back their records."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task, resume = connection.recv()
        except EOFError:
            return
        clock = time.monotonic()
        message: tuple[str, Any]
        try:
            for record in job.run(task, resume):
                connection.send(("record", record))
            message = ("finished", time.monotonic() - clock)
        except Exception as error:  # any error of an experiment is a failure of its task
            message = ("failed", Failure.of(error))
        connection.send(message)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
