"""Claims of `kanrun bench` on its tables.

A claim about another library is made only if that library was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from kanrun.experiments.bench.layers import COMPILED, MLP_NAME, OURS
from kanrun.experiments.bench.race import LBFGS, LM, LM_ONCE, PYKAN
from pandas import DataFrame

from kanrun.runs.records import Claim
from kanrun.study.suite import claim_at_least, claim_at_most

#: Requirements, stated before anything was measured: time over an MLP's at G = SMALL with WIDTH
#: outputs, and on the widest grid; a step at G = FINEST over one at FINE; memory in copies of the
#: coefficients; pykan's time over ours; seconds of --help. A step has to hold four copies: the
#: coefficients, their gradient, and both once more with the functions first.
MLP_FACTOR, WIDE_FACTOR, GROWTH, COPIES, TO_ACCURACY, HELP = 1.5, 0.1, 1.5, 4.0, 50.0, 0.2
SMALL, WIDTH, FINE, FINEST = 5, 64, 50, 1000


def layer_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim ratios of times, of eager or compiled layers, whichever are faster.

    They are medians of ratios within a round: a busy moment slows both.
    """
    for case, rows in table.groupby("case", sort=False):
        times = rows[rows["status"] == "ok"].set_index("competitor")
        times = times[["ratio", "ratio_least", "ratio_most"]].astype(float)
        kind = times.index.str.removesuffix(COMPILED).to_series(index=times.index)
        fastest = times["ratio"].groupby(kind.where(kind.isin([OURS, MLP_NAME]), "other")).idxmin()
        intervals, outputs = rows[["intervals", "outputs"]].iloc[0]
        bounds = [("other", "the fastest other KAN's", 1.0)] if "other" in fastest else []
        if intervals == SMALL and outputs == WIDTH:
            bounds.append((MLP_NAME, "an MLP's", MLP_FACTOR))
        if intervals == FINEST:
            bounds.append((MLP_NAME, "an MLP's", WIDE_FACTOR))
        for other, whose, bound in bounds:
            middle, low, high = times.loc[fastest[other]]
            sentence = f"{case}: time of {fastest[OURS]} over {whose}"
            spread = f"inverse {low:.2f} .. {high:.2f} over rounds"
            yield claim_at_most(sentence, 1 / middle, bound, spread)


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
    table = table.astype({"error": float, "seconds": float, "trained": float, "best": float})
    goal = table["error"].min()
    rows = table[(table["error"] == goal) & (table["status"] == "ok")].set_index("competitor")
    if PYKAN not in rows.index:
        return
    theirs, remark = rows["seconds"][PYKAN], None
    if not np.isfinite(theirs):
        # All the time that it took counts: the ratio is at least that.
        theirs = rows["trained"][PYKAN]
        remark = f"a lower bound: pykan stopped at {rows['best'][PYKAN]:.2g} after {theirs:.0f} s"
    for how, names in (
        ("with its own settings", (LM, LBFGS)),
        ("from one start", (LM_ONCE, LBFGS)),
    ):
        ours = rows["seconds"].reindex(names).fillna(np.inf).min()
        sentence = f"pykan's time to a test RMSE of {goal:g} over kanrun's, {how}"
        yield claim_at_least(sentence, theirs / ours, TO_ACCURACY, remark)


def startup_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim that --help answers in time, compared with `import torch`."""
    ratio = table.set_index("command")["over_import"]
    yield claim_at_most("CPU time of kanrun --help over import torch", float(ratio["--help"]), HELP)


#: The claims of each table.
CLAIMS = {
    "layers": layer_claims,
    "growth": growth_claims,
    "accuracy": accuracy_claims,
    "startup": startup_claims,
}
