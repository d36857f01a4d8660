"""Structures to try: the tree of a formula with a spline on every edge, from sums to depth four.

A term is the index of an input, `Sum(terms)` or `Product(terms)`. Every term in it has an edge with a function of its
own, `IdentityTerm(term)` has an identity edge. `kan_shape` gives the sums of a fully connected KAN.

Which inputs act together is asked of a network: a set A of inputs is a module of f if f(x) = F(u(x_A), x_rest). Then the
direction of the gradient within A does not depend on the rest. (Udrescu et al., arXiv 2006.10782, call this generalised
symmetry.) The tests only propose structures; training decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import EdgeFunction, Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation


@dataclass(frozen=True)
class Sum:
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Product:
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class IdentityTerm:
    term: Sum | Product


_SUM: Operation = "sum"

Term: TypeAlias = int | Sum | Product | IdentityTerm


@dataclass(frozen=True)
class Template:
    """A structure and the name that tables show, such as `2-1-1` or `f0 + f1 + f0*f1`."""

    name: str
    root: Sum

    @property
    def edges(self) -> int:
        return _count(self.root)


def _count(term: Term) -> int:
    if isinstance(term, int):
        return 0
    if isinstance(term, IdentityTerm):
        return _count(term.term)
    return sum(_count(inner) + (not isinstance(inner, IdentityTerm)) for inner in term.terms)


def start(
    skeleton: Template,
    x: Array,
    y: Array,
    intervals: int,
    degree: int,
    generator: np.random.Generator,
) -> Graph:
    """`skeleton` with random splines: a line each, bent a little; grids cover what reaches them from x (N, inputs).

    The output node's edges are scaled to the size of y.
    """
    operations: list[Operation] = []
    edges: list[Edge] = []
    inputs = x.shape[1]

    def build(term: Sum | Product) -> int:
        sources = []
        for inner in term.terms:
            bare = inner.term if isinstance(inner, IdentityTerm) else inner
            sources.append(
                (bare if isinstance(bare, int) else build(bare), isinstance(inner, IdentityTerm))
            )
        operations.append("sum" if isinstance(term, Sum) else "product")
        node: int = inputs + len(operations) - 1
        for source, plain in sources:
            edges.append(
                Edge(
                    source, node, Identity() if plain else _bent_line(intervals, degree, generator)
                )
            )
        return node

    build(skeleton.root)
    graph = Graph(inputs, tuple(operations), tuple(sorted(edges, key=lambda edge: edge.target)))
    return scaled(fitted_grids(graph, x, keep=False), x, y)


def kan_shape(
    shape: Sequence[int],
    x: Array,
    y: Array,
    intervals: int,
    degree: int,
    generator: np.random.Generator,
) -> Graph:
    """The fully connected sums of a KAN of widths `shape`, with random splines as in `start`."""
    edges: list[Edge] = []
    first = 0
    for inputs, outputs in itertools.pairwise(shape):
        for target in range(first + inputs, first + inputs + outputs):
            edges += [
                Edge(first + i, target, _bent_line(intervals, degree, generator))
                for i in range(inputs)
            ]
        first += inputs
    operations: tuple[Operation, ...] = tuple(_SUM for _ in range(sum(shape[1:])))
    graph = Graph(shape[0], operations, tuple(edges))
    return scaled(fitted_grids(graph, x, keep=False), x, y)


def _bent_line(intervals: int, degree: int, generator: np.random.Generator) -> EdgeFunction:
    functions = intervals + degree
    line = (
        generator.choice([-1.0, 1.0]) * generator.uniform(0.3, 1.0) * np.linspace(-1, 1, functions)
    )
    return Spline(-1.0, 1.0, line + 0.1 * generator.normal(size=functions), degree)


def fitted_grids(
    graph: Graph, x: Array, *, intervals: int | None = None, margin: float = 0.02, keep: bool = True
) -> Graph:
    """The graph with every spline's grid over the range of what reaches it (+ margin), nodes in order.

    With `keep` the splines keep their functions, to least squares accuracy; without, the coefficients stay as numbers
    and the functions are stretched.
    """
    for i in range(len(graph.edges)):
        function = graph.edges[i].function
        if not isinstance(function, Spline):
            continue
        low, high = covering(graph.node_values(x)[graph.edges[i].source], margin if keep else 0.1)
        if keep:
            new: Spline = function.refined(intervals or function.intervals, low, high)
        else:
            new = Spline(low, high, function.parameters, function.degree)
        graph = graph.with_function(i, new)
    return graph


def covering(t: Array, margin: float) -> tuple[float, float]:
    """The range of t, widened by `margin` of itself, or by one half where t is constant."""
    low, high = float(t.min()), float(t.max())
    width = high - low
    pad = margin * width if width > 1e-12 * max(abs(low), abs(high), 1e-300) else 0.5
    return low - pad, high + pad


def scaled(graph: Graph, x: Array, y: Array) -> Graph:
    """The output node's splines multiplied so that the output varies as much as y, and shifted to its mean."""
    values, outs = graph.edge_outputs(x)
    into = graph.into(graph.output)
    spread = float(np.std(values[graph.output]))
    factor = float(np.std(y)) / spread if spread > 0 else 1.0
    for i in into:
        function = graph.edges[i].function
        if isinstance(function, Spline):
            moved = factor * (function.parameters - float(np.mean(outs[i]))) + float(
                np.mean(y)
            ) / len(into)
            graph = graph.with_function(i, function.with_parameters(moved))
    return graph


