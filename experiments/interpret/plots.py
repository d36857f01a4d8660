"""Figures of an interpretation: its stages, and the candidates of each edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.network import draw_network, lay_out
from kanrun.figures.panels import heat_map, one_panel, small_multiples
from kanrun.figures.style import first_seed, number, set_remark, shorten, styled

if TYPE_CHECKING:
    import pandas


def captions(stages: pandas.DataFrame, summary: pandas.DataFrame) -> list[str]:
    """Return captions of the first seed's stages: numbers of edges and parameters, test RMSE."""
    stages = first_seed(stages)
    chosen = first_seed(summary)["structure"].iloc[0]
    rows = stages[stages["structure"] == chosen].drop_duplicates("stage", keep="last")
    return [
        f"{edges} edge{'s' * (edges != 1)}, {parameters} parameter{'s' * (parameters != 1)}\n"
        + (f"test RMSE {number(error)}" if np.isfinite(error) else "undefined on some points")
        for edges, parameters, error in zip(
            rows["active_edges"], rows["parameters"], rows["test_rmse"], strict=True
        )
    ]


@styled
def stages_side_by_side(table: pandas.DataFrame, under: Sequence[str] = ()) -> Figure:
    """Draw the first seed's network at every stage, in rows of panels sorted by stage.

    Args:
        table: Edges, with the columns of `network_diagram` and the column `stage`.
        under: Caption of each stage.
    """
    # In inches: the height of the title of a stage, and the smallest and largest width.
    heading = 0.62
    narrowest, widest = 1.9, 11.0
    stages: Any = first_seed(table).groupby("stage")
    diagrams = {str(stage): lay_out(rows) for stage, rows in stages}
    height = max(diagram.height for diagram in diagrams.values()) + heading
    width = max(narrowest, *(diagram.width for diagram in diagrams.values())) + 0.3
    figure, panels = small_multiples(len(diagrams), max(1, int(widest / width)), height, width)
    figure.set_layout_engine("constrained", h_pad=0.15)
    captions = [*under, *[""] * (len(diagrams) - len(under))]
    for panel, (stage, diagram), caption in zip(panels, diagrams.items(), captions, strict=True):
        draw_network(panel, diagram)
        strongest = ", the strongest edges" * bool(diagram.remark)
        panel.set_title(f"{shorten(stage, 40)}{strongest}\n{caption}", size="medium", pad=20)
    return figure


@styled
def candidate_map(table: pandas.DataFrame) -> Figure:
    """Draw how well each candidate fits each edge of the first seed, as -log10(1 - R^2).

    Rows are edges and columns are candidates. `table` has the columns edge, index, candidate,
    one_minus_r2 and rank.
    """
    table = first_seed(table).drop_duplicates(["index", "candidate"])
    best = table.groupby("candidate")["one_minus_r2"].min().sort_values()
    candidates = list(best.index[:30])
    edges = table.drop_duplicates("index").set_index("index")["edge"]
    # Smallest value of 1 - R^2 in the map; smaller ones are rounding.
    rounding = 1e-16
    losses = table.pivot(index="index", columns="candidate", values="one_minus_r2")
    losses = losses.loc[edges.index, candidates].clip(lower=rounding)
    size: Any = {"height": 0.25 * len(edges) + 1, "width": 0.3 * len(candidates) + 1.8}
    figure, axes = one_panel(**size)
    image = heat_map(axes, -np.log10(losses.to_numpy(dtype=float)), list(edges), candidates, vmin=0)
    chosen = table[(table["rank"] == 0) & table["candidate"].isin(candidates)]
    columns = chosen["candidate"].map(candidates.index)
    rows = chosen["index"].map(list(edges.index).index)
    axes.plot(columns, rows, "o", color="white", ms=4, mec="black")
    figure.colorbar(image, ax=axes, label="digits of R²: −log₁₀(1 − R²)")
    set_remark(figure, "dot: the best by error and complexity; white: not fitted")
    return figure
