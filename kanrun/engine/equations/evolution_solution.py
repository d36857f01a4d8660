"""Solutions of evolution equations as networks, with an error estimate.

The whole range is solved with smaller and smaller tolerances until two solutions agree. The
difference between them falls by some factor from one tolerance to the next; if it continues to fall
like this, the last solution differs from the true one by that factor times the last difference.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from dataclasses import dataclass, replace
from math import inf
from time import process_time

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from torch import Tensor

from kanrun.engine.equations.evolution import March, Marcher
from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.fields import Field, HardConditions, OutputForm, Windows
from kanrun.engine.equations.policy import EquationStage, Solution
from kanrun.engine.equations.space import DEGREE, Array
from kanrun.engine.equations.system import low_discrepancy
from kanrun.engine.equations.window import Window
from kanrun.engine.equations.window_checks import (
    growing_place,
    window_jumps,
    window_residuals,
)
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import (
    Grid,
    extend,
    fit_coefficients,
    insert_knots,
    sample_points,
)
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Breakpoints of two spaces that differ by less than this fraction of the range are one.
SAME_BREAKPOINT = 1e-14
#: The first factor from one tolerance to the next, its smallest value, the smallest tolerance, and
#: the fraction of the tolerance that a next estimate should have.
TOLERANCE_FACTOR, SMALLEST_FACTOR, SMALLEST_TOLERANCE, AIMED_FRACTION = 0.1, 1e-3, 1e-13, 0.3
#: Errors are assumed to fall as a power of the tolerance, within these bounds: those of 12
#: equations fell by factors of 0.01 to 0.3 per factor of ten, but a fast fall need not continue.
POWER = 0.0, 1.0
#: Change above which the power is taken to be 1.
SATURATED = 0.1
#: Largest work (steps times unknowns) of a solution, about a minute; the factor to a coarser
#: tolerance where the first one takes more, and the largest such tolerance.
MAX_WORK, COARSER_FACTOR, LARGEST_TOLERANCE = 1e7, 100.0, 1e-2
#: Work is predicted once this many windows have grown by less than this factor, and this fraction
#: of the largest work is done.
SETTLING_WINDOWS, SETTLED, SETTLED_WORK = 8, 2.0, 0.05
#: Work of a solution that is cheap: a smaller tolerance follows although the error is small enough.
CHEAP_WORK = 20_000
#: An estimated error below which no smaller tolerance follows.
ENOUGH = 1e-11
#: Smallest divisor.
TINY = 1e-300
#: Points at which two solutions are compared.
COMPARED_POINTS = 4000


@dataclass(frozen=True)
class _Level:
    """The solution of one tolerance, and its values at the points of comparison.

    `change` is the relative difference from the level before, `estimate` that of the own error.
    """

    tolerance: float
    march: March
    fields: list[Field]
    network: Field | Windows
    values: Tensor
    seconds: float
    change: float | None = None
    estimate: float | None = None


def solve_evolution(
    system: EvolutionSystem, tolerance: float
) -> Events[EquationStage, None, Solution]:
    """Solve with smaller and smaller tolerances until the estimated error is below `tolerance`.

    Return the last solution that covers the whole range, and yield its windows.
    """
    points = low_discrepancy(system.system.box, COMPARED_POINTS, 1)
    levels, local, doubt = list[_Level](), tolerance, None
    while True:
        began = process_time()
        march, stopped, is_long = _march(system, local)
        if stopped and levels:
            break
        if is_long and local * COARSER_FACTOR <= LARGEST_TOLERANCE:
            local *= COARSER_FACTOR
            continue
        if not march.windows:
            raise TrainingFailed(
                "The equation cannot be followed from its initial values: its residual is not "
                f"finite, or no window is short enough ({stopped})."
            )
        levels.append(_level(system, local, march, points, levels))
        levels[-1] = replace(levels[-1], seconds=process_time() - began)
        doubt = _doubt(system, march)
        if stopped or doubt or _is_enough(levels[-1], tolerance):
            break
        if (local := local * _next_factor(levels[-1], tolerance)) < SMALLEST_TOLERANCE:
            stopped = "rounding allows no smaller tolerance"
            break
    last = levels[-1]
    stages = _stages(system, last)
    yield from stages
    return Solution(
        last.network, tuple(stages), last.march.end, last.estimate, tolerance, stopped, doubt
    )


def _doubt(system: EvolutionSystem, march: March) -> str | None:
    """Return why a small difference between two solutions says little, if it does."""
    for window in (march.windows[0], march.windows[-1]):
        if (place := growing_place(system, window)) is not None:
            names = system.system.vocabulary.variables
            at = ", ".join(f"{name}={value:.3g}" for name, value in zip(names, place, strict=True))
            return (
                f"the equation is ill-posed: at {at} waves grow the faster the shorter they are, "
                "as in heat conduction backwards in time, so that smallest errors of the initial "
                "values change the solution"
            )
    return None


def _march(system: EvolutionSystem, tolerance: float) -> tuple[March, str, bool]:
    """Return the windows of one tolerance, why they end early, and whether for their work."""
    began, march = process_time(), March([], float(system.system.box[-1, 0]))
    for march in Marcher(system, tolerance).run():
        report_progress("windows", len(march.windows))
        windows = march.windows[-SETTLING_WINDOWS:]
        lengths = [window.end - window.start for window in windows]
        settled = len(lengths) == SETTLING_WINDOWS and lengths[-1] < SETTLED * lengths[0]
        long = march.work + march.remaining > MAX_WORK and march.work > SETTLED_WORK * MAX_WORK
        if settled and long:
            seconds = (process_time() - began) * march.remaining / march.work
            return march, f"the rest would take about {seconds:.0f} CPU seconds", True
    if march.end >= float(system.system.box[-1, 1]):
        return march, "", False
    return march, "CPU time ran out" if time_limit_reached() else "windows became too short", False


def _level(
    system: EvolutionSystem, tolerance: float, march: March, points: Tensor, levels: list[_Level]
) -> _Level:
    fields = [_field(each, system) for each in march.windows]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    with torch.no_grad():
        values = network(points)
    level = _Level(tolerance, march, fields, network, values, 0.0)
    if not levels:
        return level
    before, factor = levels[-1], tolerance / levels[-1].tolerance
    difference = (values - before.values).norm(dim=0) / values.norm(dim=0).clamp(min=TINY)
    change, power = float(difference.nan_to_num(inf).max()), 1.0
    if before.change is not None:
        power = _power(before.change, change, before.tolerance / levels[-2].tolerance)
    return replace(level, change=change, estimate=change * factor**power)


def _power(before: float, change: float, factor: float) -> float:
    """Return the power of the tolerance by which errors fall, from two changes in turn.

    A change of order 1 tells nothing: a solution cannot be more wrong than that.
    """
    if before > SATURATED:
        return 1.0
    return float(np.clip(np.log(max(change, TINY) / max(before, TINY)) / np.log(factor), *POWER))


def _next_factor(level: _Level, tolerance: float) -> float:
    """Return the factor to the next tolerance, one step of which should meet the `tolerance`."""
    if level.estimate is None:
        return TOLERANCE_FACTOR
    aimed = AIMED_FRACTION * tolerance / max(level.estimate, TINY)
    return float(np.clip(aimed, SMALLEST_FACTOR, TOLERANCE_FACTOR))


def _is_enough(level: _Level, tolerance: float) -> bool:
    """Return whether the error is small, and a smaller tolerance not cheap or not useful."""
    if level.estimate is None or level.estimate > tolerance:
        return False
    return level.estimate < ENOUGH or level.march.work > CHEAP_WORK


def _stages(system: EvolutionSystem, level: _Level) -> list[EquationStage]:
    """Return the windows of a solution, with residuals at new points and jumps between them."""
    windows, none = level.march.windows, torch.zeros(0, dtype=torch.float64)
    return [
        EquationStage(
            window=number,
            intervals=window.space.intervals,
            solution=field,
            constants=none,
            unknowns=window.unknowns,
            steps=level.march.steps // len(windows),
            objective=(equation := window_residuals(system, window)).rms ** 2,
            equation=equation,
            conditions=window_jumps(system, window, windows[number - 1] if number else None),
            change=level.estimate,
            standard_errors=none,
            seconds=level.seconds / len(windows),
            points=_breakpoints(window),
        )
        for number, (window, field) in enumerate(zip(windows, level.fields, strict=True))
    ]


def _field(window: Window, system: EvolutionSystem) -> Field:
    """Return a window as a network of splines, to rounding: knots are inserted."""
    box = system.system.box.clone()
    box[-1] = box.new_tensor([window.start, window.end])
    count, terms = len(system.orders), DEGREE + 1
    spatial = system.variables == 2
    form = OutputForm(count, terms, 2, separated=True) if spatial else OutputForm(count)
    edges = torch.as_tensor(_common_breakpoints(window) if spatial else [[-1.0, 1.0]]).double()
    spec = EdgeSpec(degree=DEGREE, base="zero")
    layer = SplineLayer.on_grid(edges, form.outputs, spec, uniform=False)
    shape = (count, terms, 2, 2, -1) if spatial else (count, 1, 1, 1, -1)
    found = layer.coefficients.detach().view(*shape)
    fine = [Grid(layer.knots[[number]], DEGREE) for number in range(len(edges))]
    times = _polynomials(fine[-1])
    for unknown, parts in enumerate(window.parts):
        if not spatial:
            coefficients = torch.as_tensor(parts[-1].coefficients[0])
            found[unknown, 0, 0, 0] = coefficients @ times
            continue
        found[unknown, :, 1, 1] = times
        low, high = system.system.box[0].tolist()
        for part in parts:
            knots = (2 * part.space.grid.knots - low - high) / (high - low)
            around = np.arange(part.space.intervals + DEGREE) % part.space.functions
            splines = torch.as_tensor(part.coefficients[around].T)[:, None]
            found[unknown, :, 0, 0] += insert_knots(splines, Grid(knots, DEGREE), fine[0])[:, 0]
    with torch.no_grad():
        layer.coefficients.copy_(found.reshape(layer.coefficients.shape))
        if spatial:
            layer.mask.copy_(form.mask(2))
    lifts = tuple(map(str, system.lifts))
    names = system.system.vocabulary.variables
    hard = HardConditions(names, lifts, ("1",) * count) if any(system.lifts) else None
    return Field(KAN.of_layers([layer]), form, box, torch.ones(count, dtype=box.dtype), hard)


def _polynomials(grid: Grid) -> Float[Tensor, "degrees functions"]:
    """Return the coefficients of the Legendre polynomials as splines on a grid of [-1, 1]."""
    single = Grid(extend(torch.tensor([[-1.0, 1.0]], dtype=torch.float64), DEGREE), DEGREE)
    x = sample_points(single, DEGREE + 1)
    values = torch.as_tensor(legendre.legvander(x[:, 0].numpy(), DEGREE))
    return insert_knots(fit_coefficients(x, values[..., None], single), single, grid)[:, 0]


def _common_breakpoints(window: Window) -> Array:
    """Return the breakpoints of all parts on [-1, 1], and as many equal ones of time."""
    every = [part.space.breakpoints for part in window.parts[0]]
    points = np.unique(np.concatenate([each for each in every if each is not None]))
    points = 2 * (points - points[0]) / (points[-1] - points[0]) - 1
    apart = np.diff(points, prepend=-np.inf) > SAME_BREAKPOINT
    apart[-1] = True
    points = points[apart]
    return np.stack([points, np.linspace(-1, 1, len(points))])


def _breakpoints(window: Window) -> Tensor:
    """Return the breakpoints of a window at its end, shape (points, variables)."""
    if (space := window.space.breakpoints) is None:
        return torch.tensor([[window.end]], dtype=torch.float64)
    at = torch.as_tensor(space)
    return torch.stack([at, torch.full_like(at, window.end)], dim=1)
