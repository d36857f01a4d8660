"""Solving a differential equation with networks, on the whole box at once or in windows of the last variable."""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from dataclasses import replace

from torch import Generator

from kanrun.engine.equations.boundary_interpolation import hard_conditions
from kanrun.engine.equations.box_solver import BoxSolver
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage, Solution
from kanrun.engine.equations.field import Windows
from kanrun.engine.equations.system import System
from kanrun.watch import time_is_up


def solve(
    system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator, windows: int | str | None = None
) -> Events[EquationStage, None, Solution]:  # fmt: skip
    """Solve the system; yields every grid, returns the solution.

    `windows` cuts the last variable into so many parts of one length; with `auto` a part that does not hold (see
    `EquationPolicy.accepted`) is halved and tried again; where the shortest one does not hold either, or the error has
    grown to `EquationPolicy.lost`, the solution ends there. Without, the whole box is solved at once.
    """
    low, high = map(float, system.box[-1])
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.most_windows if windows == "auto" else length
    hard = hard_conditions(system, last=windows is None) if ansatz.hard else None
    cut = _of_windows(ansatz, policy, len(system.box))
    start, last, began = low, list[EquationStage](), time.process_time()
    before: tuple[EquationStage, ...] = ()
    tries: list[tuple[float, BoxSolver, list[EquationStage]]] = []  # of the present window: its end, and what came out
    while not last or start < high - 1e-9 * (high - low):
        end = high if start + 1.1 * length >= high else start + length
        part = system if (start, end) == (low, high) else system.until(start, end)
        shorter = windows == "auto" and end - start > 1.01 * shortest
        solver = BoxSolver(
            part, ansatz if part is system else cut, policy, generator, before=before, whole=not shorter, hard=hard
        )
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, window=len(last), total_seconds=time.process_time() - began)
            if shorter and _hopeless(stages, policy):
                break
        accepted = policy.accepted_of_polynomials if cut.form.fixed_last else policy.accepted
        holds = _holds(stages, policy, accepted, before[-1].change if before else None)
        tries.append((end, solver, stages))
        alike = [each for each in tries if each[1].ansatz is solver.ansatz]
        if shorter and not holds and not time_is_up() and not _in_vain(alike, policy):
            length = max((end - start) / 2, shortest)
            continue
        if not holds and _in_vain(alike, policy):
            end, solver, stages = min(tries[0], alike[0], key=lambda each: each[2][-1].equation.rms)
        tries = []
        last.append(replace(stages[-1], sensitivity=solver.sensitivity(stages[-1])))
        before = tuple(stages[-2:])
        if time_is_up():
            break
        if windows == "auto" and len(last) > 1 and not (holds and (last[-1].change or 0.0) <= policy.lost):
            break
        start, length = end, length * (policy.longer if windows == "auto" else 1.0)
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, last[-1].constants, last[-1].standard_errors, tuple(last), reached=end)


def _of_windows(ansatz: Ansatz, policy: EquationPolicy, variables: int) -> Ansatz:
    """What the solution in a window is sought as: beside one other variable, with polynomials of time."""
    if variables != 2 or not ansatz.form.separated:
        return ansatz
    return replace(ansatz, form=replace(ansatz.form, terms=policy.terms_in_time, fixed_last=True), widens=True)


def _holds(stages: list[EquationStage], policy: EquationPolicy, accepted: float, earlier: float | None) -> bool:
    """Whether a window's last grid has `accepted` residuals, and the grid before differs by little.

    The difference adds up over windows; `earlier` is that of the window before, which may grow by a factor.
    """
    last = stages[-1]
    small = max(last.equation.rms, last.conditions.rms) <= accepted
    most = max(policy.accepted_change, policy.grown * (earlier or 0.0))
    return small and (last.change is None or last.change <= most)


def _in_vain(tries: list[tuple[float, BoxSolver, list[EquationStage]]], policy: EquationPolicy) -> bool:
    """Whether shorter windows of one form do not help, in several variables: as where conditions jump."""
    if len(tries) < policy.vain_tries or len(tries[0][2][0].solution.box) == 1:
        return False
    first, last = (stages[-1].equation.rms for _, _, stages in (tries[0], tries[-1]))
    return not last <= policy.vain * first


def _hopeless(stages: list[EquationStage], policy: EquationPolicy) -> bool:
    """Whether residuals are large and neither grids nor terms help, or finer grids still change the solution much."""
    if len(stages) >= policy.settling and (stages[-1].change or 0.0) > policy.lost:
        return True
    residual = stages[-1].equation.rms
    return len(stages) > 2 and not residual <= max(policy.hopeless, policy.helpful * stages[-3].equation.rms)
