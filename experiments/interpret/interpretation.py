"""From data or a trained network to a formula with its certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from kanrun.experiments.interpret.backends import found_by
from kanrun.experiments.interpret.outcome import constant, outcome
from kanrun.experiments.interpret.result import (
    Interpretation,
    InterpretationProblem,
    Options,
    VerificationData,
    check_inputs,
    decimal_scales,
)

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

_MIN_POINTS = 20
#: Standard deviation of an output, relative to its size, below which it is constant.
_CONSTANT = 1e-14


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
    """Find the formula behind data or a trained model, and verify it on held-out points.

    Args:
        x: Inputs, shape (samples, inputs); or a trained `kanrun.Model`, whose training inputs are
            used.
        y: Outputs, shape (samples,) or (samples, outputs); None for a model. A fifth of the points
            is held out.
        output: Index of the output to interpret.
        names: Names of the variables; default: the names of columns or inputs if formulas can
            contain them, else x0, x1, ...
        candidates: Names of the functions that an edge may become; default: all built-in functions.
        custom_candidates: Additional functions of x0, by name.
        hidden: Hidden widths of the KAN; default: the shape is searched.
        seed: Seed of the split and the search.
        budget: Total work, in approximate seconds of one core.

    Returns:
        The formula with its outcome and certificate.

    Raises:
        UsageError: If the data are not finite, too few, or have constant inputs only; if `output`
            or `names` do not fit them.

    Examples:
        >>> import numpy as np
        >>> from kanrun import interpret
        >>> x = np.linspace(-1, 1, 200)
        >>> interpret(x, 3 * x**2 + 1)
        Interpretation(exact: 3*x0**2 + 1)
    """
    if isinstance(x, Model):
        inputs, points = x.inputs, training_sample(x)
        columns = predicted_values(x, points)
    elif y is None:
        raise UsageError("interpret needs a kanrun.Model, or points x and their values y.")
    else:
        target = array_target(x, y)
        assert target.points is not None  # an invariant of targets in memory
        inputs, points, columns = target.inputs, target.points.x, target.points.y
    if output not in range(columns.shape[1]):
        raise UsageError(
            f"output={output} is not an index of the {columns.shape[1]} outputs; they count from 0."
        )
    if names is not None:
        if len(names) != len(inputs) or len(set(names)) != len(inputs):
            raise UsageError(
                f"names={list(names)} do not name the {len(inputs)} inputs: give one name for "
                "each input, all different."
            )
        inputs = tuple(names)
    if len(columns) < _MIN_POINTS:
        raise UsageError(
            f"{len(columns)} points are too few to find a formula; give at least {_MIN_POINTS}."
        )
    check_inputs(points)
    scaling, values = decimal_scales(points), columns[:, output]
    unit = float(decimal_scales(values[:, None]).scale[0])
    points, values = scaling.apply(points), values / unit
    order = np.random.default_rng(seed).permutation(len(values))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    chosen, fitted = rest[: len(rest) // 5], rest[len(rest) // 5 :]
    samples = SearchData(points[fitted], values[fitted], points[chosen], values[chosen])
    domain = np.stack([points.min(0), points.max(0)], axis=1)
    held_out = VerificationData(points[held], values[held], domain)
    problem = InterpretationProblem(tuple(inputs), samples, held_out, scaling, unit)
    widths = tuple(hidden) if hidden is not None else None
    policy = SearchPolicy(budget=budget)
    options = Options(choose(candidates, custom_candidates), widths, policy=policy)
    events = interpretation(problem, options, seed)
    return next(event for event in events if isinstance(event, Interpretation))


def interpretation(
    given: InterpretationProblem, options: Options, seed: int
) -> Iterator[SearchStage | Interpretation]:
    """Yield every `SearchStage`, then the `Interpretation` in the user's units.

    Linear algebra uses one thread: the systems are small, and threads cost more than they save.
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
    if float(np.std(data.y)) <= _CONSTANT * max(float(np.abs(data.y).max()), 1e-300):
        yield constant(given)
        return
    steps, structures = list[SearchStage](), list[FittedStructure]()
    problem = SearchProblem(data, options.candidates, policy, given.dimensions)
    budget = Budget(policy.budget)
    events = _events(given, problem, options, seed)
    for event in limited(events, policy.search_budget):
        if isinstance(event, SearchData):
            # Noise is relative: the search restarts.
            problem = replace(problem, data=event)
            structures.clear()
            steps.clear()
        elif isinstance(event, FittedStructure):
            structures.append(event)
        else:
            steps.append(event)
            yield event
    yield from outcome(problem, given, steps, structures, options.error_tolerance, budget)


def _events(
    given: InterpretationProblem, problem: SearchProblem, options: Options, seed: int
) -> Iterator[SearchStage | FittedStructure | SearchData]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    data, source = problem.data, given.network
    if source is not None:
        name, error = "given network", data.error(source.itself)
        yield SearchStage("train", name, source.whole, error, 0.0, source.itself)
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
