"""Levenberg-Marquardt for any nonlinear least-squares problem.

A step d solves the damped linear problem

    min over d of  |J d + r|^2 + mu |S d|^2

with the Jacobian J, the residual r, the damping mu, and the diagonal matrix S of column norms of J,
which makes mu dimensionless. The normal equations are solved by a Cholesky factorisation, or by
conjugate gradients if their matrix would be too large. A *quick step* increases the damping until a
step succeeds, and then adapts the damping to the gain ratio (Marquardt 1963; Nielsen 1999). A
*damping search* tries several dampings for one linearisation, and corrects the step by geodesic
acceleration (Transtrum and Sethna, arXiv 1201.5885).

`rows` stores Jacobians and other matrices with one column per unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kanrun.engine.least_squares.rows import (
    DenseRows,
    ElementRows,
    LocalRows,
    Pattern,
    Rows,
    Solve,
    StackedRows,
    banded_solver,
    gauss_newton,
)

Unknowns = Float[Tensor, " unknowns"]
#: Fraction of the step at which the second directional derivative of the residual is measured.
ACCELERATION_STEP = 0.1
#: Geodesic acceleration is tried only if the ratio of the objective after the uncorrected step to
#: the objective before the step is in this range.
ACCELERATION_RANGE = (1e-3, 4.0)
#: Largest number of unknowns for which the matrix of the normal equations is formed.
MATRIX_UNKNOWNS = 6000
#: Relative residual, in the preconditioner's norm, at which conjugate gradients stops.
CG_TOLERANCE = 1e-8
#: Largest number of iterations of conjugate gradients; a step that needs more is truncated.
CG_MAX_ITERATIONS = 60
#: If the Cholesky factorisation fails because of rounding, it is tried again with the damping
#: factor * mu + added, for each of these pairs (factor, added).
RETRIES = ((30.0, 1e-13), (1000.0, 1e-12))
#: Smallest divisor, which prevents division by zero. A larger value would change small quotients.
TINY = 1e-300


@dataclass(frozen=True)
class Linearisation:
    """The quadratic model |r + J d|^2 of the objective, as a function of the step d.

    Attributes:
        rows: Rows of the Jacobian J.
        residual: Residual r.
        frozen: Mask of the unknowns that must not change; None if all may change.
    """

    rows: Rows
    residual: Float[Tensor, " rows"]
    frozen: Bool[Tensor, " unknowns"] | None = None


class Problem(ABC):
    """A nonlinear least-squares problem: minimise F(u) = |r(u)|^2 over the unknowns u.

    All terms of the objective are residuals: errors on data, a penalty D u with a constant matrix
    D, or a differential equation at collocation points. An example is the equation u'' = f for a
    spline u(x) = sum_j c_j B_j(x). The unknowns are c, the residuals are B''(x_n) c - f(x_n) and
    the errors of the boundary values, and the rows of the Jacobian are B''(x_n). For a nonlinear
    equation N(u, u', u'') = 0, the rows are the partial derivatives of N times B, B', B''. A
    problem implements these methods:

        class Equation(Problem):
            def residual(self, u): ...                                # (rows,)
            def linearise(self, u): return Linearisation(DenseRows(self.jacobian(u)),
            self.residual(u))
    """

    #: Initial unknowns.
    unknowns: Unknowns
    #: Whether Jacobian columns can vanish (saturated units); scaling by their current norms would
    #: then allow huge steps, so their largest norms so far are used (More 1978, section 6).
    columns_can_vanish: bool = False

    @abstractmethod
    def linearise(self, unknowns: Unknowns) -> Linearisation:
        """Return the linearisation at `unknowns`."""

    def residual(self, unknowns: Unknowns) -> Float[Tensor, " rows"]:
        """Return the residual r(u), shape (rows,), in the order of the Jacobian's rows."""
        raise NotImplementedError(f"{type(self).__name__} has no residuals of its own.")

    def objective(self, unknowns: Unknowns) -> float:
        """Return the objective F(u). The solver rejects steps to values that are not finite."""
        return float(self.residual(unknowns).square().sum())


@dataclass(frozen=True)
class LMPolicy:
    """Rules for the damping of Levenberg-Marquardt steps.

    Dampings refer to a Jacobian whose columns are scaled to unit norm.

    Attributes:
        damping: Damping of the first step; positive.
        min_damping: Smallest damping; at least 0.
        max_damping: Largest damping.
        damping_search: Whether each step is a damping search; otherwise it is a quick step (see the
            module docstring).
        max_trials: Largest number of dampings that a quick step tries; at least 1.
        damping_increase: Factor by which a quick step multiplies the damping after a failed trial;
            above 1.
        damping_decrease: Pairs (least, divisor). After a quick step, the damping is divided by the
            divisor of the first pair whose `least` is below the gain ratio. The gain ratio is the
            decrease of the objective divided by the decrease of its model |r + J d|^2 (Marquardt
            1963; Nielsen 1999).
    """

    damping: float = 1e-3
    min_damping: float = 1e-13
    max_damping: float = 1e6
    damping_search: bool = True
    max_trials: int = 40
    damping_increase: float = 8.0
    damping_decrease: tuple[tuple[float, float], ...] = ((0.75, 10.0), (0.25, 4.0))


@dataclass(frozen=True)
class StoppingCriteria:
    """Stopping criteria of `minimise`, which ends as soon as one of them is met.

    Attributes:
        max_steps: Largest number of steps.
        target_loss: Objective at or below which the iteration ends.
        rtol: A step is slow if it lowers the objective by less than this fraction.
        patience: Number of slow steps in a row after which the iteration ends.
    """

    max_steps: int = 100
    target_loss: float = 0.0
    rtol: float = 1e-4
    patience: int = 3


@dataclass(frozen=True)
class State:
    """State of an iteration between two steps.

    Attributes:
        unknowns: Present unknowns.
        loss: Objective at the unknowns.
        damping: Damping of the next step.
        improved: Whether the last step lowered the objective.
        truncated: Whether conjugate gradients reached its largest number of iterations in the last
            step.
        max_squared_norms: Largest squared column norms so far, if columns can vanish.
    """

    unknowns: Unknowns
    loss: float
    damping: float
    improved: bool
    truncated: bool = False
    max_squared_norms: Unknowns | None = None


def begin(problem: Problem, policy: LMPolicy, damping: float | None = None) -> State:
    """Return the state before the first step. If given, `damping` replaces `policy.damping`."""
    loss = problem.objective(problem.unknowns)
    loss = loss if isfinite(loss) else inf
    first = policy.damping if damping is None else damping
    return State(problem.unknowns, loss, first, loss < inf)


def step(problem: Problem, state: State, policy: LMPolicy) -> State:
    """Return the state after one step.

    If no damping lowers the objective, the unknowns are unchanged and `improved` is False.
    """
    equations = NormalEquations(problem.linearise(state.unknowns), state.max_squared_norms)
    if problem.columns_can_vanish:
        state = replace(state, max_squared_norms=equations.squared_norms)
    take = _searched_step if policy.damping_search else _quick_step
    return replace(take(problem, equations, state, policy), truncated=equations.truncated)


def minimise(
    problem: Problem,
    policy: LMPolicy,
    stopping: StoppingCriteria,
    damping: float | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> tuple[State, int]:
    """Minimise the objective; return the final state and the number of steps taken.

    If given, `damping` replaces `policy.damping`. `ended` is called before each step, and the
    iteration ends if it returns True.
    """
    state = begin(problem, policy, damping)
    slow = 0
    for taken in range(stopping.max_steps):
        before = state.loss
        settled = not state.improved or slow >= stopping.patience
        if settled or before <= stopping.target_loss or ended():
            return state, taken
        state = step(problem, state, policy)
        slow = slow + 1 if state.loss > (1 - stopping.rtol) * before else 0
    return state, stopping.max_steps


def _quick_step(
    problem: Problem, equations: NormalEquations, state: State, policy: LMPolicy
) -> State:
    """Increase the damping until a step lowers the objective, then adapt it to the gain ratio."""
    mu = state.damping
    for _ in range(policy.max_trials):
        move = -equations.solver(mu)(equations.gradient)
        loss = problem.objective(state.unknowns + move)
        if loss < state.loss:
            gain = (state.loss - loss) / max(equations.decrease(move), TINY)
            divisor = next((by for least, by in policy.damping_decrease if gain > least), 1.0)
            mu = min(max(mu / divisor, policy.min_damping), policy.max_damping)
            return replace(state, unknowns=state.unknowns + move, loss=loss, damping=mu)
        if mu >= policy.max_damping:
            break
        mu = min(max(mu * policy.damping_increase, policy.min_damping), policy.max_damping)
    return replace(state, damping=mu, improved=False)


def _searched_step(
    problem: Problem, equations: NormalEquations, state: State, policy: LMPolicy
) -> State:
    """Take a step with the best of several dampings.

    If the present damping lowers the objective, smaller dampings are tried while they help.
    Otherwise larger dampings are tried until one lowers the objective.
    """
    start = state.loss
    mu = state.damping
    at = partial(_damped_step, problem, equations, state)
    best = at(mu)
    # Largest number of smaller dampings that a damping search tries, each a tenth of the last. With
    # more trials, successful steps become longer, at the cost of one linear solution per trial.
    max_decreases = 3
    # Largest number of larger dampings that a damping search tries before the step counts as
    # failed. Each of the first three is 10 times the last damping, the others 100 times. With fewer
    # trials, the iteration ends earlier.
    max_increases = 6
    # The search for smaller dampings ends if the last one gained less than this fraction of the
    # remaining objective or of the step's decrease, whichever is smaller. With a smaller value,
    # more dampings are tried.
    min_gain = 0.1
    if best[0] < start:
        for _ in range(max_decreases):
            lower = max(mu / 10, policy.min_damping)
            trial = at(lower) if lower < mu else best
            if not trial[0] < best[0]:
                break
            gained = best[0] - trial[0]
            best = trial
            mu = lower
            if gained < min_gain * min(best[0], start - best[0]):
                break
    else:
        for attempt in range(max_increases):
            mu = min(max(mu, 1e-12) * (10 if attempt < 3 else 100), policy.max_damping)
            best = at(mu)
            if best[0] < start:
                break
        else:
            return replace(state, improved=False)
    return replace(state, unknowns=state.unknowns + best[1], loss=best[0], damping=mu)


def _damped_step(
    problem: Problem, equations: NormalEquations, state: State, mu: float
) -> tuple[float, Tensor]:
    """Return the objective after the step with damping `mu`, and the step.

    The step includes geodesic acceleration if this lowers the objective further.
    """

    def tried(move: Tensor) -> tuple[float, Tensor]:
        loss = problem.objective(state.unknowns + move)
        return loss if isfinite(loss) else inf, move

    solve = equations.solver(mu)
    best = tried(-solve(equations.gradient))
    low, high = (bound * state.loss for bound in ACCELERATION_RANGE)
    if low < best[0] < high:
        # The acceleration is -(J^T J)^-1 J^T r'', with r'' the second directional derivative of r.
        linear = equations.linear
        h = ACCELERATION_STEP
        move = best[1]
        there = problem.residual(state.unknowns + h * move)
        second = 2 * (there - linear.residual - h * linear.rows.times(move)) / h**2
        acceleration = -solve(equations.free(linear.rows.transposed(second)))
        best = min(best, tried(move + 0.5 * acceleration), key=lambda trial: trial[0])
    return best


class NormalEquations:
    """The normal equations J^T J d = -J^T r, with columns scaled to unit norm.

    Args:
        linear: The linearisation, with J and r.
        squared_norms: Squared column norms of earlier Jacobians (unknowns,). Where they are larger
            than those of J, they are used for the scaling instead.

    Attributes:
        squared_norms: Squared column norms that are used for the scaling.
        gradient: J^T r, with zeros for frozen unknowns.
        damping: Damping with which the last solver was created.
        truncated: Whether conjugate gradients reached its largest number of iterations.
    """

    def __init__(self, linear: Linearisation, squared_norms: Tensor | None = None) -> None:
        self.linear, rows = linear, linear.rows
        self.damping = 0.0
        self.truncated = False
        self.gradient = self.free(rows.transposed(linear.residual))
        banded = isinstance(rows, StackedRows) and rows.banded
        gram = rows.gram() if banded or rows.unknowns <= MATRIX_UNKNOWNS else None
        self._bands: Tensor | None = gram if banded else None
        self._matrix: Tensor | None = None if banded else gram
        squares = rows.squares() if gram is None else gram[0] if banded else gram.diagonal()
        diagonal = self.free(squares)
        norms = diagonal.clone() if squared_norms is None else diagonal.maximum(squared_norms)
        # Lower bound of squared column norms, as a fraction of the largest one. With a larger
        # value, unknowns with little effect move less; a smaller value amplifies rounding errors.
        share = 1e-30
        least = (share * norms.amax()).clamp(min=TINY)
        self.squared_norms, self.scale = norms, torch.maximum(norms, least).rsqrt()
        self._diagonal = torch.where(norms > least, diagonal / norms, 1.0)
        if self._matrix is not None:
            if linear.frozen is not None:
                self._matrix[linear.frozen, :] = 0
                self._matrix[:, linear.frozen] = 0
            self._matrix.mul_(self.scale[:, None]).mul_(self.scale)

    def free(self, g: Tensor) -> Tensor:
        """Return a copy of `g` with zeros for the frozen unknowns."""
        return g if self.linear.frozen is None else g.masked_fill(self.linear.frozen, 0)

    def decrease(self, move: Unknowns) -> float:
        """Return |r|^2 - |r + J d|^2 for the step `move` of the last solver.

        This is -g^T d + mu |S d|^2, since (J^T J + mu S^2) d = -g. It also holds for a truncated
        step, because conjugate gradients minimises over the directions that it has tried.
        """
        damped = self.damping * (move / self.scale).square().sum()
        return float(damped - self.gradient @ move)

    def solver(self, damping: float) -> Solve:
        """Return the map from right-hand sides to solutions of the damped equations.

        If the factorisation fails, larger dampings are tried (see RETRIES). If these fail too,
        solutions are NaN, so no step is taken.
        """
        scale = self.scale
        self.damping = damping
        if self._bands is not None:
            near = banded_solver(self._bands, self._diagonal, scale, damping)
            return partial(self._by_conjugate_gradients, damping, near)
        if self._matrix is None:
            return partial(self._by_conjugate_gradients, damping, lambda g: scale**2 * g)
        for mu in (damping, *(factor * damping + added for factor, added in RETRIES)):
            torch.add(self._diagonal, mu, out=self._matrix.diagonal())
            # LAPACK stores matrices in the transposed order.
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)
            if not failed:
                self.damping = mu
                return lambda g: scale * torch.cholesky_solve((scale * g)[:, None], lower)[:, 0]
        return partial(torch.full_like, fill_value=torch.nan)

    def _by_conjugate_gradients(self, damping: float, near: Solve, g: Tensor) -> Tensor:
        """Solve the damped equations for the right-hand side `g` by conjugate gradients.

        `near` is the preconditioner, which approximately solves the equations. For banded normal
        equations, `near` is a factorisation, which loses accuracy for smooth functions if the
        differential equation has a high order or the grid is fine; the iteration restores the
        accuracy.
        """
        rows = self.linear.rows
        solution = torch.zeros_like(g)
        residual = g
        direction = near(g)
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
            before = size
            size = float(residual @ moved)
            direction = moved + size / before * direction
        self.truncated |= size > CG_TOLERANCE**2 * first
        return solution
