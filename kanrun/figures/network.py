"""The edge functions of a KAN: one panel each, and as a diagram with nodes in layers.

Lengths of the diagram are in inches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from kanrun.figures.style import (
    BLACK,
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    as_bool,
    first_seed,
    note_of_some,
    number,
    shorten,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEYS = ["layer", "out", "in"]
MAX_PANELS, MAX_EDGES = 40, 60
#: Width and height of a panel, and its box relative to these.
PANEL = (1.45, 1.3)
BOX_LEFT, BOX_BELOW, BOX_WIDTH, BOX_HEIGHT = 0.22, 0.12, 0.72, 0.62
#: A function that varies by less is constant.
ROUNDING = 1e-12
MAX_LETTERS = 18
#: Label of an identity edge, which is drawn as a line alone.
CARRIED = "="
LINE = "#4D4D4D"
#: Side of the largest box of an edge function, distance of boxes from nodes, margin of the figure.
BOX, GAP, MARGIN = 0.5, 0.6, 0.3
#: Width of a letter of a label, and widths of a figure.
LETTER, MIN_WIDTH, MAX_WIDTH = 0.065, 2.4, 13.0
Place = tuple[float, float]
Group = tuple[tuple[int, int, int], pandas.DataFrame]


@styled
def edges(table: pandas.DataFrame) -> Figure:
    """Draw the function of each edge (layer, out, in) of the first seed over its input range.

    `table` has the columns seed, layer, out, in, x, y, score, and may have input_name, output_name,
    pruned, x_data (x in the user's units) and seen (false beyond the data). Pruned edges are
    counted and not drawn; of many others the 40 with the highest score are. All panels of a layer
    have one scale, so that a dead edge looks dead. The function is thin and grey where there are no
    data.
    """
    table = first_seed(table)
    pruned = pruned_rows(table)
    without = len(table[pruned].drop_duplicates(KEYS))
    table = table[~pruned]
    groups = strongest(table, MAX_PANELS)
    total = len(table.drop_duplicates(KEYS))
    remarks = [note_of_some(len(groups), total, "edges, those with the highest scores")]
    remarks += [f"{without} pruned edge{'s' * (without > 1)} not drawn"] * (without > 0)
    columns = max(1, min(5, len(groups)))
    lines = max(1, -(-len(groups) // columns))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, columns), ylim=(-lines, 0.2 / PANEL[1]))
    axes.set_axis_off()
    spans = {key[0]: 0.0 for key, _ in groups}
    for (layer, _, _), rows in groups:
        spans[layer] = max(spans[layer], float(np.ptp(_finite(rows["y"]))))
    for index, (key, rows) in enumerate(groups):
        score = f"\nscore {number(float(rows['score'].iloc[0]))}" if "score" in rows else ""
        corner = index % columns, -(index // columns)
        _draw_edge(axes, rows, title_of(key, rows) + score, corner, spans[key[0]])
    axes.text(
        columns / 2, 0.1 / PANEL[1], "; ".join(filter(None, remarks)), ha="center", color=GREY
    )
    return figure


def pruned_rows(table: pandas.DataFrame) -> pandas.Series[bool]:
    """Return which rows are of pruned edges: none if the table does not say."""
    if "pruned" not in table:
        return pandas.Series(False, index=table.index)
    return as_bool(table["pruned"])


def strongest(table: pandas.DataFrame, max_edges: int) -> list[Group]:
    """Return keys (layer, out, in) and rows of the highest-scoring edges, sorted by key."""
    groups: Any = table.groupby(KEYS)
    scores = groups["score"].first().fillna(0.0) if "score" in table else groups.size()
    kept = set(scores.sort_values(ascending=False, kind="stable").index[:max_edges])
    return [(tuple(int(i) for i in key), rows) for key, rows in groups if key in kept]  # type: ignore[misc]


def title_of(key: tuple[int, int, int], rows: pandas.DataFrame) -> str:
    """Return `source → node`, with the names of inputs and outputs if the edge has them."""
    layer, out, source = key
    source_name = text_of(rows, "input_name") or f"h{layer}.{source}"
    out_name = text_of(rows, "output_name") or f"h{layer + 1}.{out}"
    return f"{shorten(source_name, 12)} → {shorten(out_name, 12)}"


def text_of(rows: pandas.DataFrame, column: str) -> str:
    """Return the text in `column` of the first row, or "" if there is none."""
    value = rows[column].iloc[0] if column in rows else None
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (a missing value)


def _finite(values: Any) -> NDArray[np.float64]:
    """Return the finite ones of `values`; 0 if there are none."""
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)] if np.isfinite(numbers).any() else np.zeros(1)


def _draw_edge(
    axes: Axes, rows: pandas.DataFrame, title: str, corner: tuple[float, float], span: float
) -> None:
    """Draw one edge function into a box below its title, with the limits of both axes.

    Panels are boxes of one axes, since 40 axes with their ticks take 4 CPU s. `corner` is the upper
    left one of the panel; the function's axis is `span` high around its middle.
    """
    rows = rows.sort_values("x")
    x, y = rows["x_data" if "x_data" in rows else "x"].to_numpy(dtype=float), rows["y"]
    values, (low, high) = _finite(y), (x.min(), x.max())
    middle = float(values.min() + values.max()) / 2
    # A box around a constant would show nothing but rounding errors.
    half = 0.55 * span if span > ROUNDING else 1.0
    left, bottom = corner[0] + BOX_LEFT, corner[1] - 1 + BOX_BELOW
    across = left + BOX_WIDTH * (x - low) / (high - low or 1.0)
    up = bottom + BOX_HEIGHT * (y - middle + half) / (2 * half)
    axes.add_patch(Rectangle((left, bottom), BOX_WIDTH, BOX_HEIGHT, fc="none", ec=PALE, lw=0.6))
    if "seen" in rows:
        axes.plot(across, up, color=GREY, lw=0.6)
        up = up.where(as_bool(rows["seen"]))
    axes.plot(across, up, color=BLUE)
    axes.text(left + BOX_WIDTH / 2, bottom + BOX_HEIGHT + 0.02, title, ha="center", va="bottom")
    small: Any = {"size": "x-small", "color": GREY}
    for value, side, at in ((low, "left", left), (high, "right", left + BOX_WIDTH)):
        axes.text(at, bottom - 0.02, number(float(f"{value:.2g}")), ha=side, va="top", **small)
    for value, side, at in ((-half, "bottom", bottom), (half, "top", bottom + BOX_HEIGHT)):
        text = number(float(f"{middle + value:.2g}")).replace("-", "\N{MINUS SIGN}")
        axes.text(left - 0.02, at, text, ha="right", va=side, **small)


@styled
def network_diagram(table: pandas.DataFrame) -> Figure:
    """Draw the first seed's network, inputs below and outputs above.

    `table` is as for `edges`; of more than 60 edges the strongest, relative to their layers, are
    drawn. Width and opacity of an edge grow with its score, relative to the highest of its layer.
    Further columns are optional: `symbolic` (text at the edge, which then has another colour; `=`
    is an edge that carries a value on, a line alone), `pruned` (true: the edge is a ghost), and
    `operation` (`product` if the node that the edge leads to multiplies).
    """
    table = first_seed(table)
    shown = strongest_of_all(table)
    total, drawn = (len(each.drop_duplicates(KEYS)) for each in (table, shown))
    remark = note_of_some(drawn, total, "edges, the strongest of their layers")
    layout = lay_out(shown, heading=bool(remark))
    figure = Figure(figsize=(layout.width, layout.height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_network(axes, shown, layout)
    axes.text(layout.width / 2, layout.height - 0.1, remark, ha="center", va="top", color=GREY)
    return figure


def strongest_of_all(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of the 60 edges with the highest scores relative to their layers.

    Edges that carry a value on come first.
    """
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= MAX_EDGES or "score" not in table:
        return table
    size = edges["score"].abs().fillna(0.0)
    relative = size / size.groupby(edges["layer"]).transform("max").clip(lower=np.finfo(float).tiny)
    if "symbolic" in edges:
        relative = relative.where(edges["symbolic"] != CARRIED, 2.0)
    order = relative.sort_values(ascending=False, kind="stable").index[:MAX_EDGES]
    return table.merge(edges.loc[order, KEYS], on=KEYS)


def draw_network(axes: Axes, table: pandas.DataFrame, layout: Layout) -> None:
    """Draw a network with one seed into `axes`, whose limits become the layout's size."""
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    axes.set_axis_off()
    for layer, count in enumerate(layout.counts):
        _draw_layer(axes, layout, layer, strongest(table[table["layer"] == layer], count))
    nodes = [(layer, i) for layer, count in enumerate(layout.nodes) for i in range(count)]
    x, y = np.transpose([layout.node(*node) for node in nodes])
    axes.scatter(x, y, s=26 if max(layout.nodes) <= 30 else 8, c=BLACK, zorder=5)
    products = table[table["operation"] == "product"] if "operation" in table else table[:0]
    for layer, out in {*zip(products["layer"], products["out"], strict=True)}:
        place = layout.node(int(layer) + 1, int(out))
        axes.plot(*place, "o", ms=8, color=BLACK, zorder=5)
        axes.plot(*place, "x", ms=4.5, mew=1.2, color="white", zorder=6)
    for labels, layer, shift, align in zip(
        layout.labels, (0, len(layout.nodes) - 1), (-0.1, 0.1), ("top", "bottom"), strict=True
    ):
        upright = layout.is_upright(layer, labels)
        size = min(8, max(3, 60 * layout.room(layer))) if upright else None
        look: Any = {
            "ha": "center",
            "va": align,
            "size": size,
            "rotation": 90 * upright,
            "zorder": 6,
        }
        for index, text in labels.items():
            x, y = layout.node(layer, index)
            axes.text(x, y + shift, text, **look)


def _draw_layer(axes: Axes, layout: Layout, layer: int, groups: list[Group]) -> None:
    """Draw the edges of one layer: boxes with their functions, each joined to its two nodes."""
    # Boxes stand in the order of their inputs, so that the lines below them hardly cross.
    groups = sorted(groups, key=lambda group: (group[0][2], group[0][1]))
    names = [text_of(rows, "symbolic") for _, rows in groups]
    ghosts = np.array([pruned_rows(rows.iloc[:1]).iloc[0] for _, rows in groups], dtype=bool)
    boxed = np.array([name != CARRIED for name in names], dtype=bool)
    side = layout.side(layer)
    corners = side / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    lines: list[Any] = []
    curves, boxes, colours = [], [], []
    for index, ((_, out, source), rows) in enumerate(groups):
        x, y = layout.box(layer, index)
        half = side / 2 * boxed[index]
        lines += [[layout.node(layer, source), (x, y - half)]]
        lines += [[(x, y + half), layout.node(layer + 1, out)]]
        if boxed[index]:
            boxes.append(corners + np.array([x, y]))
            curves.append(_curve(rows, (x, y), 0.84 * side))
            colours.append(GREY if ghosts[index] else VERMILLION if names[index] else BLUE)
            size = min(7.0, 14 * layout.slot(layer))
            if names[index] and size >= 3 and not ghosts[index]:
                look: Any = {"ha": "center", "va": "bottom", "size": size, "color": VERMILLION}
                text = axes.text(x, y + half + 0.04, shorten(names[index], 16), zorder=6, **look)
                text.set_bbox({"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6})
    strength = np.where(ghosts, 0.0, _strengths(groups))
    alpha = np.where(ghosts, 0.16, 0.12 + 0.88 * strength)
    width = np.repeat((0.4 + 1.4 * strength) * min(1.0, max(0.4, 2.5 * side)), 2)
    twice: Any = {"linewidths": width, "alpha": list(np.repeat(alpha, 2))}
    axes.add_collection(LineCollection(lines, colors=LINE, zorder=1, **twice))
    if boxes:
        pale: Any = {"alpha": list(alpha[boxed].clip(0.25)), "linewidths": min(1.2, 2.5 * side)}
        axes.add_collection(PolyCollection(boxes, facecolors="white", edgecolors="none", zorder=2))
        frame: Any = {**pale, "linewidths": min(0.6, 2 * side)}
        axes.add_collection(
            PolyCollection(boxes, facecolors="none", edgecolors=LINE, zorder=3, **frame)
        )
        axes.add_collection(LineCollection(curves, colors=colours, zorder=4, **pale))


def _strengths(groups: list[Group]) -> NDArray[np.float64]:
    """Return the square root of each score over the highest one; ones without scores."""
    scores = [float(rows["score"].iloc[0]) if "score" in rows else 1.0 for _, rows in groups]
    sizes = np.nan_to_num(np.abs(scores), posinf=0.0)
    highest = sizes.max(initial=0.0)
    return np.sqrt(sizes / highest) if highest > 0 else np.ones_like(sizes)


def _curve(rows: pandas.DataFrame, centre: Place, side: float) -> NDArray[np.float64]:
    """Return the edge function scaled into a square around `centre`, shape (points, 2)."""
    rows = rows.sort_values("x")
    points = rows[["x", "y"]].to_numpy(dtype=float)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.repeat(np.array([centre]), 2, axis=0)
    low, high = points.min(axis=0), points.max(axis=0)
    flat = high - low <= ROUNDING * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(np.array(centre) + side * scaled)


@dataclass(frozen=True)
class Layout:
    """Size of a diagram, its rows of nodes (inputs first), and the number of boxes between them."""

    width: float
    height: float
    nodes: tuple[int, ...]
    #: Heights of the rows of nodes.
    levels: tuple[float, ...]
    counts: tuple[int, ...]
    #: Labels of inputs and of outputs, by their numbers.
    labels: tuple[dict[int, str], dict[int, str]]

    def node(self, layer: int, index: int) -> Place:
        """Return the place of a node."""
        return MARGIN + self.room(layer) * (index + 0.5), self.levels[layer]

    def room(self, layer: int) -> float:
        """Return the width available to each node of a layer."""
        return (self.width - 2 * MARGIN) / self.nodes[layer]

    def slot(self, layer: int) -> float:
        """Return the width available to each box."""
        return (self.width - 2 * MARGIN) / self.counts[layer]

    def side(self, layer: int) -> float:
        """Return the side of each box."""
        return min(BOX, 0.8 * self.slot(layer))

    def box(self, layer: int, index: int) -> Place:
        """Return the centre of a box."""
        height = (self.levels[layer] + self.levels[layer + 1]) / 2
        return MARGIN + self.slot(layer) * (index + 0.5), height

    def is_upright(self, layer: int, labels: dict[int, str]) -> bool:
        """Return whether labels of nodes stand upright for lack of room."""
        return _length(labels) > self.room(layer)


def _length(labels: dict[int, str]) -> float:
    return LETTER * max(map(len, labels.values()), default=1)


def lay_out(table: pandas.DataFrame, *, heading: bool = False) -> Layout:
    """Return the layout of the network in `table` (one seed), with room for a heading."""
    edges = table.drop_duplicates(KEYS)
    depth = int(edges["layer"].max()) + 1 if len(edges) else 1
    ends = {
        level: [
            *edges.loc[edges["layer"] == level - 1, "out"],
            *edges.loc[edges["layer"] == level, "in"],
        ]
        for level in range(depth + 1)
    }
    nodes = tuple(max([1, *(int(end) + 1 for end in ends[level])]) for level in ends)
    counts = tuple(max(1, int((edges["layer"] == layer).sum())) for layer in range(depth))
    wanted = max(0.62 * max(counts), 0.45 * max(nodes)) + 2 * MARGIN
    width = min(MAX_WIDTH, max(MIN_WIDTH, wanted))
    labels = (
        _labels(edges[edges["layer"] == 0], "in", "input_name", "x"),
        _labels(edges[edges["layer"] == depth - 1], "out", "output_name", "y"),
    )
    flat = Layout(width, 0.0, nodes, (), counts, labels)
    below, above = (
        0.2 + (_length(side) if flat.is_upright(layer, side) else 0.15)
        for layer, side in zip((0, depth), labels, strict=True)
    )
    rows = [2 * GAP + 1.25 * flat.side(layer) for layer in range(depth)]
    levels = tuple(float(level) for level in below + np.cumsum([0.0, *rows]))
    height = levels[-1] + above + 0.3 * heading
    return Layout(width, height, nodes, levels, counts, labels)


def _labels(edges: pandas.DataFrame, column: str, names: str, letter: str) -> dict[int, str]:
    groups: Any = edges.groupby(column)
    return {
        int(index): shorten(text_of(rows, names) or f"{letter}{index}", MAX_LETTERS)
        for index, rows in groups
    }
