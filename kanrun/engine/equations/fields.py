"""Solutions as functions: one network on a box, or one network per window of time.

A `Field` scales every variable from the box to [-1, 1], evaluates its network, and combines the
outputs N_1, N_2, ... into the unknowns. Each unknown is one output, or a sum of products of outputs
such as u = N_1 N_2 + N_3 N_4. With a network of one layer, this includes the separated form
u = sum_r prod_i f_ri(x_i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from kanrun.engine.equations.space import split_intervals
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.taylor import Monomials, network_jets
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN, Network, from_description
from kanrun.engine.splines import equally_spaced
from kanrun.errors import KanrunError

Coordinates = Float[Tensor, "points variables"]
#: Function that returns the factors of one variable in all products of the separated form. It maps
#: values of the variable, scaled to [-1, 1], shape (points,), to factors, shape (points, unknowns,
#: terms).
Factor = Callable[[Array], Array]


@dataclass(frozen=True)
class OutputForm:
    """How the outputs of a network are combined into unknown functions.

    Each unknown is a sum of products of outputs.

    Attributes:
        unknowns: Number of unknown functions.
        terms: Number of products that are summed for each unknown.
        factors: Number of outputs that are multiplied in each product.
        separated: Whether factor i depends on variable i alone: u = sum_r prod_i f_ri(x_i).
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
        """Return a mask that is true for the edges that a network of one layer needs."""
        if not self.separated:
            return torch.ones(self.outputs, inputs, dtype=torch.bool)
        return torch.eye(inputs, dtype=torch.bool).repeat(self.unknowns * self.terms, 1)

    def combine(
        self, outputs: Tensor, monomials: Monomials
    ) -> Float[Tensor, "components points unknowns"]:
        """Compute the jets (`taylor.py`) of the unknowns from those of the network's outputs."""
        total, *more = outputs.unflatten(-1, (self.unknowns, self.terms, self.factors)).unbind(-1)
        for factor in more:
            total = monomials.multiply(total, factor)
        summed: Tensor = total.sum(-1)
        return summed


