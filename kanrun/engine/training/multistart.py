"""Multi-start on a coarse grid: train several random networks briefly, side by side, and keep the best.

Narrow and deep networks have bad minima; on a coarse grid a start costs little, and trying many is what prevents them.
Before each round of steps the hidden grids follow the range of what reaches them. Such a small problem's time goes into
calls rather than arithmetic, so that the fits of several KANs of one shape are one batch of least squares problems,
which costs little more than one. Each network has its own damping and takes the quick step that it would take alone.
Grids are coarse here, so bases and Jacobians are dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kanrun.engine.layers import SplineLayer
from kanrun.engine.layers.functional import by_sums, nodes_of
from kanrun.engine.least_squares import Linearisation, Problem, Stopping, minimise
from kanrun.engine.networks import Network
from kanrun.engine.splines import Grid, dense_rows, local_basis
from kanrun.engine.training.data import Samples, TrainingData, not_finite, output_scale
from kanrun.engine.training.data_fitting import DataFitting, Smoothing
from kanrun.engine.training.plan import MultistartPolicy, Plan
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached


@dataclass(frozen=True)
class _Layer:
    """Layer i of every network: knots (networks, inputs, knots), scales (networks, out, inputs).

    With numbers, `at`, it has coefficients and `table` = coefficients * w_s, (networks, out, inputs, functions).
    """

    knots: Tensor
    base_weight: Tensor
    spline_weight: Tensor
    like: SplineLayer
    products: int
    coefficients: Tensor
    table: Tensor

    @property
    def size(self) -> int:
        """Unknowns of one network's layer: coefficients, then what weighs the base."""
        return self.spline_weight[0].numel() * (
            self.like.grid.functions + (self.like.trained_base is not None)
        )

    @property
    def grid(self) -> Grid:
        """The networks' inputs, side by side, as one grid's inputs."""
        return replace(self.like.grid, knots=self.knots.flatten(0, 1))

    def part(self, at: list[int]) -> _Layer:
        numbers: dict[str, Any] = {
            key: value[at] for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **numbers)

    def at(self, unknowns: Float[Tensor, "networks size"]) -> _Layer:
        """The layer with these unknowns."""
        base, spline = self.base_weight, self.spline_weight
        free, weights = unknowns.tensor_split([spline[0].numel() * self.like.grid.functions], 1)
        if self.like.trained_base is not None:
            base = weights.view_as(base)
            spline = base if self.like.spec.edge_scaling == "single" else spline
        coefficients = free.view(*spline.shape, self.like.grid.functions)
        table = coefficients * spline[..., None]
        return replace(
            self, base_weight=base, spline_weight=spline, coefficients=coefficients, table=table
        )

    def basis(
        self, x: Float[Tensor, "networks samples inputs"], derivative: int
    ) -> Float[Tensor, "networks samples inputs functions"]:
        """The dense basis of every network at its own x."""
        grid = self.grid
        values, interval = local_basis(_side_by_side(x), grid, derivative)
        return _apart(dense_rows(values, interval, grid.functions), len(x))

    def base(self, x: Tensor, derivative: int) -> Float[Tensor, "networks samples inputs"]:
        """The base of every network at its own x, or its slope."""
        base = replace(self.like.base, grid=self.grid)
        return _apart((base.slope if derivative else base)(_side_by_side(x)), len(x))

    def forward(self, basis: Tensor, base: Tensor) -> Float[Tensor, "networks samples out"]:
        return basis.flatten(2) @ self.table.flatten(2).mT + base @ self.base_weight.mT

    def slopes(self, x: Tensor) -> Float[Tensor, "networks samples out inputs"]:
        """d y_o / d x_i."""
        slopes = torch.einsum("bnif,boif->bnoi", self.basis(x, 1), self.table)
        return slopes + self.base(x, 1)[:, :, None] * self.base_weight[:, None]

    def rows(self, block: Tensor, upstream: Tensor, basis: Tensor, base: Tensor) -> None:
        """Write the layer's columns of the Jacobian (networks, samples, outputs, size) into `block`."""
        count = self.coefficients[0].numel()
        factors = (
            upstream[..., None] * self.spline_weight[:, None, None]
        )  # (networks, samples, outputs, out, inputs)
        edges = block[..., :count].unflatten(-1, (*factors.shape[-2:], -1))
        torch.mul(factors[..., None], basis[:, :, None, None], out=edges)
        if self.like.trained_base is not None:
            each = base[:, :, None]
            if self.like.spec.edge_scaling == "single":
                each = each + torch.einsum("bnif,boif->bnoi", basis, self.coefficients)
            block[..., count:] = (upstream[..., None] * each[:, :, None]).flatten(-2)


def _side_by_side(x: Float[Tensor, "networks samples inputs"]) -> Float[Tensor, "samples side"]:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _apart(
    values: Float[Tensor, "samples side ..."], networks: int
) -> Float[Tensor, "networks samples inputs ..."]:
    apart: Tensor = values.unflatten(1, (networks, -1)).transpose(0, 1)
    return apart


