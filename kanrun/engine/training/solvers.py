"""The interface of solvers, and two solvers: Levenberg-Marquardt, and Adam with mini-batches.

First-order solvers (Adam here, LBFGS in `lbfgs`) minimise mean loss + weight * penalty and never
change grids within a step. With `freeze_unseen`, only coefficients whose basis functions are
nonzero at some sample are trained: momentum, weight decay and penalty leave the others unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from kanrun.engine.least_squares import LMPolicy, LocalRows, begin, step
from kanrun.engine.networks import Network
from kanrun.engine.training.data import Plan, explain_non_finite
from kanrun.engine.training.objective import DataFitting, Objective, SmoothnessLoss
from kanrun.errors import TrainingFailed

#: Policy of Levenberg-Marquardt for networks with grids. A larger initial damping makes the first
#: steps shorter.
LM_WITH_GRID = LMPolicy(damping=1e-4)
#: Largest number of unknowns of a network whose first step uses the damping of `LM_WITH_GRID`.
#: Larger networks take fewer steps, and their first step uses `LARGE_DAMPING`.
SMALL = 300
#: Damping of the first step of networks with grids and more than `SMALL` unknowns. A larger value
#: wastes some of their few steps; a smaller one risks steps that fail.
LARGE_DAMPING = 1e-7
#: Policy of Levenberg-Marquardt for networks without grids. Their objectives have long valleys, in
#: which many cheap steps lead further than a few steps with a search for the best damping.
LM_WITHOUT_GRID = LMPolicy(damping=1e-2, damping_search=False, min_damping=1e-10)


@runtime_checkable
class Solver(Protocol):
    """Minimises an objective over the parameters of one network, in place, step by step.

    Attributes:
        network: The network that is trained.
        loss: The objective after the last step; for Adam, before this step.
        converged: Whether the solver cannot lower the objective any further.
        rows: Number of samples that one step uses.
        tolerance: Training on a grid ends after a step that lowers the objective by a smaller
            fraction than this; 0 disables the rule.
        plateau_tolerance: Training on a grid ends after PLATEAU steps in a row that each lower the
            objective by a smaller fraction than this; 0 disables the rule.
        truncated: Whether the linear system of the last step was solved only approximately.
    """

    network: Network
    loss: float
    converged: bool
    rows: int
    tolerance: float
    plateau_tolerance: float
    truncated: bool = False

    def step(self) -> float:
        """Take one step and return `loss`.

        Raises:
            TrainingFailed: If the objective is not finite.
        """

    def state(self) -> dict[str, Tensor] | None:
        """Return the state from which a new solver on the same network continues identically.

        The result is None if the solver cannot be resumed after this step.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""


class LevenbergMarquardt:
    """Levenberg-Marquardt iteration on a `DataFitting` problem.

    `converged` becomes True when no step lowers the objective. Raises TrainingFailed if the
    network's initial error is NaN or infinite.
    """

    def __init__(
        self,
        problem: DataFitting,
        policy: LMPolicy = LMPolicy(),
        tolerance: float = 0.0,
        plateau_tolerance: float = 0.0,
    ) -> None:
        self.problem = problem
        self.policy = policy
        self.tolerance = tolerance
        self.plateau_tolerance = plateau_tolerance
        self.network, self.rows = problem.network, len(problem.samples)
        self._state = begin(problem, policy)
        self.loss = self._state.loss
        self.converged = False
        self.truncated = False
        if not self.loss < float("inf"):
            cause = explain_non_finite(self.network, problem.samples)
            raise TrainingFailed(f"The error is not finite before the first step: {cause}.")

    @property
    def damping(self) -> float:
        """Damping of the next step."""
        return self._state.damping

    def step(self) -> float:
        """Take one step, or set `converged` if no step is acceptable; return the objective."""
        self._state = step(self.problem, self._state, self.policy)
        self.network.set_unknowns(self._state.unknowns)
        self.loss = self._state.loss
        self.converged = not self._state.improved
        self.truncated = self._state.truncated
        return self.loss

    def state(self) -> dict[str, Tensor]:
        """Return the damping, squared column norms, frozen unknowns and penalty rows by name.

        The penalty rows are stored because they depend on the edge scales that the network had when
        the solver was created; these may have been trained since.
        """
        kept = {
            "damping": torch.tensor(self.damping, dtype=torch.float64),
            "sizes": self._state.max_squared_norms,
            "frozen": self.problem.frozen,
            "penalty": self.problem.penalty_rows.values if len(self.problem.penalty_rows) else None,
        }
        return {key: value for key, value in kept.items() if value is not None}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""
        problem = self.problem
        if "penalty" in state:
            made = problem.penalty_rows
            problem.penalty_rows = LocalRows(made.index, state["penalty"], made.unknowns)
            self._state = begin(problem, self.policy)
            self.loss = self._state.loss
        damping = float(state["damping"])
        norms = state.get("sizes")
        self._state = replace(self._state, damping=damping, max_squared_norms=norms)
        problem.frozen = state.get("frozen")


