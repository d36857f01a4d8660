"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest_names(name: object, known: Iterable[str], max_names: int = 3) -> list[str]:
    """Return the known names that resemble `name`, ignoring case; the closest first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(
        str(name).casefold(), list(by_folded), n=max_names, cutoff=0.5
    )
    return [by_folded[folded] for folded in close]


def did_you_mean(name: object, known: Iterable[str], max_names: int = 3) -> str:
    """Return "; did you mean ...?" with the known names that resemble `name`, or ""."""
    close = closest_names(name, known, max_names)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def one_letter_off(name: str, other: str) -> bool:
    """Return whether one insertion, deletion, replacement or swap turns `name` into `other`."""
    if name == other or abs(len(name) - len(other)) > 1:
        return False
    at = next(
        (i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b),
        min(len(name), len(other)),
    )
    rest, others = name[at:], other[at:]
    swapped = rest[1:2] + rest[:1] + rest[2:]
    return others in (rest[1:], swapped) or rest == others[1:] or rest[1:] == others[1:]
