"""A spline layer with further nodes that are sums of steps, stored by the places of the steps.

Splines of many steps share the breakpoints of all of them, so that each edge of an input would have
as many coefficients as the input has steps.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import insert_knots

#: Knots of a step, in its widths from its middle: it rises by the integral of a quadratic B-spline.
STEP_KNOTS = (-1.5, -0.5, 0.5, 1.5)
_NODES = 16  # whose splines are put on the grid of all steps at once


class StepLayer(SplineLayer):
    """Nodes of a spline layer, then nodes z_r = sum_k 2^k S((x_j(r,k) - c_rk) / w_rk).

    S rises from 0 to 1 as a cubic spline over 3 widths. Coefficients and mask are those of the
    first nodes alone, and steps are not trained. Buffers are `sources`, `places` and `widths`, the
    j, c and w (nodes, steps). Whatever concerns all edges is a matter of `splines()`.
    """

    sources: Tensor
    places: Tensor
    widths: Tensor

    @classmethod
    def of(
        cls,
        smooth: SplineLayer,
        sources: Int[Tensor, "nodes steps"],
        places: Float[Tensor, "nodes steps"],
        widths: Float[Tensor, "nodes steps"],
    ) -> StepLayer:
        """Return the layer of the nodes of `smooth` and of these steps."""
        points, spec, rows = smooth.grid.breakpoints, smooth.spec, len(smooth.mask)
        layer = cls.on_grid(points, rows, spec, uniform=smooth.uniform)
        layer.load_state_dict(smooth.state_dict())
        assert isinstance(layer, StepLayer)  # An invariant: `on_grid` builds its own class.
        for name, value in (("sources", sources), ("places", places), ("widths", widths)):
            layer.register_buffer(name, value)
        return layer

    @property
    def outputs(self) -> int:
        return len(self.mask) + len(self.sources)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        smooth = super().forward(x)
        t = ((x[..., self.sources] - self.places) / self.widths - STEP_KNOTS[0]).clamp(0, 3)
        one, two = ((t - knot).clamp(min=0) for knot in (1, 2))
        steps = (t**3 - 3 * one**3 + 3 * two**3) / 6
        digits = 2.0 ** torch.arange(steps.shape[-1], dtype=x.dtype, device=x.device)
        return torch.cat([smooth, steps @ digits], -1)

    def splines(self) -> SplineLayer:
        """Return the same function with a spline on every edge.

        Inputs with fewer breakpoints get further ones in their widest interval.
        """
        ends = self.widths[..., None] * self.widths.new_tensor(STEP_KNOTS) + self.places[..., None]
        points = [
            torch.cat([old, ends[self.sources == j].flatten()]).unique()
            for j, old in enumerate(self.grid.breakpoints)
        ]
        size = max(map(len, points))
        for j, each in enumerate(points):
            first = int(each.diff().argmax())
            more = torch.linspace(0, 1, size - len(each) + 2, dtype=each.dtype)[1:-1].to(each)
            more = torch.lerp(each[first], each[first + 1], more)
            points[j] = torch.cat([each[: first + 1], more, each[first + 1 :]])
        new = SplineLayer.on_grid(torch.stack(points), self.outputs, self.spec, uniform=False)
        count = len(self.mask)
        with torch.no_grad():
            parts = [
                insert_knots(one, self.grid, new.grid) for one in self.coefficients.split(_NODES)
            ]
            new.coefficients[:count] = torch.cat(parts)
            new.mask[:count], new.mask[count:] = self.mask, False
            new.spline_weight[:count] = self.spline_weight
            for k, (sources, places) in enumerate(zip(self.sources.T, self.places.T, strict=True)):
                for node, (j, place) in enumerate(
                    zip(sources.tolist(), places, strict=True), count
                ):
                    start = int(torch.searchsorted(points[j], place)) + 1
                    new.coefficients[node, j, start:] += 2.0**k
                    new.mask[node, j] = True
        return new

    def describe(self) -> dict[str, Any]:
        shape = [self.inputs, len(self.mask), self.grid.intervals]
        return {**super().describe(), "shape": shape, "steps": list(self.sources.shape)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> StepLayer:
        smooth = SplineLayer.from_description(description)
        sources = torch.zeros(description["steps"], dtype=torch.int64)
        places = smooth.coefficients.detach().new_zeros(sources.shape)
        return cls.of(smooth, sources, places, places.clone())
