"""Compare KANs with MLPs under equal conditions: data, seeds, solver, starts and steps.

Reproduces the comparison of the KAN paper's section 3.1 (arXiv 2404.19756, Figure 3.1: error
against parameters on toy functions) and the lecture's counts of parameters. The setting
`comparison` selects what is compared; each value is the name of a module in this package.

There are two differences from the paper. MLPs get the same second-order solver as KANs. Sizes are
counted in the same way for both: trainable parameters of the modules, parameters by every published
convention, FLOPs as executed, and FLOPs as others count them. A confidence interval over seeds
decides which network wins, or whether it is a draw.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kanrun.errors import UsageError
from kanrun.runs.records import Records
from kanrun.study import Cell, Claims, Figures, Tables

from .cases import case_of, cases_of, training_of
from .config import CompareMLPConfig


def comparison_of(name: str) -> Any:
    """Return the module that implements a comparison.

    It defines four functions. `networks(cfg, case)` returns the cells of a case, and raises
    UsageError for settings that the comparison cannot use. `model_of(case, cell)` returns the
    settings of a network. `run(case, cell, seed)` trains it and yields its records.
    `claims(tables)` returns the claims. `FIGURES` lists the functions in `plots` that draw its
    figures. A cell (one network of a case) has a `grid` if it is a KAN, and an `activation` if it
    is an MLP.
    """
    return import_module(f"{__name__}.{name}")


def cells(cfg: CompareMLPConfig) -> list[Cell]:
    """Return one cell per network; for `matched`, also one cell that only counts parameters."""
    networks = comparison_of(cfg.comparison).networks
    growth: list[Cell] = [{"growth": True}] * (cfg.comparison == "matched")
    pairs = ((case, cell) for case in cases_of(cfg) for cell in networks(cfg, case))
    return [*({"case": case, **cell} for case, cell in pairs), *growth]


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training.

    Raises:
        UsageError: If a network cannot be trained, or if two cases have the same name.
    """
    comparison = comparison_of(cfg.comparison)
    names = set[str]()
    for settings in cases_of(cfg):
        case = case_of(cfg, settings, cfg.seed)
        if case.name in names:
            raise UsageError(f"cases has {case.name} twice; give its KANs in one entry.")
        names.add(case.name)
        for cell in comparison.networks(cfg, settings):
            training_of(case, comparison.model_of(case, cell))


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Records:
    """Train one network, and yield its records, such as its row of the summary."""
    comparison = comparison_of(cfg.comparison)
    if "case" in cell:
        yield from comparison.run(case_of(cfg, cell["case"], seed), cell, seed)
    elif seed == cfg.seed:
        yield from comparison.growth_rows()


def figures(tables: Tables) -> Figures:
    """Yield the figures of the comparison that was run."""
    from kanrun.figures import figures_of

    from . import plots

    names = _comparison_in(tables).FIGURES
    yield from figures_of(tables, (getattr(plots, name) for name in names))


def claims(tables: Tables) -> Claims:
    """Yield the claims of the comparison that was run."""
    yield from _comparison_in(tables).claims(tables)


def _comparison_in(tables: Tables) -> Any:
    return comparison_of(str(tables["summary"]["comparison"].iloc[0]))
