"""A plan's solver: an object with `step`, `loss` and `converged`."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from kanrun.config.registry import SOLVERS
from kanrun.engine.networks import Network
from kanrun.engine.training.data import TrainingData, output_scale
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt
from kanrun.engine.training.first_order import Adam, Objective
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.penalty import Smoothing
from kanrun.engine.training.plan import Plan
from kanrun.errors import UsageError

#: A solver's past, by kind and parameter.
Memory = dict[str, Tensor]


@runtime_checkable
class Solver(Protocol):
    """Lowers its objective on one network, in place, a step at a time."""

    name: str
    network: Network
    loss: float
    converged: bool
    rows: int  # samples that one step looks at
    stalls: bool  # whether steps that gain little mean that the rest will too

    def step(self) -> float:
        """One step; the objective after it. Raises TrainingFailed where it is not finite."""

    def memory(self) -> dict[str, Tensor]:
        """The past that a solver on the next grid can use, see `optimizer_transfer`; empty where it keeps nothing."""

    def state(self) -> dict[str, Tensor] | None:
        """What, beside the network and the generator, a new solver on them goes on from to the same numbers.

        None after steps from which it cannot.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from another solver's `state()`."""


def create_lm(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator, memory: Memory
) -> Solver:
    if data.task == "classification":
        raise UsageError("solver=lm minimises squares; for classification use solver=lbfgs or solver=adam.")
    policy = plan.policy.lm_without_grid if network.intervals is None else plan.policy.lm
    if network.intervals is not None and network.unknowns_at(None) > plan.policy.small:
        policy = replace(policy, damping=plan.policy.large_damping)
    problem = DataFitting(
        network, data.train, output_scale(data.train, data.task), smoothing, freeze_unseen=plan.freeze_unseen,
        held_numbers=plan.policy.held_numbers, farthest=plan.policy.farthest,
    )  # fmt: skip
    return LevenbergMarquardt(problem, policy)


def create_lbfgs(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator, memory: Memory
) -> Solver:
    objective = _objective(data, plan, smoothing)
    return LBFGS(network, objective, history=plan.history, memory=memory, policy=plan.policy.lbfgs)


def create_adam(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator, memory: Memory
) -> Solver:
    options = replace(plan.adam, steps=plan.steps or SOLVERS["adam"].steps)
    return Adam(network, _objective(data, plan, smoothing), options, generator, memory)


def _objective(data: TrainingData, plan: Plan, smoothing: Smoothing) -> Objective:
    return Objective(
        data.train, output_scale(data.train, data.task), data.task, weight=smoothing.weight, order=smoothing.order,
        freeze_unseen=plan.freeze_unseen, sparsity=plan.sparsity, magnitude=plan.magnitude,
    )  # fmt: skip


def make_solver(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing | float, generator: Generator,
    memory: Memory | None = None,
) -> Solver:  # fmt: skip
    """The plan's solver on `network`; second-order ones need float64. `memory` is an earlier solver's, carried here.

    Raises UsageError for a solver that does not fit the task or the precision.
    """
    if plan.solver == "lm" and next(network.parameters()).dtype != torch.float64:
        raise UsageError("solver=lm works in float64; use precision=float64, or solver=lbfgs or adam for float32.")
    if not isinstance(smoothing, Smoothing):
        smoothing = Smoothing(smoothing)
    solver: Solver = SOLVERS[plan.solver].build()(network, data, plan, smoothing, generator, memory or {})
    return solver
