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
from kanrun.experiments.interpret.outcome import Interpretation
from kanrun.experiments.interpret.problem import InterpretationProblem

from kanrun.config import NistTarget
from kanrun.engine.symbolic import (
    IDENTITY_LABEL,
    Certificate,
    ConstantInterval,
    ConstantsFitting,
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
    fit_constants,
    function_label,
    shape_of,
    significant,
)
from kanrun.runs.records import Checkpoint, Note, Record, Row, Table, Value
from kanrun.study.evaluation import doubts
from kanrun.targets.table_targets import read_nist

#: Digits of a float64: agreement beyond them is accidental.
_MAX_DIGITS = 16
#: Maximum number of constants whose intervals are printed.
_MAX_SHOWN = 5
#: Points of the curve of an edge.
_POINTS = 81
Key = tuple[int, int]  # marks of source and target


def records(
    problem: InterpretationProblem, result: Interpretation, seed: int, cpu_seconds: float
) -> Iterator[Record]:
    """Yield everything that is recorded of a result, which is in the user's units."""
    formula, name, fit = result.formula, problem.name, result.structure_fit
    row = summary_row(problem, result, cpu_seconds)
    yield row
    intervals = _intervals(problem, result)
    shown = significant(formula.expression, intervals) if formula else "no formula"
    text = f"{name}: {shown}; {result.sentence}"
    if (apart := row.values["largest_difference"]) is not None:
        text += f"; largest difference between formula and network {apart:.2g}"
    yield Note(text)
    if row.values["formula_rmse"] is not None:
        yield from doubts(row.values["r2"], "check points")
    yield from _effect_records(problem, result)
    if formula is not None:
        if problem.search.dimensions is not None:
            yield Note(
                f"{name}: the search used dimensionless groups; the formula has the units of "
                "the output"
            )
        yield _forms_row(formula, problem, result.outcome)
        yield formula_checkpoint(problem, result, formula, seed)
        for each in intervals:
            yield Row("constants", {"output": problem.output, **vars(each)})
        if intervals:
            listed = [*map(str, intervals[:_MAX_SHOWN])]
            if more := len(intervals[_MAX_SHOWN:]):
                listed.append(f"and {more} more in tables/constants.csv")
            yield Note(f"{name}: constants with standard errors: {', '.join(listed)}")
        if problem.held_out.truth is None:
            yield _prediction_table(problem, formula)
    if result.approximation is not None:
        yield _forms_row(result.approximation, problem, "approximation")
    if fit is not None:
        yield from _match_rows(result, fit)
        if result.stages:
            edges = edge_table(result.stages, problem.search.data, problem.inputs, problem.output)
            yield edges if problem.only else replace(edges, name=f"edges-{problem.output}")
    if isinstance(problem.cfg.target, NistTarget):
        yield certified_row(problem.cfg.target, formula)


