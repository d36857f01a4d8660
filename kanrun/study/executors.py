"""Executors: run tasks in this process, in other processes of this machine, or on a Dask cluster.

An executor is a generator of events that takes tasks from an iterable when it can run them. A
failed task does not raise: its failure is an event, and the other tasks continue. Closing the
generator stops all work.

The local executor has one pipe per worker process. It does not use a shared queue, because a killed
worker could hold its lock, nor the pools of `concurrent.futures` and loky, because they break when
one process dies. If a worker dies, reading from its pipe reaches the end of the file, and its exit
code tells why. The records of a task arrive as soon as the task yields them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from kanrun.errors import KanrunError, UsageError
from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs.files import Checkpoint, Key
from kanrun.runs.records import Note
from kanrun.study import Experiment, Failure, Finished, Started, Task, TaskEvent
from kanrun.study.resources import threads_of, using_threads

TaskEvents = Generator[TaskEvent, None, None]
Checkpoints = dict[Key, Checkpoint]  # checkpoints to resume from, each removed when it is used
#: Smallest number of seconds between two progress messages of a worker.
TOLD_EVERY = 0.5
#: Number of seconds that a worker process has to end before it is killed.
PATIENCE = 5.0


@dataclass(frozen=True)
class TaskRunner:
    """What a worker needs: the experiment, and the results of its `prepare` for some tasks.

    If the experiment is a module, pickling stores its name, and unpickling imports the module.
    Prepared results are not pickled.
    """

    experiment: Experiment
    prepared: dict[Key, Any] = field(default_factory=dict)  # not sent to other processes

    def events(self, task: Task, resume: Checkpoint | None) -> Iterator[TaskEvent]:
        """Run a task, and yield its records and its end: Finished, or Failure after an error."""
        clock = time.monotonic()
        limit = getattr(self.experiment, "using_threads", using_threads)
        further: dict[str, Any] = {} if resume is None else {"resume": resume}
        if task.key in self.prepared:
            further["prepared"] = self.prepared.pop(task.key)
        try:
            with limit(threads_of(task.cfg)):
                for record in self.experiment.run(task.cfg, task.cell, task.seed, **further):
                    yield TaskEvent(task, record)
        except Exception as error:
            yield TaskEvent(task, Failure.of(error))
        else:
            yield TaskEvent(task, Finished(time.monotonic() - clock, time_limit_reached()))

    def __reduce__(self) -> tuple[Any, ...]:
        is_module = isinstance(self.experiment, ModuleType)
        place = self.experiment.__name__ if is_module else self.experiment  # type: ignore[attr-defined]
        return _unpickled, (place,)


def _unpickled(place: Any) -> TaskRunner:
    return TaskRunner(importlib.import_module(place) if isinstance(place, str) else place)


def run_serial(runner: TaskRunner, tasks: Iterable[Task], checkpoints: Checkpoints) -> TaskEvents:
    """Run the tasks one after the other in this process.

    The first task always runs; no further task starts once the time limit is reached.
    """
    for number, task in enumerate(tasks):
        if number and time_limit_reached():
            return
        yield TaskEvent(task, Started())
        yield from runner.events(task, checkpoints.pop(task.key, None))


def run_local(
    runner: TaskRunner,
    tasks: Iterable[Task],
    checkpoints: Checkpoints,
    workers: int,
    seconds: float,
) -> TaskEvents:
    """Run the tasks in `workers` processes.

    `seconds` is the CPU time limit of all workers together; each worker gets an equal share. Once
    one worker has used up its share, no further task begins. If a process dies, its task runs once
    more in a new process.
    """
    waiting = iter(tasks)
    again = deque[Task]()
    died = set[Key]()
    busy: dict[Any, _Worker] = {}  # busy workers by their connection
    idle: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers:
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    break
                worker = idle.pop() if idle else _Worker(runner, seconds / workers)
                busy[worker.connection] = worker
                worker.give(task, checkpoints.pop(task.key, None))
                yield TaskEvent(task, Started())
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]
                task, what = worker.next_event()
                if isinstance(what, Finished):
                    idle.append(busy.pop(connection))
                    if what.time_was_up:
                        waiting = iter(())
                        again.clear()
                elif isinstance(what, Failure) and what.trace:
                    idle.append(busy.pop(connection))
                elif isinstance(what, Failure):
                    busy.pop(connection).end()
                    if task.key not in died:
                        died.add(task.key)
                        again.append(task)
                        what = replace(what, restarts=True)
                yield TaskEvent(task, what)
    finally:
        for worker in [*idle, *busy.values()]:
            worker.end()


class _Worker:
    """The parent's handle of a worker process."""

    def __init__(self, runner: TaskRunner, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        about: Any = {"daemon": True, "name": "kanrun-worker"}
        self._process = context.Process(target=_serve, args=(theirs, runner, seconds), **about)
        self._process.start()
        theirs.close()

    def give(self, task: Task, resume: Checkpoint | None) -> None:
        """Send a task to the worker, with the checkpoint from which to continue, if any."""
        self._task = task
        # If the worker has died since its last task, `next_event` reports it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((task, resume))

    def next_event(self) -> TaskEvent:
        """Wait for the next event of the worker. If its process has died, return a Failure."""
        try:
            event: TaskEvent = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE)
            code = self._process.exitcode or 0
            how = f"ended with exit code {code}"
            if code < 0:
                known = -code in set(signal.Signals)
                name = signal.Signals(-code).name if known else f"signal {-code}"
                how = f"was ended by {name}" + " (out of memory?)" * (name == "SIGKILL")
            event = TaskEvent(self._task, Failure(f"its worker process {how}"))
        return event

    def end(self) -> None:
        """End the process, even in the middle of a task."""
        self.connection.close()
        self._process.terminate()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, runner: TaskRunner, seconds: float) -> None:
    """Receive tasks in a worker process and send back their events.

    `seconds` is the limit of the worker's CPU time.
    """
    last = -TOLD_EVERY

    def send(update: ProgressUpdate) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            connection.send(TaskEvent(task, update))

    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    # Ctrl-C reaches all processes of the group. Workers ignore it, and the parent ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError):
        while True:
            task, resume = connection.recv()
            with monitored(send, seconds):
                for event in runner.events(task, resume):
                    connection.send(event)


