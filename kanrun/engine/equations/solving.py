"""Solving a differential equation with networks, on the whole box at once or in windows of the last variable."""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from dataclasses import replace
from math import inf, isfinite

from torch import Generator

from kanrun.engine.equations.boundary_interpolation import hard_conditions
from kanrun.engine.equations.box_solver import BoxSolver
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage, Solution
from kanrun.engine.equations.field import Field, Windows
from kanrun.engine.equations.system import System
from kanrun.watch import time_is_up


def solve(
    system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator, windows: int | str | None = None,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:  # fmt: skip
    """Solve the system; yields every grid, returns the solution. It begins with the field `first` where one is given.

    `windows` cuts the last variable into so many parts of one length; with `auto` a part that does not hold (see
    `EquationPolicy.accepted`) is halved and tried again; where the shortest one does not hold either, or the error has
    grown to `EquationPolicy.lost`, the solution ends there, or is that of the whole range where conditions contradict
    each other at its beginning. Without, the whole box is solved at once.
    """
    low, high = map(float, system.box[-1])
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.most_windows if windows == "auto" else length
    hard = hard_conditions(system, last=windows is None) if ansatz.hard else None
    cut = _of_windows(ansatz, policy, len(system.box))
    start, last, began = low, list[EquationStage](), time.process_time()
    before: tuple[EquationStage, ...] = ()
    tries: list[tuple[float, BoxSolver, list[EquationStage], float]] = []  # of the present window: its end, what came
    while not last or start < high - 1e-9 * (high - low):
        end = high if start + 1.1 * length >= high else start + length
        part = system if (start, end) == (low, high) else system.until(start, end)
        shorter = windows == "auto" and end - start > 1.01 * shortest
        chosen = ansatz if part is system else cut
        solver = BoxSolver(part, chosen, policy, generator, before=before, whole=not shorter, hard=hard)
        solver.first = first
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, window=len(last), total_seconds=time.process_time() - began)
            if shorter and _hopeless(stages, policy):
                break
        accepted = policy.accepted_of_polynomials if cut.form.fixed_last else policy.accepted
        if start == low and system.corners:
            share = max(each.share for each in system.corners) if part is system else 1.0
            accepted = max(accepted, share * policy.accepted_with_corners)
        excess = _excess(stages, policy, accepted, before[-1].change if before else None)
        tries.append((end, solver, stages, excess))
        alike, holds = [each for each in tries if each[1].ansatz is solver.ansatz], excess <= 1
        in_vain = not holds and _in_vain([each[3] for each in alike], policy, len(system.box))
        if shorter and not holds and not time_is_up() and not in_vain:
            length = max((end - start) / 2, shortest)
            continue
        if in_vain:
            end, solver, stages, _ = min(tries[0], alike[0], key=lambda each: each[2][-1].equation.rms)
        tries = []
        last.append(replace(stages[-1], sensitivity=solver.sensitivity(stages[-1])))
        before = tuple(stages[-2:]) if solver.coarse is None else (solver.coarse, stages[-1])
        if time_is_up():
            break
        if windows == "auto" and len(last) > 1 and not (holds and (last[-1].change or 0.0) <= policy.lost):
            break
        start, length = end, length * (policy.longer if windows == "auto" else 1.0)
    if end < high and any(each.face[-1] == (len(system.box) - 1, low) for each in system.corners):
        return (yield from solve(system, ansatz, policy, generator, None, first))
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, last[-1].constants, last[-1].standard_errors, tuple(last), reached=end)


def _of_windows(ansatz: Ansatz, policy: EquationPolicy, variables: int) -> Ansatz:
    """What the solution in a window is sought as: beside one other variable, with polynomials of time."""
    if variables != 2 or not ansatz.form.separated:
        return ansatz
    return replace(ansatz, form=replace(ansatz.form, terms=policy.terms_in_time, fixed_last=True), widens=True)


def _excess(stages: list[EquationStage], policy: EquationPolicy, accepted: float, earlier: float | None) -> float:
    """How many times too large the residuals of a window's last grid are, or its change; at most 1 where it holds.

    The change adds up over windows; `earlier` is that of the window before, which may grow by a factor.
    """
    last = stages[-1]
    most = max(policy.accepted_change, policy.grown * (earlier or 0.0))
    found = max(max(last.equation.rms, last.conditions.rms) / accepted, (last.change or 0.0) / most)
    return found if isfinite(found) else inf


def _in_vain(excesses: list[float], policy: EquationPolicy, variables: int) -> bool:
    """Whether shorter windows of one form do not help, in several variables: as where conditions jump."""
    return variables > 1 and len(excesses) >= policy.vain_tries and excesses[-1] > policy.vain * excesses[0]


def _hopeless(stages: list[EquationStage], policy: EquationPolicy) -> bool:
    """Whether residuals are large and neither grids nor terms help, or finer grids still change the solution much."""
    if len(stages) >= policy.settling and (stages[-1].change or 0.0) > policy.lost:
        return True
    residual = stages[-1].equation.rms
    return len(stages) > 2 and not residual <= max(policy.hopeless, policy.helpful * stages[-3].equation.rms)
