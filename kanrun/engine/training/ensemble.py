"""Several KANs of one shape trained side by side: quick Levenberg-Marquardt steps, batched over the networks.

A start on a coarse grid is a small problem, whose time goes into calls rather than arithmetic; a batch of them costs
little more than one. Each network has its own damping and takes the step that it would take alone: the quick step of
`kanrun.engine.training.data_fitting`. Grids are coarse here, so bases and Jacobians are dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kanrun.engine.layers import Base, SplineLayer
from kanrun.engine.networks import KAN, get_unknowns, set_unknowns
from kanrun.engine.splines import Grid, dense_rows, local_basis
from kanrun.engine.training.data import Samples
from kanrun.engine.training.penalty import smoothness_rows

#: Numbers of a dense Jacobian held at once: what stays in a core's cache.
PIECE = 1 << 18
#: Dampings tried on one linearisation, the factor between them, and the largest and smallest.
TRIES, RAISE, LARGEST, SMALLEST = 6, 8.0, 1e6, 1e-13


@dataclass(frozen=True)
class _Layer:
    """Layer i of every network: knots (networks, inputs, knots), scales (networks, out, inputs)."""

    knots: Tensor
    base_weight: Tensor
    spline_weight: Tensor
    like: SplineLayer

    @property
    def size(self) -> int:
        """Unknowns of one network's layer: coefficients, then what weighs the base."""
        return self.spline_weight[0].numel() * (self.like.grid.functions + (self.like.trained_base is not None))

    @property
    def grid(self) -> Grid:
        """The networks' inputs, side by side, as one grid's inputs."""
        like = self.like.grid
        return Grid(self.knots.flatten(0, 1), like.degree, like.uniform, like.extrapolation)

    def part(self, at: Tensor) -> _Layer:
        return _Layer(self.knots[at], self.base_weight[at], self.spline_weight[at], self.like)

    def at(self, unknowns: Float[Tensor, "networks size"]) -> _Edges:
        """The layer with these unknowns."""
        edges = self.spline_weight[0].numel()
        free, weights = unknowns[:, : edges * self.like.grid.functions], unknowns[:, edges * self.like.grid.functions :]
        base, spline = self.base_weight, self.spline_weight
        if self.like.trained_base is not None:
            base = weights.view_as(base)
            spline = base if self.like.spec.scale == "single" else spline
        coefficients = free.view(*spline.shape, self.like.grid.functions)
        return _Edges(self, coefficients, coefficients * spline[..., None], base, spline)

    def basis(
        self, x: Float[Tensor, "networks samples inputs"], derivative: int
    ) -> Float[Tensor, "networks samples inputs functions"]:
        """The dense basis of every network at its own x."""
        grid = self.grid
        values, interval = local_basis(_side_by_side(x), grid, derivative)
        return _apart(dense_rows(values, interval, grid.functions), len(x))

    def base(self, x: Tensor, derivative: int) -> Float[Tensor, "networks samples inputs"]:
        """The base of every network at its own x, or its slope."""
        base = Base(self.like.spec.base, self.grid, self.like.spec.base_goes_on)
        flat = _side_by_side(x)
        return _apart(base.slope(flat) if derivative else base(flat), len(x))


@dataclass(frozen=True)
class _Edges:
    """A layer with numbers: `table` is coefficients * w_s, both (networks, out, inputs, functions)."""

    layer: _Layer
    coefficients: Tensor
    table: Tensor
    base_weight: Tensor
    spline_weight: Tensor

    def forward(self, basis: Tensor, base: Tensor) -> Float[Tensor, "networks samples out"]:
        return basis.flatten(2) @ self.table.flatten(2).mT + base @ self.base_weight.mT

    def slopes(self, x: Tensor) -> Float[Tensor, "networks samples out inputs"]:
        """d y_o / d x_i."""
        slopes = torch.einsum("bnif,boif->bnoi", self.layer.basis(x, 1), self.table)
        return slopes + self.layer.base(x, 1)[:, :, None] * self.base_weight[:, None]

    def rows(self, block: Tensor, upstream: Tensor, basis: Tensor, base: Tensor) -> None:
        """Write the layer's columns of the Jacobian (networks, samples, outputs, size) into `block`."""
        count = self.coefficients[0].numel()
        factors = upstream[..., None] * self.spline_weight[:, None, None]  # (networks, samples, outputs, out, inputs)
        edges = block[..., :count].unflatten(-1, (*factors.shape[-2:], -1))
        torch.mul(factors[..., None], basis[:, :, None, None], out=edges)
        if self.layer.like.trained_base is not None:
            each = base[:, :, None]
            if self.layer.like.spec.scale == "single":
                each = each + torch.einsum("bnif,boif->bnoi", basis, self.coefficients)
            block[..., count:] = (upstream[..., None] * each[:, :, None]).flatten(-2)


