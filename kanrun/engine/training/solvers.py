"""The solvers: Levenberg-Marquardt, Adam with mini-batches, and LBFGS.

First-order solvers (Adam and LBFGS) minimise mean loss + weight * penalty and never change grids
within a step. With `freeze_unseen`, only coefficients whose basis functions are nonzero at some
sample are trained: momentum, weight decay and penalty leave the others unchanged.

LBFGS has a strong Wolfe line search, and is preconditioned by the objective's curvature.
The two-loop recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) begins with an
approximate inverse Hessian, recomputed every RENEWED steps, instead of a multiple of the identity
(section 7.2). This is needed because B-spline coefficients are badly scaled unknowns: the condition
number of their Gram matrix over the data grows with the degree, and without bound where data are
sparse. The approximation is block-diagonal: in the Gauss-Newton matrix of mean |f - y|^2 / size^2 +
weight * penalty, the block of the coefficients of edge (o, i) is

    2 w_s^2 (E[u_o^2 B_i B_i^T] / size^2 + weight D_i^T D_i),    u_o = d output / d node o.

with w_s the edge's spline scale, B_i the basis functions and D_i the difference operator. The
history holds steps and gradient changes of the parameters themselves, so it stays valid when the
approximation is recomputed. The line search (algorithms 3.5 and 3.6) uses cubic interpolation and
stops when the strong Wolfe conditions hold; NaN and infinite values count as too high. scipy's
L-BFGS-B is not used because it loses its history whenever the approximation is recomputed: in the
50 trainings of `kanrun compare-mlp study=implementation_tricks n_seeds=5`, its errors were 4.8
times as large (geometric mean).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, isfinite, pi, sqrt

import torch
from torch import Generator, Tensor, nn

from kanrun.engine.layers import SplineLayer, base_values, nodes_of
from kanrun.engine.least_squares import LMPolicy, LocalRows, begin, step
from kanrun.engine.networks import Network
from kanrun.engine.splines import design_matrix, difference_operator
from kanrun.engine.training.data import Plan, explain_non_finite
from kanrun.engine.training.objective import DataFitting, Objective, SmoothnessLoss
from kanrun.errors import TrainingFailed

#: Policy of Levenberg-Marquardt for networks with grids. A larger initial damping makes the first
#: steps shorter.
LM_WITH_GRID = LMPolicy(damping=1e-4)
#: Policy of Levenberg-Marquardt for networks without grids. Their objectives have long valleys, in
#: which many cheap steps lead further than a few steps with a search for the best damping.
LM_WITHOUT_GRID = LMPolicy(damping=1e-2, damping_search=False, min_damping=1e-10)


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
    # Largest number of unknowns of a network whose first step uses the damping of `LM_WITH_GRID`.
    # Larger networks take fewer steps, and their first step uses another damping.
    small = 300
    # Damping of the first step of networks with grids and more unknowns. A larger value wastes some
    # of their few steps; a smaller one risks steps that fail.
    damping = 1e-7
    if network.intervals is not None:
        policy = LM_WITH_GRID
        tolerances = (settings.tolerance, settings.plateau_tolerance)
        if network.unknowns_at(None) > small:
            policy = replace(policy, damping=damping)
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


# -------------------- LBFGS

#: Bounds of a second damping, which is a fraction of the mean of a block's diagonal. The fraction
#: equals the objective, clipped to these bounds, so damping decreases with the residual (Yamashita
#: and Fukushima, 2001). With larger bounds, basis functions with few samples move less.
UNSEEN = (1e-6, 1e-2)
#: Largest number of entries of a layer's full blocks; if they have more, only the diagonals are
#: computed. A larger number needs more memory.
NUMBERS = 1 << 23
#: Lower bound of curvatures, as a fraction of the layer's largest curvature; the damping added to
#: full blocks has the square of this fraction as its bound. A larger value shortens the steps of
#: parameters with little effect.
LEAST = 1e-6
#: Lower limit of curvatures and divisors, which prevents division by zero. A larger value would
#: change quotients with small divisors.
TINY = 1e-300


class Curvature:
    """Block-diagonal approximate inverse Hessian of an objective at the network's parameters.

    `value` is the objective at these parameters. If the network is not a KAN, the approximation is
    the identity.
    """

    def __init__(self, network: Network, objective: Objective, value: float) -> None:
        low, high = UNSEEN
        self._unseen, self._penalty = min(max(value, low), high), objective.penalty
        #: Per parameter: inverse blocks, shape (*shape, functions), or the diagonal of the inverse,
        #: in the parameter's shape.
        self._inverses: dict[nn.Parameter, Tensor] = {}
        # Largest number of samples over which the expectations in the curvature are averaged.
        most = 1024
        if network.edge_layers:
            samples = objective.samples
            part = samples.part(slice(None, None, -(-len(samples) // most)))
            counts = 1.0 if part.roots is None else part.roots.double().square()
            # For each layer: its inputs, and the squared derivatives u_o^2 of the network's outputs
            # with respect to the layer's sums, added up over the outputs of the network.
            reaching = [part.x.detach()]
            sums = list[Tensor]()
            with torch.enable_grad():
                for layer, products in zip(network.edge_layers, network.products, strict=True):
                    y = layer(reaching[-1])
                    sums.append(y if y.requires_grad else y.requires_grad_())
                    reaching.append(nodes_of(sums[-1], products))
                total = [torch.zeros_like(each) for each in sums]
                for output in reaching[-1].T:
                    slopes = torch.autograd.grad(output.sum(), sums, retain_graph=True)
                    for each, slope in zip(total, slopes, strict=True):
                        each.add_(slope.square())
            for layer, at, each in zip(network.edge_layers, reaching, total, strict=False):
                steepness = counts * each.detach().double() / objective.size**2
                self._add(layer, at.detach().double(), steepness)

    @property
    def known(self) -> bool:
        """Whether there is an approximation other than the identity."""
        return bool(self._inverses)

    def solve(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Multiply `gradient` by the approximate inverse Hessian with respect to `parameter`.

        The result has the shape of `gradient`.
        """
        inverse = self._inverses.get(parameter)
        if inverse is None:
            return gradient
        if inverse.dim() == gradient.dim():
            return gradient * inverse
        return (inverse @ gradient[..., None])[..., 0]

    def _add(self, layer: SplineLayer, x: Tensor, steepness: Tensor) -> None:
        weight = self._penalty.weight
        grid = layer.grid.double()
        squares = _floored(layer.scales()[1].detach().double().square())
        edges = layer.mask.numel()
        functions = grid.functions
        coefficients = layer.coefficients
        c = coefficients.detach().double()
        design = design_matrix(x, grid)
        operator = difference_operator(grid, self._penalty.order)
        # Fraction of a curvature block's diagonal that is added to this diagonal. A larger value
        # shortens steps; with a smaller value, rounding may spoil the factorisation.
        damping = 1e-4
        # Largest number of multiplications spent on inverting full blocks of a layer; if more are
        # needed, only the diagonals are inverted. A larger number gives better but more expensive
        # steps.
        work = 2e9
        if edges * functions**3 <= work and edges * functions**2 <= NUMBERS:
            gram = torch.stack([(design * u[:, None]).mT @ design for u in steepness.T]) / len(x)
            blocks = (gram + weight * operator.mT @ operator) * (2 * squares[..., None, None])
            diagonal = blocks.diagonal(dim1=-2, dim2=-1)
            least = max(LEAST**2 * float(diagonal.amax()), TINY)
            added = damping * diagonal + self._unseen * diagonal.mean(-1, keepdim=True)
            blocks = blocks + torch.diag_embed(added.clamp(min=least))
            inverses = torch.cholesky_inverse(torch.linalg.cholesky(blocks))
            spline = (c[..., None, :] @ gram @ c[..., None])[..., 0, 0]
        else:
            gram = torch.einsum("no,inf->oif", steepness, design.square()) / len(x)
            damped = gram + damping * gram + self._unseen * gram.mean(-1, keepdim=True)
            rough = weight * operator.square().sum(1)
            inverses = _inverse((damped + rough) * squares[..., None])
            spline = (c.square() * gram).sum(-1)
        self._inverses[coefficients] = inverses.to(coefficients)
        base = steepness.T @ base_values(layer.spec.base, grid, x).square() / len(x)
        diagonals = {"base_weight": base, "spline_weight": spline}
        for name, curvatures in diagonals.items():
            self._inverses[getattr(layer, name)] = _inverse(curvatures).to(coefficients)


