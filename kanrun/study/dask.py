"""Tasks on a Dask cluster, through `distributed`'s own Client."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from kanrun.errors import KanrunError, UsageError
from kanrun.runs.records import Checkpoint, Record
from kanrun.study.executor import ATTEMPTS, Event, Failed, Finished, Recorded, Resume, Retried, Started, Warned
from kanrun.study.experiment import Failure, Job, Task

_CONNECT, _LOOK, _POLL = 3.0, 2.0, 0.02  # seconds: to connect in, between looks at the workers and at what is ready
_NO_WORKERS = "no worker at {address}: waiting for one, as `dask worker {address}` starts it"


def run_dask(job: Job, tasks: Sequence[Task], resume: Resume, address: str) -> Generator[Event, None, None]:
    """Run the tasks on the cluster at `address`; the records of a task come together at its end.

    A task returns its failure as a value and is then run once more, on another worker where there is one.
    A task whose worker died is run again by the scheduler itself, as often as its `allowed-failures` says: it cannot
    tell the task that killed a worker from others that waited there, which are to be spared. Raises UsageError if
    nobody answers, KanrunError if the cluster goes away (finished tasks stay finished, the run can be resumed).
    """
    distributed: Any = importlib.import_module("distributed")
    with _client(address) as client:
        futures = {client.submit(run_task, job, task, resume(task), pure=False): task for task in tasks}
        attempts = dict.fromkeys((task.pair for task in tasks), 1)
        for task in tasks:
            yield Started(task)
        completed = distributed.as_completed(list(futures), loop=client.loop)
        try:
            for future in _as_they_come(completed, client):
                if future is None:
                    yield Warned(_NO_WORKERS.format(address=address))
                    continue
                if future.status == "lost":  # its worker died with the result; the scheduler runs it again
                    completed.add(future)
                    continue
                task = futures.pop(future)
                seconds, records, failure, worker, deaths = _outcome(future, address)
                future.release()
                again = failure is not None and max(attempts[task.pair], deaths) < ATTEMPTS
                if failure is not None and again:
                    attempts[task.pair] += 1
                    yield Retried(task, failure)
                    others = [name for name in _workers(client) if name != worker] or None
                    where: dict[str, Any] = {"workers": others, "allow_other_workers": others is not None}
                    retry = client.submit(run_task, job, task, None, pure=False, **where)
                    futures[retry] = task
                    completed.add(retry)
                    yield Started(task)
                    continue
                yield from (Recorded(task, record) for record in records)
                yield Finished(task, seconds) if failure is None else Failed(task, failure)
        finally:
            if client.status == "running":
                client.cancel(list(futures))


def _as_they_come(completed: Any, client: Any) -> Iterator[Any]:
    """The futures as they complete; and None, once, whenever there is no worker that could complete any."""
    told, looked = False, 0.0
    while not completed.is_empty():
        if completed.has_ready():
            yield next(completed)
        elif time.monotonic() - looked < _LOOK:
            time.sleep(_POLL)
        else:
            with contextlib.suppress(Exception):  # a scheduler that is gone shows in the futures
                missing = not _workers(client)
                if missing and not told:
                    yield None
                told = missing
            looked = time.monotonic()


def probe(address: str) -> None:
    """Raise UsageError unless a Dask scheduler answers at `address` within a few seconds."""
    with _client(address):
        pass


def run_task(job: Job, task: Task, resume: Checkpoint | None) -> tuple[float, list[Record], Failure | None, str | None]:
    """Run in a worker of the cluster: return seconds, records, the failure if any, and the worker's address."""
    records: list[Record] = []
    failure = None
    clock = time.monotonic()
    try:
        for record in job.run(task, resume):
            records.append(record)  # one by one: those before an error count
    except Exception as error:  # any error of an experiment is a failure of its task
        failure = Failure.of(error)
    return time.monotonic() - clock, records, failure, _own_address()


def _outcome(future: Any, address: str) -> tuple[float, list[Record], Failure | None, str | None, int]:
    """Return what `run_task` returned, and how many workers died of the task."""
    from distributed.scheduler import KilledWorker

    if future.status == "cancelled":
        raise KanrunError(
            f"the Dask cluster at {address} went away; `kanrun runs resume` goes on with the rest, "
            "with --address ADDRESS on another one or with --executor local here."
        )
    if future.status == "finished":
        seconds, records, failure, worker = future.result()
        return seconds, records, failure, worker, 0
    error = future.exception()
    if isinstance(error, KilledWorker):
        deaths = int(error.allowed_failures) + 1
        return 0.0, [], Failure(f"its worker on the Dask cluster died, {deaths} times"), None, deaths
    return 0.0, [], Failure.of(error), None, 0


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError("executor=dask needs the package `distributed`: pip install 'kanrun[dask]'.") from error
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what matters comes back as an event or an exception
    try:
        client = _connected(distributed, address)
        if client is None:
            raise UsageError(
                f"no Dask scheduler answers at executor.address={address}; start one with `dask scheduler`."
            )
        try:
            yield client
        finally:
            client.close(timeout=_CONNECT)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _connected(distributed: Any, address: str) -> Any:
    """Return a client, or None where nobody answers in time, or somebody who is no scheduler.

    What other servers answer can keep a client waiting for ever, or make it allocate all memory: it is made in a
    thread that is left behind then, and what its failed parts say while they are cleared away is not shown.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(distributed.Client(address, timeout=_CONNECT, set_as_default=False))
        except Exception:  # whatever it is that answers there
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


def _workers(client: Any) -> list[str]:
    return list(client.nthreads())


def _own_address() -> str | None:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return None
