"""The measurements of `kanrun bench`: each yields the rows of its tables and a note on what was found.

Seconds until a test error is reached are those of exp(sin(pi x0) + x1^2) by a [2, 5, 1] network, on the same points for
all. Each stops once it has reached the smallest error. Ours train by `kanrun fit`'s own loop along the schedule of
grids, Levenberg-Marquardt and LBFGS, with the settings that a user gets who names no others; Levenberg-Marquardt, which
then starts several times and chooses among widths, also from one start and the whole width, as other libraries do.
These train in processes of their own (`peers`). Time counts all that training does, but not the measuring of errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sympy
import threadpoolctl  # type: ignore[import-untyped]
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
from kanrun.engine.symbolic import Budget, choose, match_edge, match_formulas, simplify_expression
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.templates import kan_shape
from kanrun.engine.training import Step, train
from kanrun.formulas import parse
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Record, Row
from kanrun.study import statistics
from kanrun.study.build import factory, make_plan
from kanrun.study.problem import PRECISIONS, make_problem
from kanrun.study.resources import generator, threads_of

ENTRY = "import sys; from kanrun.cli.app import main; sys.exit(main())"
COMMANDS = {
    "--help": ["--help"],
    "fit --cfg job": ["fit", "--cfg", "job"],
    "fit of one line": [
        "fit",
        "target=expression",
        "target.formula=x0",
        "model.hidden=[]",
        "model.intervals=[3]",
        "sampling.n_train=20",
        "sampling.n_test=20",
    ],
}


def startup(rounds: int) -> Iterator[Row]:
    """Rows of the table `startup`: the median, fastest and slowest of `rounds` runs of each command, in turn."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, arguments in COMMANDS.items():
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", ENTRY, *arguments],
                    cwd=folder,
                    capture_output=True,
                    check=False,
                    env=os.environ | {"NO_COLOR": "1"},
                )
                taken[name].append(
                    time.perf_counter() - began if done.returncode == 0 else float("nan")
                )
    for name, seconds in taken.items():
        values = {"seconds": float(np.median(seconds)), "least": min(seconds), "most": max(seconds)}
        yield Row("startup", {"command": name, **values})


#: Networks (widths, intervals) and points of the refits.
_NETWORKS = (((1, 1), 20, 800), ((2, 1, 1), 10, 2000), ((2, 2, 1), 20, 2000), ((4, 2, 1), 10, 1000))
_FORMULA = "(x0^3-1)/(x0-1)+sin(x0)^2*exp(2*log(x0))+tanh(atanh(x0/2)+atanh(x0/3))"


