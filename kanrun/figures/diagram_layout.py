"""Where the parts of a KAN's diagram lie; all lengths in inches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanrun.figures.style import letters

if TYPE_CHECKING:
    import pandas

_BOX, _SMALLEST = 0.5, 0.17  # sides of the largest and the smallest slot of an edge function
_GAP = 0.6  # between a row of nodes and the boxes above or below it
_MARGIN = 0.3
_LETTER = 0.065  # of a label at 8 points
_NARROWEST, _WIDEST = 2.4, 13.0
_LONGEST = 18  # letters of a label


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
        room = (self.width - 2 * _MARGIN) / self.nodes[layer]
        return _MARGIN + room * (number + 0.5), self.levels[layer]

    def room(self, layer: int) -> float:
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


def text_of(rows: pandas.DataFrame, column: str) -> str:
    """Return the text in `column` of the first row, empty where there is none."""
    value = rows[column].iloc[0] if column in rows else None
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (a missing value)
