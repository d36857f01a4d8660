"""The multi-layer Kolmogorov-Arnold network, and its size by all published conventions.

Published comparisons of KANs and MLPs count parameters differently. Here every convention has a
name, a formula and a source, so that networks can be compared by any of them. E is the number of
edges, G the number of grid intervals, k the degree, H the number of nodes that are not inputs, and
n_in and n_out are the widths before and after a layer.

A multiplication, addition, division or comparison is one FLOP; an elementwise function costs the
number in ACTIVATION_FLOPS. `Network.flops` counts the operations in the formulas that the engine
executes. torch's own counter is not used, because it ignores gathered products and elementwise
functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from kanrun.engine.networks.network import ACTIVATION_FLOPS, Network
from kanrun.engine.networks.reshaping import prune_edges
from kanrun.engine.splines import (
    UNIFORM_MATRIX_DEGREE,
    Batch,
    Inputs,
    prefers_sparse,
    uniform_breakpoints,
)
from kanrun.errors import UsageError

#: Score below which `KAN.prune` drops an edge, as pykan does by default (`edge_th`).
EDGE_THRESHOLD = 3e-2


#: Descriptions of how a network continues outside its grids, by extrapolation policy.
EXTRAPOLATION_NOTES = {
    "linear": "the splines continue linearly",
    "constant": "the splines keep their values at the ends",
    "zero": "the splines are zero",
    "base": "the splines keep their values at the ends and the base function continues",
}


class KAN(Network):
    """A Kolmogorov-Arnold network: f(x) = (Phi_L o ... o Phi_1)(x), where each Phi is a KANLayer.

    See arXiv 2404.19756, eq. 2.7. The shape of x is (..., inputs), that of f(x) (..., outputs).

    A KAN is an ordinary torch module that works with any training loop, device and precision. The
    grids of the first layer cover `domain`, those of hidden layers [-1, 1]. `refine`, `prune` and
    `regrid` return new networks, whose parameters need a new optimiser. As with other torch
    modules, save and load the state_dict.

    Attributes:
        layers: The `KANLayer`s, from inputs to outputs.
        shape: The widths, inputs first and outputs last.

    Args:
        shape: The widths, such as [2, 5, 1] for 2 inputs, 5 hidden nodes and 1 output.
        intervals: Number of grid intervals G.
        degree: Degree k of the splines.
        domain: Range (low, high) of the inputs: one pair for all inputs, or one pair per input.
        edges: Base function, scaling and extrapolation of the edge functions.
        multiplication_nodes: Number of multiplication nodes in each hidden layer. They are the last
            nodes of the layer, and each is the product of two sums of edges, so the layer has more
            sums (outputs) than nodes.
        initialisation: Name of the initialisation.
        generator: Random number generator; None: torch's global generator.
        dtype: torch.float32 or torch.float64; None: torch's default.
        device: Device of the parameters; None: torch's default.

    Raises:
        UsageError: If an argument is invalid.

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
        """Return an untrained network, with grids of the first layer on `domain`.

        The grids of the other layers are on [-1, 1].
        """
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
        """Load a network trained with pykan 0.2, in float64.

        Its outputs equal those of the original network everywhere, because the grids extend to
        pykan's outermost knots and `extrapolation` is `base`.

        Args:
            source: Path of a checkpoint written by pykan's `saveckpt`, path of a file that contains
                the state dict, or the state dict.
            base: Name of the base function; None: that of the checkpoint's configuration, or `silu`
                if there is no configuration.

        Raises:
            UsageError: If the source is not a pykan network, or has symbolic edges.
        """
        return cls._imported("pykan", source, base)

    @classmethod
    def from_efficient_kan(
        cls, source: str | Path | Mapping[str, Any], *, base: str | None = None
    ) -> KAN:
        """Load a network trained with efficient-kan, in float64.

        Its outputs equal those of the original network everywhere.

        Args:
            source: Path of a file that contains the state dict (torch or safetensors), or the state
                dict.
            base: Name of the base function; default: `silu`.

        Raises:
            UsageError: If the source is not an efficient-kan network.
        """
        return cls._imported("efficient-kan", source, base)

    @classmethod
    def _imported(cls, library: str, source: Any, base: str | None) -> KAN:
        from kanrun.engine.networks.imported import read_network

        imported = read_network(source, base)
        if imported.library != library:
            raise UsageError(f"The source is a network of {imported.library}, not of {library}.")
        return cls.of_layers(imported.layers, imported.products[:-1])

    def edge(self, layer: int, input: int, output: int) -> LearnedEdge:
        """Return the function phi on one edge.

        Args:
            layer: Index of the layer, from 0; negative indices count from the end.
            input: Index of the node at which the edge begins.
            output: Index of the node to which the edge leads; in a layer with multiplication nodes,
                index of the sum.

        Raises:
            UsageError: If the edge does not exist.
        """
        layers = self.edge_layers
        if not -len(layers) <= layer < len(layers):
            raise UsageError(
                f"There is no layer {layer}: the network has {len(layers)}, counted from 0."
            )
        return LearnedEdge(layers[layer], input, output)

    def prune(self, x: Inputs | ArrayLike, threshold: float = EDGE_THRESHOLD) -> KAN:
        """Return a copy of the network without the edges whose score is below a threshold.

        The score of an edge is its share in the outputs' variation over `x`; see
        `kanrun.engine.networks.reshaping`. At least one edge into each output is kept.

        Args:
            x: Samples on which scores are computed, shape (samples, inputs).
            threshold: Score below which an edge is removed; scores lie in [0, outputs].

        Raises:
            UsageError: If there are no samples, or x is not finite.
        """
        return prune_edges(self, x, threshold)

    def plot(
        self, x: Any = None, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
    ) -> Any:
        """Draw the network with a plot of each edge function; higher scores give stronger lines.

        Args:
            x: Samples on which scores are computed, shape (samples, inputs); default: uniform
                random points of the domain.
            inputs: Names of the inputs.
            outputs: Names of the outputs.

        Returns:
            A matplotlib Figure.
        """
        return MODELS[self.kind].draw(self, x, inputs, outputs)

    def refine(self, intervals: int) -> KAN:
        """Return a copy of the network in which every grid has `intervals` intervals.

        The ranges of the grids do not change. If the new number of intervals is a multiple of the
        old one, the function stays the same up to rounding; otherwise it is approximated by least
        squares. The copy can be trained further.

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
        """Return the number of trained parameters, without those of pruned edges."""
        total = 0
        for layer in self.edge_layers:
            numbers = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            total += numbers * int(layer.mask.sum()) // layer.mask.numel()
        return total

    def flops(self) -> dict[str, float | None]:
        fair = kanbefair_flops(size_of(self), self.edge_layers[0].spec.base)
        executed = sum(map(layer_flops, self.edge_layers)) + sum(self.products)
        return {"flops": float(executed), "kanbefair_flops": fair}

    @property
    def extrapolation_note(self) -> str:
        return EXTRAPOLATION_NOTES[self.edge_layers[0].spec.extrapolation]

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return pairs (name, parameter): per layer the coefficients, then the base weights."""
        named = []
        for number, layer in enumerate(self.edge_layers):
            named.append((f"layers.{number}.coefficients", layer.coefficients))
            if (base := layer.trained_base) is not None:
                named.append((f"layers.{number}.base_weight", base))
        return named

    def linearise(self, x: Inputs) -> tuple[Float[Tensor, "samples out"], LocalRows]:
        """Return f(x) and its Jacobian with respect to the unknowns.

        Only entries that can be nonzero are stored: k + 1 per edge for any grid, and one more if
        base weights are trained.
        """
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
        """Number of grid intervals of the first layer; usually, all layers have the same number."""
        return self.edge_layers[0].grid.intervals

    def unknowns_at(self, intervals: int | None) -> int:
        return sum(layer.unknowns_at(intervals) for layer in self.edge_layers)


