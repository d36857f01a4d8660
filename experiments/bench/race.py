"""Whole programs, timed: trainings until an accuracy is reached, and commands.

`time_to_accuracy` trains a [2, 5, 1] network on exp(sin(pi x0) + x1^2), on the same points for all,
until the smallest error. Kanrun trains by the loop of `kanrun fit` along the schedule of grids,
with Levenberg-Marquardt and LBFGS at their defaults. Levenberg-Marquardt, which then starts several
times and chooses among widths, also trains from one start with the whole width, as pykan does.
pykan trains with its own settings: by its LBFGS along the schedule of grids, then again and again
on the last of them. Time counts all that training does, but not the measuring of errors.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np
import torch
from kanrun.experiments.bench.layers import MODULES, rows_of, short_reason, version
from pandas import DataFrame
from torch import Tensor

from kanrun.config import (
    BenchConfig,
    ExperimentConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    NamedTarget,
    SamplingConfig,
)
from kanrun.engine.training import Grown, Step, TrainingData, train
from kanrun.engine.training.solver_run import Clock
from kanrun.errors import KanrunError
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.runs.records import Note, Record, Row
from kanrun.study.build import LearningProblem, factory, make_plan, make_problem
from kanrun.study.resources import generator

#: What people wait for: arguments of `kanrun`, and what they are compared with.
COMMANDS = {
    "--help": "--help",
    "a refused call": "fit solver.steps=abc",
    "fit": "fit",
    "fit of a table": "fit target.path=table.csv target.outputs=[y]",
    "fit of one curve": "fit target=runge model=polynomial",
    "interpret": "interpret target=product",
    "solve": "solve",
}
IMPORT = "import torch"
#: Exit codes of commands that run, and of a refused call.
EXIT_CODES = (0, 2)
#: Rows and inputs of the table.
TABLE = (93, 7)
#: (seconds, test RMSE) after each step.
Curve = Iterator[tuple[float, float]]
LM, LM_ONCE, LBFGS = "kanrun LM", "kanrun LM, one start", "kanrun LBFGS"
PYKAN = "pykan LBFGS"
SHAPE = (2, 5, 1)
#: Steps of pykan on each grid.
PYKAN_STEPS = 50


class PeerFailed(KanrunError):
    """Another library broke; the text says how."""


class RaceFinished(Exception):
    """Leaves pykan's training, which offers no other way to stop it."""


