"""Random starts for second-order solvers: short training runs select the best starts.

Narrow and deep networks have bad local minima. Several starts help to avoid these minima and cost
little on a coarse grid. Before each round of steps, the grids of hidden layers are adapted to the
range of the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, minimise
from kanrun.engine.networks import Network
from kanrun.engine.training.data import TrainingData, explain_non_finite, output_scale
from kanrun.engine.training.objective import DataFitting, Objective, SmoothnessPenalty
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: The two best starts are both trained on finer grids if the ratio of their losses is at most this,
#: because their order on a coarse grid may be wrong.
RIVAL = 4.0
#: Number of grid intervals of the starts if the schedule begins with more than MAX_START_INTERVALS.
START_INTERVALS = 4
#: Largest number of grid intervals of a start. If the schedule begins with more, starts have
#: START_INTERVALS intervals instead.
MAX_START_INTERVALS = 8
#: Number of rounds of short training. Before each round, the grids of hidden layers are adapted to
#: the activations.
ROUNDS = 5
#: Rounds, counted from 0, after which the worse half of the starts is discarded.
HALVED = (1, 2)
#: Number of samples per unknown that a start is trained on.
SAMPLES_PER_UNKNOWN = 5
#: Minimum number of samples that a start is trained on.
MIN_SAMPLES = 400
#: Damping of the first step of a start.
DAMPING = 0.1
#: Lower limit of the damping with which a round begins. Otherwise, a round begins with the last
#: damping of the previous round.
LEAST_DAMPING = 1e-4
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
        state, _ = minimise(problem, POLICY, STOPPING, max(self.damping, LEAST_DAMPING))
        self.network.set_unknowns(state.unknowns)
        self.loss, self.damping = state.loss, state.damping


def rivals_among(starts: Sequence[RandomStart]) -> list[RandomStart]:
    """Return the two best starts, best first, or only the best if the second is much worse.

    The second is much worse if its loss exceeds RIVAL times the lowest loss.
    """
    first, *others = sorted(starts, key=lambda start: start.loss)
    return [first, *(start for start in others[:1] if start.loss <= RIVAL * first.loss)]


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
    count = max(MIN_SAMPLES, SAMPLES_PER_UNKNOWN * unknowns)
    if count < len(samples):
        index = torch.randperm(len(samples), generator=generator)[:count]
        samples = samples.part(index.to(samples.x.device))
    size = output_scale(data.train, data.task)
    penalty = SmoothnessPenalty(weight)
    objective = Objective(samples, size, penalty=penalty)
    starts = [RandomStart(network) for network in networks]
    for number in range(ROUNDS):
        for start in starts:
            start.take_round(objective)
        starts.sort(key=lambda start: start.loss)
        best = starts[0]
        report_progress("starts", number + 1, ROUNDS, best.loss**0.5)
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
    if network.intervals > MAX_START_INTERVALS:
        network = network.regrid(x, intervals=START_INTERVALS).network
    hidden = len(network.shape) > 2
    return network.regrid(x).network if hidden else network
