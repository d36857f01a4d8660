"""Every executor gives the same numbers, and killed workers do not stop the others."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import toy_experiment
from toy_experiment import ToyConfig, play

from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run, Status
from kanrun.study import execution, executors, resources
from kanrun.study.executors import run_serial

SLOW = pytest.mark.slow
SIZES = {"sizes": [2, 3, 4], "n_seeds": 2}
# Dask reads this when it is imported. A worker forked from a server that has imported Dask starts
# within 0.2 s of CPU time instead of 1 s, so a hundred killed workers are soon replaced.
os.environ["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"


def started(*words):
    """Start a process of Dask, which finds the toy experiment."""
    paths = [str(Path(toy_experiment.__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Cluster:
    """A scheduler and two workers, as processes of their own.

    Dead workers are replaced until the cluster is stopped, as a batch system would do.
    """

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        place = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        self.scheduler = started("distributed.cli.dask_scheduler", *place)
        self._folder = folder
        self.workers = [self._worker() for _ in range(2)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_workers, daemon=True)
        self._thread.start()

    def _worker(self):
        alone = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        place = ["--local-directory", str(self._folder)]
        return started("distributed.cli.dask_worker", self.address, *alone, *place)

    def _keep_workers(self):
        while not self._ended.wait(0.2):
            self.workers = [
                self._worker() if worker.poll() is not None else worker for worker in self.workers
            ]

    def stop(self):
        self._ended.set()
        self._thread.join()
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT", 60.0)  # the machine may be busy


@pytest.fixture(params=["local", "cluster"])
def place(request, patient):
    """Return the settings that say where to train."""
    if request.param == "local":
        return {"n_jobs": 2}
    return {"scheduler": request.getfixturevalue("cluster").address}


def test_numbers_are_those_of_a_serial_run_though_some_workers_die(
    run_toy, same_tables, place, capsys
):
    _, serial = run_toy(**SIZES)
    outcome, run = run_toy(**SIZES, dies_once=[3], **place)
    assert outcome.status == Status.COMPLETED
    same_tables(serial, run)
    assert os.getpid() not in set(run.table("summary")["pid"])
    assert run.manifest.threads == serial.manifest.threads == 1
    assert capsys.readouterr().err.count("failed and restarts: its worker process was killed") == 2


@pytest.mark.parametrize(
    "cores, given, expected", [(1, None, 0), (4, None, 4), (9, None, 6), (9, 2, 2), (9, 1, 0)]
)
def test_workers_are_as_many_as_cores_and_trainings(run_toy, monkeypatch, cores, given, expected):
    seen = [0]
    monkeypatch.setattr(resources, "cores", lambda: cores)
    monkeypatch.setattr(execution, "run_local", lambda *a: seen.append(a[3]) or run_serial(*a[:3]))
    run_toy(**SIZES, n_jobs=given)
    assert seen[-1] == expected


@pytest.mark.parametrize(
    "fate, reason",
    [
        ("dies", "its worker process was killed"),
        ("fails", "the loss of size 3 is not finite at step 3"),
    ],
)
def test_a_cell_that_ends_early_is_recorded(run_toy, place, capsys, fate, reason):
    outcome, run = run_toy(sizes=[2, 3], **{fate: [3]}, **place)
    assert outcome.status == Status.FAILED
    (failure,) = run.manifest.failures
    assert failure["cell"] == 1
    assert reason in failure["reason"]
    assert run.table("summary")["size"].tolist() == [2]
    steps = run.table("metrics").query("cell == 1")["step"].tolist()
    # Only of the last attempt; a killed worker may not have sent its last records.
    assert steps == [0, 1, 2][: len(steps)]
    assert len(steps) == 3 or fate == "dies"
    assert capsys.readouterr().err.count("failed and restarts") == (fate == "dies")


def test_rows_arrive_while_a_training_goes_on(run_toy, place, monkeypatch):
    arrived = []
    record = execution._Execution._rows

    def seen(self, task, row):
        if row.name == "metrics":
            arrived.append((row.columns["step"][0], time.time() - row.columns["seconds"][0]))
        record(self, task, row)

    monkeypatch.setattr(execution._Execution, "_rows", seen)
    run_toy(sizes=[2], n_seeds=2, steps=4, pause=0.5, **place)
    steps = [step for step, _ in arrived]
    assert sorted(steps) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sum(late < 0.4 for _, late in arrived) >= 6  # the training goes on for 1.5 s


def test_all_workers_work_and_end_when_the_study_is_stopped(tmp_path, monkeypatch):
    cfg = ToyConfig(sizes=[2, 3, 4], pause=60, n_jobs=2)
    working = []

    def stop(*_, **__):
        working.extend(psutil.Process().children(recursive=True))
        raise KeyboardInterrupt

    monkeypatch.setattr("kanrun.study.execution._Execution._note", stop)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, cfg)
    assert len(working) >= 2
    assert not multiprocessing.active_children()
    assert Run(tmp_path / "toy" / "v0001").status == "INTERRUPTED"


@SLOW
def test_only_the_tasks_of_killed_workers_are_repeated(place, run_toy, same_tables, capsys):
    sizes = list(range(2, 152))
    dying = sizes[::3] + sizes[1::3]
    _, serial = run_toy(sizes=sizes)
    outcome, run = run_toy(sizes=sizes, dies_once=dying, **place)
    assert outcome.status == Status.COMPLETED
    same_tables(serial, run)
    assert capsys.readouterr().err.count("failed and restarts") == len(dying)


PROGRAM = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import toy_experiment as toy
if __name__ == "__main__":
    cfg = toy.ToyConfig(sizes=[2, 3], pause=60, marks=sys.argv[1], n_jobs=2)
    toy.play(Path(sys.argv[1]), cfg, quiet=False)
"""


