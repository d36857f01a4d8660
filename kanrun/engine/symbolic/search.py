"""Search for a formula, from simple to deep structures, until one is exact."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import Array, input_symbols
from kanrun.engine.symbolic.constant_errors import is_determined
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.edge_functions import IDENTITY_EDGE, Spline
from kanrun.engine.symbolic.formula import finish_formula
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, fitted_grids
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
    SearchStage,
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
from kanrun.engine.symbolic.refit import GOOD, STALLED, coarse_fit, extend
from kanrun.engine.symbolic.snapping import (
    SNAP_THRESHOLD,
    is_noise_limited,
    refine_to_formula,
    search_longer,
    snapped,
)
from kanrun.engine.symbolic.sparse import sparse_formulas
from kanrun.engine.symbolic.symmetries import (
    NO_FIT,
    is_exactly_smooth,
    reduce_variables,
    smooth_fit,
)

#: Multiple of the best network's error at which a formula ends the search if it leaves noise.
_NOISE_STOP = 1.05
#: Intervals of the coarse fits of a structure.
_COARSE_GRIDS = (3, 3, 7)
#: Intervals of more of them.
_MORE_INTERVALS = 4
#: Factor of the error of a structure without a formula.
_NO_FORMULA = 100.0
#: Maximum number of inputs of which a product is tried.
_PRODUCT_INPUTS = 6
#: Smallest and largest slope of random splines.
_START_SLOPES = (0.3, 1.0)
#: Size of the bends of random splines.
_START_BENDS = 0.1
#: Margin of the grids of random splines.
_START_MARGIN = 0.1
#: Largest number of inputs of sparse regressions in all of them.
_WIDE_TABLE = 30
#: Edge whose spline is drawn at the start of a fit.
_OPEN = Spline(-1.0, 1.0, np.zeros(0), 0)
#: Hidden widths of fully connected KANs; the last ones are for more than two inputs.
_DEEP = ((2,), (2, 1), (5,), (4, 2), (3, 2, 1))


@dataclass(frozen=True)
class Skeleton:
    """A structure without functions: its `graph` has open splines.

    Its name is what tables show, such as `2-1-1` or `2-1 with product`.
    """

    name: str
    graph: Graph

    @classmethod
    def of_kan(cls, shape: Sequence[int]) -> Skeleton:
        """Return the fully connected sums of a KAN of widths `shape`."""
        edges = list[Edge]()
        first = 0
        for inputs, outputs in itertools.pairwise(shape):
            targets = range(first + inputs, first + inputs + outputs)
            edges += [Edge(first + i, target, _OPEN) for target in targets for i in range(inputs)]
            first += inputs
        sums: list[Operation] = ["sum" for _ in range(sum(shape[1:]))]
        return cls("-".join(map(str, shape)), Graph(shape[0], tuple(sums), tuple(edges)))

    @classmethod
    def with_product(cls, name: str, inputs: int, *after: Operation) -> Skeleton:
        """Return the sum of functions of the inputs and of a product of such, and nodes `after`."""
        nodes = range(inputs, inputs + 2)
        edges = [Edge(i, node, _OPEN) for node in nodes for i in range(inputs)]
        edges.append(Edge(inputs, inputs + 1, IDENTITY_EDGE))
        edges += [Edge(inputs + 1, inputs + 2, _OPEN) for _ in after]
        return cls(f"{name} with product", Graph(inputs, ("product", "sum", *after), tuple(edges)))

    def start(self, x: Array, intervals: int, degree: int, generator: np.random.Generator) -> Graph:
        """Return a graph with random splines: lines with small bends.

        Grids cover the arguments at x (N, inputs).
        """
        graph = self.graph
        functions = intervals + degree
        for i in graph.numeric_edges():
            slope = generator.choice([-1.0, 1.0]) * generator.uniform(*_START_SLOPES)
            bends = _START_BENDS * generator.normal(size=functions)
            line = slope * np.linspace(-1, 1, functions)
            graph = graph.with_function(i, Spline(-1.0, 1.0, line + bends, degree))
        return fitted_grids(graph, x, margin=_START_MARGIN, keep=False)


def shapes_of(inputs: int) -> list[Skeleton]:
    """Return [n,1], [n,1,1], a product beside the sum, outside and inside a function, then others.

    The last are fully connected KANs for what no other structure reaches. For one input there is a
    function and nothing else.
    """
    hidden: list[tuple[int, ...]] = [(), (1,)] if inputs > 1 else [()]
    shapes = [Skeleton.of_kan((inputs, *widths, 1)) for widths in hidden]
    if 1 < inputs <= _PRODUCT_INPUTS:
        shapes.append(Skeleton.with_product(f"{inputs}-1", inputs))
        shapes.append(Skeleton.with_product(f"{inputs}-1-1", inputs, "sum"))
    deep = _DEEP[: {1: 0, 2: 3}.get(inputs)]
    return shapes + [Skeleton.of_kan((inputs, *widths, 1)) for widths in deep]


def search(problem: SearchProblem, generator: np.random.Generator) -> Iterator[Event]:
    """Search for a formula in the inputs that matter, from simple to deep structures.

    Yields `SearchStage` for each stage of a structure; `FittedStructure` for each structure that
    trains well enough, and again after a longer search. Stops at an exact formula, if only noise is
    left, or if the budget is spent.
    """
    independent = independent_inputs(problem.data)
    if MANY <= len(independent.variables) <= _WIDE_TABLE:
        # Sums of few terms need no choice of inputs before.
        inner = replace(problem, data=independent.data(problem.data), dimensions=None)
        run = _Search(inner, generator)
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
    for event in _of_points(inner, generator):
        yield in_all_inputs(event, groups, problem.data)


def _of_points(problem: SearchProblem, generator: np.random.Generator) -> Iterator[Event]:
    """Search by simple laws, sparse regressions, symmetries and networks.

    Of points that a smooth fit shows to be noisy all sparse regressions come first, of exact ones
    none, and of others the short ones.
    """
    run = _Search(problem, generator)
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
        yield from _of_one_sign(problem, generator)
    else:
        yield from _in_inputs(problem, generator, laws=False, sparse=not noisy)


def _of_one_sign(problem: SearchProblem, generator: np.random.Generator) -> Iterator[Event]:
    """Search where signs do not change, so that logarithms exist, and measure on all points.

    An exact formula is rounded there: roots of what changes its sign cancel in a shorter form.
    """
    inner = of_one_sign(problem.data)
    inputs = inner.x.shape[1]
    signs = np.where((inner.x < 0).all(axis=0), -1, 1).tolist()
    turned = (s * u for s, u in zip(signs, input_symbols(inputs), strict=True))
    step = Reduction(inputs, tuple(turned))
    part = replace(problem, data=step.data(inner))
    for event in _in_inputs(part, generator, sparse=True):
        found = event
        if isinstance(event, FittedStructure) and event.formula and event.is_exact:
            with contextlib.suppress(WorkSpent):
                rounded = finish_formula(event.formula, part.data, problem.policy)
                graph = graph_of_expression(rounded.expression, inputs)
                found = replace(event, formula=graph, network=graph)
        yield in_all_inputs(found, step, problem.data)


def _in_inputs(
    problem: SearchProblem,
    generator: np.random.Generator,
    *,
    laws: bool = True,
    sparse: bool = False,
) -> Iterator[Event]:
    """Search the points themselves, then with networks; for relative errors, of log |y|.

    Simple `laws` of these points come first, and `sparse` regressions before networks, unless they
    have been tried.
    """
    run = _Search(problem, generator)
    data = problem.data
    inputs = data.x.shape[1]
    yield from run.recorded(simple_laws(problem) if laws else iter(()))
    if run.over():
        return
    reduction = reduce_variables(data)
    every = Reduction.none(inputs)
    if reduction.factor == 1 and set() < set(reduction.variables) < set(every.variables):
        inner = SearchProblem(reduction.data(data), problem.candidates, problem.policy)
        for event in _in_inputs(inner, generator):
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
        for event in _in_inputs(logarithms, generator):
            yield of_logarithm(event, data)
    else:
        yield from run.by_networks(shapes_of(inputs))


class _Search:
    """Structures of a search so far."""

    def __init__(self, problem: SearchProblem, generator: np.random.Generator) -> None:
        self.problem = problem
        self.generator = generator
        self.data = problem.data
        self.policy = problem.policy
        self.budget = Budget(problem.policy.search_budget)
        self.structures: list[FittedStructure] = []
        self.pending: list[FittedStructure] = []
        self.trained: list[SearchStage] = []

    def network_error(self) -> float:
        """Return the error of the best network that has fewer parameters than there are points."""
        errors = [
            each.error
            for each in self.trained
            if not self.data.interpolated_by(each.graph.parameters.size)
        ]
        return min(errors, default=np.inf)

    def over(self) -> bool:
        """Return whether a formula is certain, only noise is left, or the budget is spent.

        Only noise is left if smooth functions explain none of the residuals, or if they are noise,
        and the formula is as good as any network.
        """
        if any(each.is_certain or each.noise for each in self.structures) or self.budget.over:
            return True
        limit = _NOISE_STOP * self.network_error()
        return any(
            each.formula is not None
            and each.error <= limit < np.inf
            and is_noise_limited(each.formula, self.data)
            for each in self.structures
        )

    def recorded(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events; structures among them are remembered."""
        for event in events:
            self.structures += [event] if isinstance(event, FittedStructure) else []
            yield event

    def by_networks(self, shapes: Sequence[Skeleton]) -> Iterator[Event]:
        """Search structures of networks from simple to deep."""
        data = self.data
        for skeletons in ((), *([each] for each in shapes)):
            yield from self.train(skeletons)
            yield from self.deepen()
        best = min(self.trained, key=lambda each: each.error, default=None)
        if not self.structures and best is not None and best.error < data.no_skill_error:
            # No network is accurate; the best still says something about y.
            yield from self.recorded(refine_to_formula(best.name, best.graph, self.problem))

    def train(self, skeletons: Sequence[Skeleton]) -> Iterator[Event]:
        """Train structures; prune and snap those that are accurate."""
        data = self.data
        more = self.policy.starts - len(_COARSE_GRIDS)
        for skeleton in skeletons:
            if self.over():
                return
            best = self.coarse(skeleton, _COARSE_GRIDS)
            linear = len(skeleton.graph.operations) == 1
            if data.error(best) > GOOD and more > 0 and not linear:
                other = self.coarse(skeleton, (_MORE_INTERVALS,) * more)
                best = min(best, other, key=data.error)
            # A stalled fit stays coarse, unless it is linear in its parameters.
            if data.error(best) < STALLED or linear:
                best = extend(best, data, self.policy.grids)
            trained = SearchStage("train", skeleton.name, best, data)
            self.trained.append(trained)
            yield trained
            if trained.error <= SNAP_THRESHOLD:
                for event in self.recorded(snapped(skeleton.name, best, self.problem)):
                    self.pending += [event] if isinstance(event, FittedStructure) else []
                    yield event

    def deepen(self) -> Iterator[Event]:
        """Search longer in the structures that have not had it yet.

        An interpolating network says nothing between the points, and functions of one input are
        searched without a network.
        """
        for tried in self.pending:
            is_open = self.data.interpolated_by(tried.network.parameters.size)
            if not (is_open or self.data.x.shape[1] == 1 or self.over()):
                yield from self.recorded(search_longer(tried, self.problem))
        self.pending = []

    def coarse(self, skeleton: Skeleton, grids: Sequence[int]) -> Graph:
        """Return the best of coarse fits on the grids, the last of which is the first good one."""
        data = self.data
        fits = list[Graph]()
        for intervals in grids:
            start = skeleton.start(data.x, intervals, self.policy.degree, self.generator)
            fits.append(coarse_fit(start, data))
            if data.error(fits[-1]) < GOOD:
                break
        return min(fits, key=data.error)


def fixed_shape(
    shape: Sequence[int], problem: SearchProblem, generator: np.random.Generator
) -> Iterator[Event]:
    """Train a KAN of widths `shape`, prune it, retrain it and snap it."""
    run = _Search(problem, generator)
    name = "-".join(map(str, shape))
    grids = (*_COARSE_GRIDS, *(_MORE_INTERVALS,) * problem.policy.starts)[: problem.policy.starts]
    best = run.coarse(Skeleton.of_kan(shape), grids)
    trained = SearchStage("train", name, extend(best, run.data, run.policy.grids), run.data)
    yield trained
    if trained.error < run.data.no_skill_error:
        yield from refine_to_formula(name, trained.graph, problem)


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
