"""The search for the weight of the smoothness penalty on one grid, by the error on validation points."""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

from torch import Generator

from kanrun.engine.networks import Network
from kanrun.engine.training.data import TrainingData, baseline_error, measure
from kanrun.engine.training.penalty import Smoothing
from kanrun.engine.training.plan import Plan
from kanrun.engine.training.policy import PenaltyPolicy
from kanrun.engine.training.solver_run import Best, SolverRun, Step, StepLog
from kanrun.engine.training.solvers import make_solver
from kanrun.watch import time_is_up


@dataclass
class PenaltySearch:
    """Trains on from `best` with other weights; `best` and `smoothing` are those that validation chose so far."""

    best: Best
    smoothing: Smoothing
    data: TrainingData
    plan: Plan
    generator: Generator
    log: StepLog

    @property
    def policy(self) -> PenaltyPolicy:
        return self.plan.policy.penalty

    def smooth(self) -> Events[Step, None, None]:
        """Where the first fit is poor, noise is likely: try second differences, from nearly straight edges down.

        Their penalty keeps straight lines alone, where that of high order keeps polynomials that overfit.
        """
        if self.best.error <= self.policy.noisy * baseline_error(self.data):
            return
        network = deepcopy(self.best.network)
        for weight in self.policy.rough_weights:
            smoothing = Smoothing(weight, self.policy.rough_order)
            reached = yield from self._trained(network, smoothing, self.policy.rough_steps)
            network = reached.network
            if reached.error < self.best.error:
                self.best, self.smoothing = Best(network, reached.error), smoothing

    def search(self, budget: int, tries: int, settled: bool) -> Events[Step, None, None]:
        """Lower weights while they help; where not even the first does, higher ones.

        Higher ones are not tried before the steps have settled: they would win by the steps that they are given.
        """
        policy, moved, missed, tried = self.policy, False, 0, self.smoothing.weight
        patience = policy.plateau if self._rough else 0
        if time_is_up():
            return
        for _ in range(tries if self._penalty_matters() else 0):
            tried /= policy.factor
            if tried < policy.smallest * 0.9 or missed > patience:
                break
            helped, _ = yield from self._try(tried, max(3, budget // 2))
            moved, missed = moved or helped, 0 if helped else missed + 1
        if not moved and settled and policy.upwards and self._may_be_noisy():
            yield from self._upwards(max(3, budget // 3))

    def _upwards(self, steps: int) -> Events[Step, None, None]:
        policy, missed, tried = self.policy, 0, self.smoothing.weight * self.policy.factor
        while tried < policy.largest and missed < policy.misses:
            before = self.best.error
            helped, reached = yield from self._try(tried, steps)
            missed = 0 if helped else missed + 1
            if reached > policy.too_far * before:
                break
            tried *= policy.factor

    def _may_be_noisy(self) -> bool:
        small = self.best.network.unknowns_at(None) <= self.policy.upward_unknowns
        return small and self.best.error >= self.policy.clean * baseline_error(self.data)

    @property
    def _rough(self) -> bool:
        """Whether second differences are penalised, which a coarse grid may have asked for."""
        return self.smoothing.order == self.policy.rough_order

    def _penalty_matters(self) -> bool:
        """Whether it holds something back: second differences may, of a line that they keep straight at no cost."""
        if self._rough:
            return True
        network = self.best.network
        rough = float(self.smoothing.rows(network).times(network.get_unknowns()).square().sum())
        train = measure(network, replace(self.data, validation=None, test=None)).train
        return rough > self.policy.negligible * (rough + (train / baseline_error(self.data)) ** 2)

    def _try(self, weight: float, steps: int) -> Events[Step, None, tuple[bool, float]]:
        """Whether validation keeps this weight, and the error that it led to."""
        smoothing = replace(self.smoothing, weight=weight)
        reached = yield from self._trained(deepcopy(self.best.network), smoothing, steps)
        helped = reached.error < (1 - self.policy.worth) * self.best.error
        if helped:
            self.best, self.smoothing = reached, smoothing
        return helped, reached.error

    def _trained(self, network: Network, smoothing: Smoothing, steps: int) -> Events[Step, None, Best]:
        """The best network of some steps from `network`, its own error left out of account."""
        solver = make_solver(network, self.data, self.plan, smoothing, self.generator)
        reached = Best(network, float("inf"))
        yield from SolverRun(solver, steps, self.plan, self.data).run(reached, self.log)
        return reached
