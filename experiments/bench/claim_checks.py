"""The figures that `kanrun bench` is to reach, as claims on its tables.

A sentence about another library is claimed only where that library was measured: tables and notes say which were not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from kanrun.experiments.bench.competitors import COMPILED, MLP_NAME, OURS
from kanrun.experiments.bench.measurements import LBFGS, LM, LM_ONCE
from kanrun.experiments.bench.peers import PYKAN
from pandas import DataFrame, Series

from kanrun.runs.manifest import Claim

#: Bounds: time against an MLP at G = 5 with 64 outputs, how much faster on the widest grid, G = 1000 against G = 50,
#: memory in copies of the coefficients, pykan against ours, seconds of --help.
#: All are requirements, stated before anything was measured.
#: The copies are those that a step has to hold: the coefficients; their gradient; both once more with the functions
#: first, as they are gathered from and added to.
MLP_FACTOR, WIDE_FACTOR, GROWTH, COPIES, TO_ACCURACY, HELP = 1.5, 10.0, 1.5, 4.0, 50.0, 0.2


def layer_claims(table: DataFrame) -> Iterator[Claim]:
    """Eager or compiled, whichever is faster: of kanrun's layers, which each sentence names, as of the MLP's."""
    for case, rows in table.groupby("case", sort=False):
        times = rows[rows["status"] == "ok"].set_index("competitor")
        fastest = times["ratio"].astype(float)
        ours, mlp = (
            str(fastest.filter(items=[name, name + COMPILED]).idxmin()) for name in (OURS, MLP_NAME)
        )
        peers = fastest[~fastest.index.str.removesuffix(COMPILED).isin([OURS, MLP_NAME])]
        if not peers.empty:
            sentence = f"{case}: {ours} is not slower than the fastest other KAN"
            yield _ratio(sentence, times, str(peers.idxmin()), 1.0)
        if rows["intervals"].iloc[0] == 5 and rows["outputs"].iloc[0] == 64:
            yield _ratio(
                f"{case}: {ours} takes at most {MLP_FACTOR:g} times an MLP's time",
                times,
                mlp,
                MLP_FACTOR,
            )
        if rows["intervals"].iloc[0] == 1000:
            sentence = f"{case}: {ours} is {WIDE_FACTOR:g} times faster than an MLP"
            yield _ratio(sentence, times, mlp, 1 / WIDE_FACTOR)


def _ratio(sentence: str, times: DataFrame, other: str, bound: float) -> Claim:
    """Our time over the other's, by the median of ratios within a round: a busy moment slows both."""
    middle, least, most = (_numbers(times[name]) for name in ("ratio", "ratio_least", "ratio_most"))
    ratio = 1 / middle[other]
    spread = f"{other} / it {least[other]:.2f} .. {most[other]:.2f} over rounds"
    return Claim(sentence, ratio, f"ratio at most {bound:g}", ratio <= bound, spread)


def _numbers(column: Series) -> dict[Any, float]:
    return {name: float(value) for name, value in column.astype(float).items()}


def growth_claims(table: DataFrame) -> Iterator[Claim]:
    grids = table[table["varied"] == "intervals"].set_index("value")
    seconds, peak, held = (
        _numbers(grids[name]) for name in ("seconds", "peak_bytes", "coefficient_bytes")
    )
    if {50, 1000} <= set(seconds):
        ratio = seconds[1000] / seconds[50]
        yield Claim(
            "a step at G = 1000 against G = 50", ratio, f"ratio at most {GROWTH:g}", ratio <= GROWTH
        )
        copies = (peak[1000] - peak[50]) / (held[1000] - held[50])
        sentence = "peak memory grows by copies of the coefficients alone from G = 50 to 1000"
        yield Claim(sentence, copies, f"at most {COPIES:g} copies", copies <= COPIES)


def accuracy_claims(table: DataFrame) -> Iterator[Claim]:
    goal = float(table["error"].astype(float).min())
    rows = table[(table["error"] == goal) & (table["status"] == "ok")].set_index("competitor")
    seconds, trained, best = (_numbers(rows[name]) for name in ("seconds", "trained", "best"))
    if PYKAN not in seconds:
        return
    got_there = bool(np.isfinite(seconds[PYKAN]))
    # A pykan that never got there is counted with all the time that it took: the ratio is at least that.
    theirs = seconds[PYKAN] if got_there else trained[PYKAN]
    remark = f"a lower bound: pykan stopped at {best[PYKAN]:.2g} after {trained[PYKAN]:.0f} s"
    for how, names in {
        "with its own settings": (LM, LBFGS),
        "from one start": (LM_ONCE, LBFGS),
    }.items():
        ours = [seconds[name] for name in names if np.isfinite(seconds.get(name, np.nan))]
        ratio = theirs / min(ours, default=float("inf"))
        sentence = f"kanrun, {how}, reaches a test RMSE of {goal:g} {TO_ACCURACY:g} times faster than pykan"
        bound = f"ratio at least {TO_ACCURACY:g}"
        yield Claim(sentence, ratio, bound, ratio >= TO_ACCURACY, None if got_there else remark)


def startup_claims(table: DataFrame) -> Iterator[Claim]:
    seconds = _numbers(table.set_index("command")["seconds"])["--help"]
    yield Claim(
        "kanrun --help answers in time, in seconds", seconds, f"at most {HELP:g}", seconds <= HELP
    )


def claims_of(tables: Mapping[str, DataFrame]) -> list[Claim]:
    makers = {
        "layers": layer_claims,
        "growth": growth_claims,
        "accuracy": accuracy_claims,
        "startup": startup_claims,
    }
    return [
        claim for name, make in makers.items() if name in tables for claim in make(tables[name])
    ]