def _side_by_side(x: Float[Tensor, "networks samples inputs"]) -> Float[Tensor, "samples side"]:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _apart(values: Float[Tensor, "samples side ..."], networks: int) -> Float[Tensor, "networks samples inputs ..."]:
    apart: Tensor = values.unflatten(1, (networks, -1)).transpose(0, 1)
    return apart


@dataclass(frozen=True)
class _Piece:
    """Some samples, and the first layer's basis at them: of one network for all where they share its grid."""

    x: Tensor
    y: Tensor
    basis: Float[Tensor, "networks samples inputs functions"]
    base: Float[Tensor, "networks samples inputs"]

    def part(self, at: Tensor) -> _Piece:
        return self if len(self.basis) == 1 else _Piece(self.x, self.y, self.basis[at], self.base[at])


class Ensemble:
    """`networks` of one shape and one number of intervals, and their unknowns as (networks, unknowns).

    The objective of each is mean |f(x; u) - y|^2 / size^2 + weight P(u), as in `LevenbergMarquardt`. `loss` and
    `damping` are (networks,); a network whose output is not finite has the loss infinity and is left alone.
    """

    def __init__(
        self, networks: Sequence[KAN], samples: Samples, size: float, weight: float, damping: Float[Tensor, " networks"]
    ) -> None:
        self.networks, self.samples, self.damping = list(networks), samples, damping.clone()
        self._scale = 1 / (size * samples.y.numel() ** 0.5)
        self._layers = [_stacked(layers) for layers in zip(*networks, strict=True)]
        self.unknowns = torch.stack([get_unknowns(network) for network in networks])
        self._pieces = self._cut()
        rough = [smoothness_rows(network) for network in networks]
        self._differences = weight**0.5 * torch.stack([rows.values for rows in rough]), rough[0].index
        self._rough = torch.stack([weight * rows.gram() for rows in rough])
        self.loss = self._objective(self.unknowns, torch.arange(len(self.networks), device=self.unknowns.device))

    def step(self, active: Int[Tensor, " some"]) -> Bool[Tensor, " some"]:
        """One quick step of the networks at `active`; says which of them found a lower objective."""
        gram, gradient = self._linearised(active)
        gradient = gradient + (self._rough[active] @ self.unknowns[active, :, None])[..., 0]
        scale = gram.diagonal(dim1=1, dim2=2)
        scale = scale.clamp(min=1e-300).maximum(1e-30 * scale.amax(1, keepdim=True)).rsqrt()
        gram = gram * scale[:, None] * scale[..., None]
        left = torch.arange(len(active), device=active.device)
        for _ in range(TRIES):
            at = active[left]
            step = _solved(gram[left], scale[left], gradient[left], self.damping[at])
            tried = self.unknowns[at] + step
            loss = self._objective(tried, at)
            lower = loss < self.loss[at]
            self._accept(at[lower], tried[lower], loss[lower], -(gradient[left] * step).sum(1)[lower])
            self.damping[at[~lower]] = (self.damping[at[~lower]] * RAISE).clamp(max=LARGEST)
            left = left[~lower]
            if not len(left):
                break
        found = torch.ones_like(active, dtype=torch.bool)
        found[left] = False
        return found

    def write_back(self) -> None:
        """Give the networks their unknowns."""
        for network, unknowns in zip(self.networks, self.unknowns, strict=True):
            set_unknowns(network, unknowns)

    def _accept(self, at: Tensor, tried: Tensor, loss: Tensor, expected: Tensor) -> None:
        """Take the steps; the damping follows the gain, the share of the linear model's decrease that came true."""
        gain = (self.loss[at] - loss) / expected.clamp(min=1e-300)
        shrink = torch.where(gain > 0.75, 10.0, torch.where(gain > 0.25, 4.0, 1.0)).to(loss)
        self.damping[at] = (self.damping[at] / shrink).clamp(min=SMALLEST)
        self.unknowns[at], self.loss[at] = tried, loss

    def _objective(self, unknowns: Tensor, at: Tensor) -> Tensor:
        total = unknowns.new_zeros(len(at))
        layers = [layer.part(at) for layer in self._layers]
        for piece in self._pieces:
            output = _values(layers, unknowns, piece.part(at))[0][-1]
            total += ((output - piece.y) * self._scale).square().sum((1, 2))
        values, index = self._differences
        total += (unknowns[:, index] * values[at]).sum(-1).square().sum(1)
        return torch.where(total.isfinite(), total, torch.inf)

    def _linearised(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """(J^T J + weight D^T D, J^T r) of the networks at `at`."""
        unknowns, layers = self.unknowns[at], [layer.part(at) for layer in self._layers]
        gram, gradient = self._rough[at].clone(), torch.zeros_like(unknowns)
        for piece in self._pieces:
            residual, jacobian = _rows(layers, unknowns, piece.part(at))
            gram.baddbmm_(jacobian.mT, jacobian, alpha=self._scale**2)
            gradient += (residual[:, None] @ jacobian)[:, 0] * self._scale**2
        return gram, gradient

    def _cut(self) -> list[_Piece]:
        first = self._layers[0]
        alike = bool((first.knots == first.knots[:1]).all())
        first = first.part(torch.arange(1 if alike else len(self.networks), device=first.knots.device))
        each = max(1, PIECE // (self.unknowns.numel() * self.samples.y.shape[1]))
        pairs = zip(self.samples.x.split(each), self.samples.y.split(each), strict=True)
        wide = [(x.expand(len(first.knots), -1, -1), x, y) for x, y in pairs]
        return [_Piece(x, y, first.basis(each, 0), first.base(each, 0)) for each, x, y in wide]


def _stacked(layers: Sequence[SplineLayer]) -> _Layer:
    """One layer of each network, side by side."""
    knots, scales = [layer.knots for layer in layers], [layer.scales() for layer in layers]
    base, spline = (torch.stack([pair[i].detach() for pair in scales]) for i in (0, 1))
    return _Layer(torch.stack(knots), base, spline, layers[0])


def _values(
    layers: list[_Layer], unknowns: Tensor, piece: _Piece
) -> tuple[list[Tensor], list[tuple[_Edges, Tensor, Tensor]]]:
    """What reaches each layer (networks, samples, inputs), and the output last; each layer, its basis and its base."""
    values, made = [piece.x.expand(len(unknowns), -1, -1)], []
    for layer, part in zip(layers, unknowns.split([layer.size for layer in layers], 1), strict=True):
        edges, basis, base = layer.at(part), piece.basis, piece.base
        if layer is not layers[0]:
            basis, base = layer.basis(values[-1], 0), layer.base(values[-1], 0)
        made.append((edges, basis, base))
        values.append(edges.forward(basis, base))
    return values, made


def _rows(layers: list[_Layer], unknowns: Tensor, piece: _Piece) -> tuple[Tensor, Tensor]:
    """Residuals (networks, samples outputs) and their Jacobian (networks, samples outputs, unknowns)."""
    (*reaching, output), made = _values(layers, unknowns, piece)
    sizes, outputs = [layer.size for layer in layers], output.shape[-1]
    jacobian = output.new_empty(*output.shape, unknowns.shape[1])
    upstream = torch.eye(outputs, dtype=output.dtype, device=output.device).expand(*output.shape, -1)
    parts = zip(jacobian.split(sizes, -1), reaching, made, strict=True)
    for block, values, (edges, basis, base) in reversed(list(parts)):
        edges.rows(block, upstream, basis, base)
        if edges.layer is not layers[0]:
            upstream = upstream @ edges.slopes(values)
    return (output - piece.y).flatten(1), jacobian.flatten(1, 2)


def _solved(gram: Tensor, scale: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """The damped steps; not finite where the matrix is not positive definite."""
    gram = gram.clone()
    gram.diagonal(dim1=1, dim2=2).copy_((1 + damping[:, None]).expand_as(scale))
    lower, failed = torch.linalg.cholesky_ex(gram)
    step = -scale * torch.cholesky_solve((scale * gradient)[..., None], lower)[..., 0]
    return torch.where((failed == 0)[:, None], step, torch.nan)
