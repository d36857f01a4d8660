"""Networks of spline edges as tables of integers, with a proven bound of the error.

Every edge is a table of unsigned integers, every node a sum of entries, shifted to a code that
addresses the tables of the next layer (edges as lookup tables on chips: KANELE, FPGA 2026). Of a
code's `input_bits`, the first `index_bits` choose an entry (of a map of inputs, 4 bits more) and
the others interpolate between it and the next; without others there are no multiplications. The
value that a code q stands for is low + step q. A sum begins at its least value and its shift leaves
at most 2^input_bits codes for the largest, so nothing overflows and nothing is clipped but the
codes of the inputs.

The bound. If the value of a code differs from the float network's by at most e, then that of an
edge's entry differs by at most

    S e + C h^2 / 8 + K h / 4 + d / 2

with the largest |slope| S and |curvature| C on the values that can occur, the jumps K of the slope
within a step h of the table, and the unit d of entries. (Linear interpolation errs by C h^2 / 8 on
a smooth function and by K h / 4 on a corner; h = 0 without interpolation.) On a piece sum c_m u^m
of a spline, |u| <= 1, the slope is at most sum m |c_m| in units of u, the curvature at most sum
m (m - 1) |c_m|; `SLOPES` has the bounds of base functions. Errors of a node add up, products a b
err by |a| e_b + |b| e_a + e_a e_b, and a shift adds half a step. `ROUNDING` covers float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanrun.config.rules import setting
from kanrun.errors import UsageError
from kanrun.exports import runtime
from kanrun.exports.document import Document

Floats = NDArray[np.float64]
#: Integers of any size.
Integers = NDArray[np.object_]

#: Largest absolute slope and curvature of each base function, and the jump of its slope at 0.
SLOPES = {
    "zero": (0.0, 0.0, 0.0),
    "identity": (1.0, 0.0, 0.0),
    "silu": (1.1, 0.5, 0.0),
    "sigmoid": (0.25, 0.0963, 0.0),
    "tanh": (1.0, 0.77, 0.0),
    "relu": (1.0, 0.0, 1.0),
    "gelu": (1.13, 0.798, 0.0),
    "sin": (1.0, 1.0, 0.0),
    "gaussian": (0.858, 2.0, 0.0),
}
#: Margin of a bound for rounding in float64, relative to the size of the values.
ROUNDING = 1e-12
#: Smallest unit of a sum relative to its offset: float64 does not know smaller parts of it.
SMALLEST_UNIT = 2.0**-52
#: Bits of codes without and with `max_error`.
CODE_BITS = (16, 24)
#: Bits of a code that address a table, and bits of an entry, of which `max_error` chooses.
INDEX_BITS, ENTRY_BITS = ([8], range(1, 15)), ([16], [8, 16, 32])
#: Bits that address a table of a piecewise linear map, in addition to those of an edge: errors at
#: its corners fall with the step of a table, those of splines with its square. On a table of 7
#: inputs they make the bound 11 times smaller and the tables 14% larger.
MAP_BITS = 4
_IDENTITY = [{"shift": 0.0, "scale": 1.0}]


@dataclass(frozen=True)
class LutSettings:
    """Bits of the tables. `max_error` chooses those that are None, with the smallest tables."""

    max_error: float | None = setting(
        None, "proven largest difference to the float network, in the units of the outputs", above=0
    )
    input_bits: int | None = setting(
        None, "bits of the codes of inputs and nodes", minimum=2, maximum=24
    )
    index_bits: int | None = setting(
        None, "bits of a code that address a table", minimum=1, maximum=16
    )
    output_bits: int | None = setting(None, "bits of the entries of tables", minimum=2, maximum=32)
    accumulator_bits: int = setting(
        62, "largest number of bits of sums and products", minimum=8, maximum=62
    )


class Tables(NamedTuple):
    """Integer tables, with what was proven of them.

    Attributes:
        model: Data of `lut_reference`, without names.
        bounds: Largest difference of each output to the float network, in the units of the data; of
            classes before the softmax.
        accumulator_bits: Bits of the largest sum or product.
    """

    model: Document
    bounds: Floats
    accumulator_bits: int

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry."""
        return next(size for size in (1, 2, 4) if self.model["entry_bits"] <= 8 * size)

    @property
    def memory(self) -> int:
        """Bytes of all tables."""
        return sum(map(len, self.model["tables"])) * self.entry_bytes


