"""Random starts, and the growth of a network's shape from the additive model.

Second-order solvers compare several random starts by short training runs. Narrow and deep networks
have bad local minima. Several starts help to avoid these minima and cost little on a coarse grid.
Before each round of steps, the grids of hidden layers are adapted to the range of the activations.

A network grows node by node. At each width, several candidates compete. Half of them extend the
previous network with a node that is computed from its residual r, by fitting r with products of
functions of two inputs,

    s(x) sum_{i<j} sum_{pq} M_{ip,jq} P_p(x_i) P_q(x_j)  ~  r(x),

with Legendre polynomials P and the slope s of the output with respect to the hidden node. An
eigenvector v of the symmetric matrix M with eigenvalue w gives the node
w (sum_{ip} v_ip P_p(x_i))^2, which a KAN can represent; the nodes with the largest |w| explain most
of the residual. These nodes depend on the function and hardly on the seed. The other candidates are
random, and every second one of them has a single hidden layer. Random candidates first compete
among themselves, because untrained they would lose against networks that extend a trained one. An
identity layer is appended to the network if this lowers the error. A network with two nodes also
tries a start that computes a product, since a b = ((a + b)^2 - (a - b)^2) / 4.

At each width, grids are refined while the error falls at the rate expected of a spline; once it
falls more slowly, the width limits the error, and another node is added. If a shape is given,
growth stays within this shape. Random networks of the given shape then compete as well, unless
growth ended because no larger network is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from math import inf

import torch
from torch import Generator, Tensor

from kanrun.engine.layers import SplineLayer
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, minimise
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
from kanrun.engine.training.data import (
    GrowthPolicy,
    TrainingData,
    baseline_error,
    explain_non_finite,
    output_scale,
    predict,
)
from kanrun.engine.training.grid_training import (
    NOISY,
    ROUNDING,
    UNHELPFUL,
    GridTraining,
    without_help,
)
from kanrun.engine.training.objective import DataFitting, Objective, SmoothnessPenalty
from kanrun.engine.training.solver_run import Grown, Setup
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Largest number of grid intervals of a start. If the schedule begins with more, starts have
#: fewer.
MAX_START_INTERVALS = 8
#: Rounds, counted from 0, after which the worse half of the starts is discarded.
HALVED = (1, 2)
#: Damping of the first step of a start.
DAMPING = 0.1
#: Each step tries at most six dampings, because a new linearisation is cheaper than a seventh
#: damping.
POLICY = LMPolicy(damping_search=False, max_trials=6)
#: A round of a start ends after ten steps, or after two steps in a row that gain little.
STOPPING = StoppingCriteria(max_steps=10, rtol=1e-4, patience=2)

Create = Callable[[Generator], Network]


@dataclass
class RandomStart:
    """A random network and its state after the rounds so far.

    Attributes:
        network: The network.
        damping: Damping with which the next round begins.
        loss: The objective, relative to outputs of unit standard deviation.
    """

    network: Network
    damping: float = DAMPING
    loss: float = inf

    def take_round(self, objective: Objective) -> None:
        """Adapt the grids of hidden layers to the activations, then train for a few quick steps."""
        self.network = _placed(self.network, objective.samples.x)
        problem = DataFitting(self.network, objective)
        # Lower limit of the damping with which a round begins. Otherwise, a round begins with the
        # last damping of the previous round.
        least = 1e-4
        state, _ = minimise(problem, POLICY, STOPPING, max(self.damping, least))
        self.network.set_unknowns(state.unknowns)
        self.loss, self.damping = state.loss, state.damping


def rivals_among(starts: Sequence[RandomStart]) -> list[RandomStart]:
    """Return the two best starts, best first, or only the best if the second is much worse.

    The second is much worse if its loss exceeds 4 times the lowest loss.
    """
    first, *others = sorted(starts, key=lambda start: start.loss)
    # The two best starts are both trained on finer grids if the ratio of their losses is at most
    # this, because their order on a coarse grid may be wrong.
    close = 4.0
    return [first, *(start for start in others[:1] if start.loss <= close * first.loss)]


def survivors(
    networks: Sequence[Network], data: TrainingData, weight: float, generator: Generator
) -> list[RandomStart]:
    """Train `networks` briefly on random samples and return the best one or two, best first.

    The worse half is discarded after each of the HALVED rounds (successive halving: Jamieson and
    Talwalkar, arXiv 1502.07943). `weight` is the weight of the smoothness penalty.

    Raises TrainingFailed if the losses of all networks are NaN or infinite.
    """
    samples = data.train
    unknowns = sum(parameter.numel() for parameter in networks[0].parameters())
    # Number of samples per unknown that a start is trained on.
    per_unknown = 5
    # Minimum number of samples that a start is trained on.
    least = 400
    count = max(least, per_unknown * unknowns)
    if count < len(samples):
        index = torch.randperm(len(samples), generator=generator)[:count]
        samples = samples.part(index.to(samples.x.device))
    size = output_scale(data.train, data.task)
    penalty = SmoothnessPenalty(weight)
    objective = Objective(samples, size, penalty=penalty)
    starts = [RandomStart(network) for network in networks]
    # Number of rounds of short training. Before each round, the grids of hidden layers are adapted
    # to the activations.
    rounds = 5
    for number in range(rounds):
        for start in starts:
            start.take_round(objective)
        starts.sort(key=lambda start: start.loss)
        best = starts[0]
        report_progress("starts", number + 1, rounds, best.loss**0.5)
        if best.loss == inf:
            cause = explain_non_finite(best.network, data.train)
            raise TrainingFailed(f"None of {len(networks)} starts stayed finite: {cause}.")
        if time_limit_reached():
            break
        if number in HALVED:
            starts = starts[: max(1, len(starts) // 2)]
    return rivals_among(starts)


def _placed(network: Network, x: Tensor) -> Network:
    """Return `network` on coarse grids; those of hidden layers are fitted to activations at `x`."""
    if network.intervals is None:
        return network
    # Number of grid intervals of the starts if the schedule begins with more than
    # MAX_START_INTERVALS.
    coarse = 4
    if network.intervals > MAX_START_INTERVALS:
        network = network.regrid(x, intervals=coarse).network
    hidden = len(network.shape) > 2
    return network.regrid(x).network if hidden else network


# -------------------- growth

#: An additional identity layer is kept if the error with it is below this fraction of the error
#: without it.
DEEPER = 0.5


class Ending(StrEnum):
    """Reasons for which growth ends, as the run reports them."""

    ROUNDING = "only rounding is left"
    ONE_INPUT = "a function of one input needs no hidden layer"
    GRID = "the grid limits the error"
    NO_GAIN = "further nodes do not lower the error"
    SHAPE = "the given shape has no more nodes"
    BUDGET = "model.budget allows no more nodes"
    POINTS = "the points support no larger network; more points would"
    TIME = "the time is over"


#: Reasons for which the growth ends because no larger network is needed.
SUFFICIENT = (Ending.ROUNDING, Ending.ONE_INPUT, Ending.GRID)


@dataclass
class Growth:
    """Growth of one network.

    Attributes:
        setup: Data, plan, random generator and clock of the training run.
        penalty: Smoothness penalty while the shape grows.
        policy: Limits of the growth.
        trainings: The `GridTraining` of each shape that was tried, in order.
        reason: Description of why growth ended.
    """

    setup: Setup
    penalty: SmoothnessPenalty
    policy: GrowthPolicy
    trainings: list[GridTraining] = field(default_factory=list)
    reason: str = ""

    @property
    def record(self) -> Grown:
        """Stages of all shapes that were tried, in order, and the reason why growth ended."""
        return Grown([stage for t in self.trainings for stage in t.stages], self.reason)

    @property
    def best(self) -> GridTraining:
        """The element of `trainings` with the lowest error."""
        return min(self.trainings, key=lambda one: one.lowest)

    @property
    def winner(self) -> GridTraining:
        """The `GridTraining` to continue with, which is that of the best shape.

        Training restarts from the network of its first grid if the shapes were compared on a subset
        of the samples. It also restarts if the fit is poor, because the data are then probably
        noisy and the first grid needs smoothing.
        """
        training = self.best
        poor = training.lowest > NOISY * baseline_error(self.setup.data)
        if poor or len(self.setup.data.train) > len(self._part.data.train):
            return GridTraining(training.stages[0].network, self.penalty, self.setup)
        return training

    @cached_property
    def _part(self) -> Setup:
        """The setup with at most 1000 training samples."""
        data = self.setup.data
        # Largest number of samples on which shapes are compared; more would not change their order.
        most = 1000
        if len(data.train) <= most:
            return self.setup
        index = torch.randperm(len(data.train), generator=self.setup.generator)[:most]
        part = replace(data, train=data.train.part(index.to(data.train.x.device)))
        return replace(self.setup, data=part)

    def run(self, create: Create) -> None:
        """Grow the shape, starting from an additive model.

        The additive model has the edge settings and the grid of the first layer of a network that
        `create` makes.
        """
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
        self.reason = ending.value
        if ending in (Ending.SHAPE, Ending.BUDGET) and self._unhelpful == 0:
            self.reason += ", although the last one lowered the error"
        if self.policy.given and ending not in SUFFICIENT:
            self._climb(self._started([create(generator) for _ in range(self.setup.plan.starts)]))

    def _started(self, candidates: Sequence[Network]) -> list[RandomStart]:
        setup = self._part
        weight = self.penalty.weight
        return survivors(candidates, setup.data, weight, setup.generator)

    def _climb(self, starts: list[RandomStart]) -> None:
        """Train each start on finer and finer grids, and append the best result to `trainings`.

        Refinement of a start ends when the grid no longer limits its error, or at the size limit.
        """
        trainings = [GridTraining(start.network, self.penalty, self._part) for start in starts]
        # Widths are compared only on grids with at most this many unknowns.
        compared = 700
        most = min(compared, self._supported)
        schedule = self.setup.plan.schedule
        for training in trainings:
            for intervals in schedule[:-1] or schedule:
                large = training.network.unknowns_at(intervals) > most
                if training.stages and (large or time_limit_reached()):
                    break
                training.compare(intervals)
                if training.ends or not _grid_limits(training):
                    break
        self.trainings.append(min(trainings, key=lambda training: training.lowest))

    @property
    def _supported(self) -> float:
        """Largest number of unknowns for this number of samples."""
        # Widths are compared only on grids with at most this many unknowns per output value of the
        # training samples.
        per_value = 0.5
        return per_value * self._part.data.train.y.numel()

    @property
    def _unhelpful(self) -> int:
        """Number of shapes tried since the last one that lowered the error."""
        return without_help([training.lowest for training in self.trainings])

    @property
    def _nodes(self) -> int:
        """Number of nodes of the widest hidden layer of the last shape; 0 without hidden layers."""
        return max(self.trainings[-1].network.shape[1:-1], default=0)

    def find_ending(self) -> Ending | None:
        """Return why growth ends after the shapes that were tried so far; None if it continues."""
        last = self.trainings[-1]
        per_node = last.stages[0].network.unknowns_at(None) / max(self._nodes, 1)
        largest = Ending.SHAPE if self.policy.given else Ending.BUDGET
        reached = {
            Ending.ROUNDING: self.best.lowest <= ROUNDING * baseline_error(self.setup.data),
            Ending.ONE_INPUT: self.policy.largest[0] == 1,
            Ending.GRID: len(last.stages) > 1 and _grid_limits(last),
            Ending.NO_GAIN: self._unhelpful >= UNHELPFUL,
            largest: self._nodes >= self.policy.largest[1],
            Ending.POINTS: per_node * (self._nodes + 1) > self._supported,
            Ending.TIME: time_limit_reached(),
        }
        return next((ending for ending, holds in reached.items() if holds), None)

    def _candidates(self, network: Network) -> list[list[Network]]:
        """Return two groups of networks with one more node in the first hidden layer.

        The first group extends `network` with nodes computed from its residual. The second group is
        random; every second network in it has a single hidden layer, in case `network` is deeper
        than necessary. The groups compete separately, because random networks need training first.
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
        """Return a random KAN of `shape` with the settings of `network`'s first layer.

        These are the edge settings, the number of grid intervals and the domain.
        """
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
        """Yield up to `count` nodes that explain the residual of the worst output.

        The worst output is the one whose residual has the largest variance. Each node is a pair:
        the spline coefficients of its incoming edges, and a function from the node's values to its
        contribution to the outputs. `degree` is the degree of the Legendre polynomials.
        """
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
        """Try an additional last layer, which begins as the identity.

        Return the deeper networks after short training if their loss is clearly lower (see DEEPER),
        otherwise `starts`.
        """
        network = starts[0].network
        loss = starts[0].loss
        deep = len(network.shape) != 3 or len(self.policy.largest) == 3
        # Relative error below which no identity layer is tried, because a finer grid works as well.
        resolved = 1e-3
        if deep or network.shape[1] < 2 or loss < resolved**2:
            return starts
        deeper = [add_identity_layer(network, self._part.data.train.x)]
        if network.shape[1] == 2:
            deeper += self._products(network)
            others = self.setup.plan.starts - len(deeper) + 1
            deeper += (self._drawn(network, deeper[0].shape) for _ in range(others))
        deepest = self._started(deeper)
        return deepest if deepest[0].loss < DEEPER**2 * loss else starts

    def _products(self, network: Network) -> Iterator[Network]:
        """Yield up to two networks that compute a function of a product.

        Their two nodes are those that explain most of the outputs. In the first network the factors
        are polynomials, and the last layer begins as the identity. In the second network the
        factors are linear, and the last layer is fitted by least squares.
        """
        first = network.edge_layers[0]
        last = network.edge_layers[-1]
        train = self._part.data.train
        points = first.grid.breakpoints
        hidden = SplineLayer.on_grid(points, 0, first.spec, uniform=True)
        outer = SplineLayer.on_grid(points[:0], last.outputs, last.spec, uniform=True)
        # Damping of the first step if only the last layer is fitted, which is a linear problem.
        damping = 1e-10
        for degree in (DEGREE, 1):
            product: Network = KAN.of_layers([hidden, outer])
            for node in list(self._squares(product, 2, degree)):
                product = add_node(product, *node, train.x)
            if product.shape[1] < 2:
                return
            product = add_identity_layer(product, train.x)
            if degree == 1:  # Fit the last layer, a linear least-squares problem.
                alone = KAN.of_layers(product.edge_layers[-1:])
                inside = replace(train, x=product.activations(train.x)[-2].detach())
                size = output_scale(train, "regression")
                fitting = DataFitting(alone, Objective(inside, size, penalty=self.penalty))
                state, _ = minimise(fitting, POLICY, STOPPING, damping)
                alone.set_unknowns(state.unknowns)
            yield product


def _grid_limits(training: GridTraining) -> bool:
    """Return whether the error is limited by the grid rather than by the width.

    Spline fits of degree k converge with order k + 1, whereas the error of a network that is too
    narrow does not decrease on finer grids. Therefore the grid limits the error if the last
    refinement by a factor r divided the error by at least r^k. With fewer than two stages, the
    result is True.
    """
    if len(training.stages) < 2:
        return True
    coarse, fine = training.stages[-2:]
    finer = (fine.intervals or 1) / (coarse.intervals or 1)
    order = max(training.network.edge_layers[0].spec.degree, 1)
    return fine.selected * finer**order <= coarse.selected
