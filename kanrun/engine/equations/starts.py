"""What the first grid begins with: random networks that race at few points, initial values, the window before."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of, held, insert, with_polynomials, with_terms
from kanrun.engine.equations.equation_policy import Ansatz
from kanrun.engine.equations.field import Field, OutputForm
from kanrun.engine.equations.residuals import Block, ResidualProblem, condition_blocks, with_units
from kanrun.engine.equations.system_rows import SystemRows
from kanrun.engine.least_squares import minimise
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import parse_relation
from kanrun.monitoring import time_limit_reached


class Starts:
    """Starts for one system on one box."""

    def __init__(self, rows: SystemRows, ansatz: Ansatz, generator: Generator) -> None:
        self.rows, self.ansatz, self.generator = rows, ansatz, generator
        self.system, self.policy, self.guesses = rows.system, rows.policy, rows.system.guesses()

    def best(self) -> tuple[Field, Tensor]:
        """The best of several random networks at few points: all take a few steps, the better ones more."""
        policy, form, one = self.policy, self.ansatz.form, len(self.system.box) == 1
        if form.fixed_last:
            return self._at_beginning(), self.guesses
        inside = self.rows.points(self.rows.inside, policy.start_points)
        blocks = self.rows.blocks(inside, None, policy.condition_weight, policy.data_weight)
        begun = self._random(form)
        small = not one and not form.separated and len(begun.get_unknowns()) <= policy.small
        rounds = policy.rounds_if_small if small else policy.rounds
        special = [with_polynomials(begun)] if form.separated else []
        if one and begun.intervals is not None:
            special = self._smooth(begun)
        count = policy.random_if_separated if form.separated else rounds[0][0] - len(special)
        fields = [begun, *(self._random(form) for _ in range(count - 1)), *special]
        racing = [(0.0, each, self.guesses) for each in fields]
        for kept, steps in rounds:
            racing = [
                self.raced(each, constants, blocks, steps) for _, each, constants in racing[:kept]
            ]
            racing.sort(key=lambda entry: entry[0])
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed(
                "The equation's residual is not finite at any start; check its formula on the box."
            )
        return best, constants

    def raced(
        self, candidate: Field, constants: Tensor, blocks: list[Block], steps: int
    ) -> tuple[float, Field, Tensor]:
        """The objective, field and constants after some steps; infinity where the start is not finite."""
        problem = ResidualProblem(candidate, blocks, constants)
        state, _ = minimise(
            problem, self.policy.lm, replace(self.policy.start, steps=steps), ended=time_limit_reached
        )
        found, constants = problem.solution(state.unknowns)
        inside = self.rows.points(self.rows.inside, self.policy.start_points)
        return state.loss[0], self.fitted_grids(found, inside), constants

    def _random(self, form: OutputForm) -> Field:
        network = self.ansatz.create(form.outputs, self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, self.policy.start_sizes)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            for _, parameter in network.unknowns() if network.intervals is not None else ():
                drawn = torch.randn(
                    parameter.shape, generator=self.generator, dtype=parameter.dtype
                )
                parameter.copy_(drawn.to(parameter) * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes, self.ansatz.built_in)
        return self.fitted_grids(
            candidate, self.rows.points(self.rows.inside, self.policy.start_points)
        )

    def _at_beginning(self) -> Field:
        """The initial values at all times, on a grid that holds them, with further polynomials of time."""
        policy, form, start = (
            self.policy,
            self.ansatz.form,
            (len(self.system.box) - 1, float(self.system.box[-1, 0])),
        )
        field = with_polynomials(self._random(replace(form, terms=1)))
        begins = [
            each
            for each in self.system.conditions
            if each.faces
            and all(start in face for face in each.faces)
            and not any(derivative.index[-1] for derivative in each.relation.derivatives)
        ]
        known = replace(self.system, conditions=tuple(begins), measured=())
        while begins:
            problem, finer = (
                ResidualProblem(
                    field, with_units(blocks, self.system, self.rows.sizes), self.guesses
                )
                for count in (policy.face_points, policy.start_points)
                for blocks in (condition_blocks(known, count, 1.0, edges=edges_of(field)),)
            )
            state, _ = minimise(problem, policy.lm, policy.coarse)
            field, intervals = problem.solution(state.unknowns)[0], 2 * (field.intervals or 1)
            squares = finer.residual(state.unknowns).square()
            if float(squares.sum()) <= policy.held**2 or intervals > policy.finest(
                one=False, whole=True
            ):
                break
            points = torch.cat([each.points for each in finer.blocks])
            field = insert(field, intervals, points, squares, policy.halved, policy.narrowest)
        return with_terms(field, form.terms - 1, 0.0, self.generator)

    def _smooth(self, field: Field) -> list[Field]:
        """In one variable: functions as smooth as conditions and measured values let them be, and constant ones.

        The first have small derivatives of the equations' order, the second small first ones.
        """
        vocabulary, policy, found = self.system.vocabulary, self.policy, list[Field]()
        points, shares = self.rows.collocation(field)
        borders = self.rows.borders(
            policy.face_points, policy.condition_weight, policy.condition_weight, None, None
        )
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
        """`before` held in time on this box, with knots where it bends at its end."""
        box, policy = self.system.box, self.policy
        moved = held(before, box)
        end = self.rows.points(self.rows.inside)
        drawn = moved.inner(end)
        end[:, -1] = before.box[-1, 1]
        for number in range(len(box) - 1):
            index = tuple(2 * (number == i) for i in range(len(box)))
            bend = before.derivative(end, index).abs().sum(1).sqrt()
            chosen = torch.multinomial(
                bend + 1e-12, len(bend), replacement=True, generator=self.generator
            )
            drawn[:, number] = drawn[chosen, number]
        uniform = 1.0 if len(box) == 1 else 1 - policy.curvature
        return moved.with_network(
            moved.network.regrid(
                drawn, grid_eps=uniform, margin=policy.margin, inputs="within"
            ).network
        )

    def fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Hidden grids over all that reaches them from the points and the faces, where they do not hold it yet.

        Beyond a grid second derivatives are zero, so no point may lie there; nor may a grid be much too wide.
        """
        faces = [
            block.points for block in condition_blocks(self.system, self.policy.face_points, 1.0)
        ]
        inner = solution.inner(torch.cat([points, *faces]))
        if solution.network.covers(inner, self.policy.filled):
            return solution
        return solution.with_network(
            solution.network.regrid(inner, grid_eps=1.0, margin=self.policy.margin).network
        )
