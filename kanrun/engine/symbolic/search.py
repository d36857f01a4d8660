"""The search for a formula, from simple to deep structures, until one is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.laws import (
    in_all_inputs,
    of_logarithm,
    rebuild,
    regressions,
    simple_laws,
    structured_formulas,
)
from kanrun.engine.symbolic.problem import (
    FittedStructure,
    SearchData,
    SearchProblem,
    SearchStage,
    length_of,
)
from kanrun.engine.symbolic.refit import (
    GOOD,
    TrainedGraph,
    coarse_fit,
    continue_fit,
    extend,
    sparsify,
    train_graph,
)
from kanrun.engine.symbolic.relevance import relevant_inputs
from kanrun.engine.symbolic.smooth_fit import relative_noise
from kanrun.engine.symbolic.snapping import (
    LONGER_SEARCH,
    SMOOTH,
    SNAP_THRESHOLD,
    is_noise_limited,
    refine_to_formula,
    search_longer,
    snapped,
)
from kanrun.engine.symbolic.structures import (
    Skeleton,
    deep_shapes,
    first_shapes,
    module_skeletons,
)
from kanrun.engine.symbolic.symmetries import Reduction, dimensionless, reduce_variables

#: Maximum number of inputs at which two plain networks are trained first of all.
_PLAIN = 3
#: Multiple of the best network's error at which a formula ends the search if it leaves noise.
_NOISE_STOP = 1.05
#: Work for all longer searches, fraction of what remains for the function of a single input, and
#: for a search in the groups that symmetries leave.
_LONGER_SEARCHES, _SINGLE_INPUT, _GROUPS = 30.0, 0.8, 0.6
#: Structures that are ranked by coarse fits at most, and the best of them that are trained; the
#: intervals of these fits, and of more of them; the error of a coarse fit that ends the ranking,
#: and its factor for each edge.
_RANKED, _EXPLORED, _COARSE_GRIDS, _MORE_INTERVALS = 14, 7, (3, 3, 7), 4
_RANKING_STOP, _EDGE_HANDICAP = 3e-3, 1.2
#: Intervals of other starts; of a KAN of fixed shape every second start has two more.
_START_INTERVALS = 3
#: Accuracy beyond which networks are not preferred for a longer search, and the digits of it that
#: one more edge must gain.
_ACCURATE, _DIGITS_PER_EDGE = 1e-4, 1.5
#: Factor of the error of a structure without a formula.
_NO_FORMULA = 100.0

Event = SearchStage | FittedStructure


def search(
    problem: SearchProblem, generator: np.random.Generator
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    """Search for a formula in the inputs that matter, from simple to deep structures.

    Yields `SearchStage` for each stage of a structure; `FittedStructure` for each structure that
    trains well enough, and again after a longer search; `SearchData` with `relative=True` if the
    noise is proportional to y, after which the search restarts. Stops at an exact formula, if only
    noise is left, or if the budget is spent.
    """
    groups = relevant_inputs(problem.data)
    if problem.dimensions is not None and problem.dimensions.any():
        groups = dimensionless(problem.data, problem.dimensions)
    if groups.changes and not groups.variables:
        yield from structured_formulas(problem, groups)
        return
    inner = SearchProblem(groups.data(problem.data), problem.candidates, problem.policy)
    for event in _in_inputs(inner, generator):
        if isinstance(event, SearchData):
            problem = replace(problem, data=replace(problem.data, relative=True))
            yield problem.data
        else:
            yield in_all_inputs(event, groups, problem)


def _in_inputs(
    problem: SearchProblem, generator: np.random.Generator, settled: bool = False
) -> Iterator[Event | SearchData]:
    """Search the points themselves, then with networks; with relative noise, search log |y|.

    Whether noise is relative is not asked if that is `settled`.
    """
    run = _Search(problem, generator)
    inputs = problem.data.x.shape[1]
    shapes, first = first_shapes(range(inputs), inputs), 2 if inputs <= _PLAIN else 0
    # They cost little, an exact one needs no network, and if noise is met they may be shorter.
    yield from run.recorded(simple_laws(problem))
    yield from run.attempt(shapes[:first])
    if inputs == 1:
        yield from run.deepen()
        if not run.is_exact() and run.network_error() > SMOOTH:
            yield from run.recorded(regressions(problem))
    relative = not (run.is_exact() or settled)
    relative = relative and relative_noise(problem.data)
    if relative:
        problem = replace(problem, data=replace(problem.data, relative=True))
        run = _Search(problem, generator, run.structures)
        yield problem.data
        yield from run.structures
        yield from run.recorded(simple_laws(problem))
    if not run.over():
        reduction = reduce_variables(problem.data)
        yield from run.recorded(structured_formulas(problem, reduction))
        if reduction.changes and reduction.variables and not run.over():
            yield from run.recorded(run.in_groups(reduction))
    if relative:
        logarithms = SearchProblem(problem.data.logarithms, problem.candidates, problem.policy)
        for event in _drop_data_events(_in_inputs(logarithms, generator, settled=True)):
            yield of_logarithm(event, problem.data)
    elif not run.over():
        yield from run.by_networks(shapes[first:])


def _drop_data_events(events: Iterator[Event | SearchData]) -> Iterator[Event]:
    return (event for event in events if not isinstance(event, SearchData))


class _Search:
    """The structures of a search so far: those `pending` have not had their longer search."""

    def __init__(
        self,
        problem: SearchProblem,
        generator: np.random.Generator,
        structures: Sequence[FittedStructure] = (),
    ) -> None:
        self.problem, self.generator = problem, generator
        self.data, self.policy = problem.data, problem.policy
        self.budget = Budget(problem.policy.search_budget)
        self.longer_searches = _LONGER_SEARCHES
        self.finished: list[FittedStructure] = []
        again = (rebuild(each, lambda graph: (graph, 0), self.data) for each in structures)
        self.pending = [each for each in again if isinstance(each, FittedStructure)]
        self.trained: list[tuple[str, TrainedGraph]] = []
        self.surrogate_error = np.inf

    @property
    def structures(self) -> list[FittedStructure]:
        return [*self.finished, *self.pending]

    def is_exact(self) -> bool:
        return any(each.is_exact(self.problem) for each in self.structures)

    def network_error(self) -> float:
        """Return the error of the best network that has fewer parameters than there are points."""
        errors = [
            each.error
            for _, each in self.trained
            if not self.data.interpolated_by(each.graph.parameters.size)
        ]
        return min([self.surrogate_error, *errors])

    def over(self) -> bool:
        """Return whether a formula is exact, only noise is left, or the budget is spent.

        Only noise is left if the residuals of a formula that is as good as any network are noise.
        """
        if self.is_exact() or self.budget.over:
            return True
        limit = _NOISE_STOP * self.network_error()
        return any(
            each.formula_error <= limit < np.inf and is_noise_limited(each.best.graph, self.problem)
            for each in self.structures
        )

    def recorded(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events; structures among them have had their longer search."""
        for event in events:
            if isinstance(event, FittedStructure):
                self.finished.append(event)
            yield event

    def in_groups(self, reduction: Reduction) -> Iterator[Event]:
        """Search with networks in the fewer variables that symmetries leave."""
        policy = replace(self.policy, budget=_GROUPS * self.budget.left)
        inner = SearchProblem(reduction.data(self.data), self.problem.candidates, policy)
        inputs = len(reduction.variables)
        events = _Search(inner, self.generator).by_networks(first_shapes(range(inputs), inputs))
        if inputs == 1:
            events = _drop_data_events(_in_inputs(inner, self.generator, settled=True))
        return (in_all_inputs(event, reduction, self.problem) for event in events)

    def by_networks(self, shapes: Sequence[Skeleton]) -> Iterator[Event]:
        """Search structures of networks from simple to deep, the given ones first."""
        inputs = self.data.x.shape[1]
        yield from self.attempt(shapes)
        yield from self.deepen()
        if inputs > 2 and not self.over():
            skeletons, self.surrogate_error = module_skeletons(self.problem, self.generator)
            yield from self.attempt(skeletons)
            yield from self.deepen()
        for skeleton in deep_shapes(inputs) if inputs > 1 else ():
            if self.over():
                break
            yield from self.explore(skeleton.name, partial(self.train, skeleton))
            yield from self.deepen()
        best = min(self.trained, key=lambda each: each[1].error, default=None)
        if not self.structures and best is not None and best[1].error < self.data.no_skill_error:
            # No network is accurate; the best still says something about y.
            self.pending += yield from _kept(snapped(*best, self.problem))
            yield from self.deepen()

    def attempt(self, skeletons: Sequence[Skeleton]) -> Iterator[Event]:
        """Train the first two structures, then the best of the others by coarse fits."""
        if self.over():
            return
        for skeleton, fit in self.ranked(skeletons):
            yield from self.explore(skeleton.name, fit)
            # Asked before the next structure, as ranking takes long.
            if self.over():
                return

    def ranked(
        self, skeletons: Sequence[Skeleton]
    ) -> Iterator[tuple[Skeleton, Callable[[], TrainedGraph]]]:
        for skeleton in skeletons[:2]:
            yield skeleton, partial(self.train, skeleton)
        coarse: list[tuple[float, Skeleton, TrainedGraph]] = []
        for skeleton in sorted(skeletons[2:], key=lambda each: each.edges)[:_RANKED]:
            best = self.coarse(skeleton, _COARSE_GRIDS)
            coarse.append((best.error * _EDGE_HANDICAP**skeleton.edges, skeleton, best))
            if best.error < _RANKING_STOP or self.budget.over:
                break
        for _, skeleton, best in sorted(coarse, key=lambda each: each[0])[:_EXPLORED]:
            yield skeleton, partial(self.continued, skeleton, best)

    def explore(self, name: str, fit: Callable[[], TrainedGraph]) -> Iterator[Event]:
        """Train a structure; prune and snap it if it is accurate enough."""
        began = time.monotonic()
        trained = fit()
        self.trained.append((name, trained))
        yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
        if trained.error <= SNAP_THRESHOLD:
            self.pending += yield from _kept(snapped(name, trained, self.problem))

    def deepen(self) -> Iterator[Event]:
        """Search longer in the pending structures, accurate and small networks first."""

        def promise(each: FittedStructure) -> float:
            digits = float(np.log10(max(each.network_error, _ACCURATE)))
            return digits + _DIGITS_PER_EDGE * each.network.active_edges

        for tried in sorted(self.pending, key=promise):
            if self.over() or self.longer_searches <= 0:
                break
            # Between the points an interpolating network says nothing.
            if self.data.interpolated_by(tried.network.parameters.size):
                continue
            allowance = min(LONGER_SEARCH, self.longer_searches)
            if self.data.x.shape[1] == 1:
                allowance = _SINGLE_INPUT * self.budget.left
            for found in (yield from _kept(search_longer(tried, self.problem, allowance))):
                self.longer_searches -= found.work
                self.pending[self.pending.index(tried)] = found
        self.finished, self.pending = self.structures, []

    def start(self, skeleton: Skeleton, intervals: int = _START_INTERVALS) -> Graph:
        data = self.data
        return skeleton.start(data.x, data.y, intervals, self.policy.degree, self.generator)

    def train(self, skeleton: Skeleton) -> TrainedGraph:
        starts = (self.start(skeleton) for _ in range(self.policy.starts))
        return train_graph(starts, self.data, self.policy.grids)

    def coarse(self, skeleton: Skeleton, grids: Sequence[int]) -> TrainedGraph:
        """Return the best of a coarse fit on each of the grids."""
        fits = [coarse_fit(self.start(skeleton, intervals), self.data) for intervals in grids]
        return min(fits, key=lambda fit: fit.error)

    def continued(self, skeleton: Skeleton, best: TrainedGraph) -> TrainedGraph:
        """Refine the grids of a coarse fit, after more starts if it is not good."""
        more = self.policy.starts - len(_COARSE_GRIDS)
        if best.error > GOOD and more > 0:
            another = self.coarse(skeleton, (_MORE_INTERVALS,) * more)
            best = min(best, another, key=lambda fit: fit.error)
        return continue_fit(best, self.data, self.policy.grids)


