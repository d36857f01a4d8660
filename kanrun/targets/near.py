"""Suggestions for a name that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: object, known: Iterable[str]) -> str:
    """ "; did you mean ...?" with the known names that resemble `name` (case aside), or ""."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), list(by_folded), n=3)
    return f"; did you mean {' or '.join(by_folded[folded] for folded in close)}?" if close else ""
