"""Levenberg-Marquardt for any nonlinear least squares problem.

A step solves the damped linear problem, with S scaling columns to unit norm, which makes the
damping mu free of units:

    min over d of  |J d + r|^2 + mu |S d|^2

The normal equations are solved by Cholesky, or by conjugate gradients if their matrix would be too
large. A *quick*
step follows the gain ratio: one damping after the other, each solved once (Marquardt 1963; Nielsen
1999). A *damping search* tries several dampings on one linearisation, and bends the step by
geodesic acceleration (Transtrum and Sethna, arXiv 1201.5885).
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

from kanrun.engine.least_squares.rows import Rows, Solve, StackedRows, banded_solver

Unknowns = Float[Tensor, " unknowns"]
#: Largest number of smaller dampings that a damping search tries, each a tenth of the last. More
#: trials lengthen a step that goes well, at one solution each.
MAX_DECREASES = 3
#: Largest number of larger dampings that a damping search tries before the step counts as failed:
#: three times 10, then times 100. With fewer, training ends earlier.
MAX_INCREASES = 6
#: Gain of a smaller damping below which the search ends, as a fraction of the remaining objective
#: or of the step's decrease, whichever is smaller. A smaller value tries more dampings.
MIN_GAIN = 0.1
#: Fraction of the step at which its second directional derivative is measured.
ACCELERATION_STEP = 0.1
#: Objective after the straight step, relative to the one before, between which bending is tried.
ACCELERATION_RANGE = (1e-3, 4.0)
#: Maximum number of unknowns for a matrix of the normal equations.
MATRIX_UNKNOWNS = 6000
#: Relative residual at which conjugate gradients stops.
CG_TOLERANCE = 1e-8
#: Maximum number of iterations of conjugate gradients; a step that needs more is truncated.
CG_MAX_ITERATIONS = 60
#: Where rounding leaves no Cholesky factor: factors of the damping, and what is added to it.
RETRIES = ((30.0, 1e-13), (1000.0, 1e-12))
#: Squared column norms count as at least this fraction of the largest one. With a larger value,
#: unknowns of little effect move less; a smaller one scales rounding up.
SMALLEST_COLUMN = 1e-30
#: Smallest divisor, which prevents division by zero. A larger value would change small quotients.
TINY = 1e-300


@dataclass(frozen=True)
class Linearisation:
    """The quadratic model |r + J d|^2 of the objective, as a function of the step d.

    Attributes:
        rows: Rows of the Jacobian J.
        residual: Residual r.
        frozen: Unknowns that must not move.
    """

    rows: Rows
    residual: Float[Tensor, " rows"]
    frozen: Bool[Tensor, " unknowns"] | None = None


class Problem(ABC):
    """A nonlinear least squares problem F(u) = |r(u)|^2.

    Everything that is to be made small is a residual: data, a penalty D u (rows of a constant
    matrix), a differential equation at collocation points. For the equation u'' = f on a spline
    u(x) = sum_j c_j B_j(x), for instance, the unknowns are c, the residuals B''(x_n) c - f(x_n) and
    the boundary values, and the rows B''(x_n). For an equation N(u, u', u'') that is not linear in
    u, the rows are the partial derivatives of N times B, B', B''. Nothing in the solver changes:

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
        """Return r(u), in the order of the rows."""
        raise NotImplementedError(f"{type(self).__name__} has no residuals of its own.")

    def objective(self, unknowns: Unknowns) -> float:
        """Return F(u); values that are not finite count as infinite."""
        return float(self.residual(unknowns).square().sum())


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
    """State of an iteration."""

    unknowns: Unknowns
    loss: float
    damping: float
    #: Whether the last step lowered the objective.
    improved: bool
    #: Whether conjugate gradients met its maximum number of iterations in the last step.
    truncated: bool = False
    #: Largest squared column norms so far, if columns can vanish.
    max_squared_norms: Unknowns | None = None


def begin(problem: Problem, policy: LMPolicy, damping: float | None = None) -> State:
    """Return the state before the first step; `damping` replaces the policy's."""
    loss = problem.objective(problem.unknowns)
    loss = loss if isfinite(loss) else inf
    first = policy.damping if damping is None else damping
    return State(problem.unknowns, loss, first, loss < inf)


def step(problem: Problem, state: State, policy: LMPolicy) -> State:
    """Return the state after one step."""
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
    """Minimise the loss; return the final state and the number of steps.

    `ended` is called before each step, and ends the iteration if it returns True.
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
    """Take smaller dampings while they help, or larger ones until one does."""
    start = state.loss
    mu = state.damping
    at = partial(_damped_step, problem, equations, state)
    best = at(mu)
    if best[0] < start:
        for _ in range(MAX_DECREASES):
            lower = max(mu / 10, policy.min_damping)
            trial = at(lower) if lower < mu else best
            if not trial[0] < best[0]:
                break
            gained = best[0] - trial[0]
            best = trial
            mu = lower
            if gained < MIN_GAIN * min(best[0], start - best[0]):
                break
    else:
        for attempt in range(MAX_INCREASES):
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
    """Return the objective after the step of damping `mu`, straight or bent, and the step."""

    def tried(move: Tensor) -> tuple[float, Tensor]:
        loss = problem.objective(state.unknowns + move)
        return loss if isfinite(loss) else inf, move

    solve = equations.solver(mu)
    best = tried(-solve(equations.gradient))
    low, high = (bound * state.loss for bound in ACCELERATION_RANGE)
    if low < best[0] < high:
        # The acceleration is -(J^T J)^-1 J^T r'', r'' the second directional derivative of r.
        linear = equations.linear
        h = ACCELERATION_STEP
        move = best[1]
        there = problem.residual(state.unknowns + h * move)
        second = 2 * (there - linear.residual - h * linear.rows.times(move)) / h**2
        acceleration = -solve(equations.free(linear.rows.transposed(second)))
        best = min(best, tried(move + 0.5 * acceleration), key=lambda trial: trial[0])
    return best


class NormalEquations:
    """J^T J d = -J^T r with unit columns.

    Squared column norms given (unknowns,) count if they are larger than the present ones;
    `squared_norms` are those used. `gradient` is J^T r, zero for frozen unknowns. `damping` is that
    of the last solver, and `truncated` says whether conjugate gradients met its maximum number of
    iterations.
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
        least = (SMALLEST_COLUMN * norms.amax()).clamp(min=TINY)
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
        """Return the map from right-hand sides to solutions; see RETRIES for lost factors.

        Solutions are NaN if there is no factor, so that no step is taken with this damping.
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
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)  # in LAPACK's order of memory
            if not failed:
                self.damping = mu
                return lambda g: scale * torch.cholesky_solve((scale * g)[:, None], lower)[:, 0]
        return partial(torch.full_like, fill_value=torch.nan)

    def _by_conjugate_gradients(self, damping: float, near: Solve, g: Tensor) -> Tensor:
        """Solve by products with the rows; `near` solves nearly the same equations.

        The factor of normal equations in bands has lost the digits of smooth functions where the
        equation has a high order or the grid is fine; the iteration restores them.
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
