"""Fields to start from: richer fields of the same function, and initial guesses.

A solution is continued with inserted knots, added terms, or its values extended in time. The first
one comes from random networks that race, from initial values, or from the previous window.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from math import exp, inf, log

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field, OutputForm, edges_of
from kanrun.engine.equations.policy import Ansatz
from kanrun.engine.equations.residuals import Block, ResidualProblem, condition_blocks, with_units
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.least_squares import minimise
from kanrun.engine.networks import KAN
from kanrun.engine.splines import (
    Grid,
    equally_spaced,
    extend,
    fit_coefficients,
    sample_points,
    spline_values,
)
from kanrun.errors import TrainingFailed
from kanrun.formulas import to_numpy
from kanrun.formulas.equations import parse_relation
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
#: Fraction of the knots that follow the root of the curvature at the end of the previous window.
CURVATURE = 0.85
#: Bends are raised by this where a solution is straight, so that knots can be drawn.
STRAIGHT = 1e-12
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
    number = (torch.searchsorted(edges.contiguous(), at.contiguous()) - 1).clamp(0, len(edges) - 2)
    sums = squares.new_zeros(len(edges) - 1).index_add_(0, number, squares)
    ends = edges.tolist()
    floor = float(sums.sum()) * NEGLIGIBLE_SQUARES / len(sums) + np.finfo(float).tiny
    pairs = zip(sums.tolist(), itertools.pairwise(ends), strict=True)
    cells = [(-each - floor, low, high) for each, (low, high) in pairs]
    heapq.heapify(cells)
    while len(cells) < intervals and cells[0][0] <= 0:
        size, low, high = cells[0]
        if high - low < 2 * NARROWEST * (ends[-1] - ends[0]):
            heapq.heapreplace(cells, (inf, low, high))
            continue
        heapq.heapreplace(cells, (size * HALVED, low, (low + high) / 2))
        heapq.heappush(cells, (size * HALVED, (low + high) / 2, high))
    return edges.new_tensor([*sorted(low for _, low, _ in cells), ends[-1]])


def with_terms(
    solution: Field, count: int, size: float, generator: Generator, *, lowest: bool = False
) -> Field:
    """Return the field with `count` further terms, or without its last ones if negative; one stays.

    In a separated form, further terms leave the function as it is. Their first factors are zero,
    the others polynomials: the `lowest`, or those that follow on the present ones. Otherwise they
    have random coefficients of this size in the last layer. Weights of edges are those of fresh
    splines, 1 and no base.
    """
    *others, last = solution.network.edge_layers
    form, more = solution.form, max(count, 0)
    new_form = replace(form, terms=max(1, form.terms + count))
    layer = SplineLayer.on_grid(
        last.grid.breakpoints, new_form.outputs, last.spec, uniform=last.uniform
    )
    if form.separated:
        layer.mask.copy_(new_form.mask(last.inputs))
    parts = last.coefficients.detach().unflatten(0, (form.unknowns, form.terms, form.factors))
    if form.separated:
        every = _polynomials(last, new_form)
        every = every.unflatten(0, (form.unknowns, new_form.terms, form.factors))
        added = every[:, :more] if lowest else every[:, form.terms :]
    else:
        shape = (form.unknowns, more, *parts.shape[2:])
        added = size * torch.randn(shape, generator=generator, dtype=parts.dtype)
    with torch.no_grad():
        found = torch.cat([parts[:, : new_form.terms], added], dim=1)
        layer.coefficients.copy_(found.flatten(0, 2))
    network = KAN.of_layers([*others, layer])
    return Field(network, new_form, solution.box, solution.sizes, solution.hard)


def with_polynomials(field: Field) -> Field:
    """Return the zero function in a separated form: zero times Legendre polynomials.

    Its residuals are linear in the first factors. The first step therefore solves a linear equation
    among all functions sum_r f_r(x_1) P_r(x_2, ...).
    """
    made = deepcopy(field)
    (layer,) = made.network.edge_layers
    with torch.no_grad():
        layer.coefficients.copy_(_polynomials(layer, field.form))
    return made


def _polynomials(layer: SplineLayer, form: OutputForm) -> Tensor:
    """Return coefficients (outputs, inputs, functions) of products of polynomials, one per term."""
    inputs = layer.inputs
    products = itertools.product(range(form.terms), repeat=inputs - 1)
    degrees = sorted(products, key=lambda each: (sum(each), each))
    x = sample_points(layer.grid, layer.spec.degree + 1)
    table = np.moveaxis(np.polynomial.legendre.legvander(x.cpu().numpy(), form.terms - 1), 2, 1)
    values = torch.as_tensor(table).to(layer.coefficients)
    fitted = fit_coefficients(x, values, layer.grid)  # (degrees, inputs, functions)
    shape = (form.unknowns, form.terms, inputs, inputs, layer.coefficients.shape[2])
    result = layer.coefficients.new_zeros(shape)
    for term in range(form.terms):
        for number, degree in enumerate(degrees[term], start=1):
            result[:, term, number, number] = fitted[degree, number]
    return result.flatten(0, 2)


def extend_constant(solution: Field, box: Tensor) -> Field:
    """Extend `solution` into the next window `box` as a constant in time.

    The first layer's functions of the last variable become constants, their values at the end;
    edges have no base.
    """
    made, edges = deepcopy(solution), edges_of(solution)
    assert edges is not None  # An invariant: called for networks with grids only.
    first = made.network.edge_layers[0]
    with torch.no_grad():
        ends = spline_values(edges[:, -1][None], first.coefficients, first.grid)[0, :, -1:]
        first.coefficients[:, -1] = ends
        made.box.copy_(box)
    return made


class InitialGuesses:
    """Initial guesses for one system on one box."""

    def __init__(self, rows: Collocation, ansatz: Ansatz, generator: Generator) -> None:
        self.rows, self.ansatz, self.generator = rows, ansatz, generator
        self.system, self.policy, self.guesses = rows.system, rows.policy, rows.system.guesses()

    def best(self) -> tuple[Field, Tensor]:
        """Return the best of several networks: all take a few steps, the better ones more."""
        policy, form, one = self.policy, self.ansatz.form, len(self.system.box) == 1
        if form.separated and (started := self._decomposed_values()) is not None:
            return started, self.guesses
        inside = self.rows.points(self.rows.inside, policy.start_points)
        blocks = self.rows.blocks(inside, None, (policy.condition_weight, policy.data_weight))
        first = self._random(form)
        is_small = len(first.get_unknowns()) <= policy.small_network
        small = not one and not form.separated and is_small
        rounds = policy.rounds_if_small if small else policy.rounds
        special = [with_polynomials(first)] if form.separated else []
        if one and first.intervals is not None:
            special = self._smooth(first)
        count = RANDOM_IF_SEPARATED if form.separated else rounds[0][0] - len(special)
        fields = [first, *(self._random(form) for _ in range(count - 1)), *special]
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
        stopping = replace(self.policy.start, max_steps=steps)
        state, _ = minimise(problem, self.policy.lm, stopping, ended=time_limit_reached)
        found, constants = problem.solution(state.unknowns)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return state.loss[0], self.with_fitted_grids(found, inside), constants

    def _random(self, form: OutputForm) -> Field:
        network = self.ansatz.create(form.outputs, self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, START_SIZES)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            for layer in network.edge_layers:
                shape, kind = layer.coefficients.shape, layer.coefficients.dtype
                drawn = torch.randn(shape, generator=self.generator, dtype=kind)
                layer.coefficients.copy_(drawn * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes, self.ansatz.built_in)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return self.with_fitted_grids(candidate, inside)

    def _decomposed_values(self) -> Field | None:
        """Return given initial values at all times, in two variables besides time, or None.

        Products come from the singular value decomposition of the values on a grid of their own.
        """
        system, policy, low = self.system, self.policy, float(self.system.box[-1, 0])
        known = {
            derivative.unknown: value
            for condition, derivative, value in system.given
            if condition.faces == (((2, low),),) and not any(derivative.index)
        }
        possible = len(system.box) == 3 and system.is_evolution and not self.ansatz.built_in
        if not possible or not any(known.values()):
            return None
        (layer,) = self._random(self.ansatz.form).network.edge_layers
        intervals = layer.grid.breakpoints.shape[1] - 1
        while True:
            edges = torch.linspace(-1, 1, intervals + 1, dtype=system.box.dtype).repeat(3, 1)
            field, error = self._products(known, edges, layer.spec)
            if error <= INITIAL_VALUE_TOLERANCE or 2 * intervals > policy.finest(3):
                return field
            intervals *= 2

    def _products(
        self, known: Mapping[int, sympy.Expr], edges: Tensor, spec: EdgeSpec
    ) -> tuple[Field, float]:
        """Return products for initial values on `edges`, and the relative error of splines."""
        system, form, box = self.system, self.ansatz.form, self.system.box
        grid = Grid(extend(edges, spec.degree), spec.degree, uniform=True)
        at = sample_points(grid, spec.degree + 1)
        x, y = (box.mean(1) + at * box.diff()[:, 0] / 2)[:, :2].numpy().T
        points = np.stack([each.ravel() for each in np.meshgrid(x, y, indexing="ij")], axis=1)
        points = np.column_stack([points, np.full(len(points), float(box[-1, 0]))])
        parts = {}
        for unknown, value in known.items():
            values = to_numpy(value, system.vocabulary.variables)(points)
            values = values.reshape(len(x), len(y)) / float(self.rows.sizes[unknown])
            parts[unknown] = np.linalg.svd(values, full_matrices=False)
        needed = max(int((s > INITIAL_VALUE_TOLERANCE * s[0]).sum()) for _, s, _ in parts.values())
        most = self.policy.max_terms if self.ansatz.widens else form.terms
        form = replace(form, terms=max(1, min(needed, most)))
        columns = at.new_zeros(len(at), form.unknowns, form.terms, 3, 3)
        for unknown, (left, s, right) in parts.items():
            roots = np.sqrt(s[: form.terms])
            columns[:, unknown, :, 0, 0] = torch.as_tensor(left[:, : form.terms] * roots)
            columns[:, unknown, :, 1, 1] = torch.as_tensor(right[: form.terms].T * roots)
        columns = columns.flatten(1, 3)
        layer = SplineLayer.on_grid(edges, form.outputs, spec, uniform=True)
        layer.mask.copy_(form.mask(3))
        with torch.no_grad():
            layer.coefficients.copy_(fit_coefficients(at, columns, layer.grid))
            error = spline_values(at, layer.coefficients, layer.grid) - columns
            layer.coefficients.unflatten(0, (-1, 3))[:, 2, 2] = 1.0
        field = Field(KAN.of_layers([layer]), form, box, self.rows.sizes)
        return field, float(error.norm() / columns.norm())

    def _smooth(self, field: Field) -> list[Field]:
        """Return the smoothest functions that satisfy conditions and observations, in one variable.

        The first minimises derivatives of the equations' order, the second minimises slopes.
        """
        vocabulary, policy, found = self.system.vocabulary, self.policy, list[Field]()
        points, shares = self.rows.collocation(field)
        borders = self.rows.borders(policy.boundary_points, (policy.condition_weight,) * 2)
        for order in (self.system.order, 1):
            names = [f"{name}_{vocabulary.variables[0] * order}" for name in vocabulary.unknowns]
            relations = [parse_relation(f"{name} = 0", vocabulary) for name in names]
            bends = [Block("equation", each, points, shares=shares) for each in relations]
            blocks = [*with_units(bends, self.system, self.rows.sizes), *borders]
            problem = ResidualProblem(field, blocks, self.guesses)
            state, _ = minimise(problem, policy.lm, policy.coarse)
            found.append(problem.solution(state.unknowns)[0])
        return found

    def continuing(self, before: Field) -> Field:
        """Return `before` extended into this box, with knots where it bends at its end."""
        box = self.system.box
        moved = extend_constant(before, box)
        end = self.rows.points(self.rows.inside)
        drawn = moved.inner(end)
        end[:, -1] = before.box[-1, 1]
        for number in range(len(box) - 1):
            index = tuple(2 * (number == i) for i in range(len(box)))
            bend = before.derivative(end, index).abs().sum(1).sqrt() + STRAIGHT
            chosen = torch.multinomial(bend, len(bend), replacement=True, generator=self.generator)
            drawn[:, number] = drawn[chosen, number]
        uniform = 1.0 if len(box) == 1 else 1 - CURVATURE
        network = moved.network.regrid(drawn, grid_eps=uniform, margin=MARGIN, inputs="within")
        return moved.with_network(network.network)

    def with_fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Return the field with hidden grids that contain its activations.

        Second derivatives are zero beyond a grid, so no activation may lie there; nor may a grid be
        much too wide.
        """
        blocks = condition_blocks(self.system, self.policy.boundary_points, 1.0)
        inner = solution.inner(torch.cat([points, *(block.points for block in blocks)]))
        if solution.network.covers(inner, FILLED):
            return solution
        network = solution.network.regrid(inner, grid_eps=1.0, margin=MARGIN).network
        return solution.with_network(network)
