"""The curvature of an objective, block by block: the metric in which LBFGS measures its steps.

Coefficients of B-splines are badly scaled unknowns: the condition number of their Gram matrix over the data grows with
the degree, and without bound where data are few. The Gauss-Newton matrix of mean |f - y|^2 / size^2 + weight * penalty
has for the coefficients of edge (o, i) the block

    2 w_s^2 (E[u_o^2 B_i B_i^T] / size^2 + weight D_i^T D_i),    u_o = d output / d node o.

LBFGS begins its recursion with the blocks' inverses (Nocedal and Wright, Numerical Optimization, section 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from kanrun.engine.layers import SplineLayer
from kanrun.engine.layers.bases import Base
from kanrun.engine.layers.functional import nodes_of
from kanrun.engine.networks import Network
from kanrun.engine.splines import Grid, design_matrix, local_basis
from kanrun.engine.splines.basis_products import slope, table_index
from kanrun.engine.splines.least_squares import difference_bands, difference_operator, penalty_order
from kanrun.engine.training.data import Samples


@dataclass(frozen=True)
class CurvaturePolicy:
    """Samples, damping and limits of the curvature."""

    samples: int = 1024  #: that expectations are taken over
    outputs: int = 8  #: up to which u is exact (else for as many random sums of them)
    #: Added to a block: this share of its diagonal, and of the diagonal's mean the objective, within the bounds.
    #: Damping that falls with the residual is Levenberg-Marquardt's (Yamashita and Fukushima, 2001): far away,
    #: functions that few data see must not run ahead.
    damping: float = 1e-4
    least_unseen: float = 1e-6
    most_unseen: float = 1e-2
    #: Multiplications and numbers of a layer's blocks up to which they are kept whole; beyond, their diagonals.
    work: float = 2e9
    numbers: int = 1 << 23
    least: float = 1e-6  #: curvatures count as at least this share of the layer's largest


class Curvature:
    """The approximate inverse Hessian of mean |f - y|^2 / size^2 + weight * penalty at the network's parameters.

    `value` is the objective there, `order` the penalty's, by default degree + 2. The identity for parameters of
    networks other than KANs.
    """

    def __init__(
        self,
        network: Network,
        samples: Samples,
        value: float,
        size: float,
        weight: float = 0.0,
        order: int | None = None,
        policy: CurvaturePolicy = CurvaturePolicy(),
    ) -> None:
        self._policy = policy
        self._unseen = min(max(value, policy.least_unseen), policy.most_unseen)
        self._blocks: dict[nn.Parameter, Tensor] = {}
        self._diagonals: dict[nn.Parameter, Tensor] = {}
        if network.edge_layers:
            part = samples.part(slice(None, None, -(-len(samples) // policy.samples)))
            counts = 1.0 if part.roots is None else part.roots.double().square()
            for layer, (at, each) in zip(
                network.edge_layers, _steepness(network, part.x, policy), strict=True
            ):
                self._add(layer, at.double(), counts * each.double() / size**2, (weight, order))

    @property
    def known(self) -> bool:
        """Whether this is more than the identity."""
        return bool(self._diagonals)

    def solve(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """The inverse's block of `parameter` times `gradient`, of the same shape."""
        if parameter in self._blocks:
            return (self._blocks[parameter] @ gradient[..., None])[..., 0]
        return gradient * self._diagonals[parameter] if parameter in self._diagonals else gradient

    def _add(
        self, layer: SplineLayer, x: Tensor, steepness: Tensor, penalty: tuple[float, int | None]
    ) -> None:
        weight, order = penalty
        squares = _floored(layer.scales()[1].detach().double().square(), self._policy)
        grid, order = layer.grid.double(), order or penalty_order(layer.spec.degree)
        edges, functions = layer.mask.numel(), layer.grid.functions
        coefficients = layer.coefficients
        if (
            edges * functions**3 <= self._policy.work
            and edges * functions**2 <= self._policy.numbers
        ):
            gram, operator = _gram(layer, x, steepness), difference_operator(grid, order)
            inverse = _inverted(
                (gram + weight * operator.mT @ operator) * (2 * squares[..., None, None]),
                self._unseen,
                self._policy,
            )
            self._blocks[coefficients] = inverse.to(coefficients)
            c = coefficients.detach().double()[..., None]
            spline = (c.mT @ gram @ c)[..., 0, 0]
        else:
            gram = _gram_diagonal(layer, x, steepness)
            damped = gram + self._policy.damping * gram + self._unseen * gram.mean(-1, keepdim=True)
            inverses = _inverse(
                (damped + weight * _column_squares(grid, order)) * squares[..., None], self._policy
            )
            self._diagonals[coefficients] = inverses.to(coefficients)
            spline = (coefficients.detach().double().square() * gram).sum(-1)
        base = (
            steepness.T
            @ Base(layer.spec.base, layer.grid.double(), layer.spec.base_goes_on)(x).square()
            / x.shape[0]
        )
        if layer.spec.edge_scaling == "single":
            self._diagonals[layer.weight] = _inverse(base + spline, self._policy).to(coefficients)
        else:
            self._diagonals[layer.base_weight] = _inverse(base, self._policy).to(coefficients)
            self._diagonals[layer.spline_weight] = _inverse(spline, self._policy).to(coefficients)


