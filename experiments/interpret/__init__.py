"""Find the formula behind a function, a table or a trained network, and verify it.

For the network of a run, the command reproduces the interpretability chapter of the KAN paper
(arXiv 2404.19756, section 2.5 and Figure 2.4): it prunes the network, replaces edges with symbolic
functions, refits their constants, and reads off the formula. Unlike in the paper, all steps are
automatic, candidates are accepted by the validation error after all constants were refitted
together, and the formula is verified. Without a network, the formula is searched for directly in
the points.
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


#: A target counts as recovered if at least this fraction of its seeds recovers the formula.
MIN_FRACTION = 0.8
#: Largest number of CPU seconds of an interpretation per unit of its budget that is claimed, in
#: addition to `MORE_SECONDS`.
MAX_RATIO = 1.25
#: CPU seconds that an interpretation may take in addition to `MAX_RATIO` times its budget.
MORE_SECONDS = 2.0
#: Smallest fraction of the targets without noise that is claimed to be recovered.
RECOVERED = 0.85
#: Smallest fraction of the targets with noise that is claimed to be recovered up to the values of
#: the constants.
NOISY = 7 / 11
#: Smallest fraction of the exact formulas that is claimed to be written in an accepted form.
ACCEPTED = 0.9


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
        if not isinstance(known := cell.get("in_view", True), bool):
            raise UsageError(f"in_view={known} of a suite's entry must be true or false.")
        problems_of(_settings(cfg, cell), cfg.seed)


def _settings(cfg: InterpretConfig, cell: Cell) -> InterpretConfig:
    """Return the settings of a cell, without the entry `in_view`, which only the claims use."""
    return with_cell(cfg, {key: value for key, value in cell.items() if key != "in_view"})


def run(cfg: InterpretConfig, cell: Cell, seed: int) -> Records:
    """Interpret every output of the target, and yield the records of all stages and results."""
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
    """Yield figures with their names: predictions, residuals, stages, network and candidates.

    Figures without data are left out. For a suite, the only figure is the score card.
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
    """Yield the claims about a suite; a run without a suite has none."""
    summary = tables["summary"]
    if "in_view" in summary:
        yield from score_claims(summary)


def score_claims(summary: pd.DataFrame) -> Claims:
    """Yield the claims about the targets whose true function is known.

    There are separate claims about targets that the developers knew when they chose the rules of
    the search, and about all other targets (column `in_view`).
    """
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


#: Words that stand for the outcomes in claims.
OUTCOMES = {
    "exact": "exact",
    "agrees": "agreeing",
    "formula": "approximate",
    "partly numeric": "partly numeric",
    "failed": "failed",
    "wrong": "wrong",
}
#: Ends of the sentences of claims, by whether the developers knew the targets when they chose the
#: rules of the search.
VIEWS = {True: ", in view of the rules", False: ", not in view of the rules"}


def _count(sentence: str, found: pd.Series, fraction: float, spread: str | None = None) -> Claim:
    """Return the claim that at least `fraction` of the entries of `found` are true."""
    required = math.ceil(fraction * len(found) - 1e-9)
    return claim_at_least(f"{sentence}, of {len(found)}", float(found.sum()), required, spread)