# -------------------- numbers of parameters and FLOPs


@dataclass(frozen=True)
class KANSize:
    """Size of a KAN.

    Attributes:
        shape: Widths, inputs first.
        intervals: Number of grid intervals G.
        degree: Degree k of the splines.
        products: Number of multiplication nodes of each hidden layer; each node multiplies two sums
            of edge outputs.
    """

    shape: tuple[int, ...]
    intervals: int
    degree: int
    products: tuple[int, ...] = ()

    @property
    def edges(self) -> int:
        """Number of edges E, which is the number of edge functions."""
        sums = [n + m for n, m in itertools.zip_longest(self.shape[1:], self.products, fillvalue=0)]
        return sum(a * b for a, b in zip(self.shape[:-1], sums, strict=True))

    @property
    def nodes(self) -> int:
        """Number H of nodes that are not inputs."""
        return sum(self.shape[1:])


@dataclass(frozen=True)
class Convention:
    """A convention by which the parameters of a KAN are counted.

    The number is E (G + degree * k + each) + nodes * H.

    Attributes:
        name: Name of the convention.
        formula: The number as a formula.
        source: Where the convention is used.
        each: Number of parameters per edge besides those that depend on G or k.
        degree: Factor that multiplies the degree k.
        nodes: Number of parameters per node that is not an input.
    """

    name: str
    formula: str
    source: str
    each: int = 0
    degree: int = 1
    nodes: int = 0

    def count(self, size: KANSize) -> int:
        edge = size.intervals + self.degree * size.degree + self.each
        return size.edges * edge + self.nodes * size.nodes


