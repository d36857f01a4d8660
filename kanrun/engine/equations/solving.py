"""Solving a differential equation with networks, on the whole box at once or in windows of the last variable."""

from __future__ import annotations

from collections.abc import Generator as Events
from dataclasses import replace

from torch import Generator

from kanrun.engine.equations.box_solver import BoxSolver
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage, Solution
from kanrun.engine.equations.field import Field, Windows
from kanrun.engine.equations.hard_conditions import hard_conditions
from kanrun.engine.equations.system import System
from kanrun.monitoring import time_limit_reached


def solve(
    system: System,
    ansatz: Ansatz,
    policy: EquationPolicy,
    generator: Generator,
    windows: int | str | None = None,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yields every grid, returns the solution. It begins with the field `first` where one is given.

    `windows` cuts the last variable into so many parts of one length; with `auto` a part that does not hold (see
    `EquationPolicy.accepted`) is halved and tried again; where the shortest one does not hold either, or the error has
    grown to `EquationPolicy.lost`, the solution ends there. It is that of the whole range where conditions contradict
    each other at its beginning, at once where values jump there. Without, the whole box is solved at once.
    """
    low, high = map(float, system.box[-1])
    corners = [each for each in system.corners if each.face[-1] == (len(system.box) - 1, low)]
    if windows == "auto" and any(
        each.relation.order == 0 and each.share > policy.corner_whole for each in corners
    ):
        windows = None
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.most_windows if windows == "auto" else length
    if ansatz.hard:
        ansatz = replace(ansatz, built_in=hard_conditions(system, last=windows is None))
    start, last, before = low, list[EquationStage](), tuple[EquationStage, ...]()
    while not last or start < high - 1e-9 * (high - low):
        end = high if start + 1.1 * length >= high else start + length
        whole = (start, end) == (low, high)
        shorter = windows == "auto" and end - start > 1.01 * shortest
        solver = BoxSolver(
            system if whole else system.until(start, end),
            ansatz if whole else _of_windows(ansatz, policy, system),
            policy,
            generator,
            first=first,
            before=before,
            whole=not shorter,
        )
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, window=len(last))
            if shorter and _hopeless(stages, policy):
                break
        holds = _holds(stages[-1], system, policy, before, whole=whole)
        if shorter and not holds and not time_limit_reached():
            length = max((end - start) / 2, shortest)
            continue
        before = tuple(stages[-2:]) if solver.coarse is None else (solver.coarse, stages[-1])
        last.append(replace(stages[-1], sensitivity=solver.sensitivity(stages[-1])))
        if time_limit_reached():
            break
        if (
            windows == "auto"
            and len(last) > 1
            and not (holds and (last[-1].change or 0.0) <= policy.lost)
        ):
            break
        start, length = end, length * (policy.longer if windows == "auto" else 1.0)
    if end < high and corners:
        return (yield from solve(system, ansatz, policy, generator, None, first))
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, tuple(last), reached=end)


def _of_windows(ansatz: Ansatz, policy: EquationPolicy, system: System) -> Ansatz:
    """What the solution in a window is sought as: beside one other variable, with polynomials of time."""
    if len(system.box) != 2 or not ansatz.form.separated:
        return ansatz
    return replace(
        ansatz, form=replace(ansatz.form, terms=policy.terms_in_time, fixed_last=True), widens=True
    )


def _holds(
    last: EquationStage,
    system: System,
    policy: EquationPolicy,
    before: tuple[EquationStage, ...],
    *,
    whole: bool,
) -> bool:
    """Whether the residuals of a window's last grid are small, and its change, which adds up over windows and may grow
    by a factor from one to the next."""
    two = len(system.box) == 2 and last.solution.form.separated
    accepted, low = (
        policy.accepted_of_polynomials if two else policy.accepted,
        float(system.box[-1, 0]),
    )
    if float(last.solution.box[-1, 0]) == low and system.corners:
        share = max(each.share for each in system.corners) if whole else 1.0
        accepted = max(accepted, share * policy.accepted_with_corners)
    most = max(
        policy.accepted_change, policy.grown * ((before[-1].change or 0.0) if before else 0.0)
    )
    small = last.equation.rms <= accepted and last.conditions.rms <= accepted
    return small and (last.change or 0.0) <= most


def _hopeless(stages: list[EquationStage], policy: EquationPolicy) -> bool:
    """Whether residuals are large and neither grids nor terms help, or finer grids still change the solution much."""
    if len(stages) >= policy.settling and (stages[-1].change or 0.0) > policy.lost:
        return True
    residual = stages[-1].equation.rms
    return len(stages) > 2 and not residual <= max(
        policy.hopeless, policy.helpful * stages[-3].equation.rms
    )
