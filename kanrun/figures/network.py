"""Figures of the edge functions of a KAN: one panel per edge, and a diagram of the network.

Lengths are in inches unless another unit is given.
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

from kanrun.figures.panels import one_panel, small_multiples
from kanrun.figures.style import (
    AXIS,
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    Look,
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
#: Number of panels in a row.
COLUMNS = 5
#: Height and width of a panel, including its texts.
PANEL = (1.55, 1.3)
#: Height of the space for a remark above the panels.
HEAD = 0.2
#: Height of the space for the title of a panel.
ABOVE = 0.5
#: Width of the space for the label of an axis.
BESIDE = 0.2
#: Horizontal and vertical distance between panels, as fractions of their width and height.
SPACING = (0.24, 0.82)
#: Half the length of the vertical axis of a panel, relative to the largest range of a function in
#: the same layer.
ROOM = 0.55
#: A function whose range is smaller than this counts as constant.
ROUNDING = 1e-12
#: Largest number of letters in the label of a node.
MAX_LETTERS = 18
#: Largest number of letters in a line of a panel's title.
MAX_TITLE = 17
#: Largest number of letters in the symbol of an edge.
MAX_SYMBOL = 16
#: Symbol of an identity edge, which is drawn as a line without a box.
CARRIED = "="
#: Vertical distance between two layers of nodes.
LEVEL = 1.75
#: Height of the labels and margins above and below the network.
AROUND = 0.6
#: Largest side of the box around an edge function.
BOX = 0.5
#: Largest side of a box, as a fraction of the width that is available for one box.
BOX_PART = 0.8
#: Side of an edge function's curve, as a fraction of its box.
CURVE_PART = 0.84
#: Preferred width of a diagram per box in its fullest layer.
BOX_ROOM = 0.62
#: Preferred width of a diagram per node in its fullest layer.
NODE_ROOM = 0.45
#: Smallest width of a diagram.
MIN_WIDTH = 1.8
#: Largest width of a diagram.
MAX_WIDTH = 12.4
#: Width of one letter in a label.
LETTER = 0.065
#: Distance of a label from its node (points).
BESIDE_NODE = 6
#: Opacity of a pruned edge.
GHOST = 0.16
#: Opacity of the weakest edge.
WEAKEST = 0.12
#: Opacity of the palest box.
PALEST = 0.25
#: Width of the weakest edge (points).
THIN = 0.4
#: Difference in width between the strongest and the weakest edge (points).
THICKER = 1.4
#: Largest width of a line near a box, in points per inch of the box's side.
WIDEST = 2.5
#: Diameter of a node (points).
NODE = 5
#: Diameters of the circle and of the cross of a node that multiplies (points).
PRODUCT = (8, 4.5)
#: Largest size of text at nodes (points), and largest size per inch of width for one node.
NODE_TEXT = (8, 60)
#: Largest size of text at boxes (points), and largest size per inch of the box's side.
BOX_TEXT = (7, 17.5)
#: Smallest size of text at boxes (points). Smaller text is left out.
READABLE = 3
#: Look of texts whose distance from a node or box is given in points.
OFFSET: Look = {"textcoords": "offset points", "zorder": 5}
#: Background of the text of a box.
WHITE = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6}


@styled
def edges(table: DataFrame) -> Figure:
    """Draw the function of each edge (layer, out, in) of the first seed over its input range.

    `table` has the columns seed, layer, out, in, x, y and score. Optional columns are input_name,
    output_name, pruned, x_data (x in the user's units) and seen (false outside the range of the
    data). Pruned edges are counted but not drawn. If more than 20 others remain, only the strongest
    relative to their layers are drawn. All panels of a layer share one vertical scale, so that a
    nearly constant function looks constant. The curve is thin and grey where there are no data.
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
    # If the axis fitted the range of a constant function, it would show only rounding errors.
    half = (ROOM * span).where(span > ROUNDING, 1.0)
    limits = np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)
    ends = groups.head(1).sort_values(KEYS)
    scores = "\nscore " + ends["score"].astype(float).map(number)
    titles = map(str.__add__, titles_of(ends), scores)
    figure, panels = small_multiples(len(ends), COLUMNS, *PANEL, room=HEAD)
    # Texts have fixed places, since measuring them for a layout takes a third of the time.
    figure.set_layout_engine(None)
    width, height = figure.get_size_inches()
    top = 1 - (HEAD + ABOVE) / height
    figure.subplots_adjust(BESIDE / width, BESIDE / height, 0.99, top, *SPACING)
    for panel, (_, rows), title, up in zip(panels, groups, titles, limits, strict=True):
        _draw_panel(panel, rows.sort_values("x"), up)
        panel.set_title(title, size=8)
    set_remark(figure, remark, y=1 - 0.05 / height)
    return figure


