"""Measure the speed of kanrun next to other KAN libraries and an MLP of the same size.

Reproduces no figure of a paper; it is the record behind every sentence about speed. Parts: `layers`
(a training step of one layer), `time_to_accuracy` (the toy function of arXiv 2404.19756, Figure
2.3), `startup` (whole commands) and, on request, `tables` (errors and times of models of tables).
Layers are measured in one process, in turn, and compared by medians over rounds. Libraries that are
not installed (`pip install 'kanrun[peers]'`) are reported as such, and nothing is claimed about
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanrun.config import BenchConfig, KANConfig
from kanrun.config.models import check_model
from kanrun.errors import UsageError
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Records, Row

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study import Cell, Claims, Tables


def check(cfg: BenchConfig) -> None:
    """Raise UsageError for settings that cannot be measured."""
    if cfg.device != "cpu" and cfg.part != "layers":
        raise UsageError(
            f"device={cfg.device}: bench measures only part=layers on another device. Write "
            "device=cpu, or part=layers."
        )
    if cfg.n_seeds != 1:
        raise UsageError(
            f"n_seeds={cfg.n_seeds}: bench repeats in rounds, not over seeds; raise rounds above "
            f"{cfg.rounds}, or run it again with another seed."
        )
    check_model(KANConfig(hidden=[5], intervals=list(cfg.intervals)), 2)


def cells(cfg: BenchConfig) -> list[Cell]:
    """Return one cell, so that nothing runs next to a measurement."""
    return [{"part": cfg.part}]


def run(cfg: BenchConfig, cell: Cell, seed: int) -> Records:
    """Measure one part after the other."""
    import platform

    import torch
    from kanrun.experiments.bench.race import time_to_accuracy
    from kanrun.experiments.bench.table_suite import tables
    from kanrun.experiments.bench.timing import layers, startup

    machine = {"torch": torch.__version__, "machine": platform.machine()}
    yield Row("machine", {"threads": torch.get_num_threads(), **machine})
    if cell["part"] == "tables":
        yield from tables(cfg, seed)
    for part in (layers, time_to_accuracy, startup):
        name = part.__name__
        if cell["part"] in ("all", name) and not time_limit_reached():
            yield Note(f"measuring {name}")
            yield from part(cfg, seed)


def figures(tables: Tables) -> Figures:
    """Yield the figure of the ranks of models of tables."""
    from kanrun.experiments.bench.table_suite import FIGURES

    from kanrun.figures import figures_of

    yield from figures_of(tables, FIGURES)


def claims(tables: Tables) -> Claims:
    """Return the claims on the measured parts; on another library only if it was measured."""
    from kanrun.experiments.bench.race import accuracy_claims
    from kanrun.experiments.bench.timing import layer_claims, startup_claims

    made = {"layers": layer_claims, "accuracy": accuracy_claims, "startup": startup_claims}
    return [claim for name in made if name in tables for claim in made[name](tables[name])]
