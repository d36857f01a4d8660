"""KAN against MLP, with everything equal that can be: data, seeds, solver, starts, steps.

Reproduces the comparison of the KAN paper's section 3.1 (arXiv 2404.19756, Figure 3.1: error against parameters on toy
functions) and the lecture's counts of parameters. `comparison` says what is compared:

- `matched`: for each KAN the MLPs of the same parameters, FLOPs or seconds a pass; who wins, with an interval (seconds
  are measured anew in each training, so that with `match=time` seeds may differ in the MLP's width);
- `universal_approximation`: how wide one hidden layer must be for smaller and smaller errors;
- `kolmogorov_arnold`: the shape [n, 2n + 1, 1] on continuous functions of n variables;
- `no_activation`: an MLP without activations is one linear map;
- `implementation_tricks`: a KAN without its residual base, initial scales, grid update.

It differs from the paper in that MLPs get the same second-order solver as KANs, and that sizes are counted alike: exact
trainable parameters of the modules, every published convention beside them, FLOPs as executed and as others count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pandas as pd
from kanrun.experiments.compare_mlp import linear, matched, superposition, tricks, universal
from kanrun.experiments.compare_mlp import plots as drawn
from kanrun.experiments.compare_mlp.results_plot import results
from matplotlib.figure import Figure

from kanrun.config import CompareMLPConfig
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record
from kanrun.study.statistics import exponents

Figures = Iterator[tuple[str, Figure]]


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training."""
    if cfg.comparison not in COMPARISONS:
        raise UsageError(f"comparison={cfg.comparison} is not known; choose one of {', '.join(COMPARISONS)}.")
    COMPARISONS[cfg.comparison].study.check(cfg)


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """One network a cell."""
    found: list[dict[str, Any]] = COMPARISONS[cfg.comparison].study.cells(cfg)
    return found


def run(cfg: CompareMLPConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train one network: a row of the summary with its sizes, seconds and errors."""
    yield from COMPARISONS[cfg.comparison].study.run(cfg, cell, seed)


def figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    """What the comparison that was run shows."""
    yield from COMPARISONS[comparison_of(tables)].figures(tables)


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """What the comparison that was run checks."""
    found: list[Claim] = COMPARISONS[comparison_of(tables)].study.claims(tables)
    return found


def comparison_of(tables: Mapping[str, pd.DataFrame]) -> str:
    return str(tables["summary"]["comparison"].iloc[0])


def matched_figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    """Error against each size, how it falls with parameters, the conventions, and the growth of parameters."""
    summary = tables["summary"]
    yield "pareto", drawn.pareto(summary)
    yield "results", results(summary)
    sizes = summary.groupby(["target", "error_name", "model", "parameters"], sort=False)
    medians = sizes["error"].median().reset_index()
    yield "scaling", drawn.scaling(medians, exponents(medians, ["target", "model"], "parameters", "error"))
    yield "conventions", drawn.conventions(tables["counts"])
    if "growth" in tables:
        yield "growth", drawn.growth(tables["growth"])


def universal_figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    yield "widths", drawn.widths(tables["summary"], sorted(tables["reached"]["wanted"].unique()))


def superposition_figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    yield "errors", drawn.bars(tables["summary"])


def linear_figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    yield "differences", drawn.differences(tables["linear"])


def tricks_figures(tables: Mapping[str, pd.DataFrame]) -> Figures:
    yield "variants", drawn.variants(tables["summary"])


@dataclass(frozen=True)
class Comparison:
    """`study` has cells, check, run and claims, as an experiment does; `figures` draws from its tables."""

    study: ModuleType
    figures: Callable[[Mapping[str, pd.DataFrame]], Figures]


COMPARISONS = {
    "matched": Comparison(matched, matched_figures),
    "universal_approximation": Comparison(universal, universal_figures),
    "kolmogorov_arnold": Comparison(superposition, superposition_figures),
    "no_activation": Comparison(linear, linear_figures),
    "implementation_tricks": Comparison(tricks, tricks_figures),
}