def _draw_panel(panel: Axes, rows: DataFrame, limits: Array) -> None:
    """Draw the function of one edge; the labels of both axes give their ends."""
    x = rows["x_data" if "x_data" in rows else "x"].to_numpy(float)
    y = rows["y"]
    if "seen" in rows:
        panel.plot(x, y, color=GREY, lw=0.6)
        y = y.where(as_bool(rows["seen"]))
    panel.plot(x, y, color=BLUE)
    panel.grid(visible=False)
    panel.set(xlim=x[[0, -1]], ylim=limits, xticks=[], yticks=[])  # drawing ticks would be slow
    for axis, ends in ((panel.xaxis, x[[0, -1]]), (panel.yaxis, limits)):
        low, high = (write_powers(f"{float(f'{end:.3g}'):.6g}") for end in ends)
        text = f"{low} to {high}".replace("-", "\N{MINUS SIGN}")
        axis.set_label_text(text, size="x-small", color=GREY)


def strongest_edges(table: DataFrame, most: int = MAX_EDGES) -> tuple[DataFrame, str]:
    """Return the rows of at most `most` edges, and a remark if there are more.

    Identity edges come first, then the edges with the highest scores relative to their layers.
    """
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= most:
        return table, ""
    relative = _relative_scores(edges).where(_texts(edges, "symbolic") != CARRIED, 2.0)
    shown = table.merge(edges.loc[relative.nlargest(most).index, KEYS], on=KEYS)
    return shown, note_of_some(most, len(edges), "edges, the strongest of their layers")


def _relative_scores(edges: DataFrame) -> Series[float]:
    """Return each edge's score divided by the highest score of its layer; 0 if it is unknown."""
    size = edges["score"].abs().replace(np.inf, np.nan).fillna(0.0)
    return size / size.groupby(edges["layer"]).transform("max").clip(lower=np.finfo(float).tiny)


def are_pruned(table: DataFrame) -> Series[bool]:
    """Return which rows belong to pruned edges; none if there is no column `pruned`."""
    return as_bool(table.get("pruned", Series(False, index=table.index)))


def titles_of(edges: DataFrame) -> list[str]:
    """Return the title of each edge, as in "x0 → h1.2" for an edge to node 2 of layer 1.

    Inputs and outputs have their names if the table has them. Long titles have two lines.
    """
    names = zip(_texts(edges, "input_name"), _texts(edges, "output_name"), strict=True)
    titles = []
    for (layer, out, source), ends in zip(edges[KEYS].to_numpy(dtype=int), names, strict=True):
        first = ends[0] or f"h{layer}.{source}"
        last = ends[1] or f"h{layer + 1}.{out}"
        between = " → " if len(first + last) < MAX_TITLE else " →\n"
        titles.append(shorten(first, MAX_TITLE) + between + shorten(last, MAX_TITLE))
    return titles


def _texts(rows: DataFrame, column: str) -> Series[str]:
    """Return a column as text; missing entries, or a missing column, become empty text."""
    texts = rows.get(column, Series("", index=rows.index))
    return texts.astype(object).where(texts.notna(), "").astype(str)


