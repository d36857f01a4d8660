"""Multi-start on a coarse grid.

Train several random networks briefly, side by side, and keep the best.

Narrow and deep networks have bad minima; on a coarse grid a start costs little, and several starts
avoid them. Before each round of steps the hidden grids follow the activations. Calls rather than
arithmetic take the time of such small problems, so the fits of several KANs of one shape are one
batch of least squares problems, which costs little more than one. Each network has its own damping
and takes the quick step that it would take alone. Grids are coarse here, so bases and Jacobians are
dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

from kanrun.engine.layers import Edges, EdgesAt, linearised, traced
from kanrun.engine.least_squares import (
    Linearisation,
    LMPolicy,
    Problem,
    StoppingCriteria,
    minimise,
)
from kanrun.engine.networks import Network
from kanrun.engine.training.data import Samples, TrainingData, explain_non_finite, output_scale
from kanrun.engine.training.data_fitting import DataFitting, SmoothnessPenalty
from kanrun.engine.training.plan import MARGIN, Plan
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Intervals of a start if the schedule begins with more than MAX_START_INTERVALS.
START_INTERVALS, MAX_START_INTERVALS = 4, 8
#: Rounds of all starts, and of those that are kept; hidden grids are redrawn before each.
ROUNDS, KEPT_ROUNDS = 2, 3
#: Fraction of the starts that is kept, and the minimum number.
KEPT_FRACTION, MIN_KEPT = 3, 2
# Batches of starts are tried until one fits to the error GOOD. After ENOUGH batches a network that
# leaves an error above POOR is taken to be too small, or the data to be noisy.
MAX_BATCHES, GOOD, ENOUGH, POOR = 10, 0.03, 3, 0.5
#: Samples for each unknown that a start is trained on, and their minimum number.
SAMPLES_PER_UNKNOWN, MIN_SAMPLES = 5, 400
#: Numbers of the normal equations of starts that are trained side by side.
MATRIX_NUMBERS = 1 << 26
#: Numbers of their dense Jacobian that are held at once: what stays in a core's cache.
JACOBIAN_NUMBERS = 1 << 18
#: Damping of the first step; a later round begins with the last damping, at least the second
#: number.
DAMPING, LEAST_DAMPING = 0.1, 1e-4
#: Steps try few dampings each: another linearisation is cheaper than a seventh damping.
POLICY = LMPolicy(damping_search=False, max_trials=6)
#: A start waits for the next round after two steps in a row that gain little.
STOPPING = StoppingCriteria(max_steps=10, rtol=1e-4, patience=2)

Create = Callable[[Generator], Network]


class BatchedFitting(Problem):
    """The fits of `networks` of one shape to `samples` side by side, as in `DataFitting`.

    A network whose output is not finite has an infinite objective.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        samples: Samples,
        scale: float,
        penalty: SmoothnessPenalty,
    ) -> None:
        self.unknowns = torch.stack([network.get_unknowns() for network in networks])
        self._products = networks[0].products
        self._factor = 1 / (scale * samples.y.numel() ** 0.5)
        layers = zip(*(network.edge_layers for network in networks), strict=True)
        self._layers = [Edges.side_by_side([layer.edges for layer in each]) for each in layers]
        # Some samples at a time, with the first layer's bases: those of one network if all share
        # its grid.
        first = self._layers[0]
        alike = bool((first.knots == first.knots[:1]).all())
        first = first.part([0]) if alike else first
        size = max(1, JACOBIAN_NUMBERS // (self.unknowns.numel() * samples.y.shape[1]))
        starts = range(0, len(samples), size)
        parts = [samples.part(slice(start, start + size)) for start in starts]
        roots = samples.roots
        self._pieces: list[tuple[Samples, Tensor | float, EdgesAt]] = [
            (part, 1.0 if roots is None else roots[start : start + size], first.at(part.x))
            for start, part in zip(starts, parts, strict=True)
        ]
        rows = [penalty.rows(network) for network in networks]
        self._differences = torch.stack([each.values for each in rows])
        self._columns = rows[0].index
        self._penalty = torch.stack([each.gram() for each in rows])

    def part(self, at: list[int]) -> BatchedFitting:
        new = copy(self)
        new.unknowns, new._differences = self.unknowns[at], self._differences[at]
        new._penalty = self._penalty[at]
        new._layers = [layer.part(at) for layer in self._layers]
        new._pieces = [(part, roots, first.part(at)) for part, roots, first in self._pieces]
        return new

    def objective(self, unknowns: Tensor) -> list[float]:
        total = (unknowns[:, self._columns] * self._differences).sum(-1).square().sum(1)
        layers = self._with(unknowns)
        for part, roots, first in self._pieces:
            _, output = traced(layers, self._products, part.x, first)
            total += ((output - part.y) * roots * self._factor).square().sum((1, 2))
        return [float(value) for value in total.tolist()]

    def linearise(self, unknowns: Tensor) -> Linearisation:
        gram = self._penalty.clone()
        gradient = (self._penalty @ unknowns[..., None])[..., 0]
        layers = self._with(unknowns)
        for part, roots, first in self._pieces:
            _, output, rows = linearised(layers, self._products, part.x, first)
            residual = ((output - part.y) * roots).flatten(1)
            if isinstance(roots, Tensor):
                rows *= roots[..., None]
            jacobian = rows.flatten(1, 2)
            gram.baddbmm_(jacobian.mT, jacobian, alpha=self._factor**2)
            gradient += (residual[:, None] @ jacobian)[:, 0] * self._factor**2
        return Linearisation(gradient, gram)

    def _with(self, unknowns: Tensor) -> list[Edges]:
        parts = unknowns.split([layer.size for layer in self._layers], 1)
        return [layer.with_unknowns(part) for layer, part in zip(self._layers, parts, strict=True)]


@dataclass
class RandomStart:
    """A network on its way through the rounds.

    `loss` is relative to outputs of unit standard deviation.
    """

    network: Network
    damping: float = DAMPING
    loss: float = inf


def best_start(
    create: Create, data: TrainingData, plan: Plan, weight: float, generator: Generator
) -> RandomStart:
    """Return the best of `plan.starts` networks (more if none is good) after short trainings.

    Raises TrainingFailed if no start stays finite.
    """
    best, starts = RandomStart(create(generator)), plan.starts
    unknowns = sum(p.numel() for p in best.network.parameters())
    rounds = Rounds.on(data, unknowns, weight, generator)
    for tried in range(1, MAX_BATCHES + 1):
        batch = rounds.survivors([create(generator) for _ in range(starts)])
        best = min(best, *batch, key=lambda start: start.loss)
        error = best.loss**0.5
        report_progress("starts", tried * starts, MAX_BATCHES * starts, error)
        if error < GOOD or starts == 1 or (tried >= ENOUGH and error > POOR):
            break
        if best.loss < inf and time_limit_reached():
            break
    if best.loss == inf:
        cause = explain_non_finite(best.network, data.train)
        raise TrainingFailed(f"None of {starts} starts stayed finite: {cause}.")
    return best


@dataclass(frozen=True)
class Rounds:
    """Short trainings of networks side by side on some of the samples."""

    samples: Samples
    scale: float
    penalty: SmoothnessPenalty

    @classmethod
    def on(cls, data: TrainingData, unknowns: int, weight: float, generator: Generator) -> Rounds:
        """Return rounds on enough random samples for networks with this many unknowns."""
        samples, size = data.train, max(MIN_SAMPLES, SAMPLES_PER_UNKNOWN * unknowns)
        if size < len(samples):
            index = torch.randperm(len(samples), generator=generator)[:size]
            samples = samples.part(index.to(samples.x.device))
        return cls(samples, output_scale(data.train, data.task), SmoothnessPenalty(weight))

    def survivors(self, networks: Sequence[Network]) -> list[RandomStart]:
        """Return the best of the networks after all rounds, the best first."""
        batch = self._run([RandomStart(network) for network in networks], ROUNDS)
        return self._run(batch[: max(MIN_KEPT, len(batch) // KEPT_FRACTION)], KEPT_ROUNDS)

    def _run(self, batch: list[RandomStart], count: int) -> list[RandomStart]:
        """Return the starts after `count` rounds, the best first."""
        for _ in range(count):
            if time_limit_reached() and min(start.loss for start in batch) < inf:
                break
            for start in batch:
                start.network = self._placed(start.network)
            networks = [start.network for start in batch]
            unknowns = sum(parameter.numel() for parameter in networks[0].parameters())
            if networks[0].edge_layers and len(batch) * unknowns**2 <= MATRIX_NUMBERS:
                together = BatchedFitting(networks, self.samples, self.scale, self.penalty)
                self._steps(batch, together)
                continue
            # Networks without a batched form, or too large to be held side by side.
            for start in batch:
                alone = DataFitting(start.network, self.samples, self.scale, self.penalty)
                self._steps([start], alone)
        return sorted(batch, key=lambda start: start.loss)

    def _steps(self, batch: list[RandomStart], problem: Problem) -> None:
        """Take a round of steps with the starts of `problem`."""
        damping = [max(start.damping, LEAST_DAMPING) for start in batch]
        state, _ = minimise(problem, POLICY, STOPPING, damping)
        unknowns = state.unknowns.reshape(len(batch), -1)
        for start, values, loss, mu in zip(batch, unknowns, state.loss, state.damping, strict=True):
            start.loss, start.damping = loss, mu
            start.network.set_unknowns(values)

    def _placed(self, network: Network) -> Network:
        """Return `network` with coarse grids that follow the activations."""
        x = self.samples.x
        if network.intervals is None:
            return network
        if network.intervals > MAX_START_INTERVALS:
            network = network.regrid(
                x, intervals=START_INTERVALS, grid_eps=1.0, margin=MARGIN
            ).network
        if len(network.shape) == 2:
            return network
        return network.regrid(x, grid_eps=1.0, margin=MARGIN).network
