"""The functions that solve an equation: a network in the box's own units, or several of them one after another.

A `Field` maps the box to [-1, 1] in every variable, calls its network, and combines the network's outputs into the
unknowns: each is one output, or a sum of products of outputs, u = N_1 N_2 + N_3 N_4 + ... With a network of one layer
the latter is the separated form sum_r prod_i f_ri(x_i) and more: each factor is a sum of functions of one variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.equations.jets import Monomials, NetworkJets, network_jets
from kanrun.engine.networks import Network, from_description
from kanrun.errors import KanrunError


@dataclass(frozen=True)
class OutputForm:
    """How the outputs of a network become `unknowns` functions.

    `terms` products of `factors` outputs each are summed for every unknown; factors = 1 is the plain output. In a
    `separated` form there is one factor for each variable, which it alone depends on: u = sum_r prod_i f_ri(x_i).
    With `fixed_last` those of the last variable are polynomials that stay as they are, so that u is linear in what is
    trained, as in the method of lines.
    """

    unknowns: int = 1
    terms: int = 1
    factors: int = 1
    separated: bool = False
    fixed_last: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs the network needs."""
        return self.unknowns * self.terms * self.factors

    def mask(self, inputs: int) -> Bool[Tensor, "outputs inputs"]:
        """Which edges of a network of one layer the form leaves."""
        if not self.separated:
            return torch.ones(self.outputs, inputs, dtype=torch.bool)
        return torch.eye(inputs, dtype=torch.bool).repeat(self.unknowns * self.terms, 1)

    def combine(
        self, outputs: Tensor, monomials: Monomials
    ) -> Float[Tensor, "components points unknowns"]:
        """The jets of the unknowns from those of the network's outputs."""
        parts = outputs.unflatten(-1, (self.unknowns, self.terms, self.factors))
        total = parts[..., 0]
        for factor in range(1, self.factors):
            total = monomials.multiply(total, parts[..., factor])
        summed: Tensor = total.sum(-1)
        return summed


