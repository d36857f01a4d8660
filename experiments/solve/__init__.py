"""Solve a differential equation with KANs, and report how reliable each solution is.

The default is the Poisson problem of the KAN paper (arXiv 2404.19756, section 3.4, Figure 3.3). The
solver and the network differ from those in the paper: the solution is fitted by tensor products of
splines and converted to a sum of products of one-layer KANs. Another KAN can be
chosen. If a solution is known, errors are measured at points not used for fitting. The verdict
is based on residuals, on the change from grid to grid and on estimated errors; a small error
against the known solution never improves the verdict.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Tables

from .config import SolveConfig

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.runs import Claim


def cells(_: SolveConfig) -> list[Cell]:
    """Return a single cell: a run solves one equation."""
    return [{}]


def check(cfg: SolveConfig) -> None:
    """Check the equation, its conditions and the network, without solving."""
    from kanrun.experiments.solve.problem import make_solve_problem
    from kanrun.experiments.solve.solution import network_choice

    network_choice(cfg, make_solve_problem(cfg, cfg.seed).system)


def run(cfg: SolveConfig, _: Cell, seed: int) -> Records:
    """Solve the equation.

    Yield warnings about the conditions, a row of the table `metrics` per grid, the verdict, a row
    of the table `summary`, tables of the solution (for the first seed only), and a checkpoint.
    """
    from kanrun.experiments.solve.checks import condition_warnings
    from kanrun.experiments.solve.problem import make_solve_problem
    from kanrun.experiments.solve.solution import (
        SolvedEquation,
        error_points,
        network_choice,
        solutions,
        stage_row,
    )

    problem = make_solve_problem(cfg, seed)
    choice = network_choice(cfg, problem.system)
    problem = problem.compared_for(choice.method)
    points = error_points(problem, seed)
    yield from (Note(text, warning=True) for text in condition_warnings(problem.system))
    for each in solutions(cfg, problem, choice, seed):
        if not isinstance(each, SolvedEquation):
            row = stage_row(problem, each, points)
            yield Row("metrics", {"equation": problem.name, "network": choice.label, **row})
            continue
        yield Note(
            f"{choice.label}: {each.verdict}; {each.reason}", warning=each.verdict != "solved"
        )
        yield Row("summary", each.summary())
        if seed == cfg.seed:
            yield from each.tables()
        yield each.checkpoint()


def figures(tables: Tables) -> Figures:
    """Yield the names of the figures, and functions that draw them.

    The first figure shows the convergence or the windows of time; the second one, the solution with
    its errors and residuals.
    """
    from kanrun.experiments.solve.plots import (
        convergence,
        curves_figure,
        maps_figure,
        solution_tables,
        windows_figure,
    )

    metrics = tables["metrics"]
    metrics = metrics[metrics["seed"] == metrics["seed"].min()] if "seed" in metrics else metrics
    if metrics["window"].max() > 0:
        yield "windows", partial(windows_figure, metrics)
    else:
        yield "convergence", partial(convergence, metrics)
    solution = solution_tables(tables)
    one = len(solution.variables) == 1
    yield "solution", partial(curves_figure if one else maps_figure, solution)


def claims(tables: Tables) -> list[Claim]:
    """Return the claims about verdicts, errors and estimated parameters of several seeds.

    There are none for a single solution, because its verdict already says how reliable it is.
    """
    from kanrun.experiments.solve.solution import claims_of

    summary = tables["summary"]
    return [] if len(summary) == 1 else list(claims_of(summary))
