"""Find the formula behind a function, a table or a trained network, and verify it.

Reproduces the interpretability chapter of the KAN paper (arXiv 2404.19756, section 2.5 and Figure 2.4): train, prune,
snap edges
to symbolic functions, refit their constants, read the formula off. It differs from the paper in that nobody is asked:
the
shape is searched from simple to deep (multiplication nodes as in KAN 2.0, arXiv 2408.10205, among them), candidates
are accepted by the validation error after a joint refit of all constants, and the formula comes with a certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kanrun.config import InterpretConfig
from kanrun.engine.symbolic import Step
from kanrun.figures import network_diagram
from kanrun.figures.interpret import candidate_map, captions, score_card, stages_side_by_side
from kanrun.runs import Claim
from kanrun.runs.records import Note, Record, Row
from kanrun.study.cells import suite_cells, with_cell
from kanrun.study.interpret.edges import edge_tables
from kanrun.study.interpret.interpretation import Interpretation, interpretation, one_thread
from kanrun.study.interpret.score_card import score_claims
from kanrun.study.interpret.summary import summary_row
from kanrun.study.interpret.tables import candidate_rows, decision_rows, stage_row
from kanrun.study.interpret.task import Task, formula_checkpoint, options_of, tasks_of


def using_threads(threads: int) -> AbstractContextManager[None]:
    """One thread whatever was asked for; cells run beside one another under executor=local."""
    return one_thread()


def cells(cfg: InterpretConfig) -> list[dict[str, Any]]:
    """One cell, or the suite's."""
    return suite_cells(cfg.suite)


def check(cfg: InterpretConfig) -> None:
    """Build everything that a run would build, without training."""
    for cell in cells(cfg):
        one = with_cell(cfg, cell)
        options_of(one)
        tasks_of(one, one.seed)


def run(cfg: InterpretConfig, cell: dict[str, Any], seed: int) -> Iterator[Record]:
    """Interpret every output of the target; a row a stage as it goes."""
    cfg = with_cell(cfg, cell)
    options = options_of(cfg)
    for task in tasks_of(cfg, seed):
        yield from (Note(text, warning=True) for text in task.notes)
        result = None
        for event in interpretation(task.samples, task.check, options, seed, task.network):
            if isinstance(event, Step):
                yield stage_row(event, task.samples, task.check)
            else:
                result = event
        assert result is not None
        yield from _results(task, result, seed)


def _results(task: Task, result: Interpretation, seed: int) -> Iterator[Record]:
    formula = task.in_units(result.formula) if result.formula else None
    yield summary_row(task, result, formula)
    yield Note(f"{task.name}: {formula.expression if formula else 'no formula'}; {result.sentence}")
    if formula is not None:
        yield Row("formulas", {"output": task.output, "kind": result.outcome, **formula.forms()})
        yield formula_checkpoint(task, formula, result, seed)
    if result.approximation is not None:
        forms = task.in_units(result.approximation).forms()
        yield Row("formulas", {"output": task.output, "kind": "approximation", **forms})
    if result.tried is not None:
        yield from candidate_rows(result.tried)
        yield from decision_rows(result)
        if (table := edge_tables(result.stages, task.samples, task.inputs, task.output)) is not None:
            yield replace(table, name="edges" if task.only else f"edges-{task.output}")


def figures(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """The stages side by side, the network at the last of them, and which candidate fits which edge; of a suite the
    score card."""
    if "cell" in tables["summary"]:
        yield "score_card", score_card(tables["summary"])
        return
    if "edges" in tables and len(tables["edges"]):
        edges = tables["edges"]
        yield "stages", stages_side_by_side(edges, captions(tables["stages"], tables["summary"]))
        yield "network", network_diagram(edges[edges["stage"] == sorted(edges["stage"].unique())[-1]])
    if "candidates" in tables and len(tables["candidates"]):
        yield "candidates", candidate_map(tables["candidates"])


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """Whether the seeds recovered the targets whose truth is known."""
    return score_claims(tables["summary"])
