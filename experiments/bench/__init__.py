"""Measure the speed of kanrun next to other KAN libraries and an MLP of the same size.

This command reproduces no figure of a paper, but all statements about speed in the documentation
rest on its results. It has these parts:

- `layers`: the time of a training step of one layer;
- `time_to_accuracy`: the time to reach given test errors on the toy function of arXiv 2404.19756,
  Figure 2.3;
- `startup`: the time of whole commands;
- `tables` (only on request): errors and times of models of tables.

Layers are measured in one process, in turn, and compared by medians over rounds. Libraries that are
not installed (`pip install 'kanrun[peers]'`) are reported as missing, and no claims are made about
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor

from kanrun.config import ExperimentConfig, SamplingConfig
from kanrun.engine.training import Clock, Grown, Step, TrainingData
from kanrun.errors import UsageError
from kanrun.model.planning import LearningProblem, check_model
from kanrun.model.settings import KANConfig, LBFGSSolver, LMSolver
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.recipe import Training
from kanrun.study.resources import make_problem
from kanrun.study.suite import claim_at_least
from kanrun.targets.settings import NamedTarget

from .config import BenchConfig
from .timing import (
    MODULES,
    foreign_code,
    layer_claims,
    layers,
    short_reason,
    startup,
    startup_claims,
    version,
)

#: Pairs of training seconds so far and test RMSE, after each step.
Curve = Iterator[tuple[float, float]]
LM = "kanrun LM"
LM_ONCE = "kanrun LM, one start"
LBFGS = "kanrun LBFGS"
PYKAN = "pykan LBFGS"
#: Claimed smallest ratio of pykan's time to kanrun's. It was fixed before anything was measured.
TO_ACCURACY = 50.0
SHAPE = (2, 5, 1)
#: Number of steps in each call of pykan's `fit`.
PYKAN_STEPS = 50


def check(cfg: BenchConfig) -> None:
    """Raise UsageError if the settings cannot be measured."""
    if cfg.device != "cpu" and cfg.part != "layers":
        raise UsageError(
            f"device={cfg.device}: bench measures only part=layers on another device. Write "
            "device=cpu, or part=layers."
        )
    if cfg.n_seeds != 1:
        raise UsageError(
            f"n_seeds={cfg.n_seeds}: bench repeats in rounds, not over seeds; raise rounds above "
            f"{cfg.rounds}, or run it again with another seed."
        )
    check_model(KANConfig(hidden=[5], intervals=list(cfg.intervals)), 2)
    if cfg.part == "tables":
        from .table_suite import select_sources

        select_sources(cfg.tables)


def cells(cfg: BenchConfig) -> list[Cell]:
    """Return a single cell, so that nothing runs in parallel with a measurement."""
    return [{"part": cfg.part}]


def run(cfg: BenchConfig, cell: Cell, seed: int) -> Records:
    """Measure the selected parts, one after the other, and yield their records."""
    import platform

    from .table_suite import tables

    machine = {"torch": torch.__version__, "machine": platform.machine()}
    yield Row("machine", {"threads": torch.get_num_threads(), **machine})
    if cell["part"] == "tables":
        yield from tables(cfg, seed)
    for part in (layers, time_to_accuracy, startup):
        name = part.__name__
        if cell["part"] in ("all", name) and not time_limit_reached():
            yield Note(f"measuring {name}")
            yield from part(cfg, seed)


def figures(tables: Tables) -> Figures:
    """Return no figures, because all results are in the tables."""
    return ()


def claims(tables: Tables) -> Claims:
    """Return the claims about the parts that were measured.

    There are claims about another library only if it was measured.
    """
    made = {"layers": layer_claims, "accuracy": accuracy_claims, "startup": startup_claims}
    return [claim for name in made if name in tables for claim in made[name](tables[name])]


def time_to_accuracy(cfg: BenchConfig, seed: int) -> Records:
    """Yield the seconds that kanrun and pykan take to reach each of `cfg.errors`.

    The tables are `time_to_accuracy`, with a row per step, and `accuracy`, with a row per error.
    The seconds are NaN if an error is not reached.
    """
    for name, curve in trainings(cfg, seed).items():
        if time_limit_reached():
            break
        library = name.partition(" ")[0]
        points = list[tuple[float, float]]()
        status = "ok"
        try:
            for seconds, error in curve:
                points.append((seconds, error))
                measured = {"seconds": seconds, "test_rmse": error}
                yield Row("time_to_accuracy", {"competitor": name, **measured})
        except Exception as error:
            if name != PYKAN:
                raise
            status = short_reason(library, error)  # an error of another library is recorded
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
    """Return the learning curve of each competitor. Training begins when a curve is first read."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    once = LMSolver(n_starts=1, select_width=False)
    solvers = {LM: LMSolver(), LM_ONCE: once, LBFGS: LBFGSSolver()}
    ours = {name: own_curve(solver, problem, cfg, seed) for name, solver in solvers.items()}
    return {**ours, PYKAN: pykan_curve(problem.data, cfg, seed)}


