"""Measure times in turn: of training steps of a layer, and of whole commands.

`layers` measures training steps (forward and backward) of every competitor. `startup` measures the
CPU seconds of common commands, divided by those of `import torch`, because ratios can be compared
between machines, and on a busy machine.

The competitors take turns, round after round, so a busy machine slows all of them equally. Their
order rotates, and each turn begins with a step that is not timed, so that no competitor is slowed
by what the previous competitor left in the caches. A step on another device ends when that device
has finished its work. The optional libraries pykan and inkan are called through their public
layers. If a layer cannot be built, the reason is recorded.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata, util
from timeit import repeat
from typing import Any

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor, nn

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.engine.splines import uniform_breakpoints
from kanrun.errors import KanrunError
from kanrun.model.planning import PRECISIONS
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.runs.records import Claim, Note, Records, Row
from kanrun.study.resources import device_of
from kanrun.study.suite import claim_at_most

from .config import BenchConfig

Step = Callable[[], Any]

#: Edge functions of the layers that are measured.
SPEC = EdgeSpec(base="silu")
#: Approximate duration of a competitor's turn (seconds).
TURN_SECONDS = 0.05
#: Largest number of steps in a turn.
MOST_STEPS = 100
#: Number of steps before the first round. They only determine the number of steps in a turn.
WARM_UP = 3
#: Smallest number of rounds of a case, however long they take.
FEWEST_ROUNDS = 3
#: Level of the lower quantile of the ratios of times, over rounds; it is recorded with the median.
LOW = 0.1
#: Level of the upper quantile of the ratios of times, over rounds; it is recorded with the median.
HIGH = 0.9
OURS = "kanrun"
MLP_NAME = "MLP"
#: Claimed largest ratio of a KAN layer's time to an MLP's, for coarse grids and WIDTH outputs. It
#: was fixed before anything was measured.
MLP_FACTOR = 1.5
#: Claimed largest ratio of a KAN layer's time to an MLP's on the finest grid. It was fixed before
#: anything was measured.
WIDE_FACTOR = 0.1
#: Number of intervals of the layers to which MLP_FACTOR applies.
SMALL = 5
#: Number of outputs of the layers to which MLP_FACTOR applies.
WIDTH = 64
#: Number of intervals of the layers to which WIDE_FACTOR applies.
FINEST = 1000
#: Suffix of the names of competitors that run under torch.compile.
COMPILED = " compiled"
#: Module that is imported for each library.
MODULES = {"pykan": "kan", "inkan": "inkan"}

IMPORT = "import torch"
#: Arguments of `kanrun`, with the claimed largest ratio of the command's CPU seconds to those of
#: `import torch`. The ratio was fixed before anything was measured.
COMMANDS = {
    "--help": 0.2,
    "fit solver.steps=abc": 0.33,
    "fit": 4.5,
    "fit target.path=table.csv target.outputs=[y]": 3.3,
    "fit target=runge model=polynomial": 1.7,
    "interpret target=product": 2.3,
    "solve": 5.0,
}
#: Accepted exit codes: of commands that succeed, and of the one with an invalid setting.
EXIT_CODES = (0, 2)
#: Numbers of rows and of inputs of the table on which commands run.
TABLE = (93, 7)


@dataclass(frozen=True)
class LayerCase:
    """A layer, and the batch of inputs with which its training steps are timed."""

    batch: int
    inputs: int
    outputs: int
    intervals: int

    @property
    def name(self) -> str:
        return f"{self.batch}, {self.inputs} to {self.outputs}, G = {self.intervals}"

    @property
    def parameters(self) -> int:
        """Number of parameters: E (G + k + 2) for E edges, G intervals, degree k, both scales."""
        return self.inputs * self.outputs * (self.intervals + SPEC.degree + 2)


def layers(cfg: BenchConfig, _: int) -> Records:
    """Yield the time of a training step for every layer and competitor.

    Times are also given relative to the faster of kanrun's eager and compiled layers.
    """
    endings = ("", COMPILED) if cfg.compiled else ("",)
    ours = [OURS + ending for ending in endings]
    competitors = [*ours, *(MLP_NAME + ending for ending in endings), *cfg.libraries]
    device = device_of(cfg)
    for place, numbers in enumerate(cfg.layers, 1):
        if time_limit_reached():
            break
        case = LayerCase(*numbers)
        steps = {}
        failed = dict[str, str]()
        torch.compiler.reset()  # without this, later cases would be compiled for dynamic sizes
        for name in competitors:
            try:
                steps[name] = timer(build(name, case, PRECISIONS[cfg.precision], device))
            except Exception as error:
                if name not in cfg.libraries:
                    raise
                failed[name] = short_reason(name, error)
        part = f"layer {place} of {len(cfg.layers)}"
        times = in_turn(part, steps, cfg.rounds, cfg.case_seconds)
        times = times.reindex(columns=competitors)
        best = str(times[ours].median().idxmin())
        ratios = times.div(times[best], axis="index")
        seconds = times.median()
        low, middle, high = (ratios.quantile(share) for share in (LOW, 0.5, HIGH))
        columns = {
            "competitor": competitors,
            "version": [version(name) for name in competitors],
            "status": [failed.get(name, "ok") for name in competitors],
            "seconds": seconds,
            "ratio": middle,
            "ratio_least": low,
            "ratio_most": high,
            "rounds": times.count(),
        }
        for row in rows_of("layers", DataFrame(columns)):
            yield Row("layers", {"case": case.name, "device": device, **vars(case), **row.values})
        told = {name: failed.get(name, f"{middle[name]:.2f}x") for name in competitors}
        results = ", ".join(f"{name} {text}" for name, text in told.items())
        yield Note(f"{case.name}: {best} {1e3 * seconds[best]:.3g} ms; times over that: {results}")


def rows_of(name: str, table: DataFrame) -> Iterator[Row]:
    """Yield each row of a table as a record of the table `name`."""
    rows: Any = table.to_dict("records")
    return (Row(name, row) for row in rows)


def timer(step: Step) -> Callable[[], float]:
    """Return a function that measures the median duration of `step` during a turn, in seconds."""
    expected = min(repeat(step, number=1, repeat=WARM_UP))
    count = int(np.clip(TURN_SECONDS / expected, 1, MOST_STEPS))
    return lambda: float(np.median(repeat(step, number=1, repeat=count + 1)[1:]))


def in_turn(
    part: str, timers: Mapping[str, Callable[[], float]], rounds: int, seconds: float = np.inf
) -> DataFrame:
    """Call all timers in turn, and return their results, one row per round.

    There are at most `rounds` rounds. After FEWEST_ROUNDS of them, no further round begins once
    `seconds` have passed. The time limit of the run ends them after any round. `part` names the
    measurement in progress messages.
    """
    rows = list[dict[str, float]]()
    began = time.perf_counter()
    names = list(timers)
    for number in range(rounds):
        late = number >= FEWEST_ROUNDS and time.perf_counter() - began > seconds
        if late or (number and time_limit_reached()):
            break
        report_progress(part, number, rounds)
        start = number % len(names)
        rows.append({name: timers[name]() for name in names[start:] + names[:start]})
    return DataFrame(rows, columns=names)


def version(competitor: str) -> str:
    """Return the installed version of a competitor's library, or "" if there is none."""
    package = competitor.removesuffix(COMPILED)
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package) if package in MODULES else ""
    return ""


