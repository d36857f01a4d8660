"""Find a formula for data or a trained network, verify it, and return it in the user's units."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import sympy
import threadpoolctl  # type: ignore[import-untyped]
from numpy.typing import NDArray
from rich.console import Console

from kanrun.engine.symbolic import (
    EXACT,
    Budget,
    FittedStructure,
    Formula,
    Rival,
    SearchStage,
    as_written,
    equivalent_forms,
    errors_are_relative,
    exact_decimals,
    input_symbols,
    limited,
    refine_to_formula,
    rename_variables,
    round_numbers,
    search,
    titled,
)
from kanrun.errors import UsageError
from kanrun.formulas.conversion import as_variables, to_numpy
from kanrun.formulas.parsing import variable
from kanrun.model.model import Model
from kanrun.model.prediction import logit_values, predicted_values, training_sample
from kanrun.monitoring import ProgressUpdate
from kanrun.points import Points, Scaling
from kanrun.study.progress import Reporter
from kanrun.targets.arrays import Data, array_target, as_numbers, is_frame
from kanrun.targets.datasets import Dataset, Target

from .config import InterpretConfig
from .outcome import Interpretation, is_constant, outcome
from .problem import (
    Function,
    InterpretationProblem,
    problems_in,
)

#: Smallest number of points for which `interpret` searches for a formula.
_MIN_POINTS = 20
#: One in this many points is held out; of the other points, one in this many is used for
#: validation.
_HELD_OUT = 5
#: Units of work for simplifying a formula again after it was converted to the user's units.
_RESCALED = 0.2


def interpret(  # noqa: PLR0913 (keywords of a public function)
    x: Data,
    y: Data = None,
    *,
    output: int = 0,
    names: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
    custom_candidates: Mapping[str, str] | None = None,
    seed: int = 0,
    budget: float = 30.0,
) -> Interpretation:
    """Find the formula behind data or a trained model, and verify it on held-out points.

    A fifth of the points is held out for the verification, and a fifth of the others is used to
    choose among formulas.

    Args:
        x: Inputs, shape (samples, inputs); or a trained `kanrun.Model`, whose training inputs are
            used.
        y: Outputs, shape (samples,) or (samples, outputs); None if `x` is a model.
        output: Index of the output to interpret. The outputs of a classifier are the logits of its
            classes, shifted to a mean of zero; with two classes, the only output is the log-odds
            of the second class.
        names: Names of the variables. By default, they are the names of the columns or of the
            model's inputs, and x0, x1, ... if there are none. In formulas, characters other than
            letters, digits and underscores are replaced (`size m2` becomes size_m2).
        candidates: Names of the functions that an edge may become; default: all built-in functions.
        custom_candidates: Additional functions of x0, by name.
        seed: Seed of the random split of the points, and of the search.
        budget: Total work, in approximate CPU seconds of one core. Progress is shown on stderr.

    Returns:
        The formula with its outcome and certificate.

    Raises:
        UsageError: If the data are not finite, there are too few points, all inputs are constant,
            or `output` or `names` do not match the data.

    Examples:
        >>> import numpy as np
        >>> from kanrun import interpret
        >>> x = np.linspace(-1, 1, 200)
        >>> interpret(x, 3 * x**2 + 1)
        Interpretation(exact: 3*x0**2 + 1)
    """
    target, points = _target_in_memory(x, y, output, names)
    cfg = InterpretConfig(
        candidates=None if candidates is None else list(candidates),
        custom_candidates=dict(custom_candidates or {}),
        budget=budget,
    )
    held, rest = _split(np.random.default_rng(seed).permutation(len(points)))
    chosen, fitted = map(points.take, _split(rest))
    identities = Scaling.identity(len(target.inputs)), Scaling.identity(len(target.outputs))
    dataset = Dataset(target, fitted, chosen, points.take(held), *identities)
    events = interpretation(problems_in(dataset, cfg)[output], seed)
    with Reporter(Console(stderr=True), total=1) as reporter:
        for count, event in enumerate(events, 1):
            if isinstance(event, Interpretation):
                return event
            reporter.show_progress(ProgressUpdate(f"{event.stage} {event.name}", count))
    raise AssertionError("the interpretation comes last")


def _target_in_memory(
    x: Data, y: Data, output: int, names: Sequence[str] | None
) -> tuple[Target, Points]:
    """Return the arguments of `interpret` as a target, and its points."""
    if isinstance(x, Model):
        sample = training_sample(x)
        values = logit_values if x.classes else predicted_values
        target = replace(array_target(sample, values(x, sample)), inputs=x.inputs)
    elif y is None:
        raise UsageError("interpret needs a kanrun.Model, or points x and their values y.")
    else:
        target = array_target(x if is_frame(x) else as_numbers(x), y)
        for note in target.notes:
            warnings.warn(note, stacklevel=3)
    count = len(target.outputs)
    points = target.points
    assert points is not None  # targets made from arrays always have points
    if output not in range(count):
        raise UsageError(
            f"output={output} is not an index of the {count} outputs; they count from 0."
        )
    if names is not None:
        if not len(names) == len(set(names)) == len(target.inputs):
            raise UsageError(
                f"names={list(names)} do not name the {len(target.inputs)} inputs: give one name "
                "for each input, all different."
            )
        target = replace(target, inputs=tuple(names))
    if len(points) < _MIN_POINTS:
        raise UsageError(
            f"{len(points)} points are too few to find a formula; give at least {_MIN_POINTS}."
        )
    return target, points


def _split(rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first fifth of `rows`, and the rest."""
    part = len(rows) // _HELD_OUT
    return rows[:part], rows[part:]


