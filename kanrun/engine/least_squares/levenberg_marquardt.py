"""Levenberg-Marquardt for any nonlinear least squares problem, or a batch of problems side by side.

A step solves the damped linear problem, with S scaling columns to unit norm, which makes the
damping mu free of units:

    min over d of  |J d + r|^2 + mu |S d|^2

The normal equations are solved by Cholesky, or by conjugate gradients if their matrix would be too
large. A *quick*
step follows the gain ratio: one damping after the other, each solved once (Marquardt 1963; Nielsen
1999). A *damping search* tries several dampings on one linearisation, and bends the step by
geodesic acceleration (Transtrum and Sethna, arXiv 1201.5885). Batches take quick steps only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite, nan

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from kanrun.engine.least_squares.least_squares_problem import Linearisation, Problem, StackedRows

# A damping search: maximum number of smaller and of larger dampings tried, and the gain that ends
# the search downwards, as a fraction of the remaining objective or of what the step gains.
MAX_DECREASES, MAX_INCREASES, MIN_GAIN = 3, 6, 0.1
#: Fraction of the step at which its second directional derivative is measured.
ACCELERATION_STEP = 0.1
#: Objective after the straight step, relative to the one before, between which bending is tried.
ACCELERATION_RANGE = (1e-3, 4.0)
#: Maximum number of unknowns for a matrix of the normal equations.
MATRIX_UNKNOWNS = 6000
#: Relative residual at which conjugate gradients stops, and its maximum number of iterations.
CG_TOLERANCE, CG_MAX_ITERATIONS = 1e-8, 60
#: Where rounding leaves no Cholesky factor: factors of the damping, and what is added to it; NaN
#: solutions at last.
RETRIES = ((30.0, 1e-13), (1000.0, 1e-12), (0.0, nan))
#: Squared column norms count as at least this fraction of the largest one; and the smallest
#: divisor.
SMALLEST_COLUMN, TINY = 1e-30, 1e-300

#: The solutions of damped normal equations for right-hand sides.
Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LMPolicy:
    """Damping of Levenberg-Marquardt steps, relative to columns of unit norm.

    `damping_search=False` takes quick steps.
    """

    #: Damping of the first step; positive.
    damping: float = 1e-3
    #: Bounds of the damping; from 0.
    min_damping: float = 1e-13
    max_damping: float = 1e6
    damping_search: bool = True
    #: Maximum number of dampings that a quick step tries; at least 1.
    max_trials: int = 40
    #: Factor of the damping after a rejected quick step; above 1.
    damping_increase: float = 8.0
    #: Gain ratio (decrease / decrease of the linear model) above which the damping is divided, and
    #: the divisor; the first that applies counts (Marquardt 1963; Nielsen 1999).
    damping_decrease: tuple[tuple[float, float], ...] = ((0.75, 10.0), (0.25, 4.0))


@dataclass(frozen=True)
class StoppingCriteria:
    """Stopping criteria of `minimise`.

    `max_steps`, an objective of `target_loss`, or `patience` steps in a row that each lower the
    objective by less than the fraction `rtol`.
    """

    max_steps: int = 100
    target_loss: float = 0.0
    rtol: float = 1e-4
    patience: int = 3


@dataclass(frozen=True)
class State:
    """The state of an iteration.

    Unknowns, and one entry for each problem of a batch (else one) of the others.
    """

    unknowns: Float[Tensor, "... unknowns"]
    loss: Float[ndarray, " problems"]
    damping: Float[ndarray, " problems"]
    #: Whether the last step lowered the objective.
    improved: Bool[ndarray, " problems"]
    #: Largest squared column norms so far, if columns can vanish.
    max_squared_norms: Float[Tensor, " unknowns"] | None = None
    #: Number of dampings tried so far.
    n_trials: int = 0

    def part(self, at: list[int]) -> State:
        """Return the state of the problems of a batch at `at`."""
        return replace(self, **{name: getattr(self, name)[at] for name in _BATCHED})

    def updated(self, at: list[int], part: State) -> State:
        """Return this state with `part` at the indices `at`."""
        new = deepcopy({name: getattr(self, name) for name in _BATCHED})
        for name, values in new.items():
            values[at] = getattr(part, name)
        return replace(part, **new)


_BATCHED = ("unknowns", "loss", "damping", "improved")


def begin(problem: Problem, policy: LMPolicy, damping: Sequence[float] | None = None) -> State:
    """Return the state before the first step; `damping` of each problem replaces the policy's."""
    loss = np.array(problem.objective(problem.unknowns))
    finite = np.isfinite(loss)
    first = np.full(len(loss), policy.damping) if damping is None else np.array(damping)
    return State(problem.unknowns, np.where(finite, loss, inf), first, finite)


