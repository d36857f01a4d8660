"""From data or a trained network to a formula with its certificate: what `kanrun interpret` and the library share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from kanrun.experiments.interpret.peers import found_by
from kanrun.experiments.interpret.result import (
    Array,
    Check,
    Interpretation,
    InterpretationProblem,
    Options,
    tens,
)
from kanrun.experiments.interpret.verdict import constant, verdict

from kanrun.engine.symbolic import (
    Budget,
    FittedStructure,
    SearchData,
    SearchPolicy,
    SearchProblem,
    SearchStage,
    TrainedGraph,
    choose,
    fixed_shape,
    limited,
    refine_to_formula,
    search,
)
from kanrun.errors import UsageError
from kanrun.study.model import Model
from kanrun.study.prediction import predicted_values, training_sample
from kanrun.targets import Data, array_target

__all__ = ["Interpretation", "interpret", "interpretation"]

_LEAST_POINTS = 20


def interpret(  # noqa: PLR0913 (keywords of a public function)
    x: Data,
    y: Data = None,
    *,
    output: int = 0,
    names: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
    custom_candidates: Mapping[str, str] | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
    budget: float = 60.0,
) -> Interpretation:
    """The formula of y (N,) in x (N, inputs), with its certificate on a fifth of the points, which are held out.

    Without y, x is a trained `kanrun.Model`: the formula is that of its `output`, on the inputs that it was trained on,
    as it is that of the column `output` of a y (N, outputs). `names` are the variables (default: the names of columns
    or inputs where they are words, else x0, x1, ...); `candidates` names functions of the table, `custom_candidates` adds
    formulas in x0; `hidden` fixes the KAN's hidden widths; it ends after work of `budget`, about seconds of one core.

    Examples:
        >>> import numpy as np
        >>> from kanrun import interpret
        >>> x = np.linspace(-1, 1, 200)
        >>> interpret(x, 3 * x**2 + 1)
        Interpretation(exact: 3*x0**2 + 1)

    Raises UsageError for data that are not finite, too few or constant inputs only.
    """
    if isinstance(x, Model):
        called, points = x.inputs, training_sample(x)
        values = predicted_values(x, points)[:, output]
    else:
        if y is None:
            raise UsageError("interpret takes a kanrun.Model, or points x and their values y.")
        target = array_target(x, y)
        assert target.points is not None  # an invariant of targets in memory
        called, points, values = target.inputs, target.points.x, target.points.y[:, output]
    if len(values) < _LEAST_POINTS:
        raise UsageError(
            f"{len(values)} points are too few to find a formula; give at least {_LEAST_POINTS}."
        )
    check_inputs(points)
    inputs, unit = tens(points), float(tens(values[:, None]).scale[0])
    points, values = inputs.apply(points), values / unit
    order = np.random.default_rng(seed).permutation(len(values))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    cut = len(rest) // 5
    samples = SearchData(
        points[rest[cut:]], values[rest[cut:]], points[rest[:cut]], values[rest[:cut]]
    )
    check = Check(points[held], values[held], np.stack([points.min(0), points.max(0)], axis=1))
    widths = tuple(hidden) if hidden is not None else None
    options = Options(
        choose(candidates, custom_candidates), widths, policy=SearchPolicy(budget=budget)
    )
    events = interpretation(
        InterpretationProblem(tuple(names or called), samples, check, inputs, unit), options, seed
    )
    return next(event for event in events if isinstance(event, Interpretation))


def check_inputs(x: Array) -> None:
    """Raises UsageError where no input varies: then nothing can depend on any."""
    if not (np.ptp(x, axis=0) > 0).any():
        raise UsageError("No input varies: there is nothing that the output could depend on.")


def interpretation(
    given: InterpretationProblem, options: Options, seed: int
) -> Iterator[SearchStage | Interpretation]:
    """Every `SearchStage` as it happens, then the `Interpretation` in the user's units; from the given network, or else
    one trained here. One thread for linear algebra: the systems are small, and threads cost them more than they save.
    """
    began = time.monotonic()
    with threadpoolctl.threadpool_limits(1):
        for event in _interpreted(given, options, seed):
            if isinstance(event, Interpretation):
                yield replace(given.restored(event), seconds=time.monotonic() - began)
            else:
                yield event


def _interpreted(
    given: InterpretationProblem, options: Options, seed: int
) -> Iterator[SearchStage | Interpretation]:
    data, policy = given.samples, options.policy
    if float(np.std(data.y)) <= 1e-14 * max(float(np.abs(data.y).max()), 1e-300):
        yield constant(given)
        return
    steps: list[SearchStage] = []
    tried: dict[
        int, FittedStructure
    ] = {}  # by network: a longer look at one replaces what was found first
    problem = SearchProblem(data, options.candidates, policy, given.dimensions)
    budget = Budget((1 - 2 * policy.proving) * policy.budget)
    for event in limited(_events(given, problem, options, seed), policy.searching * policy.budget):
        if isinstance(event, SearchData):  # noise is relative, and all begins anew
            problem = replace(problem, data=event)
            tried.clear()
            steps.clear()
        elif isinstance(event, FittedStructure):
            tried[id(event.network)] = event
        else:
            steps.append(event)
            yield event
    yield from verdict(problem, given, steps, list(tried.values()), options.error_tolerance, budget)


def _events(
    given: InterpretationProblem, problem: SearchProblem, options: Options, seed: int
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    data, source = problem.data, given.network
    if source is not None:
        name = "given network"
        yield SearchStage(
            "train", name, source.whole, data.error(source.itself), 0.0, source.itself
        )
        trained = TrainedGraph(source.pruned, data.error(source.pruned))
        if trained.error < data.no_skill_error:
            yield from refine_to_formula(name, trained, problem)
    elif options.backend != "kanrun":
        yield from found_by(options.backend, problem, seed)
    elif options.hidden is not None:
        shape = (data.x.shape[1], *options.hidden, 1)
        yield from fixed_shape(shape, problem, generator, options.sparsity)
    else:
        yield from search(problem, generator)
