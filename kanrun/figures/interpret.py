"""Figures of an interpretation: its stages side by side, and which candidate fits which edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.diagram import draw_network
from kanrun.figures.diagram_layout import lay_out
from kanrun.figures.style import first_seed, letters, styled

if TYPE_CHECKING:
    import pandas

_GAP = 0.3  # inches between two stages
_MOST = 400
_MOST_CANDIDATES = 30


@styled
def stages_side_by_side(table: pandas.DataFrame) -> Figure:
    """Return the diagrams of the first seed's network at every `stage` of the table, in the order of their names.

    Columns are those of `network_diagram` and `stage`; edges that a stage no longer has are ghosts in it as long as the
    shape is the same.
    """
    table = first_seed(table)
    stages = sorted(table["stage"].unique())
    parts = [table[table["stage"] == stage] for stage in stages]
    layouts = [lay_out(part, False, _MOST) for part in parts]
    width = sum(layout.width for layout in layouts) + _GAP * (len(layouts) - 1)
    height = max(layout.height for layout in layouts) + 0.35
    figure = Figure(figsize=(width, height))
    left = 0.0
    for stage, part, layout in zip(stages, parts, layouts, strict=True):
        axes = figure.add_axes((left / width, 0.0, layout.width / width, layout.height / height))
        draw_network(axes, part, layout)
        middle = (left + layout.width / 2) / width
        figure.text(middle, 1 - 0.05 / height, letters(str(stage), 40), ha="center", va="top", fontsize=9)
        left += layout.width + _GAP
    return figure


@styled
def candidate_map(table: pandas.DataFrame) -> Figure:
    """Return a map of the first seed's edges by candidates: digits of R^2, -log10(1 - R^2).

    `table` has the columns edge, index, candidate, one_minus_r2, rank. The edge's best by rank has a dot.
    """
    table = first_seed(table).drop_duplicates(["index", "candidate"])
    best = table.groupby("candidate")["one_minus_r2"].min().sort_values()
    candidates = list(best.index[:_MOST_CANDIDATES])
    edges = list(dict.fromkeys(zip(table["index"], table["edge"], strict=True)))
    digits = np.full((len(edges), len(candidates)), np.nan)
    figure = Figure(figsize=(1.8 + 0.3 * len(candidates), 1.4 + 0.25 * len(edges)), layout="constrained")
    axes = figure.add_subplot()
    for row, (index, _) in enumerate(edges):
        for _, match in table[table["index"] == index].iterrows():
            if match["candidate"] in candidates:
                column = candidates.index(match["candidate"])
                digits[row, column] = -np.log10(max(float(match["one_minus_r2"]), 1e-16))
                if int(match["rank"]) == 0:
                    axes.plot(column, row, "o", color="white", ms=4, mec="black")
    image = axes.imshow(digits, cmap="viridis", vmin=0, aspect="auto")
    figure.colorbar(image, ax=axes, label="-log10(1 - R²)")
    axes.set_xticks(range(len(candidates)), [letters(str(name), 18) for name in candidates], rotation=90)
    axes.set_yticks(range(len(edges)), [letters(str(edge), 24) for _, edge in edges])
    axes.grid(visible=False)
    return figure
