"""Rows of an interpretation: its stages, candidates, decisions, formulas and constants.

And the notes on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from kanrun.experiments.interpret.diagram_edges import edge_tables, label
from kanrun.experiments.interpret.result import Interpretation, InterpretationProblem, Options

from kanrun.config import NistTarget
from kanrun.engine.symbolic import (
    Certificate,
    ConstantsFitting,
    Decision,
    FittedStructure,
    Formula,
    Graph,
    SearchStage,
    as_written,
    confidence_intervals,
    depths,
    equivalent_forms,
    exact_decimals,
    fit_constants,
)
from kanrun.runs.records import Checkpoint, Note, Record, Row, Value
from kanrun.study.evaluation import doubts
from kanrun.targets.table_targets import read_nist

#: Digits of a float64: agreement beyond them is accidental.
_MAX_DIGITS = 16.0
#: Maximum number of other ways of writing a formula, and of constants whose intervals are printed.
_MAX_OTHERS, _MAX_SHOWN = 3, 5
#: Work for other ways of writing a formula.
_FORMS = 2.0


def records(
    problem: InterpretationProblem,
    result: Interpretation,
    options: Options,
    seed: int,
    cpu_seconds: float,
) -> Iterator[Record]:
    """Yield everything that is recorded of a result, which is in the user's units."""
    formula, output = result.formula, problem.output
    row = summary_row(problem, result, options.backend, cpu_seconds)
    yield row
    text = f"{problem.name}: {formula.expression if formula else 'no formula'}; {result.sentence}"
    if (apart := row.values["largest_difference"]) is not None:
        text += f"; largest difference between formula and network {apart:.2g}"
    yield Note(text)
    if formula is not None and problem.dimensions is not None:
        yield Note(
            f"{problem.name}: the search used dimensionless groups; the formula has the units of "
            "the output"
        )
    if formula is not None and row.values["formula_rmse"] is not None:
        yield from doubts(row.values["r2"], "check points")
    if len(rows := input_rows(problem, result)) > 1:
        yield from rows
        yield Note(f"{problem.name}: {_describe_inputs(rows)}")
    if formula is not None:
        yield _forms_row(formula, output, result.outcome)
        yield formula_checkpoint(problem, result, formula, seed)
    if formula is not None and not formula.splines:
        points = problem.scaling.invert(problem.samples.validation_x)
        exact = exact_decimals(formula.expression)
        forms = map(as_written, equivalent_forms(exact, formula.names, points, _FORMS))
        others = [form for form in dict.fromkeys(forms) if str(form) != str(formula.expression)]
        for other in others[:_MAX_OTHERS]:
            yield _forms_row(replace(formula, expression=other), output, "equivalent")
        points_and_values = problem.points()
        intervals = confidence_intervals(
            formula.expression, formula.names, *points_and_values, relative=result.relative
        )
        for each in intervals:
            yield Row("constants", {"output": output, **vars(each)})
        if intervals and result.outcome not in ("exact", "wrong"):
            shown = [
                f"{each.value:.6g} ({each.low:.6g} to {each.high:.6g})"
                for each in intervals[:_MAX_SHOWN]
            ]
            more = len(intervals) - len(shown)
            rest = f", and {more} more in tables/constants.csv" if more else ""
            yield Note(f"{problem.name}: constants with 95% intervals: {', '.join(shown)}{rest}")
    if result.approximation is not None:
        yield _forms_row(result.approximation, output, "approximation")
    if result.structure_fit is not None:
        yield from candidate_rows(result.structure_fit)
        yield from decision_rows(result, result.structure_fit)
        table = edge_tables(result.stages, problem.samples, problem.inputs, output)
        if table is not None:
            yield replace(table, name="edges" if problem.only else f"edges-{output}")


def _forms_row(formula: Formula, output: str, kind: str) -> Row:
    return Row("formulas", {"output": output, "kind": kind, **formula.forms()})


