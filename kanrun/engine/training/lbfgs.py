"""LBFGS with a strong Wolfe line search, in the metric of the objective's own curvature.

The recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) begins with an approximate
inverse Hessian, renewed every few steps, in place of a multiple of the identity (section 7.2).
Coefficients of B-splines are badly scaled unknowns: the condition number of their Gram matrix over
the data grows with the degree, and without bound where data are few. The Gauss-Newton matrix of
mean |f - y|^2 / size^2 + weight * penalty has for the coefficients of edge (o, i) the block

    2 w_s^2 (E[u_o^2 B_i B_i^T] / size^2 + weight D_i^T D_i),    u_o = d output / d node o.

Moves and changes of the gradient are kept in the parameters' own units, so they outlive a renewal.
The line search brackets and zooms (algorithms 3.5 and 3.6) with cubic interpolation until there is
enough descent and the slope has become small; values that are not finite count as too high. scipy's
line search makes at most ten cuts and doublings; with it `kanrun continual` breaks claims on held
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Generator, Tensor, nn

from kanrun.engine.layers import SplineLayer, base_values, nodes_of
from kanrun.engine.networks import Network
from kanrun.engine.splines import design_matrix, difference_operator
from kanrun.engine.training.data import Plan
from kanrun.engine.training.objective import Objective, SmoothnessLoss

#: Samples that expectations are taken over.
SAMPLES = 1024
#: Fraction of its diagonal that is added to a block of the curvature. A larger value shortens
#: steps; with a smaller one, rounding may spoil the factorisation.
DAMPING = 1e-4
#: Bounds of the fraction of a block's mean diagonal that is added to its diagonal. The fraction is
#: the objective, clipped to these bounds, so that damping falls with the residual (Yamashita and
#: Fukushima, 2001). With larger bounds, functions with few samples move less.
UNSEEN = (1e-6, 1e-2)
#: Largest number of multiplications for which a layer's blocks are inverted whole; beyond it, only
#: their diagonals are. A larger number gives better steps that cost more.
WORK = 2e9
#: Largest number of entries for which a layer's blocks are kept whole; beyond it, only their
#: diagonals are. A larger number needs more memory.
NUMBERS = 1 << 23
#: Curvatures count as at least this fraction of the layer's largest one; diagonals of whole
#: blocks, of its square. A larger value shortens the steps of parameters with little effect.
LEAST = 1e-6
#: Smallest curvature and smallest divisor, which prevents division by zero. A larger value would
#: change small quotients.
TINY = 1e-300


class Curvature:
    """Approximate inverse Hessian of an objective at the network's parameters.

    `value` is the objective there. The identity for parameters of networks other than KANs.
    """

    def __init__(self, network: Network, objective: Objective, value: float) -> None:
        low, high = UNSEEN
        self._unseen, self._penalty = min(max(value, low), high), objective.penalty
        #: Blocks (*shape, functions) of the inverse, or its diagonal in the parameter's shape.
        self._inverses: dict[nn.Parameter, Tensor] = {}
        if network.edge_layers:
            samples = objective.samples
            part = samples.part(slice(None, None, -(-len(samples) // SAMPLES)))
            counts = 1.0 if part.roots is None else part.roots.double().square()
            # Each layer's inputs, and u^2 of its sums, added up over the network's outputs.
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
        """True if this is more than the identity."""
        return bool(self._inverses)

    def solve(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return the inverse's block of `parameter` times `gradient`, of the same shape."""
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
        if edges * functions**3 <= WORK and edges * functions**2 <= NUMBERS:
            gram = torch.stack([(design * u[:, None]).mT @ design for u in steepness.T]) / len(x)
            blocks = (gram + weight * operator.mT @ operator) * (2 * squares[..., None, None])
            diagonal = blocks.diagonal(dim1=-2, dim2=-1)
            least = max(LEAST**2 * float(diagonal.amax()), TINY)
            added = DAMPING * diagonal + self._unseen * diagonal.mean(-1, keepdim=True)
            blocks = blocks + torch.diag_embed(added.clamp(min=least))
            inverses = torch.cholesky_inverse(torch.linalg.cholesky(blocks))
            spline = (c[..., None, :] @ gram @ c[..., None])[..., 0, 0]
        else:
            gram = torch.einsum("no,inf->oif", steepness, design.square()) / len(x)
            damped = gram + DAMPING * gram + self._unseen * gram.mean(-1, keepdim=True)
            rough = weight * operator.square().sum(1)
            inverses = _inverse((damped + rough) * squares[..., None])
            spline = (c.square() * gram).sum(-1)
        self._inverses[coefficients] = inverses.to(coefficients)
        base = steepness.T @ base_values(layer.spec.base, grid, x).square() / len(x)
        diagonals = {"base_weight": base, "spline_weight": spline}
        if layer.spec.edge_scaling == "single":
            diagonals = {"weight": base + spline}
        for name, curvatures in diagonals.items():
            self._inverses[getattr(layer, name)] = _inverse(curvatures).to(coefficients)


