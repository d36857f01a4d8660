"""The diagram of a KAN: nodes in layers, and on each edge the function that it learned. All lengths are in inches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanrun.figures.edge_panels import KEYS, pruned_rows, strongest, text_of
from kanrun.figures.style import BLACK, BLUE, GREY, VERMILLION, first_seed, letters, only_some, styled

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST = 1500  # edges of a layer, where a caller lays them out
_SHOWN = 60  # edges of a diagram
_MANY = 60  # edges of a layer, from which on only the strong ones stand out
_LINE = "#4D4D4D"
_PLAIN = "="
_BOX, _SMALLEST = 0.5, 0.17  # sides of the largest and the smallest slot of an edge function
_GAP = 0.6  # between a row of nodes and the boxes above or below it
_MARGIN = 0.3
_LETTER = 0.065  # of a label at 8 points
_NARROWEST, _WIDEST = 2.4, 13.0
_LONGEST = 18  # letters of a label
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
    table = _strongest_of_all(table, _SHOWN)
    remark = only_some(len(table.drop_duplicates(KEYS)), there, "edges, the strongest of their layers")
    layout = lay_out(table, bool(remark), _MOST)
    figure = Figure(figsize=(layout.width, layout.height))  # the layout's inches are the figure's
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_network(axes, table, layout)
    if remark:
        axes.text(layout.width / 2, layout.height - 0.1, remark, ha="center", va="top", fontsize=9)
    return figure


def _strongest_of_all(table: pandas.DataFrame, most: int) -> pandas.DataFrame:
    """The rows of the `most` edges with the highest score relative to their layer's; edges that carry on all stay."""
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= most or "score" not in table:
        return table
    size = edges["score"].abs().fillna(0.0)
    share = size / size.groupby(edges["layer"]).transform("max").clip(lower=1e-300)
    if "symbolic" in edges:
        share = share.where(edges["symbolic"] != _PLAIN, 2.0)
    kept = edges.loc[share.sort_values(ascending=False, kind="stable").index[:most], KEYS]
    return table.merge(kept, on=KEYS)


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


@dataclass(frozen=True)
class Band:
    """The boxes of one layer of edges: `rows` lines of `columns`, filled column by column from below."""

    rows: int
    columns: int
    side: float
    bottom: float
    left: float
    slot: float

    def centre(self, number: int) -> tuple[float, float]:
        column, row = divmod(number, self.rows)
        return self.left + (column + 0.5) * self.slot, self.bottom + (row + 0.5) * self.pitch

    def ways(self, number: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Return the points of the lines into box `number` from below, and out of it to above.

        In a band of several rows they run between the columns, so that no line crosses other boxes.
        """
        x, y = self.centre(number)
        half = self.side / 2
        if self.rows == 1:
            return [(x, y - half)], [(x, y + half)]
        gap = self.slot / 2
        top = self.bottom + self.height
        return [(x - gap, self.bottom), (x - gap, y), (x - half, y)], [(x + half, y), (x + gap, y), (x + gap, top)]

    @property
    def pitch(self) -> float:
        return 1.25 * self.side

    @property
    def height(self) -> float:
        return self.rows * self.pitch


@dataclass(frozen=True)
class Layout:
    """A diagram's size, its rows of nodes (inputs first), and the bands of boxes between them."""

    width: float
    height: float
    nodes: tuple[int, ...]
    levels: tuple[float, ...]
    bands: tuple[Band, ...]
    labels: tuple[dict[int, str], dict[int, str]]  # of inputs and outputs
    upright: tuple[bool, bool]  # whether these labels stand, for lack of room

    def node(self, layer: int, number: int) -> tuple[float, float]:
        return _MARGIN + self.room(layer) * (number + 0.5), self.levels[layer]

    def room(self, layer: int) -> float:
        """The width that each node of a layer has."""
        return (self.width - 2 * _MARGIN) / self.nodes[layer]


def lay_out(table: pandas.DataFrame, heading: bool, most: int) -> Layout:
    """Return the layout of the network in `table` (one seed, rows as for `edges`), `most` edges a layer drawn."""
    edges = table.drop_duplicates(["layer", "out", "in"])
    depth = int(edges["layer"].max()) + 1 if len(edges) else 1
    nodes = tuple(_count(edges, layer) for layer in range(depth + 1))
    counts = [min(most, max(1, int((edges["layer"] == layer).sum()))) for layer in range(depth)]
    width = float(np.clip(max(0.62 * max(counts), 0.45 * max(nodes)) + 2 * _MARGIN, _NARROWEST, _WIDEST))
    labels = (
        _labels(edges[edges["layer"] == 0], "in", "input_name", "x"),
        _labels(edges[edges["layer"] == depth - 1], "out", "output_name", "y"),
    )
    longest = [_LETTER * max((len(text) for text in side.values()), default=1) for side in labels]
    rooms = [(width - 2 * _MARGIN) / nodes[0], (width - 2 * _MARGIN) / nodes[-1]]
    upright = (longest[0] > rooms[0], longest[1] > rooms[1])
    below, above = (0.2 + (size if stands else 0.15) for size, stands in zip(longest, upright, strict=True))
    level = below
    levels, bands = [level], []
    for count in counts:
        band = _band(count, width, level + _GAP)
        bands.append(band)
        level += 2 * _GAP + band.height
        levels.append(level)
    height = level + above + (0.3 if heading else 0.0)
    return Layout(width, height, nodes, tuple(levels), tuple(bands), labels, upright)


def _band(count: int, width: float, bottom: float) -> Band:
    usable = width - 2 * _MARGIN
    rows = max(1, math.ceil(count * _SMALLEST / usable))
    columns = math.ceil(count / rows)
    slot = usable / columns
    return Band(rows, columns, min(_BOX, 0.8 * slot), bottom, _MARGIN, slot)


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
