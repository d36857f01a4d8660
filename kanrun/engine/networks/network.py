"""The base class of all models: the protocol of training, checkpoints, counting and reports.

A model is one file: a subclass of `Network` with `forward`, `kind`, `shape`, `describe` and
`from_description`, and its line in `kanrun/model/settings.py` or a plug-in. Everything else has a
default that is true for any network of trainable numbers:

- counting: `trained`, `count` (every parameter with `requires_grad`), `flops` (unknown);
- second-order solvers: `unknowns`, `get_unknowns`, `set_unknowns`, `unknowns_at`, `linearise` (all
  trained parameters, differentiated by `torch.func`);
- models with a closed form: `fit_linear` (none).

What concerns splines follows from `edge_layers`, of which a network has none by default:
`edge_inputs`, `support`, `unseen`, `penalty_rows`, `regularisation`, and for schedules of grids
`intervals`, `refined`, `regrid`, `covers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer, edge_norms, nodes_of
from kanrun.engine.least_squares import DenseRows, LocalRows
from kanrun.engine.splines import Inputs, breakpoints_from_data, largest_but_rare

InputGrid = Literal["keep", "within", "follow"]
#: Hidden grids reach this fraction of the activations' range beyond it.
MARGIN = 0.05
#: Fractions of norms count as at least this in the entropy, which keeps the logarithm finite for
#: zero edges.
LEAST_SHARE = 1e-12
#: Checked calls of a class method cannot resolve Self.
N = TypeVar("N", bound="Network")


@dataclass(frozen=True)
class Regridded:
    """A network on other grids.

    Attributes:
        network: The network.
        how: Method that carried its function: `unchanged`, `insertion` (exact), `least squares` or
            `both`.
        change: Largest |new - old| on the given points relative to the largest |old|, each without
            the 1% of the points where it is largest (`rare_samples`): the output at an outlier
            would hide all others, and is not kept.
    """

    network: Network
    how: str = "unchanged"
    change: float = 0.0


class Network(nn.Module):
    """A map x (..., inputs) -> (..., outputs).

    The module's docstring lists what uses which method.
    """

    #: The name under which a checkpoint stores the model, and its name in `kanrun.config.MODELS`.
    kind: ClassVar[str]
    #: Number of multiplication nodes of each layer, outputs included; () for a network without
    #: edges.
    products: tuple[int, ...] = ()

    # -------------------- what it is

    @classmethod
    def of_layers(cls: type[N], layers: Sequence[SplineLayer], products: Sequence[int] = ()) -> N:
        """Return the network of these layers, with the products of the hidden ones."""
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._hold(layers, products)
        return network

    def _hold(self, layers: Sequence[SplineLayer], products: Sequence[int]) -> None:
        self.products = (*(products or [0] * (len(layers) - 1)), 0)
        self.layers = nn.ModuleList(layers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Widths of all layers, from the inputs to the outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no shape.")

    @property
    def shape_text(self) -> str:
        """Shape in tables, such as 2-5-1."""
        return "-".join(map(str, self.shape))

    def describe(self) -> dict[str, Any]:
        """Return plain JSON values, with `kind`, that rebuild this network with its state_dict."""
        raise NotImplementedError(
            f"{type(self).__name__} does not describe itself. Define describe() to store it."
        )

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Network:
        """Return an empty network after `describe`, which waits for its state_dict."""
        raise NotImplementedError(f"{cls.__name__} cannot be built from a description.")

    @property
    def extrapolation_note(self) -> str:
        """Behaviour of the model outside the trained range, as a main clause."""
        return "the network continues by its formula"

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def count(self) -> int:
        """Return the number of trained numbers."""
        return sum(parameter.numel() for parameter in self.trained().values())

    def flops(self) -> dict[str, float | None]:
        """Return the FLOPs of one sample.

        `flops` as executed, `kanbefair_flops` as KANbeFair counts; None: unknown.
        """
        return {"flops": None, "kanbefair_flops": None}

    # -------------------- second-order training

    def for_second_order(self) -> Network:
        """Return the network with parameters fixed that only scale others.

        These are w_s (without a base: w), whose scale the coefficients have.
        """
        new = deepcopy(self)
        for layer in new.edge_layers:
            layer.freeze_spline_scale()
        return new

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return names and parameters of second-order training, in the order of J's columns."""
        return list(self.trained().items())

    def get_unknowns(self) -> Float[Tensor, " unknowns"]:
        """Return a copy of the unknowns as one vector."""
        return torch.cat([parameter.detach().reshape(-1) for _, parameter in self.unknowns()])

    def set_unknowns(self, values: Float[Tensor, " unknowns"]) -> None:
        """Write `values` into the parameters."""
        parameters = [parameter for _, parameter in self.unknowns()]
        parts = values.split([parameter.numel() for parameter in parameters])
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    def linearise(self, x: Inputs) -> tuple[Tensor, LocalRows | DenseRows]:
        """Return f(x), and a row of J = df/du for every sample and output.

        Here by reverse mode on each sample.

        A closed form is faster, and spares the first fit the start of torch's compiler.
        """
        # Loads torch's compiler, which takes a second.
        from torch.func import functional_call, jacrev, vmap

        names = [name for name, _ in self.unknowns()]
        fixed = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        free = {name: fixed.pop(name).detach() for name in names}

        def one(parameters: dict[str, Tensor], sample: Tensor) -> tuple[Tensor, Tensor]:
            y = functional_call(self, {**fixed, **parameters}, (sample[None],))[0]
            return y, y

        columns, y = vmap(jacrev(one, has_aux=True), in_dims=(None, 0))(free, x)
        jacobian = torch.cat([columns[name].flatten(2) for name in names], dim=-1)
        return y.detach(), DenseRows(jacobian.detach().flatten(0, 1))

    def lower(self) -> list[Network]:
        """Return the networks that consist of the first layers, from one layer on.

        Their unknowns are the first ones of this network.
        """
        return []

    def unknowns_at(self, intervals: int | None) -> int:
        """Return the number of unknowns with `intervals` grid intervals; None: the present ones."""
        return sum(parameter.numel() for _, parameter in self.unknowns())

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """Return the root D of the smoothness penalty |D u|^2, by differences of `order`.

        These are the differences of w_s c, and a row for each w_b; none without splines.
        """
        parts = list[tuple[Tensor, Tensor]]()
        start = 0
        for layer in self.edge_layers:
            parts += layer.penalty_rows(order, start)
            start += layer.unknowns_at()
        if not parts:
            none = next(self.parameters()).detach().new_zeros(0, 1)
            return LocalRows(none.long(), none, self.unknowns_at(None))
        indices, values = map(torch.cat, zip(*parts, strict=True))
        return LocalRows(indices, values, start)

    def regularisation(
        self, x: Inputs, *, l1: float = 1.0, entropy: float = 1.0, kind: str = "mean_abs"
    ) -> Tensor:
        """Return the KAN paper's penalty of large edges, differentiable; zero without edges.

        Sum over layers of l1 |Phi|_1 + entropy S(Phi).

            |Phi|_1 = sum_e m_e,   S = - sum_e p_e log p_e,   p_e = m_e / |Phi|_1

        with m_e the norm of an edge's output on x. Source: arXiv 2404.19756, eqs. 2.17 to 2.20.

        Args:
            x: Samples, shape (samples, inputs).
            l1: Weight of the L1 norm.
            entropy: Weight of the entropy.
            kind: Norm m_e: the mean of |phi| (`mean_abs`) or the root mean square (`rms`).
        """
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        tiny = torch.finfo(x.dtype).tiny
        for layer, products in zip(self.edge_layers, self.products, strict=True):
            norms = edge_norms(layer, x, kind)[layer.mask]
            size = norms.sum()
            shares = (norms / size.clamp(min=tiny)).clamp(min=LEAST_SHARE)
            total = total + l1 * size - entropy * (shares * shares.log()).sum()
            x = nodes_of(layer(x), products)
        return total

    @property
    def edge_layers(self) -> Sequence[SplineLayer]:
        """Spline layers, from the inputs on; empty for a network without edges."""
        return ()

    def plain(self: N) -> N:
        """Return a copy that can be trained or changed."""
        return deepcopy(self)

    def activations(self, x: Float[Tensor, "*batch inputs"]) -> list[Tensor]:
        """Return the inputs of each of `edge_layers`, and the network's output last."""
        return [x, self(x)]

    def edge_inputs(self, x: Inputs) -> list[tuple[SplineLayer, Tensor]]:
        """Return each of `edge_layers` with its inputs, without gradients."""
        with torch.no_grad():
            return list(zip(self.edge_layers, self.activations(x), strict=False))

    def support(self, x: Inputs) -> list[Bool[Tensor, "_ _"]]:
        """Return for each of `edge_layers` the functions (inputs, functions) that samples touch.

        A function with no sample in its k + 1 intervals cannot be learned. Samples outside the grid
        touch the functions that the policy of extrapolation continues.
        """
        return [layer.touched(at) for layer, at in self.edge_inputs(x)]

    def unseen(self, x: Inputs) -> Bool[Tensor, " unknowns"] | None:
        """Return the functions that no sample touches, and with any of an edge's its w_b.

        None for a network without edges.
        """
        parts = []
        for layer, seen in zip(self.edge_layers, self.support(x), strict=True):
            parts.append((~seen).expand_as(layer.coefficients).reshape(-1))
            if layer.trained_base is not None:
                parts.append((~seen.all(1)).expand_as(layer.mask).reshape(-1))
        return torch.cat(parts) if parts else None

    # -------------------- grids

    @property
    def intervals(self) -> int | None:
        """G, the number of grid intervals; None for a network without grids."""
        return None

    def refined(self, intervals: int, x: Inputs) -> Regridded:
        """Return the network with `intervals` intervals over the same ranges.

        The change of its function is measured on `x`.
        """
        return self._measured([layer.refined(intervals) for layer in self.edge_layers], x)

    def regrid(
        self,
        x: Inputs,
        *,
        intervals: int | None = None,
        grid_eps: float = 1.0,
        margin: float = MARGIN,
        inputs: InputGrid = "keep",
    ) -> Regridded:
        """Return the network with its hidden grids redrawn over the activations of `x`.

        Ranges are those of the old network, so that every layer is carried once. Outliers are
        excluded from them (`breakpoints_from_data`) and extrapolated, so that the function stays
        the same where the data lie.

        Args:
            x: Samples, shape (samples, inputs).
            intervals: Number of intervals of all grids; None: unchanged.
            grid_eps: Fraction of uniform spacing; the rest follows quantiles.
            margin: Fraction of the range by which a grid reaches beyond it.
            inputs: Grid of the first layer: `keep` it, redraw it towards the quantiles of `x`
                `within` its domain, or let it `follow` `x` as hidden grids do (as KAN libraries
                do).
        """
        moved = []
        for number, (layer, values) in enumerate(self.edge_inputs(x)):
            grid = layer.grid
            count = intervals or layer.grid.intervals
            if number == 0 and inputs == "keep":
                same = count == grid.intervals
                moved.append((layer, "insertion") if same else layer.refined(count))
                continue
            within = number == 0 and inputs == "within"
            ends = grid.breakpoints[:, [0, -1]] if within else None
            points = breakpoints_from_data(values, count, 1 - grid_eps, margin, ends)
            moved.append(layer.moved(points, uniform=grid_eps == 1.0))
        return self._measured(moved, x)

    def covers(self, x: Inputs, share: float) -> bool:
        """Return whether activations of `x` lie in the hidden grids and fill `share` of each."""
        return all(layer.grid.covers(values, share) for layer, values in self.edge_inputs(x)[1:])

    def _measured(self, moved: Sequence[tuple[SplineLayer, str]], x: Tensor) -> Regridded:
        """Return the network with moved layers, the methods, and how much its outputs changed."""
        if not moved:
            return Regridded(deepcopy(self))
        new = self.of_layers([layer for layer, _ in moved], self.products[:-1])
        methods = {method for _, method in moved}
        with torch.no_grad():
            before = self(x)
            after = new(x)
        size = max(largest_but_rare(before), torch.finfo(before.dtype).tiny)
        change = largest_but_rare(after - before) / size
        return Regridded(new, methods.pop() if len(methods) == 1 else "both", change)

    # -------------------- closed form

    def fit_linear(
        self, x: Inputs, y: Float[Tensor, "samples out"], roots: Tensor | None = None
    ) -> bool:
        """Set the parameters to the least squares solution and return True, for linear models.

        Other models return False and change nothing. `roots` (samples, 1) are those of the samples'
        weights.
        """
        return False
