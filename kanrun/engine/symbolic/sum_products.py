"""A constant and one product of sums, each of functions of its own inputs, by alternating least squares.

y = c + s prod_b sum_(i in b) f_i(x_i) is linear in the splines of one factor b while the others stand still, so that it
is fitted from random starts in milliseconds, so that all ways in which inputs can share factors are tried; and on fine
grids, where functions turn many times, from which the joint fit of a network does not start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sympy.utilities.iterables import multiset_partitions

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import IDENTITY, Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, Operation
from kanrun.engine.symbolic.search_problem import SumProductPolicy
from kanrun.engine.symbolic.templates import covering

Factors = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _SumProduct:
    """The inputs of each factor, their coefficients one after the other, s, c, and the relative validation error."""

    factors: Factors
    coefficients: list[Array]
    scale: float
    constant: float
    error: float


def sum_product(
    data: SearchData, degree: int, policy: SumProductPolicy, generator: np.random.Generator
) -> Graph | None:
    """The graph of the nearest such function; None of one input, of many, and where nothing is near."""
    inputs = list(range(data.x.shape[1]))
    if not 1 < len(inputs) <= policy.inputs:
        return None
    enough = [
        grid
        for grid in policy.grids
        if policy.points * len(inputs) * (grid + degree) <= len(data.y)
    ]
    for number, intervals in enumerate(enough):
        fit = _Alternation(
            data, Spline(-1.0, 1.0, np.zeros(intervals + degree), degree), policy, generator
        )
        every = (tuple(map(tuple, groups)) for groups in multiset_partitions(inputs))
        ways = (
            [each for each in every if len(each) > 1]
            if number == 0
            else [tuple((i,) for i in inputs)]
        )
        best = min((fit.nearest(factors) for factors in ways), key=lambda each: each.error)
        if best.error < policy.hopeless:
            return fit.graph(best)
    return None


class _Alternation:
    """Splines of every input, and their designs at the points for fitting and for choosing."""

    def __init__(
        self,
        data: SearchData,
        like: Spline,
        policy: SumProductPolicy,
        generator: np.random.Generator,
    ) -> None:
        self.data, self.policy, self.generator = data, policy, generator
        ends = [covering(column, policy.margin) for column in data.all_points.x.T]
        self.splines = [replace(like, low=low, high=high) for low, high in ends]
        self.fitted = [spline.evaluate(data.x[:, i])[2] for i, spline in enumerate(self.splines)]
        self.held = [
            spline.evaluate(data.validation_x[:, i])[2] for i, spline in enumerate(self.splines)
        ]

    def nearest(self, factors: Factors) -> _SumProduct:
        """From the best of several starts on until it gains no more."""
        size = self.splines[0].parameters.size
        starts = [
            self.swept(
                factors,
                [self.generator.normal(size=size * len(each)) for each in factors],
                self.policy.tried,
            )
            for _ in range(self.policy.starts)
        ]
        best = min(starts, key=lambda each: each.error)
        return self.swept(factors, best.coefficients, self.policy.sweeps)

    def swept(self, factors: Factors, coefficients: list[Array], sweeps: int) -> _SumProduct:
        y, c, before = self.data.y, list(coefficients), np.inf
        designs = [np.concatenate([self.fitted[i] for i in factor], axis=1) for factor in factors]
        values = [design @ each for design, each in zip(designs, c, strict=True)]
        for _ in range(sweeps):
            for b, design in enumerate(designs):
                others = np.prod([each for k, each in enumerate(values) if k != b], axis=0)
                columns = np.column_stack([design * others[:, None], np.ones(len(y))])
                solved = self.solved(columns)
                values[b], constant = design @ solved[:-1], float(solved[-1])
                scale = max(float(np.sqrt(np.mean(values[b] ** 2))), 1e-300)
                c[b], values[b] = solved[:-1] / scale, values[b] / scale
            left = float(np.std(y - columns @ solved))
            if left > (1 - self.policy.gain) * before:
                break
            before = left
        held = [np.concatenate([self.held[i] for i in factor], axis=1) for factor in factors]
        product = np.prod([design @ each for design, each in zip(held, c, strict=True)], axis=0)
        rest = self.data.validation_y - constant - scale * product
        return _SumProduct(
            factors, c, scale, constant, float(np.sqrt(np.mean(rest**2))) / self.data.y_std
        )

    def solved(self, columns: Array) -> Array:
        """Least squares with a little of a ridge, as splines of a sum share their constant."""
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        normal = columns.T @ columns
        normal[np.diag_indices_from(normal)] += (
            self.policy.ridge * float(np.trace(normal)) / len(normal)
        )
        return np.asarray(np.linalg.solve(normal, columns.T @ self.data.y), dtype=np.float64)

    def graph(self, found: _SumProduct) -> Graph:
        """Splines into sums, these and the splines of single inputs into a product, that and the constant to y."""
        inputs = len(self.splines)
        sums = [factor for factor in found.factors if len(factor) > 1]
        product = inputs + len(sums)
        edges: list[Edge] = []
        for b, (factor, c) in enumerate(zip(found.factors, found.coefficients, strict=True)):
            target = inputs + sums.index(factor) if factor in sums else product
            parts = np.split((found.scale if b == 0 else 1.0) * c, len(factor))
            edges += [
                Edge(i, target, self.splines[i].with_parameters(p))
                for i, p in zip(factor, parts, strict=True)
            ]
            edges += [Edge(target, product, Identity())] if target != product else []
        edges.append(
            Edge(product, product + 1, Symbolic(IDENTITY, (1.0, 0.0, 1.0, found.constant), "d"))
        )
        operations: list[Operation] = ["product", "sum"]
        for _ in sums:
            operations.insert(0, "sum")
        return Graph(inputs, tuple(operations), tuple(sorted(edges, key=lambda edge: edge.target)))
