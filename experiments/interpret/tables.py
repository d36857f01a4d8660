"""What an interpretation leaves behind: its stages, candidates, decisions, formulas, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    SimplificationPolicy,
    as_written,
    confidence_intervals,
    depths,
    equivalent_forms,
    exact_decimals,
    fit_constants,
)
from kanrun.runs.records import Checkpoint, Note, Record, Row, Value
from kanrun.study.evaluation import doubts
from kanrun.targets.functions import read_nist

#: Digits that float64 has: more than these agree by chance.
_MOST_DIGITS = 16.0
#: How many other ways of writing a formula are kept, and of how many constants intervals are printed.
_MOST_OTHERS, _SHOWN = 3, 5


def records(
    problem: InterpretationProblem,
    result: Interpretation,
    options: Options,
    seed: int,
    cpu_seconds: float,
) -> Iterator[Record]:
    """All that is recorded of a result, which is in the user's units."""
    formula, policy = result.formula, options.policy
    row = summary_row(problem, result, options.backend, cpu_seconds)
    yield row
    said = (
        f"{problem.name}: {formula.expression if formula else 'no formula'}; {row.values['reason']}"
    )
    apart = row.values["largest_difference"]
    yield Note(
        said
        if apart is None
        else f"{said}; largest difference between formula and network {apart:.2g}"
    )
    if formula is not None and problem.dimensions is not None:
        yield Note(
            f"{problem.name}: the formula was sought in groups without units: its units are those of the output"
        )
    if formula is not None and row.values["formula_rmse"] is not None:
        yield from doubts(row.values["r2"], "check points")
    if len(rows := input_rows(problem, result)) > 1:
        yield from rows
        yield Note(f"{problem.name}: {inputs_that_matter(rows)}")
    if formula is not None:
        yield Row(
            "formulas", {"output": problem.output, "kind": row.values["outcome"], **formula.forms()}
        )
        yield formula_checkpoint(problem, result, formula, seed)
    if formula is not None and not formula.splines:
        yield from equivalent_rows(problem, formula, policy.proving * policy.budget)
        constants = [
            Row("constants", {"output": problem.output, **vars(each)})
            for each in confidence_intervals(
                formula.expression, formula.names, *problem.points(), relative=result.relative
            )
        ]
        yield from constants
        if constants and not result.sentence.startswith("the formula gives all points"):
            yield Note(f"{problem.name}: {intervals_of(constants)}")
    if result.approximation is not None:
        yield Row(
            "formulas",
            {"output": problem.output, "kind": "approximation", **result.approximation.forms()},
        )
    if result.tried is not None:
        yield from candidate_rows(result.tried)
        yield from decision_rows(result, result.tried)
        if (
            table := edge_tables(result.stages, problem.samples, problem.inputs, problem.output)
        ) is not None:
            yield replace(table, name="edges" if problem.only else f"edges-{problem.output}")


def certified_row(target: NistTarget, formula: Formula | None) -> Row:
    """Correct digits of the worst parameter from start 1 and 2, and the sum of squares of `formula` over the certified
    one, with its constants."""
    found = read_nist(target.path, target.name)
    names, digits = [f"x{i}" for i in range(found.x.shape[1])], dict[str, Value]()
    for number, start in enumerate(found.starts, 1):
        problem = ConstantsFitting(found.model, names, found.parameters, (found.x, found.y), start)
        worst = float(np.max(np.abs(fit_constants(problem)[0] / found.certified - 1)))
        digits[f"start_{number}_digits"] = min(-math.log10(max(worst, 1e-300)), _MOST_DIGITS)
    ratio, constants = None, None if formula is None else int(formula.graph.parameters.size)
    if formula is not None and not formula.splines:
        with np.errstate(all="ignore"):
            ratio = float(np.sum((formula(found.x) - found.y) ** 2)) / found.sum_of_squares
    parameters = len(found.parameters)
    return _row(
        "certified",
        target=found.name,
        parameters=parameters,
        **digits,
        residual_ratio=ratio,
        constants=constants,
    )