def _row(table: str, **values: Value) -> Row:
    """Return a row with None for numbers that are not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return Row(table, finite)


def summary_row(problem: InterpretationProblem, result: Interpretation, cpu_seconds: float) -> Row:
    """Return the outcome, and the errors of formula and network in the user's units."""
    formula, fit, network = result.formula, result.structure_fit, problem.network
    unknown = "unknown" if problem.held_out.truth is None else "no"
    missing = Certificate(recovered=unknown, same_form=unknown, proven_equal=unknown)
    found, active = result.certificate or missing, fit.network.active_edges if fit else 0
    data = problem.search.data
    varied = problem.unit * data.y_std if np.ptp(data.y) else np.nan
    return _row(
        "summary",
        target=problem.name,
        kind=problem.cfg.target.kind,
        backend=problem.cfg.backend,
        noise=problem.cfg.sampling.noise,
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


def stage_row(step: SearchStage, problem: InterpretationProblem) -> Row:
    """Return one stage of one structure: size, errors in the units of the search, seconds."""
    samples, held_out = problem.search.data, problem.held_out
    with np.errstate(all="ignore"):
        apart = (step.model(points.x) - points.y for points in (samples, held_out))
        train, test = (float(np.sqrt(np.mean(errors**2))) for errors in apart)
    return _row(
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


def _effect_records(problem: InterpretationProblem, result: Interpretation) -> Iterator[Record]:
    """Yield for each input the change of the formula, or else the network, if it is exchanged.

    The change is relative to the std of the output; it is sqrt(2) if nothing else matters.
    """
    model, (x, _), effects = result.formula or result.network, problem.points(), dict[str, float]()
    if model is None or len(problem.inputs) < 2:
        return
    for index, name in enumerate(problem.inputs):
        exchanged = x.copy()
        exchanged[:, index] = np.roll(x[:, index], len(x) // 2)
        with np.errstate(all="ignore"):
            change = np.sqrt(np.mean((model(exchanged) - model(x)) ** 2)) / problem.unit
        effects[name] = float(np.nan_to_num(change / problem.search.data.y_std, posinf=0.0))
        yield Row("inputs", {"output": problem.output, "input": name, "effect": effects[name]})
    used = sorted((name for name in effects if effects[name] > 0), key=lambda n: -effects[n])
    text = "inputs by their effect: " + ", ".join(f"{name} ({effects[name]:.2g})" for name in used)
    idle = ", ".join(name for name in effects if name not in used)
    yield Note(f"{problem.name}: {text}" + (f"; not needed: {idle}" if idle else ""))


def _forms_row(formula: Formula, problem: InterpretationProblem, kind: str) -> Row:
    return Row("formulas", {"output": problem.output, "kind": kind, **formula.forms()})


def _intervals(problem: InterpretationProblem, result: Interpretation) -> list[ConstantInterval]:
    """Return the constants of a formula with their errors, none if it is exact or numeric."""
    formula = result.formula
    if formula is None or formula.splines or result.outcome in ("exact", "wrong"):
        return []
    x, y = problem.points()
    return confidence_intervals(formula.expression, formula.names, x, y, relative=result.relative)


def _prediction_table(problem: InterpretationProblem, formula: Formula) -> Table:
    """Return the values of a formula at the points of the search and of the verification."""
    x, y = problem.points()
    held_out = problem.held_out
    x = np.concatenate([x, problem.scaling.invert(held_out.x)])
    y = np.concatenate([y, held_out.y * problem.unit + problem.shift])
    columns: dict[str, Any] = {
        "split": np.repeat(["train", "test"], [len(x) - len(held_out.x), len(held_out.x)])
    }
    columns |= {f"input:{name}": x[:, i] for i, name in enumerate(problem.inputs)}
    with np.errstate(all="ignore"):
        columns |= {f"truth:{problem.output}": y, f"prediction:{problem.output}": formula(x)}
    return Table("predictions" if problem.only else f"predictions-{problem.output}", columns)


def accuracy_records(
    found: Sequence[tuple[InterpretationProblem, Interpretation]],
) -> Iterator[Record]:
    """Yield the fractions of labels that the formulas of all logits and the network predict."""
    first, formulas = found[0][0], [result.formula for _, result in found]
    if first.labels is None or not all(formulas):
        return
    x, right = first.scaling.invert(first.held_out.x), dict[str, float]()
    network = [each.held_out.y * each.unit + each.shift for each, _ in found]
    with np.errstate(all="ignore"):
        values = {"formula": [formula(x) for formula in formulas if formula], "network": network}
    for name, logits in values.items():
        chosen = logits[0] > 0 if len(logits) == 1 else np.argmax(logits, 0)
        right[name] = float(np.mean(chosen == first.labels))
    yield _row("accuracy", points=len(x), **right)
    yield Note("accuracy on check points: " + ", ".join(f"{n} {v:.3g}" for n, v in right.items()))


def formula_checkpoint(
    problem: InterpretationProblem, result: Interpretation, formula: Formula, seed: int
) -> Checkpoint:
    """Return the formula in all its forms with its domain and certificate.

    Arrays contain the domain, and for f1, f2, ... the knots (intervals + 2 degree + 1,) and the
    coefficients (intervals + degree,).
    """
    certificate = _row("", **vars(result.certificate)).values if result.certificate else {}
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(problem.inputs),
        "output": problem.output,
        "rounded": [list(entry) for entry in formula.rounded],
        "certificate": certificate,
        "seed": seed,
    }
    arrays = {"domain": problem.scaling.invert(problem.held_out.domain.T).T}
    for name, spline in formula.splines:
        steps = np.arange(-spline.degree, spline.intervals + spline.degree + 1) / spline.intervals
        arrays[f"{name}.knots"] = spline.low + (spline.high - spline.low) * steps
        arrays[f"{name}.coefficients"] = spline.parameters
    return Checkpoint(f"formula-{problem.name}-seed{seed}", arrays, meta)


def certified_row(target: NistTarget, formula: Formula | None) -> Row:
    """Return the correct digits of refits from both starts, and the formula's sum of squares.

    The sum of squares is relative to the certified one.
    """
    found = read_nist(target.path, target.name)
    names, digits = [f"x{i}" for i in range(found.x.shape[1])], dict[str, Value]()
    for number, start in enumerate(found.starts, 1):
        problem = ConstantsFitting(found.model, names, found.parameters, (found.x, found.y), start)
        worst = float(np.max(np.abs(fit_constants(problem) / found.certified - 1)))
        digits[f"start_{number}_digits"] = -math.log10(max(worst, 10.0**-_MAX_DIGITS))
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


def _match_rows(result: Interpretation, fit: FittedStructure) -> Iterator[Row]:
    """Yield the matches of each edge of the pruned network, best first, and what it became.

    An accepted formula replaced all edges at once; otherwise they were decided one by one.
    """
    decisions = {decision.index: decision for decision in result.decisions}
    for index, matches in fit.matches.items():
        named: dict[str, Value] = {"edge": edge_name(fit.network, index), "index": index}
        for rank, match in enumerate(matches):
            yield _row(
                "candidates",
                **named,
                candidate=match.name,
                r2=match.r2,
                one_minus_r2=match.loss,
                complexity=match.complexity,
                rank=rank,
            )
        found = decisions.get(index)
        if found is None and result.formula is not None and fit.best.snapped is not None:
            name = function_label(fit.best.snapped.edges[index].function)
            r2 = next((match.r2 for match in matches if match.name == name), np.nan)
            found = Decision(index, True, name, r2, "the formula is as good as the network")
        elif found is None:
            found = Decision(index, False, "", np.nan, "no candidates fit the network together")
        yield _row(
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
    """Return the edges of the structure at each stage, with the columns of the network diagram.

    A graph whose edges are among those of the first stage is placed like it, with the other edges
    as ghosts (`pruned`). Edges become one if they join the same nodes, and one more for each level
    that they skip.
    """
    rows, first = list[dict[str, Any]](), _curves(steps[0].graph, samples)
    ghosts = {key: {**row, "pruned": True} for key, row in first.items()}
    for number, step in enumerate(steps, 1):
        here = _curves(step.graph, samples)
        within = here.keys() <= first.keys()
        paths = _paths(steps[0].graph if within else step.graph)
        top = max(path[-1][0] for path in paths.values())
        for key, row in ({**ghosts, **here} if within else here).items():
            for hop, ((layer, source), (above, target)) in enumerate(pairwise(paths[key])):
                last = (above, target) == paths[key][-1]
                place = {
                    "stage": f"{number} {step.stage}",
                    "operation": row["operation"] if last else "sum",
                    "layer": layer,
                    "out": target,
                    "in": source,
                    "input_name": inputs[key[0]] if key[0] < len(inputs) and not hop else "",
                    "output_name": output if above == top else "",
                }
                relayed = {"x": row["y"], "symbolic": IDENTITY_LABEL} if hop else {}
                rows.append({**row, **relayed, **place})
    table = pd.DataFrame(rows).explode(["x", "y"]).astype({"x": float, "y": float})
    return Table("edges", {str(name): table[name].to_numpy() for name in table})


def _paths(graph: Graph) -> dict[Key, list[tuple[int, int]]]:
    """Return the places of the ends of each edge, and of a relay on every level that it skips."""
    depth, taken = depths(graph), Counter[int]()

    def stop(level: int) -> tuple[int, int]:
        taken[level] += 1
        return level, taken[level] - 1

    at = [stop(depth[node]) for node in range(graph.output + 1)]
    paths: dict[Key, list[tuple[int, int]]] = {}
    for edge in graph.edges:
        begin, end = at[edge.source], at[edge.target]
        key = graph.mark(edge.source), graph.mark(edge.target)
        if key not in paths:
            paths[key] = [begin, *map(stop, range(begin[0] + 1, end[0])), end]
    return paths


def _curves(graph: Graph, samples: SearchData) -> dict[Key, dict[str, Any]]:
    """Return the curve and the score of each edge, without its place; parallel edges become one."""
    values = graph.node_values(samples.x)
    rows: dict[Key, dict[str, Any]] = {}
    for edge, score in zip(graph.edges, edge_scores(graph, samples), strict=True):
        low, high = float(values[edge.source].min()), float(values[edge.source].max())
        t = np.linspace(*((low, high) if np.isfinite(high - low) else (0.0, 1.0)), _POINTS)
        row: dict[str, Any] = {
            "x": t,
            "y": edge.function.value(t),
            "score": float(score) if np.isfinite(score) else 1.0,
            "pruned": False,
            "symbolic": function_label(edge.function),
            "operation": graph.operation(edge.target),
        }
        key = graph.mark(edge.source), graph.mark(edge.target)
        if (other := rows.get(key)) is not None:  # such as those of x exp(x)
            is_sum = row["operation"] == "sum"
            labels = other["symbolic"], row["symbolic"]
            names = ["x" if name == IDENTITY_LABEL else name for name in labels]
            row["y"] = other["y"] + row["y"] if is_sum else other["y"] * row["y"]
            row["score"] = max(other["score"], row["score"])
            row["symbolic"] = (" + " if is_sum else " * ").join(names) if all(names) else ""
        rows[key] = row
    return rows
