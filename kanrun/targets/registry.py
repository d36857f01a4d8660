"""The one table from a target's kind to what builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kanrun.errors import UsageError
from kanrun.near import near
from kanrun.targets.bundled import build_bundled
from kanrun.targets.data import Target
from kanrun.targets.feynman import build_feynman
from kanrun.targets.formula import build_expression
from kanrun.targets.named import build_named, build_peaks
from kanrun.targets.special import build_special
from kanrun.targets.table_dataset import build_table

BUILDERS: dict[str, Callable[[Any], Target]] = {
    "named": build_named,
    "gaussian_peaks": build_peaks,
    "expression": build_expression,
    "special": build_special,
    "feynman": build_feynman,
    "table": build_table,
    "bundled": build_bundled,
}


def build_target(config: Any) -> Target:
    """The target of one of kanrun.config's targets. Raises UsageError for anything that is not fit.

    A table is read for this, and its domain is the range of all its rows; `make_dataset` gives the target with
    the range of the training rows.
    """
    kind = getattr(config, "kind", None)
    if kind not in BUILDERS:
        raise UsageError(f"target.kind={kind!r} is unknown{near(kind, BUILDERS)}; known are {', '.join(BUILDERS)}.")
    return BUILDERS[kind](config)
