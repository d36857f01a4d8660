"""Measurements of `kanrun bench`: each yields the rows of its tables and notes on the result.

`time_to_accuracy` trains a [2, 5, 1] network on exp(sin(pi x0) + x1^2), on the same points for all.
Each training stops at the smallest error. Kanrun trains by the loop of `kanrun fit` along the
schedule of grids, with Levenberg-Marquardt and LBFGS at their defaults. Levenberg-Marquardt, which
then starts several times and chooses among widths, also trains from one start with the whole width,
as other libraries do. These train in processes of their own (`peers`). Time counts all of the
training, but not the measuring of errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from kanrun.experiments.bench.competitors import (
    COMPILED,
    MLP_NAME,
    OURS,
    LayerCase,
    build,
    in_turn,
    missing,
    our_layer,
    peak_bytes,
    version,
)
from kanrun.experiments.bench.peers import (
    JAX_ADAM,
    JAX_LBFGS,
    PYKAN,
    Curve,
    PeerFailed,
    Race,
    curve,
)
from pandas import DataFrame, concat

from kanrun.config import (
    BenchConfig,
    ExperimentConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    NamedTarget,
    SamplingConfig,
)
from kanrun.engine.training import Step, train
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Record, Row, Value
from kanrun.study.build import PRECISIONS, factory, make_plan, make_problem
from kanrun.study.resources import generator, threads_of
from kanrun.study.suite import exponents

ENTRY = "import sys; from kanrun.cli.app import main; sys.exit(main())"
TINY_FIT = (
    "fit target=expression target.formula=x0 model.hidden=[] model.intervals=[3] "
    "sampling.n_train=20 sampling.n_test=20"
)
COMMANDS = {"--help": "--help", "fit --cfg job": "fit --cfg job", "fit of one line": TINY_FIT}
#: Most rounds of the commands.
STARTUP_ROUNDS = 5
#: Percentiles of the ratios over rounds that are recorded next to their median.
LOW, HIGH = 10, 90
#: Largest grid of the layers with several batch sizes.
BATCH_GRID = 1000


def startup(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """Yield the median, fastest and slowest run of each command; the commands run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(min(cfg.rounds, STARTUP_ROUNDS)):
            for name, arguments in COMMANDS.items():
                command = [sys.executable, "-c", ENTRY, *arguments.split()]
                began = time.perf_counter()
                done = subprocess.run(
                    command,
                    cwd=folder,
                    capture_output=True,
                    check=False,
                    env=os.environ | {"NO_COLOR": "1"},
                )
                seconds = time.perf_counter() - began
                taken[name].append(float("nan") if done.returncode else seconds)
    for name, values in taken.items():
        found = {"seconds": float(np.median(values)), "least": min(values), "most": max(values)}
        yield Row("startup", {"command": name, **found})


LM, LM_ONCE, LBFGS = "kanrun LM", "kanrun LM, one start", "kanrun LBFGS"
#: Package of each of the other libraries.
PACKAGE = {PYKAN: "pykan", JAX_ADAM: "jaxkan", JAX_LBFGS: "jaxkan"}


