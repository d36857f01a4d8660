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

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import CompareMLPConfig
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.experiments.compare_mlp.cases import NetworkComparison

    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Return one cell per network."""
    return list(_comparison(cfg).cells(cfg))


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training."""
    _comparison(cfg).check(cfg)


def run(cfg: CompareMLPConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train one network: yield a row of the summary with its sizes, seconds and errors."""
    from kanrun.experiments.compare_mlp.cases import case_of
    from kanrun.experiments.compare_mlp.matched import GROWTH, growth_rows

    if "case" in cell:
        yield from _comparison(cfg).run(cfg, case_of(cfg, cell["case"], seed), cell, seed)
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


def _comparison(cfg: CompareMLPConfig) -> NetworkComparison:
    from kanrun.experiments.compare_mlp.studies import STUDIES

    return STUDIES[cfg.comparison]
