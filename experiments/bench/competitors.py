"""Training steps of one layer by every competitor, forward and backward, measured in turn.

Each competitor steps in turn, round after round, so a busy machine slows all equally. The order
rotates, and each turn begins with a step that is not timed, so that no competitor pays for what the
one before left in the caches. pykan, inkan and jaxkan are called through their public layers and
are optional; what cannot be built says why.
"""

from __future__ import annotations

import contextlib
import io
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata, util
from timeit import repeat, timeit
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.engine.networks.counting import KANSize, kan_parameters
from kanrun.engine.splines import uniform_breakpoints
from kanrun.monitoring import time_limit_reached

Step = Callable[[], None]

#: Edges of the layers that are measured.
SPEC = EdgeSpec(base="silu")

#: Target seconds per competitor and round, and the minimum and maximum number of steps in it.
SHARE, FEWEST_STEPS, MOST_STEPS = 0.05, 3, 100
#: A competitor whose step takes longer than this many seconds has this many rounds.
SLOW, SLOW_ROUNDS = 1.0, 3
WARM_UP = 3


def in_turn(
    steps: Mapping[str, Step], rounds: int, seconds: float
) -> dict[str, NDArray[np.float64]]:
    """Measure seconds per step of each competitor, one number per round; NaN if it sat out."""
    expected = {name: _expected(step) for name, step in steps.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    for number in range(rounds):
        if (number >= SLOW_ROUNDS and time.perf_counter() - began > seconds) or (
            number and time_limit_reached()
        ):
            break
        names = list(steps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            idle = expected[name] > SLOW and number >= SLOW_ROUNDS
            found[name].append(float("nan") if idle else _median(steps[name], expected[name]))
    return {name: np.array(values) for name, values in found.items()}


def _expected(step: Step) -> float:
    """Measure the seconds of a step after a few warm-up steps, unless the first is slow."""
    first = timeit(step, number=1)
    return first if first > SLOW else repeat(step, number=1, repeat=WARM_UP - 1)[-1]


def _median(step: Step, expected: float) -> float:
    if expected > SLOW:
        return timeit(step, number=1)
    count = int(np.clip(SHARE / max(expected, 1e-9), FEWEST_STEPS, MOST_STEPS))
    return float(np.median(repeat(step, number=1, repeat=count + 1)[1:]))


def peak_bytes(step: Step) -> int:
    """Return the peak memory of a step, in bytes.

    It runs in a thread of its own: memory that a thread keeps for its next step is then counted.
    """

    def measure() -> int:
        live = LiveBytes()
        with live:
            step()
        return live.peak

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(measure).result()


class LiveBytes(TorchDispatchMode):
    """Counter of the bytes of live tensors made inside it; `peak` is the largest number at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


OURS, MLP_NAME = "kanrun", "MLP"
#: Ends the name of what runs under torch.compile.
COMPILED = " compiled"
#: The package behind each competitor, and what is imported.
PACKAGES = {
    "pykan": ("pykan", "kan"),
    "inkan": ("inkan", "inkan"),
    "inkan compiled": ("inkan", "inkan"),
    "jaxkan": ("jaxkan", "jaxkan"),
}


@dataclass(frozen=True)
class LayerCase:
    """A layer to be measured."""

    batch: int
    inputs: int
    outputs: int
    intervals: int

    @property
    def name(self) -> str:
        return f"{self.batch}, {self.inputs} to {self.outputs}, G = {self.intervals}"

    @property
    def parameters(self) -> int:
        """Parameters of a KAN layer with both scales: E (G + k + 2)."""
        size = KANSize((self.inputs, self.outputs), self.intervals, SPEC.degree)
        return kan_parameters(size, SPEC)

    @property
    def hidden(self) -> int:
        """The width of the hidden layer with which an MLP has about as many parameters."""
        return max(1, round((self.parameters - self.outputs) / (self.inputs + self.outputs + 1)))


def version(competitor: str) -> str:
    """Return the installed version of a competitor's package, or ""."""
    try:
        return metadata.version(PACKAGES[competitor][0]) if competitor in PACKAGES else ""
    except metadata.PackageNotFoundError:
        return ""


def missing(competitor: str) -> bool:
    return competitor in PACKAGES and util.find_spec(PACKAGES[competitor][1]) is None


def build(competitor: str, case: LayerCase, dtype: torch.dtype) -> Callable[[], None]:
    """Return a training step of the competitor's layer; errors of its package are raised."""
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(
            0
        )  # other libraries draw from the global generator, which the fork gives back
        x = 2 * torch.rand(case.batch, case.inputs, dtype=dtype) - 1
        g = torch.rand(case.batch, case.outputs, dtype=dtype)
        if competitor == "jaxkan":
            return _jax_step(case, x, g)
        layer = TORCH[competitor](case, dtype)
    call = (lambda at: layer(at)[0]) if competitor == "pykan" else layer
    return _torch_step(torch.compile(layer) if competitor.endswith(COMPILED) else call, layer, x, g)


def our_layer(case: LayerCase, dtype: torch.dtype) -> SplineLayer:
    one = torch.ones(case.inputs, dtype=dtype)
    edges = uniform_breakpoints(-one, one, case.intervals)
    layer = SplineLayer.on_grid(edges, case.outputs, SPEC, uniform=True)
    initialise(layer, "paper", torch.Generator().manual_seed(0))
    return layer


def _mlp(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    hidden = nn.Linear(case.inputs, case.hidden, dtype=dtype)
    return nn.Sequential(hidden, nn.SiLU(), nn.Linear(case.hidden, case.outputs, dtype=dtype))


def _peer(module: str, dtype: torch.dtype, *args: int, **settings: int) -> nn.Module:
    layer: nn.Module = import_module(module).KANLayer(*args, **settings)
    return layer.to(dtype)


def _inkan(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    return _peer("inkan", dtype, case.inputs, case.outputs, grid_size=case.intervals)


TORCH: dict[str, Callable[[LayerCase, torch.dtype], nn.Module]] = {
    OURS: our_layer,
    OURS + COMPILED: our_layer,
    MLP_NAME: _mlp,
    MLP_NAME + COMPILED: _mlp,
    "pykan": lambda case, dtype: _peer(
        "kan", dtype, case.inputs, case.outputs, num=case.intervals, k=3
    ),
    "inkan": _inkan,
    "inkan compiled": _inkan,
}


def _torch_step(
    call: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, g: Tensor
) -> Callable[[], None]:
    parameters = list(layer.parameters())
    at = x.clone().requires_grad_()

    def step() -> None:
        at.grad = None
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(call(at), g)

    step()  # what cannot run says so here
    return step


def _jax_step(case: LayerCase, x: Tensor, g: Tensor) -> Callable[[], None]:
    import jax  # type: ignore[import-not-found, unused-ignore]
    from flax import nnx  # type: ignore[import-not-found, unused-ignore]
    from jaxkan.layers.Spline import SplineLayer as Layer  # type: ignore[import-not-found, unused-ignore]

    definition, state = nnx.split(
        Layer(n_in=case.inputs, n_out=case.outputs, k=3, G=case.intervals)
    )
    at, to = jax.numpy.asarray(x.numpy()), jax.numpy.asarray(g.numpy())

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def gradients(numbers: Any, points: Any, pulled: Any) -> Any:
        y, pull = jax.vjp(lambda s, p: nnx.merge(definition, s)(p), numbers, points)
        return y, pull(pulled)

    def step() -> None:
        jax.block_until_ready(gradients(state, at, to))

    step()
    return step
