"""LBFGS with a strong Wolfe line search, in the metric of the objective's own curvature.

The recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) begins with `Curvature`'s
inverse, renewed every few steps, in place of a multiple of the identity: badly scaled spline
coefficients need it. Moves and changes of the gradient are kept in the parameters' own units, so
they outlive a renewal. The line search brackets and zooms (algorithms 3.5 and 3.6) with cubic
interpolation until there is enough descent and the slope has become small; values that are not
finite count as too high. scipy's line search makes at most ten cuts and doublings; with it `kanrun
continual` breaks claims on held coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training.curvature import Curvature
from kanrun.engine.training.data_fitting import SmoothnessLoss
from kanrun.engine.training.first_order import Objective

#: Fractions of the slope that a step must keep as descent, and that may remain; 0 < ENOUGH <
#: REMAINING < 1.
ENOUGH, REMAINING = 1e-4, 0.9
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
#: A pair counts while its curvature is at least this fraction of what the lengths of its parts
#: allow.
CURVED = 1e-12
#: The smallest sum of a gradient's entries that a first step is divided by.
TINY = 1e-300


@dataclass(frozen=True)
class LinePoint:
    """A step length `t` with the value, the gradient and the slope along the line there."""

    t: float
    value: float
    gradient: Tensor
    slope: float


def search(at: Callable[[float], LinePoint], start: LinePoint, first: float) -> LinePoint:
    """Return a point below `start` that meets the conditions, or the lowest evaluated one.

    `start` itself if none is lower. `start.slope` must be negative.
    """
    lowest, before, t = start, start, first
    for evaluated in range(1, EVALUATIONS + 1):
        point = at(t)
        if point.value < lowest.value:
            lowest = point
        bracket = None
        if not _descends(point, start) or (evaluated > 1 and point.value >= before.value):
            bracket = (before, point)
        elif abs(point.slope) <= -REMAINING * start.slope:
            return point
        elif point.slope >= 0:
            bracket = (point, before)
        if bracket:
            return _zoom(at, start, bracket, lowest, EVALUATIONS - evaluated)
        t = min(max(_cubic(before, point), 2 * point.t), GROWTH * point.t)
        before = point
    return lowest


def _zoom(
    at: Callable[[float], LinePoint],
    start: LinePoint,
    bracket: tuple[LinePoint, LinePoint],
    lowest: LinePoint,
    evaluations: int,
) -> LinePoint:
    """Search inside a bracket whose first end is the lower one with enough descent."""
    low, high = bracket
    for _ in range(evaluations):
        left, right = sorted((low.t, high.t))
        guard = GUARD * (right - left)
        point = at(min(max(_cubic(low, high), left + guard), right - guard))
        if point.value < lowest.value:
            lowest = point
        if not _descends(point, start) or point.value >= low.value:
            high = point
        elif abs(point.slope) <= -REMAINING * start.slope:
            return point
        else:
            high = low if point.slope * (high.t - low.t) >= 0 else high
            low = point
        if abs(high.t - low.t) * abs(start.slope) <= RESOLUTION * abs(start.value):
            break
    return lowest


def _descends(point: LinePoint, start: LinePoint) -> bool:
    return isfinite(point.value) and point.value <= start.value + ENOUGH * point.t * start.slope


def _cubic(a: LinePoint, b: LinePoint) -> float:
    """Return the minimum of the cubic through `a` and `b`, or their middle if it has none."""
    middle, width = 0.5 * (a.t + b.t), b.t - a.t
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

    Its history of `history_size` pairs lasts as long as the network's parameters.
    """

    name = "lbfgs"
    tolerance = plateau_tolerance = 0.0

    def __init__(self, network: Network, objective: Objective, history_size: int = 30) -> None:
        self.network, self.objective, self._history_size = network, objective, history_size
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
        self._here = self._at(self._read(), 0.0, None)
        self.loss = self._here.value

    def step(self) -> float:
        """Take one line search.

        `converged` if it finds no lower point, not even from a fresh history.
        """
        if self._taken % RENEWED == 0:
            self._renew()
        self._taken += 1
        if not self._searched():
            fresh, self._pairs = not self._pairs, []
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
        self._here = self._at(self._read(), 0.0, None)

    def _searched(self) -> bool:
        origin, start = self._read(), self._here
        direction = self._direction(start.gradient)
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
        move, change = found.t * direction, found.gradient - start.gradient
        if float(move @ change) > CURVED * float(move.norm() * change.norm()):
            self._pairs = [*self._pairs, (move, change)][-self._history_size :]
        self._here, self.loss = found, found.value
        return True

    def _direction(self, gradient: Tensor) -> Tensor:
        direction, shares = -gradient, []
        for move, change in reversed(self._pairs):
            share = float(move @ direction) / float(move @ change)
            direction = direction - share * change
            shares.append(share)
        direction = self._solve(direction)
        if self._pairs:  # The multiple of the inverse curvature that fits the last pair best.
            move, change = self._pairs[-1]
            direction = direction * (float(move @ change) / float(change @ self._solve(change)))
        for (move, change), share in zip(self._pairs, reversed(shares), strict=True):
            direction = (
                direction + (share - float(change @ direction) / float(move @ change)) * move
            )
        return self._muted(direction)

    def _at(self, origin: Tensor, t: float, direction: Tensor | None) -> LinePoint:
        self._write(origin if direction is None else origin + t * direction)
        value = self.objective.value(self.network, self.objective.samples, self._smoothness_loss)
        slopes = torch.autograd.grad(value, self.parameters, materialize_grads=True)
        gradient = self._muted(torch.cat([slope.reshape(-1) for slope in slopes]))
        return LinePoint(
            t,
            float(value.detach()),
            gradient,
            0.0 if direction is None else float(gradient @ direction),
        )

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
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def _write(self, vector: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self._split(vector), strict=True):
                parameter.copy_(part)
