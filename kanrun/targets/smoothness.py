"""Search for points at which a function is not smooth: a kink, a jump or an infinite slope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kanrun.points import Array

#: Number of points on each line.
POINTS = 129
#: Half the length of the first line, on which fourth differences are computed, as a fraction of the
#: input's range.
REACH = 0.1
#: Number of successive lines along one input. Every line is (POINTS - 1) / (2 NEAR) times shorter
#: than the line before.
LEVELS = 4
#: Half the length of the next line, in units of the spacing of points on the present line.
NEAR = 3
#: Number of rounds over all inputs. In the first round, the tip of a cone is not found.
ROUNDS = 2
#: Change of slope between neighbouring points of the shortest line above which the function counts
#: as not smooth, in units of the output's size divided by the input's range.
SLOPE_CHANGE = 0.01
#: Relative rounding error of values and inputs; smaller differences are ignored.
ROUNDING = 1e-13


def rough_places(
    function: Callable[[Array], Array], points: Array, domain: Array, sizes: Array
) -> Array:
    """Return, near each of `points`, a point at which `function` is not smooth, if there is one.

    Fourth differences are maximised on shorter and shorter lines, along one input after another.
    Where the function is smooth, these differences decrease as h^4 with the spacing h of the points
    on the line. At a kink, they decrease as h, and at a jump, they do not decrease.

    Args:
        function: Map from (points, inputs) to (points, outputs).
        points: Points in the domain, shape (points, inputs).
        domain: Lower and upper bound of each input, shape (inputs, 2).
        sizes: Typical magnitudes of the outputs, shape (outputs,).

    Returns:
        The points at which the function is not smooth, shape (points, inputs). A row is NaN if the
        function is smooth near the point.
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
    """Return the coordinate along `axis` with the largest fourth difference near each of `places`.

    The second array says whether this difference is too large for a smooth function. Both arrays
    have the shape (places,).
    """
    (low, high), points = ends, places[:, axis]
    reach = REACH * (high - low)
    for _ in range(LEVELS):
        middle = np.clip(points, low + reach, high - reach)
        lines = middle[:, None] + reach * np.linspace(-1, 1, POINTS)
        x = np.repeat(places, POINTS, axis=0)
        x[:, axis] = lines.ravel()
        with np.errstate(all="ignore"):
            y = function(x).reshape(len(places), POINTS, -1) / sizes
            differences = np.nan_to_num(np.abs(np.diff(y, 4, axis=1)).max(axis=2), posinf=0.0)
        points = np.take_along_axis(lines, differences.argmax(axis=1)[:, None] + 2, axis=1)[:, 0]
        step = 2 * reach / (POINTS - 1)
        reach = NEAR * step
    slopes = np.abs(np.diff(y, axis=1)).max(axis=(1, 2)) / step
    rounding = ROUNDING * (np.abs(y).max(axis=(1, 2)) + np.abs(points) * slopes)
    least = np.maximum(SLOPE_CHANGE * step / (high - low), rounding)
    return points, differences.max(axis=1) > least
