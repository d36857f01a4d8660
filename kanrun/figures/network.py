"""Edge functions of a KAN: one panel each, and as a diagram with nodes in layers.

Lengths of the diagram are in inches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame, Series

from kanrun.figures.panels import small_multiples
from kanrun.figures.style import (
    AXIS,
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    as_bool,
    first_seed,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    write_powers,
)
from kanrun.points import Array

KEYS = ["layer", "out", "in"]
#: Largest number of panels of edge functions; the strongest are drawn.
MAX_PANELS = 20
#: Largest number of edges of a diagram; the strongest are drawn.
MAX_EDGES = 60
#: Columns of panels.
COLUMNS = 5
#: Width and height of a panel with its texts (inches).
PANEL = np.array((1.3, 1.42))
#: Width and height that the texts of a panel take left of and below its axes (inches).
BEFORE = np.array((0.2, 0.2))
#: Width and height that the texts of a panel take right of and above its axes (inches).
AFTER = np.array((0.05, 0.37))
#: The axis of a function is this much longer than the function's range in either direction.
ROOM = 0.55
#: A function that varies by less is constant.
ROUNDING = 1e-12
#: Most letters of the label of a node.
MAX_LETTERS = 18
#: Most letters of a name in the title of a panel.
MAX_TITLE = 10
#: Most letters of the symbol of an edge.
MAX_SYMBOL = 16
#: Label of an identity edge, which is drawn as a line alone.
CARRIED = "="
#: Side of the largest box of an edge function.
BOX = 0.5
#: Fraction of the room of a box that the box takes.
BOX_PART = 0.8
#: Fraction of a box that its function takes.
CURVE_PART = 0.84
#: Distance of boxes from nodes.
GAP = 0.6
#: Margin of the figure.
MARGIN = 0.3
#: Width of a letter of a label.
LETTER = 0.065
#: Height of a label.
LABEL = 0.15
#: Distance of a label from the edge of the figure.
LABEL_EDGE = 0.2
#: Distance of a label from its node.
LABEL_NODE = 0.1
#: Height of a heading.
HEAD = 0.22
#: Distance of a heading from the edge of the figure.
HEAD_EDGE = 0.05
#: Wanted room of a box.
BOX_ROOM = 0.62
#: Wanted room of a node.
NODE_ROOM = 0.45
#: Smallest width of a figure.
MIN_WIDTH = 2.4
#: Largest width of a figure.
MAX_WIDTH = 13.0
#: Opacity of a pruned edge.
GHOST = 0.16
#: Opacity of the weakest edge.
WEAKEST = 0.12
#: Opacity of the palest box.
PALEST = 0.25
#: Width of the weakest edge (points).
THIN = 0.4
#: Width that the strongest edge has in addition (points).
THICKER = 1.4
#: Widths of lines at a small box, in points per inch of its side.
WIDEST = 2.5
#: Area of a node (square points).
NODE = 26
#: Diameters of the circle and of the cross of a node that multiplies (points).
PRODUCT = (8, 4.5)
#: Largest size of text at nodes (points), and points by inch of room.
NODE_TEXT = (8, 60)
#: Largest size of text at boxes (points), and points by inch of room.
BOX_TEXT = (7, 17.5)
#: Smallest size of text that is written at boxes (points).
READABLE = 3
#: Distance of a box from its text.
LABEL_GAP = 0.04
#: Background of the text of a box.
WHITE = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6}
#: What is drawn over what.
EDGES_AT, BOXES_AT, CURVES_AT, NODES_AT, TEXT_AT = range(1, 6)


@styled
def edges(table: DataFrame) -> Figure:
    """Draw the function of each edge (layer, out, in) of the first seed over its input range.

    `table` has the columns seed, layer, out, in, x, y, score, and may have input_name, output_name,
    pruned, x_data (x in the user's units) and seen (false beyond the data). Pruned edges are
    counted and not drawn; of many others the 20 strongest, relative to their layers, are. All
    panels of a layer have one scale, so that a dead edge looks dead. The function is thin and grey
    where there are no data.
    """
    table = first_seed(table)
    pruned = are_pruned(table)
    without = len(table[pruned].drop_duplicates(KEYS))
    table, remark = strongest_edges(table[~pruned], MAX_PANELS)
    if without:
        remark += f"{'; ' * bool(remark)}{without} pruned edge{'s' * (without > 1)} hidden"
    table = table.assign(y=table["y"].astype(float).replace([np.inf, -np.inf], np.nan))
    groups: Any = table.groupby(KEYS)
    low = groups["y"].min().fillna(0.0)
    high = groups["y"].max().fillna(0.0)
    span = (high - low).groupby("layer").transform("max")
    # A panel around a constant would show nothing but rounding errors.
    half = (ROOM * span).where(span > ROUNDING, 1.0)
    limits = np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)
    ends = groups.head(1).sort_values(KEYS)
    scores = "\nscore " + ends["score"].astype(float).map(number)
    titles = map(str.__add__, titles_of(ends), scores)
    head = HEAD * bool(remark)
    figure, panels = small_multiples(len(ends), COLUMNS, PANEL[1], PANEL[0], room=head)
    # Each text has its room: to measure all of them takes a quarter of the time.
    figure.set_layout_engine(None)
    size = figure.get_size_inches()
    around = BEFORE + AFTER
    ends_at = 1 - np.add(AFTER, (0, head)) / size
    figure.subplots_adjust(*BEFORE / size, *ends_at, *around / (PANEL - around))
    for panel, (_, rows), title, up in zip(panels, groups, titles, limits, strict=True):
        _draw_panel(panel, rows.sort_values("x"), up)
        panel.set_title(title, size=8)
    set_remark(figure, remark, y=1 - HEAD_EDGE / size[1])
    return figure


def _draw_panel(panel: Axes, rows: DataFrame, limits: Array) -> None:
    """Draw the function of an edge, with the ends of both axes."""
    x = rows["x_data" if "x_data" in rows else "x"].to_numpy(float)
    y = rows["y"]
    if "seen" in rows:
        panel.plot(x, y, color=GREY, lw=0.6)
        y = y.where(as_bool(rows["seen"]))
    panel.plot(x, y, color=BLUE)
    panel.grid(visible=False)
    panel.set(xlim=x[[0, -1]], ylim=limits, xticks=[], yticks=[])  # ticks take most of the time
    for axis, ends in ((panel.xaxis, x[[0, -1]]), (panel.yaxis, limits)):
        low, high = (write_powers(f"{float(f'{end:.2g}'):.6g}") for end in ends)
        text = f"{low} to {high}".replace("-", "\N{MINUS SIGN}")
        axis.set_label_text(text, size="x-small", color=GREY)


def strongest_edges(table: DataFrame, most: int = MAX_EDGES) -> tuple[DataFrame, str]:
    """Return the rows of at most `most` edges, and a remark if there are more.

    Edges that carry a value on come first, then those with the highest scores relative to their
    layers.
    """
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= most:
        return table, ""
    relative = _relative_scores(edges).where(_texts(edges, "symbolic") != CARRIED, 2.0)
    shown = table.merge(edges.loc[relative.nlargest(most).index, KEYS], on=KEYS)
    return shown, note_of_some(most, len(edges), "edges, the strongest of their layers")


def _relative_scores(edges: DataFrame) -> Series[float]:
    """Return the score of each edge relative to the highest of its layer; 0 for unknown ones."""
    size = edges["score"].abs().replace(np.inf, np.nan).fillna(0.0)
    return size / size.groupby(edges["layer"]).transform("max").clip(lower=np.finfo(float).tiny)


def are_pruned(table: DataFrame) -> Series[bool]:
    """Return which rows are of pruned edges: none if the table does not say."""
    return as_bool(table.get("pruned", Series(False, index=table.index)))


def titles_of(edges: DataFrame) -> list[str]:
    """Return `source → node` of each edge, with the names of inputs and outputs if it has them."""
    names = zip(_texts(edges, "input_name"), _texts(edges, "output_name"), strict=True)
    return [
        f"{shorten(name or f'h{layer}.{source}', MAX_TITLE)} → "
        f"{shorten(output or f'h{layer + 1}.{out}', MAX_TITLE)}"
        for (layer, out, source), (name, output) in zip(
            edges[KEYS].to_numpy(dtype=int), names, strict=True
        )
    ]


def _texts(rows: DataFrame, column: str) -> Series[str]:
    """Return a column of text; empty texts where it is missing."""
    texts = rows.get(column, Series("", index=rows.index))
    return texts.astype(object).where(texts.notna(), "").astype(str)


@styled
def network_diagram(table: DataFrame) -> Figure:
    """Draw the first seed's network, inputs below and outputs above.

    `table` is as for `edges`; of more than 60 edges the strongest, relative to their layers, are
    drawn. Width and opacity of an edge grow with its score, relative to the highest of its layer.
    Further columns are optional: `symbolic` (text at the edge, which then has another colour; `=`
    is an edge that carries a value on, a line alone), `pruned` (true: the edge is a ghost), and
    `operation` (`product` if the node that the edge leads to multiplies).
    """
    whole = first_seed(table)
    shown, remark = strongest_edges(whole)
    layout = lay_out(shown, whole, heading=bool(remark))
    figure = Figure(figsize=(layout.width, layout.height))
    draw_network(figure.add_axes((0.0, 0.0, 1.0, 1.0)), shown, layout)
    set_remark(figure, remark, y=1 - HEAD_EDGE / layout.height)
    return figure


@dataclass(frozen=True)
class Layout:
    """Size of a diagram, and the places (count, 2) of its nodes and boxes.

    Attributes:
        nodes: Places of the nodes by level, inputs first.
        edges: A row for each edge, in the order of the boxes.
        boxes: Centres of the boxes; `sides` are their sides.
        labels: Labels of inputs and of outputs by their numbers, with whether they stand upright
            for lack of room.
    """

    width: float
    height: float
    nodes: list[Array]
    edges: DataFrame
    boxes: Array
    sides: Array
    labels: list[tuple[dict[int, str], bool]]


def lay_out(table: DataFrame, whole: DataFrame | None = None, *, heading: bool = False) -> Layout:
    """Return the layout of the network in `table` (one seed), with room for a heading.

    Inputs and outputs are those of `whole`, which may have more edges.
    """
    # Boxes stand in the order of their inputs, so that the lines below them hardly cross.
    edges = table.drop_duplicates(KEYS).sort_values(["layer", "in", "out"])
    layer, out, source = edges[KEYS].to_numpy(dtype=int).T
    depth = int(layer.max(initial=0)) + 1
    counts = np.bincount(layer, minlength=depth)
    nodes = np.ones(depth + 1, dtype=int)
    np.maximum.at(nodes, [*layer, *(layer + 1)], [*(source + 1), *(out + 1)])
    every = edges if whole is None else whole.drop_duplicates(KEYS)
    sides_of = {"in": every[every["layer"] == 0], "out": every[every["layer"] == depth - 1]}
    for level, column in ((0, "in"), (-1, "out")):
        nodes[level] = 1 + np.max(
            sides_of[column][column].to_numpy(dtype=int), initial=nodes[level] - 1
        )
    wanted = max(BOX_ROOM * max(counts), NODE_ROOM * max(nodes)) + 2 * MARGIN
    width = float(np.clip(wanted, MIN_WIDTH, MAX_WIDTH))
    room = width - 2 * MARGIN
    sides = np.minimum(BOX, BOX_PART * room / counts.clip(1))
    labels = []
    beside = []
    for column, name, letter, count in (
        ("in", "input_name", "x", nodes[0]),
        ("out", "output_name", "y", nodes[-1]),
    ):
        ends = sides_of[column].drop_duplicates(column)
        names = zip(ends[column], _texts(ends, name), strict=True)
        texts = {i: shorten(text or f"{letter}{i}", MAX_LETTERS) for i, text in names}
        length = LETTER * max(map(len, texts.values()), default=1)
        labels.append((texts, bool(length > room / count)))
        beside.append(LABEL_EDGE + (length if labels[-1][1] else LABEL))
    levels = beside[0] + np.cumsum([0.0, *(2 * GAP + sides / BOX_PART)])

    def places(count: int, level: float) -> Array:
        across = MARGIN + room * (np.arange(count) + 0.5) / count
        return np.column_stack([across, np.full(count, level)])

    boxes = np.concatenate(list(map(places, counts, (levels[:-1] + levels[1:]) / 2)))
    at_nodes = list(map(places, nodes, levels))
    height = float(levels[-1]) + beside[1]
    return Layout(width, height + HEAD * heading, at_nodes, edges, boxes, sides[layer], labels)


def draw_network(axes: Axes, table: DataFrame, layout: Layout) -> None:
    """Draw a network with one seed into `axes`, whose limits become the layout's size."""
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    axes.set_axis_off()
    _draw_edges(axes, table, layout)
    x, y = np.concatenate(layout.nodes).T
    axes.scatter(x, y, s=NODE, c=BLACK, zorder=NODES_AT)
    products = layout.edges[_texts(layout.edges, "operation") == "product"]
    for layer, out in products[["layer", "out"]].drop_duplicates().to_numpy():
        place = layout.nodes[layer + 1][out]
        axes.plot(*place, "o", ms=PRODUCT[0], color=BLACK, zorder=NODES_AT)
        axes.plot(*place, "x", ms=PRODUCT[1], mew=1.2, color="white", zorder=TEXT_AT)
    for (labels, upright), level, side in zip(
        layout.labels, (layout.nodes[0], layout.nodes[-1]), (-1, 1), strict=True
    ):
        points = min(NODE_TEXT[0], NODE_TEXT[1] * (layout.width - 2 * MARGIN) / len(level))
        look: Any = {"ha": "center", "size": points, "rotation": 90 * upright, "zorder": TEXT_AT}
        for index, text in labels.items():
            x, y = level[index]
            va = "bottom" if side > 0 else "top"
            axes.text(x, y + side * LABEL_NODE, text, va=va, **look)


def _draw_edges(axes: Axes, table: DataFrame, layout: Layout) -> None:
    """Draw boxes with the functions of edges, each joined to its two nodes."""
    edges = layout.edges
    order = ["layer", "in", "out"]
    groups: Any = table.sort_values("x").groupby(order)
    ghosts = are_pruned(edges)
    strengths = _relative_scores(edges).where(~ghosts, 0.0) ** 0.5
    parts = edges[order].to_numpy(dtype=int), layout.boxes, layout.sides, groups
    looks = _texts(edges, "symbolic"), ghosts, strengths
    every = zip(*parts, *looks, strict=True)
    for (layer, source, out), centre, side, (_, rows), symbol, ghost, strength in every:
        alpha = GHOST if ghost else WEAKEST + (1 - WEAKEST) * strength
        width = (THIN + THICKER * strength) * np.clip(WIDEST * side, THIN, 1.0)
        half = np.array([0, side / 2 * (symbol != CARRIED)])
        below = layout.nodes[layer][source]
        above = layout.nodes[layer + 1][out]
        for line in ((below, centre - half), (centre + half, above)):
            look: Any = {"color": AXIS, "alpha": alpha, "lw": width}
            axes.plot(*np.transpose(line), zorder=EDGES_AT, **look)
        if symbol == CARRIED:
            continue
        alpha = max(alpha, PALEST)
        look = {"fc": "white", "ec": to_rgba(AXIS, alpha), "lw": min(2 * side, 0.6)}
        axes.add_patch(Rectangle(centre - side / 2, side, side, zorder=BOXES_AT, **look))
        curve = _curve(rows[["x", "y"]].to_numpy(dtype=float), centre, CURVE_PART * side)
        colour = GREY if ghost else VERMILLION if symbol else BLUE
        look = {"color": colour, "alpha": alpha, "lw": min(WIDEST * side, 1.2)}
        axes.plot(*curve.T, zorder=CURVES_AT, **look)
        points = min(BOX_TEXT[0], BOX_TEXT[1] * side)
        if symbol and not ghost and points >= READABLE:
            look = {"ha": "center", "va": "bottom", "size": points, "color": VERMILLION}
            x, y = centre
            up = y + side / 2 + LABEL_GAP
            text = shorten(symbol, MAX_SYMBOL)
            axes.text(x, up, text, zorder=TEXT_AT, bbox=WHITE, **look)


def _curve(points: Array, centre: Array, side: float) -> Array:
    """Return the points (points, 2) of an edge function scaled into a square around `centre`."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.stack([centre, centre])
    low = points.min(axis=0)
    high = points.max(axis=0)
    flat = high - low <= ROUNDING * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(centre + side * scaled)
