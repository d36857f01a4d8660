"""Time of a training step of one layer: kanrun beside other KAN libraries and an MLP of its size.

A step is forward and backward, in single precision on one thread; times are CPU seconds. The
competitors of a layer take turns, round after round, so a busy machine slows all of them. Their
order rotates, and each turn begins with a step that is not timed, so that no competitor is slowed
by what the previous one left in the caches.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from timeit import repeat
from typing import Any

import numpy as np
import torch
from _running import arguments, chosen, run, write_table
from pandas import DataFrame
from torch import Tensor, nn

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.engine.splines import uniform_breakpoints

COMPILED = " compiled"
#: Batch, inputs, outputs and intervals of each layer that is measured.
LAYERS = {
    f"{batch}x{inputs}x{outputs}x{intervals}": (batch, inputs, outputs, intervals)
    for batch, inputs, outputs, intervals in (
        (1000, 2, 5, 5),
        (1000, 1, 1, 200),
        (1024, 64, 64, 5),
        (256, 784, 64, 5),
        (1024, 64, 64, 20),
        (1024, 16, 16, 200),
        (4096, 8, 8, 1000),
    )
}


def our_layer(inputs: int, outputs: int, intervals: int) -> nn.Module:
    """Return kanrun's layer of splines."""
    ends = torch.ones(inputs)
    edges = uniform_breakpoints(-ends, ends, intervals)
    layer = SplineLayer.on_grid(edges, outputs, EdgeSpec(base="silu"), uniform=True)
    initialise(layer, "paper", torch.Generator().manual_seed(0))
    return layer


def mlp(inputs: int, outputs: int, intervals: int) -> nn.Module:
    """Return an MLP with one hidden layer and about as many parameters as the KAN layer."""
    # An edge of degree 3 has intervals + 3 coefficients and two scales.
    parameters = inputs * outputs * (intervals + EdgeSpec().degree + 2)
    width = max(1, round((parameters - outputs) / (inputs + outputs + 1)))
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))


def pykan(inputs: int, outputs: int, intervals: int) -> nn.Module:
    """Return pykan's layer, whose first result is the output."""
    made: nn.Module = import_module("kan").KANLayer(inputs, outputs, num=intervals, k=3)
    made.register_forward_hook(lambda module, inputs, results: results[0])
    return made


def inkan(inputs: int, outputs: int, intervals: int) -> nn.Module:
    """Return inkan's layer."""
    kind = import_module("inkan").KANLayer
    made: nn.Module = kind(inputs, outputs, grid_size=intervals, compile_basis=False)
    return made.float()


COMPETITORS: dict[str, Callable[..., nn.Module]] = {
    "kanrun": our_layer,
    "kanrun" + COMPILED: our_layer,
    "MLP": mlp,
    "MLP" + COMPILED: mlp,
    "pykan": pykan,
    "inkan": inkan,
    "inkan" + COMPILED: inkan,
}


def training_step(competitor: str, batch: int, *shape: int) -> Callable[[], None]:
    """Return a function that does one training step; it has been called once."""
    torch.manual_seed(0)
    x = (2 * torch.rand(batch, shape[0]) - 1).requires_grad_()
    gradient = torch.rand(batch, shape[1])
    with contextlib.redirect_stdout(io.StringIO()):
        layer = COMPETITORS[competitor](*shape)
    call: Any = torch.compile(layer) if competitor.endswith(COMPILED) else layer
    leaves: list[Tensor] = [x, *layer.parameters()]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(call(x), gradient)

    step()
    return step


def turn(step: Callable[[], None], count: int) -> float:
    """Return the median CPU seconds of `count` steps."""
    return float(np.median(repeat(step, time.process_time, number=1, repeat=count + 1)[1:]))


def measured(task: tuple[str, int]) -> list[dict[str, Any]]:
    """Measure all competitors with one layer for a number of rounds, and return a row for each."""
    name, rounds = task
    torch.set_num_threads(1)
    torch.compiler.reset()  # without this, later layers would be compiled for dynamic sizes
    turns = dict[str, Callable[[], float]]()
    status = dict.fromkeys(COMPETITORS, "ok")
    for competitor in COMPETITORS:
        try:
            step = training_step(competitor, *LAYERS[name])
        except Exception as error:
            if competitor.startswith(("kanrun", "MLP")):
                raise
            missing = isinstance(error, ModuleNotFoundError)
            status[competitor] = "not installed" if missing else f"failed: {type(error).__name__}"
            continue
        expected = min(repeat(step, number=1, repeat=3))
        turns[competitor] = partial(turn, step, int(np.clip(0.05 / expected, 1, 100)))
    names = list(turns)
    rows = []
    began = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - began > 30:
            break
        start = number % len(names)
        rows.append({each: turns[each]() for each in names[start:] + names[:start]})
    times = DataFrame(rows, columns=list(COMPETITORS))
    best = times[["kanrun", "kanrun" + COMPILED]].median().idxmin()
    ratios = times.div(times[best], axis="index")
    columns = {
        "layer": name,
        "competitor": times.columns,
        "status": list(status.values()),
        "cpu_seconds": times.median().array,
        "ratio": ratios.median().array,
        "ratio_least": ratios.quantile(0.1).array,
        "ratio_most": ratios.quantile(0.9).array,
    }
    return DataFrame(columns).to_dict("records")


def main() -> None:
    """Measure the layers, and print times and their ratios to the faster of kanrun's layers."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    tasks = [(name, options.rounds) for name in chosen(LAYERS, options.only)]
    rows = run(tasks, measured, options.n_jobs)
    write_table("layers", [row for each in rows for row in each], options.out)


if __name__ == "__main__":
    main()
