"""LBFGS with scipy's strong Wolfe line search, in the metric of the objective's own curvature.

The recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) begins with `Curvature`'s inverse, renewed
every few steps, in place of a multiple of the identity: what badly scaled spline coefficients need. Moves and changes
of the gradient are kept in the parameters' own units, so they outlive a renewal. Values that are not finite count as
too high.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import torch
from scipy.optimize import line_search
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training.curvature import Curvature, CurvaturePolicy
from kanrun.engine.training.first_order import Objective, movable, trainable


@dataclass(frozen=True)
class LBFGSPolicy:
    """When the metric is renewed, what a step keeps, and how its line search ends; 0 < enough < left < 1."""

    renewed: int = 20  #: steps between two evaluations of the curvature; at least 1
    #: A pair counts while its curvature is at least this share of what the lengths of its parts allow.
    curved: float = 1e-12
    enough: float = 1e-4  #: share of the slope's promise that a step must keep
    left: float = 0.9  #: share of the slope that may be left
    doublings: int = 25  #: of the first step, at most
    searches: int = 3  #: at most, each from the shortest step of the one before: scipy's ends after ten cuts
    curvature: CurvaturePolicy = CurvaturePolicy()


@dataclass(frozen=True)
class Point:
    """A step length `t` with the value, the gradient and the slope along the line there."""

    t: float
    value: float
    gradient: Tensor
    slope: float


def search(at: Callable[[float], Point], start: Point, first: float, policy: LBFGSPolicy) -> Point:
    """A point lower than `start` that meets the strong Wolfe conditions, or the lowest of all that were looked at.

    `start` itself where none is lower. `start.slope` must be negative; `first` is the step that is tried first.
    """
    seen = {0.0: start}

    def look(t: np.ndarray) -> Point:
        if (key := float(t[0])) not in seen:
            seen[key] = at(key)
        return seen[key]

    def value(t: np.ndarray) -> float:
        found = look(t).value
        return found if isfinite(found) else inf

    def slope(t: np.ndarray) -> np.ndarray:
        return np.array([look(t).slope])

    for _ in range(policy.searches):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says where it finds none
            share, *_ = line_search(
                value, slope, np.zeros(1), np.array([first]), np.array([start.slope]),
                start.value, c1=policy.enough, c2=policy.left, maxiter=policy.doublings,
            )  # fmt: skip
        if share is not None and seen[share * first].value < start.value:
            return seen[share * first]
        lowest = min((point for point in seen.values() if isfinite(point.value)), key=lambda point: point.value)
        if lowest is not start:
            return lowest
        first = min(t for t in seen if t)
    return start


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
        self.network, self.objective, self._history, self.policy = network, objective, history, policy
        self.rows = len(objective.samples)
        self._named = trainable(network)
        self.parameters = list(self._named.values())
        self._rough = objective.roughness(network)
        free = movable(network, objective)
        masks = [free.get(p, torch.ones_like(p)).to(p).detach().reshape(-1) for p in self.parameters]
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
            kind: torch.stack(vectors) for kind, vectors in zip(KINDS, zip(*self._pairs, strict=True), strict=False)
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
        found = search(lambda t: self._at(origin, t, direction), start, self._first(start), self.policy)
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
            direction = direction + (share - float(change @ direction) / float(move @ change)) * move
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
        return Point(t, float(value.detach()), gradient, 0.0 if direction is None else float(gradient @ direction))

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
            self.network, goal.samples, self._here.value, goal.size, goal.weight, goal.order, self.policy.curvature
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
