"""The diagram of a KAN: nodes in layers, and on each edge the function that it learned. All lengths are in inches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanrun.figures.edge_panels import KEYS, pruned_rows, strongest, text_of
from kanrun.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    first_seed,
    letters,
    only_some,
    styled,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_SHOWN = 60  # edges of a diagram
_LINE = "#4D4D4D"
_PLAIN = "="
_BOX = 0.5  # side of the largest box of an edge function
_GAP = 0.6  # between a row of nodes and the boxes above or below it
_MARGIN = 0.3
_LETTER = 0.065  # of a label at 8 points
_NARROWEST, _WIDEST = 2.4, 13.0
_LONGEST = 18  # letters of a label
Place = tuple[float, float]
Group = tuple[tuple[int, int, int], "pandas.DataFrame"]


@styled
def network_diagram(table: pandas.DataFrame) -> Figure:
    """Return the diagram of the first seed's network, inputs below and outputs above.

    `table` is as for `edges`; of more than 60 edges the strongest, relative to their layers, are drawn. Width and
    opacity of an edge grow with its score, relative to the highest of its layer. Further columns are optional:
    `symbolic` (text written at the edge, which is then drawn in another colour; `=` is an edge that carries a value on,
    a line alone), `pruned` (true: the edge is a ghost), and `operation` (`product` where the node that the edge leads
    to multiplies).
    """
    table = first_seed(table)
    there = len(table.drop_duplicates(KEYS))
    table = strongest_of_all(table)
    remark = only_some(
        len(table.drop_duplicates(KEYS)), there, "edges, the strongest of their layers"
    )
    layout = lay_out(table, heading=bool(remark))
    figure = Figure(figsize=(layout.width, layout.height))  # the layout's inches are the figure's
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_network(axes, table, layout)
    if remark:
        axes.text(layout.width / 2, layout.height - 0.1, remark, ha="center", va="top", fontsize=9)
    return figure


def strongest_of_all(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of 60 edges, the highest scores relative to their layer's; edges that carry on come first."""
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= _SHOWN or "score" not in table:
        return table
    size = edges["score"].abs().fillna(0.0)
    share = size / size.groupby(edges["layer"]).transform("max").clip(lower=1e-300)
    if "symbolic" in edges:
        share = share.where(edges["symbolic"] != _PLAIN, 2.0)
    kept = edges.loc[share.sort_values(ascending=False, kind="stable").index[:_SHOWN], KEYS]
    return table.merge(kept, on=KEYS)


def draw_network(axes: Axes, table: pandas.DataFrame, layout: Layout) -> None:
    """Draw the diagram of a table with one seed into `axes`, whose limits become the layout's size."""
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    axes.set_axis_off()
    for layer, count in enumerate(layout.counts):
        _draw_layer(axes, layout, layer, strongest(table[table["layer"] == layer], count))
    places = [
        layout.node(layer, i) for layer, count in enumerate(layout.nodes) for i in range(count)
    ]
    x, y = np.transpose(places)
    axes.scatter(x, y, s=26 if max(layout.nodes) <= 30 else 8, c=BLACK, lw=0, zorder=5)
    products = table[table["operation"] == "product"] if "operation" in table else table[:0]
    for layer, out in {*zip(products["layer"], products["out"], strict=True)}:
        x, y = layout.node(int(layer) + 1, int(out))
        axes.plot([x], [y], "o", ms=8, color=BLACK, zorder=5)
        axes.plot([x], [y], "x", ms=4.5, mew=1.2, color="white", zorder=6)
    _write_labels(axes, layout)


