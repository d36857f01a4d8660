"""Solve a differential equation with KANs and an MLP, and say how far each solution can be trusted.

The default is the Poisson problem of the KAN paper (arXiv 2404.19756, section 3.4, Figure 3.3). It differs from the
paper in the solver, Levenberg-Marquardt on exact Jacobian rows with grids refined exactly, and in the network, a sum of
products of one-layer KANs; the MLP beside it has the same solver, points and weights, so that a run shows what each
adds. Errors are measured at fresh points; the verdict looks at residuals and at the change from grid to grid alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from kanrun.experiments.solve.findings import findings
from kanrun.experiments.solve.plots import convergence, solution_figure
from kanrun.experiments.solve.problem import make_solve_problem, network_choices, policy_of, windows_of
from kanrun.experiments.solve.records import checkpoint, solution_table
from kanrun.experiments.solve.verdict import errors, stage_row, verdict
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.config import SolveConfig
from kanrun.engine.equations import solve
from kanrun.runs import Claim
from kanrun.runs.records import Note, Record, Row
from kanrun.study.resources import generator

#: Points at which errors are measured.
MEASURED = 10_000


def cells(cfg: SolveConfig) -> list[dict[str, Any]]:
    """One cell for each network."""
    return [{"network": number} for number in range(len(cfg.networks))]


def check(cfg: SolveConfig) -> None:
    """Read the equation, its conditions and the networks, without solving."""
    problem = make_solve_problem(cfg, cfg.seed)
    windows_of(cfg, problem.system)
    network_choices(cfg, max(relation.order for relation in problem.system.equations))


def run(cfg: SolveConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Solve with one network: a row for each grid as it ends, then the summary, the solution and its checkpoint."""
    problem = make_solve_problem(cfg, seed)
    system = problem.system
    choice = network_choices(cfg, max(relation.order for relation in system.equations))[cell["network"]]
    box = system.box.numpy()
    drawn = torch.rand(MEASURED, len(box), generator=generator(seed, "measuring"), dtype=torch.float64).numpy()
    points = box[:, 0] + drawn * (box[:, 1] - box[:, 0])
    stages = solve(system, choice.ansatz, policy_of(cfg), generator(seed, "training"), windows_of(cfg, system))
    seconds, known = 0.0, {"equation": problem.name, "network": choice.label}
    while True:
        try:
            stage = next(stages)
        except StopIteration as end:
            solution = end.value
            break
        row = stage_row(problem, stage, points)
        yield Row("metrics", {**known, **row})
        seconds = stage.total_seconds
    outcome, reason = verdict(solution)
    yield Note(f"{choice.label}: {outcome}; {reason}", warning=outcome != "solved")
    last = solution.last[-1]
    found: dict[str, float] = {}
    for name, value, error in zip(
        system.vocabulary.constants, solution.constants, solution.standard_errors, strict=True
    ):
        found |= {name: float(value), f"{name}_error": float(error)}
        found |= {f"{name}_true": problem.truth[name]} if name in problem.truth else {}
    yield Row(
        "summary",
        {
            **known,
            "verdict": outcome,
            "against": problem.comparison.what if problem.comparison else "",
            **errors(problem, solution.network, points),
            "residual_rms": max(each.equation.rms for each in solution.last),
            "conditions_rms": max(each.conditions.rms for each in solution.last),
            "change": max((each.change for each in solution.last if each.change is not None), default=None),
            "unknowns": sum(each.unknowns for each in solution.last),
            "intervals": last.intervals,
            "windows": len(solution.last),
            **found,
            "seconds": seconds,
        },
    )
    if seed == cfg.seed:
        yield solution_table(problem, solution.network, solution.constants, str(cell["network"]))
    yield checkpoint(problem, solution.network, str(cell["network"]), seed)


def figures(tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Error against unknowns for all networks; the solution, its error and residual for each."""
    yield "convergence", convergence(tables["metrics"])
    labels = tables["summary"].drop_duplicates("network")["network"].tolist()
    for number, label in enumerate(labels):
        if (table := tables.get(f"solution_{number}")) is not None:
            yield f"solution_{number}", solution_figure(table, label)


def claims(tables: Mapping[str, DataFrame]) -> list[Claim]:
    """The verdicts, their honesty, and constants that were sought."""
    return findings(tables["summary"])