def tables_of(pieces: Document, settings: LutSettings) -> Tables:
    """Return the tables of a document `in_pieces` with the bits of `settings`.

    Raises UsageError for edges that are not continuous splines, and if no choice of bits is good
    enough.
    """
    for layer in pieces["layers"]:
        if layer["kind"] != "splines" or not layer["degree"] or layer["extrapolation"] == "zero":
            raise UsageError(
                "--format lut needs edges that are continuous splines: tables of others have no "
                "bound of the error. Export this model with --format c."
            )
    limit, is_chosen = settings.max_error or np.inf, bool(settings.max_error)
    code = settings.input_bits or CODE_BITS[is_chosen]
    indices = [settings.index_bits] if settings.index_bits else INDEX_BITS[is_chosen]
    entries = [settings.output_bits] if settings.output_bits else ENTRY_BITS[is_chosen]
    tried = []
    for entry, index in sorted(product(entries, indices), key=lambda bits: bits[0] << bits[1]):
        found = _tables(pieces, (code, min(code, index), entry))
        bound, needed = found.bounds.max(), found.accumulator_bits
        if bound <= limit and needed <= settings.accumulator_bits:
            return found  # the smallest ones come first
        tried.append((bound, needed))
    precise = [needed for bound, needed in tried if bound <= limit]
    if not precise:
        raise UsageError(
            f"max_error={limit:g} cannot be proven: the smallest bound is {min(tried)[0]:.2g}. "
            "Allow a larger error, or more bits if you gave them."
        )
    raise UsageError(
        f"accumulator_bits={settings.accumulator_bits} is too few: sums and products need "
        f"{min(precise)}. Raise it, or lower input_bits or output_bits."
    )


class _Nodes(NamedTuple):
    """Nodes in integers: value = low + unit code, with codes from 0 to `highest`.

    Their values differ from those of the float network by at most `errors`.
    """

    low: Floats
    unit: Floats
    highest: Integers
    errors: Floats


def _tables(pieces: Document, bits: tuple[int, int, int]) -> Tables:
    """Return the tables with these (input, index, output) bits."""
    builder = _TablesBuilder(*bits)
    layers, domain = list(pieces["layers"]), np.array(pieces["domain"])
    ways, units = pieces["input_map"], pieces["output_map"] or _IDENTITY * len(pieces["classes"])
    if "points" in ways[0]:
        layers.insert(0, _map_layer(ways, "points", "values"))
    else:
        domain = (domain - [[one["shift"]] for one in ways]) / [[one["scale"]] for one in ways]
    if "points" in units[0]:
        layers.append(_map_layer(units, "values", "points"))
        units = _IDENTITY * len(units)
    most = 2**builder.codes - 1
    unit = np.diff(domain)[:, 0] / most
    nodes = _Nodes(domain[:, 0], unit, np.full(len(domain), most, dtype=object), unit / 2)
    for layer in layers[:-1]:
        nodes = builder.add_hidden(layer, nodes)
    scales, shifts = (np.array([one[key] for one in units]) for key in ("scale", "shift"))
    nodes = builder.add_last(layers[-1], nodes, scales, shifts, alike=not pieces["output_map"])
    return Tables(builder.model, nodes.errors, builder.accumulator_bits)


def _map_layer(maps: list[Document], source: str, to: str) -> Document:
    """Return piecewise linear maps as a layer of one edge each."""
    edges = []
    for i, one in enumerate(maps):
        ends = np.array(one[to])
        pieces = np.stack([(ends[1:] + ends[:-1]) / 2, np.diff(ends) / 2], 1)
        edges.append({"from": i, "to": i, "base_weight": 0.0, "pieces": pieces})
    kind = {"kind": "map", "degree": 1, "base": "zero", "extrapolation": "constant", "products": 0}
    return {"breakpoints": [one[source] for one in maps], "sums": len(maps), "edges": edges, **kind}


