"""Fields to start from: richer fields of the same function, and initial guesses.

A solution is continued with inserted knots or added terms. The first one comes from random networks
that race, or from initial values.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import exp, inf, log

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import EQUAL_WEIGHTS, FIRST_WEIGHTS, Collocation
from kanrun.engine.equations.fields import (
    Field,
    edges_of,
    hard_conditions,
    spline_field,
)
from kanrun.engine.equations.policy import Ansatz
from kanrun.engine.equations.residuals import Block, ResidualProblem
from kanrun.engine.layers import SplineLayer
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, minimise
from kanrun.engine.networks import KAN
from kanrun.engine.splines import (
    Grid,
    equally_spaced,
    extend,
    sample_points,
)
from kanrun.errors import TrainingFailed
from kanrun.formulas import to_numpy
from kanrun.formulas.equations import RowFunction
from kanrun.monitoring import time_limit_reached

#: Factor by which halving an interval is assumed to reduce its squared residual. An interval is
#: halved twice before another one is halved once if its residual is this many times larger.
HALVED = 0.01
#: Intervals narrower than twice this fraction of the range are not halved.
NARROWEST = 1e-6
#: Fraction of the mean squared residual per interval below which residuals count as equal.
NEGLIGIBLE_SQUARES = 1e-12
#: Random networks next to the polynomials that a separated form can start from.
RANDOM_IF_SEPARATED = 5
#: Bounds of the standard deviation of random coefficients in units of the solution; drawn on a log
#: scale.
START_SIZES = (0.02, 0.5)
#: Largest relative difference from the initial values on the first grid.
INITIAL_VALUE_TOLERANCE = 1e-3
#: Unknowns of a small network.
SMALL_NETWORK = 100
#: Unknowns of a grid that follows automatically, and terms of given initial values, at most.
MAX_UNKNOWNS, MAX_TERMS = 1000, 16
#: Steps of all grids; stopping criteria on coarser grids than the last one, and a relative decrease
#: at which steps of a race end.
LM = LMPolicy(damping=1e-4, min_damping=1e-15, damping_search=False, max_trials=12)
COARSE, START_RTOL = StoppingCriteria(max_steps=15, rtol=1e-2), 1e-2
#: Margin of a new hidden grid beyond the activations, and the fraction that they must fill of an
#: old one.
MARGIN, FILLED = 0.1, 0.5


def insert_knots(
    solution: Field, intervals: int, points: Tensor, squares: Float[Tensor, " points"]
) -> Field:
    """Return the same function on more intervals, most of them where `squares` are large.

    `squares` are squared residuals at `points`. Each interval of a variable collects those of its
    slab, and the interval with the largest sum is halved. Hidden layers keep uniform knots.
    """
    edges, layers = edges_of(solution), list(solution.network.edge_layers)
    inner = solution.inner(points)
    assert edges is not None  # An invariant: called for networks with grids only.
    rows = [split_intervals(edges[i], inner[:, i], squares, intervals) for i in range(len(edges))]
    breakpoints = torch.stack(rows)
    first, _ = layers[0].moved(breakpoints, uniform=equally_spaced(breakpoints))
    hidden = [layer.refined(intervals)[0] for layer in layers[1:]]
    return solution.with_network(KAN.of_layers([first, *hidden]))


def split_intervals(edges: Tensor, at: Tensor, squares: Tensor, intervals: int) -> Tensor:
    """Return edges whose intervals with the largest sums of `squares` are halved in turn."""
    number = (torch.searchsorted(edges.contiguous(), at.contiguous()) - 1).clamp(0, len(edges) - 2)
    sums = squares.new_zeros(len(edges) - 1).index_add_(0, number, squares)
    floor = float(sums.sum()) * NEGLIGIBLE_SQUARES / len(sums) + np.finfo(float).tiny
    ends, sizes = edges.tolist(), (sums + floor).tolist()
    narrowest = 2 * NARROWEST * (ends[-1] - ends[0])
    while len(sizes) < intervals and (largest := max(sizes)) > 0:
        place = sizes.index(largest)
        low, high = ends[place : place + 2]
        if high - low < narrowest:
            sizes[place] = 0.0
            continue
        ends.insert(place + 1, (low + high) / 2)
        sizes[place : place + 1] = [largest * HALVED] * 2
    return edges.new_tensor(ends)


def polynomial_field(field: Field, terms: int) -> Field:
    """Return zero times Legendre polynomials of the lowest degrees, on the grids of `field`.

    Residuals are linear in the first factors, so that a step solves a linear equation among all
    functions sum_r f_r(x_1) P_r(x_2, ...).
    """
    form, inputs = replace(field.form, terms=terms), len(field.box)
    products = itertools.product(range(terms), repeat=inputs - 1)
    degrees = np.array(sorted(products, key=lambda each: (sum(each), each))[:terms])

    def values(at: Tensor) -> Tensor:
        table = torch.as_tensor(np.polynomial.legendre.legvander(at.numpy(), terms - 1))
        found = at.new_zeros(len(at), form.unknowns, terms, inputs)
        for number in range(1, inputs):
            found[..., number] = table[:, number, degrees[:, number - 1]][:, None]
        return found

    (layer,) = field.network.edge_layers
    return spline_field(field.box, form, layer.grid.breakpoints, layer.spec.degree, values)


def with_polynomials(field: Field, count: int) -> Field:
    """Return a field in a separated form with `count` further terms, zero times polynomials."""
    form, wider = field.form, replace(field.form, terms=field.form.terms + count)
    (layer,), (added,) = (
        each.network.edge_layers for each in (field, polynomial_field(field, count))
    )
    made = SplineLayer.on_grid(
        layer.grid.breakpoints, wider.outputs, layer.spec, uniform=layer.uniform
    )
    parts = [
        each.coefficients.detach().unflatten(0, (form.unknowns, -1, form.factors))
        for each in (layer, added)
    ]
    with torch.no_grad():
        made.mask.copy_(wider.mask(layer.inputs))
        made.coefficients.copy_(torch.cat(parts, dim=1).flatten(0, 2))
    return Field(KAN.of_layers([made]), wider, field.box, field.sizes, field.hard)


class InitialGuesses:
    """Initial guesses for one system on one box."""

    def __init__(self, rows: Collocation, ansatz: Ansatz, generator: Generator) -> None:
        self.rows, self.ansatz, self.generator = rows, ansatz, generator
        self.system, self.policy, self.guesses = rows.system, rows.policy, rows.system.guesses()
        self.hard = hard_conditions(rows.system) if ansatz.hard else None

    def best(self) -> tuple[Field, Tensor]:
        """Return the best of several networks: all take a few steps, the better ones more."""
        policy, form, one = self.policy, self.ansatz.form, len(self.system.box) == 1
        if form.separated and (started := self._decomposed_values()) is not None:
            return started, self.guesses
        inside = self.rows.points(self.rows.inside, policy.start_points)
        borders = self.rows.borders(policy.boundary_points, FIRST_WEIGHTS)
        blocks = [*self.rows.equations(inside), *borders]
        first = self._random()
        is_small = len(first.get_unknowns()) <= SMALL_NETWORK
        small = not one and not form.separated and is_small
        rounds = policy.rounds_if_small if small else policy.rounds
        special = list[Field]()
        if form.separated:
            special = [first.with_network(polynomial_field(first, form.terms).network)]
        if one and first.intervals is not None:
            special = self._smooth(first)
        count = RANDOM_IF_SEPARATED if form.separated else rounds[0][0] - len(special)
        fields = [first, *(self._random() for _ in range(count - 1)), *special]
        racing = [(0.0, each, self.guesses) for each in fields]
        for kept, steps in rounds:
            racing = [self.race(field, c, blocks, steps) for _, field, c in racing[:kept]]
            racing.sort(key=lambda entry: entry[0])
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed(
                "The residual is not finite at any start. Check the formula of the equation on the "
                "box."
            )
        return best, constants

    def race(
        self, candidate: Field, constants: Tensor, blocks: list[Block], steps: int
    ) -> tuple[float, Field, Tensor]:
        """Return objective, field and parameters after some steps; infinity if not finite."""
        problem = ResidualProblem(candidate, blocks, constants)
        stopping = StoppingCriteria(max_steps=steps, rtol=START_RTOL)
        state, _ = minimise(problem, LM, stopping, ended=time_limit_reached)
        found, constants = problem.solution(state.unknowns)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return state.loss, self.with_fitted_grids(found, inside), constants

    def _random(self) -> Field:
        form, network = self.ansatz.form, self.ansatz.create(generator=self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, START_SIZES)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            for layer in network.edge_layers:
                shape, kind = layer.coefficients.shape, layer.coefficients.dtype
                drawn = torch.randn(shape, generator=self.generator, dtype=kind)
                layer.coefficients.copy_(drawn * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes, self.hard)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return self.with_fitted_grids(candidate, inside)

    def _decomposed_values(self) -> Field | None:
        """Return given initial values at all times, in two variables besides time, or None.

        Products come from the singular value decomposition of the values on a grid of their own.
        """
        system, low = self.system, float(self.system.box[-1, 0])
        known = {
            derivative.unknown: value
            for condition, derivative, value in system.given
            if condition.faces == (((2, low),),) and not any(derivative.index)
        }
        possible = len(system.box) == 3 and system.is_evolution and not self.hard
        if not possible or not any(known.values()):
            return None
        (layer,) = self._random().network.edge_layers
        intervals, names = layer.grid.breakpoints.shape[1] - 1, system.vocabulary.variables
        given = [to_numpy(known.get(u, sympy.S.Zero), names) for u in range(len(self.rows.sizes))]
        at = self.rows.points(self.rows.unseen)
        at[:, 2] = low
        wanted = torch.as_tensor(np.stack([each(at.numpy()) for each in given], axis=1))
        while True:
            edges = torch.linspace(-1, 1, intervals + 1, dtype=system.box.dtype).repeat(3, 1)
            field = self._products(given, edges, layer.spec.degree)
            with torch.no_grad():
                error = float((field(at) - wanted).norm() / wanted.norm())
            finer = 2 * len(field.get_unknowns())
            if error <= INITIAL_VALUE_TOLERANCE or finer > MAX_UNKNOWNS:
                return field
            intervals *= 2

    def _products(self, given: Sequence[RowFunction], edges: Tensor, degree: int) -> Field:
        """Return products for initial values on `edges`."""
        box, form, sizes = self.system.box, self.ansatz.form, self.rows.sizes
        at = sample_points(Grid(extend(edges, degree), degree), degree + 1)
        x, y = (box.mean(1) + at * box.diff()[:, 0] / 2)[:, :2].numpy().T
        points = np.stack([each.ravel() for each in np.meshgrid(x, y, indexing="ij")], axis=1)
        points = np.column_stack([points, np.full(len(points), float(box[-1, 0]))])
        parts = [
            np.linalg.svd(value(points).reshape(len(x), -1) / float(size), full_matrices=False)
            for value, size in zip(given, sizes, strict=True)
        ]
        needed = max(int((s > INITIAL_VALUE_TOLERANCE * s[0]).sum()) for _, s, _ in parts)
        most = MAX_TERMS if self.ansatz.free_terms else form.terms
        form = replace(form, terms=max(1, min(needed, most)))
        values = at.new_ones(len(at), form.unknowns, form.terms, 3)
        for unknown, (left, s, right) in enumerate(parts):
            roots = np.sqrt(s[: form.terms])
            values[:, unknown, :, 0] = torch.as_tensor(left[:, : form.terms] * roots)
            values[:, unknown, :, 1] = torch.as_tensor(right[: form.terms].T * roots)
        field = spline_field(box, form, edges, degree, lambda _: values)
        field.sizes.copy_(sizes)
        return field

    def _smooth(self, field: Field) -> list[Field]:
        """Return the smoothest functions that satisfy conditions and observations, in one variable.

        The first minimises derivatives of the equations' order, the second minimises slopes.
        """
        policy, found = self.policy, list[Field]()
        points, shares = self.rows.collocation(field)
        borders = self.rows.borders(policy.boundary_points, FIRST_WEIGHTS)
        for order in (self.system.order, 1):
            relations = self.system.bends(order)
            bends = [Block("equation", each, points, shares=shares) for each in relations]
            blocks = [*self.rows.scaled(bends), *borders]
            problem = ResidualProblem(field, blocks, self.guesses)
            state, _ = minimise(problem, LM, COARSE)
            found.append(problem.solution(state.unknowns)[0])
        return found

    def with_fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Return the field with hidden grids that contain its activations.

        Second derivatives are zero beyond a grid, so no activation may lie there; nor may a grid be
        much too wide.
        """
        blocks = self.rows.borders(self.policy.boundary_points, EQUAL_WEIGHTS)
        inner = solution.inner(torch.cat([points, *(block.points for block in blocks)]))
        if solution.network.covers(inner, FILLED):
            return solution
        network = solution.network.regrid(inner, grid_eps=1.0, margin=MARGIN).network
        return solution.with_network(network)