def stage_row(step: SearchStage, problem: InterpretationProblem) -> Row:
    """One stage of one structure: what it is, how large, how good in the units of the search, how long it took."""
    samples, check, graph = problem.samples, problem.check, step.graph
    with np.errstate(all="ignore"):
        train, test = (
            float(np.sqrt(np.mean((step.model(x) - y) ** 2)))
            for x, y in ((samples.x, samples.y), (check.x, check.y))
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
    """None for numbers that are not finite: candidates are not defined on all points before they are refitted."""
    finite = {
        n: None if isinstance(v, float) and not np.isfinite(v) else v for n, v in values.items()
    }
    return Row(table, finite)


def shape_of(graph: Graph) -> str:
    """Widths of the layers, inputs in use first, such as 2-1-1; a layer with products says how many: 2-1+1p-1."""
    depth = depths(graph)
    used = {edge.source for edge in graph.edges}
    widths = [str(sum(1 for node in range(graph.inputs) if node in used))]
    for layer in range(1, max(depth) + 1):
        nodes = [n for n in range(graph.inputs, graph.output + 1) if depth[n] == layer]
        products = sum(graph.operation(node) == "product" for node in nodes)
        sums = len(nodes) - products
        widths.append(
            f"{sums}" if not products else f"{products}p" if not sums else f"{sums}+{products}p"
        )
    return "-".join(widths)


def candidate_rows(tried: FittedStructure) -> Iterator[Row]:
    """Every match of every edge of the pruned network: R^2 and complexity, best score first."""
    for index, matches in tried.matches.items():
        name = edge_name(tried.network, index)
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


def decision_rows(result: Interpretation, tried: FittedStructure) -> Iterator[Row]:
    """What became of each edge of the retrained network: symbolic or numeric, its best candidate, and why."""
    snapped = next((step.graph for step in reversed(result.steps) if step.stage == "snap"), None)
    chosen = {decision.index: decision for decision in result.decisions}
    for index in tried.network.numeric_edges():
        found = chosen.get(index) or Decision(
            index, False, "", np.nan, "no candidates fit the network together"
        )
        if index not in chosen and result.formula is not None and snapped is not None:
            name = label(
                snapped.edges[index].function
            )  # the candidate that took over an edge of a good formula
            r2 = next((match.r2 for match in tried.matches[index] if match.name == name), np.nan)
            found = Decision(index, True, name, r2, "the formula is as good as the network")
        yield _row(
            "decisions",
            edge=edge_name(tried.network, index),
            index=index,
            state="symbolic" if found.symbolic else "numeric",
            candidate=found.candidate,
            r2=found.r2,
            reason=found.reason,
        )


def edge_name(graph: Graph, index: int) -> str:
    """Such as `x0 to node 2`; nodes have the numbers of the network that was trained."""

    def named(node: int) -> str:
        if node < graph.inputs:
            return f"x{node}"
        return f"node {graph.mark(node) - graph.inputs}" if node < graph.output else "output"

    return f"{named(graph.edges[index].source)} to {named(graph.edges[index].target)}"


def summary_row(
    problem: InterpretationProblem, result: Interpretation, backend: str, cpu_seconds: float
) -> Row:
    """The outcome, the largest difference between formula and network, and errors in the user's units."""
    formula, network = result.formula, result.tried.network if result.tried else None
    unknown = "unknown" if problem.check.truth is None else "no"
    none = Certificate(np.nan, np.nan, np.nan, np.nan, 0, unknown, unknown, unknown)
    found, active = result.certificate or none, network.active_edges if network else 0
    varied = problem.unit * problem.samples.y_std if np.ptp(problem.samples.y) else np.nan
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
        graph_difference=problem.graph_difference,
        recovered=found.recovered,
        same_form=found.same_form,
        proven_equal=found.proven_equal,
        r2=found.r2,
        structure=result.structure,
        shape=shape_of(network) if network else "",
        active_edges=active,
        numeric_edges=len(formula.splines) if formula else active,
        complexity=formula.complexity if formula else None,
        seconds=result.seconds,
        cpu_seconds=cpu_seconds,
        reason=result.sentence,
    )


