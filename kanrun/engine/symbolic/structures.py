"""Structures to try: sums and products of functions of the inputs, then deeper KANs.

A term is the index of an input, `Sum(terms)` or `Product(terms)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, fitted_grids

#: Maximum number of terms of which a product is tried.
_PRODUCT_INPUTS = 6
#: Slopes and bends of random splines, and the margin of their grids.
_START_SLOPES, _START_BENDS, _START_MARGIN = (0.3, 1.0), 0.1, 0.1


@dataclass(frozen=True)
class Sum:
    """The sum of a function of each term, except products, which enter as they are."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Product:
    """The product of a function of each term."""

    terms: tuple[Term, ...]


Term: TypeAlias = int | Sum | Product

#: Edge whose spline is drawn at the start of a fit.
_OPEN = Spline(-1.0, 1.0, np.zeros(0), 0)


@dataclass(frozen=True)
class Skeleton:
    """A structure without functions: its `graph` has open splines.

    Its name is what tables show, such as `2-1-1` or `2-1 with product`.
    """

    name: str
    graph: Graph

    @classmethod
    def of_terms(cls, name: str, root: Sum, inputs: int) -> Skeleton:
        """Return the tree of a formula; edges of inner nodes come first."""
        operations: list[Operation] = []
        edges: list[Edge] = []

        def build(term: Term) -> int:
            if isinstance(term, int):
                return term
            sources = [build(each) for each in term.terms]
            operations.append("sum" if isinstance(term, Sum) else "product")
            node = inputs + len(operations) - 1
            for source, each in zip(sources, term.terms, strict=True):
                edges.append(Edge(source, node, Identity() if isinstance(each, Product) else _OPEN))
            return node

        build(root)
        return cls(name, Graph(inputs, tuple(operations), tuple(edges)))

    @classmethod
    def of_kan(cls, shape: Sequence[int]) -> Skeleton:
        """Return the fully connected sums of a KAN of widths `shape`."""
        edges, first = list[Edge](), 0
        for inputs, outputs in itertools.pairwise(shape):
            targets = range(first + inputs, first + inputs + outputs)
            edges += [Edge(first + i, target, _OPEN) for target in targets for i in range(inputs)]
            first += inputs
        sums: tuple[Operation, ...] = ("sum",) * sum(shape[1:])
        return cls("-".join(map(str, shape)), Graph(shape[0], sums, tuple(edges)))

    def start(self, x: Array, intervals: int, degree: int, generator: np.random.Generator) -> Graph:
        """Return a graph with random splines: lines with small bends.

        Grids cover the arguments at x (N, inputs).
        """
        graph, functions = self.graph, intervals + degree
        for i in graph.numeric_edges():
            slope = generator.choice([-1.0, 1.0]) * generator.uniform(*_START_SLOPES)
            bends = _START_BENDS * generator.normal(size=functions)
            line = slope * np.linspace(-1, 1, functions)
            graph = graph.with_function(i, Spline(-1.0, 1.0, line + bends, degree))
        return fitted_grids(graph, x, margin=_START_MARGIN, keep=False)


def first_shapes(inputs: int) -> list[Skeleton]:
    """Return [n,1], [n,1,1], then a product beside the sum, outside and inside a function.

    For one input there is a function and nothing else.
    """
    terms = tuple(range(inputs))
    if inputs == 1:
        return [Skeleton.of_terms("1-1", Sum(terms), 1)]
    shapes = {f"{inputs}-1": Sum(terms), f"{inputs}-1-1": Sum((Sum(terms),))}
    if inputs <= _PRODUCT_INPUTS:
        product = Sum((*terms, Product(terms)))
        shapes[f"{inputs}-1 with product"] = product
        shapes[f"{inputs}-1-1 with product"] = Sum((product,))
    return [Skeleton.of_terms(shown, root, inputs) for shown, root in shapes.items()]


def deep_shapes(inputs: int) -> list[Skeleton]:
    """Return fully connected KANs for what no other structure reaches."""
    hidden = _DEEP if inputs > 2 else _DEEP[:3]
    return [Skeleton.of_kan((inputs, *widths, 1)) for widths in hidden]


#: Hidden widths of fully connected KANs; the last ones are for more than two inputs.
_DEEP = ((2,), (2, 1), (5,), (4, 2), (3, 2, 1))