class _TablesBuilder:
    """Tables and layers of `lut_reference`, added in the order of the network."""

    def __init__(self, codes: int, index: int, entries: int) -> None:
        self.codes, self.index, self.entries = codes, index, 2**entries - 1
        self.accumulator_bits = 0
        self._tables: dict[bytes, int] = {}  # numbers of tables by their entries
        self.model: Document = {"input_bits": codes, "entry_bits": entries, "layers": []}

    def add_hidden(self, layer: Document, nodes: _Nodes) -> _Nodes:
        """Add a layer whose nodes, the last ones products of two sums, become codes: return those.

        Zeros are added to each factor; `least` is the least value of each node in its unit.
        """
        sums = self._sums(layer, nodes)
        plain = len(sums.unit) - 2 * layer["products"]
        last: list[Any] = [each[plain:] for each in sums]
        factors = _Nodes(*last)
        zeros = _rounded(factors.low / factors.unit)
        ends = np.stack([zeros, zeros + factors.highest])
        corners = (ends[:, None, ::2] * ends[None, :, 1::2]).reshape(4, layer["products"])
        lowest, unit = corners.min(0), factors.unit[::2] * factors.unit[1::2]
        sizes = np.abs(ends).max(0).astype(np.float64) * factors.unit
        errors = factors.errors + factors.unit / 2
        both = sizes[::2] * errors[1::2] + sizes[1::2] * errors[::2] + errors[::2] * errors[1::2]
        made = lowest.astype(np.float64) * unit, unit, corners.max(0) - lowest, both
        parts: Any = (np.append(one[:plain], two) for one, two in zip(sums, made, strict=True))
        nodes, least = _Nodes(*parts), np.append(0 * sums.highest[:plain], lowest)
        wide = nodes.highest + (nodes.highest >> self.codes)  # with room for rounding up
        shifts = np.array([max(0, int(one).bit_length() - self.codes) for one in wide])
        halves = (1 << shifts.astype(object)) >> 1
        self._close(zeros, halves - least, shifts, nodes.highest + halves + np.abs(least))
        step = nodes.unit * 2.0**shifts
        errors = nodes.errors + np.where(shifts > 0, step / 2, 0)
        return _Nodes(nodes.low, step, (nodes.highest + halves) >> shifts, errors)

    def add_last(
        self, layer: Document, nodes: _Nodes, scales: Floats, shifts: Floats, *, alike: bool
    ) -> _Nodes:
        """Add the last layer, whose sums are fixed-point numbers in the units of the data."""
        sums = self._sums(layer, nodes, scales, alike)
        unit, low = sums.unit * scales, sums.low * scales + shifts
        starts = _rounded(low / unit)
        ends = np.abs([starts, starts + sums.highest]).max()
        # A result that 64 bits cannot hold counts like a sum that they cannot hold.
        self._close(starts[:0], starts, 0 * starts, [*sums.highest, ends * (ends >= 2**62)])
        self.model |= {
            "result_bits": 32 if ends < 2**31 else 64,
            "places": _rounded(-np.log2(unit)).tolist(),
            "tables": [np.frombuffer(table, np.int64).tolist() for table in self._tables],
        }
        errors = scales * sums.errors + unit / 2 + ROUNDING * np.abs(low)
        return _Nodes(low, unit, sums.highest, errors)

    def _sums(
        self, layer: Document, nodes: _Nodes, scales: Floats | None = None, alike: bool = False
    ) -> _Nodes:
        """Add the tables of a layer's edges, and return its sums.

        Units times `scales`, if given, are powers of two, and one power if `alike`.
        """
        finer = MAP_BITS if layer["kind"] == "map" else 0
        part, count = max(0, self.codes - self.index - finer), layer["sums"]
        spread = 2**part
        step = nodes.unit * spread
        own, values = list[Document](), list[Floats]()
        low, widest, errors = np.zeros((3, count))
        for edge in sorted(layer["edges"], key=lambda edge: edge["from"]):
            i, o = edge["from"], edge["to"]
            x = nodes.low[i] + step[i] * np.arange(nodes.highest[i] // spread + 1 + (part > 0))
            one = layer | {"breakpoints": [layer["breakpoints"][i]], "sums": 1, "products": 0}
            one["edges"] = [edge | {"from": 0, "to": 0}]
            found = runtime.LAYERS["splines"](one, x[:, None])[:, 0]
            ends = nodes.low[i], nodes.low[i] + nodes.unit[i] * float(nodes.highest[i])
            low[o] += found.min()
            widest[o] = max(widest[o], np.ptp(found))
            bound = _error(one, ends, nodes.errors[i], step[i] if part else 0.0)
            errors[o] += bound + ROUNDING * np.abs(found).max()
            own.append({"from": i, "to": o})
            values.append(found)
        widest[widest == 0] = 1  # no edge, or constants
        unit = np.maximum(widest / self.entries / spread, np.abs(low) * SMALLEST_UNIT)
        if scales is not None:
            power = np.ceil(np.log2(unit * scales))
            unit = 2.0 ** (power.max() if alike else power) / scales
        highest = np.zeros(count, dtype=object)
        for edge, each in zip(own, values, strict=True):
            o = edge["to"]
            table = np.rint((each - each.min()) / (unit[o] * spread)).astype(np.int64)
            edge["table"] = self._tables.setdefault(table.tobytes(), len(self._tables))
            highest[o] += int(table.max()) * spread
            errors[o] += unit[o] * spread / 2
        self.model["layers"].append({"edges": own, "sums": count, "fraction_bits": part})
        return _Nodes(low, unit, highest, errors)

    def _close(
        self, zeros: Integers, starts: Integers, shifts: Integers, ends: Iterable[int]
    ) -> None:
        """Add what follows the sums of the last layer, whose largest values are `ends`."""
        bits = (int(end).bit_length() for end in ends)
        self.accumulator_bits = max(self.accumulator_bits, *bits)
        parts = {"zeros": zeros, "starts": starts, "shifts": shifts}
        self.model["layers"][-1] |= {key: each.tolist() for key, each in parts.items()}


def _error(layer: Document, ends: tuple[float, float], error: float, step: float) -> float:
    """Return the bound of the module for a layer of one edge, without the unit of entries.

    The input lies between `ends`.
    """
    low, high = ends[0] - error, ends[1] + max(error, step)  # the last entry may lie beyond
    (edge,), points = layer["edges"], np.array(layer["breakpoints"][0])
    pieces, half, m = np.array(edge["pieces"]), np.diff(points) / 2, np.arange(layer["degree"] + 1)
    slope, curvature, corner = np.array(SLOPES[layer["base"]]) * abs(edge["base_weight"])
    reached = (points[:-1] <= high) & (points[1:] >= low)
    reached[0] |= low < points[0]  # beyond the grid the slope is that of its end, or zero
    reached[-1] |= high > points[-1]
    steep = (np.abs(pieces) @ m / half)[reached].max() + slope
    bent = (np.abs(pieces) @ (m * (m - 1)) / half**2)[reached].max() + curvature
    left, right = pieces @ (m * (-1.0) ** (m - 1)) / half, pieces @ m / half
    kinks = np.abs(np.append(left, 0.0) - np.append(0.0, right))
    kinks[[0, -1]] = (kinks[[0, -1]] + slope) * (layer["extrapolation"] != "linear")
    cells = np.floor((np.append(points, 0.0) - ends[0]) / (step or 1.0))
    jumps = np.bincount(np.unique(cells, return_inverse=True)[1], np.append(kinks, corner))
    return float(steep * error + bent * step**2 / 8 + jumps.max() * step / 4)


def _rounded(values: Floats) -> Integers:
    """Return rounded values as integers of any size."""
    return np.array([round(value) for value in values.tolist()], dtype=object)
