"""What an interpretation leaves in tables: its stages, the candidates of each edge, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from kanrun.experiments.interpret.diagram_edges import label
from kanrun.experiments.interpret.problem import InterpretationProblem
from kanrun.experiments.interpret.result import Array, Check, Interpretation
from kanrun.experiments.interpret.verdict import fresh

from kanrun.config import NistTarget
from kanrun.engine.symbolic import (
    ConstantsFitting,
    Decision,
    Formula,
    Graph,
    SearchData,
    SearchStage,
    SimplificationPolicy,
    Tried,
    confidence_intervals,
    depths,
    equivalent_forms,
    exactly,
    fit_constants,
    written,
)
from kanrun.runs.records import Row
from kanrun.targets.functions import NistSet, read_nist

#: Digits that float64 has: more than these agree by chance.
_MOST_DIGITS = 16.0


def certified_row(target: NistTarget, formula: Formula | None) -> Row:
    """Correct digits of the worst parameter from start 1 and 2, and the sum of squares of `formula` over the certified
    one, with its constants."""
    found = read_nist(target.path, target.name)
    values: dict[str, Any] = {"target": found.name, "parameters": len(found.parameters)}
    for number, start in enumerate(found.starts, 1):
        values[f"start_{number}_digits"] = _digits(found, start)
    ratio, constants = None, int(formula.graph.parameters.size) if formula is not None else None
    if formula is not None and not formula.splines:
        with np.errstate(all="ignore"):
            total = float(np.sum((formula(found.x) - found.y) ** 2))
        ratio = total / found.sum_of_squares if np.isfinite(total) else None
    return Row("certified", {**values, "residual_ratio": ratio, "constants": constants})


def _digits(found: NistSet, start: Array) -> float:
    names = [f"x{i}" for i in range(found.x.shape[1])]
    problem = ConstantsFitting(found.model, names, found.parameters, (found.x, found.y), start)
    constants, _ = fit_constants(problem)
    worst = float(np.max(np.abs(constants / found.certified - 1)))
    return float(min(-np.log10(worst), _MOST_DIGITS)) if worst > 0 else _MOST_DIGITS


def stage_row(step: SearchStage, samples: SearchData, check: Check) -> Row:
    """One stage of one structure: what it is, how large, how good, how long it took."""
    with np.errstate(all="ignore"):
        train = float(np.sqrt(np.mean((step.model(samples.x) - samples.y) ** 2)))
        test = float(np.sqrt(np.mean((step.model(check.x) - check.y) ** 2)))
    return Row(
        "stages",
        {
            "stage": step.stage,
            "structure": step.name,
            "shape": shape_of(step.graph),
            "active_edges": step.graph.active_edges,
            "parameters": int(step.graph.parameters.size),
            "train_rmse": _number(train),
            "validation_rmse": _number(step.error * samples.spread),
            "test_rmse": _number(test),
            "seconds": step.seconds,
        },
    )


def _number(value: float) -> float | None:
    """None where a stage's candidates are not defined on all points before their constants are refitted."""
    return value if np.isfinite(value) else None


def shape_of(graph: Graph) -> str:
    """Widths of the layers, inputs in use first, such as 2-1-1; a layer with products says how many: 2-1+1p-1."""
    depth = depths(graph)
    used = {edge.source for edge in graph.edges}
    widths = [str(sum(1 for node in range(graph.inputs) if node in used))]
    for layer in range(1, max(depth) + 1):
        nodes = [n for n in range(graph.inputs, graph.output + 1) if depth[n] == layer]
        products = sum(graph.operation(node) == "product" for node in nodes)
        sums = len(nodes) - products
        widths.append(f"{sums}" if not products else f"{products}p" if not sums else f"{sums}+{products}p")
    return "-".join(widths)


def candidate_rows(tried: Tried) -> Iterator[Row]:
    """Every match of every edge of the pruned network: R^2 and complexity, best score first."""
    for index, matches in tried.matches.items():
        for rank, match in enumerate(matches):
            yield Row(
                "candidates",
                {
                    "edge": edge_name(tried.network, index),
                    "index": index,
                    "candidate": match.name,
                    "r2": match.r2,
                    "one_minus_r2": match.loss,
                    "complexity": match.complexity,
                    "rank": rank,
                },
            )


