"""Round, verify and judge the best formula of a search.

If no formula is as good as the network, as many edges of the network as possible are replaced with
symbolic functions, and the others stay numeric.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sympy

from kanrun.engine.symbolic import (
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
    evidence,
    finish_formula,
    input_names,
    partly_symbolic,
    widened,
)
from kanrun.points import Array

from .problem import Function, InterpretationProblem

#: Stages at which all edges are numeric (splines). A formula is compared with the best network of
#: these stages.
_NUMERIC = ("train", "prune", "retrain")
#: Work for replacing edges one by one (approximate CPU seconds).
_MIXED_WORK = 3.0
#: Largest difference, relative to the true function, between an exact formula and the true function
#: outside the data, where extrapolation amplifies rounding errors.
_EXTRAPOLATED = 1e-9
#: A formula counts as the known true function if both agree on domains up to this many times as
#: wide as that of the data.
_FAR = 1e3
#: Outcomes of formulas that reproduce all points. The residuals are then only rounding, and say
#: nothing about the errors of the constants.
REPRODUCING = ("exact", "agrees", "wrong")
#: An output is constant if its standard deviation is at most this fraction of its largest absolute
#: value.
_CONSTANT = 1e-14
#: Smallest divisor of a ratio of errors.
_TINY = 1e-300


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

    outcome: str
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
        sentence = "no structure found: nothing predicts held-out points better than the mean"
        yield Interpretation("failed", sentence, steps=tuple(steps))
        return
    if choice is None:
        sentence = f"budget={given.cfg.budget:g} was spent before a formula was tried; raise it"
        yield Interpretation("failed", sentence, steps=tuple(steps))
        return
    network = min(networks, key=lambda step: step.error, default=None)
    if network is not None and network.error <= data.exact:
        # The points are values of the network, or it is as exact as they are. Only an exact formula
        # would be as good, so formulas are judged by the points alone.
        network = None
    found, stages = _finish(choice, given, budget, network)
    yield from stages
    kind, sentence = _judge(found, choice, given, network)
    if kind == "failed":
        found = replace(found, formula=None, approximation=found.approximation or found.formula)
    yield replace(
        found,
        outcome=kind,
        sentence=sentence,
        steps=(*steps, *stages),
        rivals=choice.rivals if kind == "formula" and not found.approximation else (),
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
            mixed, decisions = partly_symbolic(choice, problem, allowed, _MIXED_WORK)
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
    return Interpretation(
        "", "", formula, verified, certificate, 0.0, choice, (), approximation, decisions
    ), stages


def _judge(
    found: Interpretation,
    choice: FittedStructure,
    given: InterpretationProblem,
    network: SearchStage | None,
) -> tuple[str, str]:
    """Return the outcome of an interpretation as a word (see `Interpretation`) and a sentence."""
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
        return "failed", f"no structure found: every edge stays numeric{notes}"
    if not fresh.error(formula) < fresh.no_skill_error:
        return "failed", f"no formula explains any of the variance of new points{notes}"
    if formula.splines:
        count = f"{len(formula.splines)} of {choice.network.active_edges}"
        return "partly numeric", f"{count} edges stay numeric: no candidate is as good{notes}"
    is_recovered = certificate.recovered == "yes" and _is_known(formula, held_out)
    error = data.error(formula)
    said = f"the shortest description that was found; its relative error is {error:.2g}"
    if network is not None:
        ratio = error / max(network.error, _TINY)
        said = (
            f"the formula is as good as the network; its error is {ratio:.2g} times the network's"
        )
    where = ", measured on log |y| because the noise is proportional to y" if data.relative else ""
    return "exact" if is_recovered else "formula", f"{said} on held-out points{where}{notes}"


def _reproducing(
    found: Interpretation, error: float, given: InterpretationProblem, data: SearchData
) -> tuple[str, str]:
    """Return the outcome and the sentence of a formula whose `error` counts as exact."""
    formula = found.formula
    certificate = found.certificate
    assert formula is not None, "an invariant of `_judge`"
    assert certificate is not None, "an invariant of `_judge`"
    shown = evidence(formula.expression, formula.names, data)
    is_identity = shown.is_shown or _is_known(formula, given.held_out)
    sentence = f"the formula reproduces all points (relative error {error:.1e})"
    if not is_identity:
        sentence += (
            ", but they do not show that it is their function: if it were a truncated series, its "
            f"next term would be as small as {shown.next_part:.0e}, which the error hides; points "
            "on wider ranges may show it"
        )
    if not is_truth(formula, given.held_out):
        sentence += "; it differs from the true formula outside the training domain"
        return "wrong" if is_identity else "agrees", sentence
    if is_identity and certificate.recovered == "yes":
        sentence += " and agrees with the true formula"
    return "exact" if is_identity else "agrees", sentence


def is_truth(formula: Formula, held_out: VerificationData, width: float | Array = 2.0) -> bool:
    """Return whether a formula equals the true function on a domain `width` times that of the data.

    `width` is a number or one factor per new point, shape (points, 1). If the true function is not
    known, the result is True.
    """
    if held_out.truth is None:
        return True
    x = widened(held_out.fresh, width)
    with np.errstate(all="ignore"):
        truth = held_out.truth(x)
        values = formula(x)
    both = np.isfinite(truth) & np.isfinite(values)
    size = np.maximum(np.abs(truth[both]), float(np.std(held_out.y)))
    return bool(np.all(np.abs(values[both] - truth[both]) <= _EXTRAPOLATED * size))


def _is_known(formula: Formula, held_out: VerificationData) -> bool:
    """Return whether the true function is known and equals the formula even far from the data."""
    if held_out.truth is None:
        return False
    widths = np.geomspace(1, _FAR, len(held_out.fresh))[:, None]
    with np.errstate(all="ignore"):
        finite = np.isfinite(held_out.truth(widened(held_out.fresh, widths)))
    return bool(finite.mean() > 0.5) and is_truth(formula, held_out, widths)


def is_constant(data: SearchData) -> bool:
    """Return whether the output varies by no more than rounding."""
    return float(np.std(data.y)) <= _CONSTANT * max(float(np.abs(data.y).max()), _TINY)


def _constant(given: InterpretationProblem) -> Interpretation:
    """Return the interpretation of a constant output."""
    data = given.search.data
    graph = Graph(data.x.shape[1], ("sum",), ())
    names = tuple(input_names(graph.inputs))
    formula = Formula(as_written(sympy.Float(float(data.y.mean()), 17)), names, graph)
    network = given.network.itself if given.network is not None else formula
    certificate = certify(formula, network, replace(given.held_out, truth=None))
    return Interpretation("formula", "the output is constant", formula, network, certificate)
