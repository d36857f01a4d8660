"""What must stay light: a listing of runs loads neither torch nor pandas."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("kanrun.runs", ["torch", "pandas", "matplotlib"]),
        ("kanrun.figures", ["torch", "matplotlib.pyplot"]),
        ("kanrun.study.execute", ["torch", "distributed", "matplotlib"]),
    ],
)
def test_importing_loads_nothing_heavy(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
