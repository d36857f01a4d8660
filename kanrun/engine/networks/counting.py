"""How many numbers a network has and how much arithmetic it does, by every convention in use.

Published comparisons of KANs and MLPs count differently; here each count has its name, its formula and its source, so
that one network can be put beside another by any of them. E is the number of edges, G of grid intervals, k the degree,
H the nodes that are not inputs, n_in and n_out the widths beside a layer.

Multiplications, additions, divisions and comparisons are one FLOP each; an elementwise function costs what
ACTIVATION_FLOPS says. What a network executes (`Network.flops`) is counted from the formulas that the engine runs,
since torch's own counter sees neither gathered products nor elementwise work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks.network import Network
from kanrun.engine.splines import prefers_sparse
from kanrun.engine.splines.local_basis import UNIFORM_MATRIX_DEGREE

#: FLOPs of one elementwise function, as KANbeFair (Yu et al., arXiv 2407.16674) takes them; the last three are ours.
ACTIVATION_FLOPS = {
    "zero": 0,
    "identity": 0,
    "relu": 1,
    "sigmoid": 4,
    "silu": 5,
    "tanh": 6,
    "gelu": 14,
    "sin": 1,
    "gaussian": 3,
}


@dataclass(frozen=True)
class Size:
    """A KAN as parameter formulas see it: widths (inputs first), G, k."""

    shape: tuple[int, ...]
    intervals: int
    degree: int
    products: tuple[
        int, ...
    ] = ()  # nodes of each hidden layer that multiply, each with edges of two sums

    @property
    def edges(self) -> int:
        """E, one function each."""
        sums = [n + m for n, m in itertools.zip_longest(self.shape[1:], self.products, fillvalue=0)]
        return sum(a * b for a, b in zip(self.shape[:-1], sums, strict=True))

    @property
    def nodes(self) -> int:
        """H, the nodes that are not inputs."""
        return sum(self.shape[1:])


@dataclass(frozen=True)
class Convention:
    """One way to count a KAN's parameters; `source` says who counts so."""

    name: str
    formula: str
    source: str
    count: Callable[[Size], int]


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "paper",
        "E G",
        "Liu et al., arXiv 2404.19756, the axes of its plots",
        lambda s: s.edges * s.intervals,
    ),
    Convention(
        "spline",
        "E (G + k)",
        "spline coefficients only: what kanrun trains by default",
        lambda s: s.edges * (s.intervals + s.degree),
    ),
    Convention(
        "single",
        "E (G + k + 1)",
        "coefficients and w_b or w_s alone, or the one w of w (b + spline)",
        lambda s: s.edges * (s.intervals + s.degree + 1),
    ),
    Convention(
        "separate",
        "E (G + k + 2)",
        "coefficients, w_b and w_s: LBFGS and Adam with a base",
        lambda s: s.edges * (s.intervals + s.degree + 2),
    ),
    Convention(
        "efficient_kan",
        "E (G + k + 2)",
        "efficient-kan: base weight, spline weight, scaler",
        lambda s: s.edges * (s.intervals + s.degree + 2),
    ),
    Convention(
        "pykan",
        "E (G + k + 6)",
        "pykan 0.2.8, all with requires_grad",
        lambda s: s.edges * (s.intervals + s.degree + 6),
    ),
    Convention(
        "kanbefair",
        "E (G + k + 3) + H",
        "KANbeFair, arXiv 2407.16674, with its shortcut",
        lambda s: s.edges * (s.intervals + s.degree + 3) + s.nodes,
    ),
)


def size_of(kan: Network) -> Size:
    """The size of a network of edges whose layers share one grid and degree, as those made by `KAN.create` do."""
    first = kan.edge_layers[0]
    return Size(kan.shape, first.grid.intervals, first.spec.degree, kan.products[:-1])


