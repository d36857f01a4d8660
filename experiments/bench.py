"""How fast kanrun is, measured side by side with other KAN libraries and an MLP of the same number of parameters.

Reproduces no figure of a paper; it is the record behind every sentence about speed. Parts: `layers` (a training step of
one layer), `growth` (its time and memory against the grid and the batch), `time_to_accuracy` (the toy function of
arXiv 2404.19756, Figure 2.3) and `startup` (the command itself). Layers are measured in one process, in turn, and
compared by medians over rounds. Peers that are not installed (`pip install 'kanrun[peers]'`) are named as such, and
nothing is claimed about them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.config import BenchConfig
from kanrun.figures import bench as drawings
from kanrun.runs import Claim
from kanrun.runs.records import Note, Record, Row
from kanrun.study.bench import claims as judge
from kanrun.study.bench import settings as study
from kanrun.study.bench.accuracy import PACKAGE, race
from kanrun.study.bench.clock import in_turn, peak_bytes
from kanrun.study.bench.layers import COMPILED, MLP_NAME, OURS, Case, build, missing, our_layer, version
from kanrun.study.bench.peers import PeerFailed
from kanrun.study.bench.startup import startup
from kanrun.study.problem import PRECISIONS


def check(cfg: BenchConfig) -> None:
    study.check(cfg, PARTS)


def cells(cfg: BenchConfig) -> list[dict[str, Any]]:
    """One cell, so that nothing runs beside what is measured."""
    return [{"part": cfg.part}]


def run(cfg: BenchConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    yield Row(
        "machine", {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    )
    for name, part in PARTS.items():
        if cell["part"] in ("all", name):
            yield Note(f"measuring {name}")
            yield from part(cfg, seed)


def layers(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """A training step of every layer by every competitor; ratios are to the faster of kanrun's own."""
    endings = ("", COMPILED) if cfg.compiled else ("",)
    ours = [OURS + ending for ending in endings]
    competitors = [*ours, *(MLP_NAME + ending for ending in endings), *cfg.peers]
    for numbers in cfg.layers:
        case, steps, failed = Case(*numbers), {}, {}
        for name in competitors:
            try:
                steps[name] = build(name, case, PRECISIONS[cfg.precision])
            except Exception as error:
                if name not in cfg.peers:
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


def _layer_row(case: Case, name: str, times: Mapping[str, Any], best: str, failed: Mapping[str, str]) -> dict[str, Any]:
    row = {"case": case.name, "batch": case.batch, "inputs": case.inputs, "outputs": case.outputs}
    row |= {"intervals": case.intervals, "competitor": name, "version": version(name), "status": failed.get(name, "ok")}
    if name in failed:
        return row | dict.fromkeys(("seconds", "ratio", "ratio_least", "ratio_most"), float("nan")) | {"rounds": 0}
    ratios = times[name] / times[best]
    low, middle, high = np.nanpercentile(ratios, [10, 50, 90])
    values = {"seconds": float(np.nanmedian(times[name])), "ratio": float(middle)}
    return row | values | {
        "ratio_least": float(low), "ratio_most": float(high), "rounds": int(np.isfinite(times[name]).sum()),
    }  # fmt: skip


def _ratio(row: Mapping[str, Any]) -> str:
    return (
        f"{row['competitor']} {row['ratio']:.2f}x" if row["status"] == "ok" else f"{row['competitor']} {row['status']}"
    )


def growth(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """Step time and peak memory against the grid and against the batch, and the powers that the times grow as."""
    dtype, (inputs, outputs) = PRECISIONS[cfg.precision], cfg.growth_shape
    last = min(1000, max(cfg.growth_intervals))
    sweeps = {
        "intervals": {g: Case(cfg.growth_batch, inputs, outputs, g) for g in cfg.growth_intervals},
        "batch": {b: Case(b, inputs, outputs, last) for b in cfg.growth_batches},
    }
    found: list[dict[str, Any]] = []
    for varied, cases in sweeps.items():
        steps = {str(value): build(OURS, case, dtype) for value, case in cases.items()}
        times = in_turn(steps, cfg.rounds, cfg.case_seconds)
        for value, case in cases.items():
            held = our_layer(case, dtype).coefficients
            bytes_held = held.numel() * held.element_size()
            found.append({
                "varied": varied, "value": value, "seconds": float(np.nanmedian(times[str(value)])),
                "peak_bytes": bytes_held + peak_bytes(steps[str(value)]), "coefficient_bytes": bytes_held,
            })  # fmt: skip
            yield Row("growth", found[-1])
    for fit in judge.exponents(DataFrame(found)).to_dict("records"):
        yield Row("exponents", {str(name): value for name, value in fit.items()})


def time_to_accuracy(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Seconds until each error is reached on fresh points, by ours and by others."""
    for name, start in race(cfg, seed).items():
        peer = PACKAGE.get(name, name)
        best, seconds, status, reached = float("inf"), 0.0, "ok", dict.fromkeys(cfg.errors, float("nan"))
        try:
            for seconds, error in start():
                yield Row("time_to_accuracy", {"competitor": name, "seconds": seconds, "test_rmse": error})
                best = min(best, error)
                reached |= {goal: seconds for goal in cfg.errors if error <= goal and np.isnan(reached[goal])}
        except PeerFailed as failure:
            lacks = f"lacks {failure.module}" if failure.module else str(failure)
            status = "not installed" if missing(peer) else lacks
        for goal, taken in reached.items():
            result: dict[str, Any] = {"competitor": name, "version": version(peer), "error": goal, "seconds": taken}
            result |= {"status": status}
            yield Row("accuracy", result | {"best": best, "trained": seconds})
        yield Note(f"{name}: {best:.3g} after {seconds:.3g} s" if status == "ok" else f"{name}: {status}")


PARTS: dict[str, Callable[[BenchConfig, int], Iterator[Record]]] = {
    "layers": layers,
    "growth": growth,
    "time_to_accuracy": time_to_accuracy,
    "startup": lambda cfg, _: startup(min(cfg.rounds, 5)),
}


def figures(tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, Figure]]:
    if "layers" in tables:
        yield "layers", drawings.ratios(tables["layers"])
    if "growth" in tables:
        yield "growth", drawings.growth(tables["growth"], tables["exponents"])
    if "time_to_accuracy" in tables:
        goals = sorted(tables["accuracy"]["error"].unique())
        yield "time_to_accuracy", drawings.error_against_time(tables["time_to_accuracy"], goals)


def claims(tables: Mapping[str, DataFrame]) -> list[Claim]:
    return judge.all_claims(tables)
