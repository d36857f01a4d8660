"""Numbers of parameters and FLOPs of networks, by all published conventions, and size matching.

Published comparisons of KANs and MLPs count parameters differently. Here every convention has a
name, a formula and a source, so that networks can be compared by any of them. E is the number of
edges, G the number of grid intervals, k the degree, H the number of nodes that are not inputs, and
n_in and n_out are the widths before and after a layer.

A multiplication, addition, division or comparison is one FLOP; an elementwise function costs the
number in ACTIVATION_FLOPS. `Network.flops` counts the operations in the formulas that the engine
executes. torch's own counter is not used, because it ignores gathered products and elementwise
functions.

An MLP can be matched to the size of a KAN. Its hidden layers have equal widths except the last,
because with equal widths only, the size would change in large steps. Of the widths whose size is
within the tolerance, the most even ones are used; if there are none, the nearest.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks.network import Network
from kanrun.engine.splines import UNIFORM_MATRIX_DEGREE, prefers_sparse
from kanrun.errors import UsageError

#: Number of FLOPs of each elementwise function, from KANbeFair (Yu et al., arXiv 2407.16674) except
#: for `sin` and `gaussian`, which KANbeFair does not have.
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
        "coefficients and w_b or w_s alone, or the one w of w (b + spline)",
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


def mlp_parameters(shape: Sequence[int]) -> int:
    """Return the number of parameters of an MLP: the sum of n_out (n_in + 1) over its layers."""
    return sum(b * (a + 1) for a, b in itertools.pairwise(shape))


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


def mlp_flops(shape: Sequence[int], activation: str) -> dict[str, float | None]:
    """Return the numbers of FLOPs of one sample of an MLP, as `Network.flops` does.

    A layer takes 2 n_in n_out (the bias replaces the first addition), plus the activation functions
    of hidden nodes. KANbeFair counts activation functions of the outputs too.
    """
    products = sum(2 * a * b for a, b in itertools.pairwise(shape))
    each = ACTIVATION_FLOPS[activation]
    fair = products + each * sum(shape[1:])
    return {"flops": float(products + each * sum(shape[1:-1])), "kanbefair_flops": float(fair)}


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


# -------------------- MLPs of the same size

#: Largest relative difference of the sizes at which a match counts as close.
TOLERANCE = 0.02
#: Largest number of neurons of a hidden layer that is tried. If more are needed, the match is not
#: close.
WIDEST = 1 << 14
#: Largest difference, in neurons, between a tried width and the best equal width. A larger value
#: finds closer matches whose widths differ more.
REACH = 16


@dataclass(frozen=True)
class SizeMatch:
    """Hidden widths of a network whose size was matched to another.

    Attributes:
        hidden: Widths of the hidden layers.
        value: Size that these widths give, in parameters or FLOPs.
        wanted: Size to be matched, in the same unit.
    """

    hidden: tuple[int, ...]
    value: float
    wanted: float

    @property
    def off(self) -> float:
        """Relative difference of the sizes, (value - wanted) / wanted."""
        return self.value / self.wanted - 1

    @property
    def close(self) -> bool:
        """Whether the relative difference is within the tolerance."""
        return abs(self.off) <= TOLERANCE


def match_parameters(inputs: int, outputs: int, depth: int, wanted: int | float) -> SizeMatch:
    """Return the MLP with `depth` hidden layers whose number of parameters best fits `wanted`."""
    return _match(lambda hidden: mlp_parameters((inputs, *hidden, outputs)), depth, wanted)


def match_flops(
    inputs: int, outputs: int, depth: int, activation: str, wanted: int | float
) -> SizeMatch:
    """Return the MLP with `depth` hidden layers whose executed FLOPs are nearest to `wanted`."""

    def flops(hidden: tuple[int, ...]) -> float:
        return mlp_flops((inputs, *hidden, outputs), activation)["flops"] or 0.0

    return _match(flops, depth, wanted)


def _match(
    measure: Callable[[tuple[int, ...]], float], depth: int, wanted: int | float
) -> SizeMatch:
    """Return the most even hidden widths (n, ..., n, m) whose size is close to `wanted`.

    If the size of no widths is within the tolerance, return the widths with the nearest size.
    `measure` maps widths to their size, and must be increasing.
    """
    if depth < 1:
        raise UsageError(
            f"An MLP of {depth} hidden layers has no width to match. Use depths of at least 1."
        )
    if not wanted > 0:
        raise UsageError(f"The size to match must be positive, not {wanted}.")

    def largest(widths: Callable[[int], tuple[int, ...]]) -> int:
        """Return the largest n at which `widths(n)` measure at most `wanted`; at least 1."""
        fits = range(1, WIDEST + 1)
        return max(1, bisect_left(fits, True, key=lambda n: measure(widths(n)) > wanted))

    even = largest(lambda n: (n,) * depth)
    reach = min(even // 2, REACH)
    matches = []
    for n in range(max(1, even - reach), min(even + reach + 1, WIDEST) + 1):
        equal = (n,) * (depth - 1)
        last = largest(lambda m, equal=equal: (*equal, m))  # type: ignore[misc]
        for hidden in ((*equal, m) for m in (last, min(last + 1, WIDEST))):
            matches.append(SizeMatch(hidden, float(measure(hidden)), float(wanted)))
    close = [match for match in matches if match.close]
    if close:
        return min(close, key=lambda m: (max(m.hidden) - min(m.hidden), abs(m.off)))
    return min(matches, key=lambda match: abs(match.off))
