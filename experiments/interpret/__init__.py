"""Find the formula behind a function, a table or a trained network, and verify it.

For the network of a run, the command reproduces the interpretability chapter of the KAN paper
(arXiv 2404.19756, section 2.5 and Figure 2.4): it prunes the network, replaces edges with symbolic
functions, refits their constants, and reads off the formula. Unlike in the paper, all steps are
automatic, candidates are accepted by the validation error after all constants were refitted
together, and the formula is verified. Without a network, the formula is searched for directly in
the points.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kanrun.errors import UsageError
from kanrun.runs.records import Records
from kanrun.study import suite_cells, with_cell

from .config import InterpretConfig

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study import Cell, Claims, Tables


def cells(cfg: InterpretConfig) -> list[Cell]:
    """Return the cells of the suite, or a single cell if there is no suite.

    A cell maps names of settings to the values that differ from the rest of the configuration.
    """
    return suite_cells(cfg.suite)


def check(cfg: InterpretConfig) -> None:
    """Check the settings by building everything that a run would build, without searching.

    Raises:
        UsageError: If `threads` is above 1, the device is not the CPU, the precision is not
            float64, `from_run` is combined with a suite, or another setting breaks a rule.
    """
    if cfg.threads is not None and cfg.threads > 1:
        raise UsageError(
            f"threads={cfg.threads}: kanrun interpret uses one; n_jobs=N runs more at once."
        )
    if cfg.from_run is not None and cfg.suite:
        raise UsageError(
            f"from_run={cfg.from_run} is one target, and the study has targets of its own. Leave "
            "out one of them."
        )
    if cfg.device not in {"auto", "cpu"} or cfg.precision != "float64":
        raise UsageError(
            f"device={cfg.device} precision={cfg.precision}: kanrun interpret uses the cpu and "
            "float64."
        )
    from .problem import problems_of

    for cell in cells(cfg):
        problems_of(with_cell(cfg, cell), cfg.seed)


def run(cfg: InterpretConfig, cell: Cell, seed: int) -> Records:
    """Interpret every output of the target, and yield the records of all stages and results."""
    import time

    from kanrun.engine.symbolic.budget import work_done
    from kanrun.monitoring import report_progress

    from .interpretation import Interpretation, interpretation
    from .problem import problems_of
    from .tables import accuracy_records, records, stage_row

    found = []
    for problem in problems_of(with_cell(cfg, cell), seed):
        yield from problem.notes
        began = time.process_time()
        before = work_done()
        for event in interpretation(problem, seed):
            report_progress("seconds of search", work_done() - before, cfg.budget)
            if isinstance(event, Interpretation):
                seconds = time.process_time() - began
                yield from records(problem, event, seed, seconds)
                found.append((problem, event))
            else:
                yield stage_row(event, problem)
    yield from accuracy_records(found)


def figures(tables: Tables) -> Figures:
    """Yield figures with their names: predictions, residuals, stages, network and candidates.

    Figures without data are left out, and a suite has none.
    """
    from kanrun.figures import network_diagram, predictions, residuals

    from . import plots

    if "cell" in tables["summary"]:
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
    """Return no claims: the outcome of each formula says how it was verified."""
    return ()
