"""Solution of a differential equation on the whole box or in windows of the last variable."""

from __future__ import annotations

from collections.abc import Generator as Events
from dataclasses import replace

from torch import Generator

from kanrun.engine.equations.box_solver import BoxSolver
from kanrun.engine.equations.fields import Field, Windows, hard_conditions
from kanrun.engine.equations.policy import Ansatz, EquationPolicy, EquationStage, Solution
from kanrun.engine.equations.system import System
from kanrun.monitoring import time_limit_reached

#: Polynomials of time in a window at first.
TERMS_IN_TIME = 6
#: A window that ends this fraction of its length before the range takes the rest as well.
REMAINDER = 0.1
#: Grids after which a change that large means that a shorter window is needed.
SETTLING_GRIDS = 4


def solve(
    system: System,
    ansatz: Ansatz,
    policy: EquationPolicy,
    generator: Generator,
    windows: int | str | None = None,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yield every grid and return the solution.

    `first` is an initial guess.

    `windows` cuts the last variable into this many equal parts. With `auto` a part that is not
    accepted is halved and tried again. The solution ends where the shortest one is not accepted, or
    the error has grown to `EquationPolicy.failed_change`. With conditions that are incompatible at
    its beginning it is that of the whole range. Without `windows` the whole box is solved at once.
    """
    low, high = map(float, system.box[-1])
    corners = [each for each in system.corners if each.face[-1] == (len(system.box) - 1, low)]
    jumps = (each.relation.order == 0 and each.gap > policy.corner_full_gap for each in corners)
    if windows == "auto" and any(jumps):
        windows = None
    auto = windows == "auto"
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.max_windows if auto else length
    if ansatz.hard:
        ansatz = replace(ansatz, built_in=hard_conditions(system, last=windows is None))
    start, last, before = low, list[EquationStage](), tuple[EquationStage, ...]()
    while not last or start < high:
        end = high if start + (1 + REMAINDER) * length >= high else start + length
        whole = (start, end) == (low, high)
        divisible = auto and end - start > 1.01 * shortest
        form, constants = ansatz.form, policy
        if not whole and len(system.box) == 2 and form.separated:
            form = replace(form, terms=TERMS_IN_TIME, fixed_last=True)
            constants = policy.for_polynomials
        solver = BoxSolver(
            system if whole else system.between(start, end),
            replace(ansatz, form=form, widens=ansatz.widens or form.fixed_last),
            constants,
            generator,
            first=first,
            before=before,
            whole=not divisible,
        )
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, window=len(last))
            if divisible and _is_stalled(stages, policy):
                break
        accepted = _accepts(stages[-1], system, policy, before, whole=whole)
        if divisible and not accepted and not time_limit_reached():
            length = max((end - start) / 2, shortest)
            continue
        before = tuple(stages[-2:]) if solver.coarse is None else (solver.coarse, stages[-1])
        last.append(replace(stages[-1], sensitivity=solver.sensitivity(stages[-1])))
        lost = not accepted or (last[-1].change or 0.0) > policy.failed_change
        if time_limit_reached() or (auto and len(last) > 1 and lost):
            break
        start, length = end, length * (policy.window_growth if auto else 1.0)
    if end < high and corners:
        return (yield from solve(system, ansatz, policy, generator, None, first))
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, tuple(last), solved_until=end)


def _accepts(
    last: EquationStage,
    system: System,
    policy: EquationPolicy,
    before: tuple[EquationStage, ...],
    *,
    whole: bool,
) -> bool:
    """Return whether to accept a window: small residuals and a small change on its last grid.

    Changes accumulate over windows and may grow by a factor from one to the next.
    """
    two = len(system.box) == 2 and last.solution.form.separated
    residual = (policy.for_polynomials if two else policy).accepted_residual
    if float(last.solution.box[-1, 0]) == float(system.box[-1, 0]) and system.corners:
        gap = max(each.gap for each in system.corners) if whole else 1.0
        residual = max(residual, gap * policy.accepted_residual_at_corners)
    earlier = (before[-1].change or 0.0) if before else 0.0
    change = max(policy.accepted_change, policy.max_change_growth * earlier)
    largest = max(last.equation.rms, last.conditions.rms)
    return largest <= residual and (last.change or 0.0) <= change


def _is_stalled(stages: list[EquationStage], policy: EquationPolicy) -> bool:
    """Return whether large residuals do not fall, or finer grids still change much."""
    if len(stages) >= SETTLING_GRIDS and (stages[-1].change or 0.0) > policy.failed_change:
        return True
    if len(stages) < 3:
        return False
    bound = policy.helpful_residual_ratio * stages[-3].equation.rms
    return not stages[-1].equation.rms <= max(policy.give_up_residual, bound)
