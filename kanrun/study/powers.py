"""Power laws in recorded tables: the exponent of y = c x^p by least squares in log-log."""

from __future__ import annotations

import numpy as np
import pandas as pd


def exponent(x: pd.Series, y: pd.Series) -> float:
    """p of y = c x^p; NaN where fewer than two different x have a positive y, and where a y is no finite number."""
    kept = (y > 0) & (x > 0)
    if x[kept].nunique() < 2 or not np.isfinite(y.astype(float)).all():
        return float("nan")
    return float(np.polyfit(np.log(x[kept].astype(float)), np.log(y[kept].astype(float)), 1)[0])


def exponents(table: pd.DataFrame, by: list[str], x: str, y: str) -> pd.DataFrame:
    """One row a group of `by` with `exponent`, and the range of x (`low`, `high`) that it was fitted on."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        names = dict(zip(by, key, strict=True))
        rows.append({**names, "exponent": exponent(group[x], group[y]), "low": group[x].min(), "high": group[x].max()})
    return pd.DataFrame(rows, columns=[*by, "exponent", "low", "high"])