def _gram(
    layer: SplineLayer, x: Tensor, steepness: Tensor
) -> Float[Tensor, "out inputs functions functions"]:
    """E[u_o^2 B_i B_i^T] of every edge."""
    design = design_matrix(x, layer.grid.double())
    return torch.stack([(design * each[:, None]).mT @ design for each in steepness.T]) / x.shape[0]


def _gram_diagonal(
    layer: SplineLayer, x: Tensor, steepness: Tensor
) -> Float[Tensor, "out inputs functions"]:
    basis, interval = local_basis(x, layer.grid.double())
    functions = layer.grid.functions
    index = table_index(interval, basis.shape[-1], functions)
    sums = slope(1, basis.square().flatten(1), steepness, index, layer.inputs * functions)
    return sums.T.reshape(layer.coefficients.shape) / x.shape[0]


def _steepness(network: Network, x: Tensor, policy: CurvaturePolicy) -> list[tuple[Tensor, Tensor]]:
    """What reaches each layer, and u^2 of its sums (samples, outputs), summed over the network's outputs."""
    reaching = [x.detach()]
    with torch.enable_grad():
        nodes: list[Tensor] = []
        for layer, products in zip(network.edge_layers, network.products, strict=True):
            y = layer(reaching[-1])
            nodes.append(y if y.requires_grad else y.requires_grad_())
            reaching.append(nodes_of(nodes[-1], products))
        y = reaching[-1]
        total = [torch.zeros_like(node) for node in nodes]
        for direction in _directions(y, policy):
            slopes = torch.autograd.grad(y, nodes, direction.expand_as(y), retain_graph=True)
            total = [before + slope.square() for before, slope in zip(total, slopes, strict=True)]
    return [(at.detach(), each.detach()) for at, each in zip(reaching, total, strict=False)]


def _directions(y: Tensor, policy: CurvaturePolicy) -> Tensor:
    """Rows v with sum v v^T = 1, or so in expectation where there are many outputs."""
    outputs = y.shape[1]
    if outputs <= policy.outputs:
        return torch.eye(outputs, dtype=y.dtype, device=y.device)
    signs = torch.randint(2, (policy.outputs, outputs), generator=Generator().manual_seed(0))
    sums: Tensor = (2 * signs - 1).to(y) / policy.outputs**0.5
    return sums


def _inverted(blocks: Tensor, unseen: float, policy: CurvaturePolicy) -> Tensor:
    """The inverses of damped blocks."""
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    least = max(policy.least**2 * float(diagonal.amax()), 1e-300)
    added = (policy.damping * diagonal + unseen * diagonal.mean(-1, keepdim=True)).clamp(min=least)
    inverse: Tensor = torch.cholesky_inverse(
        torch.linalg.cholesky(blocks + torch.diag_embed(added))
    )
    return inverse


def _column_squares(grid: Grid, order: int) -> Float[Tensor, "inputs functions"]:
    """Squared norms of the columns of `difference_operator`, without the matrix."""
    bands = difference_bands(grid, order)
    total = bands.new_zeros(bands.shape[0], grid.functions)
    for term, band in enumerate(bands.square().unbind(2)):
        total[:, term : term + bands.shape[1]] += band
    return total


def _floored(curvatures: Tensor, policy: CurvaturePolicy) -> Tensor:
    return curvatures.clamp(min=max(policy.least * float(curvatures.amax()), 1e-300))


def _inverse(curvatures: Tensor, policy: CurvaturePolicy) -> Tensor:
    return 0.5 / _floored(curvatures, policy)