def interpretation(
    given: InterpretationProblem, seed: int
) -> Iterator[SearchStage | Interpretation]:
    """Yield every `SearchStage`, then the `Interpretation` in the user's units.

    Linear algebra uses one thread: the systems are small, and threads cost more than they save.
    """
    began = last = time.monotonic()
    with threadpoolctl.threadpool_limits(1):
        for event in _events(given, seed):
            now = time.monotonic()
            if isinstance(event, SearchStage):
                yield replace(event, seconds=now - last)
            else:
                yield replace(event, seconds=now - began)
            last = now


def _events(given: InterpretationProblem, seed: int) -> Iterator[SearchStage | Interpretation]:
    """Yield the stages of the search, the stages of the formula, then the interpretation.

    A search that takes much more CPU time than its budget is stopped. The sentence of the
    interpretation then says so, and also if the budget ended the search before it was finished.
    """
    cfg = given.cfg
    problem = given.search
    steps = list[SearchStage]()
    structures = list[FittedStructure]()
    budget, searching = (Budget(x, timed=True) for x in (problem.budget, problem.search_budget))
    if given.network is None:
        data = problem.data
        if not is_constant(data) and errors_are_relative(data):
            given = replace(given, search=replace(problem, data=data.relative_to_size()))
    names = as_variables(given.inputs)
    found = limited(_structures(given, seed), searching)
    for event in (titled(each, names) for each in found):
        if isinstance(event, FittedStructure):
            structures.append(event)
        else:
            steps.append(event)
            yield event
    for step in outcome(given, steps, structures, budget):
        if isinstance(step, SearchStage):
            yield step
            continue
        result = _in_user_units(step, given, budget)
        if searching.stopped or budget.stopped:
            stopped = (
                f"{result.sentence}; stopped after {budget.seconds:.3g} s (CPU time), far beyond "
                f"budget={cfg.budget:g}; kept the best result so far, and another machine may get "
                "further"
            )
            result = replace(result, sentence=stopped)
        elif searching.spent and result.outcome == "formula":
            ended = (
                f"{result.sentence}; the search ended at budget={cfg.budget:g}, and may lead "
                "further with a larger one"
            )
            result = replace(result, sentence=ended)
        yield result