def _draw_layer(axes: Axes, layout: Layout, layer: int, groups: list[Group]) -> None:
    """Draw the edges of one layer: boxes with their functions, each joined to its two nodes."""
    # Boxes stand in the order of their inputs, so that the lines below them hardly cross.
    groups = sorted(groups, key=lambda group: (group[0][2], group[0][1]))
    boxed = np.array([text_of(rows, "symbolic") != _PLAIN for _, rows in groups], dtype=bool)
    ghosts = np.array([bool(pruned_rows(rows.iloc[:1]).iloc[0]) for _, rows in groups], dtype=bool)
    side = layout.side(layer)
    corners = side / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    lines: list[Any] = []
    curves, boxes, colours = [], [], []
    for number, ((_, out, source), rows) in enumerate(groups):
        x, y = layout.box(layer, number)
        half = side / 2 if boxed[number] else 0.0
        lines += [
            [layout.node(layer, source), (x, y - half)],
            [(x, y + half), layout.node(layer + 1, out)],
        ]
        if boxed[number]:
            boxes.append(corners + np.array([x, y]))
            curves.append(_curve(rows, (x, y), 0.84 * side))
            colours.append(
                GREY if ghosts[number] else VERMILLION if text_of(rows, "symbolic") else BLUE
            )
            if not ghosts[number]:
                _write_symbolic(axes, text_of(rows, "symbolic"), (x, y + half), layout.slot(layer))
    strength = np.where(ghosts, 0.0, _strengths(groups))
    alpha = np.where(ghosts, 0.16, 0.12 + 0.88 * strength)
    width = (0.4 + 1.4 * strength) * float(np.clip(2.5 * side, 0.4, 1.0))
    twice: Any = {"linewidths": np.repeat(width, 2), "alpha": list(np.repeat(alpha, 2))}
    axes.add_collection(LineCollection(lines, colors=_LINE, zorder=1, **twice))
    if boxes:
        frame: Any = {
            "edgecolors": _LINE,
            "linewidths": min(0.6, 2 * side),
            "alpha": list(alpha[boxed].clip(0.2)),
        }
        pen: Any = {
            "linewidths": float(np.clip(2.6 * side, 0.5, 1.3)),
            "alpha": list(alpha[boxed].clip(0.25)),
        }
        axes.add_collection(PolyCollection(boxes, facecolors="white", edgecolors="none", zorder=2))
        axes.add_collection(PolyCollection(boxes, facecolors="none", zorder=3, **frame))
        axes.add_collection(LineCollection(curves, colors=colours, zorder=4, **pen))


def _strengths(groups: list[Group]) -> NDArray[np.float64]:
    """Return the square root of score / highest score of the layer, in [0, 1]; ones without scores."""
    scores = np.array(
        [float(rows["score"].iloc[0]) if "score" in rows else 1.0 for _, rows in groups]
    )
    scores = np.nan_to_num(np.abs(scores), posinf=0.0)
    if not scores.size or scores.max() <= 0:
        return np.ones_like(scores)
    return np.asarray(np.sqrt(scores / scores.max()))


