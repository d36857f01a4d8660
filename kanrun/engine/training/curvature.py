"""The curvature of an objective, block by block: the metric in which LBFGS measures its steps.

Coefficients of B-splines are badly scaled unknowns: the condition number of their Gram matrix over
the data grows with the degree, and without bound where data are few. The Gauss-Newton matrix of
mean |f - y|^2 / size^2 + weight * penalty has for the coefficients of edge (o, i) the block

    2 w_s^2 (E[u_o^2 B_i B_i^T] / size^2 + weight D_i^T D_i),    u_o = d output / d node o.

LBFGS begins its recursion with the blocks' inverses (Nocedal and Wright, Numerical Optimization,
section 7.2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from kanrun.engine.layers import SplineLayer, base_values, nodes_of
from kanrun.engine.networks import Network
from kanrun.engine.splines import (
    design_matrix,
    difference_bands,
    difference_columns,
    difference_operator,
    local_basis,
    penalty_order,
    slope,
    table_index,
)
from kanrun.engine.training.first_order import Objective

#: Samples that expectations are taken over.
SAMPLES = 1024
#: Number of outputs up to which u is exact; above it, this many random sums of them are used.
OUTPUTS = 8
# Added to a block: the fraction DAMPING of its diagonal, and of the diagonal's mean the objective,
# within the bounds UNSEEN. Damping that falls with the residual is Levenberg-Marquardt's (Yamashita
# and Fukushima, 2001): far from the solution, functions with few samples must not move too far.
DAMPING, UNSEEN = 1e-4, (1e-6, 1e-2)
#: Multiplications and numbers of a layer's blocks up to which they are kept whole; beyond, their
#: diagonals.
WORK, NUMBERS = 2e9, 1 << 23
#: Curvatures count as at least this fraction of the layer's largest, and as TINY.
LEAST, TINY = 1e-6, 1e-300


class Curvature:
    """The approximate inverse Hessian of an objective at the network's parameters.

    `value` is the objective there. The identity for parameters of networks other than KANs.
    """

    def __init__(self, network: Network, objective: Objective, value: float) -> None:
        low, high = UNSEEN
        self._unseen, self._penalty = min(max(value, low), high), objective.penalty
        self._blocks: dict[nn.Parameter, Tensor] = {}
        self._diagonals: dict[nn.Parameter, Tensor] = {}
        if network.edge_layers:
            samples = objective.samples
            part = samples.part(slice(None, None, -(-len(samples) // SAMPLES)))
            counts = 1.0 if part.roots is None else part.roots.double().square()
            for layer, (at, each) in zip(
                network.edge_layers, _steepness(network, part.x), strict=True
            ):
                self._add(layer, at.double(), counts * each.double() / objective.size**2)

    @property
    def known(self) -> bool:
        """Whether this is more than the identity."""
        return bool(self._diagonals)

    def solve(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return the inverse's block of `parameter` times `gradient`, of the same shape."""
        if parameter in self._blocks:
            return (self._blocks[parameter] @ gradient[..., None])[..., 0]
        return gradient * self._diagonals[parameter] if parameter in self._diagonals else gradient

    def _add(self, layer: SplineLayer, x: Tensor, steepness: Tensor) -> None:
        weight, grid = self._penalty.weight, layer.grid.double()
        order = self._penalty.order or penalty_order(layer.spec.degree)
        squares = _floored(layer.scales()[1].detach().double().square())
        edges, functions, coefficients = layer.mask.numel(), grid.functions, layer.coefficients
        c = coefficients.detach().double()
        if edges * functions**3 <= WORK and edges * functions**2 <= NUMBERS:
            design, operator = design_matrix(x, grid), difference_operator(grid, order)
            gram = torch.stack([(design * u[:, None]).mT @ design for u in steepness.T]) / len(x)
            blocks = (gram + weight * operator.mT @ operator) * (2 * squares[..., None, None])
            self._blocks[coefficients] = _inverted(blocks, self._unseen).to(coefficients)
            spline = (c[..., None, :] @ gram @ c[..., None])[..., 0, 0]
        else:
            gram = _gram_diagonal(layer, x, steepness)
            penalty = difference_bands(grid, order).square().flatten(1)
            at = difference_columns(difference_bands(grid, order)).reshape(1, -1)
            roughness = gram.new_zeros(layer.inputs, functions)
            roughness.scatter_add_(1, at.expand_as(penalty), penalty)
            damped = gram + DAMPING * gram + self._unseen * gram.mean(-1, keepdim=True)
            inverses = _inverse((damped + weight * roughness) * squares[..., None])
            self._diagonals[coefficients] = inverses.to(coefficients)
            spline = (c.square() * gram).sum(-1)
        base = steepness.T @ base_values(layer.spec.base, grid, x).square() / len(x)
        diagonals = {"base_weight": base, "spline_weight": spline}
        if layer.spec.edge_scaling == "single":
            diagonals = {"weight": base + spline}
        for name, curvatures in diagonals.items():
            self._diagonals[getattr(layer, name)] = _inverse(curvatures).to(coefficients)


def _gram_diagonal(
    layer: SplineLayer, x: Tensor, steepness: Tensor
) -> Float[Tensor, "out inputs functions"]:
    """Return the diagonals of E[u_o^2 B_i B_i^T] of every edge."""
    basis, interval = local_basis(x, layer.grid.double())
    functions = layer.grid.functions
    index = table_index(interval, basis.shape[-1], functions)
    sums = slope(1, basis.square().flatten(1), steepness, index, layer.inputs * functions)
    return sums.T.reshape(layer.coefficients.shape) / x.shape[0]


def _steepness(network: Network, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's inputs, and u^2 of its sums, added up over the network's outputs."""
    reaching = [x.detach()]
    with torch.enable_grad():
        nodes: list[Tensor] = []
        for layer, products in zip(network.edge_layers, network.products, strict=True):
            y = layer(reaching[-1])
            nodes.append(y if y.requires_grad else y.requires_grad_())
            reaching.append(nodes_of(nodes[-1], products))
        y = reaching[-1]
        total = [torch.zeros_like(node) for node in nodes]
        for direction in _directions(y):
            slopes = torch.autograd.grad(y, nodes, direction.expand_as(y), retain_graph=True)
            total = [before + slope.square() for before, slope in zip(total, slopes, strict=True)]
    return [(at.detach(), each.detach()) for at, each in zip(reaching, total, strict=False)]


def _directions(y: Tensor) -> Tensor:
    """Return rows v with sum v v^T = 1, in expectation if there are many outputs."""
    outputs = y.shape[1]
    if outputs <= OUTPUTS:
        return torch.eye(outputs, dtype=y.dtype, device=y.device)
    signs = torch.randint(2, (OUTPUTS, outputs), generator=Generator().manual_seed(0))
    sums: Tensor = (2 * signs - 1).to(y) / OUTPUTS**0.5
    return sums


def _inverted(blocks: Tensor, unseen: float) -> Tensor:
    """Return the inverses of damped blocks."""
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    least = max(LEAST**2 * float(diagonal.amax()), TINY)
    added = (DAMPING * diagonal + unseen * diagonal.mean(-1, keepdim=True)).clamp(min=least)
    factor = torch.linalg.cholesky(blocks + torch.diag_embed(added))
    inverse: Tensor = torch.cholesky_inverse(factor)
    return inverse


def _floored(curvatures: Tensor) -> Tensor:
    return curvatures.clamp(min=max(LEAST * float(curvatures.amax()), TINY))


def _inverse(curvatures: Tensor) -> Tensor:
    return 0.5 / _floored(curvatures)
