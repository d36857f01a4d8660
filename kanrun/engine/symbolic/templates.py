"""Structures to try: the tree of a formula with a spline on every edge, from sums to depth four.

A term is the index of an input, `Sum(terms)` or `Product(terms)`. Every term in it has an edge with
a function of its own, `IdentityTerm(term)` has an identity edge. `kan_shape` gives the sums of a
fully connected KAN.

Which inputs act together is asked of a network: a set A of inputs is a module of f if f(x) =
F(u(x_A), x_rest). Then the direction of the gradient within A does not depend on the rest. (Udrescu
et al., arXiv 2006.10782, call this generalised symmetry.) The tests only propose structures;
training decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation


@dataclass(frozen=True)
class Sum:
    """The sum of a function of each term."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Product:
    """The product of a function of each term."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class IdentityTerm:
    """A term that enters as it is, without a function."""

    term: Sum | Product


Term: TypeAlias = int | Sum | Product | IdentityTerm
#: The source and the target of an edge, and whether it is an identity.
_Link = tuple[int, int, bool]


@dataclass(frozen=True)
class Template:
    """A structure and the name that tables show, such as `2-1-1` or `2-1 with product`."""

    name: str
    root: Sum

    @property
    def edges(self) -> int:
        return sum(not is_identity for *_, is_identity in self.links(0)[1])

    def links(self, inputs: int) -> tuple[list[Operation], list[_Link]]:
        """Return the operation of every node, and all edges, those of inner nodes first."""
        operations: list[Operation] = []
        links: list[_Link] = []

        def build(term: Sum | Product) -> int:
            bare = [each.term if isinstance(each, IdentityTerm) else each for each in term.terms]
            sources = [each if isinstance(each, int) else build(each) for each in bare]
            operations.append("sum" if isinstance(term, Sum) else "product")
            node: int = inputs + len(operations) - 1
            for source, each in zip(sources, term.terms, strict=True):
                links.append((source, node, isinstance(each, IdentityTerm)))
            return node

        build(self.root)
        return operations, links


def start(
    skeleton: Template,
    x: Array,
    y: Array,
    intervals: int,
    degree: int,
    generator: np.random.Generator,
) -> Graph:
    """Return `skeleton` with random splines: lines with small bends.

    Grids cover the arguments at x (N, inputs). The output node's edges are scaled to the size of y.
    """
    operations, links = skeleton.links(x.shape[1])
    return _with_random_splines(operations, links, x, y, (intervals, degree), generator)


def kan_shape(
    shape: Sequence[int],
    x: Array,
    y: Array,
    intervals: int,
    degree: int,
    generator: np.random.Generator,
) -> Graph:
    """Return the fully connected sums of a KAN of widths `shape`, with random splines."""
    links: list[_Link] = []
    first = 0
    for inputs, outputs in itertools.pairwise(shape):
        targets = range(first + inputs, first + inputs + outputs)
        links += [(first + i, target, False) for target in targets for i in range(inputs)]
        first += inputs
    operations: list[Operation] = ["sum" for _ in range(sum(shape[1:]))]
    return _with_random_splines(operations, links, x, y, (intervals, degree), generator)


def _with_random_splines(
    operations: Sequence[Operation],
    links: Sequence[_Link],
    x: Array,
    y: Array,
    grid: tuple[int, int],
    generator: np.random.Generator,
) -> Graph:
    functions, edges = sum(grid), []
    for source, target, is_identity in links:
        if is_identity:
            edges.append(Edge(source, target, Identity()))
            continue
        slope = generator.choice([-1.0, 1.0]) * generator.uniform(0.3, 1.0)
        bends = 0.1 * generator.normal(size=functions)
        spline = Spline(-1.0, 1.0, slope * np.linspace(-1, 1, functions) + bends, grid[1])
        edges.append(Edge(source, target, spline))
    ordered = tuple(sorted(edges, key=lambda edge: edge.target))
    graph = fitted_grids(Graph(x.shape[1], tuple(operations), ordered), x, margin=0.1, keep=False)
    values, outs = graph.edge_outputs(x)
    into, std = graph.into(graph.output), float(np.std(values[graph.output]))
    factor, mean = float(np.std(y)) / std if std > 0 else 1.0, float(np.mean(y)) / len(into)
    for i in into:
        function = graph.edges[i].function
        if isinstance(function, Spline):
            moved = factor * (function.parameters - float(np.mean(outs[i]))) + mean
            graph = graph.with_function(i, function.with_parameters(moved))
    return graph


def fitted_grids(
    graph: Graph, x: Array, *, intervals: int | None = None, margin: float = 0.02, keep: bool = True
) -> Graph:
    """Return the graph with every spline's grid over the range of its argument and a margin.

    Nodes are treated in order. With `keep` the splines keep their functions, to least-squares
    accuracy. Without, they keep their coefficients, and the functions are stretched.
    """
    for i in range(len(graph.edges)):
        function = graph.edges[i].function
        if isinstance(function, Spline):
            low, high = covering(graph.node_values(x)[graph.edges[i].source], margin)
            new = replace(function, low=low, high=high)
            if keep:
                new = function.refined(intervals or function.intervals, low, high)
            graph = graph.with_function(i, new)
    return graph


def covering(t: Array, margin: float) -> tuple[float, float]:
    """Return the range of t, widened by `margin` of itself, or by one half if t is constant."""
    low, high = float(t.min()), float(t.max())
    width = high - low
    pad = margin * width if width > 1e-12 * max(abs(low), abs(high), 1e-300) else 0.5
    return low - pad, high + pad


#: Inputs up to which a product of a function of each is tried.
_MOST_FACTORS = 6


def first_shapes(inputs: Sequence[int]) -> list[Template]:
    """Return [n,1], [n,1,1], then a product beside the sum, outside and inside a function.

    `inputs` are the columns in use. For one input there is a function and nothing else.
    """
    terms: tuple[Term, ...] = tuple(inputs)
    if len(terms) == 1:
        return [Template("1-1", Sum(terms))]
    return tops(terms, f"{len(terms)}")


def tops(terms: tuple[Term, ...], name: str) -> list[Template]:
    """Return the ways in which a formula's outermost parts are combined."""
    shapes = [Template(f"{name}-1", Sum(terms)), Template(f"{name}-1-1", Sum((Sum(terms),)))]
    if 1 < len(terms) <= _MOST_FACTORS:
        shapes.append(Template(f"{name}-1 with product", with_product(terms)))
        shapes.append(Template(f"{name}-1-1 with product", Sum((with_product(terms),))))
    return shapes


