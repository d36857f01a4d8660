"""Levenberg-Marquardt for any nonlinear least squares problem, or a batch of them side by side.

A *quick* step follows the gain ratio: one damping after the other, each solved once (Marquardt 1963; Nielsen 1999). A
*thorough* one searches the damping on one linearisation, and bends the step by geodesic acceleration (Transtrum and
Sethna, arXiv 1201.5885). Batches take quick steps only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.least_squares.normal_equations import Factor, Iteration, NormalEquations
from kanrun.engine.least_squares.problem import LMPolicy, Problem, Stopping


@dataclass(frozen=True)
class State:
    """Where an iteration is: unknowns, and one entry for each problem of a batch (else one) of the others.

    `found` says of which problems the last step lowered the objective.
    """

    unknowns: Float[Tensor, "... unknowns"]
    loss: list[float]
    damping: list[float]
    found: list[bool]
    sizes: Float[Tensor, " unknowns"] | None = (
        None  # the largest squared column norms, where a problem's can fade
    )
    tried: int = 0  # dampings tried so far

    def part(self, at: list[int]) -> State:
        """The state of the problems of a batch at `at`."""
        loss, damping = ([each[i] for i in at] for each in (self.loss, self.damping))
        return replace(
            self,
            unknowns=self.unknowns[at],
            loss=loss,
            damping=damping,
            found=[self.found[i] for i in at],
        )

    def updated(self, at: list[int], part: State) -> State:
        """This state with `part` at the indices `at`."""
        unknowns, loss, damping, found = (
            self.unknowns.clone(),
            [*self.loss],
            [*self.damping],
            [*self.found],
        )
        unknowns[at] = part.unknowns
        for k, i in enumerate(at):
            loss[i], damping[i], found[i] = part.loss[k], part.damping[k], part.found[k]
        return replace(part, unknowns=unknowns, loss=loss, damping=damping, found=found)


def begin(problem: Problem, policy: LMPolicy, damping: Sequence[float] | None = None) -> State:
    """The state before the first step; `damping` of each problem in place of the policy's."""
    loss = [value if isfinite(value) else inf for value in problem.objective(problem.unknowns)]
    first = [policy.damping] * len(loss) if damping is None else list(damping)
    return State(problem.unknowns, loss, first, [value < inf for value in loss])


def step(problem: Problem, state: State, policy: LMPolicy) -> State:
    """The state after one step, quick or thorough by the policy."""
    equations = NormalEquations(problem.linearise(state.unknowns), policy, state.sizes)
    if problem.fading and policy.largest_columns:
        state = replace(state, sizes=equations.sizes)
    return (
        _Search(problem, equations, state).run()
        if policy.thorough
        else _quick(problem, equations, state)
    )


