"""A trained model as a file that works without kanrun."""

from __future__ import annotations

import inspect
import json
import keyword
import re
from pathlib import Path
from typing import Any

from kanrun.engine.equations import Field
from kanrun.errors import UsageError, did_you_mean
from kanrun.exports import runtime
from kanrun.exports.document import Document, Exportable, document_of, in_pieces
from kanrun.exports.runtime import encode, evaluate
from kanrun.targets.encoding import days_from, place_of, text_of

FORMATS = ("c", "json", "onnx", "python", "torch")
TABLE_FORMATS = ("c", "json", "python")
"""Those that encode the columns of a table themselves."""

_PREDICT = '''

def predict(table: Any) -> Array:
    """Outputs (rows, outputs) for a table or for rows of numbers; see the top of the file."""
    return evaluate(MODEL, encode(MODEL, table))
'''


def export_bytes(model: Exportable, form: str, file: str | Path) -> bytes:
    """Return the content of `file` with `model` in the format `form`.

    Raises UsageError for an unknown format, a kind of network that the format cannot hold, and
    where the package that writes it is missing.
    """
    if form not in FORMATS:
        known = [*FORMATS, "formula"]
        raise UsageError(
            f"--format {form} is not one of {', '.join(known)}{did_you_mean(form, known) or '.'}"
        )
    if any(isinstance(part, Field) and part.hard is not None for part in model.network.modules()):
        raise UsageError(
            "a solution with constraints=hard is computed from formulas of its own, which no "
            "export holds; "
            "solve it with constraints=soft."
        )
    if form == "torch":
        from kanrun.exports.torch_program import program_bytes

        return program_bytes(model)
    document = document_of(model)
    if form == "json":
        return json.dumps(document, allow_nan=False).encode() + b"\n"
    if form == "onnx":
        from kanrun.exports.onnx_graph import onnx_bytes

        return onnx_bytes(in_pieces(document))
    if form == "c":
        from kanrun.exports.c_source import c_source

        return c_source(in_pieces(document), identifier(Path(file).stem)).encode()
    return _python_source(in_pieces(document)).encode()


def _python_source(pieces: Document) -> str:
    """Return a file that needs NumPy only: `runtime`, its helpers, and the data of the model."""
    lines = inspect.getsource(runtime).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("from kanrun."))
    used = "".join(
        f"\n\n{inspect.getsource(function)}" for function in (days_from, place_of, text_of)
    )
    return f"{own}{used}\n\n#: The data of the model.\nMODEL = {_literal(pieces, '')}\n{_PREDICT}"


def _literal(value: Any, indent: str) -> str:
    """Return a literal: dictionaries and lists of them over several lines, texts in ASCII."""
    inner = f"{indent}    "
    if isinstance(value, dict):
        entries = [f"{inner}{key!a}: {_literal(entry, inner)}," for key, entry in value.items()]
        return "\n".join(["{", *entries, f"{indent}}}"])
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(
            ["[", *(f"{inner}{_literal(entry, inner)}," for entry in value), f"{indent}]"]
        )
    return ascii(value)


def identifier(text: str) -> str:
    """Return `text` as a name in C and Python: letters, digits, underscores, no keyword."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
