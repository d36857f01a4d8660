"""Executors: run tasks in this process, or in the workers of a Dask cluster.

An executor is a generator of events that takes tasks from an iterable when it can run them. A
failed task does not raise: its failure is an event, and the other tasks continue. Closing the
generator stops all work.

A worker sends each record at once, as an event of a topic of the cluster, to which the client is
subscribed. The last event of a task is its end, so nothing is fetched from the worker afterwards.
Every execution of a task has a name of its own. If a worker dies, Dask or the client executes the
task again, and the records of the first execution are void.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from math import inf
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any
from uuid import uuid4

from kanrun.errors import KanrunError, UsageError
from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs.files import Checkpoint, Key
from kanrun.runs.records import Note
from kanrun.study import Experiment, Failure, Finished, Started, Task, TaskEvent
from kanrun.study.resources import threads_of, using_threads

TaskEvents = Generator[TaskEvent, None, None]
Checkpoints = dict[Key, Checkpoint]  # checkpoints to resume from, each removed when it is used
#: Seconds within which a Dask scheduler must answer.
_CONNECT = 3.0


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
    end: float,
) -> TaskEvents:
    """Run the tasks in `workers` processes of this machine, each with one thread.

    `end` is the value of `process_time` at which the time limit is reached. The CPU seconds left
    are shared equally between the workers.
    """
    with local_cluster(workers) as cluster, dask_client(cluster.scheduler_address, 60) as client:
        seconds = max(0.0, end - time.process_time()) / workers
        yield from _Cluster(client, runner, checkpoints, seconds).run(tasks, workers)


def run_remote(
    runner: TaskRunner, tasks: Iterable[Task], checkpoints: Checkpoints, address: str
) -> TaskEvents:
    """Run the tasks on the Dask cluster whose scheduler is at `address`.

    Raises:
        UsageError: If no scheduler answers.
        KanrunError: If the cluster goes away. Finished tasks are kept, and the run can be resumed.
    """
    # More tasks than workers, so that no worker waits; more of them need more of the scheduler's
    # memory.
    ahead = 1000
    with dask_client(address) as client:
        yield from _Cluster(client, runner, checkpoints).run(tasks, ahead)


@dataclass
class _Submitted:
    """A task that the scheduler has, and how often it was executed in vain."""

    task: Task
    future: Any = None
    execution: str = ""  # name of the execution that has begun; "" if none has
    received: int = 0  # number of its events that have arrived
    deaths: int = 0  # number of workers that died while they executed the task
    waits: int = 0  # number of workers that died before they began


class _Cluster:
    """Runs tasks on a Dask cluster.

    `seconds` is the limit of the CPU time of each worker process.
    """

    def __init__(
        self, client: Any, runner: TaskRunner, checkpoints: Checkpoints, seconds: float = inf
    ) -> None:
        self._client = client
        self._runner = runner
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._topic = f"kanrun-{uuid4().hex}"
        #: Events of workers as bytes, and numbers of tasks of which the future has ended.
        self._arrived = SimpleQueue[bytes | tuple[int, Any]]()
        self._submitted: dict[int, _Submitted] = {}
        self._numbers = count()

    def run(self, tasks: Iterable[Task], ahead: int) -> TaskEvents:
        """Run the tasks, of which the scheduler has at most `ahead` at a time."""
        waiting = iter(tasks)
        self._client.subscribe_topic(self._topic, lambda event: self._arrived.put(event[1]))
        try:
            for task in islice(waiting, ahead):
                self._submit(_Submitted(task))
            if self._submitted and not self._client.nthreads():
                address = self._client.scheduler.address
                said = f"waiting for one, as `dask worker {address}` starts it"
                note = Note(f"no worker at {address}: {said}", warning=True)
                yield TaskEvent(next(iter(self._submitted.values())).task, note)
            while self._submitted:
                for event in self._next_events():
                    yield event
                    end = event.what
                    if isinstance(end, Finished) and end.time_was_up:
                        waiting = iter(())
                    if isinstance(end, Finished) or (isinstance(end, Failure) and not end.restarts):
                        for following in islice(waiting, 1):
                            self._submit(_Submitted(following))
        finally:
            if self._client.status == "running":
                self._client.cancel([known.future for known in self._submitted.values()])

    def _submit(self, known: _Submitted) -> None:
        number = next(self._numbers)
        known.execution = ""
        resume = self._checkpoints.pop(known.task.key, None)
        known.future = self._client.submit(
            run_task,
            (self._topic, number),
            self._runner,
            known.task,
            resume,
            self._seconds,
            key=f"{self._topic}-{number}",
            pure=False,
        )
        known.future.add_done_callback(lambda future: self._arrived.put((number, future)))
        self._submitted[number] = known

    def _next_events(self) -> list[TaskEvent]:
        """Wait for something to arrive, and return the events that follow from it."""
        try:
            arrived = self._arrived.get(timeout=1.0)
        except Empty:
            if self._client.status not in ("running", "connecting"):
                raise self._gone() from None
            return []
        if isinstance(arrived, tuple):
            number, future = arrived
            known = self._submitted.get(number)
            return [] if known is None else self._ended(number, known, future)
        number, execution, index, what = pickle.loads(arrived)
        known = self._submitted.get(number)
        if known is None:  # of an execution that was given up
            return []
        events = []
        if isinstance(what, Started) and known.execution != execution:
            if known.execution:  # its worker died, and Dask executes it again
                events = [self._died(number, known)]
                if number not in self._submitted:
                    return events
            known.execution = execution
            known.received = 0
        elif execution != known.execution or index != known.received:
            return []
        known.received += 1
        if isinstance(what, Finished | Failure):
            del self._submitted[number]
            known.future.release()
        return [*events, TaskEvent(known.task, what)]

    def _ended(self, number: int, known: _Submitted, future: Any) -> list[TaskEvent]:
        """Return the events of a task whose future has ended before its last record arrived."""
        from distributed.scheduler import KilledWorker

        if future.status == "cancelled":
            raise self._gone()
        if future.status == "lost":  # Dask executes the task again
            future.add_done_callback(lambda future: self._arrived.put((number, future)))
            return []
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            del self._submitted[number]
            return [TaskEvent(known.task, Failure.of(error))]
        # A worker also has tasks that wait for their turn. Their number of repetitions is limited,
        # because a task may kill its worker before it can say that it has begun.
        if not known.execution and known.waits < 10:
            known.waits += 1
            events = []
        else:
            events = [self._died(number, known)]
        if self._submitted.pop(number, None):
            self._submit(known)
        return events

    def _died(self, number: int, known: _Submitted) -> TaskEvent:
        """Return the failure of a task whose worker died; only the first time, the task restarts.

        If it does not restart, it is no longer among the submitted tasks.
        """
        known.deaths += 1
        restarts = known.deaths == 1
        if not restarts:
            del self._submitted[number]
            self._client.cancel([known.future])
        reason = "its worker process was killed (out of memory?)"
        return TaskEvent(known.task, Failure(reason, restarts=restarts))

    def _gone(self) -> KanrunError:
        return KanrunError(
            f"the Dask cluster at {self._client.scheduler.address} went away; `kanrun runs resume` "
            "continues the rest, with --scheduler ADDRESS on another one or with --n-jobs N here."
        )


def run_task(
    place: tuple[str, int],
    runner: TaskRunner,
    task: Task,
    resume: Checkpoint | None,
    seconds: float,
) -> None:
    """Run `task` in a worker of a cluster, and send its events to a topic.

    `place` has the topic and the number of the task. `seconds` is the limit of the CPU time of the
    worker process.
    """
    from distributed import get_worker
    from distributed.utils import sync

    worker: Any = get_worker()
    topic, number = place
    execution = uuid4().hex
    indices = count()
    last = -inf

    def packed(what: Any) -> bytes:
        return pickle.dumps((number, execution, next(indices), what))

    def send(update: ProgressUpdate) -> None:
        nonlocal last
        if time.monotonic() - last >= 0.5:  # otherwise, thousands of steps would fill the network
            last = time.monotonic()
            worker.log_event(topic, packed(update))

    # This waits until the client has been told, since the task may kill this process.
    sync(worker.loop, worker.scheduler.log_event, topic=topic, msg=packed(Started()))
    with monitored(send, seconds):
        for event in runner.events(task, resume):
            worker.log_event(topic, packed(event.what))


@contextlib.contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """Yield a cluster of `workers` processes of this machine, which ends with the body."""
    import dask
    from distributed import LocalCluster

    settings: dict[str, Any] = {
        # The client repeats the tasks of killed workers, so that it knows of every death.
        "distributed.scheduler.allowed-failures": 0,
        # A training that computes for minutes without a pause is not dead.
        "distributed.scheduler.worker-ttl": None,
        # The scheduler, which is in this process, need not keep records that were sent.
        "distributed.admin.low-level-log-length": 1,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with (
        tempfile.TemporaryDirectory(prefix="kanrun-") as folder,
        dask.config.set(settings),
        _dask_silenced(),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # None would mean port 8787
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def _dask_silenced() -> Iterator[None]:
    """Silence the log of Dask: relevant problems arrive as an event or an exception."""
    importlib.import_module("distributed")
    with contextlib.ExitStack() as stack:
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] == "distributed":
                logger = logging.getLogger(name)
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
        yield


@contextlib.contextmanager
def dask_client(address: str, timeout: float | None = None) -> Iterator[Any]:
    """Yield a client of the cluster at `address`. Raises UsageError if no scheduler answers."""
    distributed: Any = importlib.import_module("distributed")
    timeout = timeout or _CONNECT
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dask_silenced())
        answers = list[Any]()

        def connect() -> None:
            with contextlib.suppress(Exception):  # another kind of server may answer
                answers.append(distributed.Client(address, timeout=timeout, set_as_default=False))

        shown = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        try:
            # Another kind of server at this address could keep the client waiting for ever, or make
            # it allocate all memory. So the thread is abandoned if it does not return in time.
            (thread := threading.Thread(target=connect, daemon=True)).start()
            thread.join(3 * timeout)
        finally:
            gc.collect()
            sys.unraisablehook = shown
        if not answers:
            raise UsageError(
                f"no Dask scheduler answers at scheduler={address}; start one with "
                "`dask scheduler`."
            )
        stack.callback(answers[0].close, timeout=_CONNECT)
        yield answers[0]
