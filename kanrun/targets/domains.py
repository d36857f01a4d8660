"""Domains: boxes [lower, upper] per variable, and the check that a function is finite all over its box."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy
from kanrun.points import Array
from kanrun.targets.data import Target

_FORM = "write one [lower, upper] for each variable, such as [[-1,1],[0,0.4*pi]]."

_POLES: dict[Any, Any] = {
    **dict.fromkeys((sympy.tan, sympy.sec), sympy.cos),
    **dict.fromkeys((sympy.cot, sympy.csc), sympy.sin),
    **dict.fromkeys((sympy.coth, sympy.csch), sympy.sinh),
}
"""Function to the one at whose zeros it has its poles."""


@dataclass(frozen=True)
class Probes:
    """Where a function is tried before it is learned, and what counts as a pole."""

    random: int = 4000  # points, uniform in the box
    per_line: int = 201  # points of a line through the centre along an axis
    lines: int = 20  # of the first axes
    corners: int = 10  # dimensions up to which all corners are tried; beyond, two of them
    pole: float = 1e6  # times the median of the values: larger ones beside the zero of a denominator are a pole
    bisections: int = 60  # steps that seek such a zero

    def points(self, domain: Array) -> Array:
        """Points (n, d) of the box."""
        lower, upper = domain.T
        dimension, centre = len(domain), domain.mean(axis=1)
        ends = itertools.product(*domain) if dimension <= self.corners else (lower, upper)
        lines = np.tile(centre, (min(dimension, self.lines), self.per_line, 1))
        for i, line in enumerate(lines):
            line[:, i] = np.linspace(lower[i], upper[i], self.per_line)
        random = np.random.default_rng(0).uniform(lower, upper, (self.random, dimension))
        return np.concatenate([lines.reshape(-1, dimension), np.array(list(ends)), random])

    def bisect(self, value: Callable[[Array], Array], above: Array, below: Array) -> Array:
        """Two neighbours (2, d) of a zero of `value` between a point where it is above 0 and one where it is not."""
        for _ in range(self.bisections):
            middle = (above + below) / 2
            if value(middle[None])[0] > 0:
                above = middle
            else:
                below = middle
        return np.stack([above, below])


def read_domain(value: Any, dimension: int, default: Any = None) -> Array:
    """The box (dimension, 2) that a config writes.

    `value` is one pair for each variable, or one pair of numbers for all of them; numbers may be text such as
    "0.4*pi". None takes `default` (itself None: [-1, 1]). Raises UsageError for other shapes, other numbers of
    variables, and lower >= upper.
    """
    if value is None:
        value = [-1, 1] if default is None else default
    if not _is_list(value):
        raise UsageError(f"target.domain={value!r} is not a list of pairs; {_FORM}")
    pairs = list(value)
    if len(pairs) == 2 and not any(_is_list(end) for end in pairs):
        pairs = [pairs] * dimension
    if len(pairs) != dimension:
        raise UsageError(
            f"target.domain has {len(pairs)} pair{'s' * (len(pairs) != 1)}, "
            f"but the target has {dimension} variable{'s' * (dimension != 1)}; {_FORM}"
        )
    return np.array([_pair(pair, i) for i, pair in enumerate(pairs)], dtype=np.float64)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _pair(pair: Any, index: int) -> tuple[float, float]:
    if not _is_list(pair) or len(pair) != 2:
        raise UsageError(f"target.domain of x{index} is {pair!r}, not a pair; {_FORM}")
    try:
        lower, upper = constant(pair[0]), constant(pair[1])
    except UsageError as error:
        raise UsageError(f"target.domain of x{index}: {str(error).rstrip('.')}.") from None
    if not lower < upper:
        raise UsageError(
            f"target.domain of x{index} is [{lower:g}, {upper:g}], but lower must be below upper."
        )
    if not np.isfinite(upper - lower):
        raise UsageError(f"target.domain of x{index} is too wide for float64.")
    return lower, upper


def check_finite(target: Target, probes: Probes = Probes()) -> Target:
    """`target`, when its function is finite (and real) at points all over its domain, corners included.

    Raises UsageError with the first point where it is not and their number. Where a denominator of its
    expression changes sign between two points, the zero is sought and the function looked at there.
    """
    if target.function is None:
        return target
    points = probes.points(target.domain)
    values = target.function(points)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        others = f"at {bad.sum() - 1} more" if bad.sum() > 1 else "at no other"
        raise UsageError(
            f"{target.name} is not finite at {shown(points[bad.argmax()])} "
            f"and {others} of the {len(points)} points tried; change target.domain."
        )
    for zero in _zeros_of_denominators(target, points, probes):
        beside = np.abs(
            target.function(zero)
        )  # NaN where a zero is divided by zero, which may be no pole
        if np.nanmax(beside, initial=0.0) > probes.pole * np.median(np.abs(values)):
            raise UsageError(
                f"{target.name} is not finite near {shown(zero[0])}, where it divides by zero; change target.domain."
            )
    return target


def shown(point: Array, names: Sequence[str] = ()) -> str:
    """The first coordinates of a point (d,), such as x0=1, x1=2; `names` are x0, x1, ... by default."""
    texts = [
        f"{name}={value:.6g}"
        for name, value in zip(names or [f"x{i}" for i in range(len(point))], point, strict=True)
    ]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:8], "..."])


def _zeros_of_denominators(target: Target, points: Array, probes: Probes) -> Iterator[Array]:
    """For each denominator that has both signs among `points`: two neighbours (2, d) of a zero of it."""
    if target.expression is None:
        return
    denominators = {
        power.base for power in target.expression.atoms(sympy.Pow) if power.exp.is_negative
    }
    for function, zero in _POLES.items():
        denominators |= {zero(call.args[0]) for call in target.expression.atoms(function)}
    for denominator in sorted(denominators, key=str):
        value = to_numpy(denominator, target.inputs)
        signs = np.sign(value(points))
        if (signs > 0).any() and (signs < 0).any():
            yield probes.bisect(value, points[signs.argmax()], points[signs.argmin()])
