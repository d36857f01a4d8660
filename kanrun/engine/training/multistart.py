"""Multi-start on a coarse grid.

Train several networks briefly, and keep the best.

Narrow and deep networks have bad minima; on a coarse grid a start costs little, and several starts
avoid them. Before each round of steps the hidden grids follow the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

from kanrun.engine.least_squares import (
    LMPolicy,
    StoppingCriteria,
    minimise,
)
from kanrun.engine.networks import Network
from kanrun.engine.training.data import TrainingData, explain_non_finite, output_scale
from kanrun.engine.training.data_fitting import DataFitting, SmoothnessPenalty
from kanrun.engine.training.plan import MARGIN
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Intervals of a start if the schedule begins with more than MAX_START_INTERVALS.
START_INTERVALS, MAX_START_INTERVALS = 4, 8
#: Rounds of all starts, and of those that are kept; hidden grids are redrawn before each.
ROUNDS, KEPT_ROUNDS = 2, 3
#: Fraction of the starts that is kept, and the minimum number.
KEPT_FRACTION, MIN_KEPT = 3, 2
#: Maximum number of batches of random starts, and the relative error at which one is good.
MAX_BATCHES, GOOD = 5, 0.03
#: Samples for each unknown that a start is trained on, and their minimum number.
SAMPLES_PER_UNKNOWN, MIN_SAMPLES = 5, 400
#: Damping of the first step; a later round begins with the last damping, at least the second
#: number.
DAMPING, LEAST_DAMPING = 0.1, 1e-4
#: Steps try few dampings each: another linearisation is cheaper than a seventh damping.
POLICY = LMPolicy(damping_search=False, max_trials=6)
#: A start waits for the next round after two steps in a row that gain little.
STOPPING = StoppingCriteria(max_steps=10, rtol=1e-4, patience=2)

Create = Callable[[Generator], Network]


@dataclass
class RandomStart:
    """A network on its way through the rounds.

    `loss` is relative to outputs of unit standard deviation.
    """

    network: Network
    damping: float = DAMPING
    loss: float = inf


def random_starts(
    create: Create, count: int, data: TrainingData, weight: float, generator: Generator
) -> list[RandomStart]:
    """Return the best of networks that `create` makes, the best first.

    `count` are trained at a time, until one of them is good.
    """
    best: list[RandomStart] = []
    for _ in range(MAX_BATCHES if count > 1 else 1):
        drawn = [create(generator) for _ in range(count)]
        best += survivors(drawn, data, weight, generator)
        best.sort(key=lambda start: start.loss)
        if best[0].loss < GOOD**2 or time_limit_reached():
            break
    return best


def survivors(
    networks: Sequence[Network], data: TrainingData, weight: float, generator: Generator
) -> list[RandomStart]:
    """Return the best of `networks` after short trainings on some random samples, the best first.

    Raises TrainingFailed if none stays finite.
    """
    samples = data.train
    unknowns = sum(parameter.numel() for parameter in networks[0].parameters())
    size = max(MIN_SAMPLES, SAMPLES_PER_UNKNOWN * unknowns)
    if size < len(samples):
        index = torch.randperm(len(samples), generator=generator)[:size]
        samples = samples.part(index.to(samples.x.device))
    scale, penalty = output_scale(data.train, data.task), SmoothnessPenalty(weight)
    starts = [RandomStart(network) for network in networks]
    for done in range(ROUNDS + KEPT_ROUNDS):
        if done == ROUNDS:
            starts = starts[: max(MIN_KEPT, len(starts) // KEPT_FRACTION)]
        if time_limit_reached() and starts[0].loss < inf:
            break
        for start in starts:
            start.network = _placed(start.network, samples.x)
            problem = DataFitting(start.network, samples, scale, penalty)
            damping = max(start.damping, LEAST_DAMPING)
            state, _ = minimise(problem, POLICY, STOPPING, damping)
            start.network.set_unknowns(state.unknowns)
            start.loss, start.damping = state.loss, state.damping
        starts.sort(key=lambda start: start.loss)
        report_progress("starts", done + 1, ROUNDS + KEPT_ROUNDS, starts[0].loss ** 0.5)
    if starts[0].loss == inf:
        cause = explain_non_finite(starts[0].network, data.train)
        raise TrainingFailed(f"None of {len(networks)} starts stayed finite: {cause}.")
    return starts


def _placed(network: Network, x: Tensor) -> Network:
    """Return `network` with coarse grids that follow the activations."""
    if network.intervals is None:
        return network
    if network.intervals > MAX_START_INTERVALS:
        network = network.regrid(x, intervals=START_INTERVALS, grid_eps=1.0, margin=MARGIN).network
    if len(network.shape) == 2:
        return network
    return network.regrid(x, grid_eps=1.0, margin=MARGIN).network
