"""Functions that solve an equation: a network on a box, or several in consecutive windows.

A `Field` maps the box to [-1, 1] in every variable, calls its network, and combines the outputs
into the unknowns. Each unknown is one output, or a sum of products of outputs, u = N_1 N_2 + N_3
N_4 + ... With a network of one layer the latter contains the separated form sum_r prod_i f_ri(x_i).

Hard conditions are built in as u = g(x) + b(x) N(x), with b zero on the faces of these conditions.
g satisfies them, one variable after the other: with the Hermite polynomials H of the ends e and the
orders m that have conditions, g <- g + sum H_em(x_i) (value_em - d^m g / dx_i^m at x_i = e), the
Boolean sum of Gordon (1971). b is the product of (x_i - e) to the number of conditions there,
scaled to 1 inside the box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy
import torch
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from kanrun.engine.equations.system import Array, System, derivative_function, exact_number
from kanrun.engine.equations.taylor import Monomials, network_jets
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN, Network, from_description
from kanrun.engine.splines import equally_spaced
from kanrun.errors import KanrunError
from kanrun.formulas import variable
from kanrun.formulas.parsing import parse_expression

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


@dataclass(frozen=True)
class HardConditions:
    """Functions g and b of each unknown, as formulas of `variables` that are stored as text."""

    variables: tuple[str, ...]
    offsets: tuple[str, ...]
    factors: tuple[str, ...]

    def apply(self, jets: Tensor, x: Tensor, monomials: Monomials) -> Tensor:
        """Return the jets (components, points, unknowns) of g + b N from those of N."""
        points, found = x.detach().cpu().numpy(), list[Tensor]()
        for formulas in self._formulas:
            components = []
            for index in monomials.indices:
                functions = (derivative_function(f, self.variables, index) for f in formulas)
                columns = [function(points) for function in functions]
                components.append(np.stack(columns, axis=1) / monomials.factorial(index))
            found.append(torch.as_tensor(np.stack(components)).to(x))
        return found[0] + monomials.multiply(found[1], jets)

    @cached_property
    def _formulas(self) -> list[list[sympy.Expr]]:
        both = self.offsets, self.factors
        return [[parse_expression(text, self.variables) for text in texts] for texts in both]


class Field(Network):
    """Network as unknowns on a box: x (points, variables) -> (points, unknowns).

    Attributes:
        box: Ranges of the variables, which become the network's inputs on [-1, 1], shape
            (variables, 2).
        sizes: Values of the unknowns for outputs of 1, shape (unknowns,).
        hard: Conditions that are built in, or None.
    """

    kind = "field"

    def __init__(
        self,
        network: Network,
        form: OutputForm,
        box: Tensor,
        sizes: Tensor,
        hard: HardConditions | None = None,
    ) -> None:
        super().__init__()
        self.network, self.form, self.hard = network, form, hard
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
        return Field(network, self.form, self.box, self.sizes, self.hard)

    def forward(self, x: Float[Tensor, "*points variables"]) -> Float[Tensor, "*points unknowns"]:
        value, rows = Monomials(((0,) * len(self.box),)), x.reshape(-1, x.shape[-1])
        found = self.form.combine(self.network(self.inner(rows))[None], value) * self.sizes
        result = found if self.hard is None else self.hard.apply(found, rows, value)
        return result[0].reshape(*x.shape[:-1], self.form.unknowns)

    def jets(
        self, x: Coordinates, monomials: Monomials
    ) -> tuple[Float[Tensor, "components points unknowns"], list[Tensor]]:
        """Return the jets of the unknowns at x in the user's units, see `network_jets`."""
        outputs, parameters = network_jets(self.network, self.inner(x), monomials)
        half = self.half_extent
        stretch = torch.stack([(half ** -half.new_tensor(i)).prod() for i in monomials.indices])
        found = self.form.combine(outputs, monomials) * stretch[:, None, None] * self.sizes
        return found if self.hard is None else self.hard.apply(found, x, monomials), parameters

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
            "hard": self.hard and asdict(self.hard),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Field:
        form = OutputForm(*description["form"])
        box = torch.zeros(int(description["variables"]), 2, dtype=torch.float64)
        network, given = from_description(description["network"]), description.get("hard") or {}
        texts = {name: tuple(map(str, each)) for name, each in given.items()}
        hard = HardConditions(**texts) if texts else None
        return cls(network, form, box, torch.ones(form.unknowns, dtype=torch.float64), hard)


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
    hard: HardConditions | None = None,
) -> Field:
    """Return the field of one layer of splines whose factors have given values.

    Args:
        box: Ranges of the variables, shape (variables, 2).
        edges: Breakpoints on [-1, 1]. Box units do not resolve the shortest windows.
        degree: Degree of the splines.
        factors: The factor of each variable.
        sizes: Values of the unknowns for outputs of 1; 1 by default.
        hard: Conditions that are built in.
    """
    points, ends = interpolation_points(edges, degree), torch.as_tensor(edges)
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
    return Field(KAN.of_layers([layer]), form, box, units, hard)


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


def hard_conditions(system: System) -> HardConditions | None:
    """Return all conditions of the system that can be built in, or None if there are none.

    These give an unknown, or its derivative across the face, on a whole face of the box, with all
    lower derivatives given there too. Other conditions stay residuals. The conditions must agree
    where their faces meet.
    """
    names, offsets, factors = system.vocabulary.variables, list[str](), list[str]()
    known = defaultdict[tuple[int, int], dict[tuple[sympy.Expr, int], sympy.Expr]](dict)
    for condition, derivative, formula in system.given:
        for (number, place), *more in condition.faces:
            order, end = derivative.index[number], exact_number(place)
            if not more and order == sum(derivative.index):
                value = sympy.expand(formula.subs(variable(names[number]), end))
                known[derivative.unknown, number][end, order] = value
    for unknown in range(len(system.vocabulary.unknowns)):
        offset, factor = sympy.Integer(0), sympy.Integer(1)
        for number, name in enumerate(names):
            x, ends = variable(name), sorted(known[unknown, number])
            given = [(e, m) for e, m in ends if {(e, lower) for lower in range(m)} <= {*ends}]
            low, high = map(exact_number, system.box[number].tolist())
            powers = [sympy.S.One * x**p for p in range(len(given))]
            rows = [[sympy.diff(p, x, m).subs(x, e) for p in powers] for e, m in given]
            # Hermite polynomials: the derivative of order m at e is 1 for one (e, m), all others
            # are 0.
            hermite = sympy.Matrix([powers]) * sympy.Matrix(rows).inv() if given else []
            offset += sum(
                polynomial * (known[unknown, number][e, m] - sympy.diff(offset, x, m)).subs(x, e)
                for (e, m), polynomial in zip(given, hermite, strict=True)
            )
            for end, _ in given:
                towards = (x - end) if end == low else (end - x)
                factor *= len({e for e, _ in given}) * towards / (high - low)
        offsets.append(str(offset))
        factors.append(str(factor))
    return None if set(factors) == {"1"} else HardConditions(names, tuple(offsets), tuple(factors))
