"""Models as `torch.export` programs: the trained network between the maps of its units."""

from __future__ import annotations

import io
from copy import deepcopy

import torch
from torch import Tensor, nn

from kanrun.engine.equations import Windows
from kanrun.exports.document import Exportable
from kanrun.targets import PiecewiseScaling, Scaling


def program_bytes(model: Exportable) -> bytes:
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
        held = x[:, i].clamp(points[0], points[-1])  # constant beyond the ends
        piece = torch.searchsorted(at[1:-1].clone(), held, right=True)
        slope = level.diff() / at.diff()
        columns.append(level[piece] + (held - at[piece]) * slope[piece])
    return torch.stack(columns, 1)