class Field(Network):
    """Solution on a box: maps points (points, variables) to unknowns (points, unknowns).

    Attributes:
        network: Network whose inputs are the variables, scaled to [-1, 1].
        form: How the outputs of the network are combined into the unknowns.
        box: Range of each variable, shape (variables, 2).
        sizes: Factors by which the combined outputs are multiplied, shape (unknowns,).
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
        """Scale points `x` in the box to the network's inputs, which lie in [-1, 1]."""
        return (x - self.box.mean(1)) / self.half_extent

    def outer(self, t: Coordinates) -> Coordinates:
        """Map network inputs `t` in [-1, 1] back to points in the box."""
        return self.box.mean(1) + t * self.half_extent

    def with_network(self, network: Network) -> Field:
        """Return a field with another network but the same form, box and sizes."""
        return Field(network, self.form, self.box, self.sizes)

    def forward(self, x: Float[Tensor, "*points variables"]) -> Float[Tensor, "*points unknowns"]:
        value = Monomials(((0,) * len(self.box),))
        rows = x.reshape(-1, x.shape[-1])
        found = self.form.combine(self.network(self.inner(rows))[None], value) * self.sizes
        return found[0].reshape(*x.shape[:-1], self.form.unknowns)

    def jets(
        self, x: Coordinates, monomials: Monomials
    ) -> tuple[Float[Tensor, "components points unknowns"], list[Tensor]]:
        """Compute the jets of the unknowns at `x`, in the user's units.

        Also return the network's parameters with one copy per point, see `network_jets`.
        """
        outputs, parameters = network_jets(self.network, self.inner(x), monomials)
        half = self.half_extent
        stretch = torch.stack([(half ** -half.new_tensor(i)).prod() for i in monomials.indices])
        found = self.form.combine(outputs, monomials) * stretch[:, None, None] * self.sizes
        return found, parameters

    def derivatives(
        self, x: Coordinates, indices: Sequence[Sequence[int]]
    ) -> Float[Tensor, "points unknowns indices"]:
        """Compute several derivatives of every unknown at `x`, one per multi-index in `indices`."""
        every = list(map(tuple, indices))
        monomials = Monomials.covering(every, len(self.box))
        with torch.enable_grad():
            jets, _ = self.jets(x, monomials)
        return torch.stack([monomials.derivative(jets, each) for each in every], dim=-1).detach()

    @property
    def _trained(self) -> Bool[Tensor, " numbers"]:
        """Mask of the trained coefficients: those of edges that the layer's mask keeps."""
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
    """Solution in consecutive windows of time (the last variable), with one field per window.

    Between two windows there may be a tiny gap, at a jump of the formulas in time. Points in the
    gap get the value at the start of the later window.
    """

    kind = "windows"

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        if not fields:
            raise KanrunError("A solution in windows needs at least one window.")
        self.fields = nn.ModuleList(fields)

    @property
    def parts(self) -> list[Field]:
        """Fields in the order of their windows."""
        return [field for field in self.fields if isinstance(field, Field)]

    @property
    def ends(self) -> Float[Tensor, " windows_but_one"]:
        """Ends of all windows but the last, shape (windows - 1,)."""
        return torch.stack([field.box[-1, 1] for field in self.parts])[:-1]

    @property
    def lowest(self) -> Float[Tensor, "windows variables"]:
        """Lower bounds to which the points of each window are clipped.

        The bound of time is the start of the window; the bounds of the first window and of all
        other variables are minus infinity.
        """
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
        """Compute derivatives like `Field.derivatives`, in the window that contains each point."""
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
    """Return points at which splines can be interpolated: means of `degree` neighbouring knots.

    The knots are the breakpoints `edges`, shape (variables, breakpoints), with repeated ends.
    """
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
    """Interpolate a sum of products by splines, and return the result as a field with one layer.

    Args:
        box: Range of each variable, shape (variables, 2).
        edges: Breakpoints of each variable, scaled to [-1, 1], because float64 would not resolve
            the shortest windows in units of the box.
        degree: Degree of the splines.
        factors: One function per variable, which returns its factors of all products.
        sizes: Factors by which the sums are multiplied, shape (unknowns,); 1 by default.
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
    """Return the breakpoints of each variable, scaled to [-1, 1].

    Return None if there is no solution or its network has no grids.
    """
    layers = solution.network.edge_layers if solution is not None else ()
    return layers[0].grid.breakpoints if layers else None


def breakpoints_of(solution: Field) -> Coordinates | None:
    """Return the breakpoints of each variable in units of the box, shape (points, variables).

    Return None if the network has no grids.
    """
    if (edges := edges_of(solution)) is None:
        return None
    found = solution.outer(edges.T)
    found[0], found[-1] = solution.box.T  # The ends are exact, without rounding.
    return found


def insert_knots(
    solution: Field, intervals: int, points: Tensor, squares: Float[Tensor, " points"]
) -> Field:
    """Return the same function on `intervals` intervals, most of them where residuals are large.

    In each variable, the interval with the largest sum of squared residuals is halved repeatedly.
    Grids of hidden layers stay uniform.

    Args:
        solution: Function to refine.
        intervals: New number of intervals per variable.
        points: Points at which residuals are known, shape (points, variables).
        squares: Squared residuals at these points.
    """
    first, *hidden = solution.network.edge_layers
    pairs = zip(first.grid.breakpoints, solution.inner(points).T, strict=True)
    breakpoints = torch.stack([split_intervals(*each, squares, intervals) for each in pairs])
    moved, _ = first.moved(breakpoints, uniform=equally_spaced(breakpoints))
    finer = (layer.refined(intervals)[0] for layer in hidden)
    return solution.with_network(KAN.of_layers([moved, *finer]))


def with_free_term(field: Field) -> Field:
    """Return the same function in a separated form with an additional term of value zero.

    The first factor of the term is zero and the others are one, so that small changes of its
    coefficients can add any function of the first variable.
    """
    form, (layer,) = replace(field.form, terms=field.form.terms + 1), field.network.edge_layers
    wider = SplineLayer.on_grid(
        layer.grid.breakpoints, form.outputs, layer.spec, uniform=layer.uniform
    )
    wider.mask.copy_(form.mask(len(field.box)))
    after, before = (
        each.coefficients.detach().unflatten(0, (form.unknowns, -1, form.factors))
        for each in (wider, layer)
    )
    after[:, 0, 1:] = 1.0
    after[:, 1:] = before
    return Field(KAN.of_layers([wider]), form, field.box, field.sizes)
