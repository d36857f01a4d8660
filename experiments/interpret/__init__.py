"""Find the formula behind a function, a table or a trained network, and verify it.

Reproduces the interpretability chapter of the KAN paper (arXiv 2404.19756, section 2.5 and Figure 2.4): train, prune,
snap edges to symbolic functions, refit their constants, read the formula off. It differs from the paper in that nobody
is asked: the shape is searched from simple to deep (multiplication nodes as in KAN 2.0, arXiv 2408.10205, among them),
candidates are accepted by the validation error after a joint refit of all constants, and the formula comes with
the largest difference between formula and network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kanrun.config import InterpretConfig, NistTarget
from kanrun.errors import UsageError
from kanrun.runs.records import Note, Record, Row

if TYPE_CHECKING:
    from kanrun.experiments.interpret.problem import InterpretationProblem
    from kanrun.experiments.interpret.result import Interpretation, Options

    from kanrun.study.experiment import Claims, Figures, Tables

RESULTS = 2  # of a suite, see `kanrun.study.experiment.Experiment`


def cells(cfg: InterpretConfig) -> list[dict[str, Any]]:
    """One cell, or the suite's."""
    from kanrun.study.suite import suite_cells

    return suite_cells(cfg.suite)


def check(cfg: InterpretConfig) -> None:
    """Build everything that a run would build, without training. Raises UsageError for settings that do not fit, among
    them more threads, another device or less precision than it uses."""
    from kanrun.study.suite import with_cell

    if cfg.threads is not None and cfg.threads > 1:
        raise UsageError(f"threads={cfg.threads}: kanrun interpret uses one; executor=local runs more at once.")
    if cfg.device not in {"auto", "cpu"} or cfg.precision != "float64":
        raise UsageError(f"device={cfg.device} precision={cfg.precision}: kanrun interpret uses the cpu and float64.")
    from kanrun.experiments.interpret.interpretation import one_thread
    from kanrun.experiments.interpret.problem import options_of, problems_of

    for cell in cells(cfg):
        one = with_cell(cfg, cell)
        options_of(one)
        with one_thread():
            problems_of(one, one.seed)


def run(cfg: InterpretConfig, cell: dict[str, Any], seed: int) -> Iterator[Record]:
    """Interpret every output of the target; one row per stage as it goes."""
    from kanrun.experiments.interpret.interpretation import one_thread
    from kanrun.experiments.interpret.problem import options_of, problems_of

    from kanrun.study.suite import with_cell

    cfg = with_cell(cfg, cell)
    options = options_of(cfg)
    with one_thread():
        for problem in problems_of(cfg, seed):
            yield from _answered(problem, options, cfg.target, seed)


def _answered(problem: InterpretationProblem, options: Options, target: Any, seed: int) -> Iterator[Record]:
    import time

    from kanrun.experiments.interpret.interpretation import interpretation
    from kanrun.experiments.interpret.result import Interpretation
    from kanrun.experiments.interpret.tables import stage_row

    yield from problem.notes
    if problem.carried_over is not None:
        yield problem.carried_over
    result, began = None, time.process_time()
    options = replace(options, dimensions=problem.dimensions)
    for event in interpretation(problem.samples, problem.check, options, seed, problem.network):
        if isinstance(event, Interpretation):
            result = event
        else:
            yield stage_row(event, problem.samples, problem.check)
    assert result is not None
    yield from _results(problem, result, options, seed, time.process_time() - began)
    if isinstance(target, NistTarget):
        from kanrun.experiments.interpret.tables import certified_row

        yield certified_row(target, problem.in_units(result.formula) if result.formula else None)


def _results(
    problem: InterpretationProblem, result: Interpretation, options: Options, seed: int, cpu_seconds: float
) -> Iterator[Record]:
    from kanrun.experiments.interpret.diagram_edges import edge_tables
    from kanrun.experiments.interpret.problem import formula_checkpoint
    from kanrun.experiments.interpret.tables import (
        candidate_rows,
        constant_rows,
        decision_rows,
        equivalent_rows,
        input_rows,
        inputs_that_matter,
        intervals_of,
        summary_row,
    )

    from kanrun.study.evaluation import doubts

    formula = problem.in_units(result.formula) if result.formula else None
    row = summary_row(problem, result, formula, options.program, cpu_seconds)
    yield row
    said = f"{problem.name}: {formula.expression if formula else 'no formula'}; {row.values['reason']}"
    apart = row.values["largest_difference"]
    yield Note(said if apart is None else f"{said}; largest difference between formula and network {apart:.2g}")
    if formula is not None and problem.dimensions is not None:
        yield Note(f"{problem.name}: the formula was sought in groups without units: its units are those of the output")
    if formula is not None and row.values["formula_rmse"] is not None:
        yield from doubts(row.values["r2"], "check points")
    if (rows := input_rows(problem, result)) and len(rows) > 1:
        yield from rows
        yield Note(f"{problem.name}: {inputs_that_matter(rows)}")
    if formula is not None:
        yield Row("formulas", {"output": problem.output, "kind": row.values["outcome"], **formula.forms()})
        yield formula_checkpoint(problem, formula, result, seed)
        if not formula.splines:
            yield from equivalent_rows(problem, formula, options.policy.proving * options.policy.budget)
            constants = list(constant_rows(problem, formula, result.relative))
            yield from constants
            if constants and result.outcome == "formula":
                yield Note(f"{problem.name}: {intervals_of(constants)}")
    if result.approximation is not None:
        forms = problem.in_units(result.approximation).forms()
        yield Row("formulas", {"output": problem.output, "kind": "approximation", **forms})
    if result.tried is not None:
        yield from candidate_rows(result.tried)
        yield from decision_rows(result)
        if (table := edge_tables(result.stages, problem.samples, problem.inputs, problem.output)) is not None:
            yield replace(table, name="edges" if problem.only else f"edges-{problem.output}")


def figures(tables: Tables) -> Figures:
    """The stages side by side, the network at the last of them, and which candidate fits which edge; of a suite the
    score card."""
    from kanrun.experiments.interpret.plots import candidate_map, captions, score_card, stages_side_by_side

    from kanrun.figures import network_diagram

    if "cell" in tables["summary"]:
        yield "score_card", score_card(tables["summary"])
        return
    if "edges" in tables and len(tables["edges"]):
        edges = tables["edges"]
        yield "stages", stages_side_by_side(edges, captions(tables["stages"], tables["summary"]))
        yield "network", network_diagram(edges[edges["stage"] == sorted(edges["stage"].unique())[-1]])
    if "candidates" in tables and len(tables["candidates"]):
        yield "candidates", candidate_map(tables["candidates"])


def claims(tables: Tables) -> Claims:
    """Whether the seeds recovered the targets whose truth is known, and how near they come to certified values."""
    from kanrun.experiments.interpret.findings import certified_claims, score_claims

    return [*certified_claims(tables.get("certified")), *score_claims(tables["summary"])]