def certified_row(target: NistTarget, formula: Formula | None) -> Row:
    """Return the correct digits from both starts, and the formula's sum of squares.

    The sum of squares is relative to the certified one.
    """
    found = read_nist(target.path, target.name)
    names, digits = [f"x{i}" for i in range(found.x.shape[1])], dict[str, Value]()
    for number, start in enumerate(found.starts, 1):
        problem = ConstantsFitting(found.model, names, found.parameters, (found.x, found.y), start)
        worst = float(np.max(np.abs(fit_constants(problem) / found.certified - 1)))
        digits[f"start_{number}_digits"] = min(-math.log10(max(worst, 1e-300)), _MAX_DIGITS)
    ratio = None
    if formula is not None and not formula.splines:
        with np.errstate(all="ignore"):
            ratio = float(np.sum((formula(found.x) - found.y) ** 2)) / found.sum_of_squares
    return _row(
        "certified",
        target=found.name,
        parameters=len(found.parameters),
        **digits,
        residual_ratio=ratio,
        constants=None if formula is None else int(formula.graph.parameters.size),
    )


def stage_row(step: SearchStage, problem: InterpretationProblem) -> Row:
    """Return one stage of one structure.

    Its size, its errors in the units of the search, its seconds.
    """
    samples, held_out, graph = problem.samples, problem.held_out, step.graph
    with np.errstate(all="ignore"):
        train, test = (
            float(np.sqrt(np.mean((step.model(data.x) - data.y) ** 2)))
            for data in (samples, held_out)
        )
    return _row(
        "stages",
        stage=step.stage,
        structure=step.name,
        shape=shape_of(graph),
        active_edges=graph.active_edges,
        parameters=int(graph.parameters.size),
        train_rmse=train,
        validation_rmse=step.error * samples.y_std,
        test_rmse=test,
        seconds=step.seconds,
    )


def _row(table: str, **values: Value) -> Row:
    """Return a row with None for numbers that are not finite."""
    finite = {
        n: None if isinstance(v, float) and not np.isfinite(v) else v for n, v in values.items()
    }
    return Row(table, finite)


def shape_of(graph: Graph) -> str:
    """Return the widths of the layers, such as 2-1-1; a layer with products counts them: 2-1+1p-1.

    The first width is the number of inputs in use.
    """
    depth = depths(graph)
    widths = [str(len({e.source for e in graph.edges if e.source < graph.inputs}))]
    for layer in range(1, max(depth) + 1):
        nodes = [n for n in range(graph.inputs, graph.output + 1) if depth[n] == layer]
        products = sum(graph.operation(node) == "product" for node in nodes)
        counts = {"": len(nodes) - products, "p": products}
        widths.append("+".join(f"{count}{sign}" for sign, count in counts.items() if count))
    return "-".join(widths)


def candidate_rows(fit: FittedStructure) -> Iterator[Row]:
    """Yield every match of every edge of the pruned network, best score first."""
    for index, matches in fit.matches.items():
        name = edge_name(fit.network, index)
        for rank, match in enumerate(matches):
            yield _row(
                "candidates",
                edge=name,
                index=index,
                candidate=match.name,
                r2=match.r2,
                one_minus_r2=match.loss,
                complexity=match.complexity,
                rank=rank,
            )


def decision_rows(result: Interpretation, fit: FittedStructure) -> Iterator[Row]:
    """Yield for each edge whether it became symbolic, its best candidate, and the reason."""
    snapped = next((step.graph for step in reversed(result.steps) if step.stage == "snap"), None)
    decisions = {decision.index: decision for decision in result.decisions}
    for index in fit.network.numeric_edges():
        unfit = Decision(index, False, "", np.nan, "no candidates fit the network together")
        decision = decisions.get(index, unfit)
        if index not in decisions and result.formula is not None and snapped is not None:
            # The candidate that replaced an edge of an accepted formula.
            name = label(snapped.edges[index].function)
            r2 = next((match.r2 for match in fit.matches[index] if match.name == name), np.nan)
            decision = Decision(index, True, name, r2, "the formula is as good as the network")
        yield _row(
            "decisions",
            edge=edge_name(fit.network, index),
            index=index,
            state="symbolic" if decision.symbolic else "numeric",
            candidate=decision.candidate,
            r2=decision.r2,
            reason=decision.reason,
        )


