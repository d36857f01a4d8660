"""Search for a formula that describes points.

Several stages propose expressions. First come power laws and quotients of polynomials, then sparse
regressions. A smooth fit then reveals whether y depends on fewer variables, such as products or
sums of inputs; in these variables, functions of one variable and sums of small expressions are
tried. As long as no formula is exact, growing expressions follow until the budget ends. The
constants of every proposed expression are fitted to the points, and the expressions are compared by
their description lengths.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import DIGITS
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.dictionary import pair_formulas
from kanrun.engine.symbolic.growing import Growing
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
    reduce_variables,
    relevant_inputs,
)
from kanrun.engine.symbolic.refit import RefitSettings, is_determined, refit
from kanrun.engine.symbolic.smooth_fit import is_exactly_smooth, is_noisy
from kanrun.engine.symbolic.snapping import SNAP_THRESHOLD
from kanrun.engine.symbolic.sparse import SparseSearch, has_waves
from kanrun.errors import KanrunError

#: Settings with which the constants of a proposed expression are fitted.
_REFIT = RefitSettings(steps=30, damping=1e-6)


def search(problem: SearchProblem) -> Iterator[Event]:
    """Search for a formula in the relevant inputs; short formulas are tried first.

    For each formula that fits well, a `SearchStage` and a `FittedStructure` are yielded. The search
    ends if a formula is exact to rounding, if the residual of a formula is only noise, or if the
    budget is used up.
    """
    # Largest number of inputs for which sparse regressions in all inputs are tried.
    wide_table = 30
    run = FormulaSearch(problem)
    independent = independent_inputs(problem.data)
    if MANY <= len(independent.variables) <= wide_table:
        # Sparse regressions select terms, so the inputs need not be selected first.
        run.unreduced = independent
        yield from run.sparse(independent)
    if run.over():
        return
    if problem.dimensions is not None and problem.dimensions.any():
        yield from run.stages(dimensionless(problem.data, problem.dimensions))
    else:
        yield from run.stages(relevant_inputs(problem.data))


class FormulaSearch:
    """State of a search: the problem, the budget, and the structures that were found so far."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        self.data = problem.data
        self.waves = has_waves(problem.candidates)
        self.budget = Budget(problem.search_budget)
        self.structures: list[FittedStructure] = []
        self.searches: dict[Reduction, SparseSearch] = {}
        self.unreduced = Reduction.none(problem.data.x.shape[1])

    def over(self) -> bool:
        """Return whether the search is finished.

        A search is finished if a formula is certain, if the residual of a formula is only noise, or
        if the budget is used up.
        """
        return self.budget.over or any(each.is_certain or each.noise for each in self.structures)

    def stages(self, given: Reduction) -> Iterator[Event]:
        """Search in the variables of `given`, then in the fewer variables that a smooth fit finds.

        Power laws and quotients of polynomials are tried first. If the fit shows that the points
        are exact, no sparse regression is run before the number of variables is reduced; otherwise
        the sparse regressions for short formulas are. If the fit shows noise, and the fit in fewer
        variables does not contradict it, all other sparse regressions come next.
        """
        self.unreduced = given
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
        if not (inner.relative or is_exactly_smooth(inner)):
            yield from self.sparse(given, short=True)
        if self.over():
            return
        step = given.then(reduce_variables(inner))
        # A function that is too sharp for a smooth fit looks noisy, until it has fewer variables.
        fewer = step.data(self.data) if step.variables and step != given else None
        noisy = not inner.relative and is_noisy(inner)
        noisy = noisy and not (fewer and is_exactly_smooth(fewer))
        if noisy:
            yield from self.sparse(given)
        if step.is_choice:
            given = step
        # The reduction may be wrong, so the search is repeated in the given variables.
        for each in dict.fromkeys((step, given)):
            if not self.over():
                yield from self.expressions(each)
            if not (noisy or self.over()) and each.variables:
                yield from self.sparse(each)
        yield from self.growing([each for each in dict.fromkeys((step, given)) if each.variables])

    def growing(self, reductions: Sequence[Reduction]) -> Iterator[Event]:
        """Grow expressions and small networks in the variables of each reduction, to the end."""
        proposers = [
            (each, Growing(replace(self.problem, data=each.data(self.data)))) for each in reductions
        ]
        for number in itertools.count() if proposers else ():
            for each, proposer in proposers:
                if self.over():
                    return
                yield from self.fitted("growing", each, proposer.round(number))

    def expressions(self, given: Reduction) -> Iterator[Event]:
        """Search for functions of one variable, or for small expressions of several variables.

        The variables are those of `given`.
        """
        # Largest number of variables for which a dictionary of small expressions is built.
        dictionary_inputs = 5
        inner = given.data(self.data)
        count = len(given.variables)
        name = "small expressions" if given.is_choice else "groups"
        found: Iterable[sympy.Expr] = ()
        if count == 0:
            found = [sympy.Float(np.mean(inner.y), DIGITS)]
        elif count <= dictionary_inputs:
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
        """Fit expressions; yield the first certain formula or, if there is none, the good formulas.

        A certain formula is exact to rounding. Of the good formulas, at most `shortest` are
        yielded, those with the shortest descriptions first. If the budget is used up, the formulas
        that were fitted so far are yielded before WorkSpent is raised.

        Args:
            name: Name of the structures that are yielded (see `FittedStructure`).
            given: Reduction whose variables are x0, x1, ... in the expressions.
            expressions: Expressions to try, in this order.
            limit: Largest relative error of a formula that is yielded; by default the error at
                which a model has no skill.
        """
        # Largest number of formulas that `FormulaSearch.fitted` yields if no formula is certain.
        shortest = 2
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
        for each in sorted(others, key=operator.attrgetter("length"))[:shortest]:
            self.structures.append(each)
            yield from _matched(each)
        if is_spent:
            raise WorkSpent

    def sparse(self, given: Reduction, *, short: bool = False) -> Iterator[Event]:
        """Run the sparse regressions, and yield the shortest formula with its rivals.

        With `short`, only products with at most one function are tried. A later call in the same
        variables goes on where the last one ended.
        """
        if given not in self.searches:
            inner = replace(self.problem, data=given.data(self.data))
            self.searches[given] = SparseSearch(inner, self.unreduced.data(self.data))
        found = self.searches[given]
        found.run(short=short)
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
    """Yield the stage and the structure of a formula that was found without a network."""
    yield SearchStage("match", found.name, found.network, found.data, groups=found.groups)
    yield found


