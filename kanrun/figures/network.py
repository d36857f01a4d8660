"""The edge functions of a KAN: one panel each, and as a diagram with nodes in layers.

Lengths of the diagram are in inches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
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
    set_remark,
    shorten,
    styled,
)

KEYS = ["layer", "out", "in"]
MAX_PANELS, MAX_EDGES = 20, 60
#: Columns of panels, width and height of a panel, the box of its function (left, bottom, width,
#: height) as fractions of it, and the distance of numbers from the box as a fraction of that.
COLUMNS, PANEL, BOX_IN_PANEL, BESIDE = 5, (1.45, 1.3), (0.22, 0.12, 0.72, 0.62), 0.03
#: Height of the remark above the panels or above the diagram, and its distance from the edge.
HEAD, REMARK_AT = 0.22, 0.05
#: The axis of a function is this much longer than the function's range in either direction.
ROOM = 0.55
#: A function that varies by less is constant.
ROUNDING = 1e-12
MAX_LETTERS, MAX_TITLE, MAX_SYMBOL = 18, 10, 16
#: Label of an identity edge, which is drawn as a line alone.
CARRIED = "="
LINE = "#4D4D4D"
#: Side of the largest box of an edge function, the part of the room of a box that it takes, the
#: part of a box that the function takes, distance of boxes from nodes, margin of the figure.
BOX, BOX_PART, CURVE_PART, GAP, MARGIN = 0.5, 0.8, 0.84, 0.6, 0.3
#: Width of a letter of a label, height of a label, its distance from the figure's edge and from its
#: node.
LETTER, LABEL, LABEL_EDGE, LABEL_NODE = 0.065, 0.15, 0.2, 0.1
#: Wanted room of a box and of a node, and the widths of a figure.
BOX_ROOM, NODE_ROOM, MIN_WIDTH, MAX_WIDTH = 0.62, 0.45, 2.4, 13.0
#: Opacity of a pruned edge, of the weakest edge, and of the palest box.
GHOST, WEAKEST, PALEST = 0.16, 0.12, 0.25
#: Width of the weakest edge, and what the strongest has more.
THIN, THICKER = 0.4, 1.4
#: Area of a node, and sizes of the circle and of the cross of one that multiplies.
NODE, PRODUCT = 26, (8, 4.5)
#: Largest text at nodes and at boxes (points), and points by inches of room; less than READABLE is
#: not written at boxes.
NODE_TEXT, BOX_TEXT, READABLE = (8, 60), (7, 17.5), 3
#: Distance of a box from its text, and what is behind that.
LABEL_GAP, WHITE = 0.04, {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.6}
#: What is drawn over what.
EDGES_AT, BOXES_AT, CURVES_AT, NODES_AT, TEXT_AT = range(1, 6)
Array = NDArray[np.float64]


@styled
def edges(table: pandas.DataFrame) -> Figure:
    """Draw the function of each edge (layer, out, in) of the first seed over its input range.

    `table` has the columns seed, layer, out, in, x, y, score, and may have input_name, output_name,
    pruned, x_data (x in the user's units) and seen (false beyond the data). Pruned edges are
    counted and not drawn; of many others the 20 strongest, relative to their layers, are. All
    panels of a layer have one scale, so that a dead edge looks dead. The function is thin and grey
    where there are no data.
    """
    table = first_seed(table)
    pruned = are_pruned(table)
    without, kept = len(table[pruned].drop_duplicates(KEYS)), table[~pruned]
    table = strongest_of_all(kept, MAX_PANELS)
    remarks = [left_out(kept, table)]
    remarks += [f"{without} pruned edge{'s' * (without > 1)} not drawn"] * (without > 0)
    panels = len(table.drop_duplicates(KEYS))
    columns = max(1, min(COLUMNS, panels))
    lines = max(1, -(-panels // columns))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines + HEAD))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, columns), ylim=(-lines, HEAD / PANEL[1]))
    axes.set_axis_off()
    if panels:
        _draw_edges(axes, table.sort_values([*KEYS, "x"]), columns)
    set_remark(figure, "; ".join(filter(None, remarks)), y=1 - REMARK_AT / figure.get_figheight())
    return figure


def strongest_of_all(table: pandas.DataFrame, most: int = MAX_EDGES) -> pandas.DataFrame:
    """Return the rows of the edges with the highest scores relative to their layers, 60 at most.

    Edges that carry a value on come first.
    """
    edges = table.drop_duplicates(KEYS)
    if len(edges) <= most:
        return table
    size = edges["score"].abs().fillna(0.0) if "score" in edges else 0.0 * edges["x"]
    relative = size / size.groupby(edges["layer"]).transform("max").clip(lower=np.finfo(float).tiny)
    relative = relative.where(_texts(edges, "symbolic") != CARRIED, 2.0)
    return table.merge(edges.loc[relative.nlargest(most).index, KEYS], on=KEYS)


def left_out(table: pandas.DataFrame, shown: pandas.DataFrame) -> str:
    """Return a remark on the edges of `table` that are not shown, or "" if all are."""
    total, drawn = (len(each.drop_duplicates(KEYS)) for each in (table, shown))
    return note_of_some(drawn, total, "edges, the strongest of their layers")


def are_pruned(table: pandas.DataFrame) -> pandas.Series[bool]:
    """Return which rows are of pruned edges: none if the table does not say."""
    return as_bool(table.get("pruned", pandas.Series(False, index=table.index)))


def titles_of(edges: pandas.DataFrame, *, scored: bool = False) -> list[str]:
    """Return `source → node` of each edge, with the names of inputs and outputs if it has them.

    A second line has the score, if it is `scored` and known.
    """
    ends = [_texts(edges, column) for column in ("input_name", "output_name")]
    titles = []
    for (layer, out, source), *names in zip(edges[KEYS].to_numpy(dtype=int), *ends, strict=True):
        known = zip(names, (f"h{layer}.{source}", f"h{layer + 1}.{out}"), strict=True)
        titles.append(" → ".join(shorten(name or node, MAX_TITLE) for name, node in known))
    if scored and "score" in edges:
        scores = edges["score"].astype(float)
        return [f"{a}\nscore {number(b)}" for a, b in zip(titles, scores, strict=True)]
    return titles


def _texts(rows: pandas.DataFrame, column: str) -> pandas.Series[str]:
    """Return a column of text; empty texts where it is missing."""
    texts = rows.get(column, pandas.Series("", index=rows.index))
    return texts.astype(object).where(texts.notna(), "").astype(str)


def _draw_edges(axes: Axes, table: pandas.DataFrame, columns: int) -> None:
    """Draw each edge function into a box below its title, with the limits of both axes.

    `table` is sorted by edge and x. Panels are boxes of one axes, and all of a kind is one
    collection: 40 axes with their ticks take 4 CPU s. A box is as high as the largest range of its
    layer, around the middle of its function.
    """
    ends, groups = table.drop_duplicates(KEYS), table.groupby(KEYS, sort=False)
    which, x, y = groups.ngroup(), table["x_data" if "x_data" in table else "x"], table["y"]
    ranges = x.groupby(which).agg(["min", "max"]).to_numpy(dtype=float)
    values = y.where(np.isfinite(y)).groupby(which).agg(["min", "max"]).to_numpy(dtype=float)
    layers = pandas.Series(values[:, 1] - values[:, 0])
    span = layers.groupby(ends["layer"].to_numpy()).transform("max").fillna(0).to_numpy()
    # A box around a constant would show nothing but rounding errors.
    half = np.where(span > ROUNDING, ROOM * span, 1.0)
    limits = np.nan_to_num(values.mean(axis=1))[:, None] + half[:, None] * [-1, 1]
    below, across = np.divmod(np.arange(len(ends)), columns)
    left, bottom, width, height = BOX_IN_PANEL
    corner = np.column_stack([left + across, bottom - below - 1])
    low = np.column_stack([ranges[:, 0], limits[:, 0]])[which]
    size = np.column_stack([ranges[:, 1], limits[:, 1]])[which] - low
    unit = (np.column_stack([x, y]) - low) / np.where(size > 0, size, 1)
    curves, box = corner[which] + unit * [width, height], np.array([width, height])
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    axes.add_collection(PolyCollection(corner[:, None] + square * box, fc="none", ec=PALE, lw=0.6))
    starts = np.flatnonzero(np.diff(which)) + 1
    if "seen" in table:
        axes.add_collection(LineCollection(np.split(curves, starts), colors=GREY, lw=0.6))
        curves = np.where(as_bool(table["seen"]).to_numpy()[:, None], curves, np.nan)
    axes.add_collection(LineCollection(np.split(curves, starts), colors=BLUE))
    for title, place in zip(titles_of(ends, scored=True), corner, strict=True):
        x, y = place + box * (0.5, 1 + BESIDE)
        axes.text(x, y, title, ha="center", va="bottom")
    for ends_of, at, ha, va in (
        (ranges[:, 0], (0, -BESIDE), "left", "top"),
        (ranges[:, 1], (1, -BESIDE), "right", "top"),
        (limits[:, 0], (-BESIDE, 0), "right", "bottom"),
        (limits[:, 1], (-BESIDE, 1), "right", "top"),
    ):
        for value, place in zip(ends_of, corner, strict=True):
            text = number(float(f"{value:.2g}")).replace("-", "\N{MINUS SIGN}")
            x, y = place + box * at
            axes.text(x, y, text, ha=ha, va=va, size="x-small", color=GREY)


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
    remark = left_out(table, shown)
    layout = lay_out(shown, heading=bool(remark))
    figure = Figure(figsize=(layout.width, layout.height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_network(axes, shown, layout)
    set_remark(figure, remark, y=1 - REMARK_AT / layout.height)
    return figure


@dataclass(frozen=True)
class Layout:
    """Size of a diagram, and the places (count, 2) of its nodes and boxes.

    Attributes:
        nodes: Places of the nodes by level, inputs first.
        boxes: Centres of the boxes by layer; `sides` are their sides.
        labels: Labels of inputs and of outputs by their numbers; `upright` says which of both stand
            upright for lack of room.
    """

    width: float
    height: float
    nodes: list[Array]
    boxes: list[Array]
    sides: list[float]
    labels: tuple[dict[int, str], dict[int, str]]
    upright: tuple[bool, bool]


def lay_out(table: pandas.DataFrame, *, heading: bool = False) -> Layout:
    """Return the layout of the network in `table` (one seed), with room for a heading."""
    edges = table.drop_duplicates(KEYS)
    depth = int(edges["layer"].max()) + 1 if len(edges) else 1
    last = edges.groupby("layer")[["in", "out"]].max().reindex(range(-1, depth + 1), fill_value=0)
    nodes = [int(max(last["in"][i], last["out"][i - 1])) + 1 for i in range(depth + 1)]
    counts = [max(1, int((edges["layer"] == layer).sum())) for layer in range(depth)]
    wanted = max(BOX_ROOM * max(counts), NODE_ROOM * max(nodes)) + 2 * MARGIN
    width = min(MAX_WIDTH, max(MIN_WIDTH, wanted))
    room = width - 2 * MARGIN
    sides = [min(BOX, BOX_PART * room / count) for count in counts]
    inputs = _labels(edges[edges["layer"] == 0], "in", "input_name", "x")
    outputs = _labels(edges[edges["layer"] == depth - 1], "out", "output_name", "y")
    lengths = [LETTER * max(map(len, texts.values()), default=1) for texts in (inputs, outputs)]
    upright = lengths[0] > room / nodes[0], lengths[1] > room / nodes[-1]
    below, above = (
        LABEL_EDGE + (length if turned else LABEL)
        for length, turned in zip(lengths, upright, strict=True)
    )
    levels = below + np.cumsum([0.0, *(2 * GAP + side / BOX_PART for side in sides)])

    def places(count: int, level: float) -> Array:
        across = MARGIN + room * (np.arange(count) + 0.5) / count
        return np.column_stack([across, np.full(count, level)])

    middles = (levels[:-1] + levels[1:]) / 2
    height = float(levels[-1]) + above + HEAD * heading
    at_nodes, at_boxes = (
        list(map(places, numbers, heights))
        for numbers, heights in ((nodes, levels), (counts, middles))
    )
    return Layout(width, height, at_nodes, at_boxes, sides, (inputs, outputs), upright)


def _labels(edges: pandas.DataFrame, column: str, names: str, letter: str) -> dict[int, str]:
    ends = edges.drop_duplicates(column)
    return {
        int(index): shorten(text or f"{letter}{index}", MAX_LETTERS)
        for index, text in zip(ends[column], _texts(ends, names), strict=True)
    }


def draw_network(axes: Axes, table: pandas.DataFrame, layout: Layout) -> None:
    """Draw a network with one seed into `axes`, whose limits become the layout's size."""
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    axes.set_axis_off()
    for layer in range(len(layout.boxes)):
        _draw_layer(axes, layout, layer, table[table["layer"] == layer])
    x, y = np.concatenate(layout.nodes).T
    axes.scatter(x, y, s=NODE, c=BLACK, zorder=NODES_AT)
    products = table[_texts(table, "operation") == "product"].drop_duplicates(["layer", "out"])
    for layer, out in products[["layer", "out"]].to_numpy():
        place = layout.nodes[layer + 1][out]
        axes.plot(*place, "o", ms=PRODUCT[0], color=BLACK, zorder=NODES_AT)
        axes.plot(*place, "x", ms=PRODUCT[1], mew=1.2, color="white", zorder=TEXT_AT)
    for labels, level, shift, va, upright in zip(
        layout.labels,
        (layout.nodes[0], layout.nodes[-1]),
        (-LABEL_NODE, LABEL_NODE),
        ("top", "bottom"),
        layout.upright,
        strict=True,
    ):
        largest, per_inch = NODE_TEXT
        points = min(largest, per_inch * (layout.width - 2 * MARGIN) / len(level))
        look: Any = {"ha": "center", "va": va, "size": points, "rotation": 90 * upright}
        for index, text in labels.items():
            x, y = level[index]
            axes.text(x, y + shift, text, zorder=TEXT_AT, **look)


def _draw_layer(axes: Axes, layout: Layout, layer: int, rows: pandas.DataFrame) -> None:
    """Draw the edges of one layer: boxes with their functions, each joined to its two nodes."""
    # Boxes stand in the order of their inputs, so that the lines below them hardly cross.
    edges = rows.drop_duplicates(KEYS).sort_values(["in", "out"])
    symbols, ghosts = _texts(edges, "symbolic").to_numpy(), are_pruned(edges).to_numpy()
    boxed = symbols != CARRIED
    scores = edges["score"].abs().to_numpy(float) if "score" in edges else np.ones(len(edges))
    scores = np.nan_to_num(scores, posinf=0.0)
    strength = np.sqrt(scores / highest) if (highest := scores.max()) > 0 else np.ones_like(scores)
    strength = np.where(ghosts, 0.0, strength)
    alpha = np.where(ghosts, GHOST, WEAKEST + (1 - WEAKEST) * strength)
    side, centres = layout.sides[layer], layout.boxes[layer]
    half = side / 2 * boxed[:, None] * [0, 1]
    below = np.stack([layout.nodes[layer][edges["in"]], centres - half], axis=1)
    above = np.stack([centres + half, layout.nodes[layer + 1][edges["out"]]], axis=1)
    width = (THIN + THICKER * strength) * min(1.0, max(THIN, 2.5 * side))
    twice: Any = {"lw": np.tile(width, 2), "alpha": list(np.tile(alpha, 2)), "zorder": EDGES_AT}
    axes.add_collection(LineCollection([*below, *above], colors=LINE, **twice))
    if boxed.any():
        pale = alpha[boxed].clip(PALEST)
        corners = centres[boxed][:, None] + side / 2 * np.array(
            [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        )
        frame: Any = {"ec": to_rgba_array([LINE] * len(pale), pale), "lw": min(0.6, 2 * side)}
        axes.add_collection(PolyCollection(corners, fc="white", zorder=BOXES_AT, **frame))
        rows = rows.sort_values(["in", "out", "x"])
        starts = np.flatnonzero((rows[["in", "out"]].diff()[1:] != 0).any(axis=1)) + 1
        functions = np.split(rows[["x", "y"]].to_numpy(dtype=float), starts)
        curves = [
            _curve(each, centre, CURVE_PART * side)
            for each, centre, drawn in zip(functions, centres, boxed, strict=True)
            if drawn
        ]
        colours = np.where(ghosts, GREY, np.where(symbols == "", BLUE, VERMILLION))[boxed]
        pen: Any = {"alpha": list(pale), "lw": min(1.2, 2.5 * side), "zorder": CURVES_AT}
        axes.add_collection(LineCollection(curves, colors=list(colours), **pen))
    largest, per_inch = BOX_TEXT
    points = min(largest, per_inch * side)
    named = boxed & ~ghosts & (symbols != "") & (points >= READABLE)
    look: Any = {"ha": "center", "va": "bottom", "size": points, "color": VERMILLION}
    for (x, y), symbol in zip(centres[named], symbols[named], strict=True):
        text = shorten(symbol, MAX_SYMBOL)
        axes.text(x, y + side / 2 + LABEL_GAP, text, zorder=TEXT_AT, bbox=WHITE, **look)


def _curve(points: Array, centre: Array, side: float) -> Array:
    """Return the points (points, 2) of an edge function scaled into a square around `centre`."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.stack([centre, centre])
    low, high = points.min(axis=0), points.max(axis=0)
    flat = high - low <= ROUNDING * np.maximum(1.0, np.abs(high))
    scaled = np.where(flat, 0.0, (points - (low + high) / 2) / np.where(flat, 1.0, high - low))
    return np.asarray(centre + side * scaled)