def race(cfg: BenchConfig, seed: int) -> dict[str, Callable[[], Curve]]:
    """Return the trainings of the race by name."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    dataset = problem.dataset
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    assert dataset.test is not None  # An invariant of the default sampling.
    track = Race(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        dataset.test.x,
        dataset.test.y,
        tuple(cfg.intervals),
        min(cfg.errors),
        cfg.training_seconds,
        seed,
        threads_of(cfg),
    )

    def ours(solver: Any) -> Curve:
        model = KANConfig(hidden=[5], intervals=list(track.intervals))
        plan, _ = make_plan(model, solver, problem)
        create, drawn = factory(model, problem, plan.solver), generator(seed, "training")
        for event in train(create, problem.data, plan, drawn):
            error = event.errors.test if isinstance(event, Step) else None
            if error is not None:
                yield event.seconds, error
            if event.seconds > track.limit or (error is not None and error <= track.goal):
                return

    return {
        LM: lambda: ours(LMSolver()),
        LM_ONCE: lambda: ours(LMSolver(n_starts=1, select_width=False)),
        LBFGS: lambda: ours(LBFGSSolver()),
        PYKAN: lambda: curve(PYKAN, replace(track, limit=cfg.pykan_seconds)),
        JAX_ADAM: lambda: curve(JAX_ADAM, track),
        JAX_LBFGS: lambda: curve(JAX_LBFGS, track),
    }


def layers(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """Yield the time of a training step of every layer by every competitor.

    Ratios are to the faster of kanrun's own layers.
    """
    endings = ("", COMPILED) if cfg.compiled else ("",)
    ours = [OURS + ending for ending in endings]
    competitors = [*ours, *(MLP_NAME + ending for ending in endings), *cfg.libraries]
    for numbers in cfg.layers:
        if time_limit_reached():
            break
        case, steps, failed = LayerCase(*numbers), {}, {}
        for name in competitors:
            try:
                steps[name] = build(name, case, PRECISIONS[cfg.precision])
            except Exception as error:
                if name not in cfg.libraries:
                    raise
                failed[name] = short_reason(name, error)
        times = in_turn(steps, cfg.rounds, cfg.case_seconds)
        best = min(ours, key=lambda name: float(np.nanmedian(times[name])))
        described = {"case": case.name, **vars(case)}
        results = []
        for name in competitors:
            row = _timing(times.get(name, np.array([np.nan])), times[best])
            status = failed.get(name, "ok")
            yield Row(
                "layers",
                {
                    **described,
                    "competitor": name,
                    "version": version(name),
                    "status": status,
                    **row,
                },
            )
            if name != best:
                results.append(
                    f"{name} {status if name in failed else format(row['ratio'], '.2f') + 'x'}"
                )
        seconds = float(np.nanmedian(times[best]))
        yield Note(f"{case.name}: {best} {1e3 * seconds:.3g} ms; {', '.join(results)}")


def short_reason(library: str, error: Exception) -> str:
    """Return what a library raised, in a few words."""
    if not isinstance(error, ModuleNotFoundError):
        return f"failed: {type(error).__name__}"
    return "not installed" if missing(library) else f"lacks {error.name}"


def _timing(times: Any, best: Any) -> dict[str, float | int]:
    """Return median time, ratio to the `best` in the same round, and rounds; NaN without any."""
    rounds = int(np.isfinite(times).sum())
    low = middle = high = seconds = float("nan")
    if rounds:
        seconds = float(np.nanmedian(times))
        low, middle, high = map(float, np.nanpercentile(times / best, [LOW, 50, HIGH]))
    ratios = {"ratio": middle, "ratio_least": low, "ratio_most": high}
    return {"seconds": seconds, **ratios, "rounds": rounds}


def growth(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """Yield step time and peak memory by grid and by batch, and the exponents of the times."""
    dtype, (inputs, outputs) = PRECISIONS[cfg.precision], cfg.growth_shape
    last = min(BATCH_GRID, max(cfg.growth_intervals))
    grids = {g: LayerCase(cfg.growth_batch, inputs, outputs, g) for g in cfg.growth_intervals}
    batches = {b: LayerCase(b, inputs, outputs, last) for b in cfg.growth_batches}
    found: list[dict[str, Any]] = []
    for varied, cases in {"intervals": grids, "batch": batches}.items():
        steps = {str(value): build(OURS, case, dtype) for value, case in cases.items()}
        times = in_turn(steps, cfg.rounds, cfg.case_seconds)
        for value, case in cases.items():
            coefficients = our_layer(case, dtype).coefficients.nbytes
            row: dict[str, Value] = {
                "varied": varied,
                "value": value,
                "seconds": float(np.nanmedian(times[str(value)])),
                "peak_bytes": coefficients + peak_bytes(steps[str(value)]),
                "coefficient_bytes": coefficients,
            }
            found.append(row)
            yield Row("growth", row)
    # Exponents are fitted to the upper half of the values.
    by_varied = DataFrame(found).groupby("varied", sort=False)
    upper = concat([rows.iloc[len(rows) // 2 :] for _, rows in by_varied])
    fits = exponents(upper, ["varied"], "value", "seconds")
    for fit in fits.to_dict("records"):
        yield Row("exponents", {str(name): value for name, value in fit.items()})


def time_to_accuracy(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Yield the seconds until each test error is reached, by kanrun and by other libraries."""
    row: dict[str, Value]
    for name, start in race(cfg, seed).items():
        if time_limit_reached():
            break
        library, points, status = PACKAGE.get(name, name), list[tuple[float, float]](), "ok"
        try:
            for seconds, error in start():
                points.append((seconds, error))
                row = {"competitor": name, "seconds": seconds, "test_rmse": error}
                yield Row("time_to_accuracy", row)
        except PeerFailed as failure:
            lacks = f"lacks {failure.module}" if failure.module else str(failure)
            status = "not installed" if missing(library) else lacks
        best = min((error for _, error in points), default=float("inf"))
        trained = points[-1][0] if points else 0.0
        result: dict[str, Any] = {"competitor": name, "version": version(library)}
        result |= {"status": status, "best": best, "trained": trained}
        for goal in cfg.errors:
            reached = (seconds for seconds, error in points if error <= goal)
            row = {**result, "error": goal, "seconds": next(reached, float("nan"))}
            yield Row("accuracy", row)
        trained_note = f"{best:.3g} after {trained:.3g} s" if status == "ok" else status
        yield Note(f"{name}: {trained_note}")


PARTS: dict[str, Callable[[BenchConfig, int], Iterator[Record]]] = {
    "layers": layers,
    "growth": growth,
    "time_to_accuracy": time_to_accuracy,
    "startup": startup,
}
