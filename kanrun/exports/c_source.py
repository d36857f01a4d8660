"""Models as one C99 file that needs the standard library only, from `runtime.c`.

All that comes from the model stands in it as numbers and as string literals of harmless characters.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np

from kanrun.exports.document import Document

_PARTS = ("day of year", "weekday", "hour")


def c_source(pieces: Document, name: str) -> str:
    """Return the text of the file; the C identifier `name` prefixes every exported name."""
    outputs, columns = pieces["classes"] or pieces["outputs"], pieces["columns"]
    encoded = any(column["levels"] is not None or column["fill"] is not None for column in columns)
    units = _units(pieces["output_map"] or [{"shift": 0.0, "scale": 1.0}])
    lines = [
        f"enum {{ @_INPUTS = {len(pieces['inputs'])}, @_OUTPUTS = {len(outputs)}, "
        f"@_WIDEST = {max(_widths(pieces))} }};",
        f"enum {{ CLASSIFIES = {int(pieces['classes'] is not None)}, "
        "DAY_OF_YEAR = 0, WEEKDAY, HOUR };",
        f"#define COLUMNS {len(columns) if encoded else 0}",
        f"const char *const @_inputs[] = {_texts(pieces['inputs'])};",
        f"const char *const @_outputs[] = {_texts(outputs)};",
        f"const double @_domain[][2] = {_numbers(pieces['domain'])};",
        f"static const unit output_units[] = {units};",
        f"static const network model = {_network(pieces)};",
    ]
    if encoded:
        names = _texts([column["name"] for column in columns])
        lines.append(f"const char *const @_columns[] = {names};")
        lines.append(f"static const column columns[] = {_list(map(_column, columns))};")
    source = resources.files(__package__).joinpath("runtime.c").read_text("utf-8")
    return source.replace("/* The model. */\n", "\n".join([*lines, ""])).replace("@", name)


def _widths(part: Document) -> Iterator[int]:
    """Yield the lengths that the arrays of one evaluation need."""
    yield len(part["input_map"])
    for layer in part["layers"]:
        yield layer.get("sums", 0)
        for key in ("biases", "coefficients", "sizes"):
            yield len(layer.get(key, ()))
        yield np.shape(layer.get("coefficients", [[]]))[-1]
        for window in layer.get("windows", ()):
            yield from _widths(window)


def _list(entries: Any) -> str:
    """Return an initialiser, one entry per line: compilers limit the length of lines."""
    return "{" + ",\n".join(entries) + "}"


def _texts(texts: Sequence[str]) -> str:
    """Return string literals; bytes other than letters, digits and blanks are octal."""
    harmless = re.compile(r"[A-Za-z0-9 _.]")
    literals = []
    for text in texts:
        letters = map(chr, text.encode("utf-8", "replace"))
        escaped = (one if harmless.match(one) else f"\\{ord(one):03o}" for one in letters)
        literals.append(f'"{"".join(escaped)}"')
    return _list(literals)


def _numbers(values: list[Any]) -> str:
    if isinstance(values[0], list):
        return _list(map(_numbers, values))
    return "{" + textwrap.fill(", ".join(map(repr, values)), 120) + "}"


def _row(**fields: Any) -> str:
    """Return a structure by the names of its fields, with arrays in place."""
    return _list(f".{name} = {_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    if isinstance(value, str | int):
        return str(int(value)) if isinstance(value, bool) else str(value)
    if not isinstance(value, list):
        return repr(float(value))
    return f"(const double[]){_numbers(np.ravel(value).tolist() or [0.0])}"


def _units(maps: Sequence[Document]) -> str:
    return _list(_row(count=len(one.get("points", ())), **one) for one in maps)


def _column(column: Document) -> str:
    levels = column["levels"] or []
    parts = [str(_PARTS.index(part)) for part in column["parts"] or ()]
    fill = "NAN" if column["fill"] is None else float(column["fill"])
    arrays = {"texts": f"(const char *const[]){_texts(levels)}"} if levels else {}
    arrays |= {"part": f"(const int[]){_list(parts)}"} if parts else {}
    return _row(
        levels=len(levels), fill=fill, indicator=column["indicator"], parts=len(parts), **arrays
    )


def _network(part: Document) -> str:
    layers, width, written = part["layers"], len(part["input_map"]), []
    for layer in layers:
        fields, width = _layer(layer, width)
        written.append(_row(kind=layer["kind"].upper(), **fields))
    return _row(
        inputs=len(part["input_map"]),
        outputs=width,
        count=len(layers),
        units=f"(const unit[]){_units(part['input_map'])}",
        layers=f"(const layer[]){_list(written)}",
    )


def _layer(layer: Document, inputs: int) -> tuple[dict[str, Any], int]:
    """Return the fields of a layer except its kind, and its number of outputs."""
    others = ("kind", "edges", "windows", "activation")
    own = {key: value for key, value in layer.items() if key not in others}
    if layer["kind"] == "splines":
        own |= {
            "intervals": len(layer["breakpoints"][0]) - 1,
            "count": len(layer["edges"]),
            "outputs": layer["sums"],
            "extrapolation": layer["extrapolation"].upper(),
            "base": layer["base"].upper().replace("ZERO", "NONE"),
        }
        if layer["edges"]:
            own["edges"] = f"(const edge[]){_list(_row(**edge) for edge in layer['edges'])}"
        return own, layer["sums"] - layer["products"]
    if layer["kind"] == "dense":
        outputs = len(layer["biases"])
        own |= {"inputs": inputs, "outputs": outputs, "base": layer["activation"].upper()}
        return own, outputs
    if layer["kind"] == "windows":
        windows = f"(const network[]){_list(map(_network, layer['windows']))}"
        own |= {"inputs": inputs, "count": len(layer["ends"]), "windows": windows}
        return own, len(layer["windows"][0]["layers"][-1]["sizes"])
    outputs = len(layer.get("sizes") or layer["coefficients"][0])
    return {**own, "outputs": outputs, "count": len(layer.get("coefficients", ()))}, outputs
