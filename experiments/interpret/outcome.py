"""From the structures of a search to a result.

The best formula rounded and verified, or the network partly symbolic.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import sympy
from kanrun.experiments.interpret.result import (
    Array,
    Interpretation,
    InterpretationProblem,
    VerificationData,
)

from kanrun.engine.symbolic import (
    EXACT,
    Budget,
    Certificate,
    Decision,
    FittedStructure,
    Formula,
    Graph,
    PartlySymbolic,
    SearchData,
    SearchProblem,
    SearchStage,
    WorkSpent,
    at_most,
    certify,
    choose_formula,
    finish_formula,
    partly_symbolic,
)

#: Number of points for the certificate, which no part of the search has seen.
_VERIFICATION_POINTS = 1000
#: Stages whose networks are numeric: a formula is compared with the best of them.
_NUMERIC = ("train", "prune", "retrain")
#: Difference from the true function beyond the data, relative to its size, that a formula called
#: exact may have: rounding, multiplied by extrapolation.
_EXTRAPOLATED = 1e-9
#: Networks of which some edges stay numeric: how many are tried, up to which multiple of the
#: smallest error, and the work for each.
_MIXED, _NEAR, _MIXED_WORK = 4, 3.0, 2.0
#: Relative error of a network above which the outcome reports the variance it explains.
_POOR = 0.1


@dataclass(frozen=True)
class _Finished:
    """The structure chosen, its formula or partly numeric formula, and the stages that led to it.

    `approximation` is the best formula of candidates alone if it is worse than the network.
    """

    choice: FittedStructure
    formula: Formula | None = None
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    stages: tuple[SearchStage, ...] = ()


@dataclass(frozen=True)
class _Reference:
    """The network that a formula is compared with, its error, and the tolerance of a formula."""

    network: Callable[[Array], Array]
    error: float
    tolerance: float
    data: SearchData

    def allowed(self, error: float | None = None) -> float:
        return max((1 + self.tolerance) * (self.error if error is None else error), EXACT)

    def accepts(self, model: Callable[[Array], Array], error: float) -> bool:
        """Return whether a formula is as good as the network, or not significantly worse."""
        if error <= min(self.allowed(), 1.0):
            return True
        return self.error > EXACT and self.data.not_significantly_worse(model, self.network)


def outcome(
    problem: SearchProblem,
    given: InterpretationProblem,
    steps: Sequence[SearchStage],
    structures: Sequence[FittedStructure],
    tolerance: float,
    budget: Budget,
) -> Iterator[SearchStage | Interpretation]:
    """Yield the stages from the best structure to its formula, then the interpretation.

    The formula is verified against the given network, or else the trained one. Its error may exceed
    the network's by `tolerance`. The rest of the budget is for rounding and simplification.
    """
    data, held_out = problem.data, given.held_out
    numeric = [step for step in steps if step.stage in _NUMERIC]
    errors = [step.error for step in numeric] + [each.network_error for each in structures]
    best, choice = min(errors, default=inf), choose_formula(structures, problem)
    if best >= data.no_skill_error or choice is None:
        sentence = f"the network did not train: its relative error on held-out points is {best:.2g}"
        if best >= data.no_skill_error:
            sentence = (
                "no structure found: no network predicts held-out points better than the mean"
            )
        yield Interpretation("failed", sentence, steps=tuple(steps))
        return
    measures = [step for step in numeric if not data.interpolated_by(step.graph.parameters.size)]
    nearest = min(measures, key=lambda step: step.error).model if measures else choice.network
    error = min([choice.network_error, *(step.error for step in measures)])
    error = inf if numeric and not measures else error
    reference = _Reference(nearest, error, tolerance, data)
    finished = yield from _finish(choice, structures, problem, budget, reference)
    formula, stages, start = finished.formula, finished.stages, time.monotonic()
    network = given.network.itself if given.network is not None else finished.choice.network
    certificate = certify(
        formula,
        network,
        (held_out.x, held_out.y),
        verification_points(held_out.domain),
        held_out.truth,
        held_out.expression,
        problem.policy.simplify_budget,
    )
    if formula is not None:
        seconds = time.monotonic() - start
        error = data.error(formula)
        stage = SearchStage("verify", choice.name, formula.graph, error, seconds, formula)
        stages = (*stages, stage)
        yield stage
    kind, sentence = _judge(finished, choice.formula_error, certificate, held_out, reference)
    yield Interpretation(
        outcome=kind,
        sentence=sentence,
        formula=formula,
        network=network,
        certificate=certificate,
        structure=choice.name,
        structure_fit=choice,
        steps=(*steps, *stages),
        approximation=finished.approximation,
        decisions=finished.decisions,
        relative=data.relative,
    )


def _finish(
    choice: FittedStructure,
    structures: Sequence[FittedStructure],
    problem: SearchProblem,
    budget: Budget,
    reference: _Reference,
) -> Generator[SearchStage, None, _Finished]:
    """Round the formula if it is as good as the network, else snap as many edges as possible."""
    names = [f"x{i}" for i in range(problem.data.x.shape[1])]

    def rounded(graph: Graph) -> tuple[Formula, SearchStage]:
        start = time.monotonic()
        with at_most(budget.left):
            formula = finish_formula(graph, problem.data, names, problem.policy)
        error, seconds = problem.data.error(formula.graph), time.monotonic() - start
        return formula, SearchStage("round", choice.name, formula.graph, error, seconds)

    approximation = None
    if choice.formula is not None:
        formula, stage = rounded(choice.formula)
        if reference.accepts(choice.formula, choice.formula_error):
            yield stage
            return _Finished(choice, formula, stages=(stage,))
        approximation = formula
    start = time.monotonic()
    choice, mixed = _snap_partly(choice, structures, problem, budget, reference)
    is_formula = not mixed.graph.numeric_edges()
    if not mixed.symbolic or (is_formula and not reference.accepts(mixed.graph, mixed.error)):
        return _Finished(choice, None, approximation, mixed.decisions)
    mix = SearchStage("mix", choice.name, mixed.graph, mixed.error, time.monotonic() - start)
    yield mix
    formula, stage = rounded(mixed.graph)
    yield stage
    return _Finished(choice, formula, approximation, mixed.decisions, (mix, stage))


def _snap_partly(
    choice: FittedStructure,
    structures: Sequence[FittedStructure],
    problem: SearchProblem,
    budget: Budget,
    reference: _Reference,
) -> tuple[FittedStructure, PartlySymbolic]:
    """Return the structure with the fewest numeric edges, among those with the best networks."""
    limit = _NEAR * min(each.network_error for each in structures)
    # A longer search in a network replaces what was found first.
    near = {each.name: each for each in structures if each.network_error <= limit}
    found: list[tuple[int, float, int, FittedStructure, PartlySymbolic]] = []
    for each in list(near.values())[:_MIXED] or [choice]:
        mixed = PartlySymbolic(each.network, problem.data.error(each.network))
        allowed = reference.allowed(each.network_error)
        # Half of the rest is for the formula.
        with contextlib.suppress(WorkSpent), at_most(budget.left / 2):
            mixed = partly_symbolic(each.network, problem, each.matches, allowed, _MIXED_WORK)
        numeric = len(mixed.graph.numeric_edges())
        found.append((numeric, mixed.graph.complexity, len(found), each, mixed))
    *_, structure, chosen = min(found, key=lambda entry: entry[:3])
    return structure, chosen


def _judge(
    finished: _Finished,
    formula_error: float,
    certificate: Certificate,
    held_out: VerificationData,
    reference: _Reference,
) -> tuple[str, str]:
    """Return the outcome as a word and as a sentence."""
    choice, formula, data = finished.choice, finished.formula, reference.data
    if formula is not None and not formula.splines:
        error = data.overall_error(formula)
        if error <= EXACT and data.has_enough_points(formula.graph.parameters.size):
            sentence = f"the formula reproduces all points (relative error {error:.1e})"
            if certificate.proven_equal != "yes" and not is_truth(formula, held_out):
                return (
                    "wrong",
                    f"{sentence}; it differs from the true formula outside the training domain",
                )
            agrees = certificate.recovered == "yes"
            return "exact", sentence + (" and agrees with the true formula" if agrees else "")
    notes = ""
    if finished.approximation is not None:
        ratio = formula_error / max(reference.error, 1e-300)
        notes = (
            f"; the best formula of candidates alone has {ratio:.3g} times the error of the network"
        )
    if _POOR < choice.network_error < inf:
        mean = float(np.mean(data.y))
        by_mean = data.error(lambda x: np.full(x.shape[0], mean))
        explained = 1 - (choice.network_error / by_mean) ** 2
        notes += f"; the network itself explains {explained:.3g} of the variance"
    if formula is None:
        return "failed", f"no structure found: every edge stays numeric{notes}"
    if formula.splines:
        count = f"{len(formula.splines)} of {choice.network.active_edges}"
        return "partly numeric", f"{count} edges stay numeric: no candidate is as good{notes}"
    error, kind = data.error(formula), "exact" if certificate.recovered == "yes" else "formula"
    if reference.error == inf:
        few = f"the shortest description of so few points; its relative error is {error:.2g}"
        return kind, few
    said = f"its relative error on held-out points is {error:.1g}"
    if error > EXACT:
        ratio = error / max(reference.error, 1e-300)
        said = f"its error on held-out points is {ratio:.2g} times the network's"
    if error > reference.allowed():
        said += f", which is not significant with {data.validation_y.size} points"
    said += ", measured on log |y| because the noise is proportional to y" if data.relative else ""
    return kind, f"the formula is as good as the network ({said}){notes}"


def is_truth(formula: Formula, held_out: VerificationData) -> bool:
    """Return whether the formula is the true function on a domain twice as wide.

    Inputs of one sign keep it: x is sqrt(x^2) for positive x. True without a true function.
    """
    if held_out.truth is None:
        return True
    low, high = held_out.domain.T
    half = (high - low) / 2
    wide_low = np.where(low >= 0, np.maximum(low - half, 0.0), low - half)
    wide_high = np.where(high <= 0, np.minimum(high + half, 0.0), high + half)
    x = verification_points(np.stack([wide_low, wide_high], axis=1))
    with np.errstate(all="ignore"):
        truth, values = held_out.truth(x), formula(x)
    both = np.isfinite(truth) & np.isfinite(values)
    size = np.maximum(np.abs(truth[both]), float(np.std(held_out.y)))
    return bool(np.all(np.abs(values[both] - truth[both]) <= _EXTRAPOLATED * size))


def constant(given: InterpretationProblem) -> Interpretation:
    """Return the interpretation of an output that does not vary."""
    data, held_out = given.samples, given.held_out
    graph = Graph(data.x.shape[1], ("sum",), ())
    names = tuple(f"x{i}" for i in range(data.x.shape[1]))
    formula = Formula(sympy.Float(float(data.y.mean()), 17), names, graph)
    network = given.network.itself if given.network is not None else formula
    points = verification_points(held_out.domain)
    certificate = certify(formula, network, (held_out.x, held_out.y), points, None, None, 0.0)
    return Interpretation("formula", "the output is constant", formula, network, certificate)


def verification_points(domain: Array) -> Array:
    """Return points of the domain that no part of the search has seen."""
    low, high = domain[:, 0], domain[:, 1]
    fractions = np.random.default_rng(20240430).random((_VERIFICATION_POINTS, len(domain)))
    return low + fractions * (high - low)
