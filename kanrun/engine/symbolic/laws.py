"""Structure first: what the points themselves show before any network is trained.

Power laws and quotients of polynomials come first. Symmetries leave fewer variables; in these the
sparse regressions of one and of several variables look for formulas. What remains is searched with
networks in the fewer variables.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import DIGITS, TABLE, Array, Candidate
from kanrun.engine.symbolic.conversions import composed, graph_of_expression, to_expression
from kanrun.engine.symbolic.dictionary import Dictionary, expand_dictionary
from kanrun.engine.symbolic.edge_functions import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.problem import (
    Event,
    FittedStructure,
    Rival,
    SearchData,
    SearchProblem,
    SearchStage,
)
from kanrun.engine.symbolic.quotients import rational_functions
from kanrun.engine.symbolic.reductions import Reduction, power_law
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import TermSum, nearest_sums, output_transforms
from kanrun.engine.symbolic.snapping import SNAP_THRESHOLD, matched
from kanrun.engine.symbolic.univariate import match_formulas
from kanrun.errors import KanrunError

#: Allowance of work (see `Budget`) for the search for formulas of one variable.
_ONE_VARIABLE = 7.0
#: Maximum number of inputs of a dictionary.
_DICTIONARY_INPUTS = 5
#: Points at which terms are compared.
_POINTS = 80
#: Entries for functions of y and for y divided by a weight.
_SIMPLE = 3200
#: Entries for quotients and for functions of y divided by a weight.
_FEW = 600
#: Simplest entries that are tried as weights.
_WEIGHTS = 8
#: Sums of each kind that are looked at.
_KEPT = 6
#: Other formulas that are returned.
_RETURNED = 8
#: Fraction of the variance that a sum may leave.
_PROMISING = 1e-4
#: Relative error of an exact sum.
_EXACT_SUM = 1e-10
#: Fraction of the variance that rounding leaves: of pairs that leave no more the simplest is best.
_EXACT = 1e-11
#: Number of the first functions of y that are regressed as quotients.
_QUOTIENTS = 3
#: Number of formulas that are returned.
_SHORTEST = 2
#: Refit of these.
_REFIT = RefitSettings(steps=30, damping=1e-6)


def simple_laws(problem: SearchProblem) -> Iterator[Event]:
    """Yield a power law, and unless that is exact a quotient of polynomials with few terms."""
    data = problem.data

    def fits() -> Iterator[FittedStructure | None]:
        if (law := power_law(data)) is not None:
            yield fit_expression("power law", law, data)
        for each in rational_functions(data, _has_waves(problem.candidates)):
            yield fit_expression("rational function", each, data)

    yield from _shortest(fits(), data.no_skill_error)


def structured_formulas(problem: SearchProblem, reduction: Reduction) -> Iterator[Event]:
    """Yield what is found without a network in the reduced variables.

    The network of each formula is its own graph.
    """
    data = problem.data
    name = "groups" if reduction.changes else "small expressions"
    groups = reduction.variables if reduction.changes else ()
    found = _expressions(reduction.data(data), problem, reduction)
    fits = (fit_expression(name, reduction.restored(each), data, groups) for each in found)
    yield from _shortest(fits, SNAP_THRESHOLD)


def _shortest(fits: Iterable[FittedStructure | None], limit: float) -> Iterator[Event]:
    """Yield the first exact formula, or else the shortest ones with an error below the limit.

    Those found so far are not lost where the work is spent.
    """
    others = list[tuple[float, FittedStructure]]()
    is_spent = False
    try:
        for fitted in fits:
            if fitted is not None and fitted.is_certain:
                yield from matched(fitted)
                return
            if fitted is not None and fitted.error < limit:
                others.append((fitted.length, fitted))
    except WorkSpent:
        is_spent = True
    for _, fitted in sorted(others, key=operator.itemgetter(0))[:_SHORTEST]:
        yield from matched(fitted)
    if is_spent:
        raise WorkSpent


def _has_waves(candidates: Sequence[Candidate]) -> bool:
    return any(each.name in ("sin", "cos") for each in candidates)


def _expressions(
    inner: SearchData, problem: SearchProblem, reduction: Reduction
) -> Iterator[sympy.Expr]:
    """Yield formulas in the reduced variables that may be exact."""
    count = inner.x.shape[1]
    candidates = problem.candidates
    if count == 0:
        yield sympy.Float(float(np.mean(inner.y)), DIGITS)
        return
    if count == 1:
        budget = Budget(_ONE_VARIABLE)
        found = match_formulas(
            inner.x[:, 0], inner.y, candidates, 0.0, budget, relative=inner.relative
        )
        graphs = (each.function for each in found if isinstance(each.function, Graph))
        yield from (to_expression(graph, ["x0"]) for graph in graphs)
        return
    if count > 1:
        waves = _has_waves(candidates)
        yield from rational_functions(inner, waves) if reduction.changes else ()
    if count > _DICTIONARY_INPUTS:
        return
    if count > 1:
        yield from pair_formulas(inner, candidates)


def fit_expression(
    name: str, expression: sympy.Expr, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    """Return the expression as a refitted graph, or None if it is not one or not finite."""
    try:
        graph = graph_of_expression(expression, data.x.shape[1])
    except KanrunError:
        return None
    return _fitted(name, graph, data, groups)


def _fitted(
    name: str, graph: Graph, data: SearchData, groups: tuple[sympy.Expr, ...] = ()
) -> FittedStructure | None:
    kept = min((refit(graph, data, _REFIT), graph), key=data.overall_error)
    is_finite = np.isfinite(data.overall_error(kept))
    return FittedStructure(name, kept, data, kept, groups=groups) if is_finite else None


def in_all_inputs(
    event: Event, reduction: Reduction, data: SearchData, outer: Symbolic | None = None
) -> Event:
    """Return what was found in the fewer variables, or `outer` of it, as graphs of all inputs.

    They are measured on `data`.
    """
    if not reduction.changes and outer is None:
        return replace(event, data=data)

    def whole(graph: Graph) -> tuple[Graph, int]:
        return composed(reduction.variables, reduction.factor, graph, data.x.shape[1], outer)

    groups = tuple(map(reduction.inserted, event.groups))
    if isinstance(event, SearchStage):
        return replace(event, graph=whole(event.graph)[0], data=data, groups=groups)
    network, first = whole(event.network)
    formula, snapped = (each and whole(each)[0] for each in (event.formula, event.snapped))
    matches = {first + i: found for i, found in event.matches.items()}
    rivals = tuple(Rival(reduction.restored(each.expression), each.bits) for each in event.rivals)
    return FittedStructure(
        event.name, network, data, formula, snapped, matches, groups, rivals, event.noise
    )


def of_logarithm(event: Event, data: SearchData) -> Event:
    """Return what was found for log |y| as graphs of y."""
    outer = Symbolic(TABLE["exp"], (1.0, 0.0, float(np.sign(data.y[0])), 0.0), "c")
    return in_all_inputs(event, Reduction.none(data.x.shape[1]), data, outer)


def pair_formulas(data: SearchData, candidates: Sequence[Candidate]) -> Iterator[sympy.Expr]:
    """Yield formulas of y from a dictionary of small expressions, exact ones first.

    Those that reproduce some of the points come as they are found, the plainest of each kind first;
    then the few nearest ones.
    """
    pick = np.linspace(0, len(data.y) - 1, min(_POINTS, len(data.y))).astype(int)
    entries = expand_dictionary(data.x[pick], candidates)
    names = {candidate.name for candidate in candidates}
    found: list[TermSum] = []
    y = data.y[pick]
    size: Array | float = np.abs(y) if data.relative else 1.0
    search = partial(nearest_sums, kept=_KEPT, floor=_EXACT)
    for sums in _kinds(entries, y, names, size, search):
        near = [each for left, each in sums if left < _PROMISING]
        exact = [each.expression() for each in near if each.error <= _EXACT_SUM]
        yield from sorted(exact, key=sympy.count_ops)
        found += near
    nearest = sorted(found, key=lambda each: each.error)
    yield from (each.expression() for each in nearest[:_RETURNED])


def _kinds(
    entries: Dictionary,
    y: Array,
    names: set[str],
    size: Array | float,
    search: Callable[..., Iterator[tuple[float, TermSum]]],
) -> Iterator[Iterator[tuple[float, TermSum]]]:
    """Yield the nearest sums of one kind after the other."""
    simple = entries.first(_SIMPLE)
    few = entries.first(_FEW)
    for place, target in enumerate(output_transforms(y, names, size)):
        yield search(target, simple if place else entries)
        if place < _QUOTIENTS:
            yield search(target, few, quotients=True)
    weights = zip(entries.values[:_WEIGHTS], entries.builds, strict=False)
    weighted = [output_transforms(y, names, size, weight) for weight in weights]
    for plain, *_ in weighted:
        yield search(plain, few, quotients=True)
    for targets in weighted:
        for place, target in enumerate(targets):
            yield search(target, few if place else simple)
