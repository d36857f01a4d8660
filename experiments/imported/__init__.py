"""Read a trained network of pykan or efficient-kan as a run of kanrun.

Reproduces nothing from a paper: the network computes the numbers of its library, which
`kanrun.engine.networks.imported` states exactly, and the run records it on the inputs that its
checkpoint holds (else on uniform points of its first grid). `predict`, `export`, `interpret` and
`runs report` then work as on a network that was trained here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import ImportConfig
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: ImportConfig) -> list[dict[str, Any]]:
    """Return the one cell."""
    return [{}]


def prepare(cfg: ImportConfig, cell: Mapping[str, Any], seed: int) -> list[Record]:
    """Read the network. Raises UsageError if it cannot be carried over as it is."""
    from kanrun.experiments.imported.network import read_records

    return read_records(cfg, seed)


def run(
    cfg: ImportConfig, cell: Mapping[str, Any], seed: int, prepared: list[Record] | None = None
) -> Iterator[Record]:
    """Yield the network with its edges and predictions."""
    yield from prepared or prepare(cfg, cell, seed)


def figures(tables: Tables) -> Figures:
    """Yield the predictions, the edges and the network.

    Edges are drawn where the samples lie: their grids reach far beyond.
    """
    from kanrun.figures.style import as_bool
    from kanrun.study.model_summary import training_figures

    edges = tables["edges"]
    seen = as_bool(edges["seen"])
    points = seen.groupby([edges[key] for key in ("layer", "out", "in")]).transform("sum")
    yield from training_figures({**tables, "edges": edges[seen | (points < 2)]})


def claims(tables: Tables) -> Claims:
    """Return no claims: the numbers are those of the file."""
    return []
