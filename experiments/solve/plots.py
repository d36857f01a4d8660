"""Figures of `kanrun solve`: solutions, errors and residuals, and how errors fall with the number of unknowns."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.maps import lattice
from kanrun.figures.style import WIDTH, first_seed, grid_of_axes, new_figure, styled


@styled
def convergence(metrics: DataFrame) -> Figure:
    """The error (where nothing is known: the change from grid to grid) and the residual against the unknowns."""
    rows = first_seed(metrics)
    error = "l2" if "l2" in rows and rows["l2"].notna().any() else "change"
    figure = new_figure(3.2)
    left, right = grid_of_axes(figure, 1, 2)[0]
    for label, each in rows.groupby("network", sort=False):
        grids = each[each["window"] == each["window"].max()]
        for axes, column in ((left, error), (right, "residual_rms")):
            kept = grids[grids[column].notna() & (grids[column] > 0)]
            at = kept["unknowns"].to_numpy() + np.arange(len(kept)) * 0  # an MLP keeps its size from stage to stage
            axes.plot(at, kept[column], marker="o", label=str(label))
    for axes, name in (
        (left, {"l2": "relative L2 error", "change": "change from grid to grid"}[error]),
        (right, "relative residual"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="unknowns", ylabel=name)
    left.legend()
    return figure


@styled
def solution_figure(table: DataFrame, label: str) -> Figure:
    """The solution, its error where the truth is known, and the residual: curves or maps by the number of variables."""
    names = list(table.columns)
    residual_names = [name for name in names if name.startswith("residual ")]
    unknowns = [name for name in names if f"{name} true" in names] or names[len(_varying(table)) : -len(residual_names)]
    if len(_varying(table)) == 1:
        return _curves(table, label, unknowns, residual_names)
    return _maps(table, label, unknowns[0], residual_names[0])


def _varying(table: DataFrame) -> list[str]:
    """The variables that change in the table, which are its first columns."""
    first = [name for name in table.columns if not name.startswith("residual ") and not name.endswith(" true")]
    count = 1 if table[first[0]].is_monotonic_increasing and table[first[0]].is_unique else 2
    return first[:count]


def _curves(table: DataFrame, label: str, unknowns: list[str], residual_names: list[str]) -> Figure:
    figure = new_figure(3.0)
    left, middle, right = grid_of_axes(figure, 1, 3)[0]
    at = table.columns[0]
    for name in unknowns:
        (line,) = left.plot(table[at], table[name], label=name)
        if f"{name} true" in table:
            left.plot(table[at], table[f"{name} true"], linestyle=":", color="black")
            middle.plot(table[at], (table[name] - table[f"{name} true"]).abs(), color=line.get_color(), label=name)
    for name in residual_names:
        right.plot(table[at], table[name].abs(), label=name)
    left.set(title=label, xlabel=at)
    left.legend()
    middle.set(title="error", xlabel=at, yscale="log" if middle.lines else "linear")
    right.set(title="residual", xlabel=at, yscale="log")
    return figure


def _maps(table: DataFrame, label: str, unknown: str, residual: str) -> Figure:
    across, up = _varying(table)
    panels = [(label, table[unknown])]
    if f"{unknown} true" in table:
        panels.append(("error", table[unknown] - table[f"{unknown} true"]))
    panels.append(("residual", table[residual]))
    figure = new_figure(2.8, WIDTH)
    for axes, (title, values) in zip(grid_of_axes(figure, 1, len(panels))[0], panels, strict=True):
        found = lattice(table[across].to_numpy(), table[up].to_numpy(), values.to_numpy())
        if found is None:
            continue
        x, y, z = found
        limit = float(np.abs(z).max()) or 1.0
        mesh = axes.pcolormesh(x, y, z, cmap="RdBu_r", vmin=-limit, vmax=limit, shading="auto", rasterized=True)
        figure.colorbar(mesh, ax=axes)
        axes.set(title=title, xlabel=across, ylabel=up)
    return figure
