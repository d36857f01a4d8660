"""The diagram of a KAN: nodes in layers, and on each edge the function that it learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanrun.figures.diagram_layout import Layout, lay_out, text_of
from kanrun.figures.edge_panels import pruned_rows, strongest
from kanrun.figures.style import BLACK, BLUE, GREY, VERMILLION, first_seed, letters, only_some, styled

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST = 1500  # edges of a layer
_MANY = 60  # edges of a layer, from which on only the strong ones stand out
_LINE = "#4D4D4D"
_PLAIN = "="
Group = tuple[tuple[int, int, int], "pandas.DataFrame"]


@styled
def network_diagram(table: pandas.DataFrame) -> Figure:
    """Return the diagram of the first seed's network, inputs below and outputs above.

    `table` is as for `edges`. Width and opacity of an edge grow with its score, relative to the highest of
    its layer. Further columns are optional: `symbolic` (text written at the edge, which is then drawn in another
    colour; `=` is an edge that carries a value on, a line alone), `pruned` (true: the edge is a ghost), and
    `operation` (`product` where the node that the edge leads to multiplies).
    """
    table = first_seed(table)
    counts = table.drop_duplicates(["layer", "out", "in"]).groupby("layer").size()
    remark = only_some(int(counts.clip(upper=_MOST).sum()), int(counts.sum()), "edges, those with the highest scores")
    layout = lay_out(table, bool(remark), _MOST)
    figure = Figure(figsize=(layout.width, layout.height))  # the layout's inches are the figure's
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_network(axes, table, layout)
    if remark:
        axes.text(layout.width / 2, layout.height - 0.1, remark, ha="center", va="top", fontsize=9)
    return figure


def draw_network(axes: Axes, table: pandas.DataFrame, layout: Layout | None = None) -> None:
    """Draw the diagram of a table with one seed into `axes`, whose limits become the layout's size."""
    layout = layout or lay_out(table, False, _MOST)
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    axes.set_axis_off()
    for layer in range(len(layout.bands)):
        _draw_layer(axes, layout, layer, strongest(table[table["layer"] == layer], _MOST))
    places = [layout.node(layer, i) for layer, count in enumerate(layout.nodes) for i in range(count)]
    size = 26 if max(layout.nodes) <= 30 else 8
    axes.scatter([x for x, _ in places], [y for _, y in places], s=size, c=BLACK, lw=0, zorder=5)
    for layer, number in _products(table):
        x, y = layout.node(layer, number)
        axes.plot([x], [y], "o", ms=8, color=BLACK, zorder=5)
        axes.plot([x], [y], "x", ms=4.5, mew=1.2, color="white", zorder=6)
    _write_labels(axes, layout)


def _products(table: pandas.DataFrame) -> list[tuple[int, int]]:
    """Return the nodes that multiply, as (layer of nodes, number)."""
    if "operation" not in table:
        return []
    rows = table[table["operation"] == "product"].drop_duplicates(["layer", "out"])
    return [(int(layer) + 1, int(out)) for layer, out in zip(rows["layer"], rows["out"], strict=True)]


