"""Suites: cells as differences from a configuration, and the bounds that their entries claim.

An entry such as `{target: {kind: named, name: runge}, bounds: {test_rmse: 1e-6, seconds: 10}}` replaces the target and
claims that the median over seeds stays at or below each bound.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import GROUPS, ExperimentConfig, check
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Row
from kanrun.study.statistics import maximum, median, value_range

Cfg = TypeVar("Cfg", bound=ExperimentConfig)
Entry = TypeVar("Entry")

BOUNDED = {
    "train_rmse": "median training RMSE",
    "validation_rmse": "median validation RMSE",
    "test_rmse": "median test RMSE",
    "seconds": "longest training in seconds",
}
#: No seed may be worse than this many times the median: users meet bad minima, and two orders of magnitude are more
#: than networks that learned the same function differ by.
WORST_OVER_MEDIAN = 100.0


def suite_cells(suite: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a suite as cells; a configuration without a suite is one cell without differences."""
    return [dict(entry) for entry in suite] or [{}]


def with_cell(cfg: Cfg, cell: Mapping[str, Any]) -> Cfg:
    """`cfg` with the cell's differences merged in, typed; a group entry that names a `kind` replaces the group.

    Raises UsageError for a key, type or kind that the configuration does not have, and for a value against its rule.
    """
    differences = {key: value for key, value in cell.items() if key != "bounds"}
    if not differences:
        return cfg
    node = OmegaConf.structured(cfg)
    for group, kinds in GROUPS.items():
        chosen = cell.get(group)
        if isinstance(chosen, Mapping) and "kind" in chosen:
            kind = kinds.find(chosen["kind"], f"{group}.kind")
            OmegaConf.update(node, group, OmegaConf.structured(kind.settings), merge=False)
    shown = OmegaConf.to_container(cell) if isinstance(cell, DictConfig) else dict(cell)
    result: Cfg = _merged(node, differences, f"{shown} does not fit the configuration")
    check(result)
    return result


def typed(settings: Entry, entry: Any, where: str) -> Entry:
    """`settings`, a dataclass, with the differences that one entry of the list `where` names, typed and checked.

    Raises UsageError for anything but a mapping, for a key or type that the settings do not have, and for a value
    against its rule.
    """
    takes = f"it takes {', '.join(sorted(one.name for one in fields(settings)))}"  # type: ignore[arg-type]
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} has {entry}, where keys with values are needed; {takes}.")
    result: Entry = _merged(
        OmegaConf.structured(settings), dict(entry), f"{where} has {dict(entry)}", f"; {takes}"
    )
    check(result, f"{where}.")
    return result


def _merged(node: Any, differences: Mapping[str, Any], begin: str, end: str = "") -> Any:
    """The dataclass of `node` with the differences; what does not fit is refused between `begin` and `end`."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(node, differences))
    except (OmegaConfBaseException, TypeError) as error:
        raise UsageError(f"{begin}: {str(error).splitlines()[0].rstrip('.')}{end}.") from error


def check_bounds(cell: Mapping[str, Any]) -> None:
    """Raise UsageError for bounds on columns that are not bounded, and for bounds that are not positive numbers."""
    bounds = cell.get("bounds", {})
    if not isinstance(bounds, Mapping):
        raise UsageError(
            f"bounds={bounds} of a suite's entry must be pairs, such as {{test_rmse: 1e-6, seconds: 10}}."
        )
    for column, bound in bounds.items():
        if column not in BOUNDED:
            raise UsageError(
                f"bounds of a suite's entry has {column}; choose from {', '.join(BOUNDED)}."
            )
        if (
            isinstance(bound, bool)
            or not isinstance(bound, int | float)
            or not 0 < bound < math.inf
        ):
            raise UsageError(
                f"bounds of a suite's entry has {column}: {bound}, which must be a positive number."
            )


def bound_rows(cell: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Row]:
    """One row per bound of `cell`, beside the value that it bounds."""
    for column, bound in cell.get("bounds", {}).items():
        label = f"{summary['target']} [{summary['shape'].replace('-', ',')}], N = {summary['train_points']}"
        yield Row(
            "bounds",
            {"label": label, "column": column, "bound": float(bound), "value": summary[column]},
        )


def bound_claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """One claim per bound over the seeds, and one that no seed is far worse than the median."""
    claims: list[Claim] = []
    if "bounds" not in tables:
        return claims
    for (label, column), rows in tables["bounds"].groupby(["label", "column"], sort=False):
        values, bound = rows["value"], float(rows["bound"].iloc[0])
        measured = maximum(values) if column == "seconds" else median(values)
        sentence = f"{label}: {BOUNDED[str(column)]}"
        claims.append(
            Claim(sentence, measured, f"<= {bound:g}", measured <= bound, value_range(values))
        )
        if column == "test_rmse" and len(values) > 1:
            worst = maximum(values) / max(median(values), sys.float_info.min)
            sentence = f"{label}: worst seed over the median"
            claims.append(
                Claim(
                    sentence, worst, f"<= {WORST_OVER_MEDIAN:g}", worst <= WORST_OVER_MEDIAN, None
                )
            )
    return claims
