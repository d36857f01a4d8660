"""Structures to try: the tree of a formula with a spline on every edge, from sums to depth four.

A term is the index of an input, `Sum(terms)` or `Product(terms)`. Which inputs act together is
asked of a network: a set A of inputs is a module of f if f(x) = F(u(x_A), x_rest). Then the
direction of the gradient within A does not depend on the rest. (Udrescu et al., arXiv 2006.10782,
call this generalised symmetry.) The tests only propose structures; training decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, fitted_grids
from kanrun.engine.symbolic.problem import SearchProblem
from kanrun.engine.symbolic.refit import STALLED, coarse_fit, continue_fit

#: Width and intervals of the KAN that shows which inputs act together, and the number of its starts
#: and their intervals.
_SURROGATE, _SURROGATE_STARTS, _START_INTERVALS = (5, 8), 2, 4
#: Sine by which the gradient may turn within a module; the same as a multiple of the network's
#: error (chosen on four seeds of nested_4d).
_MODULE_SINE, _UNCERTAIN = 0.12, 2.0
#: Maximum number of inputs for which all subsets are tested, and of modules from which families of
#: them begin; the handicap of each input of a module.
_MODULE_INPUTS, _FAMILIES, _HANDICAP = 9, 3, 0.3
#: Slope of an input, relative to y, below which it is not used.
_UNUSED = 1e-3
#: Maximum number of terms of which a product is tried.
_PRODUCT_INPUTS = 6
#: Slopes and bends of random splines, and the margin of their grids.
_START_SLOPES, _START_BENDS, _START_MARGIN = (0.3, 1.0), 0.1, 0.1
#: Points of which gradients are compared; those shorter than this, relative to their median, have
#: no direction.
_COMPARED, _SHORT = 400, 0.02


@dataclass(frozen=True)
class Sum:
    """The sum of a function of each term, except products, which enter as they are."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Product:
    """The product of a function of each term."""

    terms: tuple[Term, ...]


Term: TypeAlias = int | Sum | Product
#: The columns of some inputs.
Inputs = tuple[int, ...]


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


def first_shapes(used: Sequence[int], inputs: int) -> list[Skeleton]:
    """Return [n,1], [n,1,1], then a product beside the sum, outside and inside a function.

    `used` are the columns in use. For one of them there is a function and nothing else.
    """
    if len(used) == 1:
        return [Skeleton.of_terms("1-1", Sum(tuple(used)), inputs)]
    return _tops(tuple(used), f"{len(used)}", inputs)


def _tops(terms: tuple[Term, ...], name: str, inputs: int) -> list[Skeleton]:
    """Return the ways in which a formula's outermost parts are combined."""
    shapes = {f"{name}-1": Sum(terms), f"{name}-1-1": Sum((Sum(terms),))}
    if 1 < len(terms) <= _PRODUCT_INPUTS:
        product = _with_product(terms)
        shapes |= {f"{name}-1 with product": product, f"{name}-1-1 with product": Sum((product,))}
    return [Skeleton.of_terms(shown, root, inputs) for shown, root in shapes.items()]


def tree_shapes(
    families: Sequence[Sequence[Inputs]], used: Sequence[int], inputs: int
) -> list[Skeleton]:
    """Return structures whose parts are the modules found, with sums or products inside each."""
    shapes = []
    for family in families:
        inner = [module for module in family if len(module) > 1]
        for count in range(min(len(inner), 2) + 1):
            for products in itertools.combinations(inner, count):
                starred = ["".join(map(str, each)) + "*" * (each in products) for each in family]
                shapes += _tops(tree(family, used, products), f"({' '.join(starred)})", inputs)
    return shapes


def tree(
    family: Sequence[Inputs], used: Sequence[int], products: Sequence[Inputs]
) -> tuple[Term, ...]:
    """Return the terms of the top level, with each module as one Sum of its parts.

    Modules in `products` have a product of the parts too.
    """
    parts: dict[Inputs, Term] = {(i,): i for i in used}
    for module in sorted(family, key=len):
        inner = [key for key in parts if set(key) <= set(module)]
        terms = tuple(parts.pop(key) for key in inner)
        parts[module] = _with_product(terms) if module in products else Sum(terms)
    return tuple(parts.values())


