"""Figures of the edge functions of a KAN: one panel per edge, and a diagram of the network.

Both draw the table `edges`, which has the columns seed, layer, out, in, x, y, score and pruned; for
panels also x_data (x in the user's units) and seen (false outside the range of the data). Optional
columns are input_name and output_name (names of the user's columns), symbolic (a formula, or `=`
for an identity edge) and operation (`product` if the node at the end of the edge multiplies).
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
from pandas import DataFrame

from kanrun.figures.panels import one_panel, small_multiples, two_lines
from kanrun.figures.style import (
    AXIS,
    BLACK,
    BLUE,
    GREY,
    LABEL,
    VERMILLION,
    first_seed,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    write_powers,
)
from kanrun.points import Array

#: Columns that identify an edge: its layer and its nodes. `in` is a keyword of Python, so the
#: column is renamed.
KEYS = ["layer", "source", "out"]
TEXTS = ["input_name", "output_name", "symbolic", "operation"]
#: Height and width of a panel, including its text.
PANEL = (1.55, 1.3)
#: Horizontal and vertical spacing of panels, as fractions of their width and height.
SPACING = (0.24, 0.82)
#: A function whose range is smaller than this counts as constant.
ROUNDING = 1e-12
#: Largest number of characters in the label of a node, and in a line of a panel's title.
MAX_LETTERS = 17
#: Symbol of an identity edge, which is drawn as a line without a box.
CARRIED = "="
#: Vertical spacing of the layers of nodes.
LEVEL = 1.75
#: Largest side of the box around an edge function. Lines and text of smaller boxes are smaller by
#: the same factor.
BOX = 0.5
#: Smallest and largest width of a diagram.
WIDTHS = (1.8, 12.4)
#: Diameters of the circle and of the cross of a node that multiplies (points).
PRODUCT = (8, 4.5)
#: Largest size of text at nodes: in points, and in points per inch of width for one node.
NODE_TEXT = (8, 60)


@styled
def edges(table: DataFrame) -> Figure:
    """Draw the function of each edge of the first seed over its input range.

    Pruned edges are counted but not drawn. If more than 20 others remain, only the strongest
    relative to their layers are drawn. All panels of a layer share one vertical scale, so that a
    nearly constant function looks constant. The curve is thin and grey where there are no data.
    """
    # Half the length of the vertical axis of a panel, relative to the largest range of a function
    # in the same layer.
    room = 0.55
    beside = 0.2  # width of the space for the label of an axis
    above = 0.5  # height of the space for the title of a panel
    head = 0.2  # height of the space for a remark above the panels
    columns = 5  # number of panels in a row
    max_panels = 20  # largest number of panels of edge functions; the strongest are drawn
    rows = _read(table)
    pruned = len(rows[rows["pruned"]].drop_duplicates(KEYS))
    rows, remark = strongest_edges(rows[~rows["pruned"]], max_panels)
    hidden = f"pruned edges, which are hidden: {pruned}" if pruned else ""
    groups: Any = rows.groupby(KEYS)
    ends = groups["y"].agg(["min", "max"]).fillna(0.0)
    span = ends.diff(axis=1)["max"].groupby("layer").transform("max")
    # For a constant function, an axis fitted to the function's range would show only rounding
    # errors.
    half = (room * span).where(span > ROUNDING, 1.0)
    middle = ends.mean(axis=1)
    limits = np.stack([middle - half, middle + half], axis=1)
    figure, panels = small_multiples(len(limits), columns, *PANEL, room=head)
    # Text has fixed positions, since measuring it for a layout would take a third of the time.
    figure.set_layout_engine(None)
    width, height = figure.get_size_inches()
    top = 1 - (head + above) / height
    figure.subplots_adjust(beside / width, beside / height, 0.99, top, *SPACING)
    for panel, (_, edge), up in zip(panels, groups, limits, strict=True):
        _draw_panel(panel, edge.sort_values("x"), up)
    set_remark(figure, remark, hidden, y=1 - 0.05 / height)
    return figure


def _draw_panel(panel: Axes, rows: DataFrame, limits: Array) -> None:
    """Draw the function of one edge; the labels of both axes give their ends."""
    x = rows["x_data"].to_numpy(float)
    panel.plot(x, rows["y"], color=GREY, lw=0.6)
    panel.plot(x, rows["y"].where(rows["seen"]), color=BLUE)
    panel.grid(visible=False)
    panel.set(xlim=x[[0, -1]], ylim=limits, xticks=[], yticks=[])  # drawing ticks would be slow
    for axis, ends in ((panel.xaxis, x[[0, -1]]), (panel.yaxis, limits)):
        text = write_powers(" to ".join(map(number, ends))).replace("-", "\N{MINUS SIGN}")
        axis.set_label_text(text, size="x-small", color=GREY)
    edge = rows.iloc[0]
    source = edge["input_name"] or f"h{edge['layer']}.{edge['source']}"
    out = edge["output_name"] or f"h{edge['layer'] + 1}.{edge['out']}"
    title = two_lines(f"{source} → {out}", MAX_LETTERS)
    panel.set_title(f"{title}\nscore {number(edge['score'])}", size=8)


def _read(table: DataFrame) -> DataFrame:
    """Return the rows of the first seed, with all columns in TEXTS and the column `strength`.

    The strength of an edge is its score divided by the highest score of its layer; 0 if it is
    unknown. Values that are not finite become NaN.
    """
    rows = first_seed(table).rename(columns={"in": "source"})
    texts = rows.reindex(columns=TEXTS).astype(object)
    size = rows["score"].abs().replace(np.inf, np.nan).fillna(0.0)
    largest = size.groupby(rows["layer"]).transform("max").clip(lower=np.finfo(float).tiny)
    y = rows["y"].astype(float).replace([np.inf, -np.inf], np.nan)
    return rows.assign(**texts.where(texts.notna(), ""), strength=size / largest, y=y)


def strongest_edges(rows: DataFrame, most: int) -> tuple[DataFrame, str]:
    """Return the rows of at most `most` edges, and a remark if there are more.

    Identity edges come first, then the edges with the highest scores relative to their layers.
    """
    edges = rows.drop_duplicates(KEYS)
    if len(edges) <= most:
        return rows, ""
    ranks = edges["strength"].where(edges["symbolic"] != CARRIED, 2.0)
    shown = rows.merge(edges.loc[ranks.nlargest(most).index, KEYS], on=KEYS)
    return shown, note_of_some(most, len(edges), "edges, the strongest of their layers")


@styled
def network_diagram(table: DataFrame) -> Figure:
    """Draw the first seed's network, inputs below and outputs above.

    If there are more than 60 edges, only the strongest relative to their layers are drawn. The
    width and opacity of an edge grow with its score, relative to the highest score of its layer. A
    formula is written at its edge, which then has another colour. Pruned edges are pale.
    """
    diagram = lay_out(table)
    figure, axes = one_panel(diagram.height, width=diagram.width, room=0)
    draw_network(axes, diagram)
    set_remark(figure, diagram.remark)
    return figure


@dataclass(frozen=True)
class Diagram:
    """Layout of the network diagram of one seed: positions of its nodes and boxes, in inches.

    Attributes:
        table: Rows of all edges that are drawn.
        edges: One row for each of these edges, with the columns `across`, `up` (centre of its box)
            and `side` (of its box).
        width: Width of the diagram.
        nodes: For each layer of nodes, inputs first, their positions, shape (count, 2).
        names: Labels of the inputs and of the outputs, by their numbers.
        remark: States that some edges are not drawn; "" if all are.
    """

    table: DataFrame
    edges: DataFrame
    width: float
    nodes: list[Array]
    names: tuple[dict[int, str], dict[int, str]]
    remark: str

    @property
    def height(self) -> float:
        """Height of the diagram, including its labels."""
        around = 0.6  # height of the labels and margins above and below the network
        upright = map(self.upright, self.names, (self.nodes[0], self.nodes[-1]))
        return LEVEL * (len(self.nodes) - 1) + around + sum(upright)

    def upright(self, names: dict[int, str], level: Array) -> float:
        """Return the height of the labels of a layer if they are vertical; 0 if horizontal.

        `level` has the positions of the nodes, shape (count, 2).
        """
        letter = 0.065  # width of one letter in a label
        length = letter * max(map(len, names.values()), default=0)
        return length if length > self.width / len(level) else 0.0


def lay_out(table: DataFrame) -> Diagram:
    """Compute the layout of the network in the table `edges`."""
    node_room = 0.45  # preferred width of a diagram per node in its fullest layer
    box_room = 0.62  # preferred width of a diagram per box in its fullest layer
    # Largest side of a box, as a fraction of the width that is available for one box.
    box_part = 0.8
    max_edges = 60  # largest number of edges of a diagram; the strongest are drawn
    rows = _read(table)
    every = rows.drop_duplicates(KEYS)
    shown, remark = strongest_edges(rows, max_edges)
    # Boxes are sorted by the inputs of their edges, so that few lines below them cross.
    edges = shown.drop_duplicates(KEYS).sort_values(KEYS)
    layer = every["layer"]
    nodes = np.ones(layer.max() + 2, dtype=int)
    np.maximum.at(nodes, [*layer, *(layer + 1)], [*(every["source"] + 1), *(every["out"] + 1)])
    inside = edges.groupby("layer")["layer"]
    counts = inside.transform("size")
    width = float(np.clip(max(box_room * counts.max(), node_room * nodes.max()), *WIDTHS))
    edges = edges.assign(
        across=width * (inside.cumcount() + 0.5) / counts,
        up=LEVEL * (edges["layer"] + 0.5),
        side=(box_part * width / counts).clip(upper=BOX),
    )
    levels = [
        np.stack([width * (np.arange(count) + 0.5) / count, np.full(count, LEVEL * level)], 1)
        for level, count in enumerate(nodes)
    ]
    names = (
        _names(every[layer == 0], "source", "input_name", "x"),
        _names(every[layer == layer.max()], "out", "output_name", "y"),
    )
    return Diagram(shown, edges, width, levels, names, remark)


def _names(edges: DataFrame, column: str, name: str, letter: str) -> dict[int, str]:
    """Return the labels of inputs or outputs by their numbers, such as x0 if they have no name."""
    texts = edges.set_index(column)[name].items()
    return {int(str(i)): shorten(text or f"{letter}{i}", MAX_LETTERS) for i, text in texts}


def draw_network(axes: Axes, diagram: Diagram) -> None:
    """Draw a diagram into `axes`. One unit of the axes is an inch, or less if there is no room."""
    node = 5  # diameter of a node (points)
    beside_node = 6  # distance of a label from its node (points)
    highest = LEVEL * (len(diagram.nodes) - 1)
    axes.set(xlim=(0, diagram.width), ylim=(0, highest), aspect="equal")
    axes.set_axis_off()
    curves: Any = diagram.table.sort_values("x").groupby(KEYS)
    for edge, (_, rows) in zip(diagram.edges.to_dict("records"), curves, strict=True):
        _draw_edge(axes, diagram, edge, rows[["x", "y"]].dropna())
    look: Any = {"color": BLACK, "clip_on": False, "zorder": 4}
    axes.plot(*np.concatenate(diagram.nodes).T, "o", ms=node, **look)
    products = diagram.edges[diagram.edges["operation"] == "product"]
    for layer, out in products[["layer", "out"]].drop_duplicates().to_numpy():
        place = diagram.nodes[layer + 1][out]
        axes.plot(*place, "o", ms=PRODUCT[0], **look)
        axes.plot(*place, "x", ms=PRODUCT[1], mew=1.2, **{**look, "color": "white"})
    ends = diagram.nodes[0], diagram.nodes[-1]
    for names, level, side in zip(diagram.names, ends, (-1, 1), strict=True):
        size = min(NODE_TEXT[0], NODE_TEXT[1] * diagram.width / len(level))
        look = {"size": size, "rotation": 90 * bool(diagram.upright(names, level))}
        look |= {"va": "bottom" if side > 0 else "top", **LABEL}
        for index, text in names.items():
            axes.annotate(text, level[index], (0, side * beside_node), **look)


def _draw_edge(axes: Axes, diagram: Diagram, edge: Any, points: DataFrame) -> None:
    """Draw the box of an edge with its function (x, y), and lines to both nodes."""
    readable = 3  # smallest size of text at boxes (points)
    box_text = 7  # largest size of text at boxes (points)
    thickest = 1.8  # width of the strongest edge (points)
    weakest = 0.2  # opacity of the weakest edge
    curve_part = 0.84  # side of an edge function's curve, as a fraction of its box
    symbol = edge["symbolic"]
    side = edge["side"]
    ghost = edge["pruned"]
    scale = side / BOX
    centre = np.array([edge["across"], edge["up"]])
    half = np.array([0, side / 2 * (symbol != CARRIED)])
    alpha = weakest + (1 - weakest) * (0.0 if ghost else edge["strength"] ** 0.5)
    below = diagram.nodes[edge["layer"]][edge["source"]]
    above = diagram.nodes[edge["layer"] + 1][edge["out"]]
    for line in ((below, centre - half), (centre + half, above)):
        axes.plot(
            *np.transpose(line), color=AXIS, alpha=alpha, lw=thickest * alpha * scale, zorder=1
        )
    if symbol == CARRIED:
        return
    look: Any = {"fc": "white", "ec": to_rgba(AXIS, alpha), "lw": 0.6 * scale}
    axes.add_patch(Rectangle(centre - side / 2, side, side, zorder=2, **look))
    low = points.min()
    high = points.max()
    span = high - low
    span = span.where(span > ROUNDING * high.abs().clip(lower=1.0), np.inf)
    curve = centre + curve_part * side * (points - (low + high) / 2) / span
    colour = GREY if ghost else VERMILLION if symbol else BLUE
    axes.plot(*curve.to_numpy().T, color=colour, alpha=alpha, lw=1.2 * scale, zorder=3)
    if symbol and not ghost and box_text * scale >= readable:
        look = {"va": "bottom", "size": box_text * scale, "color": VERMILLION, **LABEL}
        axes.annotate(shorten(symbol, MAX_LETTERS), centre + half, (0, 3), **look)
