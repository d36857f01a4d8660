"""Export of models as C99 files that need only the standard library.

A file consists of the text of `runtime.c` and the data of the model. All data are written as
numbers, or as string literals in which special characters are escaped.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from scipy.interpolate import BSpline as ScipySpline
from scipy.interpolate import make_interp_spline

from kanrun.exports.document import Document
from kanrun.points import Array
from kanrun.targets.table_text import is_number

_PARTS = ("day of year", "weekday", "hour")
#: Largest difference between a spline and a single polynomial, relative to the largest coefficient,
#: at which the polynomial is written instead of the spline.
POLYNOMIAL = 1e-13
#: Characters that are written as themselves in a string literal.
_HARMLESS = re.compile(r"[A-Za-z0-9 _.]")


def c_source(document: Document, name: str) -> str:
    """Return the text of the C file, in which every exported name starts with `name`."""
    outputs = document["classes"] or document["outputs"]
    columns = document["columns"]
    encoded = any(
        column[key] is not None for column in columns for key in ("levels", "fill", "parts")
    )
    units = _units(document["output_map"] or [{"shift": 0.0, "scale": 1.0}])
    model = _network(document)
    arrays = dict[str, str]()
    data = (
        f"static const unit output_units[] = {_list(map(_structure, units))};\n"
        f"static const network model = {_structure(model)};"
    )
    data = re.sub(  # arrays that are equal are written once
        r"\(const double\[\]\)(\{[^{}]*\})",
        lambda match: arrays.setdefault(match[1], f"a{len(arrays)}"),
        data,
    )
    widths = map(int, re.findall(r"\.(?:inputs|outputs|sums|functions|grids_count) = (\d+)", data))
    degrees = map(int, re.findall(r"\.degree = (\d+)", data))
    lines = [
        f"enum {{ @_INPUTS = {len(document['inputs'])}, @_OUTPUTS = {len(outputs)}, "
        f"@_WIDEST = {max(widths)}, @_DEGREE = {max(degrees, default=0)} }};",
        f"enum {{ CLASSIFIES = {int(document['classes'] is not None)}, "
        "DAY_OF_YEAR = 0, WEEKDAY, HOUR };",
        f"#define COLUMNS {len(columns) if encoded else 0}",
        f"const char *const @_inputs[] = {_texts(document['inputs'])};",
        f"const char *const @_outputs[] = {_texts(outputs)};",
        f"const double @_domain[][2] = {_numbers(document['domain'])};",
        *(f"static const double {name}[] = {array};" for array, name in arrays.items()),
        data,
    ]
    if encoded:
        names = _texts([column["name"] for column in columns])
        lines.append(f"const char *const @_columns[] = {names};")
        lines.append(f"static const column columns[] = {_list(map(_column, columns))};")
    source = resources.files(__package__).joinpath("runtime.c").read_text("utf-8")
    return source.replace("/* The model. */\n", "\n".join([*lines, ""])).replace("@", name)


def _list(entries: Any) -> str:
    """Return a C initialiser with one entry per line, because compilers limit line lengths."""
    return "{" + ",\n".join(entries) + "}"


def _texts(words: Sequence[str]) -> str:
    """Return a C initialiser of string literals."""
    return _list(map(_text, words))


def _text(text: str) -> str:
    """Return a C string literal.

    All bytes except letters, digits, spaces, points and underscores are written as octal escapes.
    """
    letters = map(chr, text.encode("utf-8", "replace"))
    escaped = (letter if _HARMLESS.match(letter) else f"\\{ord(letter):03o}" for letter in letters)
    return f'"{"".join(escaped)}"'


def _numbers(values: list[Any]) -> str:
    """Return a C array initialiser of numbers, or of lists of numbers."""
    # number of characters in a line
    line = 120
    if isinstance(values[0], list):
        return _list(map(_numbers, values))
    return "{" + textwrap.fill(", ".join(map(repr, values)), line) + "}"


def _structure(fields: Document) -> str:
    """Return the C initialiser of a structure with named fields.

    Empty lists are omitted, and strings are inserted verbatim as C code.
    """
    lines = []
    for name, value in fields.items():
        if isinstance(value, list) and not np.size(value):
            continue
        if not isinstance(value, list):
            text = str(int(value) if isinstance(value, bool) else value)
        elif isinstance(value[0], dict):
            kind = "network" if name == "windows" else name.removesuffix("s")
            text = f"(const {kind}[]){_list(map(_structure, value))}"
        else:
            text = f"(const double[]){_numbers(np.ravel(value).tolist())}"
        lines.append(f".{name} = {text}")
    return _list(lines)


def _units(maps: Sequence[Document]) -> list[Document]:
    return [{"count": len(entry.get("points", ())), **entry} for entry in maps]


def _column(column: Document) -> str:
    levels = column["levels"] or []
    part_numbers = [str(_PARTS.index(part)) for part in column["parts"] or ()]
    # Dates have no such numbers, because a date as a number of days could equal one by chance.
    marks = [
        word.upper().replace("INF", "INFINITY")
        for word in column["missing"]
        if is_number(word) and column["parts"] is None
    ]
    fields = {
        "levels": len(levels),
        "texts": f"(const char *const[]){_texts(levels)}" if levels else [],
        "other": _text(column["other"]) if column["other"] else [],
        "fill": "NAN" if column["fill"] is None else float(column["fill"]),
        "indicator": column["indicator"],
        "parts": len(part_numbers),
        "part": f"(const int[]){_list(part_numbers)}" if part_numbers else [],
        "marks": len(marks),
        "mark": f"(const double[]){_list(marks)}" if marks else [],
    }
    return _structure(fields)


def _network(document: Document) -> Document:
    """Return the fields of the C structure of a network."""
    layers: list[Document] = []
    for layer in document["layers"]:
        inputs = layers[-1]["outputs"] if layers else len(document["input_map"])
        match layer["kind"]:
            case "splines":
                fields = _splines(layer)
            case "radial":
                splines = _splines(layer["splines"]) | {"kind": "SPLINES", "inputs": inputs}
                fields = layer | {"layers": [splines], "units": _units(layer["ranks"])}
                fields |= {"outputs": splines["outputs"], "count": len(layer["centres"])}
                for name in ("splines", "ranks"):
                    fields.pop(name)
            case "dense":
                fields = {key: layer[key] for key in ("weights", "biases")}
                fields |= {"outputs": len(layer["biases"]), "base": layer["activation"].upper()}
            case "windows":
                windows = list(map(_network, layer["windows"]))
                counts = {"outputs": windows[0]["outputs"], "count": len(layer["ends"])}
                fields = layer | counts | {"windows": windows}
            case "sums_of_products":
                fields = layer | {"outputs": len(layer["sizes"])}
            case _:
                functions, outputs = np.shape(layer["coefficients"])
                fields = layer | {"outputs": outputs, "functions": functions}
        layers.append(fields | {"kind": layer["kind"].upper(), "inputs": inputs})
    ends = {"inputs": len(document["input_map"]), "outputs": layers[-1]["outputs"]}
    return ends | {"count": len(layers), "units": _units(document["input_map"]), "layers": layers}


def _splines(layer: Document) -> Document:
    """Return the fields of a layer of splines.

    The spline of an edge is a factor, `scale`, times a spline whose largest coefficient is 1. Edges
    whose normalised coefficients are equal share one array.
    """
    # Number of decimals to which the coefficients of two edges, relative to the largest one, must
    # agree for both edges to share one array.
    decimals = 15
    grids: dict[tuple[int, tuple[float, ...]], int] = {}
    edges = []
    for edge in layer["edges"]:
        knots, coefficients = _fewest(
            np.array(layer["knots"][edge["from"]]), np.array(edge["coefficients"]), layer["degree"]
        )
        scale = float(coefficients[np.abs(coefficients).argmax()])
        shape = np.round(coefficients / (scale or 1.0), decimals)
        grid = grids.setdefault((edge["from"], tuple(knots.tolist())), len(grids))
        fields = {key: edge[key] for key in ("to", "base_weight")}
        edges.append(fields | {"grid": grid, "scale": scale, "coefficients": shape.tolist()})
    shared = {key: layer[key] for key in ("degree", "sums", "products")}
    return shared | {
        "outputs": layer["sums"] - layer["products"],
        "count": len(edges),
        "edges": edges,
        "grids_count": len(grids),
        "grids": [
            {"input": i, "intervals": len(knots) - 2 * layer["degree"] - 1, "knots": list(knots)}
            for i, knots in grids
        ],
        "extrapolation": layer["extrapolation"].upper(),
        "base": layer["base"].upper().replace("ZERO", "NONE"),
    }


def _fewest(knots: Array, coefficients: Array, degree: int) -> tuple[Array, Array]:
    """Return the knots and coefficients of a spline, on one interval if it is a polynomial."""
    if not degree:
        return knots, coefficients
    grid = knots[degree : len(knots) - degree]
    single = np.repeat(grid[[0, -1]], degree + 1)
    spline = ScipySpline(knots, coefficients, degree)
    x = np.linspace(grid[0], grid[-1], degree + 1)
    polynomial = make_interp_spline(x, spline(x), degree, single)
    fractions = np.linspace(0, 1, degree + 2)[:, None]
    points = grid[:-1] + fractions * np.diff(grid)
    limit = POLYNOMIAL * np.abs(coefficients).max()
    is_polynomial = np.abs(polynomial(points) - spline(points)).max() <= limit
    return (single, polynomial.c) if is_polynomial else (knots, coefficients)