@dataclass(frozen=True)
class _Piece:
    """Some samples, and the first layer's basis at them: of one network for all where they share its grid."""

    x: Tensor
    y: Tensor
    basis: Float[Tensor, "networks samples inputs functions"]
    base: Float[Tensor, "networks samples inputs"]
    roots: Tensor | None  # of the samples' weights

    def part(self, at: list[int]) -> _Piece:
        return (
            self
            if len(self.basis) == 1
            else replace(self, basis=self.basis[at], base=self.base[at])
        )

    def weighted(self, values: Tensor) -> Tensor:
        """Values (..., samples, outputs) times the roots of the weights."""
        return values if self.roots is None else values * self.roots


class BatchedFitting(Problem):
    """The fits of `networks` of one shape and one number of intervals to `samples`, as in `DataFitting`, side by side.

    A network whose output is not finite has an infinite objective. `numbers` of a dense Jacobian are held at once.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        samples: Samples,
        scale: float,
        smoothing: Smoothing,
        numbers: int = 1 << 18,
    ) -> None:
        self.unknowns = torch.stack([network.get_unknowns() for network in networks])
        self._factor = 1 / (scale * samples.y.numel() ** 0.5)
        layers = zip(*(network.edge_layers for network in networks), strict=True)
        pairs = zip(layers, networks[0].products, strict=True)
        self._layers = [_stacked(layers, products) for layers, products in pairs]
        self._pieces = self._cut(samples, numbers)
        rows = [smoothing.rows(network) for network in networks]
        self._differences, self._columns = (
            torch.stack([each.values for each in rows]),
            rows[0].index,
        )
        self._rough = torch.stack([each.gram() for each in rows])

    def part(self, at: list[int]) -> BatchedFitting:
        new = copy(self)
        new.unknowns, new._differences, new._rough = (
            self.unknowns[at],
            self._differences[at],
            self._rough[at],
        )
        new._layers = [layer.part(at) for layer in self._layers]
        new._pieces = [piece.part(at) for piece in self._pieces]
        return new

    def objective(self, unknowns: Tensor) -> list[float]:
        total = (unknowns[:, self._columns] * self._differences).sum(-1).square().sum(1)
        for piece in self._pieces:
            output = _values(self._layers, unknowns, piece)[0][-1]
            total += (piece.weighted(output - piece.y) * self._factor).square().sum((1, 2))
        return [float(value) for value in total.tolist()]

    def linearise(self, unknowns: Tensor) -> Linearisation:
        gram, gradient = self._rough.clone(), (self._rough @ unknowns[..., None])[..., 0]
        for piece in self._pieces:
            residual, jacobian = _rows(self._layers, unknowns, piece)
            gram.baddbmm_(jacobian.mT, jacobian, alpha=self._factor**2)
            gradient += (residual[:, None] @ jacobian)[:, 0] * self._factor**2
        return Linearisation(gradient, gram)

    def _cut(self, samples: Samples, numbers: int) -> list[_Piece]:
        first = self._layers[0]
        alike = bool((first.knots == first.knots[:1]).all())
        first = first.part([0]) if alike else first
        each = max(1, numbers // (self.unknowns.numel() * samples.y.shape[1]))
        pieces = [
            samples.part(part)
            for part in torch.arange(len(samples), device=samples.x.device).split(each)
        ]
        roots = [None] * len(pieces) if samples.roots is None else samples.roots.split(each)
        wide = [one.x.expand(len(first.knots), -1, -1) for one in pieces]
        return [
            _Piece(one.x, one.y, first.basis(x, 0), first.base(x, 0), root)
            for one, x, root in zip(pieces, wide, roots, strict=True)
        ]


def _stacked(layers: Sequence[SplineLayer], products: int) -> _Layer:
    """One layer of each network, side by side."""
    knots = torch.stack([layer.knots for layer in layers])
    coefficients = torch.stack([layer.coefficients.detach() for layer in layers])
    base, spline = (
        torch.stack(each).detach()
        for each in zip(*(layer.scales() for layer in layers), strict=True)
    )
    return _Layer(
        knots, base, spline, layers[0], products, coefficients, coefficients * spline[..., None]
    )


def _values(
    layers: list[_Layer], unknowns: Tensor, piece: _Piece
) -> tuple[list[Tensor], list[tuple[_Layer, Tensor, Tensor]]]:
    """What reaches each layer (networks, samples, inputs), and the output last; each layer, its basis and its base."""
    values, made = [piece.x.expand(len(unknowns), -1, -1)], []
    for number, part in enumerate(unknowns.split([layer.size for layer in layers], 1)):
        layer, basis, base = layers[number].at(part), piece.basis, piece.base
        if number:
            basis, base = layer.basis(values[-1], 0), layer.base(values[-1], 0)
        made.append((layer, basis, base))
        values.append(nodes_of(layer.forward(basis, base), layer.products))
    return values, made


def _rows(layers: list[_Layer], unknowns: Tensor, piece: _Piece) -> tuple[Tensor, Tensor]:
    """Residuals (networks, samples outputs) and their Jacobian (networks, samples outputs, unknowns)."""
    (*reaching, output), made = _values(layers, unknowns, piece)
    jacobian = output.new_empty(*output.shape, unknowns.shape[1])
    upstream = torch.eye(output.shape[-1], dtype=output.dtype, device=output.device).expand(
        *output.shape, -1
    )
    blocks = jacobian.split([layer.size for layer in layers], -1)
    for number in range(len(layers) - 1, -1, -1):
        layer, basis, base = made[number]
        if layer.products:
            upstream = by_sums(upstream, layer.forward(basis, base)[:, :, None], layer.products)
        layer.rows(blocks[number], upstream, basis, base)
        if number:
            upstream = upstream @ layer.slopes(reaching[number])
    if piece.roots is not None:
        jacobian *= piece.roots[..., None]
    return piece.weighted(output - piece.y).flatten(1), jacobian.flatten(1, 2)


Create = Callable[[Generator], Network]


@dataclass
class Start:
    """A network on its way through the rounds; `loss` is relative to outputs of unit deviation."""

    network: Network
    damping: float
    loss: float = inf


def best_start(
    create: Create, data: TrainingData, plan: Plan, weight: float, generator: Generator
) -> Start:
    """The best of `plan.starts` networks (more where none is good) after short Levenberg-Marquardt trainings.

    Raises TrainingFailed when no start stays finite.
    """
    policy, starts = plan.policy.multistart, plan.starts
    best = Start(create(generator), policy.damping)
    samples = _subset(data.train, best.network, policy, generator)
    rounds = _Rounds(samples, output_scale(data.train, data.task), Smoothing(weight), plan)
    for tried in range(1, policy.batches + 1):
        batch = [Start(create(generator), policy.damping) for _ in range(starts)]
        batch = rounds.run(batch, policy.rounds_before)[: max(2, starts // 3)]
        best = min(best, *rounds.run(batch, policy.rounds_after), key=lambda start: start.loss)
        error = best.loss**0.5
        report_progress("starts", tried * starts, policy.batches * starts, error)
        if error < policy.good or starts == 1 or (tried >= policy.enough and error > policy.poor):
            break
        if best.loss < inf and time_limit_reached():
            break
    if best.loss == inf:
        raise TrainingFailed(
            f"None of {starts} starts stayed finite: {not_finite(best.network, data.train)}."
        )
    return best


@dataclass(frozen=True)
class _Rounds:
    samples: Samples
    scale: float
    smoothing: Smoothing
    plan: Plan

    def run(self, batch: list[Start], count: int) -> list[Start]:
        """The starts after `count` rounds, the best first."""
        policy, held = self.plan.policy.multistart, self.plan.policy.held_numbers
        for _ in range(count):
            if time_limit_reached() and min(start.loss for start in batch) < inf:
                break
            for start in batch:
                start.network = self._placed(start.network)
            networks = [start.network for start in batch]
            unknowns = sum(parameter.numel() for parameter in batch[0].network.parameters())
            if networks[0].edge_layers and len(batch) * unknowns**2 <= policy.matrix_numbers:
                numbers = policy.jacobian_numbers
                self._steps(
                    batch,
                    BatchedFitting(networks, self.samples, self.scale, self.smoothing, numbers),
                )
                continue
            for (
                start
            ) in batch:  # networks without a batched form, or too large to be held side by side
                problem = DataFitting(
                    start.network, self.samples, self.scale, self.smoothing, held_numbers=held
                )
                self._steps([start], problem)
        return sorted(batch, key=lambda start: start.loss)

    def _steps(self, batch: list[Start], problem: Problem) -> None:
        """A round of the starts that are `problem`'s."""
        policy = self.plan.policy.multistart
        stopping = Stopping(policy.steps, gain=policy.gain, patience=2)
        damping = [max(start.damping, policy.least_damping) for start in batch]
        state, _ = minimise(problem, policy.steps_policy, stopping, damping)
        unknowns = state.unknowns.reshape(len(batch), -1)
        for start, values, loss, mu in zip(batch, unknowns, state.loss, state.damping, strict=True):
            start.loss, start.damping = loss, mu
            start.network.set_unknowns(values)

    def _placed(self, network: Network) -> Network:
        """`network` with coarse grids that follow the range of what reaches them."""
        policy, margin = self.plan.policy.multistart, self.plan.policy.grids.margin
        if network.intervals is not None and network.intervals > policy.coarse_enough:
            network = network.regrid(
                self.samples.x, intervals=policy.coarse, grid_eps=1.0, margin=margin
            ).network
        hidden = network.intervals is not None and len(network.shape) > 2
        return (
            network.regrid(self.samples.x, grid_eps=1.0, margin=margin).network
            if hidden
            else network
        )


def _subset(
    samples: Samples, network: Network, policy: MultistartPolicy, generator: Generator
) -> Samples:
    unknowns = sum(parameter.numel() for parameter in network.parameters())
    size = max(policy.least_samples, policy.samples_per_unknown * unknowns)
    if size >= len(samples):
        return samples
    return samples.part(
        torch.randperm(len(samples), generator=generator)[:size].to(samples.x.device)
    )