def short_reason(competitor: str, error: Exception) -> str:
    """Describe in a few words why a library failed, such as "not installed"."""
    if not isinstance(error, ModuleNotFoundError):
        return f"failed: {type(error).__name__}"
    lacks = util.find_spec(MODULES[competitor.removesuffix(COMPILED)]) is None
    return "not installed" if lacks else f"lacks {error.name}"


@contextlib.contextmanager
def foreign_code(dtype: torch.dtype) -> Iterator[None]:
    """Prepare torch for other libraries in the body, and restore it afterwards.

    The global random generator is seeded, `dtype` is the default type, and standard output is
    discarded.
    """
    before = torch.get_default_dtype()
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def build(competitor: str, case: LayerCase, dtype: torch.dtype, device: str) -> Step:
    """Return a function that does one training step of a competitor's layer.

    It is called once, so that errors of the library are raised here.
    """
    with foreign_code(dtype):
        x = (2 * torch.rand(case.batch, case.inputs, dtype=dtype) - 1).to(device)
        g = torch.rand(case.batch, case.outputs, dtype=dtype).to(device)
        layer = LAYERS[competitor.removesuffix(COMPILED)](case, dtype).to(device)
        step = _step(layer, x, g, compiled=competitor.endswith(COMPILED))
    step()  # raises an error if the layer cannot run
    return step


