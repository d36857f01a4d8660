"""A KAN layer: one learnable univariate function on every edge from an input to an output."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, Literal

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from kanrun.engine.layers.bases import BASES, Base
from kanrun.engine.layers.functional import edge_sums
from kanrun.engine.layers.settings import (
    Domain,
    EdgeScaling,
    EdgeSpec,
    TrainedScales,
    check_samples,
    checked_shape,
    domain_of,
    edge_spec,
)
from kanrun.engine.splines import (
    Extrapolation,
    Grid,
    breakpoints_of,
    dense_rows,
    equally_spaced,
    extend,
    local_basis,
    uniform_breakpoints,
)
from kanrun.engine.splines.basis_products import by_edges
from kanrun.engine.splines.least_squares import difference_bands, difference_columns

#: What a basis function must reach on a sample to be seen by it: at a knot, rounding alone makes values of 1e-40.
SEEN = 1e-10


class SplineLayer(nn.Module):
    """y_o = sum_i mask_oi phi_oi(x_i) for x (..., inputs), y (..., outputs); `kanrun.KANLayer`.

    `SplineLayer(2, 5)` is a fresh layer on a uniform grid: `intervals` and `degree` of the splines, `domain` of the
    grid, (low, high) for all inputs or one pair for each, `base`, `edge_scaling` and `extrapolation` of `EdgeSpec`,
    `initialisation` by name, drawn from `generator` (None: torch's own). `on_grid` makes an empty layer on any grid.
    Raises UsageError for a value that breaks its rule.

    Examples:
        >>> import torch
        >>> from kanrun import KANLayer
        >>> network = torch.nn.Sequential(KANLayer(2, 8), torch.nn.LayerNorm(8), KANLayer(8, 1))
        >>> network(torch.zeros(4, 2)).shape
        torch.Size([4, 1])

    Parameters: `coefficients` (outputs, inputs, G + k); `base_weight` and `spline_weight` (outputs, inputs), or
    one `weight` when spec.edge_scaling is `single`. Buffers: `knots` (inputs, G + 2k + 1) and `mask`
    (outputs, inputs), false where an edge is pruned.

    `uniform` is not part of the state_dict: knots that are loaded and not equally spaced turn it off.
    """

    knots: Tensor
    mask: Tensor

    def __init__(  # noqa: PLR0913 (keywords of a public class)
        self,
        inputs: int,
        outputs: int,
        intervals: int = 5,
        degree: int = 3,
        *,
        domain: Domain = (-1.0, 1.0),
        base: str = "silu",
        edge_scaling: EdgeScaling = "separate",
        extrapolation: Extrapolation = "linear",
        initialisation: str = "paper",
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        inputs, outputs = checked_shape((inputs, outputs))
        spec = edge_spec(intervals, degree, base, edge_scaling, extrapolation, initialisation)
        ends = domain_of(domain, inputs, dtype, device)
        self._build(
            uniform_breakpoints(ends[:, 0], ends[:, 1], intervals), outputs, spec, uniform=True
        )
        from kanrun.engine.layers.initialisation import initialise

        initialise(self, initialisation, generator)

    @classmethod
    def on_grid(
        cls,
        breakpoints: Float[Tensor, "inputs points"],
        outputs: int,
        spec: EdgeSpec,
        *,
        uniform: bool,
    ) -> SplineLayer:
        """A layer on these breakpoints; all parameters are zero but for the scales of the splines, which are one."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._build(breakpoints, outputs, spec, uniform=uniform)
        return layer

    def _build(self, breakpoints: Tensor, outputs: int, spec: EdgeSpec, *, uniform: bool) -> None:
        self.spec, self.uniform = spec, uniform
        inputs = breakpoints.shape[0]
        self.register_buffer("knots", extend(breakpoints, spec.degree))
        self.register_buffer(
            "mask", torch.ones(outputs, inputs, dtype=torch.bool, device=breakpoints.device)
        )
        functions = breakpoints.shape[1] - 1 + spec.degree
        self.coefficients = nn.Parameter(breakpoints.new_zeros(outputs, inputs, functions))
        every, base = (
            spec.trained_scales == "all",
            spec.trained_scales != "none" and spec.base != "zero",
        )
        if spec.edge_scaling == "single":
            self.weight = nn.Parameter(
                breakpoints.new_ones(outputs, inputs), requires_grad=every or base
            )
        else:
            self.spline_weight = nn.Parameter(
                breakpoints.new_ones(outputs, inputs), requires_grad=every
            )
            self.base_weight = nn.Parameter(
                breakpoints.new_zeros(outputs, inputs), requires_grad=base
            )

    def extra_repr(self) -> str:
        return (
            f"{self.inputs}, {self.outputs}, intervals={self.grid.intervals}, degree={self.spec.degree}, "
            f"base={self.spec.base!r}"
        )

    @property
    def outputs(self) -> int:
        return int(self.mask.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.mask.shape[1])

    @property
    def grid(self) -> Grid:
        return Grid(self.knots, self.spec.degree, self.uniform, self.spec.extrapolation)

    @property
    def base(self) -> Base:
        """b on this layer's grid."""
        return Base(self.spec.base, self.grid, self.spec.base_goes_on)

    @property
    def trained_base(self) -> nn.Parameter | None:
        """What weighs the base, w_b or the one w; None where training does not move it or there is no base."""
        weight = self.weight if self.spec.edge_scaling == "single" else self.base_weight
        return weight if weight.requires_grad and self.spec.base != "zero" else None

    def scales(self) -> tuple[Float[Tensor, "out inputs"], Float[Tensor, "out inputs"]]:
        """(w_b, w_s) as they act: pruned edges are zero."""
        if self.spec.edge_scaling == "single":
            both = self.weight * self.mask
            return both, both
        return self.base_weight * self.mask, self.spline_weight * self.mask

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        check_samples(x, self.inputs, self.knots)
        rows = x.reshape(
            math.prod(x.shape[:-1]), x.shape[-1]
        )  # no -1: nothing says what it stands for without samples
        y = edge_sums(rows, self.coefficients, *self.scales(), self.base)
        return y.reshape(*x.shape[:-1], self.outputs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        loaded = state_dict.get(f"{prefix}knots")
        if self.uniform and loaded is not None and loaded.shape == self.knots.shape:
            self.uniform = equally_spaced(loaded)

    def edge_values(
        self, x: Float[Tensor, "samples inputs"], derivative: Literal[0, 1] = 0
    ) -> Float[Tensor, "samples out inputs"]:
        """phi_oi(x_i) of every edge, or its first derivative: what `forward` adds up over inputs."""
        base_weight, spline_weight = self.scales()
        base = self.base.slope(x) if derivative else self.base(x)
        return self.spline_values(x, derivative) * spline_weight + base[:, None, :] * base_weight

    def unscaled_values(
        self, x: Float[Tensor, "samples inputs"]
    ) -> Float[Tensor, "samples out inputs"]:
        """b(x_i) + spline_oi(x_i): what the one w of scale `single` multiplies."""
        return self.spline_values(x) + self.base(x)[:, None]

    def spline_values(
        self, x: Float[Tensor, "samples inputs"], derivative: int = 0
    ) -> Float[Tensor, "samples out inputs"]:
        """spline_oi(x_i), or its `derivative`-th derivative, without the scales."""
        return by_edges(*local_basis(x, self.grid, derivative), self.coefficients)

    # ------------------------------------------------------- its unknowns: the coefficients, then what weighs the base

    def unknowns_at(self, intervals: int | None = None) -> int:
        """How many there are, on grids of `intervals` (None: its own)."""
        functions = (intervals or self.grid.intervals) + self.spec.degree
        return self.mask.numel() * (functions + (self.trained_base is not None))

    def rows(
        self,
        x: Float[Tensor, "samples inputs"],
        upstream: Float[Tensor, "samples y out"],
        start: int,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Columns (samples, 1, non-zeros) from `start` on and values (samples, y, non-zeros) of d y / d unknowns.

        d y / d coefficient = upstream w_s B(x_in) and d y / d w_b = upstream b(x_in), with upstream = d y / d x_out.
        """
        basis, interval = local_basis(x, self.grid)
        edges = torch.arange(self.mask.numel(), device=x.device)
        functions = edges.view(self.mask.shape)[..., None] * self.grid.functions + start
        local = interval[:, None, :, None] + torch.arange(self.spec.degree + 1, device=x.device)
        scaled = upstream[..., None] * self.scales()[1]  # (samples, y, outputs, inputs)
        index = [(local + functions).flatten(1)[:, None]]
        values = [(scaled[..., None] * basis[:, None, None]).flatten(2)]
        if self.trained_base is not None:
            factors = (
                self.base(x)[:, None] if self.spec.edge_scaling == "separate" else self.unscaled_values(x)
            )
            index.append((edges + start + self.coefficients.numel()).expand(x.shape[0], 1, -1))
            values.append((upstream[..., None] * (factors * self.mask)[:, None]).flatten(2))
        return index, values

    def penalty_rows(self, order: int, start: int) -> list[tuple[Tensor, Tensor]]:
        """Columns from `start` on and values, (rows, order + 1) each: differences of w_s c, and a row for each w_b."""
        bands = difference_bands(self.grid, order)
        edges = torch.arange(self.mask.numel(), device=bands.device)[:, None]
        index = edges[..., None] * self.grid.functions + start + difference_columns(bands)
        values = bands * self.scales()[1].detach()[:, :, None, None]
        found = [(index.reshape(-1, order + 1), values.reshape(-1, order + 1))]
        if self.trained_base is not None:
            alive = pad(self.mask.reshape(-1, 1).to(bands), (0, order))
            found.append(((edges + start + self.coefficients.numel()).expand_as(alive), alive))
        return found

    def touched(self, x: Float[Tensor, "samples inputs"]) -> Bool[Tensor, "inputs functions"]:
        """Which basis functions see at least one of the samples."""
        basis, interval = local_basis(x, self.grid)
        functions = self.grid.functions
        parts = zip(basis.split(4096), interval.split(4096), strict=True)
        return torch.stack(
            [(dense_rows(part, at, functions).abs() > SEEN).any(0) for part, at in parts]
        ).any(0)

    def fix_spline_scale(self) -> None:
        """What only scales the coefficients is no longer trained."""
        if self.spec.trained_scales == "all":
            self.spec = replace(self.spec, trained_scales="base")
            weight = self.weight if self.spec.edge_scaling == "single" else self.spline_weight
            weight.requires_grad_(self.spec.edge_scaling == "single" and self.spec.base != "zero")

    def count_pruned(self) -> int:
        """How many trained numbers pruned edges hold."""
        each = sum(p.numel() for p in self.parameters() if p.requires_grad) // self.mask.numel()
        return each * int((~self.mask).sum())

    # ----------------------------------------------------------------------------------------- other layers

    def resized(self, inputs: int, outputs: int) -> SplineLayer:
        """The edges between the first `inputs` and `outputs`; those beyond the own ones are pruned."""
        own = breakpoints_of(self.knots, self.spec.degree)
        grid = torch.cat([own[:inputs], own[:1].expand(max(inputs - self.inputs, 0), -1)])
        new = SplineLayer.on_grid(grid, outputs, self.spec, uniform=self.uniform)
        part = slice(self.outputs), slice(self.inputs)
        with torch.no_grad():
            new.mask.fill_(False)
            for name, value in new.state_dict(keep_vars=True).items():
                if name != "knots":
                    value[part] = getattr(self, name)[:outputs, :inputs]
        return new

    def with_grid(
        self,
        breakpoints: Float[Tensor, "inputs points"],
        coefficients: Float[Tensor, "out inputs n"],
        *,
        uniform: bool,
    ) -> SplineLayer:
        """The same layer on another grid with these coefficients: the one way to a changed grid."""
        new = SplineLayer.on_grid(breakpoints, self.outputs, self.spec, uniform=uniform)
        state = {**self.state_dict(), "knots": new.knots, "coefficients": coefficients}
        new.load_state_dict(state)
        new.train(self.training)
        return new

    def describe(self) -> dict[str, Any]:
        """What, besides the state_dict, rebuilds this layer; plain JSON values."""
        return {
            "edges": asdict(self.spec),
            "uniform": self.uniform,
            "shape": [self.inputs, self.outputs, self.grid.intervals],
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> SplineLayer:
        """An empty layer after `describe`, in float64, waiting for its state_dict; ValueError for another spec."""
        inputs, outputs, intervals = description["shape"]
        spec = dict(description["edges"])
        if "outside" in spec:  # as version 0.1.0 wrote it
            trained: TrainedScales = "all" if spec.pop("trainable_scales") else "none"
            spec |= {
                "extrapolation": spec.pop("outside"),
                "trained_scales": trained,
                "base_goes_on": True,
            }
        if spec["base"] not in BASES:
            raise ValueError(
                f"the base function {spec['base']} is not known to this version of kanrun"
            )
        steps = torch.arange(intervals + 1, dtype=torch.float64).expand(inputs, -1)
        return cls.on_grid(
            steps, outputs, msgspec.convert(spec, EdgeSpec), uniform=bool(description["uniform"])
        )