def _curve(rows: pandas.DataFrame, centre: Place, side: float) -> NDArray[np.float64]:
    """Return the edge function scaled into a square of that side around `centre`, shape (points, 2)."""
    points = rows[["x", "y"]].to_numpy(dtype=float)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.repeat(np.array([centre]), 2, axis=0)
    points = points[np.argsort(points[:, 0], kind="stable")][:: max(1, len(points) // 120)]
    low, high = points.min(axis=0), points.max(axis=0)
    flat = high - low <= 1e-12 * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(np.array(centre) + side * scaled)


def _write_symbolic(axes: Axes, text: str, place: Place, slot: float) -> None:
    size = min(7.0, 14 * slot)
    if text and size >= 3:
        x, y = place[0], place[1] + 0.04
        look: Any = {
            "ha": "center",
            "va": "bottom",
            "fontsize": size,
            "color": VERMILLION,
            "zorder": 6,
        }
        written = axes.text(x, y, letters(text, 16), **look)
        written.set_bbox({"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6})


def _write_labels(axes: Axes, layout: Layout) -> None:
    ends = ((0, 0, -0.1, "top"), (1, len(layout.nodes) - 1, 0.1, "bottom"))
    for side, layer, shift, align in ends:
        upright = layout.upright[side]
        size = float(np.clip(60 * layout.room(layer), 3, 8)) if upright else 8.0
        for number, text in layout.labels[side].items():
            x, y = layout.node(layer, number)
            rotation = 90 if upright else 0
            axes.text(
                x,
                y + shift,
                text,
                ha="center",
                va=align,
                fontsize=size,
                rotation=rotation,
                zorder=6,
            )


@dataclass(frozen=True)
class Layout:
    """A diagram's size, its rows of nodes (inputs first) with their heights, and how many boxes lie between them."""

    width: float
    height: float
    nodes: tuple[int, ...]
    levels: tuple[float, ...]
    counts: tuple[int, ...]
    labels: tuple[dict[int, str], dict[int, str]]  # of inputs and outputs
    upright: tuple[bool, bool]  # whether these labels stand, for lack of room

    def node(self, layer: int, number: int) -> Place:
        return _MARGIN + self.room(layer) * (number + 0.5), self.levels[layer]

    def room(self, layer: int) -> float:
        """The width that each node of a layer has."""
        return (self.width - 2 * _MARGIN) / self.nodes[layer]

    def slot(self, layer: int) -> float:
        """The width that each box has, of which 0.8 are its side, at most."""
        return (self.width - 2 * _MARGIN) / self.counts[layer]

    def side(self, layer: int) -> float:
        return min(_BOX, 0.8 * self.slot(layer))

    def box(self, layer: int, number: int) -> Place:
        """The centre of a box."""
        height = (self.levels[layer] + self.levels[layer + 1]) / 2
        return _MARGIN + self.slot(layer) * (number + 0.5), height


def lay_out(table: pandas.DataFrame, *, heading: bool = False) -> Layout:
    """Return the layout of the network in `table` (one seed, rows as for `edges`), with room for a heading."""
    edges = table.drop_duplicates(KEYS)
    depth = int(edges["layer"].max()) + 1 if len(edges) else 1
    nodes = tuple(_count(edges, layer) for layer in range(depth + 1))
    counts = tuple(max(1, int((edges["layer"] == layer).sum())) for layer in range(depth))
    width = float(
        np.clip(max(0.62 * max(counts), 0.45 * max(nodes)) + 2 * _MARGIN, _NARROWEST, _WIDEST)
    )
    labels = (
        _labels(edges[edges["layer"] == 0], "in", "input_name", "x"),
        _labels(edges[edges["layer"] == depth - 1], "out", "output_name", "y"),
    )
    longest = [_LETTER * max((len(text) for text in side.values()), default=1) for side in labels]
    usable = width - 2 * _MARGIN
    upright = (longest[0] > usable / nodes[0], longest[1] > usable / nodes[-1])
    below, above = (
        0.2 + (size if stands else 0.15) for size, stands in zip(longest, upright, strict=True)
    )
    rows = [2 * _GAP + 1.25 * min(_BOX, 0.8 * usable / count) for count in counts]
    levels = below + np.concatenate([[0.0], np.cumsum(rows)])
    height = float(levels[-1]) + above + (0.3 if heading else 0.0)
    return Layout(width, height, nodes, tuple(levels.tolist()), counts, labels, upright)


def _count(edges: pandas.DataFrame, layer: int) -> int:
    below = edges.loc[edges["layer"] == layer - 1, "out"]
    above = edges.loc[edges["layer"] == layer, "in"]
    return max([1, *(int(side.max()) + 1 for side in (below, above) if len(side))])


def _labels(edges: pandas.DataFrame, column: str, names: str, letter: str) -> dict[int, str]:
    labels = {}
    for key, rows in edges.groupby(column):
        number: Any = key
        labels[int(number)] = letters(text_of(rows, names) or f"{letter}{number}", _LONGEST)
    return labels
