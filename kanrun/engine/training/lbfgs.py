"""LBFGS with a strong Wolfe line search, in the metric of the objective's own curvature.

The recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) begins with `Curvature`'s inverse, renewed
every few steps, in place of a multiple of the identity: what badly scaled spline coefficients need. Moves and changes
of the gradient are kept in the parameters' own units, so they outlive a renewal.
The line search brackets and zooms (algorithms 3.5 and 3.6) with cubic interpolation until there is enough descent and
the slope has become small; values that are not finite count as too high. scipy's has ten cuts and doublings alone:
with it `kanrun continual` breaks claims on held coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt

import torch
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training.curvature import Curvature, CurvaturePolicy
from kanrun.engine.training.first_order import Objective, movable, trainable


@dataclass(frozen=True)
class LineSearchPolicy:
    """The conditions and steps of a line search; 0 < enough < left < 1."""

    enough: float = 1e-4  #: share of the slope's promise that a step must keep
    left: float = 0.9  #: share of the slope that may be left
    growth: float = 10.0  #: a longer step is at most this many times the one before; above 2
    guard: float = 0.1  #: a cut keeps this share of the bracket on either side; below 0.5
    evaluations: int = 25  #: at most


@dataclass(frozen=True)
class Point:
    """A step length `t` with the value, the gradient and the slope along the line there."""

    t: float
    value: float
    gradient: Tensor
    slope: float


def search(
    at: Callable[[float], Point], start: Point, first: float, policy: LineSearchPolicy
) -> Point:
    """A point with a lower value than `start` that meets the conditions, or the lowest of all that were evaluated.

    `start` itself where none is lower. `start.slope` must be negative.
    """
    lowest, before, t, most = start, start, first, policy.evaluations
    for looked in range(1, most + 1):
        point = at(t)
        if point.value < lowest.value:
            lowest = point
        if not _descends(point, start, policy) or (looked > 1 and point.value >= before.value):
            return _zoom(
                at, start, (before, point), lowest, replace(policy, evaluations=most - looked)
            )
        if abs(point.slope) <= -policy.left * start.slope:
            return point
        if point.slope >= 0:
            return _zoom(
                at, start, (point, before), lowest, replace(policy, evaluations=most - looked)
            )
        t = min(max(_cubic(before, point), 2 * point.t), policy.growth * point.t)
        before = point
    return lowest


def _zoom(
    at: Callable[[float], Point],
    start: Point,
    bracket: tuple[Point, Point],
    lowest: Point,
    policy: LineSearchPolicy,
) -> Point:
    """The search inside a bracket whose first end is the lower one that descends enough."""
    low, high = bracket
    for _ in range(policy.evaluations):
        left, right = sorted((low.t, high.t))
        guard = policy.guard * (right - left)
        point = at(min(max(_cubic(low, high), left + guard), right - guard))
        if point.value < lowest.value:
            lowest = point
        if not _descends(point, start, policy) or point.value >= low.value:
            high = point
        elif abs(point.slope) <= -policy.left * start.slope:
            return point
        else:
            high = low if point.slope * (high.t - low.t) >= 0 else high
            low = point
        if abs(high.t - low.t) * abs(start.slope) <= 1e-16 * abs(start.value):
            break
    return lowest


def _descends(point: Point, start: Point, policy: LineSearchPolicy) -> bool:
    return (
        isfinite(point.value) and point.value <= start.value + policy.enough * point.t * start.slope
    )


def _cubic(a: Point, b: Point) -> float:
    """The minimum of the cubic through values and slopes of `a` and `b`; their middle where there is none."""
    middle, width = 0.5 * (a.t + b.t), b.t - a.t
    if not (isfinite(b.value) and isfinite(b.slope)) or width == 0:
        return middle
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    root = d1 * d1 - a.slope * b.slope  # a power would raise where a product is infinite
    if not root >= 0:
        return middle
    d2 = sqrt(root) if width > 0 else -sqrt(root)
    below = b.slope - a.slope + 2 * d2
    return b.t - width * (b.slope + d2 - d1) / below if below != 0 else middle


@dataclass(frozen=True)
class LBFGSPolicy:
    """When the metric is renewed, and what a step of LBFGS keeps."""

    renewed: int = 20  #: steps between two evaluations of the curvature; at least 1
    #: A pair counts while its curvature is at least this share of what the lengths of its parts allow.
    curved: float = 1e-12
    line_search: LineSearchPolicy = LineSearchPolicy()
    curvature: CurvaturePolicy = CurvaturePolicy()


#: The two vectors of a pair of the history.
KINDS = ("moves", "changes")


class LBFGS:
    """One line search a step; its history lasts as long as the network's parameters do."""

    name = "lbfgs"
    stalls = False

    def __init__(
        self,
        network: Network,
        objective: Objective,
        *,
        history: int = 30,
        policy: LBFGSPolicy = LBFGSPolicy(),
    ) -> None:
        self.network, self.objective, self._history, self.policy = (
            network,
            objective,
            history,
            policy,
        )
        self.rows = len(objective.samples)
        self._named = trainable(network)
        self.parameters = list(self._named.values())
        self._rough = objective.roughness(network)
        free = movable(network, objective)
        masks = [
            free.get(p, torch.ones_like(p)).to(p).detach().reshape(-1) for p in self.parameters
        ]
        self._free = torch.cat(masks) if free else None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._taken = 0
        self.converged = False
        self._here = self._at(self._read(), 0.0, None)
        self.loss = self._here.value

    def step(self) -> float:
        """One line search; `converged` when it finds no lower point, from a fresh history either."""
        if self._taken % self.policy.renewed == 0:
            self._renew()
        self._taken += 1
        if not self._searched() and not (self._forgotten() and self._searched()):
            self.converged = True
        return self.loss

    def state(self) -> dict[str, Tensor] | None:
        """The history, the oldest pair first, the steps taken and what must not move, where the next step looks at the
        curvature anew.
        """
        if self._taken % self.policy.renewed:
            return None
        kept = {
            kind: torch.stack(vectors)
            for kind, vectors in zip(KINDS, zip(*self._pairs, strict=True), strict=False)
        }
        kept["taken"] = torch.tensor(self._taken)
        return kept if self._free is None else kept | {"free": self._free}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from another solver's `state()`."""
        self._taken, self._free = int(state["taken"]), state.get("free")
        # Copies of their own: where a vector lies in memory decides the last bit of its products.
        moves, changes = ([each.clone() for each in state.get(kind, ())] for kind in KINDS)
        self._pairs = list(zip(moves, changes, strict=True))
        self._here = self._at(self._read(), 0.0, None)

    def _searched(self) -> bool:
        origin, start = self._read(), self._here
        direction = self._direction(start.gradient)
        slope = float(start.gradient @ direction)
        if not slope < 0:
            return False
        start = Point(0.0, start.value, start.gradient, slope)
        found = search(
            lambda t: self._at(origin, t, direction),
            start,
            self._first(start),
            self.policy.line_search,
        )
        self._write(origin + found.t * direction if found.t else origin)
        if not found.value < start.value:
            return False
        pair = (found.t * direction, found.gradient - start.gradient)
        if self._counts(*pair):
            self._pairs = [*self._pairs, pair][-self._history :]
        self._here, self.loss = found, found.value
        return True

    def _first(self, start: Point) -> float:
        """The whole step, but for a gradient whose scale nothing is known of."""
        if self._pairs or self._curvature.known:
            return 1.0
        return min(1.0, 1.0 / max(float(start.gradient.abs().sum()), 1e-300))

    def _direction(self, gradient: Tensor) -> Tensor:
        direction, shares = -gradient, []
        for move, change in reversed(self._pairs):
            share = float(move @ direction) / float(move @ change)
            direction = direction - share * change
            shares.append(share)
        direction = self._solve(direction) * self._scale()
        for (move, change), share in zip(self._pairs, reversed(shares), strict=True):
            direction = (
                direction + (share - float(change @ direction) / float(move @ change)) * move
            )
        return self._muted(direction)

    def _scale(self) -> float:
        """The multiple of the inverse curvature that fits the last pair best."""
        if not self._pairs:
            return 1.0
        move, change = self._pairs[-1]
        return float(move @ change) / float(change @ self._solve(change))

    def _at(self, origin: Tensor, t: float, direction: Tensor | None) -> Point:
        self._write(origin if direction is None else origin + t * direction)
        value = self.objective.value(self.network, self.objective.samples, self._rough)
        slopes = torch.autograd.grad(value, self.parameters, materialize_grads=True)
        gradient = self._muted(torch.cat([slope.reshape(-1) for slope in slopes]))
        return Point(
            t,
            float(value.detach()),
            gradient,
            0.0 if direction is None else float(gradient @ direction),
        )

    def _counts(self, move: Tensor, change: Tensor) -> bool:
        return float(move @ change) > self.policy.curved * float(move.norm() * change.norm())

    def _forgotten(self) -> bool:
        """Drop the history and look at the curvature anew; False where both are fresh already."""
        fresh = not self._pairs
        self._pairs = []
        self._renew()
        return not fresh

    def _renew(self) -> None:
        goal = self.objective
        self._curvature = Curvature(
            self.network,
            goal.samples,
            self._here.value,
            goal.size,
            goal.weight,
            goal.order,
            self.policy.curvature,
        )

    def _solve(self, vector: Tensor) -> Tensor:
        parts = zip(self.parameters, self._split(vector), strict=True)
        return torch.cat([self._curvature.solve(p, part).reshape(-1) for p, part in parts])

    def _muted(self, vector: Tensor) -> Tensor:
        """`vector` with zeros at what must not move."""
        return vector if self._free is None else vector * self._free

    def _split(self, vector: Tensor) -> list[Tensor]:
        """The parameters' parts of vectors (..., all), each (..., *shape)."""
        parts = vector.split([p.numel() for p in self.parameters], dim=-1)
        return [part.unflatten(-1, p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def _read(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def _write(self, vector: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self._split(vector), strict=True):
                parameter.copy_(part)
