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
    with torch.no_grad():
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

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.fields = windows.fields
        self.register_buffer(
            "ends", windows.ends.clone()
        )  # a view would be stored with all that it is of

    ends: Tensor

    def forward(self, x: Tensor) -> Tensor:
        every = torch.stack([field(x) for field in self.fields])
        window = torch.searchsorted(self.ends, x[:, -1].contiguous())
        return every.gather(0, window[None, :, None].expand(1, -1, every.shape[2]))[0]


class _Map(nn.Module):
    """See `kanrun.targets.PiecewiseScaling`; float64."""

    def __init__(self, scaling: Scaling | PiecewiseScaling, *, inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        self.piecewise = isinstance(scaling, PiecewiseScaling)
        if isinstance(scaling, PiecewiseScaling):
            widest = max(map(len, scaling.points))
            pairs = (_padded(scaling.points, widest), _padded(scaling.values, widest))
            for name, value in zip(
                ("source", "goal"), reversed(pairs) if inverse else pairs, strict=True
            ):
                self.register_buffer(name, torch.as_tensor(value))
        else:
            self.register_buffer("shift", torch.as_tensor(scaling.shift))
            self.register_buffer("scale", torch.as_tensor(scaling.scale))

    source: Tensor
    goal: Tensor
    shift: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.piecewise:
            return x * self.scale + self.shift if self.inverse else (x - self.shift) / self.scale
        held = torch.minimum(torch.maximum(x, self.source[:, 0]), self.source[:, -1]).T.contiguous()
        first = torch.searchsorted(self.source[:, 1:-1].contiguous(), held, right=True)
        a, b, c, d = (
            table.gather(1, first + step)
            for table, step in ((self.source, 0), (self.source, 1), (self.goal, 0), (self.goal, 1))
        )
        width = b - a
        share = torch.where(width > 0, (held - a) / torch.where(width > 0, width, 1.0), 0.0)
        return (c + share * (d - c)).T


def _padded(rows: tuple[np.ndarray, ...], widest: int) -> np.ndarray:
    """Repeat the last entry of each row: intervals of no width."""
    return np.stack([np.concatenate([row, np.full(widest - len(row), row[-1])]) for row in rows])