def tree_shapes(
    families: Sequence[Sequence[tuple[int, ...]]], inputs: Sequence[int]
) -> list[Template]:
    """Return structures whose parts are the modules found, with sums or products inside each."""
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
    """Return the shapes of fully connected KANs for what no other structure reaches."""
    shapes = [(inputs, 2, 1), (inputs, 2, 1, 1), (inputs, 5, 1)]
    return [*shapes, (inputs, 4, 2, 1), (inputs, 3, 2, 1, 1)] if inputs > 2 else shapes


def tree(
    family: Sequence[tuple[int, ...]], inputs: Sequence[int], products: frozenset[tuple[int, ...]]
) -> tuple[Term, ...]:
    """Return the terms of the top level, with each module as one Sum of its parts.

    Modules in `products` have a product of the parts too.
    """
    parts: dict[tuple[int, ...], Term] = {(i,): i for i in inputs}
    for module in sorted(family, key=len):
        inner = [key for key in parts if set(key) <= set(module)]
        terms = tuple(parts.pop(key) for key in inner)
        parts[module] = with_product(terms) if module in products else Sum(terms)
    return tuple(parts.values())


def with_product(terms: tuple[Term, ...]) -> Sum:
    """Return the sum of a function of each term and of the product of a function of each."""
    return Sum((*terms, IdentityTerm(Product(terms))))