def _floored(curvatures: Tensor) -> Tensor:
    return curvatures.clamp(min=max(LEAST * float(curvatures.amax()), TINY))


def _inverse(curvatures: Tensor) -> Tensor:
    return 0.5 / _floored(curvatures)


#: Smallest decrease of an acceptable step, as a fraction of the decrease that the slope predicts.
#: A larger value rejects longer steps. Above 0, below `REMAINING`.
ENOUGH = 1e-4
#: Largest slope after an acceptable step, as a fraction of the slope before. A smaller value makes
#: line searches more exact and more expensive. Below 1.
REMAINING = 0.9
#: Maximum ratio of a longer step to the one before; above 2.
GROWTH = 10.0
#: Fraction of the bracket that a cut keeps on either side; below 0.5.
GUARD = 0.1
#: Maximum number of evaluations of a line search.
EVALUATIONS = 25
#: A bracket ends at this change of the value along the slope, relative to the value.
RESOLUTION = 1e-16
#: Steps between two evaluations of the curvature.
RENEWED = 20
#: A pair counts from this curvature on, relative to what the lengths of its parts allow.
CURVED = 1e-12


@dataclass(frozen=True)
class LinePoint:
    """A step length `t` with the value, the gradient and the slope along the line there."""

    t: float
    value: float
    gradient: Tensor
    slope: float


def search(at: Callable[[float], LinePoint], start: LinePoint, first: float) -> LinePoint:
    """Return a point below `start` that meets the conditions, or the lowest evaluated one.

    `start` itself if none is lower. `start.slope` must be negative. `low` is the lowest point with
    enough descent so far; once there is a `high`, an acceptable point lies between them.
    """
    lowest = start
    low = start
    t = first
    high: LinePoint | None = None
    for _ in range(EVALUATIONS):
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
            t = min(max(_cubic(before, point), 2 * t), GROWTH * t)
            continue
        left, right = sorted((low.t, high.t))
        if (right - left) * abs(start.slope) <= RESOLUTION * abs(start.value):
            break
        guard = GUARD * (right - left)
        t = min(max(_cubic(low, high), left + guard), right - guard)
    return lowest


def _cubic(a: LinePoint, b: LinePoint) -> float:
    """Return the minimum of the cubic through `a` and `b`, or their middle if it has none."""
    middle = 0.5 * (a.t + b.t)
    width = b.t - a.t
    if not (isfinite(b.value) and isfinite(b.slope)) or width == 0:
        return middle
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    root = d1 * d1 - a.slope * b.slope  # A power would raise for infinite products.
    if not root >= 0:
        return middle
    d2 = sqrt(root) if width > 0 else -sqrt(root)
    below = b.slope - a.slope + 2 * d2
    return b.t - width * (b.slope + d2 - d1) / below if below != 0 else middle


#: The two vectors of a pair of the history.
KINDS = ("moves", "changes")


class LBFGS:
    """One line search a step.

    Its history of `solver.history_size` pairs lasts as long as the network's parameters.
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
        """Take one line search.

        `converged` if it finds no lower point, not even from a fresh history.
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
        """Return the history (oldest pair first), the number of steps and the frozen numbers.

        None unless the next step renews the curvature.
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
        # Copies of their own: where a vector lies in memory decides the last bit of its products.
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
        if self._pairs:  # The multiple of the inverse curvature that fits the last pair best.
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
        # The whole step, except for a gradient of unknown scale.
        first = 1.0
        if not (self._pairs or self._curvature.known):
            first = min(1.0, 1.0 / max(float(start.gradient.abs().sum()), TINY))
        found = search(lambda t: self._at(origin, t, direction), start, first)
        self._write(origin + found.t * direction if found.t else origin)
        if not found.value < start.value:
            return False
        move = found.t * direction
        change = found.gradient - start.gradient
        if float(move @ change) > CURVED * float(move.norm() * change.norm()):
            self._pairs = [*self._pairs, (move, change)][-self._history_size :]
        self._here, self.loss = found, found.value
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
        """Return `vector` with zeros for frozen numbers."""
        return vector if self._free is None else vector * self._free

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Return the parameters' parts of vectors (..., all), each (..., *shape)."""
        parts = vector.split([p.numel() for p in self.parameters], dim=-1)
        return [part.unflatten(-1, p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def _read(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters).detach()

    def _write(self, vector: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self._split(vector), strict=True):
                parameter.copy_(part)
