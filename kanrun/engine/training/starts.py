"""The first grid: several random starts, thinned by validation, the best goes on.

Narrow and deep networks have bad minima; on the coarse grid a start costs little, and trying many is what prevents them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from kanrun.engine.networks import KAN, Network, regrid_hidden
from kanrun.engine.training.data import TrainingData, measure
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import make_solver
from kanrun.errors import TrainingFailed

Create = Callable[[Generator], Network]

#: Solver steps between two regrids of a start.
PHASE = 10
#: Share of the starts that get further phases.
KEPT = 1 / 3
#: Samples that a start looks at, for each unknown.
SAMPLES_PER_PARAMETER = 3
#: Hidden grids reach this share of the activations' range beyond it.
MARGIN = 0.05


@dataclass
class Candidate:
    """A start and its validation error."""

    network: Network
    error: float


def best_start(create: Create, data: TrainingData, plan: Plan, weight: float, generator: Generator) -> Candidate:
    """The best of `plan.starts` networks after short trainings with regrids between.

    Raises TrainingFailed when no start stays finite.
    """
    candidates = [Candidate(create(generator), float("inf")) for _ in range(plan.starts)]
    part = _subset(data, candidates[0].network, generator)
    for candidate in candidates:
        _phases(candidate, part, plan, weight, generator, 2)
    candidates = _sorted(candidates)[: max(1, round(len(candidates) * KEPT))]
    for candidate in candidates:
        _phases(candidate, part, plan, weight, generator, 2)
    best = _sorted(candidates)[0]
    if best.error == float("inf"):
        raise TrainingFailed(f"None of {plan.starts} starts stayed finite; scale the data or lower the learning rate.")
    return best


def _phases(
    candidate: Candidate, data: TrainingData, plan: Plan, weight: float, generator: Generator, count: int
) -> None:
    try:
        for _ in range(count):
            candidate.network = fitted_grids(candidate.network, data, plan)
            solver = make_solver(candidate.network, data, plan, weight, generator)
            for _ in range(PHASE):
                solver.step()
                if solver.converged:
                    break
        candidate.error = measure(candidate.network, data).selected
    except TrainingFailed:
        candidate.error = float("inf")
    if candidate.error != candidate.error:  # a NaN compares with nothing, and must lose
        candidate.error = float("inf")


def fitted_grids(network: Network, data: TrainingData, plan: Plan, intervals: int | None = None) -> Network:
    """`network` with its hidden grids over the range of what reaches them, where the plan lets grids move."""
    if isinstance(network, KAN) and plan.update_grid and len(network.layers) > 1:
        return regrid_hidden(network, data.train.x, intervals=intervals, adapt=plan.adapt, margin=MARGIN).network
    return network


def _subset(data: TrainingData, network: Network, generator: Generator) -> TrainingData:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    size = max(1000, SAMPLES_PER_PARAMETER * parameters)
    if size >= len(data.train):
        return data
    index = torch.randperm(len(data.train), generator=generator)[:size].to(data.train.x.device)
    return TrainingData(data.train.part(index), data.validation, None, data.unit, data.task)


def _sorted(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: candidate.error)
