"""A line search for the strong Wolfe conditions: enough descent, and a slope that has become small.

Bracketing and zooming as in Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6, with cubic
interpolation. Values that are not finite count as too high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt

from torch import Tensor


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


def search(at: Callable[[float], Point], start: Point, first: float, policy: LineSearchPolicy) -> Point:
    """A point with a lower value than `start` that meets the conditions, or the lowest of all that were evaluated.

    `start` itself where none is lower. `start.slope` must be negative.
    """
    lowest, before, t, most = start, start, first, policy.evaluations
    for looked in range(1, most + 1):
        point = at(t)
        if point.value < lowest.value:
            lowest = point
        if not _descends(point, start, policy) or (looked > 1 and point.value >= before.value):
            return _zoom(at, start, (before, point), lowest, replace(policy, evaluations=most - looked))
        if abs(point.slope) <= -policy.left * start.slope:
            return point
        if point.slope >= 0:
            return _zoom(at, start, (point, before), lowest, replace(policy, evaluations=most - looked))
        t = min(max(_cubic(before, point), 2 * point.t), policy.growth * point.t)
        before = point
    return lowest


def _zoom(
    at: Callable[[float], Point], start: Point, bracket: tuple[Point, Point], lowest: Point, policy: LineSearchPolicy
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
    return isfinite(point.value) and point.value <= start.value + policy.enough * point.t * start.slope


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