def equivalent_rows(problem: InterpretationProblem, formula: Formula, work: float) -> Iterator[Row]:
    """A few other ways of writing a formula, as many as come within `work`, shortest first; all in the user's units."""
    points = problem.scaling.invert(problem.samples.validation_x)
    forms = equivalent_forms(
        exact_decimals(formula.expression), formula.names, points, SimplificationPolicy(budget=work)
    )
    others = {str(as_written(form)): as_written(form) for form in forms}
    others.pop(str(formula.expression), None)
    for other in list(others.values())[:_MOST_OTHERS]:
        text = replace(formula, expression=other).forms()
        yield Row("formulas", {"output": problem.output, "kind": "equivalent", **text})


def intervals_of(rows: Sequence[Row]) -> str:
    """A sentence: the numbers of a formula that is not exact with their intervals, as far as a line takes them."""
    numbers = [[float(row.values[key] or 0.0) for key in ("value", "low", "high")] for row in rows]
    shown = [f"{value:.6g} ({low:.6g} to {high:.6g})" for value, low, high in numbers[:_SHOWN]]
    more = f", and {len(rows) - _SHOWN} more in tables/constants.csv" if len(rows) > _SHOWN else ""
    return f"constants with their 95 % intervals: {', '.join(shown)}{more}"


def input_rows(problem: InterpretationProblem, result: Interpretation) -> list[Row]:
    """How much each input matters: the change of the formula, or else the network, where the input alone is exchanged
    between points, relative to the spread of the output (sqrt(2) if nothing else matters)."""
    model, (x, _), rows = result.formula or result.network, problem.points(), list[Row]()
    for index, name in enumerate(problem.inputs if model is not None else ()):
        assert model is not None  # an invariant: no inputs are gone through without
        exchanged = x.copy()
        exchanged[:, index] = np.roll(x[:, index], len(x) // 2)
        with np.errstate(all="ignore"):
            change = (
                float(np.sqrt(np.mean((model(exchanged) - model(x)) ** 2)))
                / problem.unit
                / problem.samples.y_std
            )
        rows.append(_row("inputs", output=problem.output, input=name, effect=change))
    return rows


def inputs_that_matter(rows: Sequence[Row]) -> str:
    """A sentence: the inputs by their effect, and those without one."""
    effects = {str(row.values["input"]): float(row.values["effect"] or 0.0) for row in rows}
    used = sorted(
        (name for name, effect in effects.items() if effect > 0.0), key=lambda name: -effects[name]
    )
    idle = [name for name in effects if name not in used]
    text = "inputs by their effect: " + ", ".join(f"{name} ({effects[name]:.2g})" for name in used)
    return text + (f"; not needed: {', '.join(idle)}" if idle else "")


def formula_checkpoint(
    problem: InterpretationProblem, result: Interpretation, formula: Formula, seed: int
) -> Checkpoint:
    """The formula in all its forms, beside its domain and certificate; arrays hold the domain, and of f1, f2, ...
    the ends (2,) of their uniform grids and the coefficients (intervals + degree,)."""
    certificate = vars(result.certificate) if result.certificate else {}
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(problem.inputs),
        "output": problem.output,
        "rounded": [list(entry) for entry in formula.rounded],
        "certificate": {
            k: (v if not isinstance(v, float) or np.isfinite(v) else None)
            for k, v in certificate.items()
        },
        "seed": seed,
    }
    arrays = {"domain": problem.scaling.invert(problem.check.domain.T).T}
    for name, spline in formula.splines:
        arrays |= {
            f"{name}.ends": np.array([spline.low, spline.high]),
            f"{name}.coefficients": spline.parameters,
        }
    return Checkpoint(f"formula-{problem.name}-seed{seed}", arrays, meta)
