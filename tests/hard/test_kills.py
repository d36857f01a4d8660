"""Processes killed at any moment: no run is lost, and every run can be resumed.

The processes are forked from the test, which has imported the program. They are therefore killed
during a run, and not while torch is imported, when nothing has been written.
"""

import os
import random
import signal
import sys
import time

import kanrun.experiments.fit
import pytest
from run_files import numbers_of

import kanrun.engine.training
import kanrun.figures.panels  # noqa: F401  # what a run imports, so that forks need not
from kanrun.cli.app import main
from kanrun.runs import Run, find_runs

MODEL = ("model=mlp", "model.hidden=[2]", "solver.n_starts=1", "solver.steps=9")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, signals of POSIX")
WORDS = ("fit", "target=runge", *MODEL, "n_seeds=2", "sampling.n_train=40", "-q")
POINTS = (*WORDS, "-m", "model.activation=tanh,silu")


def forked(body, silent):
    """Run `body` in a fork with output to a file; return the process id."""
    process = os.fork()
    if process:
        return process
    code = 70
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a process that nohup started ignores it
    try:
        where = os.open(silent, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(where, 1)
        os.dup2(where, 2)
        code = body()
    except KeyboardInterrupt:  # `kanrun.__main__` does the same
        code = 130
    finally:
        os._exit(code)


def ended(process):
    """Wait for a process; return its exit code, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def numbers(run):
    """Return all numbers of a run as exact text, except times."""
    return [numbers_of(run.table(name)) for name in ("metrics", "summary")]


@pytest.mark.parametrize(
    "words, count",
    [
        pytest.param(POINTS, 4, id="points and seeds"),
        pytest.param(WORDS, 150, id="seeds, often", marks=pytest.mark.slow),
        pytest.param(POINTS, 150, id="points and seeds, often", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_are_resumed_to_the_same_numbers(tmp_path, words, count):
    silent = tmp_path / "said.txt"

    def start(*words):
        return forked(lambda: main([*words]), silent)

    for _ in range(2):  # the first run also fills caches
        clock = time.monotonic()
        assert ended(start(*words, "--outputs", str(tmp_path / "whole"))) == 0, silent.read_text()
        life = time.monotonic() - clock
    expected = numbers(find_runs(tmp_path / "whole")[0])
    random_times = random.Random(0)
    for number in range(count):
        outputs = tmp_path / str(number)
        process = start(*words, "--outputs", str(outputs))
        time.sleep(random_times.uniform(0, 1.05 * life))
        os.kill(process, signal.SIGKILL)
        killed = ended(process) == -signal.SIGKILL
        runs = find_runs(outputs)
        assert len(runs) <= 1
        for run in runs:
            assert killed or run.status == "COMPLETED"
            again = start("runs", "resume", str(run.path), "-q")
            assert ended(again) == 0, (run.status, silent.read_text()[-2000:])
            after = Run(run.path)
            assert not list(run.path.rglob(".*.tmp"))
            assert after.status == "COMPLETED"
            assert numbers(after) == expected


@pytest.fixture
def begun(tmp_path):
    """Return a function that starts a training of minutes and waits until it has begun."""

    def start(before=lambda: None):
        words = "fit target=product n_seeds=3 solver=adam solver.steps=100000 --outputs"
        line = [*words.split(), str(tmp_path)]
        process = forked(lambda: (before(), main(line))[1], tmp_path / "said.txt")
        until = time.monotonic() + 60
        while not (tmp_path / "fit/v0001/metrics.csv").exists() and time.monotonic() < until:
            time.sleep(0.05)
        return process

    return start


@pytest.mark.parametrize(
    "number, times, code, sender",
    [
        (signal.SIGINT, 1, 130, "Ctrl-C"),
        (signal.SIGINT, 8, 130, "Ctrl-C"),
        (signal.SIGTERM, 1, 143, "SIGTERM"),
        (signal.SIGHUP, 1, 143, "SIGHUP"),
    ],
)
def test_signals_end_a_run_cleanly_however_often_they_come(
    tmp_path, begun, number, times, code, sender
):
    process = begun()
    for _ in range(times):
        os.kill(process, number)
        time.sleep(0.02)
    assert ended(process) == code
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said
    assert ("stopping after this step" in said) == (number == signal.SIGINT)
    run = Run(tmp_path / "fit" / "v0001")
    assert run.status in {"INTERRUPTED", "INTERRUPTED (killed)"}
    assert times > 1 or run.manifest.reason == f"stopped by {sender}"


def test_a_second_interruption_does_not_wait_for_the_step(tmp_path, begun, monkeypatch):
    """In this process, the first Ctrl-C has no effect, as if a step never ended."""
    monkeypatch.setattr("kanrun.monitoring.interrupt", lambda error: None)
    process = begun()
    os.kill(process, signal.SIGINT)
    time.sleep(0.3)
    assert os.waitpid(process, os.WNOHANG) == (0, 0)
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert Run(tmp_path / "fit" / "v0001").status == "INTERRUPTED (killed)"


def test_a_run_under_nohup_outlives_its_terminal(tmp_path, begun):
    process = begun(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.kill(process, signal.SIGHUP)
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    assert ended(process) == 143
    assert Run(tmp_path / "fit" / "v0001").manifest.reason == "stopped by SIGTERM"
