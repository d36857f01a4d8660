"""Find a formula for data or a trained network, judge it, and return it in the user's units.

If no formula is as good as the network, as many edges of the network as possible are replaced with
symbolic functions, and the others stay numeric.
"""

from __future__ import annotations

import html
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import sympy
import threadpoolctl  # type: ignore[import-untyped]
from numpy.typing import NDArray
from rich.console import Console

from kanrun.engine.symbolic import (
    EXACT,
    Budget,
    Certificate,
    Decision,
    FittedStructure,
    Formula,
    Graph,
    Rival,
    SearchData,
    SearchStage,
    VerificationData,
    as_written,
    certify,
    choose_formula,
    equivalent_forms,
    errors_are_relative,
    evidence,
    exact_decimals,
    finish_formula,
    input_names,
    input_symbols,
    limited,
    partly_symbolic,
    refine_to_formula,
    rename_variables,
    round_numbers,
    search,
    titled,
    widened,
)
from kanrun.errors import UsageError
from kanrun.formulas.conversion import as_variables, to_numpy
from kanrun.formulas.parsing import variable
from kanrun.model.model import Model
from kanrun.model.trained import logit_values, predicted_values, training_sample
from kanrun.monitoring import ProgressUpdate
from kanrun.points import Array, Points, Scaling
from kanrun.study.progress import Reporter
from kanrun.targets.datasets import Dataset, Target
from kanrun.targets.table_targets import Data, array_target, as_numbers, is_frame

from .config import InterpretConfig
from .problem import Function, InterpretationProblem, problems_in

#: Stages at which all edges are numeric (splines). A formula is compared with the best network of
#: these stages.
_NUMERIC = ("train", "prune", "retrain")
#: Smallest divisor of a ratio of errors.
_TINY = 1e-300


class Outcome(StrEnum):
    """What an interpretation found."""

    EXACT = "exact"
    AGREES = "agrees"
    FORMULA = "formula"
    PARTLY_NUMERIC = "partly numeric"
    WRONG = "wrong"
    FAILED = "failed"

    @property
    def reproduces(self) -> bool:
        """Whether the formula reproduces all points.

        The residuals are then only rounding, and say nothing about the errors of the constants.
        """
        return self in (Outcome.EXACT, Outcome.AGREES, Outcome.WRONG)


class Ending(StrEnum):
    """Ways in which an interpretation ends, as sentences with places for numbers."""

    REPRODUCED = "the formula reproduces all points (relative error {error:.1e})"
    RECOVERED = f"{REPRODUCED} and agrees with the true formula"
    UNDECIDED = (
        f"{REPRODUCED}, but they do not show that it is their function: if it were a truncated "
        "series, its next term would be as small as {next_part:.0e}, which the error hides; points "
        "on wider ranges may show it"
    )
    REFUTED = f"{REPRODUCED}; it differs from the true formula outside the training domain"
    UNDECIDED_REFUTED = f"{UNDECIDED}; it differs from the true formula outside the training domain"
    AS_GOOD = (
        "the formula is as good as the network; its error is {ratio:.2g} times the network's on "
        "held-out points"
    )
    SHORTEST = (
        "the shortest description that was found; its relative error is {error:.2g} on held-out "
        "points"
    )
    CONSTANT = "the output is constant"
    PARTLY_NUMERIC = "{numeric} of {edges} edges stay numeric: no candidate is as good"
    NO_CANDIDATE = "no structure found: every edge stays numeric"
    NO_STRUCTURE = "no structure found: nothing predicts held-out points better than the mean"
    NO_SKILL = "no formula explains any of the variance of new points"
    NOT_TRIED = "budget={budget:g} was spent before a formula was tried; raise it"