#: Inputs up to which a product of a function of each is tried.
_MOST_FACTORS = 6


def first_shapes(inputs: Sequence[int]) -> list[Template]:
    """Return [n,1], [n,1,1], then one multiplication node beside the sum, outside and inside an outer function.

    `inputs` are the columns in use. For one input there is a function and nothing else.
    """
    terms: tuple[Term, ...] = tuple(inputs)
    if len(terms) == 1:
        return [Template("1-1", Sum(terms))]
    return tops(terms, f"{len(terms)}")


def tops(terms: tuple[Term, ...], name: str) -> list[Template]:
    """The ways in which a formula's outermost parts go together."""
    shapes = [Template(f"{name}-1", Sum(terms)), Template(f"{name}-1-1", Sum((Sum(terms),)))]
    if 1 < len(terms) <= _MOST_FACTORS:
        shapes.append(Template(f"{name}-1 with product", with_product(terms)))
        shapes.append(Template(f"{name}-1-1 with product", Sum((with_product(terms),))))
    return shapes


def tree_shapes(
    families: Sequence[Sequence[tuple[int, ...]]], inputs: Sequence[int]
) -> list[Template]:
    """Structures whose parts are the modules found, with sums or products inside each."""
    shapes = []
    for family in families:
        inner = [module for module in family if len(module) > 1]
        for count in range(min(len(inner), 2) + 1):
            for products in itertools.combinations(inner, count):
                terms = tree(family, inputs, frozenset(products))
                shown = " ".join(
                    "".join(map(str, module)) + ("*" if module in products else "")
                    for module in family
                )
                shapes += tops(terms, f"({shown})")
    return shapes


def deep_shapes(inputs: int) -> list[tuple[int, ...]]:
    """Fully connected KANs for what no structure above reaches, up to depth four."""
    shapes = [(inputs, 2, 1), (inputs, 2, 1, 1), (inputs, 5, 1)]
    return [*shapes, (inputs, 4, 2, 1), (inputs, 3, 2, 1, 1)] if inputs > 2 else shapes


def tree(
    family: Sequence[tuple[int, ...]], inputs: Sequence[int], products: frozenset[tuple[int, ...]]
) -> tuple[Term, ...]:
    """The top level's terms: each module one Sum over its parts, with a product of them where `products` names it."""
    parts: dict[tuple[int, ...], Term] = {(i,): i for i in inputs}
    for module in sorted(family, key=len):
        inner = [key for key in parts if set(key) <= set(module)]
        terms = tuple(parts.pop(key) for key in inner)
        parts[module] = with_product(terms) if module in products else Sum(terms)
    return tuple(parts.values())


def with_product(terms: tuple[Term, ...]) -> Sum:
    """The sum of a function of each term and of the product of a function of each."""
    return Sum((*terms, IdentityTerm(Product(terms))))
