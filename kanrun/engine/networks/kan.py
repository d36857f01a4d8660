"""The multi-layer Kolmogorov-Arnold network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.engine.splines import dense_rows, local_basis, uniform_breakpoints

#: What a basis function must reach on a sample to be seen by it: at a knot, rounding alone makes values of 1e-40.
SEEN = 1e-10


class KAN(nn.Module):
    """f(x) = (Phi_L o ... o Phi_1)(x), each Phi a SplineLayer; arXiv 2404.19756, eq. 2.7.

    x (..., inputs) -> (..., outputs). Build one with `KAN.create`; change its grids with
    `kanrun.engine.networks.regrid`, its shape with `prune`. Both return new networks.
    """

    kind = "kan"

    def __init__(self, layers: Sequence[SplineLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @classmethod
    def create(
        cls,
        shape: Sequence[int],
        intervals: int,
        spec: EdgeSpec,
        *,
        domain: Float[Tensor, "inputs 2"],
        initialisation: str = "paper",
        generator: Generator,
    ) -> KAN:
        """A fresh network of widths `shape`; its first grid covers `domain`, hidden ones [-1, 1] until regridded."""
        layers = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(shape)):
            ends = domain if i == 0 else domain.new_tensor([[-1.0, 1.0]]).expand(inputs, 2)
            grid = uniform_breakpoints(ends[:, 0], ends[:, 1], intervals)
            layer = SplineLayer(grid, outputs, spec, uniform=True)
            initialise(layer, initialisation, generator)
            layers.append(layer)
        return cls(layers)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        for layer in self.layers:
            x = layer(x)
        return x

    def __iter__(self) -> Any:
        return iter(self.layers)

    def layer(self, index: int) -> SplineLayer:
        """Layer `index`, counted from the inputs; negative from the outputs."""
        chosen = self.layers[index]
        if not isinstance(chosen, SplineLayer):
            raise TypeError(f"layer {index} is a {type(chosen).__name__}")
        return chosen

    @property
    def shape(self) -> tuple[int, ...]:
        """The widths, inputs first."""
        return (self.layer(0).inputs, *(layer.outputs for layer in self))

    @property
    def intervals(self) -> int:
        """G of the first layer; all layers have the same unless built otherwise."""
        return self.layer(0).grid.intervals

    def describe(self) -> dict[str, Any]:
        """What, besides the state_dict, rebuilds this network; plain JSON values."""
        return {"kind": self.kind, "layers": [layer.describe() for layer in self]}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> KAN:
        """An empty network after `describe`, waiting for its state_dict."""
        return cls([SplineLayer.from_description(layer) for layer in description["layers"]])


def activations(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Tensor]:
    """What reaches each layer, the inputs first, and the network's output last."""
    values = [x]
    for layer in kan:
        values.append(layer(values[-1]))
    return values


def support(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
    """For each layer, which basis functions (inputs, functions) see at least one of the samples `x`.

    A function with no sample in its k + 1 intervals cannot be learned from them. Samples outside the grid touch
    what the `outside` policy continues.
    """
    seen = []
    with torch.no_grad():
        for layer, at in zip(kan, activations(kan, x), strict=False):
            seen.append(_touched(layer, at))
    return seen


def _touched(layer: SplineLayer, x: Tensor) -> Tensor:
    grid = layer.grid
    basis, interval = local_basis(x, grid)
    touched = torch.zeros(x.shape[1], grid.functions, dtype=torch.bool, device=x.device)
    for part, at in zip(basis.split(4096), interval.split(4096), strict=True):
        touched = touched | (dense_rows(part, at, grid.functions).abs() > SEEN).any(0)
    return touched
