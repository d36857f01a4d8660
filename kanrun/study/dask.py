"""Executor of tasks on a Dask cluster, through `distributed`'s client."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from kanrun.errors import KanrunError, UsageError
from kanrun.runs.records import Checkpoint
from kanrun.runs.tables import Key
from kanrun.study.executors import (
    UNNAMED,
    Failed,
    Finished,
    Recorded,
    Resume,
    Retried,
    Started,
    TaskEvents,
    Warned,
    events_of,
)
from kanrun.study.experiment import Failure, Task, TaskRunner

Ended = Recorded | Finished | Failed
#: Seconds to connect in, between looks at the workers, and between looks at results.
_CONNECT, _LOOK, _POLL = 3.0, 2.0, 0.02
#: Tasks that the scheduler has at a time: enough for any cluster, few enough for its memory.
_AHEAD = 1000
_NO_WORKERS = "no worker at {address}: waiting for one, as `dask worker {address}` starts it"


def run_dask(runner: TaskRunner, tasks: Iterable[Task], resume: Resume, address: str) -> TaskEvents:
    """Run the tasks on the cluster at `address`; the records of a task arrive together at its end.

    A task returns its failure as a value and is then run once more, on another worker if there is
    one. If a worker dies, the scheduler runs its task again, as often as its `allowed-failures`
    says; the task then counts as failed once, since the scheduler cannot distinguish a task that
    killed a worker from one that waited there. Raises UsageError if no scheduler answers,
    KanrunError if the cluster goes away (finished tasks stay finished, the run can be resumed).
    """
    distributed: Any = importlib.import_module("distributed")
    with _client(address) as client:
        waiting, futures, failed = iter(tasks), dict[Any, Task](), set[Key]()
        completed = distributed.as_completed([], loop=client.loop)

        def submit(task: Task, checkpoint: Checkpoint | None, **where: Any) -> Started:
            future = client.submit(run_task, runner, task, checkpoint, pure=False, **where)
            futures[future] = task
            completed.add(future)
            return Started(task)

        try:
            for task in islice(waiting, _AHEAD):
                yield submit(task, resume(task))
            for future in _as_they_come(completed, client):
                if future is None:
                    yield Warned(_NO_WORKERS.format(address=address))
                    continue
                # If its worker died with the result, the scheduler runs the task again.
                if future.status == "lost":
                    completed.add(future)
                    continue
                task = futures.pop(future)
                events, worker = _events(future, task, address)
                future.release()
                end = events[-1]
                if isinstance(end, Failed) and task.key not in failed:
                    failed.add(task.key)
                    yield Retried(task, end.failure)
                    others = [name for name in client.nthreads() if name != worker] or None
                    yield submit(task, None, workers=others, allow_other_workers=bool(others))
                    continue
                failed.discard(task.key)
                yield from events
                for following in islice(waiting, 1):
                    yield submit(following, resume(following))
        finally:
            if client.status == "running":
                client.cancel(list(futures))


def _as_they_come(completed: Any, client: Any) -> Iterator[Any]:
    """Yield the futures as they complete, and None once whenever there is no worker."""
    told, looked = False, 0.0
    while not completed.is_empty():
        if completed.has_ready():
            yield next(completed)
        elif time.monotonic() - looked < _LOOK:
            time.sleep(_POLL)
        else:
            with contextlib.suppress(Exception):  # a scheduler that is gone shows in the futures
                missing = not client.nthreads()
                if missing and not told:
                    yield None
                told = missing
            looked = time.monotonic()


def probe(address: str) -> None:
    """Raise UsageError unless a Dask scheduler answers at `address` within a few seconds."""
    with _client(address):
        pass


def run_task(
    runner: TaskRunner, task: Task, resume: Checkpoint | None
) -> tuple[list[Ended], str | None]:
    """Return the events of `task` in a worker of the cluster, and the worker's address."""
    from distributed import get_worker

    events = [replace(event, task=UNNAMED) for event in events_of(runner, task, resume)]
    with contextlib.suppress(ValueError):  # not in a worker
        return events, str(get_worker().address)
    return events, None


def _events(future: Any, task: Task, address: str) -> tuple[list[Ended], str | None]:
    """Return the result of `run_task`. Raises KanrunError if the cluster went away."""
    from distributed.scheduler import KilledWorker

    if future.status == "cancelled":
        raise KanrunError(
            f"the Dask cluster at {address} went away; `kanrun runs resume` continues the rest, "
            "with --address ADDRESS on another one or with --executor local here."
        )
    if future.status == "finished":
        events, worker = future.result()
        return [replace(event, task=task) for event in events], worker
    error = future.exception()
    if isinstance(error, KilledWorker):
        deaths = int(error.allowed_failures) + 1
        return [Failed(task, Failure(f"its worker on the Dask cluster died, {deaths} times"))], None
    return [Failed(task, Failure.of(error))], None


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            "executor=dask needs the package `distributed`: pip install 'kanrun[dask]'."
        ) from error
    names = [
        name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"
    ]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        # Relevant messages come back as an event or an exception.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        client = _connected(distributed, address)
        if client is None:
            raise UsageError(
                f"no Dask scheduler answers at executor.address={address}; start one with "
                "`dask scheduler`."
            )
        try:
            yield client
        finally:
            client.close(timeout=_CONNECT)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _connected(distributed: Any, address: str) -> Any:
    """Return a client, or None if no scheduler answers in time.

    Answers of other servers can keep a client waiting for ever, or make it allocate all memory.
    The client is therefore made in a thread, which is abandoned if it does not return.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(distributed.Client(address, timeout=_CONNECT, set_as_default=False))
        except Exception:  # whatever answers there
            answers.put(None)

    shown, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        threading.Thread(target=connect, daemon=True).start()
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=3 * _CONNECT)
        return None
    finally:
        gc.collect()
        sys.unraisablehook = shown
