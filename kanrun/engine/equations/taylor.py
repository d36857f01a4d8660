"""Truncated Taylor series of functions, and their propagation through a network.

A *jet* holds the Taylor coefficients of a function at each point. Component a is (1 / a!) d^a f /
dx^a for each multi-index a of a `Monomials` set; component 0 is the value. Sums of jets are sums of
tensors, and products are truncated products of polynomials. A univariate function enters by its own
Taylor series (Faa di Bruno's formula as composed series; Griewank and Walther, Evaluating
Derivatives, ch. 13). A jet is a tensor (components, points, width).

Every point has its own copy of the parameters, so that reverse mode gives the Jacobian of all
points at once: values at a point depend on the copy of that point alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

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


def _copies(parameter: Tensor, z: Tensor) -> Tensor:
    """Return a parameter for each point of z, to differentiate by."""
    return parameter.detach().expand(z.shape[1], *parameter.shape).requires_grad_()


def network_jets(
    network: Network, x: Float[Tensor, "points inputs"], monomials: Monomials
) -> tuple[Float[Tensor, "components points outputs"], list[Tensor]]:
    """Return the jets of a network at x, and its trained parameters, a copy for each point.

    Call it under `torch.enable_grad`.

    Raises:
        UsageError: For networks that are neither MLPs nor KANs without a base.
    """
    z = monomials.variables(x)
    parameters = list[Tensor]()
    if isinstance(network, MLP):
        for layer in network.linear:
            if parameters:
                act = ACTIVATIONS[network.activation]
                z = monomials.compose(derivatives(act, z[0], monomials.order), z)
            weight, bias = (_copies(each, z) for each in layer.parameters())
            jet = torch.einsum("mni,noi->mno", z, weight)
            z = torch.cat([jet[:1] + bias, jet[1:]])
            parameters += [weight, bias]
        return z, parameters
    for layer in network.edge_layers:
        if layer.spec.base != "zero":
            raise UsageError("Equations are solved by KANs without a base function, base=zero.")
        parts = [local_basis(z[0], layer.grid, order) for order in range(monomials.order + 1)]
        basis = monomials.compose([values for values, _ in parts], z)
        out, into = layer.mask.nonzero().unbind(1)
        coefficients = _copies(layer.coefficients[out, into], z)
        parameters.append(coefficients)
        local = parts[0][1][..., None] + torch.arange(basis.shape[-1], device=z.device)
        scale = layer.scales()[1].detach()[out, into, None]
        factors = coefficients.gather(2, local[:, into]) * scale
        terms = torch.einsum("mnek,nek->mne", basis[:, :, into], factors)
        z = terms.new_zeros(*terms.shape[:2], layer.outputs).index_add(2, out, terms)
    if not parameters:
        raise UsageError(
            f"Equations are solved by networks of kind kan or mlp, not {network.kind}."
        )
    return z, parameters


def point_jacobian(
    total: Float[Tensor, ""], parameters: Sequence[Tensor]
) -> Float[Tensor, "points unknowns"]:
    """Return the derivatives of values by the parameters of their points; `total` is their sum."""
    return torch.cat([each.flatten(1) for each in torch.autograd.grad(total, parameters)], dim=1)
