"""What refuses a call is a whole sentence, in every file that the command line leads through."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("cli", "config", "launch", "runs", "targets", "study/curves")
FILES = sorted(path for room in ROOMS for path in (ROOT / "kanrun" / room).glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_end_with_a_full_stop(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "UsageError"
        ):
            text = call.args[0]
            last = text.values[-1] if isinstance(text, ast.JoinedStr) else text
            if isinstance(last, ast.Constant):
                assert last.value.endswith((".", "?")), f"line {call.lineno}: {last.value}"
