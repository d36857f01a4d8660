"""One layer of every competitor: a training step, forward and backward to input and parameters, in float32.

pykan, inkan and jaxkan are called through their public layers and are optional; what cannot be built says why.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any

import torch
from torch import Tensor, nn

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.engine.networks.counting import Size, kan_parameters
from kanrun.engine.splines import uniform_breakpoints

OURS, MLP_NAME = "kanrun", "MLP"
#: Ends the name of what runs under torch.compile.
COMPILED = " compiled"
#: The package behind each competitor, and what is imported.
PACKAGES = {
    "pykan": ("pykan", "kan"), "inkan": ("inkan", "inkan"), "inkan compiled": ("inkan", "inkan"),
    "jaxkan": ("jaxkan", "jaxkan"),
}  # fmt: skip


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
        """Of a KAN layer with both scales: E (G + k + 2)."""
        return kan_parameters(Size((self.inputs, self.outputs), self.intervals, EdgeSpec().degree), EdgeSpec())

    @property
    def hidden(self) -> int:
        """The width of the hidden layer with which an MLP has about as many parameters."""
        return max(1, round((self.parameters - self.outputs) / (self.inputs + self.outputs + 1)))


def version(competitor: str) -> str:
    """The installed version of a competitor's package; nothing where it is missing or ours."""
    try:
        return metadata.version(PACKAGES[competitor][0]) if competitor in PACKAGES else ""
    except metadata.PackageNotFoundError:
        return ""


def missing(competitor: str) -> bool:
    return competitor in PACKAGES and util.find_spec(PACKAGES[competitor][1]) is None


def build(competitor: str, case: LayerCase, dtype: torch.dtype) -> Callable[[], None]:
    """A training step of the competitor's layer; raises what its package raises."""
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)  # other libraries draw from the global generator, which the fork gives back
        x = 2 * torch.rand(case.batch, case.inputs, dtype=dtype) - 1
        g = torch.rand(case.batch, case.outputs, dtype=dtype)
        if competitor == "jaxkan":
            return _jax_step(case, x, g)
        layer = TORCH[competitor](case, dtype)
    call = (lambda at: layer(at)[0]) if competitor == "pykan" else layer
    return _torch_step(torch.compile(layer) if competitor.endswith(COMPILED) else call, layer, x, g)


def our_layer(case: LayerCase, dtype: torch.dtype) -> SplineLayer:
    one = torch.ones(case.inputs, dtype=dtype)
    layer = SplineLayer.on_grid(uniform_breakpoints(-one, one, case.intervals), case.outputs, EdgeSpec(), uniform=True)
    initialise(layer, "paper", torch.Generator().manual_seed(0))
    return layer


def _mlp(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    hidden = nn.Linear(case.inputs, case.hidden, dtype=dtype)
    return nn.Sequential(hidden, nn.SiLU(), nn.Linear(case.hidden, case.outputs, dtype=dtype))


def _pykan(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    from kan import KANLayer  # type: ignore[import-not-found, unused-ignore]

    layer: nn.Module = KANLayer(in_dim=case.inputs, out_dim=case.outputs, num=case.intervals, k=3)
    return layer.to(dtype)


def _inkan(case: LayerCase, dtype: torch.dtype) -> nn.Module:
    from inkan import KANLayer  # type: ignore[import-not-found, unused-ignore]

    layer: nn.Module = KANLayer(case.inputs, case.outputs, grid_size=case.intervals)
    return layer.to(dtype)


TORCH: dict[str, Callable[[LayerCase, torch.dtype], nn.Module]] = {
    OURS: our_layer, OURS + COMPILED: our_layer, MLP_NAME: _mlp, MLP_NAME + COMPILED: _mlp,
    "pykan": _pykan, "inkan": _inkan, "inkan compiled": _inkan,
}  # fmt: skip


def _torch_step(call: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, g: Tensor) -> Callable[[], None]:
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

    definition, state = nnx.split(Layer(n_in=case.inputs, n_out=case.outputs, k=3, G=case.intervals))
    at, to = jax.numpy.asarray(x.numpy()), jax.numpy.asarray(g.numpy())

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def gradients(numbers: Any, points: Any, pulled: Any) -> Any:
        y, pull = jax.vjp(lambda s, p: nnx.merge(definition, s)(p), numbers, points)
        return y, pull(pulled)

    def step() -> None:
        jax.block_until_ready(gradients(state, at, to))

    step()
    return step
