"""The shape search: structures from simple to deep, each trained, pruned and snapped, until a formula is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.description_length import SearchData, length_of
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import (
    TrainedGraph,
    coarse_fit,
    extend,
    sparsified,
    train_graph,
)
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.separability import module_templates, sum_product
from kanrun.engine.symbolic.smooth_fit import relative_noise
from kanrun.engine.symbolic.snapping import (
    FittedStructure,
    SearchStage,
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

Training = Callable[[], TrainedGraph]


def search(
    problem: SearchProblem, generator: np.random.Generator
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    """A `SearchStage` of every structure as it happens, and a `FittedStructure` for each structure worth it, a second one after a
    longer look; where noise turns out to be relative, the data with that said, from which all begins anew. Stops at an
    exact formula, where only noise is left, or when the budget is spent."""
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
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    """What the points show by themselves, then networks; where noise is relative, the same of log |y|, unless it is
    `settled` whether that is so."""
    run = _Search(problem, generator)
    inputs = list(range(problem.data.x.shape[1]))
    if len(inputs) <= problem.policy.plain:
        yield from run.attempt(first_shapes(inputs)[:2])
    if len(inputs) == 1:
        yield from run.deepen()
    if len(inputs) == 1 and not run.is_exact() and run.is_rough():
        yield from run.recorded(regressions(problem))
    if not (
        run.is_exact() or run.budget.over
    ):  # they cost little, and where noise is met they may be shorter
        yield from run.recorded(simple_laws(problem))
    relative = not (run.is_exact() or settled) and relative_noise(
        problem.data, problem.policy.symmetry
    )
    if relative:
        run = _Search(
            replace(problem, data=replace(problem.data, relative=True)), generator, run.tried
        )
        problem = run.problem
        yield problem.data
        yield from run.tried
        yield from run.recorded(simple_laws(problem))
    if not run.over():
        reduction = reduce_variables(problem.data, problem.policy.symmetry)
        yield from run.recorded(structured_formulas(problem, reduction))
        if reduction.changes and reduction.variables:
            yield from run.in_groups(reduction)
    if relative:
        logarithms = SearchProblem(problem.data.logarithms, problem.candidates, problem.policy)
        events = _drop_data_events(_in_inputs(logarithms, generator, settled=True))
        yield from (of_logarithm(event, problem.data) for event in events)
    elif not run.over():
        yield from _by_networks(run, inputs, 2 if len(inputs) <= problem.policy.plain else 0)


def _drop_data_events(
    events: Iterator[SearchStage | FittedStructure | SearchData],
) -> Iterator[SearchStage | FittedStructure]:
    return (event for event in events if not isinstance(event, SearchData))


def _by_networks(
    run: _Search, inputs: list[int], trained: int = 0
) -> Iterator[SearchStage | FittedStructure]:
    """Structures of networks from simple to deep, in the inputs as they are, after the first `trained` of them."""
    problem, generator = run.problem, run.generator
    yield from run.product_of_sums()
    yield from run.attempt(first_shapes(inputs)[trained:])
    yield from run.deepen()
    if len(inputs) > 2 and not run.over():
        templates, run.unstructured = module_templates(problem, generator)
        yield from run.attempt(templates)
        yield from run.deepen()
    for shape in deep_shapes(len(inputs)) if len(inputs) > 1 else ():
        if run.over():
            break
        yield from run.explore("-".join(map(str, shape)), run.training(partial(run.kan, shape)))
        yield from run.deepen()
    if not run.tried:
        yield from run.last_resort()


class _Search:
    """What has been tried so far, and what is worth trying still."""

    def __init__(
        self,
        problem: SearchProblem,
        generator: np.random.Generator,
        tried: Sequence[FittedStructure] = (),
    ) -> None:
        self.problem, self.generator = problem, generator
        self.data, self.policy = problem.data, problem.policy
        self.budget = Budget(problem.policy.searching * problem.policy.budget)
        self.further = problem.policy.longer_search_budget  # work left for longer looks
        again = (rebuild(each, lambda graph: (graph, 0), self.data) for each in tried)
        self.tried = [each for each in again if isinstance(each, FittedStructure)]
        self.deep = 0  # of `tried`, those that had their longer look
        self.trained: list[tuple[str, TrainedGraph]] = []
        self.unstructured = np.inf  # the error of a wide network, once it is trained

    def is_exact(self) -> bool:
        """Whether a formula gives all points to rounding."""
        return any(each.is_exact(self.problem) for each in self.tried)

    def is_rough(self) -> bool:
        """Whether no network is as accurate as those of exact data are, or they merely interpolate."""
        return self.reached() > self.policy.selection.smooth

    def reached(self) -> float:
        """The error of the best network that has fewer parameters than there are points."""
        errors = [
            each.error
            for _, each in self.trained
            if not self.data.interpolated_by(each.graph.parameters.size)
        ]
        return min([self.unstructured, *errors])

    def over(self) -> bool:
        """Whether a formula is exact, or as good as any network with only noise left, or the budget is spent."""
        if self.is_exact() or self.budget.over:
            return True
        reached = self.reached()
        good = [
            each
            for each in self.tried
            if each.formula_error <= self.policy.noise_stop_ratio * reached < np.inf
        ]
        return any(
            each.formula is not None
            and each.formula_error > self.policy.selection.smooth
            and self.data.residuals_are_noise(each.formula)
            for each in good
        )

    def recorded(
        self, events: Iterator[SearchStage | FittedStructure]
    ) -> Iterator[SearchStage | FittedStructure]:
        """The events, with what was tried noted as having had its longer look."""
        for event in events:
            if isinstance(event, FittedStructure):
                self.tried.insert(self.deep, event)
                self.deep += 1
            yield event

    def in_groups(self, reduction: Reduction) -> Iterator[SearchStage | FittedStructure]:
        """A search of networks in the fewer variables that symmetries leave."""
        if self.over():
            return
        policy = replace(self.policy, budget=self.policy.grouped * self.budget.left)
        inner = SearchProblem(reduction.data(self.data), self.problem.candidates, policy)
        inputs = list(range(len(reduction.variables)))
        events = _by_networks(_Search(inner, self.generator), inputs)
        if len(inputs) == 1:
            events = _drop_data_events(_in_inputs(inner, self.generator, settled=True))
        yield from self.recorded(in_all_inputs(event, reduction, self.problem) for event in events)

    def attempt(self, templates: Sequence[Template]) -> Iterator[SearchStage | FittedStructure]:
        if self.over():
            return
        for name, training in self.ranked(templates):
            yield from self.explore(name, training)
            if self.over():  # asked before the next one, as ranking takes long
                return

    def product_of_sums(self) -> Iterator[SearchStage | FittedStructure]:
        """One constant and one product of sums, where that is near enough to train on."""
        found = sum_product(self.data, self.policy.degree, self.policy.sum_product, self.generator)
        if found is None:
            return
        first = max(
            edge.function.intervals for edge in found.edges if isinstance(edge.function, Spline)
        )
        grids = (first, *(grid for grid in self.policy.training.grids if grid > first))
        yield from self.explore(
            "product of sums", lambda: extend(found, self.data, grids, self.policy.training)
        )
        yield from self.deepen()

    def explore(self, name: str, training: Training) -> Iterator[SearchStage | FittedStructure]:
        """Trains a structure, and where that went better than the best formula so far, prunes and snaps it."""
        began = time.monotonic()
        trained = training()
        self.trained.append((name, trained))
        yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
        best = min((each.formula_error for each in self.tried), default=np.inf)
        is_exact = trained.error < self.policy.selection.noisy
        if trained.error <= self.policy.snap_threshold and (
            is_exact or trained.error < self.policy.better * best
        ):
            yield from self.snap(name, trained)

    def snap(self, name: str, trained: TrainedGraph) -> Iterator[SearchStage | FittedStructure]:
        for event in snapped(name, trained, self.problem):
            self.tried += [event] if isinstance(event, FittedStructure) else []
            yield event

    def deepen(self) -> Iterator[SearchStage | FittedStructure]:
        """A longer look at what is not exact so far: accurate and small networks first."""
        for index in sorted(
            range(self.deep, len(self.tried)), key=lambda i: _promise(self.tried[i])
        ):
            if self.over() or self.further <= 0:
                break
            if self.data.interpolated_by(self.tried[index].network.parameters.size):
                continue  # what it does between the points says nothing
            allowance = min(self.policy.selection.budget, self.further)
            if self.data.x.shape[1] == 1:
                allowance = (
                    self.policy.single_edge_budget_fraction * self.budget.left
                )  # one function is all there is to look at
            for event in search_longer(self.tried[index], self.problem, allowance):
                if isinstance(event, FittedStructure):
                    self.further -= event.work
                    self.tried[index] = event
                yield event
        self.deep = len(self.tried)

    def last_resort(self) -> Iterator[SearchStage | FittedStructure]:
        """Nothing is accurate: the smallest network within 10 % of the best, if that says anything about y at all."""
        best = min((trained.error for _, trained in self.trained), default=np.inf)
        if best < self.data.no_skill_error:
            near = [
                (name, each)
                for name, each in self.trained
                if each.error <= self.policy.fallback_error_ratio * best
            ]
            yield from self.snap(*min(near, key=lambda entry: entry[1].graph.active_edges))
            yield from self.deepen()

    def ranked(self, templates: Sequence[Template]) -> Iterator[tuple[str, Training]]:
        """The structures with how to train them: the first two at once, then the rest in the order of coarse fits,
        which are begun while the budget lasts."""
        for template in templates[:2]:
            yield template.name, self.training(partial(self.fresh, template, 3))
        several = self.data.x.shape[1] > 2  # few inputs have few structures: all are ranked
        coarse: list[tuple[float, Template, TrainedGraph]] = []
        for template in sorted(templates[2:], key=lambda each: each.edges)[: self.policy.ranked]:
            small = several and template.edges <= self.policy.small
            best = self.coarse(template, (3, 3, 7, 4, 5, 4) if small else (3, 3, 7))
            coarse.append(
                (best.error * self.policy.edge**template.edges, template, best)
            )
            if (best.error < self.policy.ranking_stop_error and several) or self.budget.over:
                break
        for _, template, best in sorted(coarse, key=lambda entry: entry[0])[: self.policy.explored]:
            yield template.name, partial(self.continued, template, best)

    def training(self, fresh: Callable[[], Graph]) -> Training:
        """Training from starts that `fresh` draws."""
        return lambda: train_graph(iter(fresh, None), self.data, self.policy.training)

    def fresh(self, template: Template, intervals: int) -> Graph:
        return start(
            template, self.data.x, self.data.y, intervals, self.policy.degree, self.generator
        )

    def kan(self, shape: Sequence[int], intervals: int = 3) -> Graph:
        return kan_shape(
            shape, self.data.x, self.data.y, intervals, self.policy.degree, self.generator
        )

    def coarse(self, template: Template, grids: Sequence[int]) -> TrainedGraph:
        """The best of a coarse fit on each of the grids. Small structures of several inputs get more of them, which are
        cheap and often get stuck, so that a larger structure that contains them does not take their place."""
        fits = [
            coarse_fit(self.fresh(template, intervals), self.data, self.policy.training)
            for intervals in grids
        ]
        return min(fits, key=lambda fit: fit.error)

    def continued(self, template: Template, best: TrainedGraph) -> TrainedGraph:
        """On from a coarse fit that is good, else with more starts."""
        training = self.policy.training
        if best.error > training.good and training.starts > 3:
            best = min(
                best, self.coarse(template, (4,) * (training.starts - 3)), key=lambda fit: fit.error
            )
        return (
            best
            if best.error > training.hopeless
            else extend(best.graph, self.data, training.grids, training)
        )


def _promise(tried: FittedStructure) -> float:
    """Lower for networks of few edges, one more edge for 1.5 digits of accuracy, of which four count."""
    return float(np.log10(max(tried.network_error, 1e-4))) + 1.5 * tried.network.active_edges


def fixed_shape(
    shape: Sequence[int], problem: SearchProblem, generator: np.random.Generator, sparsity: float
) -> Iterator[SearchStage | FittedStructure]:
    """A KAN of widths `shape` trained with the sparsity penalty, pruned, trained on and snapped."""
    name, began = "-".join(map(str, shape)), time.monotonic()
    run, data, training = _Search(problem, generator), problem.data, problem.policy.training
    starts = [
        coarse_fit(run.kan(shape, 3 + 2 * (k % 2)), data, training) for k in range(training.starts)
    ]
    best = min(starts, key=lambda each: each.error)
    sparse = sparsified(best.graph, data, sparsity, training) if sparsity > 0 else best.graph
    trained = extend(sparse, data, training.grids, training)
    if (
        trained.error > training.astray * best.error
    ):  # the penalty led into a worse valley than where it started
        trained = extend(best.graph, data, training.grids, training)
    yield SearchStage("train", name, trained.graph, trained.error, time.monotonic() - began)
    if trained.error < data.no_skill_error:
        yield from refine_to_formula(name, trained, problem)


def choose_formula(
    tried: Sequence[FittedStructure], problem: SearchProblem
) -> FittedStructure | None:
    """The exact one of least complexity, else the formula of the shortest description; None if nothing trained.

    A network without a formula counts as one that is the policy's `unread` times as wrong.
    """
    exact = [each for each in tried if each.is_exact(problem)]
    if exact:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)

    def length(each: FittedStructure) -> float:
        unread = length_of(
            problem.policy.no_formula_factor * each.network_error, 0, 0.0, problem.data
        )
        return each.best.length if each.formula else unread

    return min(tried, key=length, default=None)