def decision_rows(result: Interpretation) -> Iterator[Row]:
    """What became of each edge of the retrained network: symbolic or numeric, its best candidate, and why."""
    if result.tried is None:
        return
    network = result.tried.network
    snapped = next((step.graph for step in reversed(result.steps) if step.stage == "snap"), None)
    chosen = {decision.index: decision for decision in result.decisions}
    for index in network.numeric_edges():
        found = chosen.get(index) or _taken(result, index, snapped)
        yield Row(
            "decisions",
            {
                "edge": edge_name(network, index),
                "index": index,
                "state": "symbolic" if found.symbolic else "numeric",
                "candidate": found.candidate,
                "r2": _number(found.r2),
                "why": found.why,
            },
        )


def _taken(result: Interpretation, index: int, snapped: Graph | None) -> Decision:
    """An edge of a network whose formula is as good: the candidate that took it over."""
    assert result.tried is not None
    if result.formula is None or snapped is None:
        return Decision(index, False, "", np.nan, "no candidates fit the network together")
    name = label(snapped.edges[index].function)
    r2 = next((match.r2 for match in result.tried.matches[index] if match.name == name), np.nan)
    return Decision(index, True, name, r2, "the formula is as good as the network")


def edge_name(graph: Graph, index: int) -> str:
    """Such as `x0 to node 2`; nodes have the numbers of the network that was trained."""
    return f"{_node(graph, graph.edges[index].source)} to {_node(graph, graph.edges[index].target)}"


def _node(graph: Graph, node: int) -> str:
    if node < graph.inputs:
        return f"x{node}"
    return f"node {graph.mark(node) - graph.inputs}" if node < graph.output else "output"


#: Difference from the truth, relative to its size, that a formula called exact may have.
EQUAL = 1e-9


def summary_row(
    problem: InterpretationProblem, result: Interpretation, formula: Formula | None, program: str, cpu_seconds: float
) -> Row:
    """The outcome, the largest difference between formula and network, and errors in the user's units; `formula` is in
    these units already."""
    certificate, outcome = result.certificate, outcome_of(problem, result)
    relative = (
        certificate.formula_rmse / problem.samples.spread if certificate and np.ptp(problem.samples.y) else np.nan
    )
    return Row(
        "summary",
        {
            "target": problem.name,
            "kind": problem.kind,
            "program": program,
            "noise": problem.noise,
            "outcome": outcome,
            "formula": str(formula.expression) if formula else "",
            "formula_rmse": _number(certificate.formula_rmse * problem.unit) if certificate else None,
            "network_rmse": _number(certificate.network_rmse * problem.unit) if certificate else None,
            "relative_error": _number(relative),
            "largest_difference": _number(certificate.difference * problem.unit) if certificate else None,
            "graph_difference": problem.graph_difference,
            "recovered": certificate.recovered if certificate else problem.unknown,
            "form": certificate.form if certificate else problem.unknown,
            "symbolically": certificate.symbolically if certificate else problem.unknown,
            "r2": _number(certificate.r2) if certificate else None,
            "structure": result.structure,
            "shape": shape_of(result.tried.network) if result.tried else "",
            "active_edges": result.tried.network.active_edges if result.tried else 0,
            "numeric_edges": _numeric(result),
            "complexity": formula.complexity if formula else None,
            "seconds": result.seconds,
            "cpu_seconds": cpu_seconds,
            "reason": result.sentence + ("; beyond them it is not the truth" if outcome == "wrong" else ""),
        },
    )


def equivalent_rows(problem: InterpretationProblem, formula: Formula, work: float) -> Iterator[Row]:
    """A few other ways of writing a formula, as many as come within `work`, shortest first; all in the user's units."""
    points = problem.input_scaling.invert(problem.samples.validation_x)
    forms = equivalent_forms(exactly(formula.expression), formula.names, points, SimplificationPolicy(budget=work))
    others = {str(written(form)): written(form) for form in forms}
    others.pop(str(formula.expression), None)
    for other in list(others.values())[:_MOST_OTHERS]:
        text = replace(formula, expression=other).forms()
        yield Row("formulas", {"output": problem.output, "kind": "equivalent", **text})


#: How many other ways of writing a formula are kept.
_MOST_OTHERS = 3


