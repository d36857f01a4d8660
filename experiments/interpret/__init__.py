"""Find the formula behind a function, a table or a trained network, and verify it.

Reproduces the interpretability chapter of the KAN paper (arXiv 2404.19756, section 2.5 and Figure
2.4) on the network of a run: prune, snap edges to symbolic functions, refit their constants, read
the formula. Unlike in the paper, all steps are automatic; candidates are accepted by the validation
error after a joint refit of all constants; the formula is verified. Without a network, the formula
is searched in the points.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from kanrun.errors import UsageError
from kanrun.runs.records import Claim, Records
from kanrun.study import suite_cells, with_cell
from kanrun.study.suite import claim_at_least, claim_at_most, maximum

from .config import InterpretConfig

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study import Cell, Claims, Tables


#: Fraction of a target's seeds that have to recover it.
MIN_FRACTION = 0.8
#: CPU seconds that an interpretation may take: a multiple of its budget.
MAX_RATIO = 1.25
#: CPU seconds that it may take in addition.
MORE_SECONDS = 2.0
#: Smallest fraction of the targets without noise that is recovered.
RECOVERED = 0.85
#: Smallest fraction of the targets with noise that is recovered in form.
NOISY = 7 / 11
#: Smallest fraction of the exact formulas that is in an accepted form.
ACCEPTED = 0.9


def cells(cfg: InterpretConfig) -> list[Cell]:
    """Return the cells of the suite, or one."""
    return suite_cells(cfg.suite)


def check(cfg: InterpretConfig) -> None:
    """Build everything that a run would build, without training.

    Raises:
        UsageError: For settings that do not fit: more threads, another device or less precision.
    """
    if cfg.threads is not None and cfg.threads > 1:
        raise UsageError(
            f"threads={cfg.threads}: kanrun interpret uses one; executor=local runs more at once."
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
        if not isinstance(known := cell.get("in_view", True), bool):
            raise UsageError(f"in_view={known} of a suite's entry must be true or false.")
        problems_of(_settings(cfg, cell), cfg.seed)


def _settings(cfg: InterpretConfig, cell: Cell) -> InterpretConfig:
    """Return the settings of a cell; `in_view` concerns the claims alone."""
    return with_cell(cfg, {key: value for key, value in cell.items() if key != "in_view"})


def run(cfg: InterpretConfig, cell: Cell, seed: int) -> Records:
    """Interpret every output of the target; yield a row for each stage."""
    import time

    from kanrun.engine.symbolic.budget import work_done
    from kanrun.monitoring import report_progress

    from .interpretation import interpretation
    from .outcome import Interpretation
    from .problem import problems_of
    from .tables import accuracy_records, records, stage_row

    found = []
    for problem in problems_of(_settings(cfg, cell), seed):
        yield from problem.notes
        began = time.process_time()
        before = work_done()
        for event in interpretation(problem, seed):
            report_progress("seconds of search", work_done() - before, cfg.budget)
            if isinstance(event, Interpretation):
                seconds = time.process_time() - began
                yield from records(problem, event, seed, seconds, cell if cfg.suite else None)
                found.append((problem, event))
            else:
                yield stage_row(event, problem)
    yield from accuracy_records(found)


def figures(tables: Tables) -> Figures:
    """Yield the stages, the final network, and the map of candidates.

    For a suite the score card.
    """
    from kanrun.figures import network_diagram, predictions, residuals

    from . import plots

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
    """Yield the claims of a suite, on known functions."""
    summary = tables["summary"]
    if "in_view" in summary:
        yield from score_claims(summary)


def score_claims(summary: pd.DataFrame) -> Claims:
    """Yield the claims on targets whose truth is known, those in view and others apart."""
    known = summary[summary["recovered"] != "unknown"]
    noisy = known["noise"] > 0
    for rows, column, sentence, fraction in (
        (known[~noisy], "recovered", "targets that most seeds recover", RECOVERED),
        (known[noisy], "same_form", "targets with noise that most seeds recover in form", NOISY),
    ):
        for view, group in rows.groupby("in_view", sort=False):
            found = (group[column] == "yes").groupby(
                group["target"], sort=False
            ).mean() >= MIN_FRACTION
            counts = group["outcome"].value_counts()
            spread = ", ".join(f"{counts.get(name, 0)} {text}" for name, text in OUTCOMES.items())
            if others := ", ".join(map(str, found.index[~found])):
                spread += f"; not: {others}"
            yield _count(sentence + VIEWS[bool(view)], found, fraction, spread)
    if len(known):
        exact = known[known["outcome"] == "exact"]
        if len(exact):
            sentence = "exact formulas that are in an accepted form"
            yield _count(sentence, exact["accepted_form"] == "yes", ACCEPTED)
        called = summary["outcome"].isin(["exact", "wrong"]).sum()
        sentence = f"formulas called exact that are not the truth, of {called} called exact"
        yield claim_at_most(sentence, float((summary["outcome"] == "wrong").sum()), 0)
        seconds = summary["cpu_seconds"]
        spread = f"CPU seconds: median {seconds.median():.3g}, at most {seconds.max():.3g}"
        ratio = maximum(seconds / (MAX_RATIO * summary["budget"] + MORE_SECONDS))
        sentence = f"CPU seconds over {MAX_RATIO} times the budget and {MORE_SECONDS:g} s, at most"
        yield claim_at_most(sentence, ratio, 1.0, spread)


#: Outcomes as score cards call them, and whether a target was in view when rules were chosen.
OUTCOMES = {
    "exact": "exact",
    "agrees": "agreeing",
    "formula": "approximate",
    "partly numeric": "partly numeric",
    "failed": "failed",
    "wrong": "wrong",
}
VIEWS = {True: ", in view of the rules", False: ", not in view of the rules"}


def _count(sentence: str, found: pd.Series, fraction: float, spread: str | None = None) -> Claim:
    """Return the claim that at least this fraction of the entries of `found` is true."""
    required = math.ceil(fraction * len(found) - 1e-9)
    return claim_at_least(f"{sentence}, of {len(found)}", float(found.sum()), required, spread)
