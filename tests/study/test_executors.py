"""Every executor gives the same numbers, and killed workers do not stop the others."""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import toy_experiment
from toy_experiment import ToyConfig, play

from kanrun.config import ExecutorConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run, Status
from kanrun.study import execution, executors
from kanrun.study.executors import run_serial

SLOW = pytest.mark.slow
SIZES = {"sizes": [2, 3, 4], "n_seeds": 2}
# Dask reads this when it is imported. A worker forked from a server that has imported Dask starts
# within 0.2 s of CPU time instead of 1 s, so a hundred killed workers are soon replaced.
os.environ["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"


def local_cluster(workers):
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    return distributed.LocalCluster(n_workers=workers, **options)


def on(cluster):
    return ExecutorConfig("dask", address=cluster.scheduler_address)


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture(params=["local", "dask"])
def executor(request, monkeypatch):
    if request.param == "local":
        return "local", 2
    monkeypatch.setattr(executors, "_CONNECT", 60.0)  # the machine may be busy
    return "dask", None, request.getfixturevalue("cluster").scheduler_address


def test_numbers_are_those_of_a_serial_run_though_some_workers_die(run_toy, same_tables, executor):
    _, serial = run_toy(**SIZES)
    outcome, run = run_toy(executor, **SIZES, dies_once=[3])
    assert outcome.status == Status.COMPLETED
    same_tables(serial, run)
    assert os.getpid() not in set(run.table("summary")["pid"])
    assert run.manifest.threads == serial.manifest.threads == 1


@pytest.mark.parametrize(
    "cores, given, expected", [(1, None, 1), (4, None, 4), (9, None, 6), (9, 2, 2)]
)
def test_workers_are_as_many_as_cores_and_trainings(run_toy, monkeypatch, cores, given, expected):
    seen = []
    monkeypatch.setattr(execution, "cores", lambda: cores)
    monkeypatch.setattr(execution, "run_local", lambda *a: seen.append(a[3]) or run_serial(*a[:3]))
    run_toy(("local", given), **SIZES)
    assert seen == [expected]


@pytest.mark.parametrize(
    "executor, fate, reason",
    [
        ("local", "dies", "ended by SIGKILL"),
        pytest.param("dask", "dies", "its worker on the Dask cluster died", marks=SLOW),
        ("local", "fails", "the loss of size 3 is not finite at step 3"),
        ("dask", "fails", "the loss of size 3 is not finite at step 3"),
    ],
    indirect=["executor"],
)
def test_a_cell_that_ends_early_is_recorded(run_toy, executor, capsys, fate, reason):
    outcome, run = run_toy(executor, sizes=[2, 3], **{fate: [3]})
    assert outcome.status == Status.FAILED
    (failure,) = run.manifest.failures
    assert failure["cell"] == 1
    assert reason in failure["reason"]
    assert run.table("summary")["size"].tolist() == [2]
    if executor[0] == "local" or fate == "fails":  # Dask restarts cells itself
        steps = run.table("metrics").query("cell == 1")["step"].tolist()
        assert steps == [0, 1, 2]  # only of the last attempt
        assert capsys.readouterr().err.count("failed and restarts") == (fate == "dies")


def test_all_workers_work_and_end_when_the_study_is_stopped(tmp_path, monkeypatch):
    cfg = ToyConfig(sizes=[2, 3, 4], pause=60, executor=ExecutorConfig("local", 2))
    at_first_note = []

    def workers():
        names = [child.name for child in multiprocessing.active_children()]
        return names.count("kanrun-worker")

    def stop(*_, **__):
        at_first_note.append(workers())
        raise KeyboardInterrupt

    monkeypatch.setattr("kanrun.study.execution._Execution._note", stop)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, cfg)
    assert (at_first_note, workers()) == ([2], 0)
    assert Run(tmp_path / "toy" / "v0001").status == "INTERRUPTED"


@SLOW
def test_only_the_tasks_of_killed_workers_are_repeated(
    executor, run_toy, same_tables, request, capsys
):
    sizes = list(range(2, 152))
    dying = sizes[::3] + sizes[1::3]
    ended = threading.Event()
    if executor[0] == "dask":
        cluster = request.getfixturevalue("cluster")
        threading.Thread(target=_keep_workers, args=(cluster, ended), daemon=True).start()
    _, serial = run_toy(sizes=sizes)
    outcome, run = run_toy(executor, sizes=sizes, dies_once=dying)
    ended.set()
    assert outcome.status == Status.COMPLETED
    same_tables(serial, run)
    again = capsys.readouterr().err.count("failed and restarts")
    assert executor[0] == "dask" or again == len(dying)  # Dask restarts most tasks itself


def _keep_workers(cluster, ended):
    """Replace dead workers that Dask does not restart any more."""
    while not ended.wait(1.0):
        cluster.scale(2)


ORPHANS = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import toy_experiment as toy
from kanrun.config import ExecutorConfig
if __name__ == "__main__":
    workers = ExecutorConfig("local", 2)
    cfg = toy.ToyConfig(sizes=[2, 3], pause=60, marks=sys.argv[1], executor=workers)
    toy.play(Path(sys.argv[1]), cfg, quiet=False)
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    toys = str(Path(toy_experiment.__file__).parent)
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), toys], stderr=subprocess.PIPE, text=True
    )
    assert "was chosen" in child.stderr.readline()
    workers = psutil.Process(child.pid).children(recursive=True)
    assert workers
    child.send_signal(signal.SIGKILL)
    child.wait()
    _, left = psutil.wait_procs(workers, timeout=60)
    child.stderr.close()
    assert left == []


@SLOW
def test_a_dask_cluster_that_goes_away_is_one_error(tmp_path):
    cluster = local_cluster(1)
    threading.Timer(2.0, cluster.close).start()
    with pytest.raises(KanrunError, match="went away"):
        play(tmp_path, ToyConfig(sizes=[2, 3], pause=1.0, executor=on(cluster)))
    assert Run(tmp_path / "toy" / "v0001").manifest.status == "FAILED"


def test_dask_waits_for_workers_and_says_so(tmp_path, capsys, monkeypatch):
    note = execution._Execution._note
    monkeypatch.setattr(executors, "_CONNECT", 60.0)
    with local_cluster(0) as cluster:

        def start_a_worker(*args):
            note(*args)
            cluster.scale(1)

        monkeypatch.setattr(execution._Execution, "_note", start_a_worker)
        outcome = play(tmp_path, ToyConfig(sizes=[2], executor=on(cluster)))
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
