"""Solutions of evolution equations as networks, with an error estimate.

The whole range is solved with smaller and smaller tolerances until two solutions agree. The
difference between them falls by some factor from one tolerance to the next; if it continues to fall
like this, the last solution differs from the true one by that factor times the last difference.
Where small errors grow exponentially, first solutions are wrong by their own size at the end. They
tell by their beginnings how fast errors fall, but nothing about the error at the end.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from time import process_time
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigvals
from torch import Generator, Tensor

from kanrun.engine.equations.audit import not_seen
from kanrun.engine.equations.collocation import Collocation, EquationPolicy
from kanrun.engine.equations.evolution import March, Marcher
from kanrun.engine.equations.fields import Field, Windows, breakpoints_of
from kanrun.engine.equations.residuals import EquationStage, Residuals, Solution, arguments_at
from kanrun.engine.equations.space import Index
from kanrun.engine.equations.system import Array, EvolutionSystem, System, low_discrepancy
from kanrun.engine.equations.window import Window, window_field
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: The first factor from one tolerance to the next, its smallest value, the smallest tolerance, and
#: the fraction of the tolerance that a next estimate should have.
TOLERANCE_FACTOR, SMALLEST_FACTOR, SMALLEST_TOLERANCE, AIMED_FRACTION = 0.1, 1e-3, 1e-13, 0.3
#: Power of the tolerance by which errors fall at least, for the next tolerance.
SMALLEST_POWER = 0.2
#: Change above which a solution tells nothing about the error of the next.
SATURATED = 0.1
#: Largest work (steps times unknowns) of a solution, about a minute; the factor to a coarser
#: tolerance where the first one takes more, and the largest such tolerance.
MAX_WORK, COARSER_FACTOR, LARGEST_TOLERANCE = 1e7, 100.0, 1e-2
#: Factor of the work to the next solution where the next tolerance asks for too much. Errors of
#: Schroedinger's equation from a kink fall by half for three times the work.
WORK_GROWTH = 2.0
#: Work is predicted once this many windows have grown by less than this factor, and this fraction
#: of the largest work is done.
SETTLING_WINDOWS, SETTLED, SETTLED_WORK = 8, 2.0, 0.05
#: Work of a solution that is cheap: a smaller tolerance follows although the error is small enough,
#: and estimates from three solutions are better than from two.
CHEAP_WORK = 150_000
#: Estimates are never below this relative error, which rounding leaves.
ROUNDING_ERROR = 1e-12
#: An estimated error below which no smaller tolerance follows.
ENOUGH = 1e-11
#: Smallest divisor.
TINY = 1e-300
#: New points of a window at which residuals and the growth of waves are measured.
CHECKS, GROWTH_POINTS = EquationPolicy(test_points=128), 64
#: Unknowns count as at least this fraction of the largest one in residuals.
QUIET = 1e-6
#: Wavenumbers, in units of the range, between which the growth of a disturbance is compared.
WAVENUMBERS = 1e3, 1e4
#: An equation is ill-posed if that growth rises by more than this factor, and exceeds this fraction
#: of the frequency (below it, it is rounding). Rates of well-posed ones stay or fall.
RISE, ROUNDING = 2.0, 1e-6
#: Points at which two solutions are compared, in equal parts of time.
COMPARED_POINTS, PARTS = 4096, 16


class ComparedPlaces(NamedTuple):
    """Places at which two solutions are compared, in the order of their times.

    Half of them are spread evenly over windows and cells, so that narrow ones are seen. Weights,
    one over the density of the places, make a weighted mean that over the box. `parts` are the
    numbers of `PARTS` equal parts of time.
    """

    points: Array
    weights: Tensor
    parts: Tensor

    def means(self, squares: Tensor) -> Tensor:
        """Return the mean squares (PARTS, unknowns) in each part of time."""
        sums = torch.zeros(PARTS, squares.shape[1], dtype=squares.dtype)
        sizes = torch.zeros(PARTS, dtype=squares.dtype).index_add(0, self.parts, self.weights)
        return sums.index_add(0, self.parts, self.weights[:, None] * squares) / sizes[:, None]


@dataclass(frozen=True)
class _Level:
    """Solution of one tolerance, and its values at the points of comparison.

    Attributes:
        change: Relative difference from the level before, in the whole range or in its last part if
            that is larger.
        changes: The same by parts of time.
        power: Power of the tolerance by which errors fall, at most 1.
        factor: Tolerance relative to that of the level before.
        work_power: Power of one over the tolerance by which work grows.
    """

    march: March
    values: Tensor
    change: float = inf
    changes: Tensor | None = None
    power: float = 1.0
    factor: float = 1.0
    work_power: float = 0.0

    @property
    def error_fraction(self) -> float:
        """Estimated error relative to the change."""
        rest = float(self.factor**self.power)
        return 1.0 if self.change > SATURATED else min(rest / max(1 - rest, TINY), 1.0)

    @property
    def estimate(self) -> float | None:
        """Estimated relative error; None for the first solution.

        Two solutions may begin with the same splines, so their error counts beside the change.
        """
        if self.changes is None:
            return None
        return max(self.change * self.error_fraction, self.march.initial_error)

    def estimate_at(self, time: float) -> float | None:
        """Return the estimated error in the part of time, from 0 to 1, that contains `time`."""
        part = min(int(PARTS * time), PARTS - 1)
        return None if self.changes is None else float(self.changes[part]) * self.error_fraction


def solve_evolution(
    system: EvolutionSystem, tolerance: float, budget: float = inf
) -> Events[EquationStage, None, Solution]:
    """Solve with smaller and smaller tolerances until the estimated error is below `tolerance`.

    Return the last solution that covers the whole range, and yield its windows. The work is at most
    `budget`, in approximate CPU seconds.
    """
    places: ComparedPlaces | None = None
    level: _Level | None = None
    local, doubt = min(tolerance / TOLERANCE_FACTOR, LARGEST_TOLERANCE), None
    left = budget
    while True:
        march = _march(system, local, level.march if level else None, left)
        left -= march.counted
        if march.is_long and (other := _less_work(march, level)) is not None:
            local = other
            continue
        stopped = march.stopped
        if stopped and level is not None and places is not None:
            if level.estimate is None:  # No better solution can follow: a coarser one tells.
                coarse = _march(system, level.march.tolerance / TOLERANCE_FACTOR, None, left)
                if not coarse.stopped:
                    before = _level(system, coarse, places, None)
                    level = _level(system, level.march, places, before)
            break
        if not march.windows:
            raise TrainingFailed(
                "The equation cannot be followed from its initial values: its residual is not "
                f"finite, or no window is short enough ({stopped})."
            )
        places = places or compared_places(system, march)
        level = _level(system, march, places, level)
        doubt = _doubt(system, level.march)
        if stopped or doubt or _is_enough(level, tolerance):
            break
        if (local := local * _next_factor(level, tolerance)) < SMALLEST_TOLERANCE:
            stopped = "rounding allows no smaller tolerance"
            break
    stages = tuple(_stages(system, level))
    yield from stages
    network, unseen = Windows([each.solution for each in stages]), level.march.unseen
    estimate = None if level.estimate is None else max(level.estimate, ROUNDING_ERROR)
    end = level.march.end
    return Solution(network, stages, end, estimate, tolerance, stopped, doubt, unseen=unseen)


def _less_work(long: March, level: _Level | None) -> float | None:
    """Return a larger tolerance than that of too long a solution after `level`, or None."""
    if level is None:
        local = long.tolerance * COARSER_FACTOR
        return local if local <= LARGEST_TOLERANCE else None
    before = level.march.tolerance
    factor = _affordable(level, long.tolerance / before, long.work + long.remaining)
    return None if factor is None else before * factor


def _affordable(level: _Level, factor: float, work: float) -> float | None:
    """Return a factor to the next tolerance that is larger than one of too much `work`, or None.

    Where work is too much, it grows at least like one over the tolerance.
    """
    power = max(1.0, -np.log(work / level.march.work) / np.log(factor))
    is_possible = WORK_GROWTH * level.march.work <= MAX_WORK
    return float(WORK_GROWTH ** (-1 / power)) if is_possible else None


def _doubt(system: EvolutionSystem, march: March) -> str | None:
    """Return why a small difference between two solutions says little, if it does."""
    if march.unresolved is not None:
        return not_seen(system, march.unresolved)
    for window in (march.windows[0], march.windows[-1]):
        if (place := growing_place(system, window_field(window, system))) is not None:
            names = system.vocabulary.variables
            at = ", ".join(f"{name}={value:.3g}" for name, value in zip(names, place, strict=True))
            return (
                f"the equation is ill-posed: at {at} waves grow the faster the shorter they are, "
                "as in heat conduction backwards in time, so that smallest errors of the initial "
                "values change the solution"
            )
    return None


def _march(system: EvolutionSystem, tolerance: float, before: March | None, budget: float) -> March:
    """Return the windows of one tolerance, and why they end early."""
    began, march = process_time(), March([], float(system.box[-1, 0]), tolerance)
    marcher = Marcher(system, tolerance, before, budget)
    for march in marcher.run():
        report_progress("windows", len(march.windows))
        windows = march.windows[-SETTLING_WINDOWS:]
        lengths = [window.end - window.start for window in windows]
        settled = len(lengths) == SETTLING_WINDOWS and lengths[-1] < SETTLED * lengths[0]
        long = march.work + march.remaining > MAX_WORK and march.work > SETTLED_WORK * MAX_WORK
        if settled and long:
            seconds = (process_time() - began) * march.remaining / march.work
            march.stopped = f"the rest would take about {seconds:.0f} CPU seconds"
            march.is_long = True
            break
    march.seconds = process_time() - began
    if march.end < float(system.box[-1, 1]) and not march.stopped:
        march.stopped = "windows became too short"
        if time_limit_reached():
            march.stopped = "CPU time ran out"
        elif marcher.is_over(march):
            march.stopped = "the budget is spent"
    return march


def compared_places(system: EvolutionSystem, march: March) -> ComparedPlaces:
    """Return places in the box, half of them spread over the windows and cells of `march`."""
    even, spread = (low_discrepancy(system.box, COMPARED_POINTS // 2, n).numpy() for n in (1, 2))
    start, end = system.box[-1].tolist()
    times = np.array([start, *(window.end for window in march.windows)])
    spread[:, -1] = _spread(times, (spread[:, -1] - start) / (end - start))
    is_spread = np.repeat([False, True], COMPARED_POINTS // 2)
    points = np.concatenate([even, spread])
    order = points[:, -1].argsort()
    points, is_spread = points[order], is_spread[order]
    densities = _density(times, points[:, -1])
    if system.variables > 1:
        x, (low, high) = points[:, 0], system.box[0].tolist()
        for window, rows in _rows_of_windows(march, points):
            moved, edges = rows[is_spread[rows]], window.space.breakpoints
            x[moved] = _spread(edges, (x[moved] - low) / (high - low))
            densities[rows] *= _density(edges, x[rows])
    parts = (PARTS * (points[:, -1] - start) / (end - start)).astype(int).clip(0, PARTS - 1)
    weights = torch.as_tensor(2 / (1 + densities))
    return ComparedPlaces(points, weights, torch.as_tensor(parts))


def _spread(edges: Array, shares: Array) -> Array:
    """Return places for shares in [0, 1], of which each cell receives the same part."""
    found: Array = np.interp(shares * (len(edges) - 1), np.arange(len(edges)), edges)
    return found


def _density(edges: Array, places: Array) -> Array:
    """Return the density of spread places, relative to that of even ones."""
    widths = np.diff(edges)
    cells = (np.searchsorted(edges, places, side="right") - 1).clip(0, len(widths) - 1)
    found: Array = np.ptp(edges) / len(widths) / widths[cells]
    return found


def _rows_of_windows(march: March, points: Array) -> Iterator[tuple[Window, Index]]:
    """Yield each window with the numbers of the points in it."""
    number = np.searchsorted([window.end for window in march.windows[:-1]], points[:, -1])
    for i, window in enumerate(march.windows):
        yield window, np.flatnonzero(number == i)


def _level(
    system: EvolutionSystem, march: March, places: ComparedPlaces, before: _Level | None
) -> _Level:
    """Return a solution, compared with the one `before` at the places."""
    found = [
        w.solution(system, places.points[i]) for w, i in _rows_of_windows(march, places.points)
    ]
    values = torch.as_tensor(np.concatenate(found))
    if before is None:
        return _Level(march, values)
    weights = places.weights[:, None] / places.weights.sum()
    sizes = (weights * values.square()).sum(0).clamp(min=TINY)
    squares = ((values - before.values).square() / sizes).nan_to_num(inf)
    changes = places.means(squares).amax(1).sqrt()
    power = 1.0 if before.changes is None else _power(before.changes, changes, before.factor)
    change = max(float((weights * squares).sum(0).max().sqrt()), float(changes[-1]))
    factor = march.tolerance / before.march.tolerance
    growth = -float(np.log(march.work / before.march.work) / np.log(factor))
    return _Level(march, values, change, changes, power, factor, growth)


def _power(before: Tensor, changes: Tensor, factor: float) -> float:
    """Return the power of the tolerance by which errors fall, from two changes in turn.

    A change of order 1 tells nothing: a solution cannot be more wrong than that. A fast fall need
    not continue: where small errors grow in time, later ones fall later, so 1 is the largest power.
    """
    told = before < SATURATED
    if not bool(told.any()):
        return 1.0
    ratio = float(changes[told].norm().clamp(min=TINY) / before[told].norm().clamp(min=TINY))
    return float(np.clip(np.log(ratio) / np.log(factor), 0.0, 1.0))


def _next_factor(level: _Level, tolerance: float) -> float:
    """Return the factor to the next tolerance, one step of which should meet the `tolerance`.

    It is larger if the work, a power of the tolerance as before, would be too much.
    """
    if level.estimate is None or level.change > SATURATED:
        return TOLERANCE_FACTOR
    aimed = AIMED_FRACTION * tolerance / max(level.estimate, TINY)
    wanted = aimed ** (1 / max(level.power, SMALLEST_POWER))
    factor = float(np.clip(wanted, SMALLEST_FACTOR, TOLERANCE_FACTOR))
    work = level.march.work * factor**-level.work_power
    return (_affordable(level, factor, work) if work > MAX_WORK else None) or factor


def _is_enough(level: _Level, tolerance: float) -> bool:
    """Return whether the error is small, and a smaller tolerance not cheap or not useful."""
    if level.estimate is None or level.estimate > tolerance:
        return False
    return level.estimate < ENOUGH or level.march.work > CHEAP_WORK


def _stages(system: EvolutionSystem, level: _Level) -> Iterator[EquationStage]:
    """Yield the windows of a solution, with residuals at new points."""
    windows, before, sizes = level.march.windows, None, level.values.square().mean(0).sqrt()
    low, high = system.box[-1].tolist()
    for number, window in enumerate(windows):
        field = window_field(window, system)
        equation, conditions = window_residuals(system, field, before, sizes)
        points, before = breakpoints_of(field), field
        assert points is not None  # An invariant: windows are splines.
        points[:, -1] = field.box[-1, 1]
        yield EquationStage(
            window=number,
            intervals=window.space.intervals,
            solution=field,
            unknowns=window.unknowns,
            steps=level.march.steps // len(windows),
            objective=equation.rms**2,
            equation=equation,
            conditions=conditions,
            change=level.estimate_at(((window.start + window.end) / 2 - low) / (high - low)),
            seconds=level.march.seconds / len(windows),
            points=points,
        )


def window_residuals(
    system: EvolutionSystem, field: Field, before: Field | None, sizes: Tensor
) -> tuple[Residuals, Residuals]:
    """Return the residuals of equations in a window, and of the values at its start, at new points.

    Those should be the values of the window `before`, in the first one the initial values, relative
    to the `sizes` of the unknowns in the whole range if these are larger. Other conditions are
    built in.
    """
    part = System(system.vocabulary, field.box, system.equations, ())
    rows = Collocation(part, CHECKS, Generator().manual_seed(0))
    start, unknowns = rows.points(rows.candidates), range(len(system.orders))
    start[:, -1] = field.box[-1, 0]
    ended = start.clone()
    ended[:, -1] = field.box[-1, 0] if before is None else before.box[-1, 1]
    none, at = (0,) * system.variables, start.numpy()
    with torch.no_grad():
        own = field(rows.points(rows.unseen)).square().mean(0).sqrt()
        rows.sizes = own.clamp(min=QUIET * max(float(own.max()), float(sizes.max()), TINY))
        given = [system.initial_value(u, none, at) for u in unknowns] if before is None else ()
        wanted = before(ended) if before else torch.as_tensor(np.stack(given, axis=1))
        jumps = (field(start) - wanted) / rows.sizes.maximum(sizes)
    equation, _ = rows.residuals(field, part.guesses())
    return equation, Residuals.of([(start, each) for each in jumps.T])


def growing_place(system: EvolutionSystem, field: Field) -> tuple[float, ...] | None:
    """Return a place where short waves grow without bound, the shorter the faster, or None.

    The equations, linearised and with their factors frozen there, have the waves exp(i k x + l t).
    A problem is well-posed only if the real parts of all l stay bounded as k grows (Kreiss and
    Lorenz, Initial-boundary value problems, section 2.2).
    """
    points = low_discrepancy(field.box, GROWTH_POINTS, 3)
    none, length = points.new_zeros(0), float(system.box[0].diff())
    every = [each.slopes(arguments_at(each, field, none, points)) for each in system.equations]
    for *slopes, point in zip(*every, points.tolist(), strict=True):
        rates = [_growth(system, slopes, k / length) for k in WAVENUMBERS]
        (slow, _), (fast, frequency) = rates
        if fast > RISE * max(slow, 0.0) and fast > ROUNDING * frequency:
            return tuple(point)
    return None


def _growth(system: EvolutionSystem, slopes: Sequence[Array], k: float) -> tuple[float, float]:
    """Return the largest real part of the rates of a wave, and their largest size."""
    offsets = np.cumsum([0, *system.orders])
    # The first-order system of the unknowns and their time derivatives below the highest.
    left = np.eye(offsets[-1], dtype=np.complex128)
    right = np.eye(offsets[-1], k=1, dtype=np.complex128)
    left[offsets[1:] - 1] = right[offsets[1:] - 1] = 0
    for row, relation, each in zip(offsets[1:] - 1, system.equations, slopes, strict=True):
        for slope, derivative in zip(each, relation.derivatives, strict=True):
            space, time = system.split(derivative)
            factor, column = slope * (1j * k) ** space, offsets[derivative.unknown] + time
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