@styled
def network_diagram(table: DataFrame) -> Figure:
    """Draw the first seed's network, inputs below and outputs above.

    `table` has the columns of `edges`. If there are more than 60 edges, only the strongest relative
    to their layers are drawn. The width and opacity of an edge grow with its score, relative to the
    highest score of its layer. Further columns are optional: `symbolic`, a formula that is written
    at the edge, which then has another colour (`=` marks an identity edge, drawn as a line without
    a box); `pruned`, for edges that are drawn pale; and `operation`, which is `product` if the node
    at the end of the edge multiplies.
    """
    diagram = lay_out(first_seed(table))
    figure, axes = one_panel(diagram.height, width=diagram.width, room=0)
    draw_network(axes, diagram)
    set_remark(figure, diagram.remark)
    return figure


@dataclass(frozen=True)
class Diagram:
    """Layout of the network diagram of one seed: positions of its nodes and boxes, in inches.

    Attributes:
        table: Rows of all edges that are drawn.
        edges: One row (the first) for each of these edges.
        width: Width of the diagram.
        nodes: For each layer of nodes, inputs first, their positions, shape (count, 2).
        boxes: Centres of the boxes of the edges, shape (edges, 2).
        sides: Sides of the boxes, shape (edges,).
        names: Labels of the inputs and of the outputs, by their numbers.
        remark: States that some edges are not drawn; "" if all are.
    """

    table: DataFrame
    edges: DataFrame
    width: float
    nodes: list[Array]
    boxes: Array
    sides: Array
    names: tuple[dict[int, str], dict[int, str]]
    remark: str

    @property
    def height(self) -> float:
        """Height of the diagram, including its labels."""
        upright = map(self.upright, self.names, (self.nodes[0], self.nodes[-1]))
        return LEVEL * (len(self.nodes) - 1) + AROUND + sum(upright)

    def upright(self, names: dict[int, str], level: Array) -> float:
        """Return the height of the labels of a layer if they are vertical; 0 if horizontal.

        `level` has the positions of the nodes, shape (count, 2).
        """
        length = LETTER * max(map(len, names.values()), default=0)
        return length if length > self.width / len(level) else 0.0


def lay_out(table: DataFrame) -> Diagram:
    """Compute the layout of the network in `table`, which has the columns of `network_diagram`."""
    shown, remark = strongest_edges(table)
    # Boxes are sorted by the inputs of their edges, so that few lines below them cross.
    edges = shown.drop_duplicates(KEYS).sort_values(["layer", "in", "out"])
    every = table.drop_duplicates(KEYS)
    layer, out, source = every[KEYS].to_numpy(dtype=int).T
    depth = int(layer.max(initial=0)) + 1
    nodes = np.ones(depth + 1, dtype=int)
    np.maximum.at(nodes, [*layer, *(layer + 1)], [*(source + 1), *(out + 1)])
    layer = edges["layer"].to_numpy(dtype=int)
    counts = np.bincount(layer, minlength=depth)
    wanted = max(BOX_ROOM * counts.max(), NODE_ROOM * nodes.max())
    width = float(np.clip(wanted, MIN_WIDTH, MAX_WIDTH))

    def places(count: int, level: float) -> Array:
        across = width * (np.arange(count) + 0.5) / count
        return np.column_stack([across, np.full(count, LEVEL * level)])

    return Diagram(
        shown,
        edges,
        width,
        [places(count, level) for level, count in enumerate(nodes)],
        np.concatenate([places(count, level + 0.5) for level, count in enumerate(counts)]),
        np.minimum(BOX, BOX_PART * width / counts[layer]),
        (
            _names(every[every["layer"] == 0], "in", "input_name", "x"),
            _names(every[every["layer"] == depth - 1], "out", "output_name", "y"),
        ),
        remark,
    )


def _names(edges: DataFrame, column: str, name: str, letter: str) -> dict[int, str]:
    """Return the labels of inputs or outputs by their numbers, such as x0 if they have no name."""
    nodes = edges.drop_duplicates(column)
    texts = zip(nodes[column].astype(int), _texts(nodes, name), strict=True)
    return {i: shorten(text or f"{letter}{i}", MAX_LETTERS) for i, text in texts}


