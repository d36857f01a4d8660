"""Figures of an interpretation: its stages side by side, which candidate fits which edge, a suite's score card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.network import draw_network, lay_out, strongest_of_all
from kanrun.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    WIDTH,
    first_seed,
    letters,
    number,
    say_above,
    styled,
)

if TYPE_CHECKING:
    import pandas

_GAP, _HEADING = 0.3, 0.62  # inches between two stages, and above them
_LEAST_WIDTH, _WIDEST = 1.9, 11.0
_OUTCOMES = {
    "exact": GREEN,
    "formula": BLUE,
    "partly numeric": ORANGE,
    "failed": VERMILLION,
    "wrong": BLACK,
}
_MOST_CANDIDATES = 30


def captions(stages: pandas.DataFrame, summary: pandas.DataFrame) -> list[str]:
    """Return what stands below each stage's name: active edges, parameters and test RMSE of the first seed's choice."""
    stages, chosen = first_seed(stages), first_seed(summary)["structure"].iloc[0]
    rows = stages[stages["structure"] == chosen].drop_duplicates("stage", keep="last")
    return [
        f"{row.active_edges} edges, {row.parameters} parameters\n"
        + (
            f"test RMSE {number(row.test_rmse)}"
            if np.isfinite(row.test_rmse)
            else "undefined on some points"
        )
        for row in rows.itertuples()
    ]


@styled
def stages_side_by_side(table: pandas.DataFrame, under: Sequence[str] = ()) -> Figure:
    """Return the diagrams of the first seed's network at every `stage` of the table, in the order of their names.

    Columns are those of `network_diagram` and `stage`; `under` are captions, one a stage. Diagrams that do not fit
    beside one another go on in a further row.
    """
    table = first_seed(table)
    stages = sorted(table["stage"].unique())
    every = [table[table["stage"] == stage] for stage in stages]
    parts = [strongest_of_all(part) for part in every]
    titles = [
        letters(str(stage), 40) + ", the strongest edges" * (len(part) < len(whole))
        for stage, part, whole in zip(stages, parts, every, strict=True)
    ]
    layouts = [lay_out(part) for part in parts]
    rooms = [max(layout.width, _LEAST_WIDTH) + _GAP for layout in layouts]
    high, places = max(layout.height for layout in layouts) + _HEADING, list[tuple[float, int]]()
    left, row = 0.0, 0
    for room in rooms:
        if left and left + room > _WIDEST:
            left, row = 0.0, row + 1
        places.append((left, row))
        left += room
    width = max(left + room for (left, _), room in zip(places, rooms, strict=True))
    height = high * (row + 1)
    figure = Figure(figsize=(width, height))
    for i, ((left, row), room, layout) in enumerate(zip(places, rooms, layouts, strict=True)):
        start, bottom, top = (
            left + (room - layout.width) / 2,
            height - high * (row + 1),
            height - high * row,
        )
        box = start / width, bottom / height, layout.width / width, layout.height / height
        draw_network(figure.add_axes(box), parts[i], layout)
        place: Any = {"ha": "center", "va": "top"}
        middle = (left + room / 2) / width
        figure.text(middle, (top - 0.05) / height, titles[i], fontsize=9, **place)
        if i < len(under):
            figure.text(middle, (top - 0.24) / height, under[i], fontsize=7, color=GREY, **place)
    return figure


@styled
def candidate_map(table: pandas.DataFrame) -> Figure:
    """Return a map of the first seed's edges by candidates: digits of R^2, -log10(1 - R^2).

    `table` has the columns edge, index, candidate, one_minus_r2, rank. The edge's best by rank has a dot.
    """
    table = first_seed(table).drop_duplicates(["index", "candidate"])
    best = table.groupby("candidate")["one_minus_r2"].min().sort_values()
    candidates = list(best.index[:_MOST_CANDIDATES])
    edges = table.drop_duplicates("index").set_index("index")["edge"]
    losses = table.pivot(index="index", columns="candidate", values="one_minus_r2").loc[
        edges.index, candidates
    ]
    digits = -np.log10(losses.clip(lower=1e-16).to_numpy(dtype=float))
    figure = Figure(
        figsize=(1.8 + 0.3 * len(candidates), 1.4 + 0.25 * len(edges)), layout="constrained"
    )
    axes = figure.add_subplot()
    for _, match in table[(table["rank"] == 0) & table["candidate"].isin(candidates)].iterrows():
        row = list(edges.index).index(match["index"])
        axes.plot(candidates.index(match["candidate"]), row, "o", color="white", ms=4, mec="black")
    image = axes.imshow(digits, cmap="viridis", vmin=0, aspect="auto")
    figure.colorbar(image, ax=axes, label="digits of R²: −log₁₀(1 − R²)")
    axes.set_xticks(
        range(len(candidates)), [letters(str(name), 18) for name in candidates], rotation=90
    )
    axes.set_yticks(range(len(edges)), [letters(str(edge), 24) for edge in edges])
    axes.grid(visible=False)
    say_above(figure, "dot: the best by error and complexity; white: not fitted")
    return figure


@styled
def score_card(table: pandas.DataFrame) -> Figure:
    """Return a bar a target: the median seconds over the seeds, coloured by what became of most of them.

    `table` is a suite's summary with the columns target, outcome, seconds.
    """
    names = list(dict.fromkeys(table["target"]))
    figure = Figure(figsize=(WIDTH, 1.0 + 0.2 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    longest = float(table["seconds"].max())
    for place, name in enumerate(names):
        rows = table[table["target"] == name]
        counts = rows["outcome"].value_counts()
        most = max(_OUTCOMES, key=lambda outcome: int(counts.get(outcome, 0)))
        seconds = float(rows["seconds"].median())
        axes.barh(place, seconds, color=_OUTCOMES[most], height=0.7)
        text = ", ".join(
            f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if outcome in counts
        )
        axes.text(seconds + 0.01 * longest, place, text, va="center", fontsize=6)
    axes.set_yticks(range(len(names)), [letters(str(name), 42) for name in names], fontsize=6)
    axes.set(
        ylim=(len(names) - 0.4, -0.6),
        xlim=(0, 1.35 * longest),
        xlabel="seconds (median over seeds)",
    )
    axes.grid(visible=False, axis="y")
    return figure
