"""The search for the weight of the smoothness penalty on one grid, by the error on validation points."""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Generator

from kanrun.engine.networks import Network, get_unknowns
from kanrun.engine.training.data import TrainingData, measure, spread
from kanrun.engine.training.penalty import Smoothing, penalty
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.solvers import make_solver
from kanrun.engine.training.stepping import Best, Counter, Step, Stretch

#: The weight moves by this factor, within these bounds.
FACTOR, SMALLEST, LARGEST = 100.0, 1e-30, 1e2
#: A weight must lower the validation error by this share.
WORTH = 0.03
#: A penalty below this share of the objective holds nothing back: lower weights are not tried.
NEGLIGIBLE = 0.01
#: Downwards from second differences, which a coarse grid may have asked for, it looks past so many that do not help.
PLATEAU = 2
#: Upwards the search looks past so many weights that do not help (noise makes plateaus), up to this much worse.
MISSES, TOO_FAR = 4, 1.5
#: A first fit with a larger relative error is taken for noisy: second differences are penalised then, by one of these
#: weights (relative to outputs of unit deviation and a domain of unit width), each trained for some steps.
NOISY, ROUGH_ORDER, ROUGH_WEIGHTS, ROUGH_STEPS = 0.05, 2, tuple(10.0**-e for e in range(-1, 7)), 8
#: Only grids with at most so many unknowns search upwards: noise shows on coarse grids already.
UPWARDS = 1000
#: At this relative error there is no noise to smooth, and the rounding of a heavily weighted penalty would show.
CLEAN = 1e-6


@dataclass
class Weighing:
    """Trains on from `best` with other weights; `best` and `smoothing` are those that validation chose so far."""

    best: Best
    smoothing: Smoothing
    data: TrainingData
    plan: Plan
    generator: Generator
    counted: Counter

    def smooth(self) -> Events[Step, None, None]:
        """Where the first fit is poor, noise is likely: try second differences, from nearly straight edges down.

        Their penalty keeps straight lines alone, where that of high order keeps polynomials that overfit.
        """
        if self.best.error <= NOISY * spread(self.data):
            return
        network = deepcopy(self.best.network)
        for weight in ROUGH_WEIGHTS:
            reached = yield from self._trained(network, Smoothing(weight, ROUGH_ORDER), ROUGH_STEPS)
            network = reached.network
            if reached.error < self.best.error:
                self.best, self.smoothing = Best(network, reached.error), Smoothing(weight, ROUGH_ORDER)

    def search(self, budget: int, tries: int, settled: bool) -> Events[Step, None, None]:
        """Lower weights while they help; where not even the first does, higher ones.

        Higher ones are not tried before the steps have settled: they would win by the steps that they are given.
        """
        moved, missed, tried = False, 0, self.smoothing.weight
        patience = PLATEAU if self.smoothing.order == ROUGH_ORDER else 0
        for _ in range(tries if self._penalty_matters() else 0):
            tried /= FACTOR
            if tried < SMALLEST * 0.9 or missed > patience:
                break
            helped, _ = yield from self._try(tried, max(3, budget // 2))
            moved, missed = moved or helped, 0 if helped else missed + 1
        unknowns = get_unknowns(self.best.network).numel()
        if moved or not settled or unknowns > UPWARDS or self.best.error < CLEAN * spread(self.data):
            return
        missed, tried = 0, self.smoothing.weight * FACTOR
        while tried < LARGEST and missed < MISSES:
            before = self.best.error
            helped, reached = yield from self._try(tried, max(3, budget // 3))
            missed = 0 if helped else missed + 1
            if reached > TOO_FAR * before:
                break
            tried *= FACTOR

    def _penalty_matters(self) -> bool:
        """Whether it holds something back: second differences may, of a line that they keep straight at no cost."""
        if self.smoothing.order == ROUGH_ORDER:
            return True
        network = self.best.network
        with torch.no_grad():
            rough = self.smoothing.weight * float(penalty(network, self.smoothing.order))
        train = measure(network, replace(self.data, validation=None, test=None)).train
        return rough > NEGLIGIBLE * (rough + (train / spread(self.data)) ** 2)

    def _try(self, weight: float, steps: int) -> Events[Step, None, tuple[bool, float]]:
        """Whether validation keeps this weight, and the error that it led to."""
        smoothing = replace(self.smoothing, weight=weight)
        reached = yield from self._trained(deepcopy(self.best.network), smoothing, steps)
        helped = reached.error < (1 - WORTH) * self.best.error
        if helped:
            self.best, self.smoothing = reached, smoothing
        return helped, reached.error

    def _trained(self, network: Network, smoothing: Smoothing, steps: int) -> Events[Step, None, Best]:
        """The best network of some steps from `network`, its own error left out of account."""
        solver = make_solver(network, self.data, self.plan, smoothing, self.generator)
        reached = Best(network, float("inf"))
        yield from Stretch(solver, steps, self.plan.patience, self.data).run(reached, self.counted)
        return reached
