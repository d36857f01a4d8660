"""Layers under `torch.compile`: see the program that this runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_layer_gives_the_same_numbers(backend: str) -> None:
    program = Path(__file__).with_name("compiled_layers.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), backend],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all the same" in done.stdout
