"""From data or a trained network to a formula with its certificate: what `kanrun interpret` and the library share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from kanrun.experiments.interpret.peers import found_by
from kanrun.experiments.interpret.result import Array, Check, Interpretation, Options, SourceNetwork, in_units, tens
from kanrun.experiments.interpret.verdict import Conditions, constant, verdict

from kanrun.engine.symbolic import (
    Budget,
    SearchData,
    SearchPolicy,
    SearchProblem,
    SearchStage,
    TrainedGraph,
    Tried,
    choose,
    fixed_shape,
    limited,
    refine_to_formula,
    renamed,
    search,
)
from kanrun.errors import UsageError
from kanrun.formulas import as_variables
from kanrun.study.model import Model
from kanrun.targets import Data, Scaling, as_numbers, frame_columns, frame_names, is_frame

__all__ = ["Check", "Interpretation", "Options", "SourceNetwork", "interpret", "interpretation", "one_thread"]

_LEAST_POINTS = 20


def interpret(  # noqa: PLR0913 (keywords of a public function)
    x: Data,
    y: Data = None,
    *,
    output: int = 0,
    names: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
    own: Mapping[str, str] | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
    budget: float = 60.0,
) -> Interpretation:
    """The formula of y (N,) in x (N, inputs), with its certificate on a fifth of the points, which are held out.

    Without y, x is a trained `kanrun.Model`: the formula is that of its `output`, on the inputs that it was trained on.
    `names` are the variables (default: the names of columns or inputs where they are words, else x0, x1, ...);
    `candidates` names functions of the table, `own` adds formulas in x0; `hidden` fixes the KAN's hidden widths; it
    ends after work of `budget`, about seconds of one core.

    Examples:
        >>> import numpy as np
        >>> from kanrun import interpret
        >>> x = np.linspace(-1, 1, 200)
        >>> interpret(x, 3 * x**2 + 1)
        Interpretation(exact: 3*x0**2 + 1)

    Raises UsageError for data that are not finite, too few or
    constant inputs only.
    """
    if isinstance(x, Model):
        own_names, points = list(x.inputs), x.sample()
        values = x.values(points)[:, output]
    else:
        if y is None:
            raise UsageError("interpret takes a kanrun.Model, or points x and their values y.")
        own_names = frame_names(x) if is_frame(x) else []
        frame = frame_columns(x, own_names) if is_frame(x) else None
        points = as_numbers(x) if frame is None else np.stack([as_numbers(c, repr(n)) for n, c in frame.items()], 1)
        values = as_numbers(y, "y")
        points = points[:, None] if points.ndim == 1 else points
    if names is None and own_names:
        names = as_variables(own_names)
    _check_data(points, values)
    inputs, given, unit = tens(points), points, float(tens(values[:, None]).scale[0])
    points, values = inputs.apply(points), values / unit
    order = np.random.default_rng(seed).permutation(len(values))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    cut = len(rest) // 5
    samples = SearchData(points[rest[cut:]], values[rest[cut:]], points[rest[:cut]], values[rest[:cut]])
    domain = np.stack([points.min(0), points.max(0)], axis=1)
    policy = SearchPolicy(budget=budget)
    options = Options(choose(candidates, own), tuple(hidden) if hidden is not None else None, policy=policy)
    check = Check(points[held], values[held], domain)
    with one_thread():
        events = interpretation(samples, check, options, seed)
        result = next(event for event in events if isinstance(event, Interpretation))
    if (inputs.scale != 1).any() or unit != 1:
        result = _in_given_units(result, inputs, unit, given)
    if names is not None and result.formula is not None:
        result = replace(result, formula=renamed(result.formula, names))
    return result


def _in_given_units(result: Interpretation, inputs: Scaling, unit: float, points: Array) -> Interpretation:
    """The result with formulas, network and errors in the units of `points` and of `unit`."""
    network, certificate = result.network, result.certificate
    if certificate is not None:
        errors = {name: unit * getattr(certificate, name) for name in ("difference", "formula_rmse", "network_rmse")}
        certificate = replace(certificate, **errors)
    formulas = [
        in_units(each, inputs, 0.0, unit, points) if each else None for each in (result.formula, result.approximation)
    ]
    itself = (lambda x: unit * network(inputs.apply(x))) if network is not None else None
    return replace(result, formula=formulas[0], approximation=formulas[1], network=itself, certificate=certificate)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for linear algebra: the systems here are small, and threads cost them more than they save."""
    with threadpoolctl.threadpool_limits(1):
        yield


def _check_data(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise UsageError(f"x must be (N, inputs) and y (N,), not {x.shape} and {y.shape}.")
    if len(y) < _LEAST_POINTS:
        raise UsageError(f"{len(y)} points are too few to find a formula; give at least {_LEAST_POINTS}.")
    check_inputs(x)


def check_inputs(x: Array) -> None:
    """Raises UsageError where no input varies: then nothing can depend on any."""
    if not (np.ptp(x, axis=0) > 0).any():
        raise UsageError("No input varies: there is nothing that the output could depend on.")


def interpretation(
    data: SearchData, check: Check, options: Options, seed: int, source: SourceNetwork | None = None
) -> Iterator[SearchStage | Interpretation]:
    """Every `SearchStage` as it happens, then the `Interpretation`; from the network `source`, or else trained here."""
    began = time.monotonic()
    steps: list[SearchStage] = []
    tried: dict[int, Tried] = {}  # by network: a longer look at one replaces what was found first
    if float(np.std(data.y)) <= 1e-14 * max(float(np.abs(data.y).max()), 1e-300):
        yield constant(data, check, source, began)
        return
    problem = SearchProblem(data, options.candidates, options.policy, options.dimensions)
    policy = options.policy
    budget = Budget((1 - 2 * policy.proving) * policy.budget)
    for event in limited(_events(problem, options, seed, source), policy.searching * policy.budget):
        if isinstance(event, SearchData):  # noise is relative, and all begins anew
            problem = replace(problem, data=event)
            tried.clear()
            steps.clear()
        elif isinstance(event, Tried):
            tried[id(event.network)] = event
        else:
            steps.append(event)
            yield event
    yield from verdict(problem, Conditions(options.slack, budget, began), check, steps, list(tried.values()), source)


def _events(
    problem: SearchProblem, options: Options, seed: int, source: SourceNetwork | None
) -> Iterator[SearchStage | Tried | SearchData]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    data = problem.data
    if source is not None:
        name = "given network"
        yield SearchStage("train", name, source.whole, data.error(source.itself), 0.0, source.itself)
        trained = TrainedGraph(source.pruned, data.error(source.pruned))
        if trained.error < data.nothing:
            yield from refine_to_formula(name, trained, problem)
    elif options.program != "kanrun":
        yield from found_by(options.program, problem, seed)
    elif options.hidden is not None:
        shape = (data.x.shape[1], *options.hidden, 1)
        yield from fixed_shape(shape, problem, generator, options.sparsity)
    else:
        yield from search(problem, generator)
