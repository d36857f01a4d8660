"""A trained model, or the formula of `kanrun interpret`, as a file that works without kanrun."""

from __future__ import annotations

import inspect
import io
import json
import keyword
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanrun.config.rules import typed
from kanrun.engine.equations import Field, Windows
from kanrun.errors import UsageError
from kanrun.exports import runtime
from kanrun.exports.c_source import c_source, lut_files
from kanrun.exports.document import (
    Document,
    Exportable,
    document_of,
    in_pieces,
    python_literal,
)
from kanrun.exports.formula_source import formula_bytes
from kanrun.exports.lut import LutSettings
from kanrun.exports.runtime import encode, evaluate
from kanrun.targets import PiecewiseScaling, Scaling
from kanrun.targets.datasets import check_known
from kanrun.targets.encoding import features_of, place_of
from kanrun.targets.table_text import canonical, days_from, is_number, number_from, text_of

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
        return {file: _program_bytes(model)}, []
    document, name = document_of(model), identifier(file.stem)
    if form == "lut":
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
        return c_source(document, name)
    lines = inspect.getsource(runtime).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("from kanrun."))
    used = (canonical, days_from, features_of, is_number, number_from, place_of, text_of)
    helpers = (inspect.getsource(function) for function in used)
    data = f"#: The data of the model.\nMODEL = {python_literal(in_pieces(document))}\n{_PREDICT}"
    return "\n\n".join([own, *helpers, data])


def identifier(text: str) -> str:
    """Return `text` as a name in C and Python: letters, digits, underscores, no keyword."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def _program_bytes(model: Exportable) -> bytes:
    """Return a .pt2 file for `torch.export.load`: x (rows, inputs) to y (rows, outputs).

    Rows are of any number; torch itself suffices to load and run it.
    """
    kind = next(model.network.parameters()).dtype
    x = torch.as_tensor(model.domain.mean(1), dtype=kind).repeat(3, 1)
    rows = torch.export.Dim("rows", min=1)
    # Not under no_grad, where curves remember the basis at samples, whose number would be fixed.
    program = torch.export.export(_InUnits(model), (x,), dynamic_shapes=({0: rows},), strict=False)
    stored = io.BytesIO()
    torch.export.save(program, stored)
    return stored.getvalue()


class _InUnits(nn.Module):
    """Trained network between the maps of its units."""

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.network = deepcopy(model.network).cpu().eval().requires_grad_(False)
        self.inputs = model.input_scaling
        self.outputs = None if model.classes else model.output_scaling

    def forward(self, x: Tensor) -> Tensor:
        scaled = _mapped(self.inputs, x.double(), inverse=False).to(x.dtype)
        if isinstance(self.network, Windows):
            # No branches: all windows are evaluated at all points, and each point takes its own.
            every = torch.stack([field(scaled) for field in self.network.fields])
            window = torch.searchsorted(self.network.ends, scaled[:, -1].contiguous())
            y = every.gather(0, window[None, :, None].expand(1, -1, every.shape[2]))[0].double()
        else:
            y = self.network(scaled).double()
        found = y.softmax(-1) if self.outputs is None else _mapped(self.outputs, y, inverse=True)
        return found.to(x.dtype)


def _mapped(scaling: Scaling | PiecewiseScaling, x: Tensor, *, inverse: bool) -> Tensor:
    """Map between the user's units and the network's, see `kanrun.points`, in float64."""
    if isinstance(scaling, Scaling):
        shift, scale = torch.as_tensor(scaling.shift), torch.as_tensor(scaling.scale)
        return x * scale + shift if inverse else (x - shift) / scale
    columns = []
    ways = (scaling.values, scaling.points) if inverse else (scaling.points, scaling.values)
    for i, (points, values) in enumerate(zip(*ways, strict=True)):
        at, level = torch.as_tensor(points), torch.as_tensor(values)
        # How far x is in each piece: none of it before, all of it after.
        inside = (x[:, i, None] - at[:-1]).clamp(min=0).minimum(at.diff())
        columns.append(level[0] + inside @ (level.diff() / at.diff()))
    return torch.stack(columns, 1)
