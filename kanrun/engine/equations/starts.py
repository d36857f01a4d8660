"""What the first grid begins with: random networks that race at few points, initial values, the window before."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of, held, insert, with_polynomials, with_terms
from kanrun.engine.equations.equation_policy import Ansatz
from kanrun.engine.equations.field import Field, OutputForm
from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.equations.residuals import Block, ResidualProblem
from kanrun.engine.equations.system import condition_blocks, with_units
from kanrun.engine.equations.system_rows import SystemRows
from kanrun.engine.layers import move_layer
from kanrun.engine.least_squares import minimise
from kanrun.engine.networks import KAN
from kanrun.engine.splines import uniform_breakpoints
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import parse_relation
from kanrun.watch import time_is_up


class Starts:
    """Starts for one system on one box."""

    def __init__(self, rows: SystemRows, ansatz: Ansatz, generator: Generator, hard: HardConditions | None) -> None:
        self.rows, self.ansatz, self.generator, self.hard = rows, ansatz, generator, hard
        self.system, self.policy, self.inside = rows.system, rows.policy, rows.inside

    def best(self) -> tuple[Field, Tensor]:
        """The best of several random networks at few points: all take a few steps, the better ones more."""
        policy = self.policy
        if self.ansatz.form.fixed_last:
            return self._at_beginning(), self.system.guesses()
        blocks = self.rows.blocks(
            self.inside.first(policy.start_points), None, policy.condition_weight, policy.data_weight
        )
        begun = self._random()
        mixed = len(self.system.box) > 1 and not self.ansatz.form.separated
        rounds = policy.rounds_if_small if mixed and len(begun.get_unknowns()) <= policy.small else policy.rounds
        fields = [begun, *(self._random() for _ in range(rounds[0][0] - 1))]
        racing = [(0.0, each, self.system.guesses()) for each in fields]
        if self.ansatz.form.separated:
            racing = [
                *racing[: policy.random_if_separated],
                (0.0, with_polynomials(racing[0][1]), self.system.guesses()),
            ]
        elif len(self.system.box) == 1 and racing[0][1].intervals is not None:
            racing[-2:] = [(0.0, field, self.system.guesses()) for field in self._smooth(racing[0][1])]
        for kept, steps in rounds:
            racing = [self.raced(each, constants, blocks, steps) for _, each, constants in racing[:kept]]
            racing.sort(key=lambda entry: entry[0])
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed("The equation's residual is not finite at any start; check its formula on the box.")
        return best, constants

    def raced(
        self, candidate: Field, constants: Tensor, blocks: list[Block], steps: int
    ) -> tuple[float, Field, Tensor]:
        """The objective, field and constants after some steps; infinity where the start is not finite."""
        problem = ResidualProblem(candidate, blocks, constants)
        state, _ = minimise(problem, self.policy.lm, replace(self.policy.start, steps=steps), ended=time_is_up)
        found, constants = problem.solution(state.unknowns)
        return state.loss[0], self.fitted_grids(found, self.inside.first(self.policy.start_points)), constants

    def _random(self, form: OutputForm | None = None) -> Field:
        form = form or self.ansatz.form
        network = self.ansatz.create(form.outputs, self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, self.policy.start_sizes)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            if network.intervals is not None:
                for _, parameter in network.unknowns():
                    drawn = torch.randn(parameter.shape, generator=self.generator, dtype=parameter.dtype)
                    parameter.copy_(drawn.to(parameter) * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes, self.hard)
        return self.fitted_grids(candidate, self.inside.first(self.policy.start_points))

    def _at_beginning(self) -> Field:
        """The initial values at all times, on a grid that holds them, with further polynomials of time."""
        form, start = self.ansatz.form, float(self.system.box[-1, 0])
        field = with_polynomials(self._random(replace(form, terms=1)))
        last = len(self.system.box) - 1
        begins = [
            each for each in self.system.conditions
            if all((last, start) in face for face in each.faces) and each.faces
            and not any(derivative.index[last] for derivative in each.relation.derivatives)
        ]  # fmt: skip
        known = replace(self.system, conditions=tuple(begins), measured=())
        while begins:
            problem, finer = (
                ResidualProblem(field, with_units(each, self.system, self.rows.sizes), self.system.guesses())
                for each in (
                    condition_blocks(known, count, 1.0, edges=edges_of(field))
                    for count in (self.policy.face_points, self.policy.start_points)
                )
            )
            state, _ = minimise(problem, self.policy.lm, self.policy.coarse)
            field, intervals = problem.solution(state.unknowns)[0], 2 * (field.intervals or 1)
            left = finer.residual(state.unknowns)
            if float(left.square().sum()) <= self.policy.held**2 or 2 * intervals > self.policy.most_intervals_in_more:
                break
            points, squares = torch.cat([each.points for each in finer.blocks]), left.square()
            field = insert(field, intervals, points, squares, self.policy.halved, self.policy.narrowest)
        return with_terms(field, form.terms - 1, 0.0, self.generator)

    def _smooth(self, field: Field) -> list[Field]:
        """In one variable: functions as smooth as conditions and measured values let them be, and constant ones.

        The first have small derivatives of the equations' order, the second small first ones.
        """
        vocabulary, found = self.system.vocabulary, list[Field]()
        points, shares = self.rows.collocation(field)
        held = self.rows.blocks(points, shares, self.policy.condition_weight, self.policy.condition_weight)
        for order in (max(each.order for each in self.system.equations), 1):
            names = [f"{name}_{vocabulary.variables[0] * order}" for name in vocabulary.unknowns]
            bends = [Block(name, parse_relation(f"{name} = 0", vocabulary), points, shares=shares) for name in names]
            blocks = [*with_units(bends, self.system, self.rows.sizes), *held[len(self.system.equations) :]]
            problem = ResidualProblem(field, blocks, self.system.guesses())
            state, _ = minimise(problem, self.policy.lm, self.policy.coarse)
            found.append(problem.solution(state.unknowns)[0])
        return found

    def continuing(self, before: Field) -> Field:
        """`before` held in time on this box, with knots where it bends at its end."""
        moved = held(before, self.system.box)
        end = self.inside.first(self.policy.fresh).clone()
        end[:, -1] = before.box[-1, 1]
        drawn = moved.inner(self.inside.first(self.policy.fresh)).clone()
        if len(self.system.box) == 1:
            edges = torch.linspace(-1, 1, (before.intervals or 1) + 1, dtype=end.dtype)[None]
            layers = list(moved.network.edge_layers)
            first, _ = move_layer(layers[0], edges, uniform=True)
            return moved.with_network(KAN.of_layers([first, *layers[1:]]))
        for number in range(len(self.system.box) - 1):
            index = tuple(2 * (number == i) for i in range(len(self.system.box)))
            bend = before.derivative(end, index).abs().sum(1).sqrt()
            chosen = torch.multinomial(bend + 1e-12, len(bend), replacement=True, generator=self.generator)
            drawn[:, number] = drawn[chosen, number]
        network = moved.network.regrid(
            drawn, grid_eps=1 - self.policy.curvature, margin=self.policy.margin, inputs=True
        ).network
        return moved.with_network(network)

    def fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Hidden grids over all that reaches them from the points and the faces, where they do not hold it yet.

        Beyond a grid second derivatives are zero, so no point may lie there; nor may a grid be much too wide.
        """
        if len(solution.network.edge_layers) < 2:
            return solution
        faces = [block.points for block in condition_blocks(self.system, self.policy.face_points, 1.0)]
        inner = solution.inner(torch.cat([points, *faces]))
        if solution.network.covers(inner, self.policy.filled):
            return solution
        layers = list(solution.network.edge_layers)
        with torch.no_grad():
            for number in range(1, len(layers)):
                reaching = solution.network.activations(inner)[number]
                low, high = reaching.amin(0), reaching.amax(0)
                pad = self.policy.margin * (high - low).clamp(min=1e-6)
                grid = uniform_breakpoints(low - pad, high + pad, layers[number].grid.intervals)
                layers[number], _ = move_layer(layers[number], grid, uniform=True)
        return solution.with_network(KAN.of_layers(layers))
