"""The multi-layer perceptron that KANs are compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from kanrun.engine.layers import check_place, check_samples, checked_shape
from kanrun.engine.least_squares import DenseRows
from kanrun.engine.networks.counting import mlp_flops
from kanrun.engine.networks.network import Network
from kanrun.errors import UsageError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "sin": torch.sin,
    "identity": lambda x: x,
}


class MLP(Network):
    """Linear layers x W^T + b with an activation between them: x (..., inputs) -> (..., outputs).

    Weights and biases are uniform within 1 / sqrt(fan in), torch's own default.

    Args:
        shape: The widths, such as [2, 16, 1].
        activation: Name of the activation.
        generator: Source of random numbers; None: torch's own.
        dtype: torch.float32 or torch.float64; None: torch's default.
        device: Device of the parameters; None: torch's default.

    Raises:
        UsageError: If a value breaks its rule.

    Examples:
        >>> from kanrun import MLP
        >>> MLP([2, 16, 1], "tanh").count()
        65
    """

    kind = "mlp"

    def __init__(
        self,
        shape: Sequence[int],
        activation: str = "silu",
        *,
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = checked_shape(shape)
        if activation not in ACTIVATIONS:
            raise UsageError(
                f"activation={activation} is not known. Choose one of {', '.join(ACTIVATIONS)}."
            )
        check_place(dtype, device)
        self.activation = activation
        # None would leave them without numbers.
        where = torch.get_default_device() if device is None else device
        self.linear = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b, dtype=dtype, device=where)
            for a, b in itertools.pairwise(shape)
        )
        with torch.no_grad():
            for layer in self.linear:
                weight, bias = layer.parameters()
                for parameter in (weight, bias):
                    # Drawn in float64, so that a seed means the same start in every precision.
                    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_((2 * drawn - 1) / math.sqrt(weight.shape[1]))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        weight = next(self.parameters())
        check_samples(x, weight.shape[1], weight)
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
        return {"kind": self.kind, "shape": list(self.shape), "activation": self.activation}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MLP:
        return cls(
            description["shape"],
            description["activation"],
            generator=Generator(),
            dtype=torch.float64,
        )

    def flops(self) -> dict[str, float | None]:
        return mlp_flops(self.shape, self.activation)

    def linearise(
        self, x: Float[Tensor, "samples inputs"]
    ) -> tuple[Float[Tensor, "samples out"], DenseRows]:
        """Return (f(x), J), layer by layer.

        d y / d W = (d y / d z) (inputs of the layer), z the sums before activation.
        """
        act, sums = ACTIVATIONS[self.activation], list[Tensor]()
        reaching = [x.detach().requires_grad_()]
        with torch.enable_grad():
            for linear in self.linear:
                sums.append(linear(reaching[-1]))
                reaching.append(act(sums[-1]))
            outputs = sums[-1].T
            slopes = [torch.autograd.grad(y.sum(), sums, retain_graph=True) for y in outputs]
        columns: list[Tensor] = []
        by_layer = zip(*slopes, strict=True)
        for linear, before, each in zip(self.linear, reaching, by_layer, strict=False):
            weight, bias = linear.parameters()
            upstream, inputs = torch.stack(each, 1), before.detach()[:, None, None, :]
            if weight.requires_grad:
                columns.append((upstream[..., None] * inputs).flatten(2))
            if bias.requires_grad:
                columns.append(upstream)
        return sums[-1].detach(), DenseRows(torch.cat(columns, dim=-1).flatten(0, 1))
