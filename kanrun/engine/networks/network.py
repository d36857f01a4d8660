"""The base class of all models: what training, checkpoints, counting and reports ask of one.

A model is one file: a subclass of `Network` with `forward`, `kind`, `shape`, `describe` and `from_description`, and its
line in `kanrun/config/models.py` or a plug-in. Everything else has a default that is true for any network of trainable
numbers:

- counting: `trained`, `count` (every parameter with `requires_grad`), `flops` (unknown);
- second-order solvers: `unknowns`, `get_unknowns`, `set_unknowns`, `linearise`, `row_terms` (all trained parameters,
  differentiated by `torch.func`);
- penalties, freezing: `penalty_rows`, `support`, `unseen`, `edge_layers`, `regularisation` (no splines);
- grid schedules: `intervals`, `unknowns_at`, `refined`, `regrid`, `covers` (no grids: the network itself);
- the choice of a width: `subnetworks`, `subnetwork`, `padded`, `active_shape` (the one shape that it has);
- models with a closed form: `fit_linear` (none).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer
from kanrun.engine.least_squares.problem import DenseRows, LocalRows
from kanrun.errors import UsageError

InputGrid = Literal["keep", "within", "follow"]
N_co = TypeVar("N_co", bound="Network", covariant=True)


def halved(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """`shape`, then its hidden widths halved (rounded up) until all are 1."""
    shapes = [tuple(shape)]
    while max(shapes[-1][1:-1], default=1) > 1:
        last = shapes[-1]
        shapes.append((last[0], *((width + 1) // 2 for width in last[1:-1]), last[-1]))
    return shapes


@dataclass(frozen=True)
class Regridded(Generic[N_co]):
    """A network on other grids, `how` its function was carried there, and the measured `change` of its function.

    `how` is `unchanged`, `insertion` (exact), `least squares` or `both`. `change` is the largest |new - old| on the
    given points relative to the largest |old|, each without the 1 % of the points where it is largest
    (`rare_samples`): the output at an outlier would hide all others, and is not kept.
    """

    network: N_co
    how: str = "unchanged"
    change: float = 0.0


class Network(nn.Module):
    """x (..., inputs) -> (..., outputs); see the module for who asks what."""

    #: The name under which a checkpoint stores the model, and its name in `kanrun.config.MODELS`.
    kind: ClassVar[str]
    #: How many nodes of each layer multiply two sums of edges, outputs included; () for a network without such nodes.
    products: tuple[int, ...] = ()

    # ------------------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The widths, inputs first, outputs last."""
        raise NotImplementedError(f"{type(self).__name__} does not say its shape.")

    def describe(self) -> dict[str, Any]:
        """What, besides the state_dict, rebuilds this network: plain JSON values, `kind` among them."""
        raise NotImplementedError(f"{type(self).__name__} does not describe itself.")

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Network:
        """An empty network after `describe`, waiting for its state_dict."""
        raise NotImplementedError(f"{cls.__name__} is not built from a description.")

    @property
    def beyond(self) -> str:
        """What the model does outside the range it was trained on, as a main clause."""
        return "the network continues by its formula"

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def count(self) -> int:
        """How many numbers training moves."""
        return sum(parameter.numel() for parameter in self.trained().values())

    def flops(self) -> dict[str, float | None]:
        """FLOPs of one sample, `flops` as executed and `kanbefair_flops` as KANbeFair counts; None where unknown."""
        return {"flops": None, "kanbefair_flops": None}

    # --------------------------------------------------------------------------- second-order training

    def for_second_order(self) -> Network:
        """The network as second-order solvers train it: what only scales other parameters is no longer trained."""
        return self

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that a second-order solver moves, in the order of the Jacobian's columns."""
        return list(self.trained().items())

    def get_unknowns(self) -> Float[Tensor, " unknowns"]:
        """A copy of the unknowns as one vector."""
        return torch.cat([parameter.detach().reshape(-1) for _, parameter in self.unknowns()])

    def set_unknowns(self, values: Float[Tensor, " unknowns"]) -> None:
        """Write `values` into the parameters."""
        parameters = [parameter for _, parameter in self.unknowns()]
        parts = values.split([parameter.numel() for parameter in parameters])
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    def linearise(self, x: Float[Tensor, "samples inputs"]) -> tuple[Tensor, LocalRows | DenseRows]:
        """(f(x), J): outputs, and a row of J = df/du for every sample and output; by reverse mode on each sample.

        A closed form is faster, and spares the first fit the start of torch's compiler.
        """
        from torch.func import (
            functional_call,
            jacrev,
            vmap,
        )  # loads torch's compiler, which takes a second

        names = [name for name, _ in self.unknowns()]
        fixed = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        free = {name: fixed.pop(name).detach() for name in names}

        def one(parameters: dict[str, Tensor], sample: Tensor) -> tuple[Tensor, Tensor]:
            y = functional_call(self, {**fixed, **parameters}, (sample[None],))[0]
            return y, y

        columns, y = vmap(jacrev(one, has_aux=True), in_dims=(None, 0))(free, x)
        jacobian = torch.cat([columns[name].flatten(2) for name in names], dim=-1)
        return y.detach(), DenseRows(jacobian.detach().flatten(0, 1))

    @property
    def row_terms(self) -> int:
        """Numbers that `linearise` stores for a row of J."""
        return sum(parameter.numel() for _, parameter in self.unknowns())

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """The root D of the smoothness penalty |D u|^2, over the unknowns; `order` is of its differences.

        No rows for a network without splines.
        """
        first = next(self.parameters())
        empty = torch.zeros(0, 1, dtype=torch.long, device=first.device)
        return LocalRows(empty, first.detach().new_zeros(0, 1), self.row_terms)

    def support(self, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
        """For each of `edge_layers`, which basis functions (inputs, functions) see at least one of the samples `x`."""
        return []

    def unseen(self, x: Float[Tensor, "samples inputs"]) -> Bool[Tensor, " unknowns"] | None:
        """Which unknowns belong to functions that no sample of `x` touches; None where every sample touches all."""
        return None

    def regularisation(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        l1: float = 1.0,
        entropy: float = 1.0,
        kind: str = "mean_abs",
    ) -> Tensor:
        """The penalty of large edges on x; zero for a network without edges."""
        return torch.zeros((), dtype=x.dtype, device=x.device)

    @property
    def edge_layers(self) -> Sequence[SplineLayer]:
        """The layers of spline edges, from the inputs on; empty for a network without edges."""
        return ()

    def activations(self, x: Float[Tensor, "samples inputs"]) -> list[Tensor]:
        """What reaches each of `edge_layers`, the inputs first, and the network's output last."""
        return [x, self(x)]

    # ---------------------------------------------------------------------------------------- grids

    @property
    def intervals(self) -> int | None:
        """G, the intervals of a grid; None for a network without grids."""
        return None

    def unknowns_at(self, intervals: int | None) -> int:
        """How many unknowns the network has on grids of `intervals` (None: on its own)."""
        return sum(parameter.numel() for _, parameter in self.unknowns())

    def refined(self, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded[Network]:
        """The network with every grid on `intervals` intervals over the same range; `x` are samples to measure on."""
        return Regridded(deepcopy(self))

    def regrid(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        intervals: int | None = None,
        grid_eps: float,
        margin: float,
        inputs: InputGrid = "keep",
    ) -> Regridded[Network]:
        """The network with its hidden grids drawn anew over the range of what reaches them from `x`.

        `grid_eps` is the share of uniform spacing in them, 1 - grid_eps that of the quantiles; they reach `margin` of
        the range beyond it. `intervals` changes G of all grids. `inputs` says of the first layer's grid whether it is
        to `keep` its breakpoints, be drawn towards the quantiles of `x` `within` its domain, or `follow` `x` as hidden
        ones do (as KAN libraries do).
        """
        return Regridded(deepcopy(self))

    def covers(self, x: Float[Tensor, "samples inputs"], share: float) -> bool:
        """Whether all that reaches hidden grids from `x` lies inside them and fills at least `share` of each."""
        return True

    # ---------------------------------------------------------------------------------------- widths

    def subnetworks(self) -> list[tuple[int, ...]]:
        """The shapes that the choice of a width tries, the own shape first."""
        return [self.shape]

    def subnetwork(self, shape: Sequence[int]) -> Network:
        """A network of one of `subnetworks()`, from this one's numbers."""
        if tuple(shape) != self.shape:
            raise UsageError(
                f"A network of kind {self.kind} has no narrower form of widths {tuple(shape)}."
            )
        return self

    def padded(self, shape: Sequence[int]) -> Network:
        """The same function in a network of widths `shape`, whose further nodes are pruned."""
        if tuple(shape) != self.shape:
            raise UsageError(
                f"A network of kind {self.kind} cannot be padded to widths {tuple(shape)}."
            )
        return self

    @property
    def active_shape(self) -> tuple[int, ...]:
        """Widths that count only nodes with something alive leading out of them; inputs and outputs count all."""
        return self.shape

    # --------------------------------------------------------------------------------------- closed form

    def fit_linear(
        self,
        x: Float[Tensor, "samples inputs"],
        y: Float[Tensor, "samples out"],
        roots: Tensor | None = None,
    ) -> bool:
        """Set the parameters to the least squares solution, and say so: True for models linear in their parameters.

        `roots` (samples, 1) are those of the samples' weights.

        False, and nothing changed, for all others.
        """
        return False