@dataclass(frozen=True)
class Interpretation:
    """Result of an interpretation.

    Attributes:
        outcome: `exact` (the formula reproduces all points, and either the points rule out an
            approximation or the formula equals the known true function), `agrees` (the formula
            reproduces all points, but may be an approximation), `formula` (the formula is as good
            as the network or, without a network, the shortest description), `partly numeric` (the
            formula contains functions f1, f2, ... because no candidate was good enough there),
            `wrong` (the formula seems exact, but is not the known true function), or `failed`
            (there is no formula).
        sentence: The outcome as a sentence.
        formula: The formula, which maps points (samples, inputs) to values (samples,); None if
            there is none.
        network: The function with which the formula was compared: the network or, if no network was
            trained, the formula before it was rounded.
        certificate: The verification of the formula.
        seconds: Duration of the interpretation (seconds).
        structure_fit: The network or expression from which the formula was made, with the
            candidates that were fitted to its edges.
        steps: Stages of all structures that were tried.
        approximation: The best formula without splines, if it is worse than the network.
        decisions: For each edge of the network, whether it became symbolic, and why; empty if edges
            were not replaced one by one.
        rivals: The formulas with the shortest descriptions and their bits; the first is `formula`.
        relative: Whether the noise is proportional to the output; errors are then those of the
            logarithm of the output.
    """

    outcome: Outcome
    sentence: str
    formula: Formula | None = None
    network: Function | None = None
    certificate: Certificate | None = None
    seconds: float = 0.0
    structure_fit: FittedStructure | None = None
    steps: tuple[SearchStage, ...] = field(default=(), repr=False)
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    rivals: tuple[Rival, ...] = ()
    relative: bool = False

    @property
    def structure(self) -> str:
        """Name of the structure that was chosen."""
        return self.structure_fit.name if self.structure_fit else ""

    @property
    def stages(self) -> list[SearchStage]:
        """Stages of the structure that was chosen; if a stage was repeated, only its last step."""
        chosen = {step.stage: step for step in self.steps if step.name == self.structure}
        return list(chosen.values())

    def __str__(self) -> str:
        return str(self.formula) if self.formula else self.sentence

    def __repr__(self) -> str:
        return f"Interpretation({self.outcome}: {self})"

    def _repr_html_(self) -> str:
        said = f"<p>{html.escape(self.sentence)}</p>"
        return self.formula._repr_html_() + said if self.formula else said


def allowed_error(error: float, tolerance: float, data: SearchData) -> float:
    """Return the largest error of a formula that may replace a network with the given `error`.

    `tolerance` is the allowed relative increase of the error. All errors are relative to the
    standard deviation of the output.
    """
    return max((1 + tolerance) * error, data.exact)


def stands_for(
    model: Function, error: float, network: SearchStage, tolerance: float, data: SearchData
) -> bool:
    """Return whether a formula may replace a network.

    Args:
        model: The formula.
        error: Relative validation error of the formula.
        network: The search stage whose graph is the network.
        tolerance: Relative increase of the network's error that is allowed.
        data: Points of the search.

    Returns:
        True if the error of the formula is within the tolerance, or not significantly larger than
        the error of the network.
    """
    if error <= min(allowed_error(network.error, tolerance, data), 1.0):
        return True
    return network.error > data.exact and data.not_significantly_worse(model, network.model)


def outcome(
    given: InterpretationProblem,
    steps: Sequence[SearchStage],
    structures: Sequence[FittedStructure],
    budget: Budget,
) -> Iterator[SearchStage | Interpretation]:
    """Yield the stages from the best structure to its formula, then the interpretation.

    Args:
        given: The problem.
        steps: Stages of the search.
        structures: Structures that the search found, with their best formulas.
        budget: Budget of the interpretation; what is left is used for rounding and simplification.
    """
    data = given.search.data
    if is_constant(data):
        yield _constant(given)
        return
    networks = [step for step in steps if step.stage in _NUMERIC]
    errors = [*(step.error for step in networks), *(each.network_error for each in structures)]
    choice = choose_formula(structures, data)
    if errors and min(errors) >= data.no_skill_error:
        yield Interpretation(Outcome.FAILED, Ending.NO_STRUCTURE, steps=tuple(steps))
        return
    if choice is None:
        sentence = Ending.NOT_TRIED.format(budget=given.cfg.budget)
        yield Interpretation(Outcome.FAILED, sentence, steps=tuple(steps))
        return
    network = min(networks, key=lambda step: step.error, default=None)
    if network is not None and network.error <= data.exact:
        # The points are values of the network, or it is as exact as they are. Only an exact formula
        # would be as good, so formulas are judged by the points alone.
        network = None
    found, stages = _finish(choice, given, budget, network)
    yield from stages
    kind, sentence = _judge(found, choice, given, network)
    if kind is Outcome.FAILED:
        found = replace(found, formula=None, approximation=found.approximation or found.formula)
    yield replace(
        found,
        outcome=kind,
        sentence=sentence,
        steps=(*steps, *stages),
        rivals=choice.rivals if kind is Outcome.FORMULA and not found.approximation else (),
        relative=data.relative,
    )


