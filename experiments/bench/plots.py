"""Figure of `kanrun bench`: the ranks of models of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.panels import WIDTH, name_rows, panels_by
from kanrun.figures.style import BLUE, GREY, styled

if TYPE_CHECKING:
    from pandas import DataFrame

#: Places of the bars that join groups of ranks below the last model.
FIRST_GROUP, NEXT_GROUP = 0.6, 0.35


@styled
def table_ranks(table_ranks: DataFrame) -> Figure:
    """Draw the mean ranks of models, a panel per task, joined by a bar if they do not differ.

    `table_ranks` has the columns task, model, mean_rank, critical_difference and tables. Bars join
    groups of models whose ranks lie within the critical difference.
    """
    figure, panels = panels_by(table_ranks, "task", 1, 2.4, width=WIDTH)
    for axes, task, part in panels:
        rows = part.sort_values("mean_rank")
        ranks = rows["mean_rank"].to_numpy(dtype=float)
        apart, tables = rows[["critical_difference", "tables"]].iloc[0]
        axes.plot(ranks, range(len(ranks)), "o", color=BLUE, ms=4)
        place, last = len(ranks) - 1 + FIRST_GROUP, -1
        for first, rank in enumerate(ranks):
            end = int(np.searchsorted(ranks, rank + apart, side="right")) - 1
            if end > max(first, last):
                axes.plot([rank, ranks[end]], [place, place], color=GREY, lw=2.5)
                place, last = place + NEXT_GROUP, end
        name_rows(axes, [str(name) for name in rows["model"]])
        axes.set_ylim(place, -FIRST_GROUP)
        title = f"{task}, {tables:.0f} tables, critical difference {apart:.2f}"
        axes.set(xlabel="mean rank", title=title)
    return figure


FIGURES = (table_ranks,)