def _structures(given: InterpretationProblem, seed: int) -> Iterator[SearchStage | FittedStructure]:
    """Yield the stages and structures of a search for the given network or, without one, the data.

    Nothing is yielded if the output is constant.
    """
    problem = given.search
    source = given.network
    data = problem.data
    if is_constant(data):
        return
    if source is not None:
        name = "given network"
        yield SearchStage("train", name, source.whole, data, source.itself)
        if data.error(source.pruned) < data.no_skill_error:
            yield from refine_to_formula(name, source.pruned, problem)
    else:
        yield from search(problem)


def _in_user_units(
    result: Interpretation, problem: InterpretationProblem, budget: Budget
) -> Interpretation:
    """Convert a result to the user's units and names, and simplify its formulas within the budget.

    Errors are multiplied by the unit of the output.
    """
    names = as_variables(problem.inputs)
    certificate = result.certificate
    network = result.network
    formula, approximation = (
        found and _formula_in_user_units(found, problem, min(_RESCALED, budget.left))
        for found in (result.formula, result.approximation)
    )
    if certificate is not None:
        errors = ("difference", "formula_rmse", "network_rmse")
        scaled = {name: problem.unit * getattr(certificate, name) for name in errors}
        certificate = replace(certificate, **scaled)
    return replace(
        result,
        formula=formula and rename_variables(formula, names),
        approximation=approximation and rename_variables(approximation, names),
        network=network and _function_in_user_units(network, problem),
        certificate=certificate,
        rivals=tuple(_rival_in_user_units(each, problem) for each in result.rivals),
    )


def _expression_in_user_units(
    expression: sympy.Expr,
    symbols: Iterable[sympy.Symbol],
    names: Sequence[str],
    problem: InterpretationProblem,
) -> sympy.Expr:
    """Replace `symbols` by the variables `names`, and convert an expression to the user's units."""
    shifts = problem.scaling.shift.tolist()
    scales = problem.scaling.scale.tolist()
    swap = {
        symbol: (variable(name) - _number(below)) / _number(scale)
        for symbol, name, below, scale in zip(symbols, names, shifts, scales, strict=True)
    }
    return expression.xreplace(swap) * _number(problem.unit) + _number(problem.shift)


def _rival_in_user_units(rival: Rival, problem: InterpretationProblem) -> Rival:
    """Convert a rival formula to the user's units and names, without simplifying it."""
    symbols = input_symbols(len(problem.inputs))
    names = as_variables(problem.inputs)
    expression = _expression_in_user_units(rival.expression, symbols, names, problem)
    return replace(rival, expression=as_written(expression))


def _function_in_user_units(function: Function, problem: InterpretationProblem) -> Function:
    return lambda x: problem.unit * function(problem.scaling.apply(x)) + problem.shift


def _formula_in_user_units(
    formula: Formula, problem: InterpretationProblem, work: float
) -> Formula:
    scaling = problem.scaling
    factors = {problem.unit, *scaling.scale.tolist()}
    if not scaling.shift.any() and not problem.shift and factors == {1.0}:
        return formula
    names = formula.names
    decimals = exact_decimals(formula.expression)
    expression = _expression_in_user_units(decimals, map(variable, names), names, problem)
    if formula.splines:
        values = _function_in_user_units(formula, problem)
        return replace(formula, expression=expression, values=values)
    points = scaling.invert(problem.search.data.validation_x)
    values_there = to_numpy(expression, names)(points)
    allowed = EXACT * abs(problem.shift)

    def same(form: sympy.Expr) -> bool:
        other = to_numpy(form, names)(points)
        return np.allclose(other, values_there, rtol=EXACT, atol=allowed, equal_nan=True)

    rounded = round_numbers(expression, same)
    expression = as_written(equivalent_forms(rounded, names, points, work)[0])
    return replace(formula, expression=expression)


def _number(value: float) -> sympy.Expr:
    """Return `value` as a sympy number: exact if it is 0 or a power of ten, otherwise a Float."""
    text = f"{value:.0e}"
    is_exact = value == 0 or (text.startswith("1e") and float(text) == value)
    return sympy.Rational(text) if is_exact else sympy.Float(value, 17)
