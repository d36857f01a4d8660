"""Polynomials of time on a slab, as coefficients of Legendre polynomials of s from -1 to 1.

Given values and r - 1 time derivatives at the start fix `held_polynomials` of an unknown of order
r; its unknown splines multiply `free_polynomials`, which vanish there with r - 1 derivatives. With
residuals at the Radau points this is the Radau IIA method for the system of first order (Hairer
and Wanner, Solving ODEs II, section IV.5).
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
    """Return time derivatives at `s` of Legendre polynomials on a slab of length 2 `half`.

    `s` in [-1, 1] has shape (points,); the polynomials have the degrees 0 to `count` - 1.
    """
    unit = np.eye(count)
    rows = [legval(s, legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


@cache
def radau_points(stages: int) -> tuple[Array, Array]:
    """Return `stages` Radau points of [-1, 1], the last of which is 1, and their weights.

    Both have shape (stages,).
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
    """Return polynomials with an `order`-fold zero at -1, by Legendre, and their derivatives.

    Derivatives 0 to `order` are those of the system of first order: each one below the highest is
    integrated from the interpolant of the next at the Radau points, at which both agree. Direct
    collocation of a second derivative would amplify fast oscillations (van der Houwen,
    Sommeijer and Cong, BIT 31, 1991). The largest value of a polynomial is 1.
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
    """Return polynomials with time derivative r of 1 at the start for r < order, by Legendre.

    All their other derivatives below `order` vanish at the `ends` (-1 is the start). With both ends
    these fade out over the slab.
    """
    count = len(ends) * order
    rows = [legendre_values(np.array([end]), half, range(order), count)[..., 0] for end in ends]
    found = np.linalg.inv(np.concatenate(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, stages + 1 - count)))
