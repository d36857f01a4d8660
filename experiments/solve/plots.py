"""Figures of `kanrun solve`: solutions, errors and residuals, points and knots, sections, and errors by unknowns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.maps import draw_map
from kanrun.figures.panels import legend_of_all
from kanrun.figures.style import (
    BLACK,
    DIVERGING,
    GREY,
    SEQUENTIAL,
    WIDTH,
    grid_of_axes,
    new_figure,
    styled,
)

#: Values of the second variable at which sections are drawn.
SECTIONS = 5

#: Relative L2 errors that others published, by the name of the equation, and where they stand. The KAN paper's is the
#: root of its mean squared error over that of the solution (0.25).
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
    "allen_cahn": ((1.4e-2, "KAN"), (5.4e-5, "MLP on a GPU")),
    "burgers": ((2.4e-2, "KAN"), (8e-9, "MLP on a GPU")),
}


@dataclass(frozen=True)
class SolutionTables:
    """What a figure of one solution is drawn from; `variables` come first in `solution`."""

    label: str
    solution: DataFrame
    points: DataFrame | None
    knots: DataFrame | None

    @property
    def residuals(self) -> list[str]:
        """The columns of the residuals, as many as there are unknowns."""
        return [name for name in map(str, self.solution) if name.startswith("residual_")]

    @property
    def _plain(self) -> list[str]:
        names = map(str, self.solution)
        return [
            name
            for name in names
            if not name.startswith("residual_") and not name.endswith("_true")
        ]

    @property
    def variables(self) -> list[str]:
        """The variables that change, one or two."""
        return [
            name
            for name in self._plain[: -len(self.residuals)]
            if self.solution[name].nunique() > 1
        ]

    @property
    def unknowns(self) -> list[str]:
        return self._plain[-len(self.residuals) :]


@styled
def convergence(metrics: DataFrame) -> Figure:
    """The error (where nothing is known: the change from grid to grid) and the residual against the unknowns.

    Dashed lines are published errors of the same problem.
    """
    rows = metrics[metrics["seed"] == metrics["seed"].min()] if "seed" in metrics else metrics
    error = "l2" if "l2" in rows and rows["l2"].notna().any() else "grid_change"
    figure = new_figure(3.4)
    left, right = grid_of_axes(figure, 1, 2)[0]
    for label, each in rows.groupby("network", sort=False):
        grids = each[each["window"] == each["window"].max()]
        for axes, column in ((left, error), (right, "residual_rms")):
            kept = grids[grids[column].notna() & (grids[column] > 0)]
            axes.plot(kept["unknowns"], kept[column], marker="o", label=str(label))
    if error == "l2":
        for number, (value, source) in enumerate(PUBLISHED.get(str(rows["equation"].iloc[0]), ())):
            left.axhline(
                value,
                color=GREY,
                linestyle=("--", ":", "-.")[number % 3],
                linewidth=1,
                label=source,
            )
    left.set_ylabel("relative L2 error" if error == "l2" else "change from grid to grid")
    right.set_ylabel("relative residual")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="unknowns")
    legend_of_all(figure, [left])
    return figure


@styled
def solution_figure(tables: SolutionTables) -> Figure:
    """The solution, its error where the truth is known, the residual, and where points and knots lie."""
    return _curves(tables) if len(tables.variables) == 1 else _maps(tables)


@styled
def sections_figure(tables: SolutionTables) -> Figure:
    """The solution along the first variable at several values of the second, the truth dotted; one panel an unknown."""
    across, up = tables.variables
    figure = new_figure(3.0, WIDTH)
    values = np.unique(tables.solution[up])
    chosen = values[np.linspace(0, len(values) - 1, SECTIONS).round().astype(int)]
    for axes, unknown in zip(
        grid_of_axes(figure, 1, len(tables.unknowns))[0], tables.unknowns, strict=True
    ):
        for value in chosen:
            rows = tables.solution[tables.solution[up] == value]
            axes.plot(rows[across], rows[unknown], label=f"{up} = {value:.3g}")
            if f"{unknown}_true" in rows:
                axes.plot(
                    rows[across], rows[f"{unknown}_true"], linestyle=":", color=BLACK, linewidth=1
                )
        axes.set(title=f"{unknown}, {tables.label}", xlabel=across, ylabel=unknown)
    legend_of_all(figure, [axes], ncols=SECTIONS)
    return figure


def _curves(tables: SolutionTables) -> Figure:
    figure, (at,), table = new_figure(3.0), tables.variables, tables.solution
    left, middle, right = grid_of_axes(figure, 1, 3)[0]
    for name, residual in zip(tables.unknowns, tables.residuals, strict=True):
        (line,) = left.plot(table[at], table[name], label=name)
        if f"{name}_true" in table:
            left.plot(table[at], table[f"{name}_true"], linestyle=":", color=BLACK)
            middle.plot(
                table[at],
                (table[name] - table[f"{name}_true"]).abs(),
                color=line.get_color(),
                label=name,
            )
        right.plot(table[at], table[residual].abs(), label=residual)
    if tables.knots is not None:
        zeros, across = np.zeros(len(tables.knots)), left.get_xaxis_transform()
        left.plot(tables.knots["at"], zeros, "|", color=GREY, transform=across)
    left.legend()
    titles = (tables.label, "error" if middle.lines else "no solution is known", "residual")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set(title=title, xlabel=at)
        if axes is not left and any(
            np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines
        ):
            axes.set_yscale("log")
    return figure


def _maps(tables: SolutionTables) -> Figure:
    (across, up), table = tables.variables, tables.solution
    known = f"{tables.unknowns[0]}_true" in table
    figure = new_figure(2.3 * len(tables.unknowns) + 0.3, WIDTH)
    lines = grid_of_axes(figure, len(tables.unknowns), 4 if known else 3)
    for line, unknown, residual in zip(lines, tables.unknowns, tables.residuals, strict=True):
        panels = [(unknown, table[unknown], SEQUENTIAL)]
        if known:
            panels.append(("error", table[unknown] - table[f"{unknown}_true"], DIVERGING))
        panels.append((residual if len(lines) > 1 else "residual", table[residual], DIVERGING))
        for axes, (title, shown, colours) in zip(line, panels, strict=False):
            reach = float(shown.abs().max()) or 1.0
            limits = (
                (float(shown.min()), float(shown.max()))
                if colours == SEQUENTIAL
                else (-reach, reach)
            )
            limits = limits if limits[0] < limits[1] else (limits[0] - 0.5, limits[0] + 0.5)
            x, y, values = (
                each.to_numpy(dtype=float) for each in (table[across], table[up], shown)
            )
            image = draw_map(axes, x, y, values, limits, colours)
            figure.colorbar(image, ax=axes, pad=0.03, aspect=20, location="bottom")
            axes.set(title=title, xlabel=across)
        line[0].set_ylabel(up)
        _draw_points(line[-1], tables, across, up)
    return figure


def _draw_points(axes: Axes, tables: SolutionTables, across: str, up: str) -> None:
    """Collocation points, and the knots of both variables at the borders."""
    axes.set(title="points and knots", xlabel=across)
    axes.grid(visible=False)
    if tables.points is not None:
        axes.plot(tables.points[across], tables.points[up], ".", markersize=1, color=GREY)
    if tables.knots is not None:
        below, beside = (
            tables.knots.loc[tables.knots["variable"] == name, "at"].to_numpy(dtype=float)
            for name in (across, up)
        )
        look: dict[str, Any] = {"color": BLACK, "markersize": 6}
        axes.plot(below, np.zeros(len(below)), "|", transform=axes.get_xaxis_transform(), **look)
        axes.plot(np.zeros(len(beside)), beside, "_", transform=axes.get_yaxis_transform(), **look)


def solution_tables(tables: Mapping[str, DataFrame]) -> dict[str, SolutionTables]:
    """The recorded tables of each solution, by their common ending: the network's number, after a suite's name."""
    found, summary = {}, tables["summary"]
    labels = summary["network"].unique().tolist() if summary["equation"].nunique() == 1 else []
    for name in (name.removeprefix("solution_") for name in tables if name.startswith("solution_")):
        at = int(name.rpartition("_")[2])
        solution = tables[f"solution_{name}"].drop(columns=["cell", "seed"], errors="ignore")
        label = str(labels[at]) if at < len(labels) else name
        found[name] = SolutionTables(
            label, solution, tables.get(f"points_{name}"), tables.get(f"knots_{name}")
        )
    return found