def constant_rows(problem: InterpretationProblem, formula: Formula, relative: bool) -> Iterator[Row]:
    """Every number of a formula that is no whole one with its 95 % interval, by the points it was fitted to; `formula`
    is in the user's units."""
    x, y = problem.input_scaling.invert(problem.samples.x), problem.samples.y
    y = y * problem.unit + float(problem.output_scaling.shift[problem.index])
    for each in confidence_intervals(formula.expression, formula.names, x, y, relative=relative):
        yield Row("constants", {"output": problem.output, **vars(each)})


def intervals_of(rows: Sequence[Row]) -> str:
    """A sentence: the numbers of a formula that is not exact with their intervals, as far as a line takes them."""
    numbers = [[float(row.values[key] or 0.0) for key in ("value", "low", "high")] for row in rows]
    shown = [f"{value:.6g} ({low:.6g} to {high:.6g})" for value, low, high in numbers[:_SHOWN]]
    more = f", and {len(rows) - _SHOWN} more in tables/constants.csv" if len(rows) > _SHOWN else ""
    return f"constants with their 95 % intervals: {', '.join(shown)}{more}"


#: Constants whose intervals are printed.
_SHOWN = 5


def outcome_of(problem: InterpretationProblem, result: Interpretation) -> str:
    """The outcome beside the truth, where that is known: `exact` also for noisy points whose formula is recovered, and
    `wrong` for a formula that was called exact, but is not the truth."""
    if result.outcome == "exact" and not equals_truth(problem.check, result):
        return "wrong"
    recovered = result.certificate is not None and result.certificate.recovered == "yes"
    return "exact" if recovered else result.outcome


def equals_truth(check: Check, result: Interpretation) -> bool:
    """Whether the formula is the truth where both are defined on fresh points of a domain twice as wide, in which
    inputs of one sign keep it (x is sqrt(x^2) where x is positive): symbolically, or to EQUAL of the truth's size; True
    where there is no truth to ask."""
    assert result.formula is not None
    if check.truth is None or (result.certificate is not None and result.certificate.symbolically == "yes"):
        return True
    middle, half = check.domain.mean(1, keepdims=True), np.diff(check.domain, axis=1) / 2
    wide = np.concatenate([middle - 2 * half, middle + 2 * half], axis=1)
    low, high = check.domain.T
    wide[:, 0] = np.where(low >= 0, np.maximum(wide[:, 0], 0.0), wide[:, 0])
    wide[:, 1] = np.where(high <= 0, np.minimum(wide[:, 1], 0.0), wide[:, 1])
    x = fresh(wide)
    with np.errstate(all="ignore"):
        truth, values = check.truth(x), result.formula(x)
    both = np.isfinite(truth) & np.isfinite(values)
    size = np.maximum(np.abs(truth[both]), float(np.std(check.y)))
    return bool(np.all(np.abs(values[both] - truth[both]) <= EQUAL * size))


def input_rows(problem: InterpretationProblem, result: Interpretation) -> list[Row]:
    """How much each input matters: the change of the formula, or else the network, where the input alone is exchanged
    between points, relative to the spread of the output (sqrt(2) if nothing else matters)."""
    model, x = result.formula or result.network, problem.samples.x
    rows: list[Row] = []
    for index, name in enumerate(problem.inputs):
        if model is None:
            break
        exchanged = x.copy()
        exchanged[:, index] = np.roll(x[:, index], len(x) // 2)
        with np.errstate(all="ignore"):
            change = float(np.sqrt(np.mean((model(exchanged) - model(x)) ** 2))) / problem.samples.spread
        rows.append(Row("inputs", {"output": problem.output, "input": name, "effect": _number(change)}))
    return rows


def inputs_that_matter(rows: Sequence[Row]) -> str:
    """A sentence: the inputs by their effect, and those without one."""
    effects = {str(row.values["input"]): float(row.values["effect"] or 0.0) for row in rows}
    used = sorted((name for name, effect in effects.items() if effect > 0.0), key=lambda name: -effects[name])
    idle = [name for name in effects if name not in used]
    text = "inputs by their effect: " + ", ".join(f"{name} ({effects[name]:.2g})" for name in used)
    return text + (f"; not needed: {', '.join(idle)}" if idle else "")


def _numeric(result: Interpretation) -> int:
    """Edges that stay numeric."""
    if result.formula is not None:
        return len(result.formula.splines)
    return result.tried.network.active_edges if result.tried else 0
