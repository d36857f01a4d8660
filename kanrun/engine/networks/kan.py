"""The multi-layer Kolmogorov-Arnold network."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from kanrun.config.registry import MODELS, resolve
from kanrun.engine.layers import (
    EdgeSpec,
    LearnedEdge,
    SplineLayer,
    fresh_layers,
    linearised,
    nodes_of,
)
from kanrun.engine.layers.edges import EdgeScaling
from kanrun.engine.layers.settings import (
    Domain,
    checked_edges,
    checked_products,
    checked_shape,
    domain_of,
)
from kanrun.engine.least_squares import LocalRows
from kanrun.engine.networks.counting import kanbefair_flops, layer_flops, size_of
from kanrun.engine.networks.network import InputGrid, Network, Regridded, halved
from kanrun.engine.networks.pruning import edge_penalty, prune_edges
from kanrun.engine.splines import (
    Extrapolation,
    breakpoints_from_data,
    breakpoints_within,
    largest_but_rare,
    penalty_order,
)
from kanrun.errors import UsageError

#: Score below which `KAN.prune` drops an edge, as pykan does by default (`edge_th`).
EDGE_THRESHOLD = 3e-2


class KAN(Network):
    """f(x) = (Phi_L o ... o Phi_1)(x) for x (..., inputs), each Phi a SplineLayer.

    ArXiv 2404.19756, eq. 2.7.

    An ordinary torch module: for any training loop, device and precision. Its first grid covers
    `domain`; hidden grids cover [-1, 1]. `refine`, `prune` and `regrid` return new networks, whose
    parameters need a new optimiser. It is saved and loaded as torch modules are, by its state_dict.

    Attributes:
        layers: The `KANLayer`s, from the inputs on.
        shape: The widths, inputs first and outputs last.

    Args:
        shape: The widths, such as [2, 5, 1] for 2 inputs, 5 hidden nodes and 1 output.
        intervals: Number of grid intervals G.
        degree: Degree k of the splines.
        domain: (low, high) of the inputs, for all or one pair for each.
        base: Name of the base function b.
        edge_scaling: `separate` weights w_b and w_s, or a `single` one.
        extrapolation: Continuation of an edge beyond its grid: `linear`, `constant` or `zero`.
        multiplication_nodes: Number of nodes of each hidden layer that multiply: the last ones,
            each the product of two sums of edges. Such a layer has more outputs than the next one
            has inputs.
        initialisation: Name of the initialisation.
        generator: Source of random numbers; None: torch's own.
        dtype: torch.float32 or torch.float64; None: torch's default.
        device: Device of the parameters; None: torch's default.

    Raises:
        UsageError: If a value breaks its rule.

    Examples:
        >>> import torch
        >>> from kanrun import KAN
        >>> kan = KAN([2, 5, 1], generator=torch.Generator().manual_seed(0))
        >>> kan(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
        >>> fine = kan.refine(20)
        >>> torch.allclose(fine(torch.ones(1, 2)), kan(torch.ones(1, 2)), atol=1e-5)
        True
        >>> kan.edge(0, 1, 4)(0.5, derivative=1).shape
        torch.Size([])
    """

    kind = "kan"

    def __init__(  # noqa: PLR0913 (keywords of a public class)
        self,
        shape: Sequence[int],
        intervals: int = 5,
        degree: int = 3,
        *,
        domain: Domain = (-1.0, 1.0),
        base: str = "zero",
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
        spec = checked_edges(
            intervals,
            initialisation,
            degree=degree,
            base=base,
            edge_scaling=edge_scaling,
            extrapolation=extrapolation,
        )
        products = checked_products(multiplication_nodes, shape)
        ends = domain_of(domain, shape[0], dtype, device)
        layers = fresh_layers(shape, intervals, spec, ends, initialisation, generator, products)
        self._hold(layers, products)

    @classmethod
    def of_layers(cls, layers: Sequence[SplineLayer], products: Sequence[int] = ()) -> KAN:
        """Return the network of these layers."""
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
        """Return a fresh network with edges of the kind `spec`."""
        layers = fresh_layers(shape, intervals, spec, domain, initialisation, generator, products)
        return cls.of_layers(layers, products)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        for layer, products in zip(self.layers, self.products, strict=True):
            x = nodes_of(layer(x), products)
        return x

    def activations(self, x: Float[Tensor, "samples inputs"]) -> list[Tensor]:
        values = [x]
        for layer, products in zip(self.layers, self.products, strict=True):
            values.append(nodes_of(layer(values[-1]), products))
        return values

    @property
    def edge_layers(self) -> tuple[SplineLayer, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, SplineLayer))

    @property
    def shape(self) -> tuple[int, ...]:
        layers = self.edge_layers
        return (*(layer.inputs for layer in layers), layers[-1].outputs)

    @property
    def active_shape(self) -> tuple[int, ...]:
        hidden = (int(layer.mask.any(0).sum()) for layer in self.edge_layers[1:])
        return (self.shape[0], *hidden, self.shape[-1])

    def count(self) -> int:
        """Return the number of trained numbers, without those of pruned edges."""
        layers = self.edge_layers
        each = [
            sum(p.numel() for p in layer.parameters() if p.requires_grad) // layer.mask.numel()
            for layer in layers
        ]
        return sum(size * int(layer.mask.sum()) for size, layer in zip(each, layers, strict=True))

    def flops(self) -> dict[str, float | None]:
        layers = self.edge_layers
        fair = kanbefair_flops(size_of(self), layers[0].spec.base)
        return {"flops": float(sum(map(layer_flops, layers))), "kanbefair_flops": fair}

    @property
    def beyond(self) -> str:
        return self.edge_layers[0].spec.beyond

    def describe(self) -> dict[str, Any]:
        layers = [layer.describe() for layer in self.edge_layers]
        described = {"kind": self.kind, "layers": layers}
        return described | ({"products": list(self.products[:-1])} if any(self.products) else {})

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> KAN:
        layers = [SplineLayer.from_description(layer) for layer in description["layers"]]
        return cls.of_layers(layers, description.get("products", ()))

    # -------------------- edges

    def edge(self, layer: int, input: int, output: int) -> LearnedEdge:
        """Return the function phi on one edge.

        Args:
            layer: Layer, counted from 0; negative from the end.
            input: Node that the edge comes from, counted likewise.
            output: Node (for products: sum) that it leads to, counted likewise.

        Raises:
            UsageError: If there is no such edge.
        """
        layers = self.edge_layers
        if not -len(layers) <= layer < len(layers):
            raise UsageError(
                f"There is no layer {layer}: the network has {len(layers)}, counted from 0."
            )
        return LearnedEdge(layers[layer], input, output)

    def prune(
        self, x: Float[Tensor, "samples inputs"] | ArrayLike, threshold: float = EDGE_THRESHOLD
    ) -> KAN:
        """Return the network without the edges whose score is below a threshold, see `pruning`.

        Args:
            x: Samples on which scores are measured, shape (samples, inputs).
            threshold: Score below which an edge is dropped; scores lie in [0, outputs].

        Raises:
            UsageError: If there are no samples, or x is not finite.
        """
        return prune_edges(self, x, threshold)

    def regularisation(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        l1: float = 1.0,
        entropy: float = 1.0,
        kind: str = "mean_abs",
    ) -> Tensor:
        """Return the KAN paper's penalty of large edges, differentiable.

        Sum over layers of l1 |Phi|_1 + entropy S(Phi).

            |Phi|_1 = sum_e m_e,   S = - sum_e p_e log p_e,   p_e = m_e / |Phi|_1

        with m_e the norm of an edge's output on x. Source: arXiv 2404.19756, eqs. 2.17 to 2.20.

        Args:
            x: Samples, shape (samples, inputs).
            l1: Weight of the L1 norm.
            entropy: Weight of the entropy.
            kind: Norm m_e: the mean of |phi| (`mean_abs`) or the root mean square (`rms`), which
                makes no tensor of samples x outputs x inputs.
        """
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for layer, products in zip(self.edge_layers, self.products, strict=True):
            total = total + edge_penalty(layer, x, l1, entropy, kind)
            x = nodes_of(layer(x), products)
        return total

    def plot(
        self, x: Any = None, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
    ) -> Any:
        """Draw the network: on each edge its function, stronger for higher scores.

        Args:
            x: Samples on which scores are measured, shape (samples, inputs); default: uniform
                points of the domain.
            inputs: Names of the inputs.
            outputs: Names of the outputs.

        Returns:
            A matplotlib Figure.
        """
        return resolve(MODELS[self.kind].diagram)(self, x, inputs, outputs)

    # -------------------- second-order training

    def for_second_order(self) -> KAN:
        """Return the network with w_s (without a base.

        w) fixed: the coefficients have the same scale.
        """
        new = deepcopy(self)
        for layer in new.edge_layers:
            layer.freeze_spline_scale()
        return new

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return for each layer the coefficients, then the weights of the base."""
        found = []
        for number, layer in enumerate(self.edge_layers):
            found.append((f"layers.{number}.coefficients", layer.coefficients))
            if (base := layer.trained_base) is not None:
                found.append((f"layers.{number}.{layer.base_name}", base))
        return found

    def linearise(
        self, x: Float[Tensor, "samples inputs"]
    ) -> tuple[Float[Tensor, "samples out"], LocalRows]:
        """Return (f(x), J) with the non-zeros of J alone.

        k + 1 for each edge, however fine the grids.
        """
        with torch.no_grad():
            layers = [layer.edges for layer in self.edge_layers]
            bases, y, rows = linearised(layers, self.products, x)
            columns, start = [], 0
            for layer, at in zip(layers, bases, strict=True):
                columns.append(layer.columns(at, start))
                start += layer.size
            index = torch.cat(columns, -1)[:, None].expand_as(rows).flatten(0, 1)
        return y, LocalRows(index.contiguous(), rows.flatten(0, 1), start)

    @property
    def row_terms(self) -> int:
        return self.unknowns_at(1)

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """Return the differences of order m of w_s c, and a row for each w_b."""
        indices, values, start = [], [], 0
        orders = [order or penalty_order(layer.spec.degree) for layer in self.edge_layers]
        for layer, m in zip(self.edge_layers, orders, strict=True):
            for index, rows in layer.penalty_rows(m, start):
                fill = (0, max(orders) + 1 - rows.shape[1])  # Zeros, of any column.
                indices.append(pad(index, fill))
                values.append(pad(rows, fill))
            start += layer.unknowns_at()
        return LocalRows(torch.cat(indices), torch.cat(values), start)

    def support(self, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
        """Return for each layer the functions that can be learned from the samples.

        A function with no sample in its k + 1 intervals cannot. Samples outside the grid touch the
        functions that the policy of extrapolation continues.
        """
        with torch.no_grad():
            pairs = zip(self.edge_layers, self.activations(x), strict=False)
            return [layer.touched(at) for layer, at in pairs]

    def unseen(self, x: Float[Tensor, "samples inputs"]) -> Bool[Tensor, " unknowns"]:
        """Return the functions that no sample touches.

        With any of an edge's, its w_b, which acts everywhere.
        """
        parts = []
        for layer, seen in zip(self.edge_layers, self.support(x), strict=True):
            parts.append((~seen).expand_as(layer.coefficients).reshape(-1))
            if layer.trained_base is not None:
                parts.append((~seen.all(1)).expand_as(layer.mask).reshape(-1))
        return torch.cat(parts)

    # -------------------- grids

    @property
    def intervals(self) -> int:
        """G of the first layer; all layers have the same unless built otherwise."""
        return self.edge_layers[0].grid.intervals

    def unknowns_at(self, intervals: int | None) -> int:
        return sum(layer.unknowns_at(intervals) for layer in self.edge_layers)

    def refine(self, intervals: int) -> KAN:
        """Return the network with every grid on `intervals` intervals over the same range.

        Training continues there.

        For a multiple of the old grid the function stays the same except for rounding, else it is
        the least squares fit.

        Args:
            intervals: Number of grid intervals, at least 1.

        Raises:
            UsageError: If `intervals` is not a whole number.
        """
        if not isinstance(intervals, int):
            raise UsageError(f"intervals={intervals!r} must be a whole number.")
        layers = [layer.refined(intervals)[0] for layer in self.edge_layers]
        return KAN.of_layers(layers, self.products[:-1])

    def refined(self, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded[KAN]:
        return self._measured([layer.refined(intervals) for layer in self.edge_layers], x)

    def regrid(
        self,
        x: Float[Tensor, "samples inputs"],
        *,
        intervals: int | None = None,
        grid_eps: float,
        margin: float,
        inputs: InputGrid = "keep",
    ) -> Regridded[KAN]:
        """Return the network on redrawn grids, see `Network.regrid`.

        Ranges are those of the old network, so that every layer is carried once. Outliers are
        excluded from them (`breakpoints_from_data`) and extrapolated, so that the function stays
        the same where the data lie.
        """
        moved = []
        with torch.no_grad():
            activations = self.activations(x)
        for number, (layer, values) in enumerate(zip(self.edge_layers, activations, strict=False)):
            grid, count = layer.grid, intervals or layer.grid.intervals
            if number == 0 and inputs == "keep":
                same = count == grid.intervals
                moved.append((layer, "insertion") if same else layer.refined(count))
                continue
            if number == 0 and inputs == "within":
                ends = torch.stack([grid.low, grid.high], 1)
                points = breakpoints_within(values, ends, count, 1 - grid_eps)
            else:
                points = breakpoints_from_data(values, count, 1 - grid_eps, margin)
            moved.append(layer.moved(points, uniform=grid_eps == 1.0))
        return self._measured(moved, x)

    def covers(self, x: Float[Tensor, "samples inputs"], share: float) -> bool:
        with torch.no_grad():
            pairs = list(zip(self.edge_layers, self.activations(x), strict=False))[1:]
        return all(layer.grid.covers(values, share) for layer, values in pairs)

    def _measured(self, moved: Sequence[tuple[SplineLayer, str]], x: Tensor) -> Regridded[KAN]:
        """Return the network of moved layers, the methods, and the change of its function on x."""
        new = KAN.of_layers([layer for layer, _ in moved], self.products[:-1])
        methods = {method for _, method in moved}
        with torch.no_grad():
            before, after = self(x), new(x)
        size = max(largest_but_rare(before), torch.finfo(before.dtype).tiny)
        change = largest_but_rare(after - before) / size
        return Regridded(new, methods.pop() if len(methods) == 1 else "both", change)

    # -------------------- widths

    def subnetworks(self) -> list[tuple[int, ...]]:
        """Return the shape, then its hidden widths halved (rounded up) until all are 1."""
        return [self.shape] if any(self.products) else halved(self.shape)

    def subnetwork(self, shape: Sequence[int]) -> Network:
        """Return the sub-network of the first nodes of each hidden layer.

        Coefficients grow by the square root of the fan-in lost, so that a fresh network stays one
        of the same scale.
        """
        if any(self.products):
            return super().subnetwork(shape)
        narrow = self._resized(shape)
        with torch.no_grad():
            for layer, old in zip(narrow.edge_layers, self.edge_layers, strict=True):
                layer.coefficients.mul_((old.inputs / layer.inputs) ** 0.5)
        return narrow

    def padded(self, shape: Sequence[int]) -> Network:
        return super().padded(shape) if any(self.products) else self._resized(shape)

    def _resized(self, shape: Sequence[int]) -> KAN:
        ends = zip(self.edge_layers, shape[:-1], shape[1:], strict=True)
        return KAN.of_layers([layer.resized(inputs, outputs) for layer, inputs, outputs in ends])
