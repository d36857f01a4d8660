"""Networks of spline layers under training: unknowns, Jacobian, grids."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer, linearised, nodes_of
from kanrun.engine.least_squares import LocalRows
from kanrun.engine.networks.counting import kanbefair_flops, layer_flops, size_of
from kanrun.engine.networks.network import InputGrid, Network, Regridded
from kanrun.engine.splines import (
    breakpoints_from_data,
    breakpoints_within,
    largest_but_rare,
    penalty_order,
)

#: What splines do outside their grids, by the policy.
EXTRAPOLATION_NOTES = {
    "linear": "the splines continue linearly",
    "constant": "the splines keep their values at the ends",
    "zero": "the splines are zero",
    "base": "the splines keep their values at the ends and the base function continues",
}
#: Checked calls of a class method cannot resolve Self.
N = TypeVar("N", bound="EdgeNetwork")


class EdgeNetwork(Network):
    """The protocol of `Network` for spline layers in a row, with multiplication nodes."""

    @classmethod
    def of_layers(cls: type[N], layers: Sequence[SplineLayer], products: Sequence[int] = ()) -> N:
        """Return the network of these layers."""
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._hold(layers, products)
        return network

    def _hold(self, layers: Sequence[SplineLayer], products: Sequence[int]) -> None:
        self.products = (*(products or [0] * (len(layers) - 1)), 0)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        return self.activations(x)[-1]

    def activations(self, x: Float[Tensor, "*batch inputs"]) -> list[Tensor]:
        values = [x]
        for layer, products in zip(self.layers, self.products, strict=True):
            values.append(nodes_of(layer(values[-1]), products))
        return values

    @property
    def edge_layers(self) -> tuple[SplineLayer, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, SplineLayer))

    @property
    def shape(self) -> tuple[int, ...]:
        layers = self.edge_layers
        return (*(layer.inputs for layer in layers), layers[-1].outputs)

    def count(self) -> int:
        """Return the number of trained numbers, without those of pruned edges."""
        total = 0
        for layer in self.edge_layers:
            numbers = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            total += numbers * int(layer.mask.sum()) // layer.mask.numel()
        return total

    def flops(self) -> dict[str, float | None]:
        layers = self.edge_layers
        fair = kanbefair_flops(size_of(self), layers[0].spec.base)
        return {"flops": float(sum(map(layer_flops, layers))), "kanbefair_flops": fair}

    @property
    def extrapolation_note(self) -> str:
        return EXTRAPOLATION_NOTES[self.edge_layers[0].spec.extrapolation]

    def for_second_order(self) -> EdgeNetwork:
        """Return the network with w_s (without a base: w) fixed, whose scale coefficients have."""
        new = deepcopy(self)
        for layer in new.edge_layers:
            layer.freeze_spline_scale()
        return new

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return for each layer the coefficients, then the weights of the base."""
        found = []
        for number, layer in enumerate(self.edge_layers):
            found.append((f"layers.{number}.coefficients", layer.coefficients))
            if (base := layer.trained_base) is not None:
                found.append((f"layers.{number}.{layer.base_name}", base))
        return found

    def linearise(
        self, x: Float[Tensor, "samples inputs"]
    ) -> tuple[Float[Tensor, "samples out"], LocalRows]:
        """Return (f(x), J) with the non-zeros of J alone: k + 1 an edge, however fine the grids."""
        with torch.no_grad():
            layers = [layer.edges for layer in self.edge_layers]
            bases, y, rows = linearised(layers, self.products, x)
            columns, start = [], 0
            for layer, at in zip(layers, bases, strict=True):
                columns.append(layer.columns(at, start))
                start += layer.size
            index = torch.cat(columns, -1)[:, None].expand_as(rows).flatten(0, 1)
        return y, LocalRows(index.contiguous(), rows.flatten(0, 1), start)

    @property
    def row_terms(self) -> int:
        return self.unknowns_at(1)

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """Return the differences of order m of w_s c, and a row for each w_b."""
        parts, start = list[tuple[Tensor, Tensor]](), 0
        for layer in self.edge_layers:
            parts += layer.penalty_rows(order or penalty_order(layer.spec.degree), start)
            start += layer.unknowns_at()
        indices, values = zip(*parts, strict=True)
        return LocalRows(torch.cat(indices), torch.cat(values), start)

    def support(self, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
        """Return for each layer the functions that can be learned from the samples.

        A function with no sample in its k + 1 intervals cannot. Samples outside the grid touch the
        functions that the policy of extrapolation continues.
        """
        with torch.no_grad():
            return [layer.touched(at) for layer, at in self.edge_inputs(x)]

    def unseen(self, x: Float[Tensor, "samples inputs"]) -> Bool[Tensor, " unknowns"]:
        """Return the functions that no sample touches, and with any of an edge's its w_b."""
        parts = []
        for layer, seen in zip(self.edge_layers, self.support(x), strict=True):
            parts.append((~seen).expand_as(layer.coefficients).reshape(-1))
            if layer.trained_base is not None:
                parts.append((~seen.all(1)).expand_as(layer.mask).reshape(-1))
        return torch.cat(parts)

    @property
    def intervals(self) -> int:
        """G of the first layer; all layers have the same unless built otherwise."""
        return self.edge_layers[0].grid.intervals

    def unknowns_at(self, intervals: int | None) -> int:
        return sum(layer.unknowns_at(intervals) for layer in self.edge_layers)

    def refined(self, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded:
        return self._measured([layer.refined(intervals) for layer in self.edge_layers], x)

    def regrid(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        intervals: int | None = None,
        grid_eps: float,
        margin: float,
        inputs: InputGrid = "keep",
    ) -> Regridded:
        """Return the network on redrawn grids, see `Network.regrid`.

        Ranges are those of the old network, so that every layer is carried once. Outliers are
        excluded from them (`breakpoints_from_data`) and extrapolated, so that the function stays
        the same where the data lie.
        """
        moved = []
        with torch.no_grad():
            pairs = self.edge_inputs(x)
        for number, (layer, values) in enumerate(pairs):
            grid, count = layer.grid, intervals or layer.grid.intervals
            if number == 0 and inputs == "keep":
                same = count == grid.intervals
                moved.append((layer, "insertion") if same else layer.refined(count))
                continue
            if number == 0 and inputs == "within":
                ends = torch.stack([grid.low, grid.high], 1)
                points = breakpoints_within(values, ends, count, 1 - grid_eps)
            else:
                points = breakpoints_from_data(values, count, 1 - grid_eps, margin)
            moved.append(layer.moved(points, uniform=grid_eps == 1.0))
        return self._measured(moved, x)

    def covers(self, x: Float[Tensor, "samples inputs"], share: float) -> bool:
        with torch.no_grad():
            pairs = self.edge_inputs(x)[1:]
        return all(layer.grid.covers(values, share) for layer, values in pairs)

    def _measured(self, moved: Sequence[tuple[SplineLayer, str]], x: Tensor) -> Regridded:
        """Return the network of moved layers, the methods, and the change of its function on x."""
        new = self.of_layers([layer for layer, _ in moved], self.products[:-1])
        methods = {method for _, method in moved}
        with torch.no_grad():
            before, after = self(x), new(x)
        size = max(largest_but_rare(before), torch.finfo(before.dtype).tiny)
        change = largest_but_rare(after - before) / size
        return Regridded(new, methods.pop() if len(methods) == 1 else "both", change)
