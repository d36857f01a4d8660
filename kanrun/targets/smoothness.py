"""Places at which a function is not smooth: a kink, a jump or an infinite slope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kanrun.points import Array

#: Points on a line.
POINTS = 129
#: Half the length of the first line, as a fraction of the range of the input.
REACH = 0.1
#: Lines in a row along one input, each shorter by the factor (POINTS - 1) / (2 NEAR).
LEVELS = 4
#: Half the length of the next line, in distances between points.
NEAR = 3
#: Rounds over all inputs. The tip of a cone is found in the second one.
ROUNDS = 2
#: Smallest change of the slope between neighbouring points of the shortest line that counts, in
#: units of the size of the output over the range of the input.
SLOPE_CHANGE = 0.01
#: Differences count from this many times the largest value, and the change of the function by the
#: rounding of inputs.
ROUNDING = 1e-13


def rough_places(
    function: Callable[[Array], Array], points: Array, domain: Array, sizes: Array
) -> Array:
    """Return a place close to each of `points` at which `function` is not smooth.

    Fourth differences along one input after the other are maximised on shorter and shorter lines.
    Where the function is smooth, these differences fall with the fourth power of the distance h
    between points; at a kink they fall as h, and at a jump they stay.

    Args:
        function: Map from (points, inputs) to (points, outputs).
        points: Points in the domain, shape (points, inputs).
        domain: Lower and upper end of each input, shape (inputs, 2).
        sizes: Sizes of the outputs, shape (outputs,).

    Returns:
        Places of shape (points, inputs), with NaN for points that have none nearby.
    """
    places = points.copy()
    rough = np.zeros(len(points), dtype=bool)
    for axis in [*range(len(domain))] * ROUNDS:
        moved, changes = _largest_change(function, places, axis, domain[axis], sizes)
        places[~rough, axis] = moved[~rough]
        rough |= changes
    return np.where(rough[:, None], places, np.nan)


def _largest_change(
    function: Callable[[Array], Array], places: Array, axis: int, ends: Array, sizes: Array
) -> tuple[Array, Array]:
    """Return where the fourth difference along `axis` is largest, and whether it is too large."""
    (low, high), at = ends, places[:, axis]
    reach = REACH * (high - low)
    for _ in range(LEVELS):
        middle = np.clip(at, low + reach, high - reach)
        lines = middle[:, None] + reach * np.linspace(-1, 1, POINTS)
        x = np.repeat(places, POINTS, axis=0)
        x[:, axis] = lines.ravel()
        with np.errstate(all="ignore"):
            y = function(x).reshape(len(places), POINTS, -1) / sizes
            differences = np.nan_to_num(np.abs(np.diff(y, 4, axis=1)).max(axis=2), posinf=0.0)
        at = np.take_along_axis(lines, differences.argmax(axis=1)[:, None] + 2, axis=1)[:, 0]
        step = 2 * reach / (POINTS - 1)
        reach = NEAR * step
    slopes = np.abs(np.diff(y, axis=1)).max(axis=(1, 2)) / step
    rounding = ROUNDING * (np.abs(y).max(axis=(1, 2)) + np.abs(at) * slopes)
    least = np.maximum(SLOPE_CHANGE * step / (high - low), rounding)
    return at, differences.max(axis=1) > least
