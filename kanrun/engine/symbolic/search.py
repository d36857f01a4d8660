"""Search for a formula of points, in the coordinates that they show.

A list of stages proposes expressions: power laws and quotients of polynomials, sparse regressions
of noisy points, and in the groups of inputs that a smooth fit shows, functions of one of them and
sums of small expressions. The constants of all are fitted to the points, and their description
lengths are compared.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import DIGITS
from kanrun.engine.symbolic.constant_errors import is_determined
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.problem import (
    Event,
    FittedStructure,
    Rival,
    SearchData,
    SearchProblem,
    SearchStage,
    length_of,
)
from kanrun.engine.symbolic.quotients import rational_functions
from kanrun.engine.symbolic.reductions import (
    MANY,
    Reduction,
    dimensionless,
    independent_inputs,
    power_law,
    relevant_inputs,
)
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import pair_formulas
from kanrun.engine.symbolic.snapping import SNAP_THRESHOLD
from kanrun.engine.symbolic.sparse import SparseSearch, has_waves
from kanrun.engine.symbolic.symmetries import (
    NO_FIT,
    is_exactly_smooth,
    reduce_variables,
    smooth_fit,
)
from kanrun.errors import KanrunError

#: Factor of the error of a structure without a formula.
_NO_FORMULA = 100.0
#: Largest number of inputs of sparse regressions in all of them.
_WIDE_TABLE = 30
#: Largest number of inputs of a dictionary of small expressions.
_DICTIONARY_INPUTS = 5
#: Number of formulas of one stage that are returned unless one is exact.
_SHORTEST = 2
#: Fit of the constants of a formula.
_REFIT = RefitSettings(steps=30, damping=1e-6)


def search(problem: SearchProblem) -> Iterator[Event]:
    """Search for a formula in the inputs that matter, from simple to long ones.

    Yields a `SearchStage` and a `FittedStructure` for each formula that is near. Stops at an exact
    one, if only noise is left, or if the budget is spent.
    """
    run = FormulaSearch(problem)
    independent = independent_inputs(problem.data)
    if MANY <= len(independent.variables) <= _WIDE_TABLE:
        # Sums of few terms need no choice of inputs before.
        yield from run.sparse(independent)
    if run.over():
        return
    if problem.dimensions is not None and problem.dimensions.any():
        yield from run.stages(dimensionless(problem.data, problem.dimensions))
    else:
        yield from run.stages(relevant_inputs(problem.data))


class FormulaSearch:
    """Formulas of a search so far, all of them of the given inputs."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        self.data = problem.data
        self.waves = has_waves(problem.candidates)
        self.budget = Budget(problem.policy.search_budget)
        self.structures: list[FittedStructure] = []

    def over(self) -> bool:
        """Return whether a formula is certain, only noise is left, or the budget is spent."""
        return self.budget.over or any(each.is_certain or each.noise for each in self.structures)

    def stages(self, given: Reduction) -> Iterator[Event]:
        """Search in the variables of a reduction, and in the fewer ones that points show.

        Of points that a smooth fit shows to be noisy all sparse regressions come first, of exact
        ones none, and of others the short ones.
        """
        inner = given.data(self.data)
        if not given.variables:
            yield from self.fitted("groups", given, [sympy.Float(np.mean(inner.y), DIGITS)])
            return
        yield from self.fitted("power law", given, _power_laws(inner))
        if not self.over():
            quotients = rational_functions(inner, self.waves)
            yield from self.fitted("rational function", given, quotients)
        if self.over():
            return
        noisy = not inner.relative and smooth_fit(inner).is_noise
        noisy = noisy and smooth_fit(inner).error < NO_FIT
        if not (inner.relative or is_exactly_smooth(inner)):
            yield from self.sparse(given, short=not noisy)
        if self.over():
            return
        step = given.then(reduce_variables(inner))
        if step.is_choice:
            given = step
        # The groups may be wrong.
        for each in dict.fromkeys((step, given)):
            if not self.over():
                yield from self.expressions(each)
            if not (noisy or self.over()) and each.variables:
                yield from self.sparse(each)

    def expressions(self, given: Reduction) -> Iterator[Event]:
        """Search for functions of one variable, or for small expressions of several."""
        inner = given.data(self.data)
        count = len(given.variables)
        name = "small expressions" if given.is_choice else "groups"
        found: Iterable[sympy.Expr] = ()
        if count == 0:
            found = [sympy.Float(np.mean(inner.y), DIGITS)]
        elif count <= _DICTIONARY_INPUTS:
            found = pair_formulas(inner, self.problem.candidates)
        if count > 1 and len(given.variables) < given.inputs:
            yield from self.fitted(name, given, rational_functions(inner, self.waves))
        if not self.over():
            yield from self.fitted(name, given, found, SNAP_THRESHOLD)

    def fitted(
        self,
        name: str,
        given: Reduction,
        expressions: Iterable[sympy.Expr],
        limit: float | None = None,
    ) -> Iterator[Event]:
        """Yield the first exact formula, or else the shortest ones with an error below the limit.

        Expressions are those of the variables of `given`. Those found so far are not lost where the
        work is spent.
        """
        groups = () if given.is_choice else given.variables
        others = list[FittedStructure]()
        is_spent = False
        try:
            for expression in expressions:
                each = fit_expression(name, given.restored(expression), self.data, groups)
                if each is not None and each.is_certain:
                    others = [each]
                    break
                if each is not None and each.error < (limit or self.data.no_skill_error):
                    others.append(each)
        except WorkSpent:
            is_spent = True
        for each in sorted(others, key=operator.attrgetter("length"))[:_SHORTEST]:
            self.structures.append(each)
            yield from _matched(each)
        if is_spent:
            raise WorkSpent

    def sparse(self, given: Reduction, *, short: bool = False) -> Iterator[Event]:
        """Yield the formula of the shortest description by sparse regressions, with its rivals.

        Of `short` ones, products with at most one function, only what leaves rounding or noise.
        """
        inner = replace(self.problem, data=given.data(self.data))
        found = SparseSearch(inner)
        found.run(short=short)
        if short and not found.found_noise:
            return
        rivals = tuple(
            Rival(given.restored(each.template.expression(found.coordinates)), each.bits)
            for each in found.ranking.ordered
        )
        for rival in rivals:
            tried = _structure("sparse regression", rival.expression, self.data)
            if tried is not None:
                self.structures.append(replace(tried, rivals=rivals, noise=found.found_noise))
                yield from _matched(self.structures[-1])
                return


def _power_laws(data: SearchData) -> Iterator[sympy.Expr]:
    if (law := power_law(data)) is not None:
        yield law


def _matched(found: FittedStructure) -> Iterator[Event]:
    """Yield a formula that was found without a network, as one stage."""
    yield SearchStage("match", found.name, found.network, found.data, groups=found.groups)
    yield found


def _structure(
    name: str, expression: sympy.Expr, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    """Return the expression as a graph, or None if it is not one or not finite."""
    try:
        graph = graph_of_expression(expression, data.x.shape[1])
    except KanrunError:
        return None
    is_finite = np.isfinite(data.overall_error(graph))
    return FittedStructure(name, graph, data, graph, groups=groups) if is_finite else None


def fit_expression(
    name: str, expression: sympy.Expr, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    """Return the expression as a refitted graph, or None if it is not one or not finite."""
    found = _structure(name, expression, data, groups)
    if found is None:
        return None
    graph = min((refit(found.network, data, _REFIT), found.network), key=data.overall_error)
    return replace(found, network=graph, formula=graph)


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