def our_layer(case: LayerCase, dtype: torch.dtype) -> SplineLayer:
    ends = torch.ones(case.inputs, dtype=dtype)
    edges = uniform_breakpoints(-ends, ends, case.intervals)
    layer = SplineLayer.on_grid(edges, case.outputs, SPEC, uniform=True)
    initialise(layer, "paper", torch.Generator().manual_seed(0))
    return layer


def mlp(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    """Return an MLP with one hidden layer and about as many parameters as the KAN layer."""
    width = round((case.parameters - case.outputs) / (case.inputs + case.outputs + 1))
    hidden = nn.Linear(case.inputs, max(1, width), dtype=dtype)
    return nn.Sequential(
        hidden, nn.SiLU(), nn.Linear(hidden.out_features, case.outputs, dtype=dtype)
    )


def _peer(name: str, grid: str, **settings: Any) -> Callable[[LayerCase, torch.dtype], nn.Module]:
    """Return a function that makes a layer of the other library `name`.

    `grid` is the library's name for the number of intervals.
    """

    def layer(case: LayerCase, dtype: torch.dtype) -> nn.Module:
        kind = import_module(MODULES[name]).KANLayer
        made: nn.Module = kind(case.inputs, case.outputs, **{grid: case.intervals}, **settings)
        if name == "pykan":
            made.register_forward_hook(lambda module, inputs, outputs: outputs[0])
        return made.to(dtype)

    return layer


LAYERS: dict[str, Callable[[LayerCase, torch.dtype], nn.Module]] = {
    OURS: our_layer,
    MLP_NAME: mlp,
    "pykan": _peer("pykan", "num", k=3),
    "inkan": _peer("inkan", "grid_size", compile_basis=False),
}


def _step(layer: nn.Module, x: Tensor, g: Tensor, *, compiled: bool) -> Step:
    call = torch.compile(layer) if compiled else layer
    at = x.clone().requires_grad_()
    leaves = [at, *layer.parameters()]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(call(at), g)
        if not at.is_cpu:
            torch.accelerator.synchronize(at.device)

    return step


def layer_claims(table: DataFrame) -> Iterator[Claim]:
    """Claim bounds on the ratios of kanrun's times to those of other layers.

    If a layer was measured both eager and compiled, the faster time is compared. The ratio is the
    median over rounds of the ratio within a round, because a busy machine slows both layers of a
    round.
    """
    for case, rows in table.groupby("case", sort=False):
        times = rows[rows["status"] == "ok"].set_index("competitor")
        times = times[["ratio", "ratio_least", "ratio_most"]].astype(float)
        kind = times.index.str.removesuffix(COMPILED).to_series(index=times.index)
        fastest = times["ratio"].groupby(kind.where(kind.isin([OURS, MLP_NAME]), "other")).idxmin()
        intervals, outputs = rows[["intervals", "outputs"]].iloc[0]
        bounds = [("other", "the fastest other KAN's", 1.0)] if "other" in fastest else []
        if intervals == SMALL and outputs == WIDTH:
            bounds.append((MLP_NAME, "an MLP's", MLP_FACTOR))
        if intervals == FINEST:
            bounds.append((MLP_NAME, "an MLP's", WIDE_FACTOR))
        for other, whose, bound in bounds:
            middle, low, high = times.loc[fastest[other]]
            sentence = f"{case}: time of {fastest[OURS]} over {whose}"
            spread = f"inverse {low:.2f} .. {high:.2f} over rounds"
            yield claim_at_most(sentence, 1 / middle, bound, spread)


def startup(cfg: BenchConfig, seed: int) -> Records:
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
    """Claim that the time of each command, relative to `import torch`, is within its bound."""
    ratios = table.set_index("command")["over_import"]
    for name, bound in COMMANDS.items():
        sentence = f"CPU seconds of `kanrun {name}` over those of `{IMPORT}`"
        if name in ratios:
            yield claim_at_most(sentence, float(ratios[name]), bound)