def draw_network(axes: Axes, diagram: Diagram) -> None:
    """Draw a diagram into `axes`. One unit of the axes is an inch, or less if there is no room."""
    highest = LEVEL * (len(diagram.nodes) - 1)
    axes.set(xlim=(0, diagram.width), ylim=(0, highest), aspect="equal")
    axes.set_axis_off()
    _draw_edges(axes, diagram)
    look: Any = {"color": BLACK, "clip_on": False, "zorder": 4}
    axes.plot(*np.concatenate(diagram.nodes).T, "o", ms=NODE, **look)
    products = diagram.edges[_texts(diagram.edges, "operation") == "product"]
    for layer, out in products[["layer", "out"]].drop_duplicates().to_numpy():
        place = diagram.nodes[layer + 1][out]
        axes.plot(*place, "o", ms=PRODUCT[0], **look)
        axes.plot(*place, "x", ms=PRODUCT[1], mew=1.2, **{**look, "color": "white"})
    ends = diagram.nodes[0], diagram.nodes[-1]
    for names, level, side in zip(diagram.names, ends, (-1, 1), strict=True):
        size = min(NODE_TEXT[0], NODE_TEXT[1] * diagram.width / len(level))
        look = {"size": size, "rotation": 90 * bool(diagram.upright(names, level))}
        look |= {"ha": "center", "va": "bottom" if side > 0 else "top"}
        for index, text in names.items():
            axes.annotate(text, level[index], (0, side * BESIDE_NODE), **OFFSET, **look)


def _draw_edges(axes: Axes, diagram: Diagram) -> None:
    """Draw the edges: boxes with their functions, and lines to both nodes."""
    edges = diagram.edges
    order = ["layer", "in", "out"]
    groups: Any = diagram.table.sort_values("x").groupby(order)
    ghosts = are_pruned(edges)
    strengths = _relative_scores(edges).where(~ghosts, 0.0) ** 0.5
    looks = _texts(edges, "symbolic"), ghosts, strengths, diagram.boxes, diagram.sides
    for ((layer, source, out), rows), symbol, ghost, strength, centre, side in zip(
        groups, *looks, strict=True
    ):
        alpha = GHOST if ghost else WEAKEST + (1 - WEAKEST) * strength
        width = (THIN + THICKER * strength) * np.clip(WIDEST * side, THIN, 1.0)
        half = np.array([0, side / 2 * (symbol != CARRIED)])
        below = diagram.nodes[layer][source]
        above = diagram.nodes[layer + 1][out]
        for line in ((below, centre - half), (centre + half, above)):
            axes.plot(*np.transpose(line), color=AXIS, alpha=alpha, lw=width, zorder=1)
        if symbol == CARRIED:
            continue
        alpha = max(alpha, PALEST)
        look: Any = {"fc": "white", "ec": to_rgba(AXIS, alpha), "lw": min(2 * side, 0.6)}
        axes.add_patch(Rectangle(centre - side / 2, side, side, zorder=2, **look))
        colour = GREY if ghost else VERMILLION if symbol else BLUE
        curve = _curve(rows[["x", "y"]].to_numpy(dtype=float), centre, CURVE_PART * side)
        look = {"color": colour, "alpha": alpha, "lw": min(WIDEST * side, 1.2), "zorder": 3}
        axes.plot(*curve.T, **look)
        points = min(BOX_TEXT[0], BOX_TEXT[1] * side)
        if symbol and not ghost and points >= READABLE:
            look = {"ha": "center", "va": "bottom", "size": points, "color": VERMILLION}
            text = shorten(symbol, MAX_SYMBOL)
            axes.annotate(text, centre + half, (0, 3), bbox=WHITE, **OFFSET, **look)


def _curve(points: Array, centre: Array, side: float) -> Array:
    """Return the points of an edge function, (points, 2), scaled to a square around `centre`."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.stack([centre, centre])
    low = points.min(axis=0)
    high = points.max(axis=0)
    flat = high - low <= ROUNDING * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(centre + side * scaled)
