"""Text that a spreadsheet would run as a formula, and the apostrophe that prevents it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"(?:[=@\t\r]|[+-](?!{_NUMBER}\Z|inf\Z|nan\Z))")
_MARKED = re.compile(rf"'+{_FORMULA.pattern}")
_FIRST = frozenset("=@+-\t\r")


def as_text(value: str) -> str:
    """Return `value` so that spreadsheets show it; without one apostrophe it is `value` again."""
    return f"'{value}" if _FORMULA.match(value) or _MARKED.match(value) else value


def formulas_in(values: Sequence[Any]) -> int:
    """Count the values that a spreadsheet would run."""
    return sum(
        v[:1] in _FIRST and _FORMULA.match(v) is not None for v in values if isinstance(v, str)
    )
