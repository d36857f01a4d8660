"""Truncated Taylor series of functions, and their propagation through a network.

A *jet* holds the Taylor coefficients of a function at each point. Component a is (1 / a!) d^a f /
dx^a for each multi-index a of a `Monomials` set; component 0 is the value. Sums of jets are sums of
tensors, and products are truncated products of polynomials. A univariate function enters by its own
Taylor series (Faa di Bruno's formula as composed series; Griewank and Walther, Evaluating
Derivatives, ch. 13). A jet is a tensor (components, points, width).

The jet of a layer's output is linear in the parameters of the layer. The factor of a coefficient is
the jet of a basis function of the layer's input, the factor of an MLP's weight is the jet of the
input itself. With the adjoints of the outputs' jets, which reverse mode gives layer by layer, the
Jacobian follows without differentiating by the parameters; for splines only its non-zeros are
computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import ACTIVATIONS, MLP, Network
from kanrun.engine.splines import local_basis
from kanrun.errors import UsageError

#: Multi-index of a derivative: how often each variable is differentiated.
Index = tuple[int, ...]


@dataclass(frozen=True)
class Monomials:
    """Multi-indices of a jet: with each index all smaller ones, the zero index first."""

    indices: tuple[Index, ...]

    @classmethod
    def covering(cls, needed: Iterable[Index], variables: int) -> Monomials:
        """Return the smallest set that contains `needed`, for functions of this many variables."""
        below: set[Index] = {(0,) * variables}
        for index in needed:
            below |= set(itertools.product(*(range(each + 1) for each in index)))
        return cls(tuple(sorted(below, key=lambda index: (sum(index), index))))

    @property
    def order(self) -> int:
        """Highest total order of a derivative."""
        return sum(self.indices[-1])

    def factorial(self, index: Index) -> int:
        """Return a!, the ratio of a derivative to its component."""
        return math.prod(map(math.factorial, index))

    def derivative(self, jet: Tensor, index: Index) -> Tensor:
        """Return the derivative by `index` (points, width) from a jet."""
        return jet[self.indices.index(index)] * self.factorial(index)

    @cached_property
    def products(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each component, the pairs of components whose product contributes to it."""
        place = {index: number for number, index in enumerate(self.indices)}
        pairs: list[list[tuple[int, int]]] = [[] for _ in self.indices]
        for (i, a), (j, b) in itertools.product(enumerate(self.indices), repeat=2):
            if (at := place.get(tuple(p + q for p, q in zip(a, b, strict=True)))) is not None:
                pairs[at].append((i, j))
        return tuple(map(tuple, pairs))

    def variables(
        self, x: Float[Tensor, "points variables"]
    ) -> Float[Tensor, "components points variables"]:
        """Return the jets of the variables themselves at x."""
        slopes = [[float(sum(a) == 1 == a[i]) for i in range(x.shape[1])] for a in self.indices]
        jet = x.new_tensor(slopes)[:, None].repeat(1, len(x), 1)
        jet[0] = x
        return jet

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the jet of the product."""
        return torch.stack(
            [
                sum((a[i] * b[j] for i, j in pairs[1:]), a[pairs[0][0]] * b[pairs[0][1]])
                for pairs in self.products
            ]
        )

    def compose(self, derivatives: Sequence[Tensor], z: Tensor) -> Tensor:
        """Return the jet of f(z) from the derivatives of f at z_0, one per order from 0 on.

        Further axes of `derivatives` stand for several functions of the same argument.
        """
        trailing = (1,) * (derivatives[0].ndim - z.ndim + 1)
        power = shift = torch.cat([torch.zeros_like(z[:1]), z[1:]])  # z - z_0
        value = derivatives[0][None]
        total = torch.cat([value, value.new_zeros(len(z) - 1, *value.shape[1:])])
        for p in range(1, self.order + 1):
            power = self.multiply(power, shift) if p > 1 else power
            total = total + power.reshape(*z.shape, *trailing) * (
                derivatives[p] / math.factorial(p)
            )
        return total


def derivatives(function: Callable[[Tensor], Tensor], z: Tensor, order: int) -> list[Tensor]:
    """Return an elementwise function and its derivatives up to `order`, differentiable in z."""
    with torch.enable_grad():
        at = z if z.requires_grad else z.detach().requires_grad_()
        found = [function(at)]
        for _ in range(order):
            (slope,) = torch.autograd.grad(found[-1].sum(), at, create_graph=True)
            found.append(slope)
    return found


@dataclass(frozen=True)
class _TracedLayer:
    """Jet of a layer's output, and how its derivatives give those by the layer's unknowns.

    `add` adds the derivatives of values by the unknowns to a Jacobian (points, columns + 1), from
    those by `output` and the column of each unknown; that of a fixed one is the last.
    """

    output: Tensor
    add: Callable[[Tensor, Tensor, Tensor], object]
    unknowns: int


def _traced_splines(layer: SplineLayer, z: Tensor, monomials: Monomials) -> _TracedLayer:
    """Trace a layer of splines without a base."""
    parts = [local_basis(z[0], layer.grid, order) for order in range(monomials.order + 1)]
    basis = monomials.compose([values for values, _ in parts], z)
    scale = layer.scales()[1].detach()
    table = (layer.coefficients.detach() * scale[..., None]).permute(1, 2, 0)
    inputs = torch.arange(layer.inputs, device=z.device)[:, None]
    local = parts[0][1][..., None] + torch.arange(layer.spec.degree + 1, device=z.device)

    def add(adjoint: Tensor, place: Tensor, jacobian: Tensor) -> None:
        edges = place.view(layer.coefficients.shape)[..., 0]
        o, i = (edges < jacobian.shape[1] - 1).nonzero().unbind(1)
        values = torch.einsum("mne,mnek->nek", adjoint[:, :, o], basis.detach()[:, :, i])
        columns, values = edges[o, i, None] + local[:, i], values * scale[o, i, None]
        jacobian.scatter_add_(1, columns.flatten(1), values.flatten(1))

    output = torch.einsum("mnik,niko->mno", basis, table[inputs, local])
    return _TracedLayer(output, add, layer.coefficients.numel())


def _traced_linear(layer: nn.Linear, z: Tensor) -> _TracedLayer:
    """Trace a layer x W^T + b."""
    out = z @ layer.weight.detach().T

    def add(adjoint: Tensor, place: Tensor, jacobian: Tensor) -> None:
        weights = torch.einsum("mno,mni->noi", adjoint, z.detach()).flatten(1)
        jacobian.index_add_(1, place, torch.cat([weights, adjoint[0]], 1))

    output = torch.cat([out[:1] + layer.bias.detach(), out[1:]])
    return _TracedLayer(output, add, layer.weight.numel() + layer.bias.numel())


@dataclass(frozen=True)
class NetworkJets:
    """Jets of a network at points, and their dependence on its unknowns.

    Attributes:
        place: Column of each unknown in a Jacobian of `columns`; that of a fixed one lies beyond.
    """

    layers: tuple[_TracedLayer, ...]
    place: Tensor
    columns: int

    @property
    def outputs(self) -> Tensor:
        return self.layers[-1].output

    def jacobian(self, total: Float[Tensor, ""]) -> Float[Tensor, "points columns"]:
        """Return the derivatives by the trained unknowns of values whose sum is `total`.

        Each value may depend on the outputs at its own point only.
        """
        adjoints = torch.autograd.grad(total, [layer.output for layer in self.layers])
        places = self.place.split([layer.unknowns for layer in self.layers])
        jacobian = self.outputs.new_zeros(self.outputs.shape[1], self.columns + 1)
        for layer, adjoint, place in zip(self.layers, adjoints, places, strict=True):
            layer.add(adjoint, place, jacobian)
        return jacobian[:, : self.columns]


def network_jets(
    network: Network,
    x: Float[Tensor, "points inputs"],
    monomials: Monomials,
    active: Bool[Tensor, " unknowns"] | None = None,
) -> NetworkJets:
    """Return the jets of a KAN without a base or of an MLP at x, under `torch.enable_grad`.

    `active` marks the trained unknowns (None: all); either all functions of an edge are trained, or
    none. Raises UsageError for a network of another kind, whose layers are not known to be linear
    in their parameters.
    """
    z, traced = monomials.variables(x), list[_TracedLayer]()
    for layer in network.linear if isinstance(network, MLP) else network.edge_layers:
        if isinstance(network, MLP) and isinstance(layer, nn.Linear):
            if traced:
                act = ACTIVATIONS[network.activation]
                z = monomials.compose(derivatives(act, z[0], monomials.order), z)
            traced.append(_traced_linear(layer, z))
        elif isinstance(layer, SplineLayer) and layer.spec.base == "zero":
            traced.append(_traced_splines(layer, z, monomials))
        else:
            raise UsageError("Equations are solved by KANs without a base function, base=zero.")
        z = traced[-1].output
        if not z.requires_grad:
            z.requires_grad_()
    if not traced:
        raise UsageError(
            f"Equations are solved by networks of kind kan or mlp, not {network.kind}."
        )
    count = sum(layer.unknowns for layer in traced)
    chosen = torch.ones(count, dtype=torch.bool, device=x.device) if active is None else active
    columns = int(chosen.sum())
    place = torch.where(chosen, chosen.cumsum(0) - 1, columns)
    return NetworkJets(tuple(traced), place, columns)
