"""The four measurements of `kanrun bench`: each yields the rows of its tables and a note on what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from kanrun.experiments.bench.accuracy import PACKAGE, race
from kanrun.experiments.bench.clock import in_turn, peak_bytes
from kanrun.experiments.bench.cold_start import startup
from kanrun.experiments.bench.competitors import COMPILED, MLP_NAME, OURS, LayerCase, build, missing, our_layer, version
from kanrun.experiments.bench.findings import exponents
from kanrun.experiments.bench.peers import PeerFailed
from pandas import DataFrame

from kanrun.config import BenchConfig
from kanrun.runs.records import Note, Record, Row
from kanrun.study.problem import PRECISIONS


def layers(cfg: BenchConfig, _: int) -> Iterator[Record]:
    """A training step of every layer by every competitor; ratios are to the faster of kanrun's own."""
    endings = ("", COMPILED) if cfg.compiled else ("",)
    ours = [OURS + ending for ending in endings]
    competitors = [*ours, *(MLP_NAME + ending for ending in endings), *cfg.peers]
    for numbers in cfg.layers:
        case, steps, failed = LayerCase(*numbers), {}, {}
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


def _layer_row(
    case: LayerCase, name: str, times: Mapping[str, Any], best: str, failed: Mapping[str, str]
) -> dict[str, Any]:
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
        "intervals": {g: LayerCase(cfg.growth_batch, inputs, outputs, g) for g in cfg.growth_intervals},
        "batch": {b: LayerCase(b, inputs, outputs, last) for b in cfg.growth_batches},
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
    for fit in exponents(DataFrame(found)).to_dict("records"):
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
