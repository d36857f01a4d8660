"""Truncated Taylor series of functions of one to three variables, and their way through a layer of edges.

A *jet* holds at each point the Taylor coefficients of a function: component a is (1 / a!) d^a f / dx^a for each
multi-index a of a `Monomials` set, component 0 is the value. Sums of jets are sums of tensors; products are truncated
products of polynomials; a univariate function enters by its own Taylor series (Faa di Bruno's formula in the form of
composed series; Griewank and Walther, Evaluating Derivatives, ch. 13). A jet is a tensor (components, points, width).
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

#: A derivative's multi-index: how often each variable is differentiated.
Index = tuple[int, ...]


@dataclass(frozen=True)
class Monomials:
    """The multi-indices that a jet keeps: with each index all smaller ones, the zero index first."""

    indices: tuple[Index, ...]

    @classmethod
    def covering(cls, needed: Iterable[Index], variables: int) -> Monomials:
        """The smallest set that has every index of `needed` for functions of `variables` variables."""
        below: set[Index] = {(0,) * variables}
        for index in needed:
            below |= set(itertools.product(*(range(each + 1) for each in index)))
        return cls(tuple(sorted(below, key=lambda index: (sum(index), index))))

    @property
    def order(self) -> int:
        """The highest total order of a derivative."""
        return sum(self.indices[-1])

    def position(self, index: Index) -> int:
        """Where the component of `index` lies."""
        return self.indices.index(index)

    def factorial(self, index: Index) -> int:
        """a!, by which a component is multiplied to become the derivative."""
        return math.prod(math.factorial(each) for each in index)

    @cached_property
    def products(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each component the pairs of components whose product falls on it."""
        place = {index: number for number, index in enumerate(self.indices)}
        pairs: list[list[tuple[int, int]]] = [[] for _ in self.indices]
        for (i, a), (j, b) in itertools.product(enumerate(self.indices), repeat=2):
            if (at := place.get(tuple(p + q for p, q in zip(a, b, strict=True)))) is not None:
                pairs[at].append((i, j))
        return tuple(map(tuple, pairs))

    def variables(self, x: Float[Tensor, "points variables"]) -> Float[Tensor, "components points variables"]:
        """The jets of the variables themselves at `x`."""
        jet = x.new_zeros(len(self.indices), *x.shape)
        jet[0] = x
        for number, index in enumerate(self.indices):
            if sum(index) == 1:
                jet[number, :, index.index(1)] = 1
        return jet

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """The jet of the product."""
        return torch.stack(
            [sum((a[i] * b[j] for i, j in pairs[1:]), a[pairs[0][0]] * b[pairs[0][1]]) for pairs in self.products]
        )

    def powers(self, z: Tensor) -> list[Tensor]:
        """(z - z_0)^p for p = 1 ... order, z_0 the value: what a Taylor series around z_0 multiplies."""
        shift = torch.cat([torch.zeros_like(z[:1]), z[1:]])
        powers: list[Tensor] = []
        for _ in range(self.order):
            powers.append(self.multiply(powers[-1], shift) if powers else shift)
        return powers

    def compose(self, derivatives: Sequence[Tensor], z: Tensor) -> Tensor:
        """The jet of f(z) from f(z_0), f'(z_0), ... (points, width, ...), one for each order from 0 on.

        Trailing axes of `derivatives` count functions of the same argument.
        """
        extra = derivatives[0].ndim - z.ndim + 1
        total = None
        for p, power in enumerate(self.powers(z), start=1):
            term = power.reshape(*power.shape, *(1,) * extra) * (derivatives[p] / math.factorial(p))
            total = term if total is None else total + term
        value = derivatives[0][None]
        if total is None:
            return value
        return torch.cat([value + total[:1], total[1:]])


def derivatives(function: Callable[[Tensor], Tensor], z: Tensor, order: int) -> list[Tensor]:
    """f, f', ... up to `order` of an elementwise function, by repeated reverse mode; differentiable in z."""
    with torch.enable_grad():
        at = z if z.requires_grad else z.detach().requires_grad_()
        found = [function(at)]
        for _ in range(order):
            (slope,) = torch.autograd.grad(found[-1].sum(), at, create_graph=True)
            found.append(slope)
    return found
