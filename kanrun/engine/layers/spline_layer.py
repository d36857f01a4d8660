"""The KAN layer, which has a learnable univariate function on each edge from input to output."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from kanrun.engine.layers.edges import (
    BASES,
    SPLINES,
    Domain,
    Edges,
    EdgeSpec,
    check_samples,
    checked_edges,
    checked_shape,
    continued_base,
    domain_of,
)
from kanrun.engine.layers.initialisation import initialise
from kanrun.engine.splines import (
    Breakpoints,
    Grid,
    Inputs,
    carry_coefficients,
    difference_bands,
    difference_columns,
    equally_spaced,
    extend,
    fused_sums,
    fuses,
    local_basis,
    redivide,
    table_index,
    uniform_breakpoints,
)
from kanrun.errors import UsageError

#: Smallest magnitude at which a basis function counts as nonzero at a sample, because rounding
#: alone causes values of 1e-40 at a knot.
SEEN = 1e-10


class SplineLayer(nn.Module):
    """A layer of a Kolmogorov-Arnold network, public as `kanrun.KANLayer`.

    It computes y_o = sum_i mask_oi phi_oi(x_i), from x (..., inputs) to y (..., outputs). The
    parameters are `coefficients` (outputs, inputs, G + k), `base_weight` and `spline_weight`
    (outputs, inputs). The buffers are `knots` (inputs, G + 2k + 1) and `mask` (outputs, inputs),
    which is false for pruned edges. The attribute `uniform` (equally spaced knots) is not part of
    the state_dict; it becomes False if knots that are not equally spaced are loaded.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
        intervals: Number of grid intervals G.
        degree: Degree k of the splines.
        domain: Range (low, high) of the grids: one pair for all inputs, or one pair for each input.
        edges: Base function, scaling and extrapolation of the edge functions.
        initialisation: Name of the initialisation.
        generator: Random number generator; None: torch's global generator.
        dtype: torch.float32 or torch.float64; None: torch's default.
        device: Device of the parameters; None: torch's default.

    Raises:
        UsageError: If an argument is invalid.

    Examples:
        >>> import torch
        >>> from kanrun import KANLayer
        >>> network = torch.nn.Sequential(KANLayer(2, 8), torch.nn.LayerNorm(8), KANLayer(8, 1))
        >>> network(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
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
        edges: EdgeSpec = SPLINES,
        initialisation: str = "paper",
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        inputs, outputs = checked_shape((inputs, outputs))
        spec = checked_edges(edges, degree, intervals, initialisation)
        ends = domain_of(domain, inputs, dtype, device)
        points = uniform_breakpoints(ends[:, 0], ends[:, 1], intervals)
        self._build(points, outputs, spec, uniform=True)
        initialise(self, initialisation, generator)

    @classmethod
    def on_grid(
        cls, breakpoints: Breakpoints, outputs: int, spec: EdgeSpec, *, uniform: bool
    ) -> SplineLayer:
        """Return a layer on these breakpoints with zero parameters, except w_s = 1."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._build(breakpoints, outputs, spec, uniform=uniform)
        return layer

    def _build(self, breakpoints: Tensor, outputs: int, spec: EdgeSpec, *, uniform: bool) -> None:
        self.spec = spec
        self.uniform = uniform
        inputs, points = breakpoints.shape
        self.register_buffer("knots", extend(breakpoints, spec.degree))
        alive = torch.ones(outputs, inputs, dtype=torch.bool, device=breakpoints.device)
        self.register_buffer("mask", alive)
        functions = points - 1 + spec.degree
        self.coefficients = nn.Parameter(breakpoints.new_zeros(outputs, inputs, functions))
        self.spline_weight = nn.Parameter(breakpoints.new_ones(outputs, inputs))
        self.base_weight = nn.Parameter(breakpoints.new_zeros(outputs, inputs))
        self._choose_trained()

    def _choose_trained(self) -> None:
        self.spline_weight.requires_grad_(self.spec.trained_scales == "all")
        self.base_weight.requires_grad_(self._trains_base)

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
    def trained_base(self) -> nn.Parameter | None:
        """The weights w_b, or None if they are not trained or there is no base function."""
        return self.base_weight if self._trains_base else None

    @property
    def _trains_base(self) -> bool:
        return self.spec.trained_scales != "none" and self.spec.base != "zero"

    @property
    def edges(self) -> Edges:
        """The parameters of the layer's edges, for the pure functions in `edges`."""
        numbers = self.coefficients, *self.scales(), self.mask
        return Edges(self.spec, self.grid, *numbers, self._trains_base)

    def scales(self) -> tuple[Float[Tensor, "out inputs"], Float[Tensor, "out inputs"]]:
        """Return the effective weights (w_b, w_s), which are zero for pruned edges."""
        return self.base_weight * self.mask, self.spline_weight * self.mask

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        check_samples(x, self.inputs, self.knots)
        if x.ndim != 2:
            # The size is given explicitly, because -1 is undefined if there are no samples.
            rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
            return SplineLayer.forward(self, rows).reshape(*x.shape[:-1], len(self.mask))
        grid = self.grid
        if not fuses(grid):
            edges = self.edges
            return edges.sums(edges.at(x))
        base_weight, spline_weight = self.scales()
        table = self.coefficients * spline_weight[..., None]
        return fused_sums(x, table, grid, continued_base(x, self.spec.base, grid), base_weight)

    def edge_values(
        self, x: Inputs, derivative: Literal[0, 1] = 0
    ) -> Float[Tensor, "samples out inputs"]:
        """Return phi_oi(x_i) or its first derivative for all edges; `forward` sums over inputs."""
        edges = self.edges
        return edges.values(edges.at(x, derivative))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        loaded = state_dict.get(f"{prefix}knots")
        if self.uniform and loaded is not None and loaded.shape == self.knots.shape:
            self.uniform = equally_spaced(loaded)

    # -------------------- unknowns: the coefficients, then the weights of the base

    def unknowns_at(self, intervals: int | None = None) -> int:
        """Return the number of unknowns with `intervals` intervals; None means the present ones."""
        functions = (intervals or self.grid.intervals) + self.spec.degree
        return self.mask.numel() * (functions + (self.trained_base is not None))

    def penalty_rows(self, order: int | None, start: int) -> list[tuple[Tensor, Tensor]]:
        """Return the rows of the smoothness penalty as pairs (columns, values), both (rows, terms).

        The first pair has the divided differences of w_s c of this `order`. If the base weights are
        trained, a second pair has one row per base weight. The layer's first unknown is column
        `start`.
        """
        bands = difference_bands(self.grid, order)
        edges = torch.arange(self.mask.numel(), device=bands.device)[:, None]
        index = edges[..., None] * self.grid.functions + start + difference_columns(bands)
        values = bands * self.scales()[1].detach()[:, :, None, None]
        terms = bands.shape[2]
        rows = [(index.reshape(-1, terms), values.reshape(-1, terms))]
        if self.trained_base is not None:
            alive = pad(self.mask.reshape(-1, 1).to(bands), (0, terms - 1))
            rows.append(((edges + start + self.coefficients.numel()).expand_as(alive), alive))
        return rows

    def touched(self, x: Inputs) -> Bool[Tensor, "inputs functions"]:
        """Return a mask of the basis functions that are nonzero at one or more samples."""
        (basis, interval), functions = local_basis(x, self.grid), self.grid.functions
        places = table_index(interval, basis.shape[-1], functions)
        seen = self.mask.new_zeros(self.inputs * functions)
        seen[places[basis.flatten(1).abs() > SEEN]] = True
        return seen.view(self.inputs, functions)

    def freeze_spline_scale(self) -> None:
        """Stop training weights that only scale the coefficients: w_s, or w without a base."""
        if self.spec.trained_scales == "all":
            self.spec = replace(self.spec, trained_scales="base")
            self._choose_trained()

    # -------------------- other layers

    def refined(self, intervals: int) -> tuple[SplineLayer, str]:
        """Return the layer with this number of grid intervals over the same range.

        Also return the method of transfer, as `moved` does.
        """
        points = redivide(self.grid.breakpoints, intervals)
        return self.moved(points, uniform=self.uniform)

    def moved(self, breakpoints: Breakpoints, *, uniform: bool) -> tuple[SplineLayer, str]:
        """Return the layer on new breakpoints, and the method of transfer.

        The splines are transferred by `carry_coefficients`, which returns the method; weights, base
        function and mask do not change.
        """
        grid = self.grid.double()
        spec = self.spec
        knots = extend(breakpoints.double(), spec.degree)
        target = replace(grid, knots=knots, uniform=uniform)
        carried, method = carry_coefficients(self.coefficients.detach().double(), grid, target)
        new = SplineLayer.on_grid(breakpoints, self.outputs, spec, uniform=uniform)
        numbers = {"knots": new.knots, "coefficients": carried.to(self.coefficients)}
        new.load_state_dict(self.state_dict() | numbers)
        new.train(self.training)
        return new, method

    def describe(self) -> dict[str, Any]:
        """Return plain JSON values from which, with the state_dict, the layer can be restored."""
        return {
            "edges": asdict(self.spec),
            "uniform": self.uniform,
            "shape": [self.inputs, self.outputs, self.grid.intervals],
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> SplineLayer:
        """Return a layer in float64 with the structure that `describe` returned.

        Its state must be loaded by load_state_dict. Raises ValueError if the description is
        invalid.
        """
        inputs, outputs, intervals = description["shape"]
        spec = msgspec.convert(description["edges"], EdgeSpec)
        if spec.base not in BASES:
            raise ValueError(
                f"the base function {spec.base} is not known to this version of kanrun"
            )
        steps = torch.arange(intervals + 1, dtype=torch.float64).expand(inputs, -1)
        return cls.on_grid(steps, outputs, spec, uniform=bool(description["uniform"]))


@dataclass(frozen=True, eq=False)
class LearnedEdge:
    """The function phi(x) = w_b b(x) + w_s spline(x) on one edge of a layer.

    Call the object with a number or a tensor x of any shape; the argument `derivative` is the order
    of the derivative. The result has the shape of x, is computed with the layer's present
    parameters, and can be differentiated with respect to x and to these parameters. The function
    of a pruned edge is zero.

    Attributes:
        is_pruned: Whether the edge is pruned.
        breakpoints: Breakpoints of the spline, shape (G + 1,).
        coefficients: Coefficients of the spline, shape (G + k,).

    Raises:
        UsageError: If the edge does not exist.
    """

    layer: SplineLayer
    input: int
    output: int

    def __post_init__(self) -> None:
        outputs, inputs = self.layer.mask.shape
        if not (-outputs <= self.output < outputs and -inputs <= self.input < inputs):
            raise UsageError(
                f"There is no edge from input {self.input} to output {self.output}: the layer has "
                f"{inputs} inputs and {outputs} outputs."
            )

    def __call__(self, x: Tensor | float, derivative: int = 0) -> Tensor:
        at = torch.as_tensor(x).to(self.coefficients)
        with torch.enable_grad():
            free = at if at.requires_grad or not derivative else at.detach().requires_grad_()
            every = free.reshape(-1, 1).expand(-1, self.layer.inputs)
            y = self.layer.edge_values(every)[:, self.output, self.input].reshape(free.shape)
            for _ in range(derivative):
                (y,) = torch.autograd.grad(y.sum(), free, create_graph=True)
        return y if torch.is_grad_enabled() else y.detach()

    @property
    def is_pruned(self) -> bool:
        return not bool(self.layer.mask[self.output, self.input])

    @property
    def breakpoints(self) -> Tensor:
        return self.layer.grid.breakpoints[self.input]

    @property
    def coefficients(self) -> Tensor:
        return self.layer.coefficients[self.output, self.input]
