"""CPU seconds of the commands that people wait for, over those of `import torch`.

Ratios compare machines, and hours of a busy one.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
from kanrun.experiments.bench.layers import in_turn, rows_of
from pandas import DataFrame

from kanrun.config import BenchConfig
from kanrun.errors import KanrunError
from kanrun.runs.records import Claim, Record
from kanrun.study.suite import claim_at_most

IMPORT = "import torch"
#: Arguments of `kanrun`, and the most CPU seconds over those of `import torch` that they may take,
#: stated before they were measured.
COMMANDS = {
    "--help": 0.2,
    "fit solver.steps=abc": 0.33,
    "fit": 4.5,
    "fit target.path=table.csv target.outputs=[y]": 3.3,
    "fit target=runge model=polynomial": 1.7,
    "interpret target=product": 2.3,
    "solve": 5.0,
}
#: Exit codes of commands that run, and of the refused one.
EXIT_CODES = (0, 2)
#: Rows and inputs of the table.
TABLE = (93, 7)


def startup(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Yield the median CPU seconds of each command on one thread, measured in turn."""
    commands = {IMPORT: [sys.executable, "-c", IMPORT]}
    commands |= {name: [sys.executable, "-m", "kanrun", *name.split()] for name in COMMANDS}
    timers = {name: partial(cpu_seconds, command, seed) for name, command in commands.items()}
    times = in_turn("commands", timers, cfg.rounds)
    columns = {"cpu_seconds": times.median(), "least": times.min(), "most": times.max()}
    columns["over_import"] = columns["cpu_seconds"] / columns["cpu_seconds"][IMPORT]
    yield from rows_of("startup", DataFrame(columns).rename_axis("command").reset_index())


def cpu_seconds(command: list[str], seed: int) -> float:
    """Run a command in a new folder with a table, and return its CPU seconds.

    Raises:
        KanrunError: If the command fails.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=TABLE)
    y = 2 * x[:, 0] + np.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3] + 0.3 * rng.normal(size=len(x))
    with tempfile.TemporaryDirectory() as folder:
        DataFrame(x).add_prefix("x").assign(y=y).to_csv(f"{folder}/table.csv", index=False)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in EXIT_CODES:
        raise KanrunError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def startup_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim that each command stays within its bound."""
    ratios = table.set_index("command")["over_import"]
    for name, bound in COMMANDS.items():
        sentence = f"CPU seconds of `kanrun {name}` over those of `{IMPORT}`"
        if name in ratios:
            yield claim_at_most(sentence, float(ratios[name]), bound)