def step(problem: Problem, state: State, policy: LMPolicy) -> State:
    """Return the state after one step."""
    equations = NormalEquations(problem.linearise(state.unknowns), state.max_squared_norms)
    if problem.columns_can_vanish:
        state = replace(state, max_squared_norms=equations.squared_norms)
    take = _searched_step if policy.damping_search else _quick_step
    return take(problem, equations, state, policy)


def minimise(
    problem: Problem,
    policy: LMPolicy,
    stopping: StoppingCriteria,
    damping: Sequence[float] | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> tuple[State, int]:
    """Minimise the loss; return the final state and the number of steps.

    Each problem of a batch stops separately. `ended` is called before each step.
    """
    state = begin(problem, policy, damping)
    slow = np.zeros(len(state.loss), dtype=int)
    for taken in range(stopping.max_steps):
        before = state.loss
        going = state.improved & (before > stopping.target_loss) & (slow < stopping.patience)
        if not going.any() or ended():
            return state, taken
        if going.all():
            state = step(problem, state, policy)
        else:  # in a batch only
            at = np.flatnonzero(going).tolist()
            state = state.updated(at, step(problem.part(at), state.part(at), policy))
        slow = np.where(state.loss > (1 - stopping.rtol) * before, slow + 1, 0)
    return state, stopping.max_steps


def _quick_step(
    problem: Problem, equations: NormalEquations, state: State, policy: LMPolicy
) -> State:
    unknowns, loss, damping = state.unknowns, state.loss, state.damping
    improved, last, trials = np.zeros(len(loss), dtype=bool), False, 0
    while trials < policy.max_trials and not last:
        move = -equations.solver(damping)(equations.gradient)
        moved = unknowns + move
        values = np.array(problem.objective(moved))
        lower = ~improved & (values < loss)
        last = bool((improved | lower | (damping >= policy.max_damping)).all())
        if lower.all():
            unknowns = moved
        elif lower.any():
            unknowns = torch.where(moved.new_tensor(lower)[:, None] > 0, moved, unknowns)
        expected = -(equations.gradient * move).sum(-1).reshape(-1).numpy(force=True)
        with np.errstate(all="ignore"):  # objectives may be infinite
            gain = (loss - values) / np.maximum(expected, TINY)
        divisor = np.select(
            [gain > least for least, _ in policy.damping_decrease],
            [by for _, by in policy.damping_decrease],
            1.0,
        )
        raised = np.where(improved, damping, damping * policy.damping_increase)
        damping = np.where(lower, damping / divisor, raised)
        damping = damping.clip(policy.min_damping, policy.max_damping)
        loss, improved = np.where(lower, values, loss), improved | lower
        trials += 1
    norms = state.max_squared_norms
    return State(unknowns, loss, damping, improved, norms, state.n_trials + trials)


def _searched_step(
    problem: Problem, equations: NormalEquations, state: State, policy: LMPolicy
) -> State:
    """Take smaller dampings while they help, or larger ones until one does."""
    start, mu = float(state.loss[0]), float(state.damping[0])
    path = _Path(problem, equations, state)
    best = path.at(mu)
    if best[0] < start:
        for _ in range(MAX_DECREASES):
            lower = max(mu / 10, policy.min_damping)
            trial = path.at(lower) if lower < mu else best
            if not trial[0] < best[0]:
                break
            gained, best, mu = best[0] - trial[0], trial, lower
            if gained < MIN_GAIN * min(best[0], start - best[0]):
                break
    else:
        for attempt in range(MAX_INCREASES):
            mu = min(max(mu, 1e-12) * (10 if attempt < 3 else 100), policy.max_damping)
            best = path.at(mu)
            if best[0] < start:
                break
        else:
            return replace(state, improved=np.array([False]), n_trials=path.n_trials)
    return replace(
        state,
        unknowns=state.unknowns + best[1],
        loss=np.array([best[0]]),
        damping=np.array([mu]),
        improved=np.array([True]),
        n_trials=path.n_trials,
    )


class _Path:
    """The objective of one problem along the steps that dampings lead to, straight or bent."""

    def __init__(self, problem: Problem, equations: NormalEquations, state: State) -> None:
        self.problem, self.equations, self.state = problem, equations, state
        self.n_trials = state.n_trials

    def at(self, mu: float) -> tuple[float, Tensor]:
        """Return objective and step of damping `mu`, straight or bent."""
        solve = self.equations.solver(np.array([mu]))
        best = self._tried(-solve(self.equations.gradient))
        low, high = (bound * self.state.loss[0] for bound in ACCELERATION_RANGE)
        if low < best[0] < high:
            bent = self._tried(best[1] + 0.5 * self._acceleration(solve, best[1]))
            best = min(best, bent, key=lambda trial: trial[0])
        return best

    def _tried(self, move: Tensor) -> tuple[float, Tensor]:
        self.n_trials += 1
        loss = self.problem.objective(self.state.unknowns + move)[0]
        return loss if isfinite(loss) else inf, move

    def _acceleration(self, solve: Solve, move: Tensor) -> Tensor:
        """Return -(J^T J)^-1 J^T r'', r'' the second directional derivative of the residuals."""
        linear, h = self.equations.linear, ACCELERATION_STEP
        # Single problems have rows and residuals.
        assert linear.rows is not None and linear.residual is not None  # noqa: PT018
        there = self.problem.residual(self.state.unknowns + h * move)
        second = 2 * (there - linear.residual - h * linear.rows.times(move)) / h**2
        return -solve(self.equations.free(linear.rows.transposed(second)))


class NormalEquations:
    """J^T J d = -J^T r with unit columns, for one problem or a batch (`...` problems).

    Squared column norms given (..., unknowns) count if they are larger than the present ones;
    `squared_norms` are those used. `gradient` is J^T r, zero for frozen unknowns.
    """

    def __init__(self, linear: Linearisation, squared_norms: Tensor | None = None) -> None:
        self.linear = linear
        self.gradient = self.free(linear.gradient)
        matrix = linear.gram
        self._bands: Tensor | None = None
        if matrix is None:
            assert linear.rows is not None
            if isinstance(linear.rows, StackedRows) and linear.rows.banded:
                self._bands = linear.rows.gram()
                diagonal = self._bands[0]
            elif linear.rows.unknowns <= MATRIX_UNKNOWNS:
                matrix = linear.rows.gram()
                if linear.frozen is not None:
                    matrix[linear.frozen, :] = 0
                    matrix[:, linear.frozen] = 0
            else:
                diagonal = linear.rows.squares()
        if matrix is not None:
            diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal = self.free(diagonal)
        norms = diagonal.clone() if squared_norms is None else diagonal.maximum(squared_norms)
        least = (SMALLEST_COLUMN * norms.amax(-1, keepdim=True)).clamp(min=TINY)
        self.squared_norms, self.scale = norms, torch.maximum(norms, least).rsqrt()
        self._diagonal = torch.where(norms > least, diagonal / norms, 1.0)
        self._matrix = None
        if matrix is not None:
            self._matrix = (matrix * self.scale[..., None]).mul_(self.scale[..., None, :])

    def free(self, g: Tensor) -> Tensor:
        """Return `g` with zeros for frozen unknowns."""
        return g if self.linear.frozen is None else g.masked_fill(self.linear.frozen, 0)

    def solver(self, damping: Float[ndarray, " problems"]) -> Solve:
        """Return the map from right-hand sides to solutions for the damping of each problem.

        See RETRIES for matrices without a factor.
        """
        if self._bands is not None:
            from kanrun.engine.least_squares.banded import BandedFactor

            banded = BandedFactor.of(self._bands, self._diagonal, self.scale, float(damping[0]))
            return partial(self._by_conjugate_gradients, float(damping[0]), banded.solve)
        if self._matrix is None:
            return partial(
                self._by_conjugate_gradients, float(damping[0]), lambda g: self.scale**2 * g
            )
        tried, entries = damping, self._matrix.diagonal(dim1=-2, dim2=-1)
        for factor, added in RETRIES:
            mu = float(tried[0]) if len(tried) == 1 else entries.new_tensor(tried)[:, None]
            torch.add(self._diagonal, mu, out=entries)
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)  # in LAPACK's order of memory
            if not failed.any():
                break
            bad = failed.reshape(-1).numpy(force=True) != 0
            tried = np.where(bad, factor * damping + added, tried)
        scale = self.scale
        return lambda g: scale * torch.cholesky_solve((scale * g)[..., None], lower)[..., 0]

    def _by_conjugate_gradients(self, damping: float, near: Solve, g: Tensor) -> Tensor:
        """Solve one problem by products with its rows; `near` solves nearly the same equations.

        The factor of normal equations in bands has lost the digits of smooth functions where the
        equation has a high order or the grid is fine; the iteration restores them.
        """
        rows = self.linear.rows
        assert rows is not None
        solution, residual, direction = torch.zeros_like(g), g, near(g)
        first = size = float(residual @ direction)
        for _ in range(CG_MAX_ITERATIONS):
            if not size > CG_TOLERANCE**2 * first:
                break
            image = self.free(rows.transposed(rows.times(direction)))
            image = image + damping * direction / self.scale**2
            length = size / float(direction @ image)
            solution += length * direction
            residual = residual - length * image
            moved = near(residual)
            before, size = size, float(residual @ moved)
            direction = moved + size / before * direction
        return solution