def _structure(
    name: str, expression: sympy.Expr, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    """Return the structure of an expression, or None if it has no graph or is not finite."""
    try:
        graph = graph_of_expression(expression, data.x.shape[1])
    except KanrunError:
        return None
    is_finite = np.isfinite(data.overall_error(graph))
    return FittedStructure(name, graph, data, graph, groups=groups) if is_finite else None


def fit_expression(
    name: str, expression: sympy.Expr, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    """Refit the constants of an expression to the points, and return it as a structure.

    The result is None if the expression has no graph or is not finite on the points.
    """
    found = _structure(name, expression, data, groups)
    if found is None:
        return None
    graph = min((refit(found.network, data, _REFIT), found.network), key=data.overall_error)
    return replace(found, network=graph, formula=graph)


def choose_formula(
    structures: Sequence[FittedStructure], data: SearchData
) -> FittedStructure | None:
    """Return the structure with the best formula, or None if there is none.

    The rules are, in this order:

    - If formulas are certain (exact to rounding), the least complex one is chosen; otherwise the
      least complex exact one.
    - If the residual of a ranked formula is only noise, that formula is chosen.
    - Otherwise the shortest description is chosen. Formulas whose terms the points do not determine
      are considered only if there is no other formula. A network without a formula is compared as
      if its error were `no_formula` times as large.
    """
    # When formulas are compared, a network without a formula counts as if its error were this many
    # times as large.
    no_formula = 100.0
    certain = [each for each in structures if each.is_certain]
    if exact := certain or [each for each in structures if each.is_exact]:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)
    if ranked := [each for each in structures if each.noise]:
        return ranked[0]
    determined = [each for each in structures if each.formula and is_determined(each.formula, data)]
    if determined:
        structures = determined + [each for each in structures if each.formula is None]

    def length(each: FittedStructure) -> float:
        error = no_formula * each.network_error
        return each.length if each.formula else length_of(error, 0, 0.0, data)

    return min(structures, key=length, default=None)
