"""Truncated Taylor series of functions, and their propagation through a network.

A *jet* holds the Taylor coefficients of functions at each point, as a tensor of shape (components,
points, width). Component a is (1 / a!) d^a f / dx^a, one for each multi-index a of a `Monomials`
set; component 0 is the value. The jet of a sum is the sum of the tensors, and the jet of a product
is the truncated product of polynomials. The jet of f(z), with a univariate function f, is the
Taylor series of f at the jet of z (Griewank and Walther, Evaluating Derivatives, ch. 13).

Every point gets a copy of the network's parameters. The value at a point then depends only on the
copy of this point, so that one backward pass computes the Jacobian rows of all points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.splines import local_basis
from kanrun.errors import UsageError

#: Multi-index of a derivative: how often each variable is differentiated.
Index = tuple[int, ...]


@dataclass(frozen=True)
class Monomials:
    """Multi-indices of the components of a jet.

    The zero index comes first. If an index is in the set, so are all indices that are nowhere
    larger: with (1, 2) also (0, 0), (0, 1), (0, 2), (1, 0) and (1, 1).
    """

    indices: tuple[Index, ...]

    @classmethod
    def covering(cls, needed: Iterable[Index], variables: int) -> Monomials:
        """Return the smallest set that contains the indices `needed` of length `variables`."""
        below: set[Index] = {(0,) * variables}
        for index in needed:
            below |= set(itertools.product(*(range(each + 1) for each in index)))
        return cls(tuple(sorted(below, key=lambda index: (sum(index), index))))

    @property
    def order(self) -> int:
        """Highest order of a derivative in the set, summed over the variables."""
        return sum(self.indices[-1])

    def factorial(self, index: Index) -> int:
        """Return a!, the ratio of the derivative with multi-index a to its Taylor coefficient."""
        return math.prod(map(math.factorial, index))

    def derivative(self, jet: Tensor, index: Index) -> Tensor:
        """Extract the derivative with the multi-index `index` from a jet, shape (points, width)."""
        return jet[self.indices.index(index)] * self.factorial(index)

    @cached_property
    def products(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each component of a product, the pairs of components that contribute to it."""
        place = {index: number for number, index in enumerate(self.indices)}
        pairs: list[list[tuple[int, int]]] = [[] for _ in self.indices]
        for (i, a), (j, b) in itertools.product(enumerate(self.indices), repeat=2):
            if (at := place.get(tuple(p + q for p, q in zip(a, b, strict=True)))) is not None:
                pairs[at].append((i, j))
        return tuple(map(tuple, pairs))

    def variables(
        self, x: Float[Tensor, "points variables"]
    ) -> Float[Tensor, "components points variables"]:
        """Return the jets of the functions x -> x_i at the points `x`."""
        slopes = [[float(sum(a) == 1 == a[i]) for i in range(x.shape[1])] for a in self.indices]
        jet = x.new_tensor(slopes)[:, None].repeat(1, len(x), 1)
        jet[0] = x
        return jet

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the jet of the product of two functions with the jets `a` and `b`."""
        return torch.stack(
            [
                sum((a[i] * b[j] for i, j in pairs[1:]), a[pairs[0][0]] * b[pairs[0][1]])
                for pairs in self.products
            ]
        )

    def compose(self, derivatives: Sequence[Tensor], z: Tensor) -> Tensor:
        """Return the jet of f(z) from the jet `z` and the derivatives of f at the value of z.

        `derivatives` has one tensor per order of f, from 0 on, in the shape of the value of z. If
        the tensors have additional last axes, these hold several functions f of the same argument.
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


def _copies(parameter: Tensor, z: Tensor) -> Tensor:
    """Copy a parameter for each point of the jet `z`, and track gradients of the copies."""
    return parameter.detach().expand(z.shape[1], *parameter.shape).requires_grad_()


def network_jets(
    network: Network, x: Float[Tensor, "points inputs"], monomials: Monomials
) -> tuple[Float[Tensor, "components points outputs"], list[Tensor]]:
    """Compute the jets of a network's outputs at `x`.

    Call it under `torch.enable_grad`.

    Returns:
        The jets, and the trained parameters with one copy per point, shape (points, ...), with
        respect to which `point_jacobian` differentiates.

    Raises:
        UsageError: If the network is not a KAN without a base function.
    """
    z = monomials.variables(x)
    parameters = list[Tensor]()
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
        raise UsageError(f"Equations are solved by networks of kind kan, not {network.kind}.")
    return z, parameters


def point_jacobian(
    total: Float[Tensor, ""], parameters: Sequence[Tensor]
) -> Float[Tensor, "points unknowns"]:
    """Return the Jacobian of one value per point with respect to the network's parameters.

    Args:
        total: Sum of the values over all points.
        parameters: Parameters with one copy per point, from `network_jets`.
    """
    return torch.cat([each.flatten(1) for each in torch.autograd.grad(total, parameters)], dim=1)