def create_lm(
    network: Network, objective: Objective, plan: Plan, generator: Generator
) -> LevenbergMarquardt:
    """Return a Levenberg-Marquardt solver, with damping and tolerances chosen for the network."""
    settings = plan.settings
    policy = LM_WITHOUT_GRID
    tolerances = (0.0, 0.0)
    if network.intervals is not None:
        policy = LM_WITH_GRID
        tolerances = (settings.tolerance, settings.plateau_tolerance)
        if network.unknowns_at(None) > SMALL:
            policy = replace(policy, damping=LARGE_DAMPING)
    if settings.damping is not None:
        policy = replace(policy, damping=settings.damping)
    return LevenbergMarquardt(DataFitting(network, objective), policy, *tolerances)


class Adam:
    """torch's AdamW with a learning-rate schedule.

    Each step uses one batch: all samples, or a mini-batch drawn with `generator`.
    """

    tolerance = plateau_tolerance = 0.0
    truncated = False

    def __init__(
        self, network: Network, objective: Objective, plan: Plan, generator: Generator
    ) -> None:
        self.network = network
        self.objective = objective
        self.generator = generator
        options = plan.settings
        self.options, self._steps = options, plan.steps_for(0)
        self.rows = min(options.batch_size or len(objective.samples), len(objective.samples))
        self._named = network.trained()
        self._optimiser = torch.optim.AdamW(
            self._named.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._smoothness_loss = SmoothnessLoss(network, objective.penalty)
        self._free = objective.movable(network)
        self._taken = 0
        self.converged = False
        self.loss = float("nan")

    def step(self) -> float:
        """Take one step and return the objective before it, on the batch of this step.

        Raises TrainingFailed if the objective is NaN or infinite.
        """
        samples = self.objective.samples
        options = self.options
        if self.rows < len(samples):
            index = torch.randint(len(samples), (self.rows,), generator=self.generator)
            samples = samples.part(index.to(samples.x.device))
        decay = 0.5 * (1 + cos(pi * min(self._taken / self._steps, 1.0)))
        for group in self._optimiser.param_groups:
            group["lr"] = options.learning_rate * (
                decay if options.lr_schedule == "cosine" else 1.0
            )
        self._optimiser.zero_grad()
        value = self.objective.value(self.network, samples, self._smoothness_loss)
        if not bool(torch.isfinite(value)):
            cause = explain_non_finite(self.network, samples)
            raise TrainingFailed(
                f"The loss is not finite at step {self._taken + 1} of Adam: {cause}."
            )
        torch.autograd.backward(value)
        before = [parameter.detach().clone() for parameter in self._free]
        self._optimiser.step()
        with torch.no_grad():
            for (parameter, free), held in zip(self._free.items(), before, strict=True):
                parameter.copy_(torch.where(free, parameter, held))
        self._taken += 1
        self.loss = float(value.detach())
        return self.loss

    def state(self) -> dict[str, Tensor]:
        """Return Adam's moments, the number of steps, and masks of the entries that may change.

        The keys for a parameter `name` consist of torch's names and `name`: `exp_avg/name` and
        `exp_avg_sq/name` (the moments), and `step/name`. The masks have the keys `free/0`, ...
        """
        kept = {"taken": torch.tensor(self._taken)}
        kept |= {f"free/{number}": free for number, free in enumerate(self._free.values())}
        for name, parameter in self._named.items():
            moments = self._optimiser.state.get(parameter, {})
            kept |= {f"{kind}/{name}": value.clone() for kind, value in moments.items()}
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if name in self._named:
                self._optimiser.state[self._named[name]][kind] = value.clone()
        self._taken = int(state["taken"])
        self._free = {p: state[f"free/{number}"] for number, p in enumerate(self._free)}
