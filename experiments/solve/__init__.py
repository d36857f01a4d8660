"""Solve a differential equation with KANs, and report how reliable each solution is.

The default is the Poisson problem of the KAN paper (arXiv 2404.19756, section 3.4, Figure 3.3). The
solver and the network differ from those in the paper: the solution is fitted by tensor products of
splines and converted to a sum of products of one-layer KANs. Other KANs can be trained for
comparison. If a solution is known, errors are measured at points not used for fitting. The verdict
is based on residuals, on the change from grid to grid and on estimated errors; a small error
against the known solution never improves the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Tables

from .config import SolveConfig

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.runs import Claim


def cells(cfg: SolveConfig) -> list[Cell]:
    """Return one cell (part of the study) per equation and network.

    A cell is a dictionary: the entry of the setting `suite` (empty for a single equation), with the
    additional key `network`, the index of the network in the setting `networks`.
    """
    return [
        {**entry, "network": number}
        for entry in map(dict, _entries(cfg))
        for number in range(len(entry.get("networks", cfg.networks)))
    ]


def _entries(cfg: SolveConfig) -> Sequence[Cell]:
    from kanrun.experiments.solve.needles import needle_cells

    return cfg.suite or [{}] if cfg.needles is None else needle_cells(cfg.needles)


def check(cfg: SolveConfig) -> None:
    """Check the equations, their conditions and the networks, without solving."""
    from kanrun.experiments.solve.problem import make_solve_problem, settings_of
    from kanrun.experiments.solve.settings import network_choices

    for entry in _entries(cfg):
        chosen = settings_of(cfg, entry)
        network_choices(chosen, make_solve_problem(chosen, cfg.seed).system)


def run(cfg: SolveConfig, cell: Cell, seed: int) -> Records:
    """Solve one equation with one network.

    Yield warnings about the conditions, a row of the table `metrics` per grid, the verdict, a row
    of the table `summary`, tables of the solution (for the first seed only), and a checkpoint.
    """
    from kanrun.experiments.solve.checks import condition_warnings
    from kanrun.experiments.solve.problem import make_solve_problem, settings_of
    from kanrun.experiments.solve.settings import network_choices
    from kanrun.experiments.solve.solution_report import SolvedEquation, solutions, stage_row
    from kanrun.experiments.solve.verdict import error_points

    cfg = settings_of(cfg, cell)
    bounds = {f"{name}_bound": value for name, value in cell.get("bounds", {}).items()}
    problem = make_solve_problem(cfg, seed, cell.get("near", ()))
    choice = network_choices(cfg, problem.system)[cell["network"]]
    problem = problem.compared_for(choice.method)
    points = error_points(problem, seed)
    number = str(cell["network"])
    number = f"{cell['name']}_{number}" if "name" in cell else number
    yield from (Note(text, warning=True) for text in condition_warnings(problem.system))
    for each in solutions(cfg, problem, choice, seed):
        if not isinstance(each, SolvedEquation):
            row = stage_row(problem, each, points)
            yield Row("metrics", {"equation": problem.name, "network": choice.label, **row})
            continue
        yield Note(
            f"{choice.label}: {each.verdict}; {each.reason}", warning=each.verdict != "solved"
        )
        yield Row("summary", {**each.summary(), **cell.get("facts", {}), **bounds})
        if seed == cfg.seed:
            yield from each.tables(number)
        yield each.checkpoint(number)


def figures(tables: Tables) -> Figures:
    """Yield the names of the figures, and functions that draw them.

    Each equation has a figure of the convergence or of the windows of time. Each network has a
    figure of its solution with errors and residuals.
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
    alone = metrics["equation"].nunique() == 1
    for name, rows in metrics.groupby("equation", sort=False):
        cut = rows.groupby("network")["window"].transform("max") > 0
        for kind, draw, some in (
            ("convergence", convergence, rows[~cut]),
            ("windows", windows_figure, rows[cut]),
        ):
            if len(some):
                yield kind if alone else f"{kind}_{name!s}", partial(draw, some)
    for number, each in solution_tables(tables).items():
        one = len(each.variables) == 1
        yield f"solution_{number}", partial(curves_figure if one else maps_figure, each)


def claims(tables: Tables) -> list[Claim]:
    """Return the claims about verdicts, errors and estimated parameters.

    There are none for a single solution, because its verdict already says how reliable it is.
    """
    from kanrun.experiments.solve.needles import needle_claims
    from kanrun.experiments.solve.verdict import claims_of

    summary = tables["summary"]
    if len(summary) == 1:
        return []
    return list(needle_claims(summary) if "width" in summary else claims_of(summary))
