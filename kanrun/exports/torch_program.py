"""Models as `torch.export` programs: the trained network between the maps of its units."""

from __future__ import annotations

import io
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from kanrun.engine.equations import Windows
from kanrun.exports.document import Exportable
from kanrun.targets import PiecewiseScaling, Scaling


def program_bytes(model: Exportable) -> bytes:
    """Return a .pt2 file for `torch.export.load`: x (rows, inputs) to y (rows, outputs).

    Rows are of any number; torch itself suffices to load and run it.
    """
    whole = _InUnits(model)
    x = torch.as_tensor(model.domain.mean(1), dtype=next(model.network.parameters()).dtype).expand(
        3, -1
    )
    rows = torch.export.Dim("rows", min=1)
    # Not under no_grad, where curves remember the basis at samples, whose number would be fixed.
    program = torch.export.export(
        whole, (x.contiguous(),), dynamic_shapes=({0: rows},), strict=False
    )
    stored = io.BytesIO()
    torch.export.save(program, stored)
    return stored.getvalue()


class _InUnits(nn.Module):
    def __init__(self, model: Exportable) -> None:
        super().__init__()
        network = deepcopy(model.network).cpu().eval().requires_grad_(False)
        self.network = _Chosen(network) if isinstance(network, Windows) else network
        self.before = _Map(model.input_scaling, inverse=False)
        self.after = None if model.classes else _Map(model.output_scaling, inverse=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(self.before(x.double()).to(x.dtype)).double()
        return (y.softmax(-1) if self.after is None else self.after(y)).to(x.dtype)


class _Chosen(nn.Module):
    """Windows without branches: all are evaluated at all points, and each point takes its own."""

    ends: Tensor

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.fields = windows.fields
        # A view would be stored with all that it is of.
        self.register_buffer("ends", windows.ends.clone())

    def forward(self, x: Tensor) -> Tensor:
        every = torch.stack([field(x) for field in self.fields])
        window = torch.searchsorted(self.ends, x[:, -1].contiguous())
        return every.gather(0, window[None, :, None].expand(1, -1, every.shape[2]))[0]


class _Map(nn.Module):
    """The map between the user's units and the network's, see `kanrun.targets`, in float64."""

    shift: Tensor
    scale: Tensor

    def __init__(self, scaling: Scaling | PiecewiseScaling, *, inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        self.columns: nn.ModuleList | None = None
        if isinstance(scaling, PiecewiseScaling):
            pairs = zip(scaling.points, scaling.values, strict=True)
            maps = (_Interpolation(*(pair[::-1] if inverse else pair)) for pair in pairs)
            self.columns = nn.ModuleList(maps)
        else:
            self.register_buffer("shift", torch.as_tensor(scaling.shift))
            self.register_buffer("scale", torch.as_tensor(scaling.scale))

    def forward(self, x: Tensor) -> Tensor:
        if self.columns is not None:
            return torch.stack([one(x[:, i]) for i, one in enumerate(self.columns)], 1)
        return x * self.scale + self.shift if self.inverse else (x - self.shift) / self.scale


class _Interpolation(nn.Module):
    """A piecewise linear function, constant beyond its ends, as `numpy.interp` computes it."""

    points: Tensor
    values: Tensor

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("points", torch.as_tensor(points))
        self.register_buffer("values", torch.as_tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        held = x.clamp(self.points[0], self.points[-1])
        at = torch.searchsorted(self.points[1:-1], held, right=True)
        slopes = self.values.diff() / self.points.diff()
        return self.values[at] + (held - self.points[at]) * slopes[at]
