"""Domains: boxes [lower, upper] per variable, and the check that functions are finite on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy

from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy
from kanrun.points import Array
from kanrun.targets.datasets import Target, shown

_FORM = "write one [lower, upper] for each variable, such as [[-1,1],[0,0.4*pi]]."

#: Functions and those at whose zeros they have their poles.
_POLES: dict[Any, Any] = {
    **dict.fromkeys((sympy.tan, sympy.sec), sympy.cos),
    **dict.fromkeys((sympy.cot, sympy.csc), sympy.sin),
    **dict.fromkeys((sympy.coth, sympy.csch), sympy.sinh),
}
_RANDOM = 4000  # points of the box at which a function is tried
_LINES, _PER_LINE = 20, 201  # axes through the centre on which it is tried, and points on each
_CORNERS = 10  # dimensions up to which all corners are tried; beyond, two of them
_POLE = 1e6  # times the median of the values: larger ones near the zero of a denominator are a pole
_BISECTIONS = 60  # steps of the search for such a zero


def read_domain(value: Any, dimension: int, default: Any = None) -> Array:
    """Return the box (dimension, 2) of a setting.

    `value` is one pair for each variable, or one pair for all; numbers may be text such as
    "0.4*pi". None takes `default`, or [-1, 1]. Raises UsageError for other values, other numbers
    of variables, and lower >= upper.
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


def check_finite(target: Target) -> Target:
    """Return the target if its function is finite and real at points all over its domain.

    Raises UsageError with the first point at which it is not. If a denominator of its expression
    changes sign between two points, the function is also tried near the zero.
    """
    if target.function is None:
        return target
    points = _probes(target.domain)
    values = target.function(points)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        others = f"at {bad.sum() - 1} more" if bad.sum() > 1 else "at no other"
        raise UsageError(
            f"{target.name} is not finite at {shown(points[bad.argmax()])} "
            f"and {others} of the {len(points)} points tried; change target.domain."
        )
    for zero in _zeros_of_denominators(target, points):
        # NaN if a zero is divided by zero, which may be no pole.
        near = np.abs(target.function(zero))
        if np.nanmax(near, initial=0.0) > _POLE * np.median(np.abs(values)):
            raise UsageError(
                f"{target.name} is not finite near {shown(zero[0])}, where it divides by zero; "
                "change target.domain."
            )
    return target


def _probes(domain: Array) -> Array:
    """Return random points of the box, points on its axes, and corners."""
    lower, upper = domain.T
    dimension, centre = len(domain), domain.mean(axis=1)
    ends = itertools.product(*domain) if dimension <= _CORNERS else (lower, upper)
    lines = np.tile(centre, (min(dimension, _LINES), _PER_LINE, 1))
    for i, line in enumerate(lines):
        line[:, i] = np.linspace(lower[i], upper[i], _PER_LINE)
    random = np.random.default_rng(0).uniform(lower, upper, (_RANDOM, dimension))
    return np.concatenate([lines.reshape(-1, dimension), np.array(list(ends)), random])


def _zeros_of_denominators(target: Target, points: Array) -> Iterator[Array]:
    """Yield neighbours (2, inputs) of a zero of each denominator with both signs on the points."""
    if target.expression is None:
        return
    powers = target.expression.atoms(sympy.Pow)
    denominators = {power.base for power in powers if power.exp.is_negative}
    for function, zero in _POLES.items():
        denominators |= {zero(call.args[0]) for call in target.expression.atoms(function)}
    for denominator in sorted(denominators, key=str):
        value = to_numpy(denominator, target.inputs)
        signs = np.sign(value(points))
        if not ((signs > 0).any() and (signs < 0).any()):
            continue
        above, below = points[signs.argmax()], points[signs.argmin()]
        for _ in range(_BISECTIONS):
            middle = (above + below) / 2
            if value(middle[None])[0] > 0:
                above = middle
            else:
                below = middle
        yield np.stack([above, below])
