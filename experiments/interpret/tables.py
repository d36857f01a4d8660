"""Records of an interpretation: stages, candidates, decisions, formulas, constants and edges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import sympy

from kanrun.engine.symbolic import (
    Certificate,
    ConstantInterval,
    Decision,
    FittedStructure,
    Formula,
    Graph,
    SearchData,
    SearchStage,
    confidence_intervals,
    depths,
    edge_name,
    edge_scores,
    shape_of,
    significant,
)
from kanrun.engine.symbolic.candidates import CARRY
from kanrun.engine.symbolic.certificate import YES_NO
from kanrun.formulas.conversion import to_text
from kanrun.points import Array
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Note, Records, Row, Table, Value
from kanrun.study.evaluation import doubts

from .interpretation import Interpretation, Outcome
from .problem import Function, InterpretationProblem


def records(
    problem: InterpretationProblem,
    result: Interpretation,
    seed: int,
    cpu_seconds: float,
) -> Records:
    """Yield all records of a result in the user's units, found in `cpu_seconds` of CPU time."""
    formula = result.formula
    fit = result.structure_fit
    intervals = _intervals(problem, result)
    row = summary_row(problem, result, _written(result, intervals), cpu_seconds)
    if problem.cfg.suite:
        yield Note(f"{problem.name}: {row.values['formula']}; {result.sentence}")
    yield row
    if row.values["formula_rmse"] is not None:
        yield from doubts(row.values["r2"], "check points")
    yield from _effect_records(problem, result)
    if formula is not None:
        yield from _formula_records(problem, result, formula, intervals, seed)
    if result.approximation is not None:
        yield _forms_row(result.approximation, problem, "approximation")
    if fit is not None:
        yield from match_rows(result, fit, problem.inputs)
        if result.stages:
            edges = edge_table(result.stages, problem.search.data, problem.inputs, problem.output)
            yield edges if problem.only else replace(edges, name=f"edges-{problem.output}")


def _formula_records(
    problem: InterpretationProblem,
    result: Interpretation,
    formula: Formula,
    intervals: Sequence[ConstantInterval],
    seed: int,
) -> Records:
    """Yield the records of a formula: its forms, its constants with errors, and its values."""
    name = problem.name
    if problem.search.dimensions is not None:
        yield Note(
            f"{name}: the search used dimensionless groups; the formula has the units of the output"
        )
    yield from _forms_rows(formula, problem, result)
    yield formula_checkpoint(problem, result, formula, seed)
    for each in intervals:
        yield Row("constants", {"output": problem.output, **vars(each)})
    if intervals:
        listed = [*map(str, intervals[:5])]
        if more := len(intervals[5:]):
            listed.append(f"and {more} more in tables/constants.csv")
        yield Note(f"{name}: constants with standard errors: {', '.join(listed)}")
    if problem.held_out.truth is None:
        yield prediction_table(problem, formula)


def _written(result: Interpretation, intervals: Sequence[ConstantInterval]) -> str:
    """Return the formula as text, with the digits that the points determine.

    If there is no formula, the text is empty.
    """
    formula = result.formula
    if formula is None:
        return ""
    return to_text(significant(formula.expression, intervals), formula.names)


def summary_row(
    problem: InterpretationProblem, result: Interpretation, formula_text: str, cpu_seconds: float
) -> Row:
    """Return the row of the summary: formula, outcome, and errors on held-out points.

    Errors are in the user's units.
    """
    formula = result.formula
    fit = result.structure_fit
    network = problem.network
    found = result.certificate or Certificate()
    active = fit.network.active_edges if fit else 0
    data = problem.search.data
    varied = problem.unit * data.y_std if np.ptp(data.y) else np.nan
    return finite_row(
        "summary",
        formula=formula_text,
        formula_rmse=found.formula_rmse,
        relative_error=found.formula_rmse / varied,
        verified=YES_NO[result.outcome is Outcome.EXACT],
        reason=result.sentence,
        outcome=result.outcome,
        target=problem.name,
        r2=found.r2,
        network_rmse=found.network_rmse,
        largest_difference=found.difference,
        graph_difference=network.difference * problem.unit if network is not None else None,
        structure=result.structure,
        shape=shape_of(fit.network) if fit else "",
        active_edges=active,
        numeric_edges=len(formula.splines) if formula else active,
        complexity=formula.complexity if formula else None,
        budget=problem.cfg.budget,
        seconds=result.seconds,
        cpu_seconds=cpu_seconds,
    )


