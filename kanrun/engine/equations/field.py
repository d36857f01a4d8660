"""The functions that solve an equation: a network in the box's own units, or several of them one after another.

A `Field` maps the box to [-1, 1] in every variable, calls its network, and combines the network's outputs into the
unknowns: each is one output, or a sum of products of outputs, u = N_1 N_2 + N_3 N_4 + ... With a network of one layer
the latter is the separated form sum_r prod_i f_ri(x_i) and more: each factor is a sum of functions of one variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanrun.engine.equations.jets import Monomials
from kanrun.engine.equations.network_jets import NetworkJets, network_jets
from kanrun.engine.networks import Network, from_description
from kanrun.errors import KanrunError


@dataclass(frozen=True)
class OutputForm:
    """How the outputs of a network become `unknowns` functions.

    `terms` products of `factors` outputs each are summed for every unknown; factors = 1 is the plain output.
    """

    unknowns: int = 1
    terms: int = 1
    factors: int = 1

    @property
    def outputs(self) -> int:
        """How many outputs the network needs."""
        return self.unknowns * self.terms * self.factors

    def combine(self, outputs: Tensor, monomials: Monomials) -> Float[Tensor, "components points unknowns"]:
        """The jets of the unknowns from those of the network's outputs."""
        parts = outputs.unflatten(-1, (self.unknowns, self.terms, self.factors))
        total = parts[..., 0]
        for factor in range(1, self.factors):
            total = monomials.multiply(total, parts[..., factor])
        summed: Tensor = total.sum(-1)
        return summed


@dataclass(frozen=True)
class FieldJets:
    """The jets of the unknowns at points, in the user's units, and their way from the network's unknowns."""

    network: NetworkJets
    unknowns: Float[Tensor, "components points unknowns"]


class Field(Network):
    """x (points, variables) -> (points, unknowns), all in the user's units.

    `box` (variables, 2) is what the network's inputs [-1, 1] stand for, `sizes` (unknowns,) what its outputs of 1 do.
    """

    kind = "field"

    def __init__(self, network: Network, form: OutputForm, box: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.network, self.form = network, form
        self.register_buffer("box", box)
        self.register_buffer("sizes", sizes)

    box: Tensor
    sizes: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.network.shape[:-1], self.form.unknowns)

    @property
    def half_extent(self) -> Tensor:
        """Half the box's extent in each variable."""
        return (self.box[:, 1] - self.box[:, 0]) / 2

    def inner(self, x: Float[Tensor, "points variables"]) -> Float[Tensor, "points variables"]:
        """What the network sees of `x`: -1 and 1 at the ends of the box."""
        return (x - self.box.mean(1)) / self.half_extent

    def with_network(self, network: Network) -> Field:
        """The same field of another network."""
        return Field(network, self.form, self.box, self.sizes)

    def forward(self, x: Float[Tensor, "*points variables"]) -> Float[Tensor, "*points unknowns"]:
        value = Monomials(((0,) * self.box.shape[0],))
        result: Tensor = self.form.combine(self.network(self.inner(x))[None], value)[0] * self.sizes
        return result

    def jets(self, x: Float[Tensor, "points variables"], monomials: Monomials) -> FieldJets:
        """The unknowns' jets at x; call it under `torch.enable_grad`."""
        traced = network_jets(self.network, self.inner(x), monomials)
        inner = self.form.combine(traced.outputs, monomials)
        stretch = x.new_tensor(
            [float((self.half_extent ** -x.new_tensor(index)).prod()) for index in monomials.indices]
        )
        return FieldJets(traced, inner * stretch[:, None, None] * self.sizes)

    def derivative(
        self, x: Float[Tensor, "points variables"], index: Sequence[int]
    ) -> Float[Tensor, "points unknowns"]:
        """The derivative of every unknown by the multi-index `index` at x."""
        monomials = Monomials.covering([tuple(index)], self.box.shape[0])
        with torch.enable_grad():
            jets = self.jets(x, monomials).unknowns
        place = monomials.position(tuple(index))
        return (jets[place] * monomials.factorial(tuple(index))).detach()

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"network.{name}", parameter) for name, parameter in self.network.unknowns()]

    @property
    def intervals(self) -> int | None:
        return self.network.intervals

    def describe(self) -> dict[str, Any]:
        form = [self.form.unknowns, self.form.terms, self.form.factors]
        return {"kind": self.kind, "network": self.network.describe(), "form": form, "variables": len(self.box)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Field:
        form = OutputForm(*(int(each) for each in description["form"]))
        box = torch.zeros(int(description["variables"]), 2, dtype=torch.float64)
        network = from_description(description["network"])
        return cls(network, form, box, torch.ones(form.unknowns, dtype=torch.float64))


class Windows(Network):
    """Fields one after another along the last variable: field i holds up to `ends[i]`, the last one beyond."""

    kind = "windows"

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        if not fields:
            raise KanrunError("A solution in windows needs at least one window.")
        self.fields = nn.ModuleList(fields)

    def split(self, x: Tensor) -> list[tuple[Field, Tensor]]:
        """Each field with the indices of the points in its window."""
        fields = [field for field in self.fields if isinstance(field, Field)]
        ends = torch.stack([field.box[-1, 1] for field in fields[:-1]]) if len(fields) > 1 else x.new_zeros(0)
        window = torch.searchsorted(ends, x[:, -1].contiguous())
        return [(field, (window == number).nonzero()[:, 0]) for number, field in enumerate(fields)]

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.fields[0].shape  # type: ignore[assignment]
        return shape

    def forward(self, x: Float[Tensor, "points variables"]) -> Float[Tensor, "points unknowns"]:
        result = x.new_zeros(len(x), self.shape[-1])
        for field, at in self.split(x):
            result = result.index_copy(0, at, field(x[at]))
        return result

    def derivative(
        self, x: Float[Tensor, "points variables"], index: Sequence[int]
    ) -> Float[Tensor, "points unknowns"]:
        """As `Field.derivative`, in the window of each point."""
        result = x.new_zeros(len(x), self.shape[-1])
        for field, at in self.split(x):
            result[at] = field.derivative(x[at], index)
        return result

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": [field.describe() for field in self.fields]}  # type: ignore[operator]

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Windows:
        return cls([Field.from_description(field) for field in description["fields"]])
