"""Solver for evolution equations: networks in consecutive slabs of time, with an error estimate.

The whole range is solved with smaller and smaller local tolerances until the accumulated error
(`controller.py`) is below the wanted one. After that, more accurate solutions follow as long as
they are cheap.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from math import inf, isfinite

import numpy as np
import torch
from scipy.linalg import eigvals
from torch import Generator, Tensor

from kanrun.engine.equations.audit import not_seen
from kanrun.engine.equations.collocation import Collocation, EquationPolicy
from kanrun.engine.equations.controller import march_to_end
from kanrun.engine.equations.fields import Field, Windows, breakpoints_of
from kanrun.engine.equations.residuals import arguments_at
from kanrun.engine.equations.scan import narrow_rounding
from kanrun.engine.equations.slab import TINY, March, slab_field
from kanrun.engine.equations.solution import EquationStage, Residuals, Solution
from kanrun.engine.equations.space import DEGREE
from kanrun.engine.equations.system import Array, EvolutionSystem, System, low_discrepancy
from kanrun.errors import TrainingFailed

#: First local tolerance, as a fraction of the wanted error.
LOCAL = 0.2
#: Bounds of the ratio of two successive local tolerances.
FACTORS = (0.03, 0.3)
#: After the tolerance is met, a more accurate solution is computed if it is expected to take at
#: most this many estimated CPU seconds.
CHEAP = 3.0
#: Policy that sets the number of points of a slab at which residuals are measured after the fit.
CHECKS = EquationPolicy(test_points=128)


def solve_evolution(
    system: EvolutionSystem, tolerance: float, budget: float = inf
) -> Events[EquationStage, None, Solution]:
    """Solve an evolution system in slabs of time, and yield a record of each slab.

    Solve with smaller and smaller local tolerances until the estimated error is below `tolerance`.

    Args:
        system: The system.
        tolerance: Wanted relative L2 error.
        budget: Largest amount of work, in estimated CPU seconds.

    Returns:
        The most accurate solution that covers the whole range. If the budget does not suffice for
        the first one, the solution ends early; if it does not suffice for the wanted error, the
        estimate is above `tolerance`. In both cases, `Solution.stopped` says so.

    Raises:
        TrainingFailed: If not even the first slab can be solved.
    """
    # Smallest relative error that is reported, because of rounding.
    rounding_error = 1e-12
    best, stopped, doubt = _best_march(system, tolerance, budget)
    stages = tuple(_stages(system, best))
    yield from stages
    network = Windows([each.solution for each in stages])
    estimate = max(best.estimate, rounding_error, narrow_rounding(system.initial_scan))
    return Solution(
        network,
        stages,
        best.end,
        estimate if isfinite(estimate) else None,
        tolerance,
        stopped,
        doubt,
        unseen=best.unseen,
    )


def _best_march(
    system: EvolutionSystem, tolerance: float, budget: float
) -> tuple[March, str, str | None]:
    """Solve with smaller and smaller local tolerances, and return the most accurate solution.

    Also return why the solver stopped before the wanted error was reached (empty if it did not),
    and why the estimated error may be wrong (see `_doubt`; None if there is no reason).
    """
    # Estimated CPU seconds after which this more accurate solution is abandoned.
    tried = 6.0
    # Smallest local tolerance. With a smaller one, rounding keeps Gauss-Newton steps from
    # converging.
    smallest_tolerance = 1e-13
    # Largest local tolerance.
    largest_tolerance = 1e-2
    local = min(LOCAL * tolerance, largest_tolerance)
    left = budget
    best: March | None = None
    doubt: str | None = None
    while True:
        is_met = best is not None and best.estimate <= tolerance
        limit, before = (min(left, tried), None) if is_met else (left, best)
        march = march_to_end(system, local, limit, before)
        left -= march.counted
        stopped = "" if is_met else march.stopped
        if not march.accepted and best is None:
            raise TrainingFailed(
                "The equation cannot be solved beyond its initial values: its residual is not "
                f"finite, or no time window is short enough ({stopped})."
            )
        if march.stopped:
            if best is None:
                best = march
                doubt = _doubt(system, march)
            break
        is_better = best is None or march.estimate < best.estimate
        if best is None or is_better:
            best = march
            doubt = _doubt(system, march)
        following = _next_tolerance(march, tolerance, left)
        if doubt or following is None:
            break
        if not is_better or (local := following) < smallest_tolerance:
            stopped = "" if is_met else "rounding allows no smaller tolerance"
            break
    return best, stopped, doubt


def _next_tolerance(march: March, tolerance: float, left: float) -> float | None:
    """Return the next local tolerance, or None if the solver should stop after `march`.

    It should stop if the error is at most `tolerance`, and a more accurate solution is not needed
    or would be expensive. The work is assumed to grow like the local tolerance to the power
    -1 / (DEGREE + 1). `left` is the remaining budget in estimated CPU seconds.
    """
    # Estimated error below which no more accurate solution is tried.
    enough = 1e-11
    # Expected error of the next solution, as a fraction of the wanted error. The next local
    # tolerance is chosen accordingly.
    aimed = 0.3
    estimate = max(march.estimate, TINY)
    is_met = march.estimate <= tolerance
    factor = float(np.clip(aimed * (enough if is_met else tolerance) / estimate, *FACTORS))
    expected = march.counted * factor ** (-1 / (DEGREE + 1))
    if is_met and (estimate <= enough or expected > min(CHEAP, left / 2)):
        return None
    return march.tolerance * factor


def _doubt(system: EvolutionSystem, march: March) -> str | None:
    """Return why the estimated error may be wrong, or None if there is no reason.

    Either no slab resolves some feature of the equations, or the equation is ill-posed.
    """
    if march.unresolved is not None:
        return not_seen(system, march.unresolved)
    for slab in (march.slabs[0], march.slabs[-1]):
        if (place := growing_place(system, slab_field(slab, system))) is not None:
            names = system.vocabulary.variables
            at = ", ".join(f"{name}={value:.3g}" for name, value in zip(names, place, strict=True))
            return (
                f"the equation is ill-posed: at {at} waves grow the faster the shorter they are, "
                "as in heat conduction backwards in time, so that smallest errors of the initial "
                "values change the solution"
            )
    return None


def _stages(system: EvolutionSystem, march: March) -> Iterator[EquationStage]:
    """Yield a record of each slab, with residuals at points that were not used for fitting."""
    before = None
    sizes = torch.as_tensor(march.sizes())
    pairs = zip(march.accepted, march.errors().tolist(), strict=True)
    for number, (accepted, change) in enumerate(pairs):
        slab = accepted.slab
        field = slab_field(slab, system)
        equation, conditions = slab_residuals(system, field, before, sizes)
        before = field
        points = breakpoints_of(field)
        assert points is not None  # Networks of slabs always have breakpoints.
        points[:, -1] = field.box[-1, 1]
        yield EquationStage(
            window=number,
            intervals=slab.space.intervals,
            solution=field,
            unknowns=slab.unknowns,
            steps=march.steps // len(march.accepted),
            objective=equation.rms**2,
            equation=equation,
            conditions=conditions,
            change=change,
            seconds=accepted.seconds,
            points=points,
        )


def slab_residuals(
    system: EvolutionSystem, field: Field, before: Field | None, sizes: Tensor
) -> tuple[Residuals, Residuals]:
    """Measure the residuals of a slab at points that were not used for fitting.

    Args:
        system: The system.
        field: Solution on the slab.
        before: Solution on the previous slab; None for the first slab.
        sizes: Magnitudes of the unknowns over the whole range of time, shape (unknowns,).

    Returns:
        Residuals of the equations; and differences between the start of the slab and the end of the
        previous slab (or the initial values). Each difference is divided by the size of the unknown
        in this slab or in the whole range, whichever is larger. All other conditions hold by
        construction.
    """
    # Smallest size of an unknown in the units of residuals, as a fraction of the largest unknown.
    quiet = 1e-6
    part = System(system.vocabulary, field.box, system.equations, ())
    rows = Collocation(part, CHECKS, Generator().manual_seed(0))
    start = rows.points(rows.candidates)
    unknowns = range(len(system.orders))
    start[:, -1] = field.box[-1, 0]
    ended = start.clone()
    ended[:, -1] = field.box[-1, 0] if before is None else before.box[-1, 1]
    none = (0,) * system.variables
    at = start.numpy()
    with torch.no_grad():
        own = field(rows.points(rows.unseen)).square().mean(0).sqrt()
        rows.sizes = own.clamp(min=quiet * max(float(own.max()), float(sizes.max()), TINY))
        given = [system.initial_value(u, none, at) for u in unknowns] if before is None else ()
        wanted = before(ended) if before else torch.as_tensor(np.stack(given, axis=1))
        jumps = (field(start) - wanted) / rows.sizes.maximum(sizes)
    equation, _ = rows.residuals(field, part.guesses())
    return equation, Residuals.of([(start, each) for each in jumps.T])


#: Two wavenumbers, times the length of the range of space, whose growth rates are compared.
WAVENUMBERS = (1e3, 1e4)


def growing_place(system: EvolutionSystem, field: Field) -> tuple[float, ...] | None:
    """Return a point at which the equations are ill-posed, or None if no such point was found.

    At each of many points, the equations are linearised around `field`, with constant coefficients.
    The linear equations have waves exp(i k x + l t) as solutions. A problem is well-posed only if
    the real parts of all l stay bounded as k grows (Kreiss and Lorenz, Initial-boundary value
    problems, section 2.2).
    """
    # Growth rates below this fraction of the largest |l|, for waves exp(i k x + l t), count as
    # rounding.
    rounding = 1e-6
    # An equation is ill-posed if the growth rate at the larger wavenumber is more than this many
    # times the growth rate at the smaller one. In well-posed equations, the growth rate stays the
    # same or falls.
    rise = 2.0
    # Number of points of a slab at which the growth of waves is measured.
    growth_points = 64
    points = low_discrepancy(field.box, growth_points, 3)
    none = points.new_zeros(0)
    length = float(system.box[0].diff())
    every = [each.slopes(arguments_at(each, field, none, points)) for each in system.equations]
    for *slopes, point in zip(*every, points.tolist(), strict=True):
        rates = [_growth(system, slopes, k / length) for k in WAVENUMBERS]
        (slow, _), (fast, frequency) = rates
        if fast > rise * max(slow, 0.0) and fast > rounding * frequency:
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
