"""Claims of a study of formulas: how many are recovered, exactly, or in form if there is noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from kanrun.runs import Claim
from kanrun.study.suite import claim_at_least, claim_at_most, maximum

#: Fraction of a target's seeds that have to recover it, and the CPU seconds that each may take.
MIN_FRACTION, MAX_SECONDS = 0.8, 60.0
#: Fractions of the targets with noise to be recovered in form, and of the Feynman formulas.
NOISY, FEYNMAN = 7 / 11, 20 / 27
#: Digits that a refit from the second start has to have, and fraction of sets whose form is found.
DIGITS, FORMS = 8.0, 15 / 27
#: A sum of squares at most this many times the certified one is as good as the certified model.
AS_GOOD = 1.05


def score_claims(summary: pd.DataFrame) -> Iterator[Claim]:
    """Yield the claims on targets whose truth is known, and one on the longest time.

    Each target has a separate claim; Feynman formulas have one together, as have targets with
    noise.
    """
    known = summary[summary["recovered"] != "unknown"]
    noisy, feynman = known["noise"] > 0, known["kind"] == "feynman"
    for name, rows in known[~noisy & ~feynman].groupby("target", sort=False):
        fraction = float((rows["recovered"] == "yes").mean())
        spread = f"formula RMSE at most {maximum(rows['formula_rmse']):.2g}"
        yield claim_at_least(
            f"{name}: fraction of seeds that recover it", fraction, MIN_FRACTION, spread
        )
    for rows, column, sentence, fraction in (
        (known[~noisy & feynman], "recovered", "Feynman formulas that most seeds recover", FEYNMAN),
        (known[noisy], "same_form", "targets with noise that most seeds recover in form", NOISY),
    ):
        if len(rows):
            found = (rows[column] == "yes").groupby(
                rows["target"], sort=False
            ).mean() >= MIN_FRACTION
            others = ", ".join(map(str, found.index[~found]))
            yield _count(sentence, found, fraction, f"not: {others}" if others else None)
    if len(known):
        called = summary["outcome"].isin(["exact", "wrong"]).sum()
        sentence = f"formulas called exact that are not the truth, of {called} called exact"
        yield claim_at_most(sentence, float((summary["outcome"] == "wrong").sum()), 0)
        slowest = maximum(summary["cpu_seconds" if "cpu_seconds" in summary else "seconds"])
        yield claim_at_most("longest interpretation in CPU seconds", slowest, MAX_SECONDS)


def _count(sentence: str, found: pd.Series, fraction: float, spread: str | None = None) -> Claim:
    """Return the claim that at least this fraction of the entries of `found` is true."""
    required = math.ceil(fraction * len(found) - 1e-9)
    return claim_at_least(f"{sentence}, of {len(found)}", float(found.sum()), required, spread)


def certified_claims(certified: pd.DataFrame | None) -> Iterator[Claim]:
    """Yield the claims on sets with certified parameters: refits, and formulas that are as good."""
    if certified is None or not len(certified):
        return
    sets = certified.drop_duplicates("target")
    for start, fraction in ((2, 1), (1, 0)):
        sentence = f"sets refitted to {DIGITS:g} digits from start {start}"
        yield _count(sentence, sets[f"start_{start}_digits"] >= DIGITS, fraction)
    good = (certified["residual_ratio"] <= AS_GOOD).groupby(certified["target"]).all()
    sentence = f"sets whose formula has at most {AS_GOOD:g} times the certified sum of squares"
    yield _count(sentence, good, FORMS)