def minimise(
    problem: Problem,
    policy: LMPolicy,
    stopping: Stopping,
    damping: Sequence[float] | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> tuple[State, int]:
    """The state at the end of the iteration, and the steps taken; each problem of a batch stops by itself.

    `ended` is asked before each step.
    """
    state = begin(problem, policy, damping)
    problems = range(len(state.loss))
    slow = [0 for _ in problems]
    for taken in range(stopping.steps):
        left = [i for i in problems if state.found[i] and state.loss[i] > stopping.floor]
        active = [i for i in left if slow[i] < stopping.patience]
        if not active or ended():
            return state, taken
        before = state.loss
        if len(active) == len(before):
            state = step(problem, state, policy)
        else:  # in a batch only
            state = state.updated(active, step(problem.part(active), state.part(active), policy))
        for i in active:
            slow[i] = slow[i] + 1 if state.loss[i] > (1 - stopping.gain) * before[i] else 0
    return state, stopping.steps


def _quick(problem: Problem, equations: NormalEquations, state: State) -> State:
    policy = equations.policy
    unknowns, loss, damping = state.unknowns, [*state.loss], [*state.damping]
    problems, found, tried = range(len(loss)), [False] * len(loss), 0
    while tried < policy.tries and not all(found):
        move = -equations.factor(damping).solve(equations.gradient)
        moved = unknowns + move
        values = problem.objective(moved)
        lower = [not found[i] and values[i] < loss[i] for i in problems]
        last = all(found[i] or lower[i] or damping[i] >= policy.largest for i in problems)
        if any(lower):
            unknowns = _chosen(lower, moved, unknowns)
            expected = -(equations.gradient * move).sum(-1).reshape(-1)
        for i in problems:
            if lower[i]:
                gain = (loss[i] - values[i]) / max(float(expected[i]), 1e-300)
                divisor = next((divisor for least, divisor in policy.lowered if gain > least), 1.0)
                damping[i] = max(damping[i] / divisor, policy.smallest)
                loss[i], found[i] = values[i], True
            elif not found[i]:
                damping[i] = min(damping[i] * policy.raised, policy.largest)
        tried += 1
        if last:
            break
    return State(unknowns, loss, damping, found, state.sizes, state.tried + tried)


def _chosen(lower: list[bool], moved: Tensor, unknowns: Tensor) -> Tensor:
    """`moved` for the problems that are `lower`, else `unknowns`."""
    if all(lower):
        return moved
    return torch.where(torch.tensor(lower, device=moved.device)[:, None], moved, unknowns)


@dataclass(frozen=True)
class _Trial:
    """Where a step leads: the objective there, and the step."""

    loss: float
    move: Tensor


class _Search:
    """A thorough step of one problem from `state`."""

    def __init__(self, problem: Problem, equations: NormalEquations, state: State) -> None:
        self.problem, self.equations, self.state = problem, equations, state
        self.policy, self.loss, self.tried = equations.policy, state.loss[0], state.tried

    def run(self) -> State:
        state = self.state
        mu, best = self._searched(state.damping[0])
        if not best.loss < self.loss:
            return replace(state, found=[False], tried=self.tried)
        return State(state.unknowns + best.move, [best.loss], [mu], [True], state.sizes, self.tried)

    def _searched(self, mu: float) -> tuple[float, _Trial]:
        """The damping and its trial: smaller ones while they help, larger ones until one does."""
        policy, best = self.policy, self._at(mu)
        if not best.loss < self.loss:
            for attempt in range(policy.up):
                mu = min(max(mu, 1e-12) * (10 if attempt < 3 else 100), policy.largest)
                best = self._at(mu)
                if best.loss < self.loss:
                    break
            return mu, best
        for _ in range(policy.down):
            lower = max(mu / 10, policy.smallest)
            trial = self._at(lower) if lower < mu else best
            if not trial.loss < best.loss:
                break
            gained, best, mu = best.loss - trial.loss, trial, lower
            if gained < policy.worth * min(trial.loss, self.loss - trial.loss):
                break
        return mu, best

    def _at(self, mu: float) -> _Trial:
        """The better step that damping `mu` leads to: straight or bent."""
        equations, policy = self.equations, self.policy
        factor = equations.factor([mu])
        best = self._trial(-factor.solve(equations.gradient))
        low, high = policy.bend_between
        if policy.geodesic and low * self.loss < best.loss < high * self.loss:
            bent = self._trial(best.move + 0.5 * self._acceleration(factor, best.move))
            best = min(best, bent, key=lambda trial: trial.loss)
        return best

    def _acceleration(self, factor: Factor | Iteration, move: Tensor) -> Tensor:
        """-(J^T J)^-1 J^T r'' along the step, r'' the second directional derivative of the residuals."""
        linear, probe = self.equations.linear, self.policy.probe
        assert linear.rows is not None  # an invariant: single problems have rows and residuals
        assert linear.residual is not None
        there = self.problem.residual(self.state.unknowns + probe * move)
        second = 2 * (there - linear.residual - probe * linear.rows.times(move)) / probe**2
        return -factor.solve(self.equations.free(linear.rows.transposed(second)))

    def _trial(self, move: Tensor) -> _Trial:
        self.tried += 1
        loss = self.problem.objective(self.state.unknowns + move)[0]
        return _Trial(loss if isfinite(loss) else inf, move)