def _floored(curvatures: Tensor) -> Tensor:
    return curvatures.clamp(min=max(LEAST * float(curvatures.amax()), TINY))


def _inverse(curvatures: Tensor) -> Tensor:
    return 0.5 / _floored(curvatures)


#: Smallest decrease of an acceptable step, as a fraction of the decrease that the initial slope
#: predicts (c1 of the Wolfe conditions). A larger value rejects longer steps. Above 0, below
#: `REMAINING`.
ENOUGH = 1e-4
#: Largest absolute slope after an acceptable step, as a fraction of the initial one (c2 of the
#: Wolfe conditions). A smaller value makes line searches more exact and more expensive. Below 1.
REMAINING = 0.9
#: Smallest distance of a trial step length from either end of the bracket, as a fraction of the
#: bracket's width; below 0.5.
GUARD = 0.1
#: Number of steps after which the approximate inverse Hessian is recomputed.
RENEWED = 20


@dataclass(frozen=True)
class LinePoint:
    """A step length `t`, with the objective, its gradient and its slope along the line at `t`."""

    t: float
    value: float
    gradient: Tensor
    slope: float


def search(at: Callable[[float], LinePoint], start: LinePoint, first: float) -> LinePoint:
    """Search along a line; return a point that satisfies the strong Wolfe conditions.

    If no such point is found, return the lowest point that was evaluated, which may be `start`.

    Args:
        at: Function that evaluates the objective at a step length.
        start: The point with step length 0; its slope must be negative.
        first: First step length to try.
    """
    # `low` is the lowest point with sufficient decrease so far. Once `high` exists, an acceptable
    # point lies between `low` and `high`.
    lowest = start
    low = start
    t = first
    high: LinePoint | None = None
    # Largest ratio of a trial step length to the trial before it, while no bracket exists; above 2.
    growth = 10.0
    # Largest number of evaluations of the objective in a line search.
    evaluations = 25
    # The search ends when the bracket's width times the initial slope, relative to the objective,
    # is at most this.
    resolution = 1e-16
    for _ in range(evaluations):
        point = at(t)
        before = low
        if point.value < lowest.value:
            lowest = point
        bound = start.value + ENOUGH * t * start.slope
        if not point.value <= bound or point.value >= low.value or not isfinite(point.value):
            high = point
        elif abs(point.slope) <= -REMAINING * start.slope:
            return point
        else:
            if point.slope * (1.0 if high is None else high.t - low.t) >= 0:
                high = low
            low = point
        if high is None:
            t = min(max(_cubic(before, point), 2 * t), growth * t)
            continue
        left, right = sorted((low.t, high.t))
        if (right - left) * abs(start.slope) <= resolution * abs(start.value):
            break
        guard = GUARD * (right - left)
        t = min(max(_cubic(low, high), left + guard), right - guard)
    return lowest


