"""How long the command takes to say something, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from kanrun.runs.records import Row

ENTRY = "import sys; from kanrun.cli.app import main; sys.exit(main())"
COMMANDS = {
    "--help": ["--help"],
    "fit --cfg job": ["fit", "--cfg", "job"],
    "fit of one line": [
        "fit", "target=expression", "target.formula=x0", "model.hidden=[]", "model.intervals=[3]", "sampling.train=20",
        "sampling.test=20",
    ],
}  # fmt: skip


def startup(rounds: int) -> Iterator[Row]:
    """Rows of the table `startup`: the median, fastest and slowest of `rounds` runs of each command, in turn."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, arguments in COMMANDS.items():
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", ENTRY, *arguments],
                    cwd=folder, capture_output=True, check=False, env=os.environ | {"NO_COLOR": "1"},
                )  # fmt: skip
                taken[name].append(time.perf_counter() - began if done.returncode == 0 else float("nan"))
    for name, seconds in taken.items():
        values = {"seconds": float(np.median(seconds)), "least": min(seconds), "most": max(seconds)}
        yield Row("startup", {"command": name, **values})
