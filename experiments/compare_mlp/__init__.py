"""KAN against MLP, with everything equal that can be: data, seeds, solver, starts, steps.

Reproduces the comparison of the KAN paper's section 3.1 (arXiv 2404.19756, Figure 3.1: error
against parameters on toy functions) and the lecture's counts of parameters. `comparison` says what
is compared:

- `matched`: for each KAN the MLPs of the same parameters, FLOPs or seconds a pass; who wins, with
  an interval (seconds are measured again in each training, so that with `match=time` seeds may
  differ in the MLP's width);
- `universal_approximation`: how wide one hidden layer must be for smaller and smaller errors;
- `kolmogorov_arnold`: the shape [n, 2n + 1, 1] on continuous functions of n variables;
- `no_activation`: an MLP without activations is one linear map;
- `implementation_tricks`: a KAN without its residual base, initial scales, grid update.

It differs from the paper in that MLPs get the same second-order solver as KANs, and that sizes are
counted equally: exact trainable parameters of the modules, every published convention next to them,
FLOPs as executed and as others count.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import CompareMLPConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Return one cell per network, and one for the sizes whose parameters are counted.

    A cell of a KAN has a `grid`, one of an MLP its `activation`, and its widths or the KAN that it
    `matches`.
    """
    from kanrun.experiments.compare_mlp.cases import cases_of

    found = [{"case": case, **cell} for case in cases_of(cfg) for cell in _networks(cfg, case)]
    counted = [{"growth": dict(cfg.growth)}] if cfg.growth else []
    return found + (counted if cfg.comparison == "matched" else [])


def _networks(cfg: CompareMLPConfig, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    from kanrun.experiments.compare_mlp.studies import VARIANTS

    kans = [{"hidden": h, "grid": g} for h, g in itertools.product(case["shapes"], cfg.grids)]
    kinds = list(itertools.product(cfg.depths, cfg.activations))
    if cfg.comparison == "universal_approximation":
        pairs = itertools.product(cfg.activations, cfg.widths)
        return [{"activation": activation, "hidden": [width]} for activation, width in pairs]
    if cfg.comparison == "kolmogorov_arnold":
        return [{"grid": grid} for grid in cfg.grids]
    if cfg.comparison == "no_activation":
        return [{"activation": "identity", "hidden": cfg.widths * depth} for depth in cfg.depths]
    if cfg.comparison == "implementation_tricks":
        return [{**kan, "variant": variant} for kan in kans for variant in VARIANTS]
    equal = [{"matches": kan, "depth": d, "activation": a} for kan in kans for d, a in kinds]
    given = [{"hidden": [w] * d, "activation": a} for w in cfg.widths for d, a in kinds]
    return [*kans, *(equal if cfg.match else []), *given]


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training.

    Raises UsageError for what cannot be trained, and for a KAN that is listed twice.
    """
    from kanrun.experiments.compare_mlp.cases import case_of, kan_name, plan_of
    from kanrun.experiments.compare_mlp.studies import model_of, refuse

    refuse(cfg)
    names = set[str]()
    for cell in cells(cfg):
        if "case" not in cell:
            continue
        case = case_of(cfg, cell["case"], cfg.seed)
        model = model_of(case, cell)
        plan_of(case, model)
        if isinstance(model, KANConfig):
            name = f"{kan_name(case, model)} {cell.get('variant', '')}".strip()
            name = f"{case.name}: the KAN {name}"
            if name in names:
                raise UsageError(
                    f"{name} is listed twice; list each shape and grid of a case once."
                )
            names.add(name)


def run(cfg: CompareMLPConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train one network: yield a row of the summary with its sizes, seconds and errors."""
    from kanrun.experiments.compare_mlp.cases import case_of
    from kanrun.experiments.compare_mlp.studies import GROWTH, STUDIES, growth_rows

    if "case" in cell:
        yield from STUDIES[cfg.comparison](case_of(cfg, cell["case"], seed), cell, seed)
    elif seed == cfg.seed:
        yield from growth_rows(**{**GROWTH, **cell["growth"]})


def figures(tables: Tables) -> Figures:
    """Yield the figures of the comparison that was run."""
    from kanrun.experiments.compare_mlp.plots import FIGURES

    from kanrun.figures import figures_of

    yield from figures_of(tables, FIGURES[tables["summary"]["comparison"].iloc[0]])


def claims(tables: Tables) -> Claims:
    """Return the claims of the comparison that was run."""
    from kanrun.experiments.compare_mlp.claim_checks import CLAIMS

    return list(CLAIMS[tables["summary"]["comparison"].iloc[0]](tables))
