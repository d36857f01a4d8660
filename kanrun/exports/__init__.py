"""A trained model, or the formula of `kanrun interpret`, as a file that works without kanrun."""

from __future__ import annotations

import inspect
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy

from kanrun.config.rules import typed
from kanrun.engine.equations import Field
from kanrun.errors import UsageError
from kanrun.exports import runtime
from kanrun.exports.document import (
    Document,
    Exportable,
    document_of,
    in_pieces,
    python_literal,
)
from kanrun.exports.formula_source import formula_bytes
from kanrun.exports.runtime import encode, evaluate
from kanrun.targets.datasets import check_known
from kanrun.targets.encoding import features_of, place_of
from kanrun.targets.notation import days_from, number_from, text_of

FORMATS = ("c", "json", "lut", "onnx", "python", "torch")
TABLE_FORMATS = ("c", "json", "python")
"""Those that encode the columns of a table themselves."""

_PREDICT = '''

def predict(table: Any) -> Array:
    """Outputs (rows, outputs) for a table or for rows of numbers; see the top of the file."""
    return evaluate(MODEL, encode(MODEL, table))
'''


def export_files(
    model: Exportable, form: str, file: Path, options: Mapping[str, Any] | None = None
) -> tuple[dict[Path, bytes], list[str]]:
    """Return the files of `model` in the format `form`, and notes for the user.

    `options` are settings of `lut`, see `kanrun.exports.lut.LutSettings`. Raises UsageError for an
    unknown format or option, a kind of network that the format cannot hold, and where the package
    that writes it is missing.
    """
    check_known("--format", form, FORMATS, "formats of a model")
    if options and form != "lut":
        raise UsageError(f"{next(iter(options))} is an option of --format lut alone.")
    if any(isinstance(part, Field) and part.hard is not None for part in model.network.modules()):
        raise UsageError(
            "a solution with constraints=hard is computed from formulas of its own, which no "
            "export holds; solve it with constraints=soft."
        )
    if form == "torch":
        from kanrun.exports.torch_program import program_bytes

        return {file: program_bytes(model)}, []
    document, name = document_of(model), identifier(file.stem)
    if form == "lut":
        from kanrun.exports.lut import LutSettings
        from kanrun.exports.lut_source import lut_files

        texts, notes = lut_files(in_pieces(document), typed(LutSettings, options or {}), file, name)
        return {path: text.encode() for path, text in texts.items()}, notes
    if form == "onnx":
        try:
            from kanrun.exports.onnx_graph import onnx_bytes
        except ImportError as error:
            raise UsageError(
                "--format onnx needs onnx, which is not installed: pip install 'kanrun[onnx]'."
            ) from error
        return {file: onnx_bytes(in_pieces(document))}, []
    return {file: _source(document, form, name).encode()}, []


def _source(document: Document, form: str, name: str) -> str:
    """Return a model as JSON, C, or a Python file that needs NumPy only."""
    if form == "json":
        return json.dumps(document, allow_nan=False) + "\n"
    if form == "c":
        from kanrun.exports.c_source import c_source

        return c_source(document, name)
    lines = inspect.getsource(runtime).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("from kanrun."))
    used = (days_from, features_of, number_from, place_of, text_of)
    helpers = (inspect.getsource(function) for function in used)
    data = f"#: The data of the model.\nMODEL = {python_literal(in_pieces(document))}\n{_PREDICT}"
    return "\n\n".join([own, *helpers, data])


def identifier(text: str) -> str:
    """Return `text` as a name in C and Python: letters, digits, underscores, no keyword."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
