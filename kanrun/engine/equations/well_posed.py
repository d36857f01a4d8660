"""Test for ill-posed evolution equations, in which short waves grow without bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigvals

from kanrun.engine.equations.evolution import EvolutionSystem
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.residuals import arguments_at
from kanrun.engine.equations.system import Array, low_discrepancy

#: Number of points of a slab at which the growth of waves is measured.
GROWTH_POINTS = 64
#: Two wavenumbers, times the length of the range of space, whose growth rates are compared.
WAVENUMBERS = (1e3, 1e4)
#: An equation is ill-posed if the growth rate at the larger wavenumber is more than this many times
#: the growth rate at the smaller one. In well-posed equations, the growth rate stays the same or
#: falls.
RISE = 2.0
#: Growth rates below this fraction of the largest |l|, for waves exp(i k x + l t), count as
#: rounding.
ROUNDING = 1e-6


def growing_place(system: EvolutionSystem, field: Field) -> tuple[float, ...] | None:
    """Return a point at which the equations are ill-posed, or None if no such point was found.

    At each of many points, the equations are linearised around `field`, with constant coefficients.
    The linear equations have waves exp(i k x + l t) as solutions. A problem is well-posed only if
    the real parts of all l stay bounded as k grows (Kreiss and Lorenz, Initial-boundary value
    problems, section 2.2).
    """
    points = low_discrepancy(field.box, GROWTH_POINTS, 3)
    none = points.new_zeros(0)
    length = float(system.box[0].diff())
    every = [each.slopes(arguments_at(each, field, none, points)) for each in system.equations]
    for *slopes, point in zip(*every, points.tolist(), strict=True):
        rates = [_growth(system, slopes, k / length) for k in WAVENUMBERS]
        (slow, _), (fast, frequency) = rates
        if fast > RISE * max(slow, 0.0) and fast > ROUNDING * frequency:
            return tuple(point)
    return None


def _growth(system: EvolutionSystem, slopes: Sequence[Array], k: float) -> tuple[float, float]:
    """Return the largest real part and the largest modulus of l, for waves exp(i k x + l t).

    `k` is the wavenumber. `slopes` has one array per equation: the partial derivatives of its
    residual with respect to u_x, u_t and so on, at one point. Both results are 0 if a value of l is
    not finite.
    """
    offsets = np.cumsum([0, *system.orders])
    # Write the equations as left * dv/dt = right * v, a system of first order in time, for the
    # vector v of the unknowns and their time derivatives below the highest.
    left = np.eye(offsets[-1], dtype=np.complex128)
    right = np.eye(offsets[-1], k=1, dtype=np.complex128)
    left[offsets[1:] - 1] = right[offsets[1:] - 1] = 0
    for row, relation, each in zip(offsets[1:] - 1, system.equations, slopes, strict=True):
        for slope, derivative in zip(each, relation.derivatives, strict=True):
            space, time = system.split(derivative)
            factor = slope * (1j * k) ** space
            column = offsets[derivative.unknown] + time
            if time == system.orders[derivative.unknown]:
                left[row, column - 1] += factor
            else:
                right[row, column] -= factor
    if not np.isfinite([left, right]).all():
        return 0.0, 0.0
    rates = eigvals(right, left)
    if not np.isfinite(rates).all():
        return 0.0, 0.0
    return float(rates.real.max()), float(np.abs(rates).max())
