"""What a study of formulas claims: how many it recovers, exactly, or in form where there is noise."""

from __future__ import annotations

import math

import pandas as pd

from kanrun.runs import Claim
from kanrun.study.statistics import maximum

#: Share of a target's seeds that have to come out, and the seconds that each may take.
SHARE, SECONDS = 0.8, 60.0
#: Targets that have to be recovered in form where points have noise, and of the Feynman formulas.
NOISY, FEYNMAN = 7 / 11, 20 / 27


def score_claims(summary: pd.DataFrame) -> list[Claim]:
    """On the targets whose truth is known: one claim each; one on all Feynman formulas, and one on all with noise,
    counting those that most seeds recover; and one on the longest time."""
    called = summary[summary["outcome"].isin(["exact", "wrong"])]
    wrong = int((called["outcome"] == "wrong").sum())
    sentence = f"formulas called exact that are not the truth, of {len(called)} called exact"
    known = summary[summary["recovered"] != "unknown"]
    noisy = known["noise"] > 0
    feynman = known["kind"] == "feynman"
    claims = []
    for name, rows in known[~noisy & ~feynman].groupby("target", sort=False):
        share = float((rows["recovered"] == "yes").mean())
        largest = maximum(rows["formula_rmse"])
        spread = f"formula RMSE at most {largest:.2g}"
        claims.append(
            Claim(
                f"{name}: share of seeds that recover it",
                share,
                f"at least {SHARE:g}",
                share >= SHARE,
                spread,
            )
        )
    every = known[~noisy & feynman]
    if len(every):
        claims.append(
            _count(every, "recovered", "Feynman formulas that most seeds recover", FEYNMAN)
        )
    if noisy.any():
        claims.append(
            _count(
                known[noisy],
                "same_form",
                "targets with noise that most seeds recover in form",
                NOISY,
            )
        )
    if len(known):
        claims.append(Claim(sentence, wrong, "at most 0", wrong == 0, None))
    if len(summary):
        slowest = maximum(summary["cpu_seconds" if "cpu_seconds" in summary else "seconds"])
        sentence = "longest interpretation in CPU seconds"
        claims.append(Claim(sentence, slowest, f"at most {SECONDS:g}", slowest <= SECONDS, None))
    return claims


def _count(rows: pd.DataFrame, column: str, sentence: str, least: float) -> Claim:
    """How many targets come out in at least SHARE of their seeds, and which do not."""
    shares = (rows[column] == "yes").groupby(rows["target"], sort=False).mean()
    came, bound = int((shares >= SHARE).sum()), math.ceil(least * len(shares) - 1e-9)
    others = [str(name) for name, share in shares.items() if share < SHARE]
    spread = f"not: {', '.join(others)}" if others else None
    return Claim(f"{sentence}, of {len(shares)}", came, f"at least {bound}", came >= bound, spread)


#: Digits that a refit from the second start has to have, and the share of sets whose form has to be found.
DIGITS, FORMS = 8.0, 15 / 27
#: A sum of squares that much above the certified one is that of a formula as good as the certified model.
AS_GOOD = 1.05


def certified_claims(certified: pd.DataFrame | None) -> list[Claim]:
    """On sets with certified parameters: how many refits reach them from each start, and how many formulas found are
    as good as the certified model."""
    if certified is None or not len(certified):
        return []
    sets = certified.drop_duplicates("target")
    claims = []
    for start, least in ((2, len(sets)), (1, 0)):
        came = int((sets[f"start_{start}_digits"] >= DIGITS).sum())
        sentence = f"sets refitted to {DIGITS:g} digits from start {start}, of {len(sets)}"
        claims.append(Claim(sentence, came, f"at least {least}", came >= least, None))
    good = int((certified["residual_ratio"] <= AS_GOOD).groupby(certified["target"]).all().sum())
    least = math.ceil(FORMS * len(sets) - 1e-9)
    sentence = f"sets whose formula has at most {AS_GOOD:g} times the certified sum of squares, of {len(sets)}"
    return [*claims, Claim(sentence, good, f"at least {least}", good >= least, None)]