def stage_row(step: SearchStage, problem: InterpretationProblem) -> Row:
    """Return the row of one stage: numbers of edges and parameters, errors, and duration.

    Errors are in the units of the search.
    """
    samples = problem.search.data
    held_out = problem.held_out
    with np.errstate(all="ignore"):
        apart = (step.model(points.x) - points.y for points in (samples, held_out))
        train, test = (float(np.sqrt(np.mean(errors**2))) for errors in apart)
    return finite_row(
        "stages",
        stage=step.stage,
        structure=step.name,
        shape=shape_of(step.graph),
        active_edges=step.graph.active_edges,
        parameters=int(step.graph.parameters.size),
        train_rmse=train,
        validation_rmse=step.error * samples.y_std,
        test_rmse=test,
        seconds=step.seconds,
    )


def _effect_records(problem: InterpretationProblem, result: Interpretation) -> Records:
    """Yield a row with the effect of each input (see `exchange_effect`), and a note about them.

    The effects are those on the formula or, if there is none, on the network.
    """
    model = result.formula or result.network
    (x, y) = problem.points()
    texts = dict[str, float]()
    if model is None or len(problem.inputs) < 2:
        return
    for index, name in enumerate(problem.inputs):
        effect = exchange_effect(model, x, y, index)
        texts[f"{name} ({effect:.2g})"] = effect
        yield Row("inputs", {"output": problem.output, "input": name, "effect": effect})
    used = sorted((text for text in texts if texts[text] > 0), key=lambda text: -texts[text])
    idle = [text.rpartition(" ")[0] for text in texts if texts[text] == 0]
    parts = {"inputs by their effect": used, "not needed": idle}
    listed = (f"{title}: {', '.join(names)}" for title, names in parts.items() if names)
    yield Note(f"{problem.name}: {'; '.join(listed)}")


