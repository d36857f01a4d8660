"""The multi-layer Kolmogorov-Arnold network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from kanrun.config.registry import resolve
from kanrun.engine.layers import (
    EdgeSpec,
    SplineLayer,
    edge_penalty,
    fresh_layers,
    move_layer,
    refine_layer,
)
from kanrun.engine.layers.functional import by_sums, nodes_of
from kanrun.engine.layers.learned_edge import LearnedEdge
from kanrun.engine.layers.settings import (
    Domain,
    EdgeScaling,
    checked_products,
    checked_shape,
    domain_of,
    edge_spec,
)
from kanrun.engine.least_squares.problem import LocalRows
from kanrun.engine.networks.counting import kanbefair_flops, layer_flops, size_of
from kanrun.engine.networks.network import InputGrid, Network, Regridded, halved
from kanrun.engine.splines import (
    Extrapolation,
    breakpoints_from_data,
    breakpoints_within,
    largest_but_rare,
)
from kanrun.engine.splines.least_squares import penalty_order
from kanrun.errors import UsageError

#: Score below which `KAN.prune` drops an edge, as pykan's does by default (`edge_th`).
EDGE_THRESHOLD = 3e-2


class KAN(Network):
    """f(x) = (Phi_L o ... o Phi_1)(x) for x (..., inputs), each Phi a SplineLayer; arXiv 2404.19756, eq. 2.7.

    `KAN([2, 5, 1])` is a fresh network with 2 inputs, 5 hidden nodes and 1 output, an ordinary torch module: for any
    training loop, device and precision. Its first grid covers `domain`, (low, high) for all inputs or one pair for
    each; hidden grids cover [-1, 1]. Beyond its grid an edge does what `extrapolation` says. Weights are drawn from
    `generator` (None: torch's own). `refine`, `prune` and `regrid` return new networks, whose parameters need a new
    optimiser. Raises UsageError for a value that breaks its rule.

    Examples:
        >>> import torch
        >>> from kanrun import KAN
        >>> kan = KAN([2, 5, 1], generator=torch.Generator().manual_seed(0))
        >>> kan(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
        >>> fine = kan.refine(20)
        >>> torch.allclose(fine(torch.ones(1, 2)), kan(torch.ones(1, 2)), atol=1e-5)
        True
        >>> kan.edge(0, 4, 1)(0.5, derivative=1).shape
        torch.Size([])

    The *unknowns* of second-order training are of each layer the coefficients, then what weighs the base. What only
    scales the coefficients (w_s) is redundant with them and stays.

    `multiplication_nodes` says how many nodes of each hidden layer multiply: the last ones, each the product of two sums of edges,
    so that a layer has as many outputs more than the next one has inputs.
    """

    kind = "kan"

    def __init__(  # noqa: PLR0913 (keywords of a public class)
        self,
        shape: Sequence[int],
        intervals: int = 5,
        degree: int = 3,
        *,
        domain: Domain = (-1.0, 1.0),
        base: str = "silu",
        edge_scaling: EdgeScaling = "separate",
        extrapolation: Extrapolation = "linear",
        multiplication_nodes: Sequence[int] = (),
        initialisation: str = "paper",
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = checked_shape(shape)
        spec = edge_spec(intervals, degree, base, edge_scaling, extrapolation, initialisation)
        products, ends = (
            checked_products(multiplication_nodes, shape),
            domain_of(domain, shape[0], dtype, device),
        )
        self._hold(
            fresh_layers(shape, intervals, spec, ends, initialisation, generator, products),
            products,
        )

    @classmethod
    def of_layers(cls, layers: Sequence[SplineLayer], products: Sequence[int] = ()) -> KAN:
        """The network of these layers."""
        kan = cls.__new__(cls)
        nn.Module.__init__(kan)
        kan._hold(layers, products)
        return kan

    def _hold(self, layers: Sequence[SplineLayer], products: Sequence[int]) -> None:
        self.products = (*(products or [0] * (len(layers) - 1)), 0)
        self.layers = nn.ModuleList(layers)

    @classmethod
    def create(
        cls,
        shape: Sequence[int],
        intervals: int,
        spec: EdgeSpec,
        *,
        domain: Float[Tensor, "inputs 2"],
        initialisation: str = "paper",
        generator: Generator,
        products: Sequence[int] = (),
    ) -> KAN:
        """As the constructor, with edges after `spec`."""
        layers = fresh_layers(shape, intervals, spec, domain, initialisation, generator, products)
        return cls.of_layers(layers, products)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        for layer, products in zip(self.layers, self.products, strict=True):
            x = nodes_of(layer(x), products)
        return x

    def activations(self, x: Float[Tensor, "samples inputs"]) -> list[Tensor]:
        """What reaches each layer, the inputs first, and the network's output last."""
        values = [x]
        for layer, products in zip(self.layers, self.products, strict=True):
            values.append(nodes_of(layer(values[-1]), products))
        return values

    def __iter__(self) -> Iterator[SplineLayer]:
        return iter(self.edge_layers)

    def layer(self, index: int) -> SplineLayer:
        """Layer `index`, counted from the inputs; negative from the outputs."""
        return self.edge_layers[index]

    @property
    def edge_layers(self) -> tuple[SplineLayer, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, SplineLayer))

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(layer.inputs for layer in self), self.layer(-1).outputs)

    @property
    def active_shape(self) -> tuple[int, ...]:
        hidden = (int(layer.mask.any(0).sum()) for layer in self.edge_layers[1:])
        return (self.shape[0], *hidden, self.shape[-1])

    def count(self) -> int:
        """How many numbers training moves; what a pruned edge holds does not count."""
        return super().count() - sum(layer.count_pruned() for layer in self)

    def flops(self) -> dict[str, float | None]:
        fair = kanbefair_flops(size_of(self), self.layer(0).spec.base)
        return {"flops": float(sum(layer_flops(layer) for layer in self)), "kanbefair_flops": fair}

    @property
    def beyond(self) -> str:
        return self.layer(0).spec.beyond

    def describe(self) -> dict[str, Any]:
        described = {"kind": self.kind, "layers": [layer.describe() for layer in self]}
        return described | ({"products": list(self.products[:-1])} if any(self.products) else {})

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> KAN:
        layers = [SplineLayer.from_description(layer) for layer in description["layers"]]
        return cls.of_layers(layers, description.get("products", ()))

    # ----------------------------------------------------------------------------------------- edges

    def edge(self, layer: int, out: int, input: int) -> LearnedEdge:
        """The function phi on the edge of layer `layer` from `input` to `out`, counted from 0; negative from the end.

        Raises UsageError where there is no such edge.
        """
        layers = self.edge_layers
        if not -len(layers) <= layer < len(layers):
            raise UsageError(
                f"there is no layer {layer}; the network has {len(layers)}, counted from 0."
            )
        return LearnedEdge(layers[layer], out, input)

    def prune(
        self, x: Float[Tensor, "samples inputs"] | ArrayLike, threshold: float = EDGE_THRESHOLD
    ) -> KAN:
        """The network without the edges whose score on x is below `threshold`; see `prune.pruned`."""
        from kanrun.engine.networks.prune import pruned

        return pruned(self, x, threshold)

    def regularisation(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        l1: float = 1.0,
        entropy: float = 1.0,
        kind: str = "mean_abs",
    ) -> Tensor:
        """sum over layers of l1 |Phi|_1 + entropy S(Phi), differentiable: the KAN paper's penalty of large edges.

            |Phi|_1 = sum_e m_e,   S = - sum_e p_e log p_e,   p_e = m_e / |Phi|_1

        with m_e the magnitude of an edge's output on x: the mean of |phi| (`mean_abs`) or its root mean square (`rms`),
        which costs no tensor of samples x outputs x inputs. Source: arXiv 2404.19756, eqs. 2.17 to 2.20.
        """
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for layer, products in zip(self.edge_layers, self.products, strict=True):
            total = total + edge_penalty(layer, x, l1, entropy, kind)
            x = nodes_of(layer(x), products)
        return total

    def plot(
        self, x: Any = None, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
    ) -> Any:
        """The diagram of the network, a matplotlib Figure: on each edge its function, stronger where its score is.

        Scores are measured on the samples x, by default on uniform points of the domain; `inputs` and `outputs` are
        names.
        """
        return resolve("kanrun.study.evaluation:network_figure")(self, x, inputs, outputs)

    # --------------------------------------------------------------------------- second-order training

    def for_second_order(self) -> KAN:
        """w_s (without a base: w) stays where it is: the coefficients have the same scale."""
        new = deepcopy(self)
        for layer in new:
            layer.fix_spline_scale()
        return new

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        found = []
        for number, layer in enumerate(self):
            moved = {id(parameter) for parameter in (layer.coefficients, layer.trained_base)}
            named = layer.named_parameters(f"layers.{number}")
            found += [(name, parameter) for name, parameter in named if id(parameter) in moved]
        return found

    def linearise(
        self, x: Float[Tensor, "samples inputs"]
    ) -> tuple[Float[Tensor, "samples out"], LocalRows]:
        """(f(x), J) with the non-zeros of J alone: k + 1 of each edge, however fine the grids.

        By layers, d y / d x_out carried backwards.
        """
        with torch.no_grad():
            *reaching, y = self.activations(x)
            upstream = torch.eye(y.shape[1], dtype=x.dtype, device=x.device).expand(
                y.shape[0], -1, -1
            )
            start = total = self.get_unknowns().numel()
            index: list[Tensor] = []
            values: list[Tensor] = []
            for layer, at, products in reversed(
                list(zip(self, reaching, self.products, strict=True))
            ):
                start -= layer.unknowns_at()
                if products:
                    upstream = by_sums(upstream, layer(at)[:, None], products)
                where, what = layer.rows(at, upstream, start)
                index, values = [*index, *where], [*values, *what]
                if layer is not self.layer(0):
                    upstream = upstream @ layer.edge_values(at, 1)
            columns, numbers = torch.cat(index, -1), torch.cat(values, -1)
        rows = numbers.flatten(0, 1)
        return y, LocalRows(
            columns.expand_as(numbers).reshape(rows.shape).contiguous(), rows.contiguous(), total
        )

    @property
    def row_terms(self) -> int:
        return sum(layer.unknowns_at(1) for layer in self)

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """The differences of order m of w_s c, m + 1 non-zeros a row, and a row for each w_b; None: m = degree + 2."""
        indices, values, start = [], [], 0
        orders = [order or penalty_order(layer.spec.degree) for layer in self]
        for layer, m in zip(self, orders, strict=True):
            for index, rows in layer.penalty_rows(m, start):
                fill = (0, max(orders) + 1 - rows.shape[1])  # zeros, of any column
                indices.append(pad(index, fill))
                values.append(pad(rows, fill))
            start += layer.unknowns_at()
        return LocalRows(torch.cat(indices), torch.cat(values), start)

    def support(self, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
        """A function with no sample in its k + 1 intervals cannot be learned from them. Samples outside the grid touch
        what the policy of extrapolation continues.
        """
        with torch.no_grad():
            return [layer.touched(at) for layer, at in zip(self, self.activations(x), strict=False)]

    def unseen(self, x: Float[Tensor, "samples inputs"]) -> Bool[Tensor, " unknowns"]:
        """Functions that no sample touches; with any of an edge's, what weighs its base, which acts everywhere."""
        parts = []
        for layer, seen in zip(self, self.support(x), strict=True):
            parts.append((~seen).expand_as(layer.coefficients).reshape(-1))
            if layer.trained_base is not None:
                parts.append((~seen.all(1)).expand_as(layer.mask).reshape(-1))
        return torch.cat(parts)

    # ---------------------------------------------------------------------------------------- grids

    @property
    def intervals(self) -> int:
        """G of the first layer; all layers have the same unless built otherwise."""
        return self.layer(0).grid.intervals

    def unknowns_at(self, intervals: int | None) -> int:
        if intervals is None:
            return super().unknowns_at(None)
        return sum(layer.unknowns_at(intervals) for layer in self)

    def refine(self, intervals: int) -> KAN:
        """The network with every grid on `intervals` intervals over the same range; training goes on from there.

        To a multiple of the old grid the function stays the same but for rounding, else it is the least squares fit.
        """
        if not isinstance(intervals, int):
            raise UsageError(f"intervals={intervals!r} must be a whole number.")
        return KAN.of_layers(
            [refine_layer(layer, intervals)[0] for layer in self], self.products[:-1]
        )

    def refined(self, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded[KAN]:
        """To a multiple of the old grid the function changes by rounding only, on and outside the data."""
        return self._measured([refine_layer(layer, intervals) for layer in self], x)

    def regrid(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        intervals: int | None = None,
        grid_eps: float,
        margin: float,
        inputs: InputGrid = "keep",
    ) -> Regridded[KAN]:
        """Ranges are those of the old network, so that every layer is carried once.

        Outliers are left out of them (`breakpoints_from_data`) and met by the policy of extrapolation, so that the
        function stays where the data lie.
        """
        moved, adapt = [], 1 - grid_eps
        with torch.no_grad():
            reaching = self.activations(x)
        for layer, values in zip(self, reaching, strict=False):
            count, where = (
                intervals or layer.grid.intervals,
                inputs if layer is self.layer(0) else "follow",
            )
            if where == "keep":
                moved.append(
                    (layer, "insertion")
                    if count == layer.grid.intervals
                    else refine_layer(layer, count)
                )
                continue
            if where == "within":
                grid = breakpoints_within(
                    values, torch.stack([layer.grid.low, layer.grid.high], 1), count, adapt
                )
            else:
                grid = breakpoints_from_data(values, count, adapt, margin)
            moved.append(move_layer(layer, grid, uniform=grid_eps == 1.0))
        return self._measured(moved, x)

    def covers(self, x: Float[Tensor, "samples inputs"], share: float) -> bool:
        with torch.no_grad():
            reaching = self.activations(x)
        hidden = list(zip(self, reaching, strict=False))[1:]
        return all(layer.grid.covers(values, share) for layer, values in hidden)

    def _measured(self, moved: Sequence[tuple[SplineLayer, str]], x: Tensor) -> Regridded[KAN]:
        """The network of moved layers; of each, how it was carried."""
        new, hows = (
            KAN.of_layers([layer for layer, _ in moved], self.products[:-1]),
            {how for _, how in moved},
        )
        with torch.no_grad():
            before, after = self(x), new(x)
        size = max(largest_but_rare(before), torch.finfo(before.dtype).tiny)
        return Regridded(
            new, hows.pop() if len(hows) == 1 else "both", largest_but_rare(after - before) / size
        )

    # ---------------------------------------------------------------------------------------- widths

    def subnetworks(self) -> list[tuple[int, ...]]:
        """The shape, then its hidden widths halved (rounded up) until all are 1."""
        return [self.shape] if any(self.products) else halved(self.shape)

    def subnetwork(self, shape: Sequence[int]) -> Network:
        """The sub-network of the first nodes of each hidden layer.

        Coefficients grow by the square root of the fan-in lost, so that a fresh network stays one of the same scale.
        """
        if any(self.products):
            return super().subnetwork(shape)
        narrow = self._resized(shape)
        with torch.no_grad():
            for layer, old in zip(narrow, self, strict=True):
                layer.coefficients.mul_((old.inputs / layer.inputs) ** 0.5)
        return narrow

    def padded(self, shape: Sequence[int]) -> Network:
        """The same function in a network of widths `shape`: further nodes are there, and all their edges pruned."""
        return super().padded(shape) if any(self.products) else self._resized(shape)

    def _resized(self, shape: Sequence[int]) -> KAN:
        ends = zip(self, shape[:-1], shape[1:], strict=True)
        return KAN.of_layers([layer.resized(inputs, outputs) for layer, inputs, outputs in ends])