def startup(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Yield the CPU seconds of each command on one thread, in turn, over those of `import torch`.

    Ratios compare machines, and hours of a busy one.
    """
    commands = {IMPORT: [sys.executable, "-c", IMPORT]}
    commands |= {
        name: [sys.executable, "-m", "kanrun", *arguments.split()]
        for name, arguments in COMMANDS.items()
    }
    rows = list[dict[str, float]]()
    for number in range(cfg.rounds):
        if number and time_limit_reached():
            break
        rows.append({})
        for place, (name, command) in enumerate(commands.items()):
            report_progress("commands", number * len(commands) + place, cfg.rounds * len(commands))
            rows[-1][name] = cpu_seconds(command, seed)
    times = DataFrame(rows)
    columns = {"cpu_seconds": times.median(), "least": times.min(), "most": times.max()}
    columns["over_import"] = columns["cpu_seconds"] / columns["cpu_seconds"][IMPORT]
    yield from rows_of("startup", DataFrame(columns).rename_axis("command").reset_index())


def cpu_seconds(command: list[str], seed: int) -> float:
    """Run a command on one thread in a folder with a table, and return its CPU seconds.

    Raises KanrunError if it fails.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=TABLE)
    y = 2 * x[:, 0] + np.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3] + 0.3 * rng.normal(size=len(x))
    table = DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]).assign(y=y)
    with tempfile.TemporaryDirectory() as folder:
        table.to_csv(f"{folder}/table.csv", index=False)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in EXIT_CODES:
        raise KanrunError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_to_accuracy(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Yield the seconds until each test error is reached, by kanrun and by other libraries."""
    for name, curve in trainings(cfg, seed).items():
        if time_limit_reached():
            break
        library, points, status = name.partition(" ")[0], list[tuple[float, float]](), "ok"
        try:
            for seconds, error in curve:
                points.append((seconds, error))
                measured = {"seconds": seconds, "test_rmse": error}
                yield Row("time_to_accuracy", {"competitor": name, **measured})
        except PeerFailed as failure:
            status = str(failure)
        best = min((error for _, error in points), default=float("inf"))
        trained = points[-1][0] if points else 0.0
        result: dict[str, Any] = {"competitor": name, "version": version(library)}
        result |= {"status": status, "best": best, "trained": trained}
        for goal in cfg.errors:
            reached = (seconds for seconds, error in points if error <= goal)
            row = {"error": goal, "seconds": next(reached, float("nan"))}
            yield Row("accuracy", {**result, **row})
        said = f"{best:.3g} after {trained:.3g} s" if status == "ok" else status
        yield Note(f"{name}: {said}")


def trainings(cfg: BenchConfig, seed: int) -> dict[str, Curve]:
    """Return each training of the race, which begins as it is read, by name."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    once = LMSolver(n_starts=1, select_width=False)
    solvers = {LM: LMSolver(), LM_ONCE: once, LBFGS: LBFGSSolver()}
    ours = {name: own_curve(solver, problem, cfg, seed) for name, solver in solvers.items()}
    return {**ours, PYKAN: pykan_curve(problem.data, cfg, seed)}


def own_curve(solver: Any, problem: LearningProblem, cfg: BenchConfig, seed: int) -> Curve:
    """Yield the training of kanrun by one solver."""
    model = KANConfig(hidden=list(SHAPE[1:-1]), intervals=list(cfg.intervals))
    plan, _ = make_plan(model, solver, problem)
    create, drawn = factory(model, problem, plan.solver), generator(seed, "training")
    for event in train(create, problem.data, plan, drawn):
        if isinstance(event, Grown):
            continue
        error = event.errors.test if isinstance(event, Step) else None
        if error is not None:
            yield event.seconds, error
        if event.seconds > cfg.training_seconds or (error or np.inf) <= min(cfg.errors):
            return


def pykan_curve(data: TrainingData, cfg: BenchConfig, seed: int) -> Curve:
    """Yield the training of pykan, after its end; raises PeerFailed."""
    points, grids, clock = list[tuple[float, float]](), list(cfg.intervals), Clock()
    samples, test = data.everything, data.test
    assert test is not None  # an invariant of the default sampling
    # Its own look at test points, after every step, is spared by giving it one.
    own = {"train_input": samples.x, "train_label": samples.y}
    own |= {"test_input": samples.x[:1], "test_label": samples.y[:1]}

    def look() -> Tensor:
        seconds = clock.seconds
        with torch.no_grad(), clock.stopped():
            error = float((model(test.x) - test.y).square().mean().sqrt())
        points.append((seconds, error))
        late = seconds > cfg.pykan_seconds or time_limit_reached()
        if late or not min(cfg.errors) < error < np.inf:
            raise RaceFinished
        return torch.tensor(0.0)

    before = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            torch.set_default_dtype(torch.float64)
            kan = import_module(MODULES["pykan"])
            plain: dict[str, Any] = {"seed": seed, "auto_save": False}
            model, clock = kan.KAN(width=list(SHAPE), grid=grids[0], k=3, **plain), Clock()
            for last, intervals in pairwise(chain(grids[:1], grids, repeat(grids[-1]))):
                model = model if intervals == last else model.refine(intervals)
                model.fit(own, opt="LBFGS", steps=PYKAN_STEPS, metrics=(look,), log=PYKAN_STEPS)
    except RaceFinished:
        yield from points
    except Exception as error:  # whatever another library raises is its result
        yield from points
        raise PeerFailed(short_reason("pykan", error)) from error
    finally:
        torch.set_default_dtype(before)
