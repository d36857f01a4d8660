"""KAN against MLP, with everything equal that can be: data, seeds, solver, starts, steps.

Reproduces the comparison of the KAN paper's section 3.1 (arXiv 2404.19756, Figure 3.1: error
against parameters on toy functions) and the lecture's counts of parameters. `comparison` names the
module beside this one that says what is compared.

It differs from the paper in that MLPs get the same second-order solver as KANs, and that sizes are
counted equally: exact trainable parameters of the modules, every published convention next to them,
FLOPs as executed and as others count. A bootstrap interval decides who wins, or that it is a draw.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kanrun.config import CompareMLPConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.runs.records import Records
from kanrun.study import Cell, Claims, Figures, Tables

from .cases import case_of, cases_of, kan_name, training_of


def comparison_of(name: str) -> Any:
    """Return the module of a comparison.

    It has four functions: `networks(cfg, case)` lists the cells of a case, and refuses settings
    that the comparison cannot use; `run(case, cell, seed)` trains one network and yields its
    records; `figures()` lists the functions that draw; `claims(tables)` judges. A cell of a KAN has
    a `grid`, one of an MLP its `activation`. The module's `model_of(case, cell)` is the network.
    """
    return import_module(f"{__name__}.{name}")


def cells(cfg: CompareMLPConfig) -> list[Cell]:
    """Return one cell per network, and one for the sizes whose parameters are counted."""
    comparison = comparison_of(cfg.comparison)
    listed = [(case, cell) for case in cases_of(cfg) for cell in comparison.networks(cfg, case)]
    found: list[Cell] = [{"case": case, **cell} for case, cell in listed]
    counts = cfg.growth and cfg.comparison == "matched"
    return [*found, {"growth": dict(cfg.growth)}] if counts else found


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training.

    Raises:
        UsageError: For what cannot be trained, and for a KAN that is listed twice.
    """
    comparison = comparison_of(cfg.comparison)
    names = set[str]()
    for cell in cells(cfg):
        if "case" not in cell:
            continue
        case = case_of(cfg, cell["case"], cfg.seed)
        model = comparison.model_of(case, cell)
        training_of(case, model)
        if isinstance(model, KANConfig):
            name = f"{kan_name(case, model)} {cell.get('variant', '')}"
            name = f"{case.name}: the KAN {name.strip()}"
            if name in names:
                raise UsageError(
                    f"{name} is listed twice; list each shape and grid of a case once."
                )
            names.add(name)


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Records:
    """Train one network: yield a row of the summary with its sizes, seconds and errors."""
    comparison = comparison_of(cfg.comparison)
    if "case" in cell:
        yield from comparison.run(case_of(cfg, cell["case"], seed), cell, seed)
    elif seed == cfg.seed:
        yield from comparison.growth_rows(**{**comparison.GROWTH, **cell["growth"]})


def figures(tables: Tables) -> Figures:
    """Yield the figures of the comparison that was run."""
    from kanrun.figures import figures_of

    yield from figures_of(tables, _comparison_in(tables).figures())


def claims(tables: Tables) -> Claims:
    """Return the claims of the comparison that was run."""
    found: Claims = _comparison_in(tables).claims(tables)
    return found


def _comparison_in(tables: Tables) -> Any:
    return comparison_of(str(tables["summary"]["comparison"].iloc[0]))
