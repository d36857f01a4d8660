"""Claims of a study of formulas: how many are recovered, exactly, or in form if there is noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from kanrun.runs import Claim
from kanrun.study.suite import claim_at_least, claim_at_most, maximum

#: Fraction of a target's seeds that have to recover it, and the CPU seconds that each may take.
MIN_FRACTION, MAX_SECONDS = 0.8, 60.0
#: Fractions of the targets without noise, with noise in form, and of exact formulas in an accepted
#: form.
RECOVERED, NOISY, ACCEPTED = 0.85, 7 / 11, 0.9
#: Digits that a refit from the second start has to have, and fraction of sets whose form is found.
DIGITS, FORMS = 8.0, 15 / 27
#: A sum of squares at most this many times the certified one is as good as the certified model.
AS_GOOD = 1.05


def score_claims(summary: pd.DataFrame) -> Iterator[Claim]:
    """Yield the claims on targets whose truth is known, those in view and others apart."""
    known = summary[summary["recovered"] != "unknown"]
    noisy = known["noise"] > 0
    for rows, column, sentence, fraction in (
        (known[~noisy], "recovered", "targets that most seeds recover", RECOVERED),
        (known[noisy], "same_form", "targets with noise that most seeds recover in form", NOISY),
    ):
        for view, group in rows.groupby("in_view", sort=False):
            found = (group[column] == "yes").groupby(
                group["target"], sort=False
            ).mean() >= MIN_FRACTION
            counts = group["outcome"].value_counts()
            spread = ", ".join(f"{counts.get(name, 0)} {text}" for name, text in OUTCOMES.items())
            if others := ", ".join(map(str, found.index[~found])):
                spread += f"; not: {others}"
            yield _count(sentence + VIEWS[str(view)], found, fraction, spread)
    if len(known):
        exact = known[known["outcome"] == "exact"]
        if len(exact):
            sentence = "exact formulas that are in an accepted form"
            yield _count(sentence, exact["accepted_form"] == "yes", ACCEPTED)
        called = summary["outcome"].isin(["exact", "wrong"]).sum()
        sentence = f"formulas called exact that are not the truth, of {called} called exact"
        yield claim_at_most(sentence, float((summary["outcome"] == "wrong").sum()), 0)
        seconds = summary["cpu_seconds"]
        spread = f"median {seconds.median():.3g}"
        sentence = "longest interpretation in CPU seconds"
        yield claim_at_most(sentence, maximum(seconds), MAX_SECONDS, spread)


#: Outcomes as score cards call them, and whether a target was in view when rules were chosen.
OUTCOMES = {
    "exact": "exact",
    "formula": "approximate",
    "partly numeric": "partly numeric",
    "failed": "failed",
    "wrong": "wrong",
}
VIEWS = {"yes": ", in view of the rules", "no": ", not in view of the rules", "unknown": ""}


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
