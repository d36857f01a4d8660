"""The score card of a study of formulas: recovered, approximated or failed, target by target."""

from __future__ import annotations

import pandas as pd

from kanrun.runs import Claim

#: Share of a target's seeds that have to come out, and the seconds that each may take.
SHARE, SECONDS = 0.8, 60.0


def score_claims(summary: pd.DataFrame) -> list[Claim]:
    """One claim a target whose truth is known: the share of seeds that recovered it; and one on the longest time."""
    claims = []
    known = summary[summary["recovered"] != "unknown"]
    for name, rows in known.groupby("target", sort=False):
        share = float((rows["recovered"] == "yes").mean())
        spread = f"formula RMSE {rows['formula_rmse'].min():.1e} .. {rows['formula_rmse'].max():.1e}"
        claims.append(Claim(f"{name}: share of seeds that recover it", share, f">= {SHARE:g}", share >= SHARE, spread))
    if len(known):
        slowest = float(known["seconds"].max())
        sentence = "longest interpretation in seconds"
        claims.append(Claim(sentence, slowest, f"<= {SECONDS:g}", slowest <= SECONDS, None))
    return claims
