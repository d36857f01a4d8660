"""Functions that solve an equation: a network on a box, or several in consecutive windows.

A `Field` maps the box to [-1, 1] in every variable, calls its network, and combines the outputs
into the unknowns. Each unknown is one output, or a sum of products of outputs, u = N_1 N_2 + N_3
N_4 + ... With a network of one layer the latter contains the separated form sum_r prod_i f_ri(x_i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from kanrun.engine.equations.system import Array
from kanrun.engine.equations.taylor import Monomials, network_jets
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN, Network, from_description
from kanrun.engine.splines import equally_spaced
from kanrun.errors import KanrunError

Coordinates = Float[Tensor, "points variables"]
#: Factor of products from points (points,) of [-1, 1] to values (points, unknowns, terms).
Factor = Callable[[Array], Array]


@dataclass(frozen=True)
class OutputForm:
    """Map from the outputs of a network to `unknowns` functions.

    Each unknown is a sum of `terms` products of `factors` outputs; factors = 1 is the plain output.
    In a `separated` form each factor depends on one variable: u = sum_r prod_i f_ri(x_i).
    """

    unknowns: int = 1
    terms: int = 1
    factors: int = 1
    separated: bool = False

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return self.unknowns * self.terms * self.factors

    def mask(self, inputs: int) -> Bool[Tensor, "outputs inputs"]:
        """Return which edges a network of one layer keeps."""
        if not self.separated:
            return torch.ones(self.outputs, inputs, dtype=torch.bool)
        return torch.eye(inputs, dtype=torch.bool).repeat(self.unknowns * self.terms, 1)

    def combine(
        self, outputs: Tensor, monomials: Monomials
    ) -> Float[Tensor, "components points unknowns"]:
        """Return the jets of the unknowns from those of the outputs."""
        total, *more = outputs.unflatten(-1, (self.unknowns, self.terms, self.factors)).unbind(-1)
        for factor in more:
            total = monomials.multiply(total, factor)
        summed: Tensor = total.sum(-1)
        return summed


class Field(Network):
    """Network as unknowns on a box: x (points, variables) -> (points, unknowns).

    Attributes:
        box: Ranges of the variables, which become the network's inputs on [-1, 1], shape
            (variables, 2).
        sizes: Values of the unknowns for outputs of 1, shape (unknowns,).
    """

    kind = "field"

    def __init__(self, network: Network, form: OutputForm, box: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.network = network
        self.form = form
        self.register_buffer("box", box)
        self.register_buffer("sizes", sizes)

    box: Tensor
    sizes: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.network.shape[:-1], self.form.unknowns)

    @property
    def half_extent(self) -> Tensor:
        """Half the extent of the box in each variable."""
        return self.box.diff()[:, 0] / 2

    def inner(self, x: Coordinates) -> Coordinates:
        """Return the inputs of the network for x: -1 and 1 at the ends of the box."""
        return (x - self.box.mean(1)) / self.half_extent

    def outer(self, t: Coordinates) -> Coordinates:
        """Return the points whose inputs to the network are t."""
        return self.box.mean(1) + t * self.half_extent

    def with_network(self, network: Network) -> Field:
        """Return the same field of another network."""
        return Field(network, self.form, self.box, self.sizes)

    def forward(self, x: Float[Tensor, "*points variables"]) -> Float[Tensor, "*points unknowns"]:
        value = Monomials(((0,) * len(self.box),))
        rows = x.reshape(-1, x.shape[-1])
        found = self.form.combine(self.network(self.inner(rows))[None], value) * self.sizes
        return found[0].reshape(*x.shape[:-1], self.form.unknowns)

    def jets(
        self, x: Coordinates, monomials: Monomials
    ) -> tuple[Float[Tensor, "components points unknowns"], list[Tensor]]:
        """Return the jets of the unknowns at x in the user's units, see `network_jets`."""
        outputs, parameters = network_jets(self.network, self.inner(x), monomials)
        half = self.half_extent
        stretch = torch.stack([(half ** -half.new_tensor(i)).prod() for i in monomials.indices])
        found = self.form.combine(outputs, monomials) * stretch[:, None, None] * self.sizes
        return found, parameters

    def derivatives(
        self, x: Coordinates, indices: Sequence[Sequence[int]]
    ) -> Float[Tensor, "points unknowns indices"]:
        """Return several derivatives of every unknown at x."""
        every = list(map(tuple, indices))
        monomials = Monomials.covering(every, len(self.box))
        with torch.enable_grad():
            jets, _ = self.jets(x, monomials)
        return torch.stack([monomials.derivative(jets, each) for each in every], dim=-1).detach()

    @property
    def _trained(self) -> Bool[Tensor, " numbers"]:
        """Mask of the network's unknowns that belong to trained edges."""
        layers = self.network.edge_layers
        masks = [e.mask[..., None].expand_as(e.coefficients).flatten() for e in layers]
        return torch.cat(masks) if masks else torch.ones_like(self.network.get_unknowns()) > 0

    def get_unknowns(self) -> Float[Tensor, " unknowns"]:
        return self.network.get_unknowns()[self._trained]

    def set_unknowns(self, values: Float[Tensor, " unknowns"]) -> None:
        every = self.network.get_unknowns()
        every[self._trained] = values
        self.network.set_unknowns(every)

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"network.{name}", parameter) for name, parameter in self.network.unknowns()]

    @property
    def intervals(self) -> int | None:
        return self.network.intervals

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "network": self.network.describe(),
            "form": list(astuple(self.form)),
            "variables": len(self.box),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Field:
        form = OutputForm(*description["form"])
        box = torch.zeros(int(description["variables"]), 2, dtype=torch.float64)
        network = from_description(description["network"])
        return cls(network, form, box, torch.ones(form.unknowns, dtype=torch.float64))


