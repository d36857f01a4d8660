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
WORDS = ("fit", "target=runge", *MODEL, "n_seeds=2", "sampling.n_train=40", "-q")
POINTS = (*WORDS, "-m", "model.activation=tanh,silu")
TORN = ("metrics", "summary")


def forked(body, silent):
    """Run `body` in a fork with output to a file; return the process id."""
    process = os.fork()
    if process:
        return process
    code = 70
    if hasattr(signal, "SIGHUP"):  # a process that nohup started ignores it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
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


def run_to_end(words, outputs, silent):
    """Run a command in a fork; return its exit code and seconds."""
    clock = time.monotonic()
    return ended(
        forked(lambda: main([*words, "--outputs", str(outputs)]), silent)
    ), time.monotonic() - clock


def numbers(run):
    """Return all numbers of a run as exact text, except times."""
    return "".join(f"{name}\n{numbers_of(run.table(name))}" for name in TORN)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
@pytest.mark.parametrize(
    "words, count",
    [
        pytest.param(POINTS, 4, id="points and seeds"),
        pytest.param(WORDS, 150, id="seeds, often", marks=pytest.mark.slow),
        pytest.param(POINTS, 150, id="points and seeds, often", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_are_resumed_to_the_same_numbers(tmp_path, words, count):
    folder = tmp_path
    silent = folder / "said.txt"
    random_times = random.Random(0)
    code, life = run_to_end(words, folder / "whole", silent)
    assert code == 0, silent.read_text()
    code, life = run_to_end(words, folder / "whole", silent)  # the first run also filled caches
    expected = numbers(find_runs(folder / "whole")[0])
    for number in range(count):
        outputs = folder / str(number)
        process = forked(lambda outputs=outputs: main([*words, "--outputs", str(outputs)]), silent)
        time.sleep(random_times.uniform(0, 1.05 * life))
        os.kill(process, signal.SIGKILL)
        killed = ended(process) == -signal.SIGKILL
        runs = find_runs(outputs)
        assert len(runs) <= 1
        for run in runs:
            state = run.status
            assert killed == (state != "COMPLETED") or state == "COMPLETED"
            again = forked(lambda run=run: main(["runs", "resume", str(run.path), "-q"]), silent)
            assert ended(again) == 0, (state, silent.read_text()[-2000:])
            after = Run(run.path)
            assert not list(run.path.rglob(".*.tmp"))
            assert after.status == "COMPLETED"
            assert numbers(after) == expected


def begun(outputs, silent, before=lambda: None):
    """Start a training that takes minutes, wait until it has begun, and return its process id."""
    words = "fit target=product n_seeds=3 solver=adam solver.steps=100000 --outputs"
    process = forked(lambda: (before(), main([*words.split(), str(outputs)]))[1], silent)
    until = time.monotonic() + 60
    while not list(outputs.glob("fit/v0001/metrics.csv")) and time.monotonic() < until:
        time.sleep(0.05)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "number, times, code, sender",
    [
        (signal.SIGINT, 1, 130, "Ctrl-C"),
        (signal.SIGINT, 8, 130, "Ctrl-C"),
        (signal.SIGTERM, 1, 143, "SIGTERM"),
        (signal.SIGHUP, 1, 143, "SIGHUP"),
    ],
)
def test_signals_end_a_run_cleanly_however_often_they_come(tmp_path, number, times, code, sender):
    outputs = tmp_path / "outputs"
    silent = tmp_path / "said.txt"
    process = begun(outputs, silent)
    for _ in range(times):
        os.kill(process, number)
        time.sleep(0.02)
    assert ended(process) == code
    said = silent.read_text()
    assert "Traceback" not in said
    assert ("stopping after this step" in said) == (number == signal.SIGINT)
    run = Run(outputs / "fit" / "v0001")
    assert run.status in {"INTERRUPTED", "INTERRUPTED (killed)"}
    assert times > 1 or run.manifest.reason == f"stopped by {sender}"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_interruption_does_not_wait_for_the_step(tmp_path, monkeypatch):
    """In this process, the first Ctrl-C has no effect, as if a step never ended."""
    outputs = tmp_path / "outputs"
    silent = tmp_path / "said.txt"
    monkeypatch.setattr("kanrun.monitoring.interrupt", lambda error: None)
    process = begun(outputs, silent)
    os.kill(process, signal.SIGINT)
    time.sleep(0.3)
    assert os.waitpid(process, os.WNOHANG) == (0, 0)
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert Run(outputs / "fit" / "v0001").status == "INTERRUPTED (killed)"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    outputs = tmp_path / "outputs"
    silent = tmp_path / "said.txt"
    process = begun(outputs, silent, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.kill(process, signal.SIGHUP)
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    assert ended(process) == 143
    assert Run(outputs / "fit" / "v0001").manifest.reason == "stopped by SIGTERM"
