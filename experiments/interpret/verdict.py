"""From the structures that were tried to a result: the best formula rounded and verified, or the network as far as
candidates could take its edges over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import sympy
from kanrun.experiments.interpret.result import Array, Check, Interpretation, SourceNetwork

from kanrun.engine.symbolic import (
    Budget,
    Certificate,
    Decision,
    Formula,
    Graph,
    PartlySymbolic,
    SearchData,
    SearchProblem,
    SearchStage,
    Tried,
    WorkSpent,
    at_most,
    certify,
    choose_formula,
    finished,
    partly_symbolic,
    variants,
)

#: Points of the certificate that no part of the search has seen.
_FRESH = 1000
#: Stages whose networks are numeric: the best of them is what a formula is measured by.
_NUMERIC = ("train", "prune", "retrain")
#: Error over all points, relative to their spread, up to which a formula is called exact: rounding, multiplied by
#: what formulas of some depth make of it. The 73 of the score cards leave at most 6e-15; a quotient of polynomials of
#: ten terms comes as near as 6e-12 to an exponential.
EXACT_FORMULA = 1e-13
#: Relative error of a formula below which its ratio to the network's says nothing.
_ROUNDED = 1e-11
#: Relative error of a network above which its share of the variance is said beside the formula.
_POOR = 0.1


@dataclass(frozen=True)
class Conditions:
    """How much worse than its network a formula may be (`slack`), the work that is left, and when it all began."""

    slack: float
    budget: Budget
    began: float


@dataclass(frozen=True)
class _Outcome:
    """The structure chosen, the formula and, where that is worse than the network, the approximation; the decision on
    each edge."""

    choice: Tried
    formula: Formula | None
    approximation: Formula | None
    decisions: tuple[Decision, ...]


def verdict(
    problem: SearchProblem,
    conditions: Conditions,
    check: Check,
    steps: Sequence[SearchStage],
    tried: Sequence[Tried],
    source: SourceNetwork | None,
) -> Iterator[SearchStage | Interpretation]:
    """The stages from the best structure to its formula, then the interpretation, certified against the network that
    was given as `source`, or else the one that was trained. What is left of the budget goes into rounding and
    simplification."""
    data, began = problem.data, conditions.began
    numeric = [step.error for step in steps if step.stage in _NUMERIC]
    best = min([*numeric, *(each.network_error for each in tried)], default=float("inf"))
    choice = choose_formula(tried, problem)
    if best >= data.nothing or choice is None:
        yield _nothing(best, data.nothing, steps, began)
        return
    more: list[SearchStage] = []
    outcome = None
    measures = [step for step in steps if step.stage in _NUMERIC]
    measures = [step for step in measures if not data.interpolated_by(step.graph.parameters.size)]
    few = not measures and any(step.stage in _NUMERIC for step in steps)
    reference = inf if few else min([choice.network_error, *(step.error for step in measures)])
    nearest = min(measures, key=lambda step: step.error).model if measures else choice.network
    for event in _finishing(choice, tried, problem, conditions, (reference, nearest)):
        if isinstance(event, SearchStage):
            more.append(event)
            yield event
        else:
            outcome = event
    assert outcome is not None
    formula_error, choice = choice.formula_error, outcome.choice
    start = time.monotonic()
    network = source.itself if source is not None else choice.network
    points, proof = fresh(check.domain), problem.policy.simplification
    proof = replace(proof, proof=min(proof.proof, problem.policy.proving * problem.policy.budget))
    certificate = certify(outcome.formula, network, (check.x, check.y), points, check.truth, check.expression, proof)
    if outcome.formula is not None:
        error = data.error(outcome.formula)
        more.append(
            SearchStage("verify", choice.name, outcome.formula.graph, error, time.monotonic() - start, outcome.formula)
        )
        yield more[-1]
    allowed = max((1 + conditions.slack) * reference, problem.policy.exact)
    kind, sentence = _judged(outcome, formula_error, certificate, data, reference, allowed)
    yield Interpretation(
        kind, sentence, outcome.formula, network, certificate, choice.name, time.monotonic() - began,
        choice, (*steps, *more), outcome.approximation, outcome.decisions, data.relative,
    )  # fmt: skip


def _nothing(best: float, nothing: float, steps: Sequence[SearchStage], began: float) -> Interpretation:
    sentence = f"the network did not train: its relative error on held-out points is {best:.2g}; nothing was snapped"
    if best >= nothing:
        sentence = "no structure found: no network predicts held-out points better than their mean does"
    return Interpretation("failed", sentence, None, None, None, "", time.monotonic() - began, None, tuple(steps))


def _finishing(
    choice: Tried, tried: Sequence[Tried], problem: SearchProblem, conditions: Conditions,
    reference: tuple[float, Callable[[Array], Array]],
) -> Iterator[SearchStage | _Outcome]:  # fmt: skip
    """Rounds the formula if it is as good as the network with the error of `reference`, or where noise leaves it to
    chance which is better, else snaps what edges can be."""
    allowed = min(max((1 + conditions.slack) * reference[0], problem.policy.exact), 1.0)
    noisy = reference[0] > problem.policy.selection.smooth
    names = [f"x{i}" for i in range(problem.data.x.shape[1])]

    def good(graph: Graph, error: float) -> bool:
        return error <= allowed or (noisy and problem.data.alike(graph, reference[1]))

    def rounded(graph: Graph) -> tuple[Formula, SearchStage]:
        start = time.monotonic()
        with at_most(conditions.budget.left):
            formula = finished(graph, problem.data, names, problem.policy)
        error = problem.data.error(formula.graph)
        return formula, SearchStage("round", choice.name, formula.graph, error, time.monotonic() - start)

    if choice.formula is not None and good(choice.formula, choice.formula_error):
        formula, stage = rounded(choice.formula)
        yield stage
        yield _Outcome(choice, formula, None, ())
        return
    approximation = rounded(choice.formula)[0] if choice.formula is not None else None
    start = time.monotonic()
    choice, mixed = _mixed(choice, tried, problem, conditions)
    if not mixed.symbolic or not (mixed.graph.numeric_edges() or good(mixed.graph, mixed.error)):
        yield _Outcome(choice, None, approximation, mixed.decisions)
        return
    yield SearchStage("mix", choice.name, mixed.graph, mixed.error, time.monotonic() - start)
    formula, stage = rounded(mixed.graph)
    yield stage
    yield _Outcome(choice, formula, approximation, mixed.decisions)


def _mixed(
    choice: Tried, tried: Sequence[Tried], problem: SearchProblem, conditions: Conditions
) -> tuple[Tried, PartlySymbolic]:
    """The structure, among those whose networks are nearly the best, of which candidates take over the most."""
    policy = problem.policy.mixing
    best = min(each.network_error for each in tried)
    near = [each for each in tried if each.network_error <= policy.near * best][: policy.structures] or [choice]
    found: list[tuple[int, float, int, Tried, PartlySymbolic]] = []
    for each in near:
        allowed = max((1 + conditions.slack) * each.network_error, problem.policy.exact)
        for graph in variants(each.network, problem):
            mixed = PartlySymbolic(graph, problem.data.error(graph), ())
            allowance = policy.budget / (len(near) * problem.policy.selection.variants)
            with contextlib.suppress(WorkSpent), at_most(0.7 * conditions.budget.left):  # the rest is for its formula
                mixed = partly_symbolic(graph, problem, each.matches, allowed, allowance)
            numeric = len(mixed.graph.numeric_edges())
            found.append((numeric, mixed.graph.complexity, len(found), each, mixed))
            if numeric == 0:
                break
    _, _, _, structure, chosen = min(found, key=lambda entry: entry[:3])
    return structure, chosen


def _judged(
    outcome: _Outcome,
    formula_error: float,
    certificate: Certificate,
    data: SearchData,
    reference: float,
    allowed: float,
) -> tuple[str, str]:
    choice = outcome.choice
    if outcome.formula is not None and not outcome.formula.splines:
        error = data.overall_error(outcome.formula)
        if error <= EXACT_FORMULA and data.supports(outcome.formula.graph.parameters.size):
            close = f"to {error:.1e} of their spread" if error else "to the last digit"
            known = " and agrees with the truth" if certificate.recovered == "yes" else ""
            return "exact", f"the formula gives all points {close}{known}"
    poor = f"; the network itself explains {_explained(data, choice):.3g} of the variance"
    poor = poor if _POOR < choice.network_error < inf else ""
    away = ""
    if outcome.approximation is not None:
        ratio = formula_error / max(reference, 1e-300)
        away = f"; the best formula of candidates alone is {ratio:.3g} times as wrong as the network"
    if outcome.formula is None:
        return "failed", f"no structure found: every edge stays numeric{away}{poor}"
    if outcome.formula.splines:
        count = f"{len(outcome.formula.splines)} of {choice.network.active_edges}"
        return "partly numeric", f"{count} edges stay numeric: no candidate is as good there{away}{poor}"
    error = data.error(outcome.formula)
    if reference == inf:
        return "formula", f"the shortest description of so few points; it leaves {error:.2g} of their spread"
    said = f"its error on held-out points is {error / max(reference, 1e-300):.2g} times the network's"
    said += f", a difference that {data.validation_y.size} points leave to chance" if error > allowed else ""
    said = said if error > _ROUNDED else f"its relative error on held-out points is {error:.1g}"
    said += ", of the logarithm, as noise is in proportion to y" if data.relative else ""
    return "formula", f"the formula is as good as the network ({said}){poor}"


def _explained(data: SearchData, choice: Tried) -> float:
    by_mean = data.error(lambda x: np.full(x.shape[0], float(np.mean(data.y))))
    return 1 - (choice.network_error / by_mean) ** 2


def constant(data: SearchData, check: Check, source: SourceNetwork | None, began: float) -> Interpretation:
    """The interpretation of an output that does not vary, certified against the network `source`, if there is one."""
    names = tuple(f"x{i}" for i in range(data.x.shape[1]))
    graph = Graph(data.x.shape[1], ("sum",), ())
    formula = Formula(sympy.Float(float(data.y.mean()), 17), names, graph)
    network = source.itself if source is not None else formula
    certificate = certify(formula, network, (check.x, check.y), fresh(check.domain), None, None)
    sentence = "the output is constant"
    return Interpretation("formula", sentence, formula, network, certificate, "", time.monotonic() - began)


def fresh(domain: Array) -> Array:
    """Points of the domain that no part of the search has seen."""
    low, high = domain[:, 0], domain[:, 1]
    return low + np.random.default_rng(20240430).random((_FRESH, len(domain))) * (high - low)
