"""The statements of `kanrun solve`, judged on its recorded summary."""

from __future__ import annotations

import numpy as np
from pandas import DataFrame

from kanrun.runs import Claim

#: The true error may be this many times the change from the last grid, which estimates it.
HONEST = 10.0
#: Below this the change and the error are rounding: an exact formula has sixteen digits, of which a solution in 1e3
#: numbers by normal equations keeps thirteen; references are integrated to tolerances of 1e-10 to 1e-13.
ROUNDING = {"exact": 1e-13, "numerical": 1e-10}
#: Sought constants are claimed to lie within so many of their standard errors.
STANDARD_ERRORS = 2.0


def findings(summary: DataFrame) -> list[Claim]:
    """Claims about the first network of the settings; in a suite about the bounds of its entries too."""
    bounded = [
        name for name in summary.columns if name.endswith("_bound") and summary[name].notna().any()
    ]
    if summary["equation"].nunique() > 1 or bounded:
        return [*_honest(summary), *_within(summary, bounded)]
    first = summary["network"].iloc[0]
    rows = summary[summary["network"] == first]
    solved = (rows["verdict"] == "solved").mean()
    made = [
        Claim(
            f"{first} solves {rows['equation'].iloc[0]}: share of the seeds with the verdict solved",
            float(solved),
            "1",
            bool(solved == 1.0),
            _spread(rows, "grid_change", "change from the last grid"),
        )
    ]
    made += _honest(summary)
    made += [
        _found(rows, name.removesuffix("_true")) for name in rows.columns if name.endswith("_true")
    ]
    return made


def _honest(summary: DataFrame) -> list[Claim]:
    """Whether what was called solved has errors as small as the change from the last grid says."""
    trusted = summary[
        (summary["verdict"] == "solved") & summary["l2"].notna() & summary["grid_change"].notna()
    ]
    if not len(trusted):
        return []
    ratio = float(
        (trusted["l2"] / (trusted["grid_change"] + trusted["reference"].map(ROUNDING))).max()
    )
    sentence = (
        "the verdict solved is honest: error against the truth over the change from the last grid (and the rounding of "
        "either), at most"
    )
    spread = _spread(trusted, "l2", "relative L2 error")
    return [Claim(sentence, ratio, f"at most {HONEST:g}", ratio <= HONEST, spread)]


def _within(summary: DataFrame, bounded: list[str]) -> list[Claim]:
    """Medians over seeds of each equation and network against its bounds; constants that were sought."""
    made = []
    for (equation, network), rows in summary.groupby(["equation", "network"], sort=False):
        for name in bounded:
            if rows[name].notna().any():
                value, bound = (
                    float(rows[name.removesuffix("_bound")].median()),
                    float(rows[name].iloc[0]),
                )
                sentence = f"{equation}, {network}: median {name.removesuffix('_bound')}"
                spread = _spread(rows, name.removesuffix("_bound"), "from")
                made.append(Claim(sentence, value, f"at most {bound:g}", value <= bound, spread))
        sought = [name.removesuffix("_true") for name in rows.columns if name.endswith("_true")]
        made += [_found(rows, name) for name in sought if rows[f"{name}_true"].notna().any()]
    return made


def _found(rows: DataFrame, name: str) -> Claim:
    left = (rows[name] - rows[f"{name}_true"]).abs() / rows[f"{name}_error"]
    share = float((left <= STANDARD_ERRORS).mean())
    values = (
        f"{rows[name].min():.5g} .. {rows[name].max():.5g}, true {rows[f'{name}_true'].iloc[0]:.5g}"
    )
    sentence = f"{name} is found within {STANDARD_ERRORS:g} standard errors: share of the seeds"
    return Claim(sentence, share, "at least 0.8", share >= 0.8, values)


def _spread(rows: DataFrame, column: str, what: str) -> str | None:
    values = rows[column].dropna().to_numpy(dtype=np.float64)
    return f"{what} {values.min():.1e} .. {values.max():.1e}" if len(values) else None