def search_work(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Units and seconds of processor time of the parts that a search consists of, the median of five rounds or less."""
    generator = np.random.default_rng(seed)
    t = generator.uniform(0.1, 4.0, 800)
    cases: dict[str, Callable[[], object]] = {}
    for shape, intervals, count in _NETWORKS:
        x = generator.uniform(-1, 1, (count, shape[0]))
        y = np.sin(3 * x.sum(axis=1)) + 0.1 * generator.normal(size=count)
        graph = kan_shape(shape, x, y, intervals, 3, generator)
        settings = RefitSettings(steps=8, gain=0.0, patience=99)
        name = "refit of " + "-".join(map(str, shape)) + f", {intervals} intervals, {count} points"
        cases[name] = partial(refit, graph, x, y, settings)
    curve, hard = np.sin(1.1 * t) + 0.3 * t**2.3, np.sin(t) ** 3 * np.log(1 + t**2) + np.tanh(t)
    cases["candidates of an edge"] = lambda: match_edge(t, curve, choose(None))
    cases["formulas of an edge"] = lambda: match_formulas(t, hard, choose(None), 0.0, Budget(6.0))
    points = np.linspace(0.2, 0.9, 40)[:, None]
    cases["simplification"] = lambda: _simplified_anew(points)
    with threadpoolctl.threadpool_limits(1):
        for name, case in cases.items():
            case()
            measured = [_measured(case) for _ in range(min(cfg.rounds, 5))]
            units = float(np.median([each[0] for each in measured]))
            seconds = float(np.median([each[1] for each in measured]))
            yield Row(
                "work",
                {
                    "case": name,
                    "units": units,
                    "seconds": seconds,
                    "seconds_per_unit": seconds / units,
                },
            )


def _simplified_anew(points: np.ndarray) -> sympy.Expr:
    """As in a run of its own: sympy remembers what it has simplified."""
    sympy.core.cache.clear_cache()
    return simplify_expression(parse(_FORMULA), ["x0"], points)


def _measured(case: Callable[[], object]) -> tuple[float, float]:
    budget, began = Budget(np.inf), time.process_time()
    case()
    return budget.used, time.process_time() - began


LM, LM_ONCE, LBFGS = "kanrun LM", "kanrun LM, one start", "kanrun LBFGS"
#: What is imported by each of the others.
PACKAGE = {PYKAN: "pykan", JAX_ADAM: "jaxkan", JAX_LBFGS: "jaxkan"}


def race(cfg: BenchConfig, seed: int) -> dict[str, Callable[[], Curve]]:
    """The runners of the race, by name."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    dataset = problem.dataset
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    assert dataset.test is not None
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
    return {
        LM: lambda: _ours(LMSolver(), problem, track),
        LM_ONCE: lambda: _ours(LMSolver(n_starts=1, select_width=False), problem, track),
        LBFGS: lambda: _ours(LBFGSSolver(), problem, track),
        PYKAN: lambda: curve(PYKAN, replace(track, limit=cfg.pykan_seconds)),
        JAX_ADAM: lambda: curve(JAX_ADAM, track),
        JAX_LBFGS: lambda: curve(JAX_LBFGS, track),
    }


def _ours(solver: Any, problem: Any, track: Race) -> Curve:
    model = KANConfig(hidden=[5], intervals=list(track.intervals))
    plan, _ = make_plan(model, solver, problem)
    for event in train(
        factory(model, problem, plan.solver), problem.data, plan, generator(track.seed, "training")
    ):
        error = event.errors.test if isinstance(event, Step) else None
        if error is not None:
            yield event.seconds, error
        if event.seconds > track.limit or (error is not None and error <= track.goal):
            return


def layers(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """A training step of every layer by every competitor; ratios are to the faster of kanrun's own."""
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
                failed[name] = why_not(name, error)
        times = in_turn(steps, cfg.rounds, cfg.case_seconds)
        best = min(ours, key=lambda name: float(np.nanmedian(times[name])))
        rows = [_layer_row(case, name, times, best, failed) for name in competitors]
        yield from (Row("layers", row) for row in rows)
        others = ", ".join(_ratio(row) for row in rows if row["competitor"] != best)
        yield Note(f"{case.name}: {best} {1e3 * float(np.nanmedian(times[best])):.3g} ms; {others}")


def why_not(peer: str, error: Exception) -> str:
    """What a peer raised, in a few words: that is its result."""
    if not isinstance(error, ModuleNotFoundError):
        return f"failed: {type(error).__name__}"
    return "not installed" if missing(peer) else f"lacks {error.name}"


def _layer_row(
    case: LayerCase, name: str, times: Mapping[str, Any], best: str, failed: Mapping[str, str]
) -> dict[str, Any]:
    row = {"case": case.name, "batch": case.batch, "inputs": case.inputs, "outputs": case.outputs}
    row |= {
        "intervals": case.intervals,
        "competitor": name,
        "version": version(name),
        "status": failed.get(name, "ok"),
    }
    if name in failed:
        return (
            row
            | dict.fromkeys(("seconds", "ratio", "ratio_least", "ratio_most"), float("nan"))
            | {"rounds": 0}
        )
    ratios = times[name] / times[best]
    low, middle, high = np.nanpercentile(ratios, [10, 50, 90])
    values = {"seconds": float(np.nanmedian(times[name])), "ratio": float(middle)}
    return (
        row
        | values
        | {
            "ratio_least": float(low),
            "ratio_most": float(high),
            "rounds": int(np.isfinite(times[name]).sum()),
        }
    )


def _ratio(row: Mapping[str, Any]) -> str:
    return (
        f"{row['competitor']} {row['ratio']:.2f}x"
        if row["status"] == "ok"
        else f"{row['competitor']} {row['status']}"
    )


def growth(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """Step time and peak memory against the grid and against the batch, and the powers that the times grow as."""
    dtype, (inputs, outputs) = PRECISIONS[cfg.precision], cfg.growth_shape
    last = min(1000, max(cfg.growth_intervals))
    sweeps = {
        "intervals": {
            g: LayerCase(cfg.growth_batch, inputs, outputs, g) for g in cfg.growth_intervals
        },
        "batch": {b: LayerCase(b, inputs, outputs, last) for b in cfg.growth_batches},
    }
    found: list[dict[str, Any]] = []
    for varied, cases in sweeps.items():
        steps = {str(value): build(OURS, case, dtype) for value, case in cases.items()}
        times = in_turn(steps, cfg.rounds, cfg.case_seconds)
        for value, case in cases.items():
            held = our_layer(case, dtype).coefficients
            bytes_held = held.numel() * held.element_size()
            found.append(
                {
                    "varied": varied,
                    "value": value,
                    "seconds": float(np.nanmedian(times[str(value)])),
                    "peak_bytes": bytes_held + peak_bytes(steps[str(value)]),
                    "coefficient_bytes": bytes_held,
                }
            )
            yield Row("growth", found[-1])
    for fit in exponents(DataFrame(found)).to_dict("records"):
        yield Row("exponents", {str(name): value for name, value in fit.items()})


def exponents(table: DataFrame) -> DataFrame:
    """The fitted power of the step time, a row for what was varied: over the upper half of its values, low to high."""
    upper = [rows.iloc[len(rows) // 2 :] for _, rows in table.groupby("varied", sort=False)]
    return statistics.exponents(concat(upper), ["varied"], "value", "seconds")


def time_to_accuracy(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Seconds until each error is reached on fresh points, by ours and by others."""
    for name, start in race(cfg, seed).items():
        if time_limit_reached():
            break
        peer = PACKAGE.get(name, name)
        best, seconds, status, reached = (
            float("inf"),
            0.0,
            "ok",
            dict.fromkeys(cfg.errors, float("nan")),
        )
        try:
            for seconds, error in start():
                yield Row(
                    "time_to_accuracy", {"competitor": name, "seconds": seconds, "test_rmse": error}
                )
                best = min(best, error)
                reached |= {
                    goal: seconds
                    for goal in cfg.errors
                    if error <= goal and np.isnan(reached[goal])
                }
        except PeerFailed as failure:
            lacks = f"lacks {failure.module}" if failure.module else str(failure)
            status = "not installed" if missing(peer) else lacks
        for goal, taken in reached.items():
            result: dict[str, Any] = {
                "competitor": name,
                "version": version(peer),
                "error": goal,
                "seconds": taken,
            }
            result |= {"status": status}
            yield Row("accuracy", result | {"best": best, "trained": seconds})
        yield Note(
            f"{name}: {best:.3g} after {seconds:.3g} s" if status == "ok" else f"{name}: {status}"
        )


PARTS: dict[str, Callable[[BenchConfig, int], Iterator[Record]]] = {
    "layers": layers,
    "growth": growth,
    "time_to_accuracy": time_to_accuracy,
    "startup": lambda cfg, _: startup(min(cfg.rounds, 5)),
}
