"""The first grid: many random starts, thinned, the best goes on.

Narrow and deep networks have bad minima; on a coarse grid a start costs little, and trying many is what prevents them.
Between phases of steps the hidden grids follow the range of what reaches them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from kanrun.engine.least_squares import LMPolicy
from kanrun.engine.networks import KAN, Network, regrid_hidden
from kanrun.engine.training.data import Samples, TrainingData, output_size
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt
from kanrun.engine.training.ensemble import Ensemble
from kanrun.engine.training.penalty import Smoothing
from kanrun.errors import TrainingFailed

Create = Callable[[Generator], Network]

#: Intervals of a start, where the schedule does not begin as coarse.
COARSE, COARSE_ENOUGH = 4, 8
#: Steps of a phase, and phases before and after thinning.
STEPS, BEFORE, AFTER = 10, 2, 3
#: Batches of starts tried until one fits to this relative error.
BATCHES, GOOD = 10, 0.03
#: After so many batches a network that leaves this relative error is taken to be too small, or the data for noisy.
ENOUGH, POOR = 3, 0.5
#: Samples that a start looks at, for each unknown, and at least.
PER_UNKNOWN, AT_LEAST = 5, 400
#: Numbers in the matrices of the normal equations of starts side by side.
MATRICES = 1 << 26
#: Hidden grids reach this share of the activations' range beyond it.
MARGIN = 0.05
#: Damping at which a phase begins, at least.
LEAST = 1e-4
#: A start is left when two steps lower its objective by less than this share.
STALLED = 2e-4


@dataclass
class Start:
    """A network on its way through the phases; `loss` is relative to outputs of unit deviation."""

    network: Network
    loss: float = float("inf")
    damping: float = 0.1


def best_start(create: Create, data: TrainingData, starts: int, weight: float, generator: Generator) -> Start:
    """The best of `starts` networks (more where none is good) after short Levenberg-Marquardt trainings.

    Raises TrainingFailed when no start stays finite.
    """
    best = Start(create(generator))
    samples = _subset(data.train, best.network, generator)
    size = output_size(data.train, data.task)
    for tried in range(1, BATCHES + 1):
        batch = [Start(create(generator)) for _ in range(starts)]
        batch = _phases(batch, BEFORE, samples, size, weight)[: max(2, starts // 3)]
        best = min(best, *_phases(batch, AFTER, samples, size, weight), key=lambda start: start.loss)
        if best.loss**0.5 < GOOD or starts == 1 or (tried >= ENOUGH and best.loss**0.5 > POOR):
            break
    if best.loss == float("inf"):
        raise TrainingFailed(f"None of {starts} starts stayed finite; look at the scale of the data.")
    return best


def coarse(network: Network, samples: Samples) -> Network:
    """`network` on a grid coarse enough to start from."""
    if isinstance(network, KAN) and network.intervals > COARSE_ENOUGH:
        return regrid_hidden(network, samples.x, intervals=COARSE, adapt=0.0, margin=MARGIN).network
    return network


def _phases(batch: list[Start], count: int, samples: Samples, size: float, weight: float) -> list[Start]:
    for _ in range(count):
        for start in batch:
            start.network = _placed(start.network, samples)
        if isinstance(batch[0].network, KAN) and _small(batch):
            _side_by_side(batch, samples, size, weight)
        else:
            _one_by_one(batch, samples, size, weight)
    return sorted(batch, key=lambda start: start.loss)


def _small(batch: list[Start]) -> bool:
    """Whether memory holds a matrix of the normal equations for each network of the batch."""
    unknowns = sum(parameter.numel() for parameter in batch[0].network.parameters())
    return len(batch) * unknowns**2 <= MATRICES


def _placed(network: Network, samples: Samples) -> Network:
    """`network` with coarse grids that follow the range of what reaches them."""
    network = coarse(network, samples)
    if isinstance(network, KAN) and len(network.layers) > 1:
        return regrid_hidden(network, samples.x, adapt=0.0, margin=MARGIN).network
    return network


def _side_by_side(batch: list[Start], samples: Samples, size: float, weight: float) -> None:
    """A phase of KANs, which all have one shape."""
    networks = [start.network for start in batch if isinstance(start.network, KAN)]
    damping = samples.x.new_tensor([max(start.damping, LEAST) for start in batch])
    ensemble = Ensemble(networks, samples, size, weight, damping)
    losses = [ensemble.loss.clone()]
    active = losses[0].isfinite().nonzero()[:, 0]
    while len(losses) <= STEPS and len(active):
        found = ensemble.step(active)
        losses.append(ensemble.loss.clone())
        if len(losses) > 2:
            found &= (losses[-3] - losses[-1] >= STALLED * losses[-1])[active]
        active = active[found]
    ensemble.write_back()
    for start, loss, mu in zip(batch, ensemble.loss.tolist(), ensemble.damping.tolist(), strict=True):
        start.loss, start.damping = loss, mu


def _one_by_one(batch: list[Start], samples: Samples, size: float, weight: float) -> None:
    """A phase of networks that are no KANs, or too large to be held side by side."""
    for start in batch:
        policy = LMPolicy(damping=max(start.damping, LEAST), thorough=False)
        try:
            solver = LevenbergMarquardt(DataFitting(start.network, samples, size, Smoothing(weight)), policy)
        except TrainingFailed:
            start.loss = float("inf")
            continue
        losses = [solver.loss]
        for _ in range(STEPS):
            losses.append(solver.step())
            if solver.converged or (len(losses) > 2 and losses[-3] - losses[-1] < STALLED * losses[-1]):
                break
        start.loss, start.damping = solver.loss, solver.damping


def _subset(samples: Samples, network: Network, generator: Generator) -> Samples:
    unknowns = sum(parameter.numel() for parameter in network.parameters())
    size = max(AT_LEAST, PER_UNKNOWN * unknowns)
    if size >= len(samples):
        return samples
    return samples.part(torch.randperm(len(samples), generator=generator)[:size].to(samples.x.device))