def _cubic(a: LinePoint, b: LinePoint) -> float:
    """Return the step length at the minimum of the cubic with the values and slopes at `a` and `b`.

    If the cubic has no minimum, return the midpoint of `a.t` and `b.t`.
    """
    middle = 0.5 * (a.t + b.t)
    width = b.t - a.t
    if not (isfinite(b.value) and isfinite(b.slope)) or width == 0:
        return middle
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    # Written as a product, because a power would raise an error for infinite values.
    root = d1 * d1 - a.slope * b.slope
    if not root >= 0:
        return middle
    d2 = sqrt(root) if width > 0 else -sqrt(root)
    below = b.slope - a.slope + 2 * d2
    return b.t - width * (b.slope + d2 - d1) / below if below != 0 else middle


#: Names of the two vectors of a history pair: the step, and the change of the gradient.
KINDS = ("moves", "changes")


class LBFGS:
    """LBFGS on a network; each step is one line search.

    The last `solver.history_size` pairs of a step and a gradient change are kept.
    """

    tolerance = plateau_tolerance = 0.0
    truncated = False

    def __init__(
        self, network: Network, objective: Objective, plan: Plan, generator: Generator
    ) -> None:
        self.network = network
        self.objective = objective
        self._history_size = plan.settings.history_size
        self.rows = len(objective.samples)
        self.parameters = list(network.trained().values())
        self._smoothness_loss = SmoothnessLoss(network, objective.penalty)
        free = objective.movable(network)
        masks = [
            free.get(p, torch.ones_like(p)).to(p).detach().reshape(-1) for p in self.parameters
        ]
        self._free = torch.cat(masks) if free else None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._taken = 0
        self.converged = False
        self._here = self._at(self._read())
        self.loss = self._here.value

    def step(self) -> float:
        """Make one line search and return the objective.

        If the search finds no lower point, the history is emptied, the curvature is recomputed, and
        the search is repeated. If that fails too, `converged` is set.
        """
        if self._taken % RENEWED == 0:
            self._renew()
        self._taken += 1
        if not self._searched():
            fresh = not self._pairs
            self._pairs = []
            self._renew()
            self.converged = fresh or not self._searched()
        return self.loss

    def state(self) -> dict[str, Tensor] | None:
        """Return the history (oldest pair first), the number of steps, and the mask of free values.

        The result is None unless the next step recomputes the curvature, because the curvature is
        not stored.
        """
        if self._taken % RENEWED:
            return None
        kept = {
            kind: torch.stack(vectors)
            for kind, vectors in zip(KINDS, zip(*self._pairs, strict=True), strict=False)
        }
        kept["taken"] = torch.tensor(self._taken)
        return kept if self._free is None else kept | {"free": self._free}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""
        self._taken, self._free = int(state["taken"]), state.get("free")
        # Separate copies, because the memory alignment of a vector affects the last bit of its
        # products.
        moves, changes = ([each.clone() for each in state.get(kind, ())] for kind in KINDS)
        self._pairs = list(zip(moves, changes, strict=True))
        self._here = self._at(self._read())

    def _searched(self) -> bool:
        origin = self._read()
        start = self._here
        direction = -start.gradient
        shares = []
        for move, change in reversed(self._pairs):
            share = float(move @ direction) / float(move @ change)
            direction = direction - share * change
            shares.append(share)
        direction = self._solve(direction)
        if self._pairs:  # Scale the inverse curvature by the factor that fits the last pair best.
            move, change = self._pairs[-1]
            direction = direction * (float(move @ change) / float(change @ self._solve(change)))
        for (move, change), share in zip(self._pairs, reversed(shares), strict=True):
            left = share - float(change @ direction) / float(move @ change)
            direction = direction + left * move
        direction = self._muted(direction)
        slope = float(start.gradient @ direction)
        if not slope < 0:
            return False
        start = LinePoint(0.0, start.value, start.gradient, slope)
        # Try the full step first, unless the direction is the gradient itself, whose scale is
        # unrelated to that of the parameters.
        first = 1.0
        if not (self._pairs or self._curvature.known):
            first = min(1.0, 1.0 / max(float(start.gradient.abs().sum()), TINY))
        point = search(lambda t: self._at(origin, t, direction), start, first)
        self._write(origin + point.t * direction if point.t else origin)
        if not point.value < start.value:
            return False
        move = point.t * direction
        change = point.gradient - start.gradient
        # A pair of a step and a gradient change is stored only if the cosine of the angle between
        # them exceeds this.
        curved = 1e-12
        if float(move @ change) > curved * float(move.norm() * change.norm()):
            self._pairs = [*self._pairs, (move, change)][-self._history_size :]
        self._here, self.loss = point, point.value
        return True

    def _at(self, origin: Tensor, t: float = 0.0, direction: Tensor | None = None) -> LinePoint:
        self._write(origin if direction is None else origin + t * direction)
        value = self.objective.value(self.network, self.objective.samples, self._smoothness_loss)
        slopes = torch.autograd.grad(value, self.parameters, materialize_grads=True)
        gradient = self._muted(torch.cat([slope.reshape(-1) for slope in slopes]))
        along = 0.0 if direction is None else float(gradient @ direction)
        return LinePoint(t, float(value.detach()), gradient, along)

    def _renew(self) -> None:
        self._curvature = Curvature(self.network, self.objective, self._here.value)

    def _solve(self, vector: Tensor) -> Tensor:
        parts = zip(self.parameters, self._split(vector), strict=True)
        return torch.cat([self._curvature.solve(p, part).reshape(-1) for p, part in parts])

    def _muted(self, vector: Tensor) -> Tensor:
        """Return `vector` with zeros for the entries of frozen parameters."""
        return vector if self._free is None else vector * self._free

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Split the last dimension of `vector` into tensors with the shapes of the parameters."""
        parts = vector.split([p.numel() for p in self.parameters], dim=-1)
        return [part.unflatten(-1, p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def _read(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters).detach()

    def _write(self, vector: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self._split(vector), strict=True):
                parameter.copy_(part)