def _finish(
    choice: FittedStructure,
    given: InterpretationProblem,
    budget: Budget,
    network: SearchStage | None,
) -> tuple[Interpretation, list[SearchStage]]:
    """Round the formula if it may replace the network; otherwise replace as many edges as possible.

    Returns:
        The interpretation, with its certificate but still without an outcome, and its stages.
    """
    problem = given.search
    data = given.search.data
    tolerance = given.cfg.error_tolerance
    graph = choice.formula
    stages = list[SearchStage]()
    decisions = tuple[Decision, ...]()
    formula = None
    approximation = None
    if network and not (graph and stands_for(graph, choice.error, network, tolerance, data)):
        if graph is not None:
            approximation = finish_formula(graph, data, budget)
        allowed = allowed_error(choice.network_error, tolerance, data)
        # Only half of the remaining work, because the rest is needed to round and simplify the
        # formula.
        with budget.enforced(0.5):
            mixed, decisions = partly_symbolic(choice, problem, allowed, 3.0)
        accepted = mixed.numeric_edges() or stands_for(
            mixed, data.error(mixed), network, tolerance, data
        )
        graph = mixed if accepted and any(each.symbolic for each in decisions) else None
        stages += [SearchStage("mix", choice.name, graph, data)] if graph is not None else []
    if graph is not None:
        keep = bool(choice.rivals) and graph is choice.formula
        formula = finish_formula(graph, data, budget, keep_terms=keep)
        stages.append(SearchStage("round", choice.name, formula.graph, data))
        stages.append(SearchStage("verify", choice.name, formula.graph, data, formula))
    verified = given.network.itself if given.network is not None else choice.network
    certificate = certify(formula, verified, given.held_out)
    found = Interpretation(
        Outcome.FAILED,
        "",
        formula,
        verified,
        certificate,
        structure_fit=choice,
        approximation=approximation,
        decisions=decisions,
    )
    return found, stages


def _judge(
    found: Interpretation,
    choice: FittedStructure,
    given: InterpretationProblem,
    network: SearchStage | None,
) -> tuple[Outcome, str]:
    """Return the outcome of an interpretation, and the sentence that explains it."""
    formula = found.formula
    data = given.search.data
    certificate = found.certificate
    held_out = given.held_out
    assert certificate is not None, "an invariant of what `_finish` returns"
    fresh = replace(data, validation_x=held_out.x, validation_y=held_out.y)
    fresh = fresh.relative_to_size() if data.relative else fresh
    if formula is not None and not formula.splines:
        error = max(data.overall_error(formula), fresh.error(formula))
        if error <= data.exact and data.has_enough_points(formula.graph.parameters.size):
            return _reproducing(found, error, given, data)
    notes = ""
    if found.approximation is not None and network is not None:
        ratio = choice.error / max(network.error, _TINY)
        notes = (
            f"; the best formula of candidates alone has {ratio:.3g} times the error of the network"
        )
    if formula is None:
        return Outcome.FAILED, Ending.NO_CANDIDATE + notes
    if not fresh.error(formula) < fresh.no_skill_error:
        return Outcome.FAILED, Ending.NO_SKILL + notes
    if formula.splines:
        counts = {"numeric": len(formula.splines), "edges": choice.network.active_edges}
        return Outcome.PARTLY_NUMERIC, Ending.PARTLY_NUMERIC.format(**counts) + notes
    is_recovered = certificate.recovered == "yes" and _is_known(formula, held_out)
    error = data.error(formula)
    if network is None:
        said = Ending.SHORTEST.format(error=error)
    else:
        said = Ending.AS_GOOD.format(ratio=error / max(network.error, _TINY))
    where = ", measured on log |y| because the noise is proportional to y" if data.relative else ""
    return Outcome.EXACT if is_recovered else Outcome.FORMULA, f"{said}{where}{notes}"


