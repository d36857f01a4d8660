"""From the structures that were tried to a result: the best formula rounded and verified, or the network as far as
candidates could take its edges over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import sympy
from kanrun.experiments.interpret.result import Array, Check, Interpretation, InterpretationProblem

from kanrun.engine.symbolic import (
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

#: Points of the certificate that no part of the search has seen.
_FRESH = 1000
#: Stages whose networks are numeric: the best of them is what a formula is measured by.
_NUMERIC = ("train", "prune", "retrain")
#: Error over all points, relative to their spread, up to which a formula is called exact: rounding, multiplied by
#: what formulas of some depth make of it. The 73 of the score cards leave at most 6e-15; a quotient of polynomials of
#: ten terms comes as near as 6e-12 to an exponential.
EXACT_FORMULA = 1e-13
#: Difference from the truth, relative to its size, that a formula called exact may have.
_EQUAL = 1e-9
#: Relative error of a formula below which its ratio to the network's says nothing.
_ROUNDED = 1e-11
#: Relative error of a network above which its share of the variance is said beside the formula.
_POOR = 0.1


@dataclass(frozen=True)
class _Outcome:
    """The structure chosen, the formula and, where that is worse than the network, the approximation; the decision on
    each edge, and the stages from the structure to the formula."""

    choice: FittedStructure
    formula: Formula | None = None
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    stages: tuple[SearchStage, ...] = ()


def verdict(
    problem: SearchProblem,
    given: InterpretationProblem,
    steps: Sequence[SearchStage],
    tried: Sequence[FittedStructure],
    slack: float,
    budget: Budget,
) -> Iterator[SearchStage | Interpretation]:
    """The stages from the best structure to its formula, then the interpretation, certified against the network that
    was given, or else the one that was trained. A formula may be `slack` worse than its network; what is left of the
    budget goes into rounding and simplification."""
    data, check = problem.data, given.check
    numeric = [step for step in steps if step.stage in _NUMERIC]
    best = min(
        [*(step.error for step in numeric), *(each.network_error for each in tried)], default=inf
    )
    choice = choose_formula(tried, problem)
    if best >= data.no_skill_error or choice is None:
        sentence = f"the network did not train: its relative error on held-out points is {best:.2g}; nothing was snapped"
        if best >= data.no_skill_error:
            sentence = "no structure found: no network predicts held-out points better than their mean does"
        yield Interpretation("failed", sentence, steps=tuple(steps))
        return
    measures = [step for step in numeric if not data.interpolated_by(step.graph.parameters.size)]
    reference = min([choice.network_error, *(step.error for step in measures)])
    reference = inf if numeric and not measures else reference
    nearest = min(measures, key=lambda step: step.error).model if measures else choice.network
    outcome = yield from _finishing(choice, tried, problem, slack, budget, (reference, nearest))
    formula, stages, start = outcome.formula, outcome.stages, time.monotonic()
    network = given.network.itself if given.network is not None else outcome.choice.network
    proof = problem.policy.simplification
    proof = replace(proof, proof=min(proof.proof, problem.policy.proving * problem.policy.budget))
    held, points = (check.x, check.y), fresh(check.domain)
    certificate = certify(formula, network, held, points, check.truth, check.expression, proof)
    if formula is not None:
        spent = time.monotonic() - start
        stages = (
            *stages,
            SearchStage("verify", choice.name, formula.graph, data.error(formula), spent, formula),
        )
        yield stages[-1]
    allowed = max((1 + slack) * reference, problem.policy.exact)
    kind, sentence = _judged(
        outcome, choice.formula_error, certificate, check, data, reference, allowed
    )
    yield Interpretation(
        kind,
        sentence,
        formula,
        network,
        certificate,
        choice.name,
        0.0,
        choice,
        (*steps, *stages),
        outcome.approximation,
        outcome.decisions,
        data.relative,
    )


def _finishing(
    choice: FittedStructure,
    tried: Sequence[FittedStructure],
    problem: SearchProblem,
    slack: float,
    budget: Budget,
    reference: tuple[float, Callable[[Array], Array]],
) -> Generator[SearchStage, None, _Outcome]:
    """Rounds the formula if it is as good as the network with the error of `reference`, or where noise leaves it to
    chance which is better, else snaps what edges can be."""
    allowed = min(max((1 + slack) * reference[0], problem.policy.exact), 1.0)
    noisy = reference[0] > problem.policy.selection.smooth
    names = [f"x{i}" for i in range(problem.data.x.shape[1])]

    def good(graph: Graph, error: float) -> bool:
        return error <= allowed or (
            noisy and problem.data.not_significantly_worse(graph, reference[1])
        )

    def rounded(graph: Graph) -> tuple[Formula, SearchStage]:
        start = time.monotonic()
        with at_most(budget.left):
            formula = finish_formula(graph, problem.data, names, problem.policy)
        error = problem.data.error(formula.graph)
        return formula, SearchStage(
            "round", choice.name, formula.graph, error, time.monotonic() - start
        )

    if choice.formula is not None and good(choice.formula, choice.formula_error):
        formula, stage = rounded(choice.formula)
        yield stage
        return _Outcome(choice, formula, stages=(stage,))
    approximation = rounded(choice.formula)[0] if choice.formula is not None else None
    start = time.monotonic()
    choice, mixed = _mixed(choice, tried, problem, slack, budget)
    if not mixed.symbolic or not (mixed.graph.numeric_edges() or good(mixed.graph, mixed.error)):
        return _Outcome(choice, None, approximation, mixed.decisions)
    mix = SearchStage("mix", choice.name, mixed.graph, mixed.error, time.monotonic() - start)
    yield mix
    formula, stage = rounded(mixed.graph)
    yield stage
    return _Outcome(choice, formula, approximation, mixed.decisions, (mix, stage))


def _mixed(
    choice: FittedStructure,
    tried: Sequence[FittedStructure],
    problem: SearchProblem,
    slack: float,
    budget: Budget,
) -> tuple[FittedStructure, PartlySymbolic]:
    """The structure, among those whose networks are nearly the best, of which candidates take over the most."""
    policy = problem.policy.mixing
    best = min(each.network_error for each in tried)
    near = [each for each in tried if each.network_error <= policy.near * best][
        : policy.structures
    ] or [choice]
    found: list[tuple[int, float, int, FittedStructure, PartlySymbolic]] = []
    for each in near:
        allowed = max((1 + slack) * each.network_error, problem.policy.exact)
        mixed, allowance = PartlySymbolic(each.network, each.network_error, ()), policy.budget / len(near)
        # What the budget leaves is for the formula.
        with contextlib.suppress(WorkSpent), at_most(0.7 * budget.left):
            mixed = partly_symbolic(each.network, problem, each.matches, allowed, allowance)
        numeric = len(mixed.graph.numeric_edges())
        found.append((numeric, mixed.graph.complexity, len(found), each, mixed))
    _, _, _, structure, chosen = min(found, key=lambda entry: entry[:3])
    return structure, chosen


def _judged(
    outcome: _Outcome,
    formula_error: float,
    certificate: Certificate,
    check: Check,
    data: SearchData,
    reference: float,
    allowed: float,
) -> tuple[str, str]:
    """The outcome in a word and a sentence."""
    choice, formula = outcome.choice, outcome.formula
    if formula is not None and not formula.splines:
        error = data.overall_error(formula)
        if error <= EXACT_FORMULA and data.has_enough_points(formula.graph.parameters.size):
            sentence = f"the formula gives all points {f'to {error:.1e} of their spread' if error else 'to the last digit'}"
            if not (certificate.proven_equal == "yes" or is_truth(formula, check)):
                return "wrong", f"{sentence}; beyond them it is not the truth"
            return "exact", sentence + " and agrees with the truth" * (
                certificate.recovered == "yes"
            )
    poor = ""
    if _POOR < choice.network_error < inf:
        by_mean = data.error(lambda x: np.full(x.shape[0], float(np.mean(data.y))))
        explained = 1 - (choice.network_error / by_mean) ** 2
        poor = f"; the network itself explains {explained:.3g} of the variance"
    away = ""
    if outcome.approximation is not None:
        ratio = formula_error / max(reference, 1e-300)
        away = (
            f"; the best formula of candidates alone is {ratio:.3g} times as wrong as the network"
        )
    if formula is None:
        return "failed", f"no structure found: every edge stays numeric{away}{poor}"
    if formula.splines:
        count = f"{len(formula.splines)} of {choice.network.active_edges}"
        return (
            "partly numeric",
            f"{count} edges stay numeric: no candidate is as good there{away}{poor}",
        )
    error, kind = data.error(formula), "exact" if certificate.recovered == "yes" else "formula"
    if reference == inf:
        return (
            kind,
            f"the shortest description of so few points; it leaves {error:.2g} of their spread",
        )
    said = (
        f"its error on held-out points is {error / max(reference, 1e-300):.2g} times the network's"
    )
    said += (
        f", a difference that {data.validation_y.size} points leave to chance"
        if error > allowed
        else ""
    )
    said = said if error > _ROUNDED else f"its relative error on held-out points is {error:.1g}"
    said += ", of the logarithm, as noise is in proportion to y" if data.relative else ""
    return kind, f"the formula is as good as the network ({said}){poor}"


def is_truth(formula: Formula, check: Check) -> bool:
    """Whether the formula is the truth where both are defined on fresh points of a domain twice as wide, in which
    inputs of one sign keep it (x is sqrt(x^2) where x is positive); True where there is no truth to ask."""
    if check.truth is None:
        return True
    middle, half = check.domain.mean(1), np.diff(check.domain, axis=1)[:, 0] / 2
    low, high = check.domain.T
    wide = np.stack([middle - 2 * half, middle + 2 * half], axis=1)
    wide[low >= 0] = np.maximum(wide[low >= 0], 0.0)
    wide[high <= 0] = np.minimum(wide[high <= 0], 0.0)
    x = fresh(wide)
    with np.errstate(all="ignore"):
        truth, values = check.truth(x), formula(x)
    both = np.isfinite(truth) & np.isfinite(values)
    size = np.maximum(np.abs(truth[both]), float(np.std(check.y)))
    return bool(np.all(np.abs(values[both] - truth[both]) <= _EQUAL * size))


def constant(given: InterpretationProblem) -> Interpretation:
    """The interpretation of an output that does not vary."""
    data, check = given.samples, given.check
    graph = Graph(data.x.shape[1], ("sum",), ())
    names = tuple(f"x{i}" for i in range(data.x.shape[1]))
    formula = Formula(sympy.Float(float(data.y.mean()), 17), names, graph)
    network = given.network.itself if given.network is not None else formula
    certificate = certify(formula, network, (check.x, check.y), fresh(check.domain), None, None)
    return Interpretation("formula", "the output is constant", formula, network, certificate)


def fresh(domain: Array) -> Array:
    """Points of the domain that no part of the search has seen."""
    low, high = domain[:, 0], domain[:, 1]
    return low + np.random.default_rng(20240430).random((_FRESH, len(domain))) * (high - low)