def _with_product(terms: tuple[Term, ...]) -> Sum:
    """Return the sum of a function of each term and of the product of a function of each."""
    return Sum((*terms, Product(terms)))


def deep_shapes(inputs: int) -> list[Skeleton]:
    """Return fully connected KANs for what no other structure reaches."""
    hidden = _DEEP if inputs > 2 else _DEEP[:3]
    return [Skeleton.of_kan((inputs, *widths, 1)) for widths in hidden]


#: Hidden widths of fully connected KANs; the last ones are for more than two inputs.
_DEEP = ((2,), (2, 1), (5,), (4, 2), (3, 2, 1))


def module_scores(
    gradient: Callable[[Array], Array],
    x: Array,
    generator: np.random.Generator,
    inputs: Sequence[int],
) -> dict[Inputs, float]:
    """Return for every subset of 2 ... n - 1 of the n `inputs` how much its gradient turns.

    This is the median sine of the angle by which the gradient within the subset turns if the other
    inputs change; 0 for a module. `gradient` maps x (N, columns) to (N, columns), in units of each
    input's standard deviation.
    """
    pick = generator.permutation(x.shape[0])[:_COMPARED]
    here, there = x[pick], x[np.roll(pick, 1)]
    base, scores = gradient(here), {}
    for count in range(2, len(inputs)):
        for subset in itertools.combinations(inputs, count):
            swapped, inside = there.copy(), list(subset)
            swapped[:, inside] = here[:, inside]
            first, second = base[:, inside], gradient(swapped)[:, inside]
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            use = lengths > _SHORT * np.median(lengths)
            cosine = np.einsum("ni,ni->n", first[use], second[use]) / lengths[use]
            sines = np.sqrt(np.clip(1 - cosine**2, 0, None))
            scores[subset] = float(np.median(sines)) if use.any() else 1.0
    return scores


def trees(scores: dict[Inputs, float], threshold: float) -> list[list[Inputs]]:
    """Return nested families of modules, most promising first.

    Each begins with one of the clearest modules; the others neither cut it nor one another.
    """

    def nested(a: set[int], b: set[int]) -> bool:
        return a <= b or b <= a or not a & b

    small = [each for each in scores if scores[each] < threshold]
    order = sorted(small, key=lambda each: scores[each] * (1 + _HANDICAP * len(each)))
    families: list[list[Inputs]] = []
    for first in order[:_FAMILIES]:
        family = [first]
        for other in order:
            if other not in family and all(nested(set(other), set(each)) for each in family):
                family.append(other)
        family.sort(key=len)
        families += [family] if family not in families else []
    return families


def module_skeletons(
    problem: SearchProblem, generator: np.random.Generator
) -> tuple[list[Skeleton], float]:
    """Return structures from the modules of a wide KAN, and its error.

    There are none if it did not train or nothing acts together.
    """
    data, degree, (width, intervals) = problem.data, problem.policy.degree, _SURROGATE
    inputs = data.x.shape[1]
    wide = Skeleton.of_kan((inputs, width, 1))
    starts = (
        coarse_fit(wide.start(data.x, _START_INTERVALS, degree, generator), data)
        for _ in range(_SURROGATE_STARTS)
    )
    best = min(starts, key=lambda fit: fit.error)
    trained = continue_fit(best, data, (intervals,))
    if trained.error > STALLED:
        return [], trained.error

    def gradient(x: Array) -> Array:
        return np.asarray(np.stack(trained.graph.derivatives(x)[1], axis=1) * data.x.std(0))

    strength = np.sqrt(np.mean(gradient(data.x) ** 2, axis=0)) / data.y_std
    used = np.flatnonzero(strength > max(2 * trained.error, _UNUSED)).tolist()
    if not 2 < len(used) <= _MODULE_INPUTS:
        return (first_shapes(used, inputs) if 0 < len(used) < inputs else []), trained.error
    rows = np.where(np.isin(np.arange(inputs), used), data.x, data.x.mean(0))
    scores = module_scores(gradient, rows, generator, used)
    families = trees(scores, max(_MODULE_SINE, _UNCERTAIN * trained.error))
    return tree_shapes(families, used, inputs), trained.error
