"""A trained model as a file that works without kanrun."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable
from pathlib import Path

from kanrun.engine.equations.field import Field
from kanrun.errors import UsageError
from kanrun.exports.document import Document, Exportable, document_of, in_pieces
from kanrun.exports.runtime import encode, evaluate
from kanrun.suggestions import near


def _json(model: Exportable, name: str) -> bytes:
    return json.dumps(document_of(model), allow_nan=False).encode() + b"\n"


def _python(model: Exportable, name: str) -> bytes:
    from kanrun.exports.python_source import python_source

    return python_source(in_pieces(document_of(model))).encode()


def _c(model: Exportable, name: str) -> bytes:
    from kanrun.exports.c_source import c_source

    return c_source(in_pieces(document_of(model)), name).encode()


def _onnx(model: Exportable, name: str) -> bytes:
    from kanrun.exports.onnx_graph import onnx_bytes

    return onnx_bytes(in_pieces(document_of(model)))


def _torch(model: Exportable, name: str) -> bytes:
    from kanrun.exports.torch_program import program_bytes

    return program_bytes(model)


#: What a model is exported as, by the name of the format.
FORMATS: dict[str, Callable[[Exportable, str], bytes]] = {
    "c": _c,
    "json": _json,
    "onnx": _onnx,
    "python": _python,
    "torch": _torch,
}


TABLE_FORMATS = ("c", "json", "python")
"""Those that encode the columns of a table themselves."""


def export_bytes(model: Exportable, form: str, file: str | Path) -> bytes:
    """The content of `file` that holds `model` in the format `form`.

    Raises UsageError for an unknown format, a kind of network that the format cannot hold, and where the package that
    writes it is missing.
    """
    if form not in FORMATS:
        known = [*FORMATS, "formula"]
        raise UsageError(f"--format {form} is not one of {', '.join(known)}{near(form, known) or '.'}")
    if any(isinstance(part, Field) and part.hard is not None for part in model.network.modules()):
        raise UsageError(
            "a solution with conditions=hard is computed from formulas of its own, which no export holds; "
            "solve it with conditions=soft."
        )
    return FORMATS[form](model, identifier(Path(file).stem))


def identifier(text: str) -> str:
    """`text` as a name in C and Python: letters, digits and underscores, no keyword."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