class Windows(Network):
    """Fields in consecutive windows of the last variable: field i up to `ends[i]`.

    Where formulas jump between two windows, values are those after it.
    """

    kind = "windows"

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        if not fields:
            raise KanrunError("A solution in windows needs at least one window.")
        self.fields = nn.ModuleList(fields)

    @property
    def parts(self) -> list[Field]:
        """Fields in their order."""
        return [field for field in self.fields if isinstance(field, Field)]

    @property
    def ends(self) -> Float[Tensor, " windows_but_one"]:
        """Upper ends of all windows but the last."""
        return torch.stack([field.box[-1, 1] for field in self.parts])[:-1]

    @property
    def lowest(self) -> Float[Tensor, "windows variables"]:
        """Values below which none is in a window: its start, for all but the first."""
        starts = torch.stack([field.box[:, 0] for field in self.parts])
        found = torch.full_like(starts, -torch.inf)
        found[1:, -1] = starts[1:, -1]
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    def forward(self, x: Coordinates) -> Float[Tensor, "points unknowns"]:
        return self._joined(x, lambda field, part: field(part))

    def derivatives(
        self, x: Coordinates, indices: Sequence[Sequence[int]]
    ) -> Float[Tensor, "points unknowns indices"]:
        """Return `Field.derivatives` in the window of each point."""
        return self._joined(x, lambda field, part: field.derivatives(part, indices))

    def _joined(self, x: Tensor, function: Callable[[Field, Tensor], Tensor]) -> Tensor:
        window = torch.searchsorted(self.ends, x[:, -1].contiguous())
        places = [(window == number).nonzero()[:, 0] for number in range(len(self.parts))]
        x = x.maximum(self.lowest[window])
        found = [function(field, x[at]) for field, at in zip(self.parts, places, strict=True)]
        return torch.cat(found)[torch.cat(places).argsort()]

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": [field.describe() for field in self.parts]}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Windows:
        return cls([Field.from_description(field) for field in description["fields"]])


def interpolation_points(edges: Array, degree: int) -> Float[Array, "variables functions"]:
    """Return points at which values determine splines: means of knots that repeat the ends."""
    clamped = np.pad(edges, ((0, 0), (degree - 1, degree - 1)), mode="edge")
    found: Array = sliding_window_view(clamped, degree, axis=1).mean(-1)
    return found.clip(-1, 1)


def spline_field(
    box: Tensor,
    edges: Float[Array, "variables ends"],
    degree: int,
    factors: Sequence[Factor],
    sizes: Tensor | None = None,
) -> Field:
    """Return the field of one layer of splines whose factors have given values.

    Args:
        box: Ranges of the variables, shape (variables, 2).
        edges: Breakpoints on [-1, 1]. Box units do not resolve the shortest windows.
        degree: Degree of the splines.
        factors: The factor of each variable.
        sizes: Values of the unknowns for outputs of 1; 1 by default.
    """
    points = interpolation_points(edges, degree)
    ends = torch.as_tensor(edges)
    values = [factor(x) for factor, x in zip(factors, points, strict=True)]
    (_, unknowns, terms), count = values[0].shape, len(factors)
    form = OutputForm(unknowns, terms, count, separated=count > 1)
    spec = EdgeSpec(degree=degree, base="zero")
    layer = SplineLayer.on_grid(ends, form.outputs, spec, uniform=equally_spaced(ends))
    layer.mask.copy_(form.mask(count))
    found = layer.coefficients.detach().unflatten(0, (-1, count))
    for number, (each, x, knots) in enumerate(zip(values, points, layer.knots, strict=True)):
        spline = make_interp_spline(x, each.reshape(len(x), -1), degree, knots)
        found[:, number, number] = torch.as_tensor(spline.c.T)
    units = box.new_ones(unknowns) if sizes is None else sizes
    return Field(KAN.of_layers([layer]), form, box, units)


def edges_of(solution: Field | None) -> Float[Tensor, "variables points"] | None:
    """Return the breakpoints of each variable on [-1, 1]; None for a network without grids."""
    layers = solution.network.edge_layers if solution is not None else ()
    return layers[0].grid.breakpoints if layers else None


def breakpoints_of(solution: Field) -> Coordinates | None:
    """Return the breakpoints of each variable in the units of the box; None without grids."""
    if (edges := edges_of(solution)) is None:
        return None
    found = solution.outer(edges.T)
    found[0], found[-1] = solution.box.T  # Without rounding.
    return found
