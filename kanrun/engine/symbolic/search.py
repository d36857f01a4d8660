"""The search for a formula, from simple to deep structures, until one is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.description_length import SearchData, length_of
from kanrun.engine.symbolic.edge_functions import Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import (
    TrainedGraph,
    coarse_fit,
    continue_fit,
    extend,
    sparsify,
    train_graph,
)
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.separability import module_templates, sum_product
from kanrun.engine.symbolic.smooth_fit import relative_noise
from kanrun.engine.symbolic.snapping import (
    FittedStructure,
    SearchStage,
    is_noise_limited,
    refine_to_formula,
    search_longer,
    snapped,
)
from kanrun.engine.symbolic.structure import (
    in_all_inputs,
    of_logarithm,
    rebuild,
    regressions,
    simple_laws,
    structured_formulas,
)
from kanrun.engine.symbolic.symmetries import Reduction, dimensionless, reduce_variables
from kanrun.engine.symbolic.templates import Template, deep_shapes, first_shapes, kan_shape, start

Event = SearchStage | FittedStructure


def search(
    problem: SearchProblem, generator: np.random.Generator
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    """Search for a formula, from simple to deep structures.

    Yields `SearchStage` for each stage of a structure; `FittedStructure` for each structure that
    trains well enough, and again after a longer search; `SearchData` with `relative=True` if the
    noise is proportional to y, after which the search restarts. Stops at an exact formula, if only
    noise is left, or if the budget is spent.
    """
    groups = Reduction.none(problem.data.x.shape[1])
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
    inputs = list(range(problem.data.x.shape[1]))
    first = 2 if len(inputs) <= problem.policy.plain else 0
    yield from run.attempt(first_shapes(inputs)[:first])
    if len(inputs) == 1:
        yield from run.deepen()
        if not run.is_exact() and run.network_error() > problem.policy.selection.smooth:
            yield from run.recorded(regressions(problem))
    if not (run.is_exact() or run.budget.over):
        # They cost little, and if noise has been met they may be shorter.
        yield from run.recorded(simple_laws(problem))
    relative = not (run.is_exact() or settled)
    relative = relative and relative_noise(problem.data, problem.policy.symmetry)
    if relative:
        problem = replace(problem, data=replace(problem.data, relative=True))
        run = _Search(problem, generator, run.structures)
        yield problem.data
        yield from run.structures
        yield from run.recorded(simple_laws(problem))
    if not run.over():
        reduction = reduce_variables(problem.data, problem.policy.symmetry)
        yield from run.recorded(structured_formulas(problem, reduction))
        if reduction.changes and reduction.variables and not run.over():
            yield from run.recorded(run.in_groups(reduction))
    if relative:
        logarithms = SearchProblem(problem.data.logarithms, problem.candidates, problem.policy)
        for event in _drop_data_events(_in_inputs(logarithms, generator, settled=True)):
            yield of_logarithm(event, problem.data)
    elif not run.over():
        yield from run.by_networks(first_shapes(inputs)[first:])


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
        self.budget = Budget(problem.policy.search_fraction * problem.policy.budget)
        self.longer_searches = problem.policy.longer_search_budget
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
        limit = self.policy.noise_stop_ratio * self.network_error()
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
        policy = replace(self.policy, budget=self.policy.group_fraction * self.budget.left)
        inner = SearchProblem(reduction.data(self.data), self.problem.candidates, policy)
        inputs = list(range(len(reduction.variables)))
        events = _Search(inner, self.generator).by_networks(first_shapes(inputs))
        if len(inputs) == 1:
            events = _drop_data_events(_in_inputs(inner, self.generator, settled=True))
        return (in_all_inputs(event, reduction, self.problem) for event in events)

    def by_networks(self, shapes: Sequence[Template]) -> Iterator[Event]:
        """Search structures of networks from simple to deep, the given ones first."""
        inputs, policy = self.data.x.shape[1], self.policy
        product = sum_product(self.data, policy.degree, policy.sum_product, self.generator)
        if product is not None:
            splines = [each.function for each in product.edges if isinstance(each.function, Spline)]
            first = max(spline.intervals for spline in splines)
            grids = (first, *(grid for grid in policy.training.grids if grid > first))
            fit = partial(extend, product, self.data, grids, policy.training)
            yield from self.explore("product of sums", fit)
            yield from self.deepen()
        yield from self.attempt(shapes)
        yield from self.deepen()
        if inputs > 2 and not self.over():
            templates, self.surrogate_error = module_templates(self.problem, self.generator)
            yield from self.attempt(templates)
            yield from self.deepen()
        for shape in deep_shapes(inputs) if inputs > 1 else ():
            if self.over():
                break
            starts = iter(partial(self.kan, shape), None)
            fit = partial(train_graph, starts, self.data, policy.training)
            yield from self.explore("-".join(map(str, shape)), fit)
            yield from self.deepen()
        best = min(self.trained, key=lambda each: each[1].error, default=None)
        if not self.structures and best is not None and best[1].error < self.data.no_skill_error:
            # No network is accurate; the best still says something about y.
            self.pending += yield from _kept(snapped(*best, self.problem))
            yield from self.deepen()

    def attempt(self, templates: Sequence[Template]) -> Iterator[Event]:
        """Train the first two structures, then the best of the others by coarse fits."""
        if self.over():
            return
        for template, fit in self.ranked(templates):
            yield from self.explore(template.name, fit)
            # Asked before the next structure, as ranking takes long.
            if self.over():
                return

    def ranked(
        self, templates: Sequence[Template]
    ) -> Iterator[tuple[Template, Callable[[], TrainedGraph]]]:
        training = self.policy.training
        for template in templates[:2]:
            starts = iter(partial(self.fresh, template, 3), None)
            yield template, partial(train_graph, starts, self.data, training)
        coarse: list[tuple[float, Template, TrainedGraph]] = []
        for template in sorted(templates[2:], key=lambda each: each.edges)[: self.policy.ranked]:
            best = self.coarse(template, (3, 3, 7))
            coarse.append((best.error * self.policy.edge_handicap**template.edges, template, best))
            if best.error < self.policy.ranking_stop_error or self.budget.over:
                break
        for _, template, best in sorted(coarse, key=lambda each: each[0])[: self.policy.explored]:
            yield template, partial(self.continued, template, best)

    def explore(self, name: str, fit: Callable[[], TrainedGraph]) -> Iterator[Event]:
        """Train a structure; prune and snap it if it is accurate enough."""
        began = time.monotonic()
        trained = fit()
        self.trained.append((name, trained))
        yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
        if trained.error <= self.policy.snap_threshold:
            self.pending += yield from _kept(snapped(name, trained, self.problem))

    def deepen(self) -> Iterator[Event]:
        """Search longer in the pending structures, accurate and small networks first.

        One more edge must gain 1.5 digits of accuracy, of which four count.
        """

        def promise(each: FittedStructure) -> float:
            return float(np.log10(max(each.network_error, 1e-4))) + 1.5 * each.network.active_edges

        for tried in sorted(self.pending, key=promise):
            if self.over() or self.longer_searches <= 0:
                break
            # Between the points an interpolating network says nothing.
            if self.data.interpolated_by(tried.network.parameters.size):
                continue
            allowance = min(self.policy.selection.budget, self.longer_searches)
            if self.data.x.shape[1] == 1:
                allowance = self.policy.single_edge_budget_fraction * self.budget.left
            for found in (yield from _kept(search_longer(tried, self.problem, allowance))):
                self.longer_searches -= found.work
                self.pending[self.pending.index(tried)] = found
        self.finished, self.pending = self.structures, []

    def fresh(self, template: Template, intervals: int) -> Graph:
        data, degree = self.data, self.policy.degree
        return start(template, data.x, data.y, intervals, degree, self.generator)

    def kan(self, shape: Sequence[int], intervals: int = 3) -> Graph:
        data, degree = self.data, self.policy.degree
        return kan_shape(shape, data.x, data.y, intervals, degree, self.generator)

    def coarse(self, template: Template, grids: Sequence[int]) -> TrainedGraph:
        """Return the best of a coarse fit on each of the grids."""
        starts = (self.fresh(template, intervals) for intervals in grids)
        fits = [coarse_fit(graph, self.data, self.policy.training) for graph in starts]
        return min(fits, key=lambda fit: fit.error)

    def continued(self, template: Template, best: TrainedGraph) -> TrainedGraph:
        """Refine the grids of a coarse fit, after more starts if it is not good."""
        training = self.policy.training
        if best.error > training.good and training.starts > 3:
            more = self.coarse(template, (4,) * (training.starts - 3))
            best = min(best, more, key=lambda fit: fit.error)
        return continue_fit(best, self.data, training)


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
    name, began = "-".join(map(str, shape)), time.monotonic()
    run, data, training = _Search(problem, generator), problem.data, problem.policy.training
    starts = [run.kan(shape, 3 + 2 * (k % 2)) for k in range(training.starts)]
    best = min((coarse_fit(graph, data, training) for graph in starts), key=lambda fit: fit.error)
    sparse = sparsify(best.graph, data, sparsity, training) if sparsity > 0 else best.graph
    trained = extend(sparse, data, training.grids, training)
    if trained.error > best.error:
        # The penalty led into a worse minimum.
        trained = extend(best.graph, data, training.grids, training)
    yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
    if trained.error < data.no_skill_error:
        yield from refine_to_formula(name, trained, problem)


def choose_formula(
    structures: Sequence[FittedStructure], problem: SearchProblem
) -> FittedStructure | None:
    """Return the exact formula of least complexity, else the one of the shortest description.

    A network without a formula counts as one with `no_formula_factor` times its error. None if
    nothing was trained.
    """
    exact = [each for each in structures if each.is_exact(problem)]
    if exact:
        return min(exact, key=lambda each: each.best.graph.complexity)

    def length(each: FittedStructure) -> float:
        error = problem.policy.no_formula_factor * each.network_error
        return each.best.length if each.formula else length_of(error, 0, 0.0, problem.data)

    return min(structures, key=length, default=None)
