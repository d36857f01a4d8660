"""Claims of `kanrun solve`, checked on its recorded summary."""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame

from kanrun.runs import Claim
from kanrun.study.suite import claim_at_least, claim_at_most, median, value_range

#: The true error may be this many times the change from the last grid, which estimates it.
HONEST = 10.0
#: Below this, change and error are rounding: an exact formula has sixteen digits, of which a
#: solution in 1e3 numbers by normal equations keeps thirteen; references are integrated to 1e-10 to
#: 1e-13.
ROUNDING = {"exact": 1e-13, "numerical": 1e-10}
#: Unknown parameters are claimed to lie within this many standard errors, for this fraction of
#: seeds.
STANDARD_ERRORS, MIN_FRACTION = 2.0, 0.8


def claims_of(summary: DataFrame) -> Iterator[Claim]:
    """Yield the claims about the first network, or about all networks and bounds of a suite."""
    bounds = [name for name in summary if str(name).endswith("_bound")]
    bounds = [name for name in bounds if summary[name].notna().any()]
    first = summary["network"].iloc[0]
    single = summary["equation"].nunique() == 1 and not bounds
    if single:
        rows = summary[summary["network"] == first]
        sentence = (
            f"{first} solves {rows['equation'].iloc[0]}: fraction of seeds with the verdict solved"
        )
        fraction, change = float((rows["verdict"] == "solved").mean()), rows["grid_change"].dropna()
        spread = f"change from the last grid {value_range(change)}" if len(change) > 1 else None
        yield claim_at_least(sentence, fraction, 1, spread)
    yield from _honest(summary)
    for (equation, network), rows in summary.groupby(["equation", "network"], sort=False):
        for name in bounds:
            if rows[name].notna().any():
                column = str(name).removesuffix("_bound")
                sentence = f"{equation}, {network}: median {column}"
                bound, spread = float(rows[name].iloc[0]), value_range(rows[column])
                yield claim_at_most(sentence, median(rows[column]), bound, spread)
        if not single or network == first:
            yield from _found(rows)


def _honest(summary: DataFrame) -> Iterator[Claim]:
    """Claim that solutions called solved have errors as small as the change from the last grid."""
    rows = summary[summary["verdict"] == "solved"].dropna(subset=["l2", "grid_change"])
    if len(rows):
        ratios = rows["l2"] / (rows["grid_change"] + rows["reference"].map(ROUNDING))
        sentence = (
            "the verdict solved is honest: true error over the last grid's change (plus rounding)"
        )
        yield claim_at_most(sentence, ratios, HONEST, of="solutions")


def _found(rows: DataFrame) -> Iterator[Claim]:
    """Claim that unknown parameters are found within their standard errors."""
    for true in (name for name in rows if str(name).endswith("_true") and rows[name].notna().any()):
        name = str(true).removesuffix("_true")
        away = (rows[name] - rows[true]).abs() / rows[f"{name}_error"]
        fraction = float((away <= STANDARD_ERRORS).mean())
        spread = f"{rows[name].min():.5g} .. {rows[name].max():.5g}, true {rows[true].iloc[0]:.5g}"
        sentence = f"{name} is found within {STANDARD_ERRORS:g} standard errors: fraction of seeds"
        yield claim_at_least(sentence, fraction, MIN_FRACTION, spread)