def _draw_layer(axes: Axes, layout: Layout, layer: int, groups: list[Group]) -> None:
    """Draw the edges of one layer: boxes with their functions, each joined to its two nodes."""
    band = layout.bands[layer]
    # Boxes stand in the order of their inputs, so that the lines below them hardly cross.
    groups = sorted(groups, key=lambda group: (group[0][2], group[0][1]))
    boxed = np.array([text_of(rows, "symbolic") != _PLAIN for _, rows in groups], dtype=bool)
    lines: list[Any] = []
    curves: list[Any] = []
    boxes: list[Any] = []
    for number, ((_, out, source), rows) in enumerate(groups):
        x, y = band.centre(number)
        half = band.side / 2
        up, on = band.ways(number) if boxed[number] else ([(x, y)], [(x, y)])
        lines += [[layout.node(layer, source), *up], [*on, layout.node(layer + 1, out)]]
        if boxed[number]:
            boxes.append([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
            curves.append(_curve(rows, (x, y), 0.84 * band.side))
            _write_symbolic(axes, rows, (x, y + half), band.slot)
    ghosts = np.array([_is_pruned(rows) for _, rows in groups], dtype=bool)
    strength = np.where(ghosts, 0.0, _strengths(groups))
    faint = 0.12 if len(groups) <= _MANY else 0.06
    alpha = np.where(ghosts, 0.16, faint + (1 - faint) * strength)
    width = (0.4 + 1.4 * strength) * float(np.clip(2.5 * band.side, 0.4, 1.0))
    colours = [
        GREY if ghost else _colour(rows) for ghost, box, (_, rows) in zip(ghosts, boxed, groups, strict=True) if box
    ]
    twice: dict[str, Any] = {"linewidths": np.repeat(width, 2), "alpha": list(np.repeat(alpha, 2))}
    frame: dict[str, Any] = {
        "edgecolors": _LINE,
        "linewidths": min(0.6, 2 * band.side),
        "alpha": list(np.maximum(alpha[boxed], 0.2)),
    }
    pen = float(np.clip(2.6 * band.side, 0.5, 1.3))
    seen = list(np.maximum(alpha[boxed], 0.25))
    axes.add_collection(LineCollection(lines, colors=_LINE, zorder=1, **twice))
    if not boxes:
        return
    axes.add_collection(PolyCollection(boxes, facecolors="white", edgecolors="none", zorder=2))
    axes.add_collection(PolyCollection(boxes, facecolors="none", zorder=3, **frame))
    axes.add_collection(LineCollection(curves, colors=colours, linewidths=pen, alpha=seen, zorder=4))


def _strengths(groups: list[Group]) -> NDArray[np.float64]:
    """Return score / highest score of the layer in [0, 1], its square root for few edges; ones without scores."""
    scores = np.array([float(rows["score"].iloc[0]) if "score" in rows else 1.0 for _, rows in groups])
    scores = np.nan_to_num(np.abs(scores), posinf=0.0)
    if not scores.size or scores.max() <= 0:
        return np.ones_like(scores)
    shares: NDArray[np.float64] = scores / scores.max()
    return np.sqrt(shares) if len(groups) <= _MANY else shares


def _curve(rows: pandas.DataFrame, centre: tuple[float, float], side: float) -> NDArray[np.float64]:
    """Return the edge function scaled into a square of that side around `centre`, shape (points, 2)."""
    points = rows[["x", "y"]].to_numpy(dtype=float)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.repeat(np.array([centre]), 2, axis=0)
    points = points[np.argsort(points[:, 0], kind="stable")]
    points = points[:: max(1, len(points) // 120)]
    low, high = points.min(axis=0), points.max(axis=0)
    flat = high - low <= 1e-12 * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(np.array(centre) + side * scaled)


def _is_pruned(rows: pandas.DataFrame) -> bool:
    return bool(pruned_rows(rows.iloc[:1]).iloc[0])


def _colour(rows: pandas.DataFrame) -> str:
    return VERMILLION if text_of(rows, "symbolic") else BLUE


def _write_symbolic(axes: Axes, rows: pandas.DataFrame, place: tuple[float, float], slot: float) -> None:
    text = text_of(rows, "symbolic")
    size = min(7.0, 14 * slot)
    if text and size >= 3 and not _is_pruned(rows):
        x, y = place
        short = letters(text, 16)
        written = axes.text(x, y + 0.04, short, ha="center", va="bottom", fontsize=size, color=VERMILLION, zorder=6)
        written.set_bbox({"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6})


def _write_labels(axes: Axes, layout: Layout) -> None:
    ends = ((0, 0, -0.1, "top"), (1, len(layout.nodes) - 1, 0.1, "bottom"))
    for side, layer, shift, align in ends:
        upright = layout.upright[side]
        size = float(np.clip(60 * layout.room(layer), 3, 8)) if upright else 8.0
        for number, text in layout.labels[side].items():
            x, y = layout.node(layer, number)
            rotation = 90 if upright else 0
            axes.text(x, y + shift, text, ha="center", va=align, fontsize=size, rotation=rotation, zorder=6)
