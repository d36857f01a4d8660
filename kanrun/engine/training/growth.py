"""Growth of the shape of a network from the additive model, in place of random starts.

A network grows node by node. Each width begins with several candidates side by side. Half of them
continue the network before: its residual r is fitted by products of functions of two inputs,

    s(x) sum_{i<j} sum_{pq} M_{ip,jq} P_p(x_i) P_q(x_j)  ~  r(x),

with Legendre polynomials P and the slope s of what follows the hidden layer. An eigenvector v of
the symmetric M with eigenvalue w is the node w (sum_{ip} v_ip P_p(x_i))^2, which a KAN represents:
the largest |w| explain most. They depend on the function and hardly on the seed. The others are
random, every second one shallow, and compete among themselves until the end of the start:
untrained, they would lose against networks that continue. An identity as last layer is kept where
it improves the network. With two nodes it also begins with a product, since
a b = ((a + b)^2 - (a - b)^2) / 4.

On each width, grids become finer while this lowers the error at the rate of a spline; once it does
not, the width is what limits the error, and another node is added. Where a shape is given, growth
stays within it, and random networks of this shape compete unless no larger network is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property

import torch
from torch import Tensor

from kanrun.engine.layers import SplineLayer
from kanrun.engine.least_squares import minimise
from kanrun.engine.networks import KAN, Network
from kanrun.engine.networks.reshaping import (
    DEGREE,
    Outer,
    add_identity_layer,
    add_node,
    legendre_polynomials,
    product_directions,
)
from kanrun.engine.splines import fit_coefficients, sample_points
from kanrun.engine.training.data import GrowthPolicy, baseline_error, output_scale, predict
from kanrun.engine.training.grid_training import (
    NOISY,
    ROUNDING,
    UNHELPFUL,
    GridTraining,
    without_help,
)
from kanrun.engine.training.objective import DataFitting, Objective, SmoothnessPenalty
from kanrun.engine.training.solver_run import Grown, Setup
from kanrun.engine.training.starts import (
    POLICY,
    STOPPING,
    Create,
    RandomStart,
    rivals_among,
    survivors,
)
from kanrun.monitoring import time_limit_reached

#: Maximum number of samples on which shapes are compared; more would not change their order.
MAX_SAMPLES = 1000
#: Largest number of unknowns of the grids on which widths are compared.
COMPARED_UNKNOWNS = 700
#: Largest number of unknowns of these grids for each output value.
UNKNOWNS_PER_VALUE = 0.5
#: Error of the network with an identity layer, relative to that without, below which it stays.
DEEPER = 0.5
#: Relative error below which no identity layer is tried, since a finer grid does as well.
EXACT = 1e-3
#: Damping of the first step for a last layer alone, which is linear.
LAST_DAMPING = 1e-10


class Ending(Enum):
    """Why a growth ends."""

    ROUNDING = auto()
    ONE_INPUT = auto()
    GRID = auto()
    NO_GAIN = auto()
    NODES = auto()
    POINTS = auto()
    TIME = auto()


#: Endings with which no larger network is needed.
SUFFICIENT = (Ending.ROUNDING, Ending.ONE_INPUT, Ending.GRID)


@dataclass
class Growth:
    """Trainings of all shapes tried so far, and why no further one was tried."""

    setup: Setup
    penalty: SmoothnessPenalty
    policy: GrowthPolicy
    trainings: list[GridTraining] = field(default_factory=list)
    reason: str = ""

    @property
    def record(self) -> Grown:
        """Shapes that were tried, in the order of training."""
        return Grown([stage for t in self.trainings for stage in t.stages], self.reason)

    @property
    def best(self) -> GridTraining:
        """Training with the lowest error."""
        return min(self.trainings, key=lambda one: one.lowest)

    @property
    def winner(self) -> GridTraining:
        """Training that continues: the best one.

        It begins again if the shapes were compared on a part of the samples, and with a poor fit:
        noise is likely then, and the first grid is smoothed.
        """
        training = self.best
        poor = training.lowest > NOISY * baseline_error(self.setup.data)
        if poor or len(self.setup.data.train) > len(self._part.data.train):
            return GridTraining(training.stages[0].network, self.penalty, self.setup)
        return training

    @cached_property
    def _part(self) -> Setup:
        """Training on at most MAX_SAMPLES samples."""
        data = self.setup.data
        if len(data.train) <= MAX_SAMPLES:
            return self.setup
        index = torch.randperm(len(data.train), generator=self.setup.generator)[:MAX_SAMPLES]
        part = replace(data, train=data.train.part(index.to(data.train.x.device)))
        return replace(self.setup, data=part)

    def run(self, create: Create) -> None:
        """Grow from the additive model on the first grid of the networks that `create` makes."""
        x = self._part.data.train.x
        generator = self.setup.generator
        layer = create(generator).edge_layers[0]
        points = layer.grid.breakpoints
        outputs = self.policy.largest[-1]
        empty = SplineLayer.on_grid(points, outputs, layer.spec, uniform=True)
        self._climb(self._started([KAN.of_layers([empty])]))
        while (ending := self.find_ending()) is None:
            before = self.trainings[-1].stages[0].network
            if len(before.shape) == 2:
                groups = [[add_identity_layer(before, x)]]
            else:
                groups = self._candidates(before)
            starts = [self._started(group)[0] for group in groups if group]
            self._climb(self._deeper(rivals_among(starts)))
        self.reason = self.explain(ending)
        if self.policy.given and ending not in SUFFICIENT:
            self._climb(self._started([create(generator) for _ in range(self.setup.plan.starts)]))

    def _started(self, candidates: Sequence[Network]) -> list[RandomStart]:
        setup = self._part
        weight = self.penalty.weight
        return survivors(candidates, setup.data, weight, setup.generator)

    def _climb(self, starts: list[RandomStart]) -> None:
        """Add the best of the starts after finer and finer grids, while these limit the error."""
        found = [GridTraining(start.network, self.penalty, self._part) for start in starts]
        most = min(COMPARED_UNKNOWNS, self._supported)
        schedule = self.setup.plan.schedule
        for training in found:
            for intervals in schedule[:-1] or schedule:
                large = training.network.unknowns_at(intervals) > most
                if training.stages and (large or time_limit_reached()):
                    break
                training.compare(intervals)
                if training.ends or not _grid_limits(training):
                    break
        self.trainings.append(min(found, key=lambda training: training.lowest))

    @property
    def _supported(self) -> float:
        """Maximum number of unknowns for this number of output values."""
        return UNKNOWNS_PER_VALUE * self._part.data.train.y.numel()

    @property
    def _unhelpful(self) -> int:
        """Number of last shapes that did not lower the error."""
        return without_help([training.lowest for training in self.trainings])

    @property
    def _nodes(self) -> int:
        """Number of nodes of the widest hidden layer so far."""
        return max(self.trainings[-1].network.shape[1:-1], default=0)

    def find_ending(self) -> Ending | None:
        """Return why the growth ends with the shapes tried so far; None if it goes on."""
        last = self.trainings[-1]
        per_node = last.stages[0].network.unknowns_at(None) / max(self._nodes, 1)
        reached = {
            Ending.ROUNDING: self.best.lowest <= ROUNDING * baseline_error(self.setup.data),
            Ending.ONE_INPUT: self.policy.largest[0] == 1,
            Ending.GRID: len(last.stages) > 1 and _grid_limits(last),
            Ending.NO_GAIN: self._unhelpful >= UNHELPFUL,
            Ending.NODES: self._nodes >= self.policy.largest[1],
            Ending.POINTS: per_node * (self._nodes + 1) > self._supported,
            Ending.TIME: time_limit_reached(),
        }
        return next((ending for ending, holds in reached.items() if holds), None)

    def explain(self, ending: Ending) -> str:
        """Return the ending in words, as the run reports it."""
        spent = "the given shape has" if self.policy.given else "model.budget allows"
        gained = ", although the last one lowered the error" * (self._unhelpful == 0)
        sentences = {
            Ending.ROUNDING: "only rounding is left",
            Ending.ONE_INPUT: "a function of one input needs no hidden layer",
            Ending.GRID: "the grid limits the error",
            Ending.NO_GAIN: "further nodes do not lower the error",
            Ending.NODES: f"{spent} no more nodes{gained}",
            Ending.POINTS: "the points support no larger network; more points would",
            Ending.TIME: "the time is over",
        }
        return sentences[ending]

    def _candidates(self, network: Network) -> list[list[Network]]:
        """Return networks with a node more: with nodes of the residual, and random ones.

        Every second random one is shallow: the network before may be deep without need. Random ones
        have to be trained first, so both kinds compete among themselves.
        """
        x = self._part.data.train.x
        half = self.setup.plan.starts // 2
        shape = (network.shape[0], network.shape[1] + 1, *network.shape[2:])
        grown = [add_node(network, *node, x) for node in self._squares(network, half)]
        others = self.setup.plan.starts - len(grown)
        shapes = [(*shape[:2], shape[-1]), shape]
        random = [self._drawn(network, shapes[n % 2]) for n in range(others)]
        return [grown, random]

    def _drawn(self, network: Network, shape: Sequence[int]) -> Network:
        """Return a random network of another shape with the edges and the domain of `network`."""
        first = network.edge_layers[0]
        return KAN.create(
            shape,
            first.grid.intervals,
            first.spec,
            domain=first.grid.breakpoints[:, [0, -1]],
            initialisation="spline",
            generator=self.setup.generator,
        )

    def _squares(
        self, network: Network, count: int, degree: int = DEGREE
    ) -> Iterator[tuple[Tensor, Outer]]:
        """Yield nodes, inner and outer functions, that explain the residual of the worst output."""
        train = self._part.data.train
        layers = network.edge_layers
        residual = train.y - predict(network, train.x)
        output = int(residual.var(0).argmax())
        slope = torch.ones_like(residual[:, 0])
        if len(layers) > 2:
            with torch.no_grad():
                slope = layers[2].edge_values(network.activations(train.x)[2], 1)[:, output, output]
        roots = 1.0 if train.roots is None else train.roots
        grid = layers[0].grid
        domain = grid.breakpoints[:, [0, -1]]
        at = sample_points(grid, DEGREE)
        rows = residual[:, output, None] * roots, slope[:, None] * roots
        for size, vector in product_directions(train.x, *rows, domain, count, degree):
            values = (legendre_polynomials(at, domain, vector.shape[1]) * vector).sum(-1)

            def outer(t: Tensor, size: float = size) -> Tensor:
                column = torch.zeros(layers[1].outputs, dtype=t.dtype, device=t.device)
                column[output] = size
                return t.square() * column

            yield fit_coefficients(at, values[:, None], grid)[0], outer

    def _deeper(self, starts: list[RandomStart]) -> list[RandomStart]:
        """Return networks with an identity as last layer, trained, if that is better."""
        network = starts[0].network
        loss = starts[0].loss
        deep = len(network.shape) != 3 or len(self.policy.largest) == 3
        if deep or network.shape[1] < 2 or loss < EXACT**2:
            return starts
        deeper = [add_identity_layer(network, self._part.data.train.x)]
        if network.shape[1] == 2:
            deeper += self._products(network)
            others = self.setup.plan.starts - len(deeper) + 1
            deeper += (self._drawn(network, deeper[0].shape) for _ in range(others))
        found = self._started(deeper)
        return found if found[0].loss < DEEPER**2 * loss else starts

    def _products(self, network: Network) -> Iterator[Network]:
        """Yield functions of a product: the two largest squares of the outputs, and a last layer.

        A product of polynomials begins with the identity as last layer, one of two inputs with the
        best last layer.
        """
        first = network.edge_layers[0]
        last = network.edge_layers[-1]
        train = self._part.data.train
        points = first.grid.breakpoints
        hidden = SplineLayer.on_grid(points, 0, first.spec, uniform=True)
        outer = SplineLayer.on_grid(points[:0], last.outputs, last.spec, uniform=True)
        for degree in (DEGREE, 1):
            product: Network = KAN.of_layers([hidden, outer])
            for node in list(self._squares(product, 2, degree)):
                product = add_node(product, *node, train.x)
            if product.shape[1] < 2:
                return
            product = add_identity_layer(product, train.x)
            if degree == 1:  # The last layer is linear least squares.
                alone = KAN.of_layers(product.edge_layers[-1:])
                inside = replace(train, x=product.activations(train.x)[-2].detach())
                size = output_scale(train, "regression")
                fitting = DataFitting(alone, Objective(inside, size, penalty=self.penalty))
                state, _ = minimise(fitting, POLICY, STOPPING, LAST_DAMPING)
                alone.set_unknowns(state.unknowns)
            yield product


def _grid_limits(training: GridTraining) -> bool:
    """Return whether the last grid lowered the error at least with the order of the degree k.

    A spline converges with the order k + 1, and a network that is too narrow not at all.
    """
    if len(training.stages) < 2:
        return True
    coarse, fine = training.stages[-2:]
    finer = (fine.intervals or 1) / (coarse.intervals or 1)
    order = max(training.network.edge_layers[0].spec.degree, 1)
    return fine.selected * finer**order <= coarse.selected