#: Seconds within which a Dask scheduler must answer.
_CONNECT = 3.0
#: Largest number of tasks that the scheduler holds at a time. It should exceed the number of
#: workers; more tasks need more of the scheduler's memory.
_AHEAD = 1000


def run_dask(
    runner: TaskRunner, tasks: Iterable[Task], checkpoints: Checkpoints, address: str
) -> TaskEvents:
    """Run the tasks on the Dask cluster at `address`. All records of a task arrive at its end.

    If a worker dies, the scheduler repeats its task as often as the cluster's setting
    `allowed-failures` permits. After that, the task is submitted once more, since the scheduler
    cannot distinguish a task that killed a worker from one that only waited there.

    Raises:
        UsageError: If no scheduler answers.
        KanrunError: If the cluster goes away. Finished tasks are kept, and the run can be resumed.
    """
    distributed: Any = importlib.import_module("distributed")
    with dask_client(address) as client:
        waiting = iter(tasks)
        futures = dict[Any, Task]()
        died = set[Key]()
        completed = distributed.as_completed([], loop=client.loop)

        def submit(task: Task) -> TaskEvent:
            future = client.submit(
                run_task, runner, task, checkpoints.pop(task.key, None), pure=False
            )
            futures[future] = task
            completed.add(future)
            return TaskEvent(task, Started())

        try:
            for task in islice(waiting, _AHEAD):
                yield submit(task)
            if not client.nthreads():
                said = f"waiting for one, as `dask worker {address}` starts it"
                note = Note(f"no worker at {address}: {said}", warning=True)
                yield TaskEvent(next(iter(futures.values())), note)
            for future in completed:
                # The worker died before it sent the result, so the scheduler runs the task again.
                if future.status == "lost":
                    completed.add(future)
                    continue
                task = futures.pop(future)
                events = _events(future, task, address)
                future.release()
                end = events[-1].what
                if isinstance(end, Failure) and not end.trace and task.key not in died:
                    died.add(task.key)
                    yield TaskEvent(task, replace(end, restarts=True))
                    yield submit(task)
                    continue
                yield from events
                for following in islice(waiting, 1):
                    yield submit(following)
        finally:
            if client.status == "running":
                client.cancel(list(futures))


def run_task(runner: TaskRunner, task: Task, resume: Checkpoint | None) -> list[TaskEvent]:
    """Run `task` in a worker of the cluster and return its events."""
    return list(runner.events(task, resume))


def _events(future: Any, task: Task, address: str) -> list[TaskEvent]:
    """Return the events of a finished future. Raises KanrunError if the cluster went away."""
    from distributed.scheduler import KilledWorker

    if future.status == "cancelled":
        raise KanrunError(
            f"the Dask cluster at {address} went away; `kanrun runs resume` continues the rest, "
            "with --address ADDRESS on another one or with --executor local here."
        )
    try:  # a finished result may be lost before it arrives here, and its repetition may fail
        events: list[TaskEvent] = future.result()
    except KilledWorker as error:
        deaths = int(error.allowed_failures) + 1
        return [TaskEvent(task, Failure(f"its worker on the Dask cluster died, {deaths} times"))]
    except Exception as error:
        return [TaskEvent(task, Failure.of(error))]
    return events


@contextlib.contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """Yield a client of the cluster at `address`. Raises UsageError if no scheduler answers."""
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            "executor=dask needs the package `distributed`: pip install 'kanrun[dask]'."
        ) from error
    with contextlib.ExitStack() as stack:
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] == "distributed":
                # The log of Dask is silenced, because relevant problems arrive as an event or an
                # exception.
                logger = logging.getLogger(name)
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
        answers = list[Any]()

        def connect() -> None:
            with contextlib.suppress(Exception):  # another kind of server may answer
                answers.append(distributed.Client(address, timeout=_CONNECT, set_as_default=False))

        shown = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        try:
            # Another kind of server at this address could keep the client waiting for ever, or make
            # it allocate all memory. So the thread is abandoned if it does not return in time.
            (thread := threading.Thread(target=connect, daemon=True)).start()
            thread.join(3 * _CONNECT)
        finally:
            gc.collect()
            sys.unraisablehook = shown
        if not answers:
            raise UsageError(
                f"no Dask scheduler answers at executor.address={address}; start one with "
                "`dask scheduler`."
            )
        stack.callback(answers[0].close, timeout=_CONNECT)
        yield answers[0]
