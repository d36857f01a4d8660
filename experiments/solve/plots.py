"""Figures of `kanrun solve`: convergence, windows of time, and solutions with their residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.panels import (
    finish,
    grid_of_panels,
    log_log,
    map_with_bar,
    series,
    value_limits,
)
from kanrun.figures.style import BLACK, CYCLE, GREY, styled
from kanrun.study import Tables

STYLES = ("--", ":", "-.")
#: Published relative L2 errors with their sources, by the name of the equation. The KAN paper
#: reports the mean squared error instead; the relative error is the root of this error divided by
#: the mean square of the solution (0.25).
PUBLISHED: dict[str, tuple[tuple[float, str], ...]] = {
    "poisson": ((5.7e-4, "KAN [2,10,1], arXiv 2404.19756"), (4.7e-3, "MLP, arXiv 2404.19756")),
    "poisson_product": (
        (2.6e-2, "KAN, pykan's example"),
        (1e-6, "MLP, natural gradient, arXiv 2302.13163: 1e-6 to 1e-8"),
    ),
    "helmholtz": (
        (1.0e-3, "KAN, arXiv 2407.17611"),
        (1.3e-2, "KAN, arXiv 2509.03417"),
        (3.5e-3, "MLP"),
    ),
    "allen_cahn": ((1.4e-2, "KAN"), (1.9e-6, "MLP on a GPU")),
    "burgers": ((2.4e-2, "KAN"), (8.3e-9, "MLP on a GPU")),
    "kdv_cosine": ((2.2e-6, "MLP on a GPU"),),
    "kuramoto_sivashinsky": ((0.957, "MLP, PINNacle, arXiv 2306.08827"), (1.4e-4, "MLP on a GPU")),
    "schroedinger": ((1e-4, "MLP on a GPU"),),
    "heat_multiscale": ((6.2e-2, "MLP, PINNacle, arXiv 2306.08827"),),
    "cavity": ((3.6e-2, "MLP (velocity), PINNacle, arXiv 2306.08827"),),
}


@dataclass(frozen=True)
class SolutionTables:
    """Tables of one solution, and the names of their columns.

    Attributes:
        label: Name of the network.
        solution: Unknowns, their true values (if known) and residuals, on a regular grid of points.
        variables: Names of the columns of the variables that change in the grid, one or two.
        unknowns: Names of the columns of the unknowns.
        residuals: Names of the columns of the residuals, one per equation.
        points: Collocation points (or breakpoints), one row per point; None if there is no table.
        knots: Breakpoints, with the columns `window`, `variable` and `at`; None for networks
            without grids.
    """

    label: str
    solution: DataFrame
    variables: list[str]
    unknowns: list[str]
    residuals: list[str]
    points: DataFrame | None
    knots: DataFrame | None

    def error(self, unknown: str) -> Any:
        """Return the error of an unknown, shape (rows,), or None if no solution is known."""
        true = f"{unknown}_true"
        return self.solution[unknown] - self.solution[true] if true in self.solution else None


@styled
def convergence(rows: DataFrame) -> Figure:
    """Draw the error and the residual against the number of unknowns, with published errors.

    If no solution is known, draw the change from grid to grid instead of the error.
    """
    error = "l2" if "l2" in rows and rows["l2"].notna().any() else "grid_change"
    figure, ((left, right),) = grid_of_panels(1, 2, 3.0)
    grids = rows[rows["window"] == rows.groupby("network")["window"].transform("max")]
    for axes, column in ((left, error), (right, "residual_rms")):
        series(axes, grids[grids[column] > 0], ("unknowns", column), "network")
    if error == "l2":
        published = PUBLISHED.get(str(rows["equation"].iloc[0]), ())
        for (value, source), style in zip(published, STYLES, strict=False):
            left.axhline(value, color=GREY, ls=style, lw=1, label=source)
    left.set_ylabel("relative L2 error" if error == "l2" else "change from grid to grid")
    right.set_ylabel("relative residual")
    for axes in (left, right):
        log_log(axes, rows["unknowns"], xlabel="unknowns")
    return finish(figure, [left])


@styled
def windows_figure(rows: DataFrame) -> Figure:
    """Draw the estimated error, number of intervals and length of windows against time."""
    figure, (panels,) = grid_of_panels(1, 3, 2.6)
    last = rows.groupby(["network", "window"], sort=False).last().reset_index()
    last["length"] = last.groupby("network")["until"].diff()
    titles = {"grid_change": "estimated error", "intervals": "intervals", "length": "length"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        series(axes, last, ("until", column), "network")
        axes.set(title=title, xlabel="time", yscale="log")
    return finish(figure, panels[:1])


@styled
def curves_figure(tables: SolutionTables) -> Figure:
    """Draw solutions of one variable with knots, and their errors (if known) and residuals."""
    (at,), table = tables.variables, tables.solution
    figure, ((left, middle, right),) = grid_of_panels(1, 3)
    title = "no solution is known"
    for index, unknown in enumerate(tables.unknowns):
        look: Any = {"color": CYCLE[index % len(CYCLE)], "label": unknown}
        left.plot(table[at], table[unknown], **look)
        if (error := tables.error(unknown)) is not None:
            left.plot(table[at], table[f"{unknown}_true"], ":", color=BLACK)
            middle.plot(table[at], error.abs(), **look)
            title = "error"
        right.plot(table[at], table[tables.residuals[index]].abs(), **look)
    if tables.knots is not None:
        zeros = np.zeros(len(tables.knots))
        bottom = left.get_xaxis_transform()
        left.plot(tables.knots["at"], zeros, "|", color=GREY, transform=bottom)
    left.legend()
    for axes, text in ((left, tables.label), (middle, title), (right, "residual")):
        axes.set(title=text, xlabel=at)
    for axes in (middle, right):
        if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
            axes.set_yscale("log")
    return figure


@styled
def maps_figure(tables: SolutionTables) -> Figure:
    """Draw solutions of two variables, their errors (if known), residuals, points and knots."""
    (across, up), table = tables.variables, tables.solution
    rows: list[Any] = []
    for unknown, residual in zip(tables.unknowns, tables.residuals, strict=True):
        title = residual if len(tables.unknowns) > 1 else "residual"
        shown: list[Any] = [(unknown, table[unknown], value_limits(table[unknown]))]
        if (error := tables.error(unknown)) is not None:
            shown.append(("error", error, None))
        rows.append([*shown, (title, table[residual], None)])
    figure, grid = grid_of_panels(len(rows), len(rows[0]) + 1, 2.3, sharey=True)
    x, y = (table[name].to_numpy(dtype=float) for name in (across, up))
    for line, shown in zip(grid, rows, strict=True):
        for axes, (title, values, limits) in zip(line, shown, strict=False):
            map_with_bar(axes, x, y, values.to_numpy(dtype=float), limits)
            axes.set(title=title, xlabel=across)
        line[0].set_ylabel(up)
        line[-1].set(title="points and knots", xlabel=across)
        line[-1].grid(visible=False)
        if tables.points is not None:
            line[-1].plot(tables.points[across], tables.points[up], ".", ms=1, color=GREY)
        if (knots := tables.knots) is not None:  # Knots are drawn along the axes.
            below, beside = (knots.loc[knots["variable"] == name, "at"] for name in (across, up))
            look: Any = {"color": BLACK, "ms": 6}
            line[-1].plot(below, 0 * below, "|", transform=line[-1].get_xaxis_transform(), **look)
            line[-1].plot(0 * beside, beside, "_", transform=line[-1].get_yaxis_transform(), **look)
    return figure


def solution_tables(tables: Tables) -> SolutionTables:
    """Return the tables of the solution, with the names of their columns."""
    solution = tables["solution"].drop(columns=["cell", "seed"], errors="ignore")
    names = [each for each in map(str, solution) if not each.endswith("_true")]
    residuals = [each for each in names if each.startswith("residual_")]
    names = [each for each in names if each not in residuals]
    variables = names[: -len(residuals)]
    return SolutionTables(
        str(tables["summary"]["network"].iloc[0]),
        solution,
        [each for each in variables if solution[each].nunique() > 1],
        names[-len(residuals) :],
        residuals,
        tables.get("points"),
        tables.get("knots"),
    )