def own_curve(solver: Any, problem: LearningProblem, cfg: BenchConfig, seed: int) -> Curve:
    """Train kanrun's KAN with one solver, and yield seconds and test RMSE after each step.

    Training ends when the smallest error of `cfg.errors` or the time limit is reached.
    """
    model = KANConfig(hidden=list(SHAPE[1:-1]), intervals=list(cfg.intervals))
    for event in Training.of(model, solver, problem).events(seed):
        if isinstance(event, Grown):
            continue
        error = event.errors.test if isinstance(event, Step) else None
        if error is not None:
            yield event.seconds, error
        if event.seconds > cfg.training_seconds or (error or np.inf) <= min(cfg.errors):
            return


def pykan_curve(data: TrainingData, cfg: BenchConfig, seed: int) -> Curve:
    """Train pykan's KAN, and yield seconds and test RMSE after each step.

    After the last grid, training continues until the smallest error of `cfg.errors` or the time
    limit is reached. This is checked only after each call of pykan's `fit`.
    """
    samples = data.everything
    test = data.test
    assert test is not None  # an invariant of the default sampling
    # pykan evaluates its test points after every step. It gets only one point here, so that this
    # takes no time; the test error is computed outside of the measured time.
    dataset = {"train_input": samples.x, "train_label": samples.y}
    dataset |= {"test_input": samples.x[:1], "test_label": samples.y[:1]}
    points = list[tuple[float, float]]()

    def look() -> Tensor:
        seconds = clock.seconds
        with torch.no_grad(), clock.stopped():
            points.append((seconds, float((model(test.x) - test.y).square().mean().sqrt())))
        return torch.tensor(0.0)

    with foreign_code(torch.float64):
        kan = import_module(MODULES["pykan"])
        plain: dict[str, Any] = {"seed": seed, "auto_save": False}
        model = kan.KAN(width=list(SHAPE), grid=cfg.intervals[0], k=3, **plain)
    clock = Clock()
    for last, intervals in pairwise(chain(cfg.intervals[:1], cfg.intervals, repeat(None))):
        with foreign_code(torch.float64):
            model = model if intervals in (last, None) else model.refine(intervals)
            model.fit(dataset, opt="LBFGS", steps=PYKAN_STEPS, metrics=(look,), log=PYKAN_STEPS)
        yield from points
        seconds, error = points[-1]
        if not min(cfg.errors) < error < np.inf or seconds > cfg.pykan_seconds:
            return
        points.clear()


def accuracy_claims(table: DataFrame) -> Claims:
    """Claim that pykan needs at least TO_ACCURACY times as long as kanrun to the smallest error."""
    table = table.astype({"error": float, "seconds": float, "trained": float, "best": float})
    goal = table["error"].min()
    rows = table[(table["error"] == goal) & (table["status"] == "ok")].set_index("competitor")
    if PYKAN not in rows.index:
        return
    theirs = rows["seconds"][PYKAN]
    remark = None
    if not np.isfinite(theirs):
        # pykan did not reach the error, so its total time gives a lower bound of the ratio.
        theirs = rows["trained"][PYKAN]
        remark = f"a lower bound: pykan stopped at {rows['best'][PYKAN]:.2g} after {theirs:.0f} s"
    for how, names in (
        ("with its own settings", (LM, LBFGS)),
        ("from one start", (LM_ONCE, LBFGS)),
    ):
        ours = rows["seconds"].reindex(names).fillna(np.inf).min()
        sentence = f"pykan's time to a test RMSE of {goal:g} over kanrun's, {how}"
        yield claim_at_least(sentence, theirs / ours, TO_ACCURACY, remark)
