"""The statements of `kanrun solve`, judged on its recorded summary."""

from __future__ import annotations

import numpy as np
from pandas import DataFrame

from kanrun.runs import Claim

#: The true error may be this many times the change from the last grid, which estimates it.
HONEST = 10.0
#: Sought constants are claimed to lie within so many of their standard errors.
STANDARD_ERRORS = 3.0


def findings(summary: DataFrame) -> list[Claim]:
    """Claims about the first network of the settings, and how the others compare with it."""
    first = summary["network"].iloc[0]
    rows = summary[summary["network"] == first]
    solved = (rows["verdict"] == "solved").mean()
    made = [
        Claim(
            f"{first} solves {rows['equation'].iloc[0]}: share of the seeds with the verdict solved",
            float(solved), "1", bool(solved == 1.0), _spread(rows, "change", "change from the last grid"),
        )
    ]  # fmt: skip
    if rows["l2"].notna().any():
        trusted = summary[(summary["verdict"] == "solved") & summary["l2"].notna()]
        if len(trusted):
            ratio = float((trusted["l2"] / trusted["change"].clip(lower=1e-12)).max())
            sentence = (
                "the verdict solved is honest: error against the truth over the change from the last grid, at most"
            )
            made.append(
                Claim(sentence, ratio, f"<= {HONEST:g}", ratio <= HONEST, _spread(rows, "l2", "relative L2 error"))
            )
    made += [_found(rows, name.removesuffix("_true")) for name in rows.columns if name.endswith("_true")]
    return made


def _found(rows: DataFrame, name: str) -> Claim:
    left = (rows[name] - rows[f"{name}_true"]).abs() / rows[f"{name}_error"]
    share = float((left <= STANDARD_ERRORS).mean())
    values = f"{rows[name].min():.5g} .. {rows[name].max():.5g}, true {rows[f'{name}_true'].iloc[0]:.5g}"
    sentence = f"{name} is found within {STANDARD_ERRORS:g} standard errors: share of the seeds"
    return Claim(sentence, share, ">= 0.8", share >= 0.8, values)


def _spread(rows: DataFrame, column: str, what: str) -> str | None:
    values = rows[column].dropna().to_numpy(dtype=np.float64)
    return f"{what} {values.min():.1e} .. {values.max():.1e}" if len(values) else None
