"""A spline layer with additional radial functions around centres, used by models of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import Breakpoints

#: Parameters of a `RadialLayer`, besides those of its splines.
_PARAMETERS = ("level", "heights")
#: Buffers of a `RadialLayer`, besides those of its splines.
_BUFFERS = ("centres", "smooth_rates", "rough_rates", "points", "ranks")


class RadialLayer(SplineLayer):
    """y_o = c_o + sum_i phi_oi(x_i) + sum_r (a_or exp(-s_r(x)) + b_or exp(-q_r(x))).

    The distances from centre r are s_r = sum_i w_i (x_i - z_ri)^2 / 2 and
    q_r = sum_i m_i |t_i(x_i) - t_i(z_ri)|. The functions t_i are piecewise linear, and constant
    beyond their ends. Written as a KAN, each distance is a hidden node: the edges into the node are
    the terms of the distance, and the edge to output o is exp(-distance) times the height a_or or
    b_or.

    Parameters are `level` c (outputs,) and `heights` (2, outputs, centres), a and b. Buffers are
    `centres` z (centres, inputs), `smooth_rates` w and `rough_rates` m (inputs,), and `points` and
    `ranks` (inputs, points): t_i interpolates linearly between its values `ranks` at `points`.
    Methods that concern edges refer to the splines phi only.
    """

    level: Tensor
    heights: Tensor
    centres: Tensor
    smooth_rates: Tensor
    rough_rates: Tensor
    points: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, splines: SplineLayer, numbers: Mapping[str, Tensor]) -> RadialLayer:
        """Return a layer with the splines of `splines` and the parameters and buffers `numbers`."""
        layer = cls.on_grid(
            splines.grid.breakpoints, splines.outputs, splines.spec, uniform=splines.uniform
        )
        layer.load_state_dict(splines.state_dict())
        assert isinstance(layer, RadialLayer)  # `on_grid` builds the class that it is called on.
        for name in _PARAMETERS:
            setattr(layer, name, nn.Parameter(numbers[name]))
        for name in _BUFFERS:
            layer.register_buffer(name, numbers[name])
        return layer

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        splines = super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        root = self.smooth_rates.sqrt()
        left = rows * root
        right = self.centres * root
        smooth = left @ right.T - (left**2).sum(1, keepdim=True) / 2 - (right**2).sum(1) / 2
        near, far = (self._ranked(each) * self.rough_rates for each in (rows, self.centres))
        rough = torch.cdist(near, far, p=1.0)
        radial = smooth.clamp(max=0).exp() @ self.heights[0].T + (-rough).exp() @ self.heights[1].T
        return splines + (radial + self.level).reshape(splines.shape)

    def _ranked(self, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples inputs"]:
        """Return t_i(x_i), the piecewise linear map of each input to its rank."""
        columns = x.T.contiguous()
        above = torch.searchsorted(self.points, columns).clamp(1, self.points.shape[1] - 1)
        low = self.points.gather(1, above - 1)
        high = self.points.gather(1, above)
        # Inputs with fewer points than others have their last point repeated.
        width = (high - low).clamp(min=torch.finfo(x.dtype).tiny)
        share = ((columns - low) / width).clamp(0, 1)
        return torch.lerp(self.ranks.gather(1, above - 1), self.ranks.gather(1, above), share).T

    def moved(self, breakpoints: Breakpoints, *, uniform: bool) -> tuple[SplineLayer, str]:
        splines, method = super().moved(breakpoints, uniform=uniform)
        return self.of(splines, dict(self.named_numbers())), method

    def named_numbers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield copies of the parameters and buffers of `of`, with their names."""
        for name in (*_PARAMETERS, *_BUFFERS):
            yield name, getattr(self, name).detach().clone()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "centres": [len(self.centres), self.points.shape[1]]}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> RadialLayer:
        splines = SplineLayer.from_description(description)
        (centres, points), inputs, outputs = description["centres"], splines.inputs, splines.outputs
        sizes = [(outputs,), (2, outputs, centres), (centres, inputs), (inputs,), (inputs,)]
        sizes += [(inputs, points)] * 2
        empty = splines.coefficients.detach().new_zeros
        names = (*_PARAMETERS, *_BUFFERS)
        return cls.of(splines, {n: empty(size) for n, size in zip(names, sizes, strict=True)})
