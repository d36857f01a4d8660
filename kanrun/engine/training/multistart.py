"""Multi-start on a coarse grid: train several random networks briefly and keep the best.

Narrow and deep networks have bad minima; on a coarse grid a start costs little, and trying many is what prevents them.
Before each round of steps the hidden grids follow the range of what reaches them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator

from kanrun.engine.least_squares import Problem, Stopping, minimise
from kanrun.engine.networks import KAN, Network
from kanrun.engine.training.batched_fitting import BatchedFitting
from kanrun.engine.training.data import Samples, TrainingData, output_scale
from kanrun.engine.training.data_fitting import DataFitting
from kanrun.engine.training.penalty import Smoothing
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.policy import MultistartPolicy
from kanrun.errors import TrainingFailed
from kanrun.watch import advanced, time_is_up

Create = Callable[[Generator], Network]


@dataclass
class Start:
    """A network on its way through the rounds; `loss` is relative to outputs of unit deviation."""

    network: Network
    damping: float
    loss: float = inf


def best_start(create: Create, data: TrainingData, plan: Plan, weight: float, generator: Generator) -> Start:
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
        advanced("starts", tried * starts, policy.batches * starts, error)
        if error < policy.good or starts == 1 or (tried >= policy.enough and error > policy.poor):
            break
        if best.loss < inf and time_is_up():
            break
    if best.loss == inf:
        raise TrainingFailed(f"None of {starts} starts stayed finite; look at the scale of the data.")
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
            if time_is_up() and min(start.loss for start in batch) < inf:
                break
            for start in batch:
                start.network = self._placed(start.network)
            kans = [start.network for start in batch if isinstance(start.network, KAN)]
            unknowns = sum(parameter.numel() for parameter in batch[0].network.parameters())
            if kans and len(batch) * unknowns**2 <= policy.matrix_numbers:
                numbers = policy.jacobian_numbers
                self._steps(batch, BatchedFitting(kans, self.samples, self.scale, self.smoothing, numbers))
                continue
            for start in batch:  # networks without a batched form, or too large to be held side by side
                problem = DataFitting(start.network, self.samples, self.scale, self.smoothing, held_numbers=held)
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
            network = network.regrid(self.samples.x, intervals=policy.coarse, grid_eps=1.0, margin=margin).network
        hidden = network.intervals is not None and len(network.shape) > 2
        return network.regrid(self.samples.x, grid_eps=1.0, margin=margin).network if hidden else network


def _subset(samples: Samples, network: Network, policy: MultistartPolicy, generator: Generator) -> Samples:
    unknowns = sum(parameter.numel() for parameter in network.parameters())
    size = max(policy.least_samples, policy.samples_per_unknown * unknowns)
    if size >= len(samples):
        return samples
    return samples.part(torch.randperm(len(samples), generator=generator)[:size].to(samples.x.device))
