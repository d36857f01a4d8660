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

from kanrun.engine.layers import BASES, SplineLayer
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
        return math.prod(math.factorial(each) for each in index)

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


class _TracedSplines:
    """A layer of edges phi = w_b b + w_s spline; `output` is the jet of its outputs."""

    def __init__(self, layer: SplineLayer, z: Tensor, monomials: Monomials) -> None:
        self.layer = layer
        parts = [local_basis(z[0], layer.grid, order) for order in range(monomials.order + 1)]
        self.basis = monomials.compose([values for values, _ in parts], z)
        base_weight, self.scale = (weight.detach() for weight in layer.scales())
        table = (layer.coefficients.detach() * self.scale[..., None]).permute(1, 2, 0)
        inputs = torch.arange(layer.inputs, device=z.device)[:, None]
        self.columns = parts[0][1][..., None] + torch.arange(layer.spec.degree + 1, device=z.device)
        self.output = torch.einsum("mnik,niko->mno", self.basis, table[inputs, self.columns])
        self.base = None
        if layer.spec.base != "zero":
            function = BASES[layer.spec.base]
            self.base = monomials.compose(derivatives(function, z[0], monomials.order), z)
            self.output = self.output + self.base @ base_weight.T

    def add_jacobian(
        self, adjoint: Tensor, jacobian: Tensor, starts: dict[str, int], place: Tensor
    ) -> None:
        """Add the derivatives by the unknowns to `jacobian` (points, columns).

        `adjoint` holds the derivatives by `output`.

        `place` holds the column of each of the network's unknowns.
        """
        outputs, inputs, functions = self.layer.coefficients.shape
        start = starts["coefficients"]
        edges = place[start : start + outputs * inputs * functions].view(outputs, inputs, functions)
        o, i = (edges[..., 0] < jacobian.shape[1] - 1).nonzero().unbind(1)
        values = torch.einsum("mne,mnek->nek", adjoint[:, :, o], self.basis.detach()[:, :, i])
        columns = edges[o, i, 0][:, None] + self.columns[:, i]
        jacobian.scatter_add_(
            1, columns.flatten(1), (values * self.scale[o, i][:, None]).flatten(1)
        )
        if self.base is not None and (start := starts.get("base_weight", -1)) >= 0:
            values = torch.einsum("mno,mni->noi", adjoint, self.base.detach()) * self.layer.mask
            jacobian.index_add_(1, place[start : start + outputs * inputs], values.flatten(1))


class _TracedLinear:
    """A linear layer x W^T + b, after an activation in all layers but the first."""

    def __init__(
        self,
        layer: nn.Linear,
        z: Tensor,
        monomials: Monomials,
        before: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.input = (
            z
            if before is None
            else monomials.compose(derivatives(before, z[0], monomials.order), z)
        )
        out = self.input @ layer.weight.detach().T
        self.output = torch.cat([out[:1] + layer.bias.detach(), out[1:]])

    def add_jacobian(
        self, adjoint: Tensor, jacobian: Tensor, starts: dict[str, int], place: Tensor
    ) -> None:
        values = torch.einsum("mno,mni->noi", adjoint, self.input.detach()).flatten(1)
        for name, part in (("weight", values), ("bias", adjoint[0])):
            jacobian.index_add_(1, place[starts[name] : starts[name] + part.shape[1]], part)


@dataclass(frozen=True)
class NetworkJets:
    """Jets of a network at points, and their dependence on its unknowns.

    Attributes:
        starts: First number of each layer's unknowns among all unknowns of the network, by kind.
        place: Column of each unknown in a Jacobian of `columns`; that of a fixed one lies beyond.
    """

    layers: tuple[_TracedSplines | _TracedLinear, ...]
    starts: tuple[dict[str, int], ...]
    place: Tensor
    columns: int

    @property
    def outputs(self) -> Tensor:
        return self.layers[-1].output

    def jacobian(self, total: Float[Tensor, ""]) -> Float[Tensor, "points columns"]:
        """Return the derivatives by the trained unknowns of values whose sum is `total`.

        Each value may depend on the outputs at its own point only.
        """
        nodes = [layer.output for layer in self.layers]
        adjoints = torch.autograd.grad(total, nodes)
        jacobian = nodes[0].new_zeros(nodes[0].shape[1], self.columns + 1)
        for layer, adjoint, starts in zip(self.layers, adjoints, self.starts, strict=True):
            layer.add_jacobian(adjoint, jacobian, starts, self.place)
        return jacobian[:, : self.columns]


def network_jets(
    network: Network,
    x: Float[Tensor, "points inputs"],
    monomials: Monomials,
    active: Bool[Tensor, " unknowns"] | None = None,
) -> NetworkJets:
    """Return the jets of a KAN or an MLP at x; call it under `torch.enable_grad`.

    `active` marks the trained unknowns (None: all); either all functions of an edge are trained, or
    none. Raises UsageError for a network of another kind, whose layers are not known to be linear
    in their parameters.
    """
    starts, start = dict[str, dict[str, int]](), 0
    for name, parameter in network.unknowns():
        layer_name, _, kind = name.rpartition(".")
        starts.setdefault(layer_name, {})[kind] = start
        start += parameter.numel()
    if not network.edge_layers and not isinstance(network, MLP):
        raise UsageError(
            f"Equations are solved by networks of kind kan or mlp, not {network.kind}."
        )
    z, traced = monomials.variables(x), list[_TracedSplines | _TracedLinear]()
    for layer in network.linear if isinstance(network, MLP) else network.edge_layers:
        if isinstance(layer, SplineLayer):
            traced.append(_TracedSplines(layer, z, monomials))
        elif isinstance(layer, nn.Linear) and isinstance(network, MLP):
            before = ACTIVATIONS[network.activation] if traced else None
            traced.append(_TracedLinear(layer, z, monomials, before))
        z = traced[-1].output
        if not z.requires_grad:
            z.requires_grad_()
    chosen = torch.ones(start, dtype=torch.bool, device=x.device) if active is None else active
    count = int(chosen.sum())
    place = torch.where(chosen, chosen.cumsum(0) - 1, count)
    return NetworkJets(tuple(traced), tuple(starts.values()), place, count)
