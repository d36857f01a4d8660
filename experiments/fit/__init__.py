"""Train one model on one target, and show what it learned.

The default reproduces the setting of the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3): a
[2, 5, 1] network on exp(sin(pi x0) + x1^2), with a grid that is extended during training. It
differs from the paper in the solver (second order, with a smoothness penalty chosen on held-out
training points) and in the selection of the grid, by validation points instead of test points. A
`suite` in the configuration makes it a study over targets and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import MODELS, FitConfig
from kanrun.runs.records import Checkpoint, Record

if TYPE_CHECKING:
    from kanrun.experiments.fit.tables import TableFitting
    from kanrun.experiments.fit.training import Fit

    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables
    from kanrun.targets import Target


def cells(cfg: FitConfig) -> list[dict[str, Any]]:
    """Return one cell, or those of the suite."""
    from kanrun.study.suite import suite_cells

    return suite_cells(cfg.suite)


def prepare(
    cfg: FitConfig, cell: Mapping[str, Any], seed: int, target: Target | None = None
) -> Fit | TableFitting:
    """Build everything that a training needs, unless `target` is built already."""
    from kanrun.study.suite import with_cell

    if MODELS.find(with_cell(cfg, cell).model.kind, "model.kind").tables_only:
        from kanrun.experiments.fit.tables import prepare_table

        return prepare_table(cfg, cell, seed, target)
    from kanrun.experiments.fit.training import make_fit

    return make_fit(cfg, cell, seed, target)


def run(
    cfg: FitConfig,
    cell: dict[str, Any],
    seed: int,
    resume: Checkpoint | None = None,
    prepared: Fit | TableFitting | None = None,
) -> Iterator[Record]:
    """Train one network; one row per step as it trains, the rest at the end."""
    yield from (prepared or prepare(cfg, cell, seed)).run(cell, seed, resume)


def figures(tables: Tables) -> Figures:
    """Yield loss, predictions and residuals, and for KANs the edges and the network."""
    from kanrun.study.model_summary import training_figures

    if "cell" not in tables["summary"]:
        yield from training_figures(tables)


def more_figures(tables: Tables) -> Figures:
    """Yield all figures, also those that are only drawn on request."""
    from kanrun.study.model_summary import training_figures

    yield from training_figures(tables, on_request=True)


def claims(tables: Tables) -> Claims:
    """Compare the bounds of a suite's entries with the medians over seeds."""
    from kanrun.study.suite import bound_claims

    return bound_claims(tables)
