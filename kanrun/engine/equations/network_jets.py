"""Jets of a network's outputs, and the derivatives of anything computed from them by the network's unknowns.

The jet of a layer's output is linear in the layer's numbers: for a coefficient its factor is the jet of a basis
function of the layer's input, for a weight of an MLP the jet of the input itself. With the adjoints of the outputs'
jets (which reverse mode gives layer by layer) the Jacobian follows without differentiating through the numbers, by
its non-zeros for splines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.equations.jets import Monomials, derivatives
from kanrun.engine.layers import SplineLayer
from kanrun.engine.layers.bases import base_function
from kanrun.engine.networks import ACTIVATIONS, MLP, Network
from kanrun.engine.splines import local_basis
from kanrun.errors import UsageError


class _Traced(ABC):
    """A layer at given points: `output` is the jet (components, points, out) of what leaves it."""

    output: Tensor

    @abstractmethod
    def add_jacobian(self, adjoint: Tensor, jacobian: Tensor, starts: dict[str, int], active: Tensor | None) -> None:
        """Add the derivatives by the layer's unknowns to `jacobian` (points, unknowns), from those by `output`.

        `active` (all unknowns,) marks those that have a column; None for all.
        """


class _TracedSplines(_Traced):
    """phi = w_b b + w_s spline on every edge."""

    def __init__(self, layer: SplineLayer, prefix: str, z: Tensor, monomials: Monomials) -> None:
        self.layer, self.prefix = layer, prefix
        parts = [local_basis(z[0], layer.grid, order) for order in range(monomials.order + 1)]
        self.interval = parts[0][1]
        self.basis = monomials.compose([values for values, _ in parts], z)
        base_weight, self.scale = (weight.detach() for weight in layer.scales())
        table = (layer.coefficients.detach() * self.scale[..., None]).permute(1, 2, 0)
        inputs = torch.arange(layer.inputs, device=z.device)[:, None]
        self.columns = self.interval[..., None] + torch.arange(layer.spec.degree + 1, device=z.device)
        self.output = torch.einsum("mnik,niko->mno", self.basis, table[inputs, self.columns])
        self.base = None
        if layer.spec.base != "zero":
            function = base_function(layer.spec.base)
            self.base = monomials.compose(derivatives(function, z[0], monomials.order), z)
            self.output = self.output + self.base @ base_weight.T

    def add_jacobian(self, adjoint: Tensor, jacobian: Tensor, starts: dict[str, int], active: Tensor | None) -> None:
        outputs, inputs, functions = self.layer.coefficients.shape
        begin = starts[f"{self.prefix}coefficients"]
        if active is None:
            values = torch.einsum("mno,mnik->noik", adjoint, self.basis.detach()) * self.scale[..., None]
            edge = torch.arange(outputs * inputs, device=adjoint.device).view(outputs, inputs, 1) * functions
            columns = edge + self.columns[:, None] + begin
        else:
            place, marked = active.cumsum(0) - 1, active[begin : begin + outputs * inputs * functions]
            o, i = marked.view(outputs, inputs, functions)[..., 0].nonzero().unbind(1)
            values = torch.einsum("mne,mnek->nek", adjoint[:, :, o], self.basis.detach()[:, :, i])
            values = values * self.scale[o, i][:, None]
            columns = place[begin + (o * inputs + i)[:, None] * functions + self.columns[:, i]]
        jacobian.scatter_add_(1, columns.flatten(1), values.flatten(1))
        if self.base is not None and (start := starts.get(f"{self.prefix}base_weight")) is not None:
            values = torch.einsum("mno,mni->noi", adjoint, self.base.detach()) * self.layer.mask
            jacobian[:, start : start + outputs * inputs] += values.flatten(1)


class _TracedLinear(_Traced):
    """x W^T + b, then an activation after all layers but the last."""

    def __init__(
        self, layer: nn.Linear, prefix: str, z: Tensor, monomials: Monomials, before: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.prefix = prefix
        self.input = z if before is None else monomials.compose(derivatives(before, z[0], monomials.order), z)
        weight, bias = layer.weight.detach(), layer.bias.detach()
        out = self.input @ weight.T
        self.output = torch.cat([out[:1] + bias, out[1:]])

    def add_jacobian(self, adjoint: Tensor, jacobian: Tensor, starts: dict[str, int], active: Tensor | None) -> None:
        values = torch.einsum("mno,mni->noi", adjoint, self.input.detach()).flatten(1)
        start = starts[f"{self.prefix}weight"]
        jacobian[:, start : start + values.shape[1]] += values
        start = starts[f"{self.prefix}bias"]
        jacobian[:, start : start + adjoint.shape[2]] += adjoint[0]


@dataclass(frozen=True)
class NetworkJets:
    """The jets (components, points, outputs) of a network at points, and how they depend on its unknowns."""

    layers: tuple[_Traced, ...]
    starts: dict[str, int]
    unknowns: int

    @property
    def outputs(self) -> Tensor:
        return self.layers[-1].output

    def jacobian(
        self, total: Float[Tensor, ""], active: Bool[Tensor, " unknowns"] | None = None
    ) -> Float[Tensor, "points columns"]:
        """The derivatives by the `active` unknowns of values, one a point, whose sum is `total`.

        Each value may depend on the outputs at its own point only.
        """
        nodes = [layer.output for layer in self.layers]
        adjoints = torch.autograd.grad(total, nodes)
        columns = self.unknowns if active is None else int(active.sum())
        jacobian = nodes[0].new_zeros(nodes[0].shape[1], columns)
        for layer, adjoint in zip(self.layers, adjoints, strict=True):
            layer.add_jacobian(adjoint, jacobian, self.starts, active)
        return jacobian


def network_jets(network: Network, x: Float[Tensor, "points inputs"], monomials: Monomials) -> NetworkJets:
    """The jets of a KAN or an MLP at `x`, in the network's own inputs; call it under `torch.enable_grad`.

    Raises UsageError for a network of another kind, whose layers are not known to be linear in their numbers.
    """
    starts, start = {}, 0
    for name, parameter in network.unknowns():
        starts[name] = start
        start += parameter.numel()
    z, traced = monomials.variables(x), []
    for make in _makers(network):
        layer = make(z=z, monomials=monomials)
        if not layer.output.requires_grad:
            layer.output.requires_grad_()
        traced.append(layer)
        z = layer.output
    return NetworkJets(tuple(traced), starts, start)


def _makers(network: Network) -> list[Callable[..., _Traced]]:
    """A function for each layer that traces it at the jets that reach it."""
    if network.edge_layers:
        return [partial(_TracedSplines, layer, f"layers.{number}.") for number, layer in enumerate(network.edge_layers)]
    if isinstance(network, MLP):
        activation = ACTIVATIONS[network.activation]
        return [
            partial(_TracedLinear, layer, f"linear.{number}.", before=activation if number else None)
            for number, layer in enumerate(network.linear)
            if isinstance(layer, nn.Linear)
        ]
    raise UsageError(f"equations are solved by networks of kind kan or mlp, not {network.kind}.")