def _kept(events: Iterator[Event]) -> Generator[Event, None, list[FittedStructure]]:
    """Yield the events; return the structures among them."""
    structures: list[FittedStructure] = []
    for event in events:
        structures += [event] if isinstance(event, FittedStructure) else []
        yield event
    return structures


def fixed_shape(
    shape: Sequence[int], problem: SearchProblem, generator: np.random.Generator, sparsity: float
) -> Iterator[Event]:
    """Train a KAN of widths `shape` with the sparsity penalty, prune it, retrain it and snap it."""
    began, run, data = time.monotonic(), _Search(problem, generator), problem.data
    skeleton, policy = Skeleton.of_kan(shape), problem.policy
    best = run.coarse(skeleton, [_START_INTERVALS + 2 * (k % 2) for k in range(policy.starts)])
    sparse = sparsify(best.graph, data, sparsity) if sparsity > 0 else best.graph
    trained = extend(sparse, data, policy.grids)
    if trained.error > best.error:
        # The penalty led into a worse minimum.
        trained = extend(best.graph, data, policy.grids)
    name = skeleton.name
    yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
    if trained.error < data.no_skill_error:
        yield from refine_to_formula(name, trained, problem)


def choose_formula(
    structures: Sequence[FittedStructure], problem: SearchProblem
) -> FittedStructure | None:
    """Return the exact formula of least complexity, else the one of the shortest description.

    A network without a formula counts as one with `_NO_FORMULA` times its error. None if
    nothing was trained.
    """
    exact = [each for each in structures if each.is_exact(problem)]
    if exact:
        return min(exact, key=lambda each: each.best.graph.complexity)

    def length(each: FittedStructure) -> float:
        error = _NO_FORMULA * each.network_error
        return each.best.length if each.formula else length_of(error, 0, 0.0, problem.data)

    return min(structures, key=length, default=None)