CONVENTIONS: tuple[Convention, ...] = (
    Convention("paper", "E G", "Liu et al., arXiv 2404.19756, the axes of its plots", degree=0),
    Convention("spline", "E (G + k)", "spline coefficients only: what kanrun trains by default"),
    Convention(
        "single",
        "E (G + k + 1)",
        "coefficients and w_b or w_s alone",
        1,
    ),
    Convention(
        "separate", "E (G + k + 2)", "coefficients, w_b and w_s: LBFGS and Adam with a base", 2
    ),
    Convention(
        "efficient_kan", "E (G + k + 2)", "efficient-kan: base weight, spline weight, scaler", 2
    ),
    Convention("pykan", "E (G + k + 6)", "pykan 0.2.8, all with requires_grad", 6),
    Convention(
        "kanbefair",
        "E (G + k + 3) + H",
        "KANbeFair, arXiv 2407.16674, with its shortcut",
        3,
        nodes=1,
    ),
)


def size_of(kan: Network) -> KANSize:
    """Return the size of a KAN whose layers have the same number of intervals and degree."""
    first = kan.edge_layers[0]
    return KANSize(kan.shape, first.grid.intervals, first.spec.degree, kan.products[:-1])


def kan_parameters(size: KANSize, spec: EdgeSpec) -> int:
    """Return the number of trained parameters of a KAN of this size, without creating it."""
    base = spec.base != "zero"
    scales = {"all": 1 + base, "base": int(base), "none": 0}[spec.trained_scales]
    return size.edges * (size.intervals + size.degree + scales)


def kanbefair_flops(size: KANSize, base: str) -> float:
    """Return the number of FLOPs of one sample as KANbeFair counts them.

    KANbeFair counts every basis function of the grid, not only the nonzero ones, for every edge. It
    has no multiplication nodes; here, each takes one more FLOP.
    """
    g = size.intervals
    k = size.degree
    total = size.edges * (9 * k * (g + 1.5 * k) + 2 * g - 2.5 * k + 1) + sum(size.products)
    if base != "zero":
        total += ACTIVATION_FLOPS[base] * sum(size.shape[:-1]) + 2 * size.edges
    return total


def layer_flops(layer: SplineLayer) -> int:
    """Return the number of FLOPs of a spline layer for one sample.

    The multiplication of coefficients by w_s is not included, since it does not depend on samples.
    """
    k = layer.spec.degree
    functions = layer.grid.functions
    edges = layer.inputs * layer.outputs
    terms = k + 1 if prefers_sparse(functions, k) else functions
    basis = basis_flops(k, uniform=layer.uniform, extrapolation=layer.spec.extrapolation)
    total = layer.inputs * basis + 2 * edges * terms
    if layer.spec.base != "zero":
        total += layer.inputs * ACTIVATION_FLOPS[layer.spec.base] + 2 * edges
    return total


def basis_flops(degree: int, *, uniform: bool, extrapolation: str) -> int:
    """Return the number of FLOPs to compute the k + 1 nonzero basis functions at one input.

    They are computed once for all edges of the input: on uniform grids by a (k + 1) x k matrix
    times powers of the position, on others by de Boor's recurrence (the search for the interval is
    not counted). Extrapolation outside the grid is included.
    """
    k = degree
    linear = extrapolation == "linear"
    # Number of operations to test whether an input is inside the grid, and to multiply by the
    # result.
    policy = {"linear": 0, "constant": 3, "base": 3, "zero": 3 + k + 1}[extrapolation]
    if k == 0:
        return policy
    if uniform and k <= UNIFORM_MATRIX_DEGREE:
        powers = 1 + 3 * (k - 1) if linear else min(k - 1, 1)
        # The 9 operations compute position, interval and distance, each of them clamped.
        return 9 + max(k - 2, 0) + powers + 2 * k * (k + 1) + policy
    # Degree d of the recurrence takes 3 d differences, d quotients, 2 d products and d - 1 sums.
    # Linear extrapolation adds the slopes, the distance from the grid, and their products.
    recurrence = sum(7 * d - 1 for d in range(1, k + 1))
    continued = 3 * k - 1 + 3 + 2 * (k + 1) if linear else 0
    return 2 + recurrence + continued + policy