def _reproducing(
    found: Interpretation, error: float, given: InterpretationProblem, data: SearchData
) -> tuple[Outcome, str]:
    """Return the outcome and the sentence of a formula whose `error` counts as exact."""
    formula = found.formula
    certificate = found.certificate
    assert formula is not None, "an invariant of `_judge`"
    assert certificate is not None, "an invariant of `_judge`"
    shown = evidence(formula.expression, formula.names, data)
    is_identity = shown.is_shown or _is_known(formula, given.held_out)
    outcome = Outcome.EXACT if is_identity else Outcome.AGREES
    ending = Ending.REPRODUCED if is_identity else Ending.UNDECIDED
    if not is_truth(formula, given.held_out):
        outcome = Outcome.WRONG if is_identity else Outcome.AGREES
        ending = Ending.REFUTED if is_identity else Ending.UNDECIDED_REFUTED
    elif is_identity and certificate.recovered == "yes":
        ending = Ending.RECOVERED
    return outcome, ending.format(error=error, next_part=shown.next_part)


def is_truth(formula: Formula, held_out: VerificationData, width: float | Array = 2.0) -> bool:
    """Return whether a formula equals the true function on a domain `width` times that of the data.

    `width` is a number or one factor per new point, shape (points, 1). If the true function is not
    known, the result is True.
    """
    if held_out.truth is None:
        return True
    # Outside the data, extrapolation amplifies rounding errors.
    largest = 1e-9
    x = widened(held_out.fresh, width)
    with np.errstate(all="ignore"):
        truth = held_out.truth(x)
        values = formula(x)
    both = np.isfinite(truth) & np.isfinite(values)
    size = np.maximum(np.abs(truth[both]), float(np.std(held_out.y)))
    return bool(np.all(np.abs(values[both] - truth[both]) <= largest * size))


def _is_known(formula: Formula, held_out: VerificationData) -> bool:
    """Return whether the true function is known and equals the formula even far from the data."""
    if held_out.truth is None:
        return False
    widths = np.geomspace(1, 1e3, len(held_out.fresh))[:, None]
    with np.errstate(all="ignore"):
        finite = np.isfinite(held_out.truth(widened(held_out.fresh, widths)))
    return bool(finite.mean() > 0.5) and is_truth(formula, held_out, widths)


def is_constant(data: SearchData) -> bool:
    """Return whether the output varies by no more than rounding."""
    return float(np.std(data.y)) <= 1e-14 * max(float(np.abs(data.y).max()), _TINY)


def _constant(given: InterpretationProblem) -> Interpretation:
    """Return the interpretation of a constant output."""
    data = given.search.data
    graph = Graph(data.x.shape[1], ("sum",), ())
    names = tuple(input_names(graph.inputs))
    formula = Formula(as_written(sympy.Float(float(data.y.mean()), 17)), names, graph)
    network = given.network.itself if given.network is not None else formula
    certificate = certify(formula, network, replace(given.held_out, truth=None))
    return Interpretation(Outcome.FORMULA, Ending.CONSTANT, formula, network, certificate)


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
    # Smallest number of points for which `interpret` searches for a formula.
    fewest = 20
    if len(points) < fewest:
        raise UsageError(
            f"{len(points)} points are too few to find a formula; give at least {fewest}."
        )
    return target, points


def _split(rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first fifth of `rows`, and the rest."""
    part = len(rows) // 5
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
        elif searching.spent and result.outcome is Outcome.FORMULA:
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
        found and _formula_in_user_units(found, problem, min(0.2, budget.left))
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
