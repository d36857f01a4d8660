"""Initial guesses: random networks that race, initial values, and the previous window."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.enrichment import (
    edges_of,
    extend_constant,
    insert_knots,
    with_polynomials,
    with_terms,
)
from kanrun.engine.equations.fields import Field, OutputForm
from kanrun.engine.equations.policy import Ansatz
from kanrun.engine.equations.residuals import Block, ResidualProblem, condition_blocks, with_units
from kanrun.engine.least_squares import minimise
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import parse_relation
from kanrun.monitoring import time_limit_reached

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


class InitialGuesses:
    """Initial guesses for one system on one box."""

    def __init__(self, rows: Collocation, ansatz: Ansatz, generator: Generator) -> None:
        self.rows, self.ansatz, self.generator = rows, ansatz, generator
        self.system, self.policy, self.guesses = rows.system, rows.policy, rows.system.guesses()

    def best(self) -> tuple[Field, Tensor]:
        """Return the best of several networks: all take a few steps, the better ones more."""
        policy, form, one = self.policy, self.ansatz.form, len(self.system.box) == 1
        if form.fixed_last:
            return self._initial_values(), self.guesses
        inside = self.rows.points(self.rows.inside, policy.start_points)
        blocks = self.rows.blocks(inside, None, policy.condition_weight, policy.data_weight)
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
            for _, parameter in network.unknowns() if network.intervals is not None else ():
                kind = parameter.dtype
                drawn = torch.randn(parameter.shape, generator=self.generator, dtype=kind)
                parameter.copy_(drawn.to(parameter) * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes, self.ansatz.built_in)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return self.with_fitted_grids(candidate, inside)

    def _initial_values(self) -> Field:
        """Return the initial values at all times on a grid that resolves them.

        Further polynomials of time are added with factors of zero.
        """
        policy, form = self.policy, self.ansatz.form
        start = (len(self.system.box) - 1, float(self.system.box[-1, 0]))
        field = with_polynomials(self._random(replace(form, terms=1)))
        initial = [
            each
            for each in self.system.conditions
            if each.faces
            and all(start in face for face in each.faces)
            and not any(derivative.index[-1] for derivative in each.relation.derivatives)
        ]
        known = replace(self.system, conditions=tuple(initial), observations=())
        while initial:
            problem, finer = (
                ResidualProblem(
                    field, with_units(blocks, self.system, self.rows.sizes), self.guesses
                )
                for count in (policy.boundary_points, policy.start_points)
                for blocks in (condition_blocks(known, count, 1.0, edges=edges_of(field)),)
            )
            state, _ = minimise(problem, policy.lm, policy.coarse)
            field, intervals = problem.solution(state.unknowns)[0], 2 * (field.intervals or 1)
            squares = finer.residual(state.unknowns).square()
            accurate = float(squares.sum()) <= INITIAL_VALUE_TOLERANCE**2
            if accurate or intervals > policy.finest(len(self.system.box)):
                break
            points = torch.cat([each.points for each in finer.blocks])
            field = insert_knots(field, intervals, points, squares)
        return with_terms(field, form.terms - 1, 0.0, self.generator)

    def _smooth(self, field: Field) -> list[Field]:
        """Return the smoothest functions that satisfy conditions and observations, in one variable.

        The first minimises derivatives of the equations' order, the second minimises slopes.
        """
        vocabulary, policy, found = self.system.vocabulary, self.policy, list[Field]()
        points, shares = self.rows.collocation(field)
        weight = policy.condition_weight
        borders = self.rows.borders(policy.boundary_points, weight, weight, None, None)
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
