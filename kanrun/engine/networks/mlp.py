"""The multi-layer perceptron that KANs are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from kanrun.errors import UsageError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "sin": torch.sin,
    "identity": lambda x: x,
}


class MLP(nn.Module):
    """x (..., inputs) -> (..., outputs): linear layers x W^T + b with an activation between them."""

    kind = "mlp"

    def __init__(self, shape: Sequence[int], activation: str, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UsageError(f"model.activation={activation} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        self.activation = activation
        self.linear = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b, dtype=dtype) for a, b in itertools.pairwise(shape)
        )

    @classmethod
    def create(
        cls,
        shape: Sequence[int],
        activation: str,
        *,
        dtype: torch.dtype = torch.float64,
        generator: Generator,
    ) -> MLP:
        """A fresh network: weights and biases uniform within 1 / sqrt(fan in), torch's own default."""
        network = cls(shape, activation, dtype=dtype)
        with torch.no_grad():
            for layer in network.linear:
                weight, bias = layer.parameters()
                for parameter in (weight, bias):
                    # Drawn in float64, so that a seed means the same start in every precision.
                    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_((2 * drawn - 1) * weight.shape[1] ** -0.5)
        return network

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        act = ACTIVATIONS[self.activation]
        for linear in self.linear[:-1]:
            x = act(linear(x))
        last: Tensor = self.linear[-1](x)
        return last

    @property
    def shape(self) -> tuple[int, ...]:
        layers = [layer for layer in self.linear if isinstance(layer, nn.Linear)]
        return (layers[0].in_features, *(layer.out_features for layer in layers))

    def describe(self) -> dict[str, Any]:
        """What, besides the state_dict, rebuilds this network; plain JSON values."""
        return {"kind": self.kind, "shape": list(self.shape), "activation": self.activation}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MLP:
        """An empty network after `describe`, waiting for its state_dict."""
        return cls(description["shape"], description["activation"])
