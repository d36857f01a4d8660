"""Claims of `kanrun bench` on its tables.

A claim about another library is made only if that library was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from kanrun.experiments.bench.competitors import COMPILED, MLP_NAME, OURS
from kanrun.experiments.bench.measurements import LBFGS, LM, LM_ONCE
from kanrun.experiments.bench.peers import PYKAN
from pandas import DataFrame, Series

from kanrun.runs.records import Claim
from kanrun.study.suite import claim_at_least, claim_at_most

#: Requirements, stated before anything was measured: time over an MLP's at G = SMALL with WIDTH
#: outputs, and on the widest grid; a step at G = FINEST over one at FINE; memory in copies of the
#: coefficients; pykan's time over ours; seconds of --help. A step has to hold four copies: the
#: coefficients, their gradient, and both once more with the functions first.
MLP_FACTOR, WIDE_FACTOR, GROWTH, COPIES, TO_ACCURACY, HELP = 1.5, 0.1, 1.5, 4.0, 50.0, 0.2
SMALL, WIDTH, FINE, FINEST = 5, 64, 50, 1000


def claims_of(tables: Mapping[str, DataFrame]) -> Iterator[Claim]:
    """Yield the claims of every part that is there."""
    for name, make in CLAIMS.items():
        if name in tables:
            yield from make(tables[name])


def layer_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim ratios of times, of eager or compiled layers, whichever are faster."""
    for case, rows in table.groupby("case", sort=False):
        times = rows[rows["status"] == "ok"].set_index("competitor")
        fastest = times["ratio"].astype(float)
        ours, mlp = (
            str(fastest.filter(items=[name, name + COMPILED]).idxmin()) for name in (OURS, MLP_NAME)
        )
        peers = fastest[~fastest.index.str.removesuffix(COMPILED).isin([OURS, MLP_NAME])]
        if not peers.empty:
            yield _ratio(
                f"{case}: time of {ours} over the fastest other KAN's",
                times,
                str(peers.idxmin()),
                1.0,
            )
        sentence = f"{case}: time of {ours} over an MLP's"
        intervals, outputs = rows[["intervals", "outputs"]].iloc[0]
        if intervals == SMALL and outputs == WIDTH:
            yield _ratio(sentence, times, mlp, MLP_FACTOR)
        if intervals == FINEST:
            yield _ratio(sentence, times, mlp, WIDE_FACTOR)


def _ratio(sentence: str, times: DataFrame, other: str, bound: float) -> Claim:
    """Return a claim on the median of ratios within a round: a busy moment slows both."""
    columns = ("ratio", "ratio_least", "ratio_most")
    middle, low, high = (_numbers(times[name])[other] for name in columns)
    return claim_at_most(
        sentence, 1 / middle, bound, f"inverse {low:.2f} .. {high:.2f} over rounds"
    )


def _numbers(column: Series) -> dict[Any, float]:
    return {name: float(value) for name, value in column.astype(float).items()}


def growth_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim how time and memory of a step grow with the grid."""
    grids = table[table["varied"] == "intervals"].set_index("value")
    if {FINE, FINEST} <= set(grids.index):
        fine, finest = (grids.loc[size].drop("varied").astype(float) for size in (FINE, FINEST))
        sentence = f"time of a step at G = {FINEST} over one at G = {FINE}"
        yield claim_at_most(sentence, finest["seconds"] / fine["seconds"], GROWTH)
        more = finest - fine
        sentence = (
            f"peak memory grows by this many copies of the coefficients, G = {FINE} to {FINEST}"
        )
        yield claim_at_most(sentence, more["peak_bytes"] / more["coefficient_bytes"], COPIES)


def accuracy_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim pykan's time over kanrun's until the smallest error is reached."""
    goal = float(table["error"].astype(float).min())
    rows = table[(table["error"] == goal) & (table["status"] == "ok")].set_index("competitor")
    seconds, trained, best = (_numbers(rows[name]) for name in ("seconds", "trained", "best"))
    if PYKAN not in seconds:
        return
    theirs, remark = seconds[PYKAN], None
    if not np.isfinite(theirs):
        # All the time that it took counts: the ratio is at least that.
        theirs = trained[PYKAN]
        remark = f"a lower bound: pykan stopped at {best[PYKAN]:.2g} after {theirs:.0f} s"
    ways = {"with its own settings": (LM, LBFGS), "from one start": (LM_ONCE, LBFGS)}
    for how, names in ways.items():
        ours = [seconds[name] for name in names if np.isfinite(seconds.get(name, np.nan))]
        ratio = theirs / min(ours, default=float("inf"))
        sentence = f"pykan's time to a test RMSE of {goal:g} over kanrun's, {how}"
        yield claim_at_least(sentence, ratio, TO_ACCURACY, remark)


def startup_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim that --help answers in time."""
    seconds = _numbers(table.set_index("command")["seconds"])["--help"]
    yield claim_at_most("seconds of kanrun --help", seconds, HELP)


CLAIMS = {
    "layers": layer_claims,
    "growth": growth_claims,
    "accuracy": accuracy_claims,
    "startup": startup_claims,
}