def exchange_effect(model: Function, x: Array, y: Array, index: int) -> float:
    """Return how much a model changes when the values of one input are exchanged between rows.

    The result is the RMS change divided by the standard deviation of y; it is about sqrt(2) if the
    other inputs do not matter. Points at which the change is not finite count as unchanged.
    """
    exchanged = x.copy()
    exchanged[:, index] = np.roll(x[:, index], len(x) // 2)
    with np.errstate(all="ignore"):
        change = np.nan_to_num(model(exchanged) - model(x), posinf=0.0, neginf=0.0)
        return float(np.nan_to_num(np.sqrt(np.mean(change**2)) / np.std(y)))


def _forms_row(formula: Formula, problem: InterpretationProblem, kind: str) -> Row:
    return Row("formulas", {"output": problem.output, "kind": kind, **formula.forms()})


def _forms_rows(
    formula: Formula, problem: InterpretationProblem, result: Interpretation
) -> Records:
    """Yield rows for the formula and its rivals, with description lengths and probabilities.

    If the data do not decide between the formula and its first rival, a note says so.
    """
    forms = _forms_row(formula, problem, result.outcome).values
    if not result.rivals:
        yield Row("formulas", forms)
        return
    bits = np.array([each.bits for each in result.rivals])
    weights = np.exp2(bits[0] - bits)
    texts = [
        to_text(each.expression.xreplace(_shown(each.expression)), formula.names)
        for each in result.rivals
    ]
    for place, text in enumerate(texts):
        row = forms if place == 0 else {"output": problem.output, "kind": "rival", "text": text}
        yield finite_row(
            "formulas",
            **row,
            description_bits=float(bits[place]),
            probability=float(weights[place] / weights.sum()),
        )
    if len(bits) > 1 and bits[1] - bits[0] < 10.0:
        yield Note(
            f"{problem.name}: the data do not decide between {texts[0]} and {texts[1]}, whose "
            f"description is {bits[1] - bits[0]:.1f} bits longer; tables/formulas.csv has all"
        )


def _shown(expression: sympy.Expr) -> dict[sympy.Expr, sympy.Expr]:
    """Map the decimal numbers of an expression to the same numbers with few digits."""
    return {each: sympy.Float(each, 5) for each in expression.atoms(sympy.Float)}


def _intervals(problem: InterpretationProblem, result: Interpretation) -> list[ConstantInterval]:
    """Return the confidence intervals of the constants of the formula.

    There are none if the formula reproduces all points or contains splines.
    """
    formula = result.formula
    if formula is None or formula.splines or result.outcome.reproduces:
        return []
    x, y = problem.points()
    return confidence_intervals(formula.expression, formula.names, x, y, relative=result.relative)


def prediction_table(problem: InterpretationProblem, formula: Formula) -> Table:
    """Return the predictions of a formula at the points of the search and at the held-out points.

    If there is one input, the table also has an evenly spaced grid over the range of these points,
    with the split `grid` and an unknown truth (nan).
    """
    x, y = problem.points()
    held_out = problem.held_out
    xs = [x, problem.scaling.invert(held_out.x)]
    ys = [y, held_out.y * problem.unit + problem.shift]
    if x.shape[1] == 1:
        # Number of points at which a formula of one input is evaluated for its curve.
        count = 400
        ends = np.concatenate(xs)
        xs.append(np.linspace(ends.min(0), ends.max(0), count))
        ys.append(np.full(count, np.nan))
    x = np.concatenate(xs)
    y = np.concatenate(ys)
    columns: dict[str, Any] = {
        "split": np.repeat(["train", "test", "grid"][: len(xs)], list(map(len, xs)))
    }
    columns |= {f"input:{name}": x[:, i] for i, name in enumerate(problem.inputs)}
    with np.errstate(all="ignore"):
        columns |= {f"truth:{problem.output}": y, f"prediction:{problem.output}": formula(x)}
    return Table("predictions" if problem.only else f"predictions-{problem.output}", columns)


def accuracy_records(
    found: Sequence[tuple[InterpretationProblem, Interpretation]],
) -> Records:
    """Yield the accuracy of the formulas, and of the network, as classifiers on held-out points.

    Nothing is yielded if the outputs are not logits, or if a logit has no formula.
    """
    first = found[0][0]
    formulas = [result.formula for _, result in found]
    if first.labels is None or not all(formulas):
        return
    x = first.scaling.invert(first.held_out.x)
    right = dict[str, float]()
    network = [each.held_out.y * each.unit + each.shift for each, _ in found]
    with np.errstate(all="ignore"):
        values = {"formula": [formula(x) for formula in formulas if formula], "network": network}
    for name, logits in values.items():
        chosen = logits[0] > 0 if len(logits) == 1 else np.argmax(logits, 0)
        right[name] = float(np.mean(chosen == first.labels))
    yield finite_row("accuracy", points=len(x), **right)
    yield Note("accuracy on check points: " + ", ".join(f"{n} {v:.3g}" for n, v in right.items()))


def formula_checkpoint(
    problem: InterpretationProblem, result: Interpretation, formula: Formula, seed: int
) -> Checkpoint:
    """Return a checkpoint with the formula in all its forms, its domain and its certificate.

    For a partly numeric formula, the entry `splines` maps each function f1, f2, ... to its knots
    (intervals + 2 degree + 1,) and coefficients (intervals + degree,).
    """
    certificate = finite_row("", **vars(result.certificate)).values if result.certificate else {}
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(problem.inputs),
        "output": problem.output,
        "certificate": certificate,
        "seed": seed,
        "domain": problem.scaling.invert(problem.held_out.domain.T).T.tolist(),
        "splines": {
            name: (spline.knots.tolist(), spline.parameters.tolist())
            for name, spline in formula.splines
        },
    }
    return Checkpoint(f"formula-{problem.name}-seed{seed}", {}, meta)


