"""Levenberg-Marquardt for least squares on any network that can be linearised.

Minimises F(u) = mean |f(x; u) - y|^2 / size^2 + weight |D u|^2 over the unknowns u. A *quick* step takes the gain
ratio's damping (Marquardt 1963; Nielsen 1999): for starts. A *thorough* one searches the damping on one linearisation,
refines the step beyond the normal equations' precision, and bends it by geodesic acceleration (Transtrum and Sethna,
arXiv 1201.5885): for the accuracy of fine grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from kanrun.engine.networks import KAN, Network, get_unknowns, set_unknowns, support
from kanrun.engine.training.data import CHUNK, Samples
from kanrun.engine.training.gauge import Gauge
from kanrun.engine.training.penalty import smoothness_rows
from kanrun.engine.training.system import Factor, LinearSystem, PenalisedSystem, Solved
from kanrun.errors import TrainingFailed

#: Dampings and objectives from which on the undamped problem is worth refining: above, the normal equations are precise
#: enough for what a step can gain.
REFINED_BELOW, ACCURATE = 1e-6, 1e-10
#: Iterations of the refinement at which the objective is looked at.
MARKS = (1, 3, 10, 30)
#: Dampings tried on one linearisation: downwards while it helps, upwards until it does.
DOWN, UP = 3, 6
#: A smaller damping must gain this share of what is left, or of what the step gains, for a yet smaller one to be tried.
WORTH = 0.1
#: Without a penalty a coefficient waits while it would have to move this far to account for the residual.
FARTHEST = 1e4
#: Step of the second directional derivative.
PROBE = 0.1


@dataclass(frozen=True)
class LMOptions:
    damping: float = 1e-3  # at the start, relative to unit columns
    smallest: float = 1e-13
    largest: float = 1e6
    thorough: bool = True
    local: bool = False  # never move coefficients whose basis functions saw no data
    order: int | None = None  # of the smoothness penalty, by default degree + 2


@dataclass
class _Trial:
    """Where a damping led: the objective there, the step, the factor that gave it."""

    loss: float
    step: Tensor
    factor: Solved | None = None


class LevenbergMarquardt:
    """One network, one set of samples, one penalty weight; `step` lowers the objective or says that it cannot."""

    name = "lm"

    def __init__(
        self, network: Network, samples: Samples, size: float, weight: float, options: LMOptions | None = None
    ) -> None:
        self.network, self.samples, self.size, self.weight = network, samples, size, weight
        self.rows = len(samples)
        self.options = options or LMOptions()
        self.damping = self.options.damping
        self.smoothness = smoothness_rows(network, self.options.order)
        self._held = unseen(network, samples.x) if self.options.local else None
        self._gauge = Gauge(network) if self._held is None else None  # what is held must not move for it
        self._sizes: Tensor | None = (
            None  # squared norms of J's columns, the largest so far; of networks with dead units
        )
        self._start = get_unknowns(network)
        self.loss = self._objective()
        if not self.loss < float("inf"):
            raise TrainingFailed("The network's output is not finite before the first step.")
        self.converged = False
        self.stalls = self.options.thorough  # a thorough step that gains little announces the end

    def step(self) -> float:
        """One accepted step (or none, then `converged`); returns the objective."""
        self._start = get_unknowns(self.network)
        system = LinearSystem(self.network, self.samples.x, self.samples.y, self.size, self._start)
        self._look(system)
        problem = PenalisedSystem(system, self.smoothness, self.weight, self._held, self._sizes)
        if not isinstance(self.network, KAN):
            # A unit that saturates must not get huge steps for its faint columns (More, 1978, section 6).
            self._sizes = problem.sizes
        best = self._searched(problem) if self.options.thorough else self._quick(problem)
        set_unknowns(self.network, self._start + best.step)
        self.converged = not best.loss < self.loss
        if not self.converged:
            self.loss = best.loss
        return self.loss

    def _look(self, system: LinearSystem) -> None:
        """How well each unknown is seen; without a penalty, those seen faintly are held until the residual is small."""
        self._seen = system.norms.square()
        if self._gauge is not None and self.weight == 0 and isinstance(self.network, KAN):
            self._held = FARTHEST * system.norms < self.loss**0.5

    def memory(self) -> dict[str, Tensor]:
        """Nothing: every linearisation starts from the network alone."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """The damping, the columns' largest norms, and which unknowns are held for good."""
        kept = {"damping": torch.tensor(self.damping, dtype=torch.float64), "sizes": self._sizes, "held": self._held}
        return {key: value for key, value in kept.items() if value is not None}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from another solver's `state()`."""
        self.damping, self._sizes, self._held = float(state["damping"]), state.get("sizes"), state.get("held")

    # --------------------------------------------------------------------------------------- quick steps

    def _quick(self, problem: PenalisedSystem) -> _Trial:
        while True:
            trial = self._direct(problem, self.damping)
            if trial.loss < self.loss:
                gain = (self.loss - trial.loss) / max(-float(problem.slope @ trial.step), 1e-300)
                shrink = 10 if gain > 0.75 else 4 if gain > 0.25 else 1
                self.damping = max(self.damping / shrink, self.options.smallest)
                return trial
            if self.damping >= self.options.largest:
                return self._nothing()
            self.damping = min(self.damping * 8, self.options.largest)

    def _direct(self, problem: PenalisedSystem, mu: float) -> _Trial:
        factor = problem.factor(mu)
        if factor is None:
            return self._nothing(float("inf"))
        trial = self._trial(problem.direct(factor))
        trial.factor = factor
        return trial

    # ------------------------------------------------------------------------------------ thorough steps

    def _searched(self, problem: PenalisedSystem) -> _Trial:
        mu, best = self.damping, self._at(problem, self.damping)
        if best.loss < self.loss:
            for _ in range(DOWN):
                lower = max(mu / 10, self.options.smallest)
                trial = self._at(problem, lower) if lower < mu else best
                if not trial.loss < best.loss:
                    break
                gained, best, mu = best.loss - trial.loss, trial, lower
                if gained < WORTH * min(trial.loss, self.loss - trial.loss):
                    break
        else:
            for attempt in range(UP):
                mu = min(max(mu, 1e-12) * (10 if attempt < 3 else 100), self.options.largest)
                best = self._at(problem, mu)
                if best.loss < self.loss:
                    break
        if not best.loss < self.loss:
            return self._nothing()
        self.damping = mu
        return best

    def _at(self, problem: PenalisedSystem, mu: float) -> _Trial:
        """The best step that damping `mu` leads to: direct or refined, straight or bent."""
        best = self._direct(problem, mu)
        if best.factor is None:
            return best
        factor = best.factor
        if mu <= REFINED_BELOW and self.loss < ACCURATE and isinstance(factor, Factor):
            best = min((self._trial(step) for step in problem.refined(factor, MARKS)), key=lambda trial: trial.loss)
        if 1e-3 * self.loss < best.loss < 4 * self.loss:
            bent = self._trial(best.step + 0.5 * self._acceleration(problem, factor, best.step))
            best = min(best, bent, key=lambda trial: trial.loss)
        return best

    def _acceleration(self, problem: PenalisedSystem, factor: Solved, step: Tensor) -> Tensor:
        """-(J^T J)^-1 J^T f'' along the step, f'' the second directional derivative of the residuals."""
        set_unknowns(self.network, self._start + PROBE * step)
        with torch.no_grad():
            scale = 1 / (self.size * self.samples.y.numel() ** 0.5)
            there = (self.network(self.samples.x) - self.samples.y).reshape(-1) * scale
        second = 2 * (there - problem.residual - PROBE * problem.rows.times(step)) / PROBE**2
        return -factor.solve(problem.free(problem.rows.transposed(second)))

    # -------------------------------------------------------------------------------------------- common

    def _trial(self, step: Tensor) -> _Trial:
        if self._gauge is not None:
            step = self._gauge.fixed(step, self._seen)
        set_unknowns(self.network, self._start + step)
        loss = self._objective()
        return _Trial(loss if isfinite(loss) else float("inf"), step)

    def _nothing(self, loss: float | None = None) -> _Trial:
        return _Trial(self.loss if loss is None else loss, torch.zeros_like(self._start))

    def _objective(self) -> float:
        total = 0.0
        with torch.no_grad():
            for x, y in zip(self.samples.x.split(CHUNK), self.samples.y.split(CHUNK), strict=True):
                total += float(((self.network(x) - y) / self.size).square().sum())
            total /= self.samples.y.numel()
            if self.weight > 0:
                total += self.weight * float(self.smoothness.times(get_unknowns(self.network)).square().sum())
        return total


def unseen(network: nn.Module, x: Tensor) -> Tensor | None:
    """Which unknowns belong to basis functions that no sample of `x` touches; None where the network has none."""
    if not isinstance(network, KAN):
        return None
    pairs = zip(network, support(network, x), strict=True)
    return torch.cat([(~seen).expand_as(layer.coefficients).reshape(-1) for layer, seen in pairs])