class Field(Network):
    """x (points, variables) -> (points, unknowns), all in the user's units.

    `box` (variables, 2) is what the network's inputs [-1, 1] stand for, `sizes` (unknowns,) what its outputs of 1 do.
    With `hard` conditions the unknowns are g + b N of these, else N.
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
        """Half the box's extent in each variable."""
        return self.box.diff()[:, 0] / 2

    def inner(self, x: Float[Tensor, "points variables"]) -> Float[Tensor, "points variables"]:
        """What the network sees of `x`: -1 and 1 at the ends of the box."""
        return (x - self.box.mean(1)) / self.half_extent

    def with_network(self, network: Network) -> Field:
        """The same field of another network."""
        return Field(network, self.form, self.box, self.sizes, self.hard)

    def forward(self, x: Float[Tensor, "*points variables"]) -> Float[Tensor, "*points unknowns"]:
        value = Monomials(((0,) * self.box.shape[0],))
        rows = x.reshape(-1, x.shape[-1])
        found = self.form.combine(self.network(self.inner(rows))[None], value) * self.sizes
        result = found if self.hard is None else self.hard.apply(found, rows, value)
        return result[0].reshape(*x.shape[:-1], self.form.unknowns)

    def jets(
        self, x: Float[Tensor, "points variables"], monomials: Monomials
    ) -> tuple[Float[Tensor, "components points unknowns"], NetworkJets]:
        """The unknowns' jets at x in the user's units, and the network's; call it under `torch.enable_grad`."""
        traced = network_jets(self.network, self.inner(x), monomials, self.active)
        half = self.half_extent
        stretch = torch.stack(
            [(half ** -half.new_tensor(index)).prod() for index in monomials.indices]
        )
        found = self.form.combine(traced.outputs, monomials) * stretch[:, None, None] * self.sizes
        return found if self.hard is None else self.hard.apply(found, x, monomials), traced

    def derivative(
        self, x: Float[Tensor, "points variables"], index: Sequence[int]
    ) -> Float[Tensor, "points unknowns"]:
        """The derivative of every unknown by the multi-index `index` at x."""
        monomials = Monomials.covering([tuple(index)], self.box.shape[0])
        with torch.enable_grad():
            jets, _ = self.jets(x, monomials)
        place = monomials.position(tuple(index))
        return (jets[place] * monomials.factorial(tuple(index))).detach()

    @property
    def active(self) -> Bool[Tensor, " numbers"] | None:
        """Which of the network's numbers belong to edges that are trained; None for all."""
        layers = list(self.network.edge_layers)
        edges = [layer.mask != 0 for layer in layers]
        if self.form.fixed_last:
            edges[0][:, -1] = False
        if all(bool(each.all()) for each in edges):
            return None
        return torch.cat(
            [
                e[..., None].expand_as(x.coefficients).flatten()
                for e, x in zip(edges, layers, strict=True)
            ]
        )

    def get_unknowns(self) -> Float[Tensor, " unknowns"]:
        found, active = self.network.get_unknowns(), self.active
        return found if active is None else found[active]

    def set_unknowns(self, values: Float[Tensor, " unknowns"]) -> None:
        if (active := self.active) is None:
            self.network.set_unknowns(values)
            return
        every = self.network.get_unknowns().clone()
        every[active] = values
        self.network.set_unknowns(every)

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"network.{name}", parameter) for name, parameter in self.network.unknowns()]

    @property
    def intervals(self) -> int | None:
        return self.network.intervals

    def describe(self) -> dict[str, Any]:
        form = [self.form.unknowns, self.form.terms, self.form.factors, int(self.form.separated)]
        described = {
            "kind": self.kind,
            "network": self.network.describe(),
            "form": form,
            "variables": len(self.box),
        }
        if self.hard is not None:
            described["hard"] = {name: list(texts) for name, texts in asdict(self.hard).items()}
        return described

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Field:
        counts = [int(each) for each in description["form"]]
        form = OutputForm(counts[0], counts[1], counts[2], bool(counts[3:] and counts[3]))
        box = torch.zeros(int(description["variables"]), 2, dtype=torch.float64)
        network = from_description(description["network"])
        given = description.get("hard")
        hard = (
            None
            if given is None
            else HardConditions(**{name: tuple(map(str, texts)) for name, texts in given.items()})
        )
        return cls(network, form, box, torch.ones(form.unknowns, dtype=torch.float64), hard)


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
        window = torch.searchsorted(self.ends, x[:, -1].contiguous())
        fields = [field for field in self.fields if isinstance(field, Field)]
        return [(field, (window == number).nonzero()[:, 0]) for number, field in enumerate(fields)]

    @property
    def ends(self) -> Float[Tensor, " windows_but_one"]:
        """Where each window but the last ends."""
        ends: Tensor = torch.stack([field.box[-1, 1] for field in self.fields])[:-1]  # type: ignore[index]
        return ends

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.fields[0].shape  # type: ignore[assignment]
        return shape

    def forward(self, x: Float[Tensor, "points variables"]) -> Float[Tensor, "points unknowns"]:
        return self._joined(x, lambda field, part: field(part))

    def derivative(
        self, x: Float[Tensor, "points variables"], index: Sequence[int]
    ) -> Float[Tensor, "points unknowns"]:
        """As `Field.derivative`, in the window of each point."""
        return self._joined(x, lambda field, part: field.derivative(part, index))

    def _joined(self, x: Tensor, function: Callable[[Field, Tensor], Tensor]) -> Tensor:
        result = x.new_zeros(len(x), self.shape[-1])
        for field, at in self.split(x):
            result = result.index_copy(0, at, function(field, x[at]))
        return result

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "fields": [field.describe() for field in self.fields]}  # type: ignore[operator]

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Windows:
        return cls([Field.from_description(field) for field in description["fields"]])