def edge_name(graph: Graph, index: int) -> str:
    """Return a name such as `x0 to node 2`.

    Nodes have the numbers of the network that was trained.
    """

    def named(node: int) -> str:
        if node < graph.inputs:
            return f"x{node}"
        return f"node {graph.mark(node) - graph.inputs}" if node < graph.output else "output"

    return f"{named(graph.edges[index].source)} to {named(graph.edges[index].target)}"


def summary_row(
    problem: InterpretationProblem, result: Interpretation, backend: str, cpu_seconds: float
) -> Row:
    """Return the outcome, and the errors of formula and network in the user's units."""
    formula, fit = result.formula, result.structure_fit
    unknown = "unknown" if problem.held_out.truth is None else "no"
    missing = Certificate(recovered=unknown, same_form=unknown, proven_equal=unknown)
    found, active = result.certificate or missing, fit.network.active_edges if fit else 0
    varied = problem.unit * problem.samples.y_std if np.ptp(problem.samples.y) else np.nan
    network = problem.network
    return _row(
        "summary",
        target=problem.name,
        kind=problem.kind,
        backend=backend,
        noise=problem.noise,
        outcome=result.outcome,
        formula=str(formula.expression) if formula else "",
        formula_rmse=found.formula_rmse,
        network_rmse=found.network_rmse,
        relative_error=found.formula_rmse / varied,
        largest_difference=found.difference,
        graph_difference=network.difference * problem.unit if network is not None else None,
        recovered=found.recovered,
        same_form=found.same_form,
        proven_equal=found.proven_equal,
        r2=found.r2,
        structure=result.structure,
        shape=shape_of(fit.network) if fit else "",
        active_edges=active,
        numeric_edges=len(formula.splines) if formula else active,
        complexity=formula.complexity if formula else None,
        seconds=result.seconds,
        cpu_seconds=cpu_seconds,
        reason=result.sentence,
    )


def input_rows(problem: InterpretationProblem, result: Interpretation) -> list[Row]:
    """Return the change of the formula, or else the network, if one input is exchanged.

    The change is relative to the std of the output; it is sqrt(2) if nothing else matters.
    """
    model, (x, _), rows = result.formula or result.network, problem.points(), list[Row]()
    for index, name in enumerate(problem.inputs if model is not None else ()):
        assert model is not None  # an invariant: without a model there are no inputs to go through
        exchanged = x.copy()
        exchanged[:, index] = np.roll(x[:, index], len(x) // 2)
        with np.errstate(all="ignore"):
            change = float(np.sqrt(np.mean((model(exchanged) - model(x)) ** 2))) / problem.unit
        effect = change / problem.samples.y_std
        rows.append(_row("inputs", output=problem.output, input=name, effect=effect))
    return rows


def _describe_inputs(rows: list[Row]) -> str:
    effects = {str(row.values["input"]): float(row.values["effect"] or 0.0) for row in rows}
    used = sorted((name for name in effects if effects[name] > 0), key=lambda n: -effects[n])
    idle = ", ".join(name for name in effects if name not in used)
    text = "inputs by their effect: " + ", ".join(f"{name} ({effects[name]:.2g})" for name in used)
    return f"{text}; not needed: {idle}" if idle else text


def formula_checkpoint(
    problem: InterpretationProblem, result: Interpretation, formula: Formula, seed: int
) -> Checkpoint:
    """Return the formula in all its forms with its domain and certificate.

    Arrays contain the domain, and for f1, f2, ... the ends (2,) of the grid and the coefficients
    (intervals + degree,).
    """
    certificate = _row("certificate", **vars(result.certificate)) if result.certificate else None
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(problem.inputs),
        "output": problem.output,
        "rounded": [list(entry) for entry in formula.rounded],
        "certificate": certificate.values if certificate else {},
        "seed": seed,
    }
    arrays = {"domain": problem.scaling.invert(problem.held_out.domain.T).T}
    for name, spline in formula.splines:
        arrays[f"{name}.ends"] = np.array([spline.low, spline.high])
        arrays[f"{name}.coefficients"] = spline.parameters
    return Checkpoint(f"formula-{problem.name}-seed{seed}", arrays, meta)
