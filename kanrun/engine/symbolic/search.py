"""Search for a formula of points: the structure that they show, and sparse regressions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import input_symbols
from kanrun.engine.symbolic.constant_errors import is_determined
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.formula import finish_formula
from kanrun.engine.symbolic.laws import (
    in_all_inputs,
    of_logarithm,
    simple_laws,
    structured_formulas,
)
from kanrun.engine.symbolic.problem import (
    Event,
    FittedStructure,
    SearchData,
    SearchProblem,
    length_of,
)
from kanrun.engine.symbolic.reductions import (
    MANY,
    Reduction,
    dimensionless,
    independent_inputs,
    of_one_sign,
    relevant_inputs,
)
from kanrun.engine.symbolic.sparse import sparse_formulas
from kanrun.engine.symbolic.symmetries import (
    NO_FIT,
    is_exactly_smooth,
    reduce_variables,
    smooth_fit,
)

#: Factor of the error of a structure without a formula.
_NO_FORMULA = 100.0
#: Largest number of inputs of sparse regressions in all of them.
_WIDE_TABLE = 30


def search(problem: SearchProblem) -> Iterator[Event]:
    """Search for a formula in the inputs that matter, from simple to long ones.

    Yields a `SearchStage` and a `FittedStructure` for each formula that is near. Stops at an exact
    one, if only noise is left, or if the budget is spent.
    """
    independent = independent_inputs(problem.data)
    if MANY <= len(independent.variables) <= _WIDE_TABLE:
        # Sums of few terms need no choice of inputs before.
        inner = replace(problem, data=independent.data(problem.data), dimensions=None)
        run = _Search(inner)
        for event in run.recorded(sparse_formulas(inner)):
            yield in_all_inputs(event, independent, problem.data)
        if run.over():
            return
    groups = relevant_inputs(problem.data)
    if problem.dimensions is not None and problem.dimensions.any():
        groups = dimensionless(problem.data, problem.dimensions)
    if groups.changes and not groups.variables:
        yield from structured_formulas(problem, groups)
        return
    inner = replace(problem, data=groups.data(problem.data), dimensions=None)
    for event in _of_points(inner):
        yield in_all_inputs(event, groups, problem.data)


def _of_points(problem: SearchProblem) -> Iterator[Event]:
    """Search by simple laws, sparse regressions and symmetries.

    Of points that a smooth fit shows to be noisy all sparse regressions come first, of exact ones
    none, and of others the short ones.
    """
    run = _Search(problem)
    data = problem.data
    yield from run.recorded(simple_laws(problem))
    if run.over():
        return
    noisy = not data.relative and smooth_fit(data).is_noise and smooth_fit(data).error < NO_FIT
    if not (data.relative or is_exactly_smooth(data)):
        yield from run.recorded(sparse_formulas(problem, short=not noisy))
        if run.over():
            return
    if data.relative and not data.has_one_sign:
        yield from _of_one_sign(problem)
    else:
        yield from _in_inputs(problem, laws=False, sparse=not noisy)


def _of_one_sign(problem: SearchProblem) -> Iterator[Event]:
    """Search where signs do not change, so that logarithms exist, and measure on all points.

    An exact formula is rounded there: roots of what changes its sign cancel in a shorter form.
    """
    inner = of_one_sign(problem.data)
    inputs = inner.x.shape[1]
    signs = np.where((inner.x < 0).all(axis=0), -1, 1).tolist()
    turned = (s * u for s, u in zip(signs, input_symbols(inputs), strict=True))
    step = Reduction(inputs, tuple(turned))
    part = replace(problem, data=step.data(inner))
    for event in _in_inputs(part, sparse=True):
        found = event
        if isinstance(event, FittedStructure) and event.formula and event.is_exact:
            with contextlib.suppress(WorkSpent):
                rounded = finish_formula(event.formula, part.data, problem.policy)
                graph = graph_of_expression(rounded.expression, inputs)
                found = replace(event, formula=graph, network=graph)
        yield in_all_inputs(found, step, problem.data)


def _in_inputs(
    problem: SearchProblem, *, laws: bool = True, sparse: bool = False
) -> Iterator[Event]:
    """Search the points themselves, then for relative errors those of log |y|.

    Simple `laws` of these points come first, and `sparse` regressions last, unless they have been
    tried.
    """
    run = _Search(problem)
    data = problem.data
    inputs = data.x.shape[1]
    yield from run.recorded(simple_laws(problem) if laws else iter(()))
    if run.over():
        return
    reduction = reduce_variables(data)
    every = Reduction.none(inputs)
    if reduction.factor == 1 and set() < set(reduction.variables) < set(every.variables):
        inner = SearchProblem(reduction.data(data), problem.candidates, problem.policy)
        for event in _in_inputs(inner, sparse=sparse):
            yield in_all_inputs(event, reduction, data)
        return
    # The groups may be wrong.
    for step in dict.fromkeys((reduction, every)):
        if run.over():
            return
        yield from run.recorded(structured_formulas(problem, step))
    yield from run.recorded(sparse_formulas(problem) if sparse and not run.over() else iter(()))
    if run.over():
        return
    if data.relative:
        logarithms = SearchProblem(data.logarithms, problem.candidates, problem.policy)
        for event in _in_inputs(logarithms, sparse=sparse):
            yield of_logarithm(event, data)


class _Search:
    """Formulas of a search so far."""

    def __init__(self, problem: SearchProblem) -> None:
        self.budget = Budget(problem.policy.search_budget)
        self.structures: list[FittedStructure] = []

    def over(self) -> bool:
        """Return whether a formula is certain, only noise is left, or the budget is spent."""
        return self.budget.over or any(each.is_certain or each.noise for each in self.structures)

    def recorded(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events; structures among them are remembered."""
        for event in events:
            self.structures += [event] if isinstance(event, FittedStructure) else []
            yield event


def choose_formula(
    structures: Sequence[FittedStructure], data: SearchData
) -> FittedStructure | None:
    """Return the exact formula of least complexity, else the one of the shortest description.

    Formulas that are exact to rounding come before others, which may imitate them. If a ranking of
    many formulas leaves noise alone, its first one is chosen.
    Formulas that noisy points do not determine are for want of others. A network without a formula
    counts as one with `_NO_FORMULA` times its error. None if nothing was trained.
    """
    certain = [each for each in structures if each.is_certain]
    if exact := certain or [each for each in structures if each.is_exact]:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)
    if ranked := [each for each in structures if each.noise]:
        return ranked[0]
    determined = [each for each in structures if each.formula and is_determined(each.formula, data)]
    if determined:
        structures = determined + [each for each in structures if each.formula is None]

    def length(each: FittedStructure) -> float:
        error = _NO_FORMULA * each.network_error
        return each.length if each.formula else length_of(error, 0, 0.0, data)

    return min(structures, key=length, default=None)
