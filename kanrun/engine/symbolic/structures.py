"""Structures to try: sums and products of functions of the inputs, then deeper KANs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, fitted_grids

#: Maximum number of inputs of which a product is tried.
_PRODUCT_INPUTS = 6
#: Slopes and bends of random splines, and the margin of their grids.
_START_SLOPES, _START_BENDS, _START_MARGIN = (0.3, 1.0), 0.1, 0.1
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
    def of_kan(cls, shape: Sequence[int]) -> Skeleton:
        """Return the fully connected sums of a KAN of widths `shape`."""
        edges, first = list[Edge](), 0
        for inputs, outputs in itertools.pairwise(shape):
            targets = range(first + inputs, first + inputs + outputs)
            edges += [Edge(first + i, target, _OPEN) for target in targets for i in range(inputs)]
            first += inputs
        sums: list[Operation] = ["sum" for _ in range(sum(shape[1:]))]
        return cls("-".join(map(str, shape)), Graph(shape[0], tuple(sums), tuple(edges)))

    @classmethod
    def with_product(cls, name: str, inputs: int, *after: Operation) -> Skeleton:
        """Return the sum of functions of the inputs and of a product of such, and nodes `after`."""
        nodes = range(inputs, inputs + 2)
        edges = [Edge(i, node, _OPEN) for node in nodes for i in range(inputs)]
        edges.append(Edge(inputs, inputs + 1, Identity()))
        edges += [Edge(inputs + 1, inputs + 2, _OPEN) for _ in after]
        return cls(f"{name} with product", Graph(inputs, ("product", "sum", *after), tuple(edges)))

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
    if inputs == 1:
        return [Skeleton.of_kan((1, 1))]
    shapes = [Skeleton.of_kan((inputs, 1)), Skeleton.of_kan((inputs, 1, 1))]
    if inputs <= _PRODUCT_INPUTS:
        shapes.append(Skeleton.with_product(f"{inputs}-1", inputs))
        shapes.append(Skeleton.with_product(f"{inputs}-1-1", inputs, "sum"))
    return shapes


def deep_shapes(inputs: int) -> list[Skeleton]:
    """Return fully connected KANs for what no other structure reaches."""
    hidden = _DEEP if inputs > 2 else _DEEP[:3]
    return [Skeleton.of_kan((inputs, *widths, 1)) for widths in hidden]


#: Hidden widths of fully connected KANs; the last ones are for more than two inputs.
_DEEP = ((2,), (2, 1), (5,), (4, 2), (3, 2, 1))
