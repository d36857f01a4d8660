"""The multi-layer Kolmogorov-Arnold network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Generator, Tensor, nn

from kanrun.config.registry import MODELS
from kanrun.engine.layers import (
    SPLINES,
    Domain,
    EdgeSpec,
    LearnedEdge,
    RadialLayer,
    SplineLayer,
    checked_edges,
    checked_shape,
    domain_of,
    initialise,
    linearised,
    nodes_of,
)
from kanrun.engine.least_squares import LocalRows
from kanrun.engine.networks.counting import kanbefair_flops, layer_flops, size_of
from kanrun.engine.networks.network import Network
from kanrun.engine.networks.reshaping import prune_edges
from kanrun.engine.splines import Batch, Inputs, uniform_breakpoints
from kanrun.errors import UsageError

#: Score below which `KAN.prune` drops an edge, as pykan does by default (`edge_th`).
EDGE_THRESHOLD = 3e-2


#: What splines do outside their grids, by the policy.
EXTRAPOLATION_NOTES = {
    "linear": "the splines continue linearly",
    "constant": "the splines keep their values at the ends",
    "zero": "the splines are zero",
    "base": "the splines keep their values at the ends and the base function continues",
}


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
        edges: Base function, scaling and continuation of the edges beyond their grids.
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
        edges: EdgeSpec = SPLINES,
        multiplication_nodes: Sequence[int] = (),
        initialisation: str = "paper",
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = checked_shape(shape)
        spec = checked_edges(edges, degree, intervals, initialisation)
        products = tuple(multiplication_nodes) or (0,) * (len(shape) - 2)
        hidden = shape[1:-1]
        if len(products) != len(hidden) or not all(
            0 <= count <= width for count, width in zip(products, hidden, strict=True)
        ):
            raise UsageError(
                f"multiplication_nodes={list(products)} must have a number for each of the hidden "
                f"widths {list(hidden)}, no larger than the width."
            )
        ends = domain_of(domain, shape[0], dtype, device)
        fresh = self.create(
            shape,
            intervals,
            spec,
            domain=ends,
            initialisation=initialisation,
            generator=generator,
            products=products,
        )
        self._hold(fresh.edge_layers, products)

    @classmethod
    def create(
        cls,
        shape: Sequence[int],
        intervals: int,
        spec: EdgeSpec,
        *,
        domain: Float[Tensor, "inputs 2"],
        initialisation: str = "paper",
        generator: Generator | None,
        products: Sequence[int] = (),
    ) -> KAN:
        """Return a fresh network: the first grid on `domain`, hidden ones on [-1, 1]."""
        layers = []
        for i, (inputs, outputs) in enumerate(pairwise(shape)):
            ends = domain if i == 0 else domain.new_tensor([[-1.0, 1.0]]).expand(inputs, 2)
            grid = uniform_breakpoints(ends[:, 0], ends[:, 1], intervals)
            sums = outputs + sum(products[i : i + 1])
            layers.append(SplineLayer.on_grid(grid, sums, spec, uniform=True))
            initialise(layers[-1], initialisation, generator)
        return cls.of_layers(layers, products)

    def describe(self) -> dict[str, Any]:
        layers = [layer.describe() for layer in self.edge_layers]
        return {"kind": self.kind, "layers": layers, "products": list(self.products[:-1])}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> KAN:
        layers = [
            (RadialLayer if "centres" in layer else SplineLayer).from_description(layer)
            for layer in description["layers"]
        ]
        return cls.of_layers(layers, description.get("products", ()))

    @classmethod
    def from_pykan(cls, source: str | Path | Mapping[str, Any], *, base: str | None = None) -> KAN:
        """Return a trained network of pykan 0.2, equal to it everywhere, in float64.

        Its grids reach to pykan's outermost knots, and `extrapolation` is `base`.

        Args:
            source: The path of a checkpoint that `saveckpt` wrote, a file of its state dict, or the
                state dict.
            base: Name of the base function, if no configuration names it; default: `silu`.

        Raises:
            UsageError: If the source is no such network, or has symbolic edges.
        """
        return cls._imported("pykan", source, base)

    @classmethod
    def from_efficient_kan(
        cls, source: str | Path | Mapping[str, Any], *, base: str | None = None
    ) -> KAN:
        """Return a trained network of efficient-kan, equal to it everywhere, in float64.

        Args:
            source: A file of its state dict (torch or safetensors), or the state dict.
            base: Name of the base activation; default: `silu`.

        Raises:
            UsageError: If the source is no such network.
        """
        return cls._imported("efficient-kan", source, base)

    @classmethod
    def _imported(cls, library: str, source: Any, base: str | None) -> KAN:
        from kanrun.engine.networks.imported import read_network

        found = read_network(source, base)
        if found.library != library:
            raise UsageError(f"The source is a network of {found.library}, not of {library}.")
        return cls.of_layers(found.layers, found.products[:-1])

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

    def prune(self, x: Inputs | ArrayLike, threshold: float = EDGE_THRESHOLD) -> KAN:
        """Return the network without the edges whose score is below a threshold, see `reshaping`.

        Args:
            x: Samples on which scores are measured, shape (samples, inputs).
            threshold: Score below which an edge is dropped; scores lie in [0, outputs].

        Raises:
            UsageError: If there are no samples, or x is not finite.
        """
        return prune_edges(self, x, threshold)

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
        return MODELS[self.kind].draw(self, x, inputs, outputs)

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
        return self.of_layers(layers, self.products[:-1])

    # -------------------- the protocol of `Network`

    def forward(self, x: Batch) -> Float[Tensor, "*batch out"]:
        return self.activations(x)[-1]

    def activations(self, x: Batch) -> list[Tensor]:
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

    def count(self) -> int:
        """Return the number of trained numbers, without those of pruned edges."""
        total = 0
        for layer in self.edge_layers:
            numbers = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            total += numbers * int(layer.mask.sum()) // layer.mask.numel()
        return total

    def flops(self) -> dict[str, float | None]:
        fair = kanbefair_flops(size_of(self), self.edge_layers[0].spec.base)
        return {"flops": float(sum(map(layer_flops, self.edge_layers))), "kanbefair_flops": fair}

    @property
    def extrapolation_note(self) -> str:
        return EXTRAPOLATION_NOTES[self.edge_layers[0].spec.extrapolation]

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return for each layer the coefficients, then the weights of the base."""
        found = []
        for number, layer in enumerate(self.edge_layers):
            found.append((f"layers.{number}.coefficients", layer.coefficients))
            if (base := layer.trained_base) is not None:
                found.append((f"layers.{number}.{layer.base_name}", base))
        return found

    def linearise(self, x: Inputs) -> tuple[Float[Tensor, "samples out"], LocalRows]:
        """Return (f(x), J) with the non-zeros of J alone: k + 1 an edge, however fine the grids."""
        with torch.no_grad():
            edges = [layer.edges for layer in self.edge_layers]
            y, rows, columns, unknowns = linearised(edges, self.products, x)
            index = columns[:, None].expand_as(rows).flatten(0, 1)
        return y, LocalRows(index.contiguous(), rows.flatten(0, 1), unknowns)

    def lower(self) -> list[Network]:
        layers = self.edge_layers
        return [self.of_layers(layers[:n], self.products[: n - 1]) for n in range(1, len(layers))]

    @property
    def intervals(self) -> int:
        """G of the first layer; all layers have the same unless built otherwise."""
        return self.edge_layers[0].grid.intervals

    def unknowns_at(self, intervals: int | None) -> int:
        return sum(layer.unknowns_at(intervals) for layer in self.edge_layers)