def finite_row(table: str, **values: Value) -> Row:
    """Return a row of `table` in which numbers that are not finite are replaced by None."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return Row(table, finite)


def match_rows(
    result: Interpretation, fit: FittedStructure, inputs: Sequence[str]
) -> Iterator[Row]:
    """Yield the fitted candidates of each edge, best first, and the decision about the edge.

    The edges are those of the pruned network. If a formula was accepted, it replaced all edges at
    once; otherwise each edge was decided alone.
    """
    decisions = {decision.index: decision for decision in result.decisions}
    for index, matches in fit.matches.items():
        named: dict[str, Value] = {"edge": edge_name(fit.network, index, inputs), "index": index}
        for rank, each in enumerate(matches):
            losses = {"r2": each.r2, "one_minus_r2": each.loss, "complexity": each.complexity}
            yield finite_row("candidates", **named, candidate=each.name, **losses, rank=rank)
        found = decisions.get(index)
        if found is None:
            found = Decision(index, False, "", np.nan, "no candidates fit the network together")
            if result.formula is not None and fit.snapped is not None:
                name = fit.snapped.edges[index].function.label
                r2 = next((each.r2 for each in matches if each.name == name), np.nan)
                why = "the formula is as good as the network"
                found = Decision(index, True, name, r2, why)
        yield finite_row(
            "decisions",
            **named,
            state="symbolic" if found.symbolic else "numeric",
            candidate=found.candidate,
            r2=found.r2,
            reason=found.reason,
        )


def edge_table(
    steps: Sequence[SearchStage], samples: SearchData, inputs: Sequence[str], output: str
) -> Table:
    """Return the curves of all edges at each stage as a table, which `network_diagram` can draw."""
    rows = [
        {**row, "stage": f"{number} {step.stage}", "pruned": False}
        for number, step in enumerate(steps, 1)
        for row in _stage_rows(step.graph, samples, inputs, output)
    ]
    table = pd.DataFrame(rows).explode(["x", "y"]).astype({"x": float, "y": float})
    return Table("edges", {str(name): table[name].to_numpy() for name in table})


def _stage_rows(
    graph: Graph, samples: SearchData, inputs: Sequence[str], output: str
) -> Iterator[dict[str, Any]]:
    """Yield a row per edge of a graph, with its layer and its positions in the two adjacent layers.

    An edge that skips layers is drawn as a chain of edges, so it has one row per layer.
    """
    depth = depths(graph)
    taken = Counter[int]()

    def stop(level: int) -> tuple[int, int]:
        taken[level] += 1
        return level, taken[level] - 1

    at = [stop(level) for level in depth]
    for (source, target), row in _curves(graph, samples).items():
        stops = [at[source], *map(stop, range(depth[source] + 1, depth[target])), at[target]]
        for hop, ((layer, into), (_, out)) in enumerate(pairwise(stops), 1):
            first = hop == 1
            last = hop == len(stops) - 1
            yield {
                **row,
                **({} if first else {"x": row["y"], "symbolic": CARRY.name}),
                "operation": row["operation"] if last else "sum",
                "layer": layer,
                "out": out,
                "in": into,
                "input_name": inputs[source] if first and source < len(inputs) else "",
                "output_name": output if last and target == graph.output else "",
            }


def _curves(graph: Graph, samples: SearchData) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the curve and the score of each edge; keys are pairs (source node, target node).

    Parallel edges between the same nodes, as in x exp(x), are combined into one.
    """
    values = graph.edge_outputs(samples.x)[0]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for edge, score in zip(graph.edges, edge_scores(graph, samples), strict=True):
        low = float(values[edge.source].min())
        high = float(values[edge.source].max())
        t = np.linspace(*((low, high) if np.isfinite(high - low) else (0.0, 1.0)), 81)
        operation = graph.operation(edge.target)
        label = edge.function.label
        y = edge.function.value(t)
        size = float(score) if np.isfinite(score) else 1.0
        other = rows.get((edge.source, edge.target))
        if other is not None:
            is_sum = operation == "sum"
            size = max(other["score"], size)
            y = other["y"] + y if is_sum else other["y"] * y
            labels = [name.replace(CARRY.name, "x") for name in (other["symbolic"], label)]
            label = (" + " if is_sum else " * ").join(labels) if all(labels) else ""
        row = {"x": t, "y": y, "score": size, "symbolic": label, "operation": operation}
        rows[edge.source, edge.target] = row
    return rows
