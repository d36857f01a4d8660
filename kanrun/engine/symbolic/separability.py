"""Groups of inputs: modules of a trained network, and factors of a product of sums.

A set A of inputs is a module of f if f(x) = F(u(x_A), x_rest). Then the direction of the gradient
within A does not depend on the rest. (Udrescu et al., arXiv 2006.10782, call this generalised
symmetry.) The tests only propose structures; training decides.

A constant and one product of sums, y = c + prod_b sum_(i in b) f_i(x_i), is linear in the splines
of one factor b while the others are frozen. It is fitted from random starts in milliseconds, so
that all ways in which inputs can share factors are tried, and on fine grids, where functions turn
many times and the joint fit of a network does not start.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sympy.utilities.iterables import multiset_partitions

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import IDENTITY, Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edge_functions import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, Operation
from kanrun.engine.symbolic.refit import train_graph
from kanrun.engine.symbolic.search_problem import SearchProblem, SumProductPolicy
from kanrun.engine.symbolic.templates import (
    Template,
    covering,
    first_shapes,
    kan_shape,
    tree_shapes,
)

Gradient = Callable[[Array], Array]
Inputs = tuple[int, ...]


def module_scores(
    gradient: Gradient,
    x: Array,
    generator: np.random.Generator,
    inputs: Sequence[int],
    points: int = 400,
) -> dict[Inputs, float]:
    """Return for every subset of 2 ... n - 1 of the n `inputs` how much its gradient turns.

    This is the median sine of the angle by which the gradient within the subset turns if the other
    inputs change; 0 for a module. `gradient` maps x (N, columns) to (N, columns), in units of each
    input's standard deviation.
    """
    pick = generator.permutation(x.shape[0])[:points]
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


#: Gradients shorter than this, relative to their median, have no direction.
_SHORT = 0.02


def trees(scores: dict[Inputs, float], threshold: float) -> list[list[Inputs]]:
    """Return nested families of modules, most promising first.

    Each begins with one of the three clearest modules; the others neither cut it nor one another.
    """
    small = [each for each in scores if scores[each] < threshold]
    order = sorted(small, key=lambda each: scores[each] * (1 + 0.3 * len(each)))
    families: list[list[Inputs]] = []
    for first in order[:3]:
        family = [first]
        for other in order:
            if other not in family and all(_nested(set(other), set(each)) for each in family):
                family.append(other)
        family.sort(key=len)
        families += [family] if family not in families else []
    return families


def _nested(a: set[int], b: set[int]) -> bool:
    return a <= b or b <= a or not a & b


def module_templates(
    problem: SearchProblem, generator: np.random.Generator
) -> tuple[list[Template], float]:
    """Return structures from the modules of a wide KAN, and its error.

    There are none if it did not train or nothing acts together.
    """
    data, policy = problem.data, problem.policy
    width, intervals = policy.surrogate
    shape = (data.x.shape[1], width, 1)
    wide = replace(policy.training, starts=2, grids=(intervals,))
    starts = (
        kan_shape(shape, data.x, data.y, 4, policy.degree, generator) for _ in range(wide.starts)
    )
    trained = train_graph(starts, data, wide)
    if trained.error > policy.training.stalled:
        return [], trained.error

    def gradient(x: Array) -> Array:
        return np.asarray(np.stack(trained.graph.derivatives(x)[1], axis=1) * data.x.std(0))

    strength = np.sqrt(np.mean(gradient(data.x) ** 2, axis=0)) / data.y_std
    used = np.flatnonzero(strength > max(2 * trained.error, 1e-3)).tolist()
    if not 2 < len(used) <= policy.module_inputs:
        return (first_shapes(used) if 0 < len(used) < shape[0] else []), trained.error
    rows = np.where(np.isin(np.arange(shape[0]), used), data.x, data.x.mean(0))
    scores = module_scores(gradient, rows, generator, used)
    families = trees(scores, max(policy.module, policy.uncertain * trained.error))
    return tree_shapes(families, used), trained.error


@dataclass(frozen=True)
class _SumProduct:
    """A product of sums: the inputs of each factor, their splines' coefficients, c, and the error.

    The error is relative, on validation points.
    """

    factors: tuple[Inputs, ...]
    coefficients: list[Array]
    constant: float
    error: float


def sum_product(
    data: SearchData, degree: int, policy: SumProductPolicy, generator: np.random.Generator
) -> Graph | None:
    """Return the graph of the nearest constant and product of sums, or None if none is near.

    All groups of inputs are tried on the first of the grids, a factor for each input on the others.
    One input and many inputs have none.
    """
    inputs = list(range(data.x.shape[1]))
    if not 1 < len(inputs) <= policy.inputs:
        return None
    ways = [tuple(map(tuple, groups)) for groups in multiset_partitions(inputs)]
    ways = [way for way in ways if len(way) > 1]
    for intervals in policy.grids:
        if policy.points * len(inputs) * (intervals + degree) > len(data.y):
            return None
        fit = _Alternation(data, intervals, degree, policy)
        found = []
        for way in ways:
            starts = [
                fit.swept(fit.start(way, generator), policy.tried) for _ in range(policy.starts)
            ]
            found.append(fit.swept(min(starts, key=lambda each: each.error), policy.sweeps))
        best = min(found, key=lambda each: each.error)
        if best.error < policy.max_error:
            return fit.graph(best)
        ways = [tuple((i,) for i in inputs)]
    return None


class _Alternation:
    """Splines of every input, and their designs at the points for fitting and for validation."""

    def __init__(
        self, data: SearchData, intervals: int, degree: int, policy: SumProductPolicy
    ) -> None:
        self.data, self.policy = data, policy
        ends = [covering(column, policy.margin) for column in data.all_points.x.T]
        self.splines = [
            Spline(low, high, np.zeros(intervals + degree), degree) for low, high in ends
        ]
        self.designs = [
            [spline.evaluate(column)[2] for spline, column in zip(self.splines, x.T, strict=True)]
            for x in (data.x, data.validation_x)
        ]

    def start(self, factors: tuple[Inputs, ...], generator: np.random.Generator) -> _SumProduct:
        size = self.splines[0].parameters.size
        normal = [generator.normal(size=size * len(each)) for each in factors]
        return _SumProduct(factors, normal, 0.0, np.inf)

    def swept(self, start: _SumProduct, max_sweeps: int) -> _SumProduct:
        """Return the product after sweeps over its factors, until one gains too little."""
        y, c, before = self.data.y, list(start.coefficients), np.inf
        fitting, held_out = (
            [np.concatenate([designs[i] for i in factor], axis=1) for factor in start.factors]
            for designs in self.designs
        )
        values = [design @ each for design, each in zip(fitting, c, strict=True)]
        for _ in range(max_sweeps):
            for b, design in enumerate(fitting):
                scale = max(float(np.sqrt(np.mean(values[b - 1] ** 2))), 1e-300)
                c[b - 1], values[b - 1] = c[b - 1] / scale, values[b - 1] / scale
                others = np.prod([each for k, each in enumerate(values) if k != b], axis=0)
                columns = np.column_stack([design * others[:, None], np.ones(len(y))])
                solved = self.solved(columns)
                c[b], values[b], constant = solved[:-1], design @ solved[:-1], float(solved[-1])
            left = float(np.std(y - columns @ solved))
            if left > (1 - self.policy.gain) * before:
                break
            before = left
        product = np.prod([design @ each for design, each in zip(held_out, c, strict=True)], axis=0)
        rest = self.data.validation_y - constant - product
        error = float(np.sqrt(np.mean(rest**2))) / self.data.y_std
        return _SumProduct(start.factors, c, constant, error)

    def solved(self, columns: Array) -> Array:
        """Return the solution with a small ridge, as splines of a sum share constants."""
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        normal = columns.T @ columns
        ridge = self.policy.ridge * float(np.trace(normal)) / len(normal)
        normal[np.diag_indices_from(normal)] += ridge
        return np.asarray(np.linalg.solve(normal, columns.T @ self.data.y), dtype=np.float64)

    def graph(self, found: _SumProduct) -> Graph:
        """Return the graph: splines into sums, these and other splines into a product, then y."""
        sums = [factor for factor in found.factors if len(factor) > 1]
        product = len(self.splines) + len(sums)
        last = Symbolic(IDENTITY, (1.0, 0.0, 1.0, found.constant), "d")
        edges = [Edge(product, product + 1, last)]
        for factor, c in zip(found.factors, found.coefficients, strict=True):
            target = len(self.splines) + sums.index(factor) if factor in sums else product
            parts = zip(factor, np.split(c, len(factor)), strict=True)
            edges += [Edge(i, target, self.splines[i].with_parameters(part)) for i, part in parts]
            edges += [Edge(target, product, Identity())] if target != product else []
        first: list[Operation] = ["sum" for _ in sums]
        operations: tuple[Operation, ...] = (*first, "product", "sum")
        return Graph(len(self.splines), operations, tuple(sorted(edges, key=lambda e: e.target)))