def coefficients(shape: Sequence[int], intervals: int, degree: int) -> int:
    """E (G + k): the spline coefficients of a KAN of these widths, which are its unknowns; budgets go by them."""
    return Size(tuple(shape), intervals, degree).edges * (intervals + degree)


def kan_parameters(size: Size, spec: EdgeSpec) -> int:
    """Trained numbers of kanrun's own KAN of this size and kind, without building it: `KAN.count` of a fresh one."""
    base = spec.base != "zero"
    every = 1 if spec.edge_scaling == "single" else 1 + base
    scales = {"all": every, "base": int(base), "none": 0}[spec.trained_scales]
    return size.edges * (size.intervals + size.degree + scales)


def mlp_parameters(shape: Sequence[int]) -> int:
    """sum n_out (n_in + 1)."""
    return sum(b * (a + 1) for a, b in itertools.pairwise(shape))


def kanbefair_flops(size: Size, base: str = "silu") -> float:
    """FLOPs of one sample as KANbeFair counts: every basis function of the grid, once for each EDGE."""
    g, k = size.intervals, size.degree
    total = 0.0
    for n_in, n_out in itertools.pairwise(size.shape):
        total += n_in * n_out * (9 * k * (g + 1.5 * k) + 2 * g - 2.5 * k + 1)
        if base != "zero":
            total += ACTIVATION_FLOPS[base] * n_in + 2 * n_in * n_out
    return total


def kanbefair_mlp_flops(shape: Sequence[int], activation: str) -> float:
    """FLOPs of one sample as KANbeFair counts an MLP's: 2 n_in n_out and an activation of every layer's output."""
    return float(
        sum(2 * a * b + ACTIVATION_FLOPS[activation] * b for a, b in itertools.pairwise(shape))
    )


def mlp_flops(shape: Sequence[int], activation: str) -> float:
    """2 n_in n_out a layer (the bias takes the place of the first addition), the activation between layers."""
    hidden = sum(shape[1:-1])
    return float(
        sum(2 * a * b for a, b in itertools.pairwise(shape)) + ACTIVATION_FLOPS[activation] * hidden
    )


def layer_flops(layer: SplineLayer) -> int:
    """Of a layer of spline edges on one sample of a large batch; scaling the coefficients does not grow with it."""
    k, functions = layer.spec.degree, layer.grid.functions
    edges = layer.inputs * layer.outputs
    terms = k + 1 if prefers_sparse(functions, k) else functions
    has_base = layer.spec.base != "zero"
    base = layer.inputs * ACTIVATION_FLOPS[layer.spec.base] + 2 * edges if has_base else 0
    return (
        layer.inputs * basis_flops(k, uniform=layer.uniform, extrapolation=layer.spec.extrapolation)
        + 2 * edges * terms
        + base
    )


def basis_flops(degree: int, *, uniform: bool, extrapolation: str) -> int:
    """FLOPs of the k + 1 local basis values of one input: they are computed once, for all of its edges.

    Uniform grids take powers of the position times a (k + 1) x k matrix, others de Boor's recurrence (the search for
    their interval is not counted). What the policy for points outside the grid adds is part of both.
    """
    k = degree
    policy = {"linear": 0, "constant": 3, "zero": 3 + k + 1}[
        extrapolation
    ]  # inside or not, and a product with that
    if k == 0:
        return policy
    if uniform and k <= UNIFORM_MATRIX_DEGREE:
        powers = 1 + 3 * (k - 1) if extrapolation == "linear" else min(k - 1, 1)
        return (
            9 + max(k - 2, 0) + powers + 2 * k * (k + 1) + policy
        )  # 9: position, interval, distance, all clamped
    recurrence = sum(
        7 * d - 1 for d in range(1, k + 1)
    )  # at level d: d quotients, 2 d differences and products, sums
    continued = (
        3 * k - 1 + 3 + 2 * (k + 1) if extrapolation == "linear" else 0
    )  # slopes, distance, their product added
    return 2 + recurrence + continued + policy
