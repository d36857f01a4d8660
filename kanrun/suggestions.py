"""Suggestions for a name that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_names(name: object, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """Those of the known names that resemble `name` (case aside) by at least `cutoff`, the nearest first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), list(by_folded), n=most, cutoff=cutoff)
    return [by_folded[folded] for folded in close]


def near(name: object, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> str:
    """ "; did you mean ...?" with the known names that resemble `name`, or ""."""
    close = near_names(name, known, most, cutoff)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def one_letter_off(name: str, other: str) -> bool:
    """Whether one letter too many, too few, wrong, or two letters swapped make `name` of `other`."""
    if name == other or abs(len(name) - len(other)) > 1:
        return False
    at = next(
        (i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b),
        min(len(name), len(other)),
    )
    rest, others = name[at:], other[at:]
    return (
        rest[1:] == others
        or rest == others[1:]
        or rest[1:] == others[1:]
        or _swapped(rest) == others
    )


def _swapped(text: str) -> str:
    return text[1:2] + text[:1] + text[2:]
