"""Checks of solved windows: residuals, jumps between windows, and well-posedness."""

from __future__ import annotations

import numpy as np

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.policy import Residuals
from kanrun.engine.equations.space import Array
from kanrun.engine.equations.window import Window, legendre_values, total

#: Points in space and in time of a window at which residuals are measured, and points in space of
#: its border.
PLACES, TIMES, BORDER_PLACES = 24, 5, 200
#: Wavenumbers, in units of the range, between which the growth of a disturbance is compared.
WAVENUMBERS = 1e3, 1e4
#: An equation is ill-posed if that growth rises by more than this factor, and exceeds this fraction
#: of the frequency (below it, it is rounding). Rates of well-posed ones stay or fall.
RISE, ROUNDING = 2.0, 1e-6
#: Smallest divisor.
TINY = 1e-300


def window_residuals(system: EvolutionSystem, window: Window) -> Residuals:
    """Return the residuals at new points, relative to the largest term."""
    drawn = np.random.default_rng(1)
    x, s = _places(system, drawn.random(PLACES)), 2 * drawn.random(TIMES) - 1
    points, values = _values(system, window, x, s)
    rows = np.concatenate([points, np.stack([*values.values()], axis=1)], axis=1)
    worst = Residuals(0.0, 0.0, ())
    names = [*values]
    for relation in system.equations:
        columns = [*range(points.shape[1])]
        columns += [points.shape[1] + names.index(each.name) for each in relation.derivatives]
        with np.errstate(all="ignore"):
            residual = np.abs(relation.residual(rows[:, columns]))
            terms = relation.slopes(rows[:, columns]) * rows[:, columns[points.shape[1] :]]
        largest = max(np.sqrt(np.square(terms).mean(0)).max(initial=0.0), TINY)
        rms = float(np.sqrt(np.square(residual).mean()) / largest)
        at = int(residual.argmax())
        if not rms <= worst.rms:
            worst = Residuals(rms, float(residual[at] / largest), tuple(points[at].tolist()))
    return worst


def window_jumps(system: EvolutionSystem, window: Window, before: Window | None) -> Residuals:
    """Return the jumps from the window before, or from the initial values, relative to the size."""
    x, worst = (
        _places(system, (np.arange(BORDER_PLACES) + 0.5) / BORDER_PLACES),
        Residuals(0.0, 0.0, ()),
    )
    length = float(system.system.box[-1].diff())
    points = np.stack([x, np.full_like(x, window.start)][-system.variables :], axis=1)
    for unknown, order in enumerate(system.orders):
        found = _at_border(system, window, unknown, x, -1.0)
        if before is None:
            wanted = system.initial_values(unknown, points)
        else:
            wanted = _at_border(system, before, unknown, x, 1.0)
        for each in range(order):
            both = np.stack([found, wanted, _at_border(system, window, unknown, x, 1.0)])
            sizes = np.sqrt(np.square(both).mean(1)).max(0)
            size = max(sizes[each], sizes[0] / length**each, TINY)
            difference = np.abs(found[:, each] - wanted[:, each]) / size
            rms, at = float(np.sqrt(np.square(difference).mean())), int(difference.argmax())
            if not rms <= worst.rms:
                worst = Residuals(rms, float(difference[at]), tuple(points[at].tolist()))
    return worst


def growing_place(system: EvolutionSystem, window: Window) -> tuple[float, ...] | None:
    """Return a place where short waves grow without bound, the shorter the faster, or None.

    The equations, linearised and with their factors frozen there, have the waves exp(i k x + l t).
    A problem is well-posed only if the real parts of all l stay bounded as k grows (Kreiss and
    Lorenz, Initial-boundary value problems, section 2.2).
    """
    if system.variables == 1:
        return None
    x = _places(system, np.random.default_rng(2).random(PLACES))
    points, values = _values(system, window, x, np.array([-0.5, 0.5]))
    low, high = system.system.box[0].tolist()
    for row, point in enumerate(points):
        at = {name: value[row] for name, value in values.items()}
        rates = [_growth(system, point, at, k / (high - low)) for k in WAVENUMBERS]
        (slow, _), (fast, frequency) = rates
        if fast > RISE * max(slow, 0.0) and fast > ROUNDING * frequency:
            return tuple(point.tolist())
    return None


def _growth(
    system: EvolutionSystem, point: Array, at: dict[str, float], k: float
) -> tuple[float, float]:
    """Return the largest real part of the rates of a wave, and their largest size."""
    offsets, top = np.cumsum([0, *system.orders]), max(system.orders)
    count = len(system.orders)
    factors = np.zeros((top + 1, count, count), dtype=np.complex128)
    for number, relation in enumerate(system.equations):
        row = np.array([[*point, *(at[each.name] for each in relation.derivatives)]])
        with np.errstate(all="ignore"):
            slopes = relation.slopes(row)[0]
        for slope, each in zip(slopes, relation.derivatives, strict=False):
            space, time = system.split(each)
            factors[time, number, each.unknown] += slope * (1j * k) ** space
    if not np.isfinite(factors).all():
        return 0.0, 0.0
    # The first-order system of the unknowns and their time derivatives below the highest.
    left = np.eye(offsets[-1], dtype=np.complex128)
    right = np.zeros_like(left)
    for unknown, order in enumerate(system.orders):
        for below in range(order - 1):
            right[offsets[unknown] + below, offsets[unknown] + below + 1] = 1
    rows = offsets[1:] - 1
    left[rows] = 0
    for number, row in enumerate(rows):
        for unknown, order in enumerate(system.orders):
            left[row, offsets[unknown + 1] - 1] = factors[order, number, unknown]
            for below in range(order):
                right[row, offsets[unknown] + below] = -factors[below, number, unknown]
    try:
        rates = np.linalg.eigvals(np.linalg.solve(left, right))
    except np.linalg.LinAlgError:
        return 0.0, 0.0
    return float(rates.real.max()), float(np.abs(rates).max())


def _places(system: EvolutionSystem, shares: Array) -> Array:
    low, high = system.system.box[0].tolist()
    return low + shares * (high - low) if system.variables == 2 else np.zeros(1)


def _at_border(system: EvolutionSystem, window: Window, unknown: int, x: Array, s: float) -> Array:
    """Return u - lift and its time derivatives below its order at one end, (points, order)."""
    half = (window.end - window.start) / 2
    times = legendre_values(np.array([s]), half, range(system.orders[unknown]))
    found = [total(window.parts[unknown], x, each)[:, 0] for each in times]
    return np.stack(found, axis=1)


def _values(
    system: EvolutionSystem, window: Window, x: Array, s: Array
) -> tuple[Array, dict[str, Array]]:
    """Return all points (points, variables) of x and s, and each derivative there by its name."""
    half = (window.end - window.start) / 2
    grid = np.meshgrid(x, window.start + half * (s + 1), indexing="ij")
    points = np.stack([each.ravel() for each in grid[-system.variables :]], axis=1)
    times = legendre_values(s, half, range(max(system.orders) + 1))
    values = {}
    for each in system.derivatives:
        space, time = system.split(each)
        varied = total(window.parts[each.unknown], x, times[time], space).ravel()
        values[each.name] = varied + system.lift(each.unknown, each.index, points)
    return points, values