@pytest.fixture
def working(tmp_path):
    """Return a study of two workers in a process group of its own, and the workers."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    toys = str(Path(toy_experiment.__file__).parent)
    words = [sys.executable, str(script), str(tmp_path), toys]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert "was chosen" in child.stderr.readline()
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) >= 2
    yield child, workers
    child.wait()
    child.stderr.close()


def test_workers_do_not_outlive_a_killed_parent(working):
    child, workers = working
    child.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(workers, timeout=60)
    assert left == []


def test_workers_end_and_say_nothing_when_ctrl_c_reaches_all(working):
    """A terminal sends SIGINT to all processes of the group."""
    child, workers = working
    os.killpg(child.pid, signal.SIGINT)
    _, left = psutil.wait_procs(workers, timeout=60)
    assert left == []
    said = child.stderr.read()
    assert re.findall(r"^\w*(?:Error|Interrupt)\b", said, re.MULTILINE) == ["KeyboardInterrupt"]
    assert "spawn" not in said


def test_a_cluster_that_goes_away_is_one_error(tmp_path, patient, monkeypatch):
    cluster = Cluster(tmp_path)
    stop = cluster.stop
    monkeypatch.setattr(execution._Execution, "_note", lambda *_: stop())  # both tasks say one
    cfg = ToyConfig(sizes=[2, 3], pause=20.0, scheduler=cluster.address)
    with pytest.raises(KanrunError, match="went away"):
        play(tmp_path, cfg)
    assert Run(tmp_path / "toy" / "v0001").manifest.status == "FAILED"


def test_dask_waits_for_workers_and_says_so(tmp_path, capsys, monkeypatch, patient):
    note = execution._Execution._note
    with executors.local_cluster(0) as cluster:

        def start_a_worker(*args):
            note(*args)
            cluster.scale(1)

        monkeypatch.setattr(execution._Execution, "_note", start_a_worker)
        outcome = play(tmp_path, ToyConfig(sizes=[2], scheduler=cluster.scheduler_address))
    assert outcome.status == Status.COMPLETED
    assert sum(said.startswith("no worker at tcp://") for said in outcome.notes) == 1
    assert "warning: no worker" in capsys.readouterr().err


def test_a_server_that_is_no_scheduler_is_refused_in_one_sentence():
    """Otherwise, the client could wait forever or allocate any amount of memory."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    peer.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UsageError, match="no Dask scheduler answers"):
            executors.dask_client(f"tcp://127.0.0.1:{port}").__enter__()
