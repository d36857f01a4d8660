"""Find the formula behind a function, a table or a trained network, and verify it.

Reproduces the interpretability chapter of the KAN paper (arXiv 2404.19756, section 2.5 and Figure
2.4): train, prune, snap edges to symbolic functions, refit their constants, read the formula.
Unlike in the paper, all steps are automatic: the shape is searched from simple to deep, with
multiplication nodes as in KAN 2.0 (arXiv 2408.10205); candidates are accepted by the validation
error after a joint refit of all constants; the formula is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from kanrun.config import InterpretConfig
from kanrun.errors import UsageError
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: InterpretConfig) -> list[dict[str, Any]]:
    """Return the cells of the suite, or one."""
    from kanrun.study.suite import suite_cells

    return suite_cells(cfg.suite)


def check(cfg: InterpretConfig) -> None:
    """Build everything that a run would build, without training.

    Raises:
        UsageError: For settings that do not fit: more threads, another device or less precision.
    """
    from kanrun.study.suite import with_cell

    if cfg.threads is not None and cfg.threads > 1:
        raise UsageError(
            f"threads={cfg.threads}: kanrun interpret uses one; executor=local runs more at once."
        )
    if cfg.device not in {"auto", "cpu"} or cfg.precision != "float64":
        raise UsageError(
            f"device={cfg.device} precision={cfg.precision}: kanrun interpret uses the cpu and "
            "float64."
        )
    from kanrun.experiments.interpret.problem import problems_of

    for cell in cells(cfg):
        problems_of(with_cell(cfg, cell), cfg.seed)


def run(cfg: InterpretConfig, cell: dict[str, Any], seed: int) -> Iterator[Record]:
    """Interpret every output of the target; yield a row for each stage."""
    import time

    from kanrun.experiments.interpret.interpretation import interpretation
    from kanrun.experiments.interpret.outcome import Interpretation
    from kanrun.experiments.interpret.problem import problems_of
    from kanrun.experiments.interpret.tables import accuracy_records, records, stage_row

    from kanrun.study.suite import with_cell

    found = []
    for problem in problems_of(with_cell(cfg, cell), seed):
        yield from problem.notes
        began = time.process_time()
        for event in interpretation(problem, seed):
            if isinstance(event, Interpretation):
                yield from records(problem, event, seed, time.process_time() - began)
                found.append((problem, event))
            else:
                yield stage_row(event, problem)
    yield from accuracy_records(found)


def figures(tables: Tables) -> Figures:
    """Yield the stages, the final network, and the map of candidates.

    For a suite the score card.
    """
    from kanrun.experiments.interpret import plots

    from kanrun.figures import network_diagram, predictions, residuals

    if "cell" in tables["summary"]:
        yield "score_card", partial(plots.score_card, tables["summary"])
        return
    if "predictions" in tables:
        yield "predictions", partial(predictions, tables["predictions"], None)
        yield "residuals", partial(residuals, tables["predictions"])
    if "edges" in tables and len(edges := tables["edges"]):
        under = plots.captions(tables["stages"], tables["summary"])
        yield "stages", partial(plots.stages_side_by_side, edges, under)
        yield "network", partial(network_diagram, edges[edges["stage"] == edges["stage"].max()])
    if "candidates" in tables and len(tables["candidates"]):
        yield "candidates", partial(plots.candidate_map, tables["candidates"])


def claims(tables: Tables) -> Claims:
    """Return the claims on targets whose true function is known, and on certified parameters."""
    from kanrun.experiments.interpret.claim_checks import certified_claims, score_claims

    return [*certified_claims(tables.get("certified")), *score_claims(tables["summary"])]
