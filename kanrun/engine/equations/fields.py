"""Solutions as networks, and their Taylor series.

A *jet* holds the Taylor coefficients of functions at each point, as a tensor of shape (components,
points, width). Component a is (1 / a!) d^a f / dx^a, one for each multi-index a of a `Monomials`
set; component 0 is the value. The jet of a sum is the sum of the tensors, and the jet of a product
is the truncated product of polynomials. The jet of f(z), with a univariate function f, is the
Taylor series of f at the jet of z (Griewank and Walther, Evaluating Derivatives, ch. 13).

Every point gets a copy of the network's parameters. The value at a point then depends only on the
copy of this point, so that one backward pass computes the Jacobian rows of all points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from kanrun.engine.equations.space import split_intervals
from kanrun.engine.equations.system import Array
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN, Network, from_description
from kanrun.engine.splines import equally_spaced, local_basis
from kanrun.errors import KanrunError, UsageError

#: Multi-index of a derivative: how often each variable is differentiated.
Index = tuple[int, ...]


@dataclass(frozen=True)
class Monomials:
    """Multi-indices of the components of a jet.

    The zero index comes first. If an index is in the set, so are all indices that are nowhere
    larger: with (1, 2) also (0, 0), (0, 1), (0, 2), (1, 0) and (1, 1).
    """

    indices: tuple[Index, ...]

    @classmethod
    def covering(cls, needed: Iterable[Index], variables: int) -> Monomials:
        """Return the smallest set that contains the indices `needed` of length `variables`."""
        below: set[Index] = {(0,) * variables}
        for index in needed:
            below |= set(itertools.product(*(range(each + 1) for each in index)))
        return cls(tuple(sorted(below, key=lambda index: (sum(index), index))))

    @property
    def order(self) -> int:
        """Highest order of a derivative in the set, summed over the variables."""
        return sum(self.indices[-1])

    def factorial(self, index: Index) -> int:
        """Return a!, the ratio of the derivative with multi-index a to its Taylor coefficient."""
        return math.prod(map(math.factorial, index))

    def derivative(self, jet: Tensor, index: Index) -> Tensor:
        """Extract the derivative with the multi-index `index` from a jet, shape (points, width)."""
        return jet[self.indices.index(index)] * self.factorial(index)

    @cached_property
    def products(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each component of a product, the pairs of components that contribute to it."""
        place = {index: number for number, index in enumerate(self.indices)}
        pairs: list[list[tuple[int, int]]] = [[] for _ in self.indices]
        for (i, a), (j, b) in itertools.product(enumerate(self.indices), repeat=2):
            if (at := place.get(tuple(p + q for p, q in zip(a, b, strict=True)))) is not None:
                pairs[at].append((i, j))
        return tuple(map(tuple, pairs))

    def variables(
        self, x: Float[Tensor, "points variables"]
    ) -> Float[Tensor, "components points variables"]:
        """Return the jets of the functions x -> x_i at the points `x`."""
        slopes = [[float(sum(a) == 1 == a[i]) for i in range(x.shape[1])] for a in self.indices]
        jet = x.new_tensor(slopes)[:, None].repeat(1, len(x), 1)
        jet[0] = x
        return jet

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the jet of the product of two functions with the jets `a` and `b`."""
        return torch.stack(
            [
                sum((a[i] * b[j] for i, j in pairs[1:]), a[pairs[0][0]] * b[pairs[0][1]])
                for pairs in self.products
            ]
        )

    def compose(self, derivatives: Sequence[Tensor], z: Tensor) -> Tensor:
        """Return the jet of f(z) from the jet `z` and the derivatives of f at the value of z.

        `derivatives` has one tensor per order of f, from 0 on, in the shape of the value of z. If
        the tensors have additional last axes, these hold several functions f of the same argument.
        """
        trailing = (1,) * (derivatives[0].ndim - z.ndim + 1)
        power = shift = torch.cat([torch.zeros_like(z[:1]), z[1:]])  # z - z_0
        value = derivatives[0][None]
        total = torch.cat([value, value.new_zeros(len(z) - 1, *value.shape[1:])])
        for p in range(1, self.order + 1):
            power = self.multiply(power, shift) if p > 1 else power
            total = total + power.reshape(*z.shape, *trailing) * (
                derivatives[p] / math.factorial(p)
            )
        return total


def _copies(parameter: Tensor, z: Tensor) -> Tensor:
    """Copy a parameter for each point of the jet `z`, and track gradients of the copies."""
    return parameter.detach().expand(z.shape[1], *parameter.shape).requires_grad_()


def network_jets(
    network: Network, x: Float[Tensor, "points inputs"], monomials: Monomials
) -> tuple[Float[Tensor, "components points outputs"], list[Tensor]]:
    """Compute the jets of a network's outputs at `x`.

    Call it under `torch.enable_grad`.

    Returns:
        The jets, and the trained parameters with one copy per point, shape (points, ...), with
        respect to which `point_jacobian` differentiates.

    Raises:
        UsageError: If the network is not a KAN without a base function.
    """
    z = monomials.variables(x)
    parameters = list[Tensor]()
    for layer in network.edge_layers:
        if layer.spec.base != "zero":
            raise UsageError("Equations are solved by KANs without a base function, base=zero.")
        parts = [local_basis(z[0], layer.grid, order) for order in range(monomials.order + 1)]
        basis = monomials.compose([values for values, _ in parts], z)
        out, into = layer.mask.nonzero().unbind(1)
        coefficients = _copies(layer.coefficients[out, into], z)
        parameters.append(coefficients)
        local = parts[0][1][..., None] + torch.arange(basis.shape[-1], device=z.device)
        scale = layer.scales()[1].detach()[out, into, None]
        factors = coefficients.gather(2, local[:, into]) * scale
        terms = torch.einsum("mnek,nek->mne", basis[:, :, into], factors)
        z = terms.new_zeros(*terms.shape[:2], layer.outputs).index_add(2, out, terms)
    if not parameters:
        raise UsageError(f"Equations are solved by networks of kind kan, not {network.kind}.")
    return z, parameters


def point_jacobian(
    total: Float[Tensor, ""], parameters: Sequence[Tensor]
) -> Float[Tensor, "points unknowns"]:
    """Return the Jacobian of one value per point with respect to the network's parameters.

    Args:
        total: Sum of the values over all points.
        parameters: Parameters with one copy per point, from `network_jets`.
    """
    return torch.cat([each.flatten(1) for each in torch.autograd.grad(total, parameters)], dim=1)


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
        """Compute the jets of the unknowns from those of the network's outputs."""
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
