"""Polynomials in time on a slab, as Legendre coefficients in s, which runs from -1 to 1.

Let an equation have order r in time. The solution on a slab consists of two sums. In the first, the
known value and r - 1 time derivatives at the start of the slab are multiplied by
`held_polynomials`. In the second, the coefficients to be solved for are multiplied by
`free_polynomials`, whose value and r - 1 derivatives vanish at the start.
If the residual is zero at the Radau points, this is the Radau IIA method for the equivalent system
of first order (Hairer and Wanner, Solving ODEs II, section IV.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import legder, legint, legroots, legval, legvander

from kanrun.engine.equations.space import DEGREE
from kanrun.engine.equations.system import Array


def legendre_values(
    s: Array, half: float, orders: Sequence[int] | range, count: int = DEGREE + 1
) -> Float[Array, "orders degrees points"]:
    """Return time derivatives of Legendre polynomials on a slab.

    Args:
        s: Times in the slab, from -1 to 1, shape (points,).
        half: Half the length of the slab.
        orders: Orders of the derivatives.
        count: Number of polynomials, of degrees 0 to `count` - 1.
    """
    unit = np.eye(count)
    rows = [legval(s, legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


@cache
def radau_points(stages: int) -> tuple[Array, Array]:
    """Return the points and weights of the Radau quadrature rule on [-1, 1].

    Both have the shape (stages,). The last point is 1, and the sum of the weights is 2.
    """
    unit = np.eye(stages + 1)
    points = np.sort(legroots(unit[-1] - unit[-2]).real)
    points[-1] = 1.0
    weights = np.linalg.solve(legvander(points, stages - 1).T, 2.0 * unit[0, :-1])
    return points, weights.astype(np.float64)


@cache
def free_polynomials(
    order: int, stages: int = DEGREE
) -> Float[Array, "derivatives polynomials degrees"]:
    """Return Legendre coefficients of polynomials with an `order`-fold zero at -1.

    There are `stages` polynomials. Entry 0 of the result holds the polynomials, and entry r their
    time derivatives of order r, up to `order`, as the equivalent system of first order defines
    them: the highest derivative is a polynomial of degree `stages` - 1, and each lower one is the
    integral of the interpolant of the next higher one at the Radau points. Exact second derivatives
    would amplify fast oscillations (van der Houwen, Sommeijer and Cong, BIT 31, 1991). The
    polynomials are scaled to a largest value of about 1.
    """
    points, _ = radau_points(stages)
    unit = np.eye(stages)
    interpolated = np.linalg.inv(legvander(points, stages - 1)).T
    found = [unit, legint(unit, lbnd=-1, axis=1)]
    for _ in range(order - 1):
        values = legval(points, found[-1].T)
        found.append(legint(values @ interpolated, lbnd=-1, axis=1))
    at = legval(np.linspace(-1, 1, 101), found[-1].T)
    sizes = np.abs(at).max(axis=1, keepdims=True)
    width = stages + 1
    return np.stack([np.pad(e, ((0, 0), (0, width - e.shape[1]))) / sizes for e in found[::-1]])


def held_polynomials(
    order: int, half: float, stages: int, ends: tuple[float, ...] = (-1.0,)
) -> Float[Array, "order degrees"]:
    """Return Legendre coefficients of polynomials that continue the values at the start of a slab.

    For r < `order`, the time derivative of order r of polynomial r is 1 at the start. All other
    derivatives of orders below `order` vanish at all `ends`.

    Args:
        order: Order of the equation in time.
        half: Half the length of the slab.
        stages: Largest degree of the result.
        ends: (-1.0,) for the start alone. With (-1.0, 1.0), all derivatives vanish at the end of
            the slab as well, so that the polynomials fade out.
    """
    count = len(ends) * order
    rows = [legendre_values(np.array([end]), half, range(order), count)[..., 0] for end in ends]
    found = np.linalg.inv(np.concatenate(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, stages + 1 - count)))
