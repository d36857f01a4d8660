"""Read a trained network of pykan or efficient-kan as a run of kanrun.

This command reproduces nothing from a paper. The network computes the same outputs as in its
original library; `kanrun.engine.networks.imported` describes how. The run records the outputs on
the inputs that are stored in the checkpoint; if there are none, on uniform random points of the
first grid. `predict`, `export`, `interpret` and `runs report` then work as for a network trained by
kanrun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kanrun.config import SamplingConfig
from kanrun.engine.networks import KAN
from kanrun.engine.networks.imported import read_network
from kanrun.errors import UsageError
from kanrun.model.planning import with_scalings
from kanrun.points import Scaling
from kanrun.runs.records import Note, Record, Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.evaluation import model_records
from kanrun.study.recipe import network_columns
from kanrun.study.resources import generator, make_problem
from kanrun.targets.datasets import NAMED
from kanrun.targets.table_targets import array_target

from .config import ImportConfig


def cells(cfg: ImportConfig) -> list[Cell]:
    """Return a single cell without settings."""
    return [{}]


def prepare(cfg: ImportConfig, cell: Cell, seed: int) -> list[Record]:
    """Read the network in `cfg.file` and return all records of the run.

    The network's own outputs serve as the true outputs of the recorded points. Raises UsageError
    if the file cannot be read, or if the names do not match the network or are not distinct.
    """
    path = Path(cfg.file).expanduser()
    imported = read_network(path, cfg.base)
    network: KAN = KAN.of_layers(imported.layers, imported.products[:-1])
    x = imported.samples
    where = "inputs of its checkpoint"
    # Largest number of points on which the outputs of the network are recorded.
    most = 2000
    if x is None or len(x) < 2:
        first = imported.layers[0]
        where = "uniform points of its first grid"
        # These breakpoints include `degree` knots beyond either end of the library's original grid,
        # so they are left out here.
        points = first.grid.breakpoints
        degree = first.spec.degree
        random = generator(seed, "samples")
        shares = torch.rand(most, first.inputs, generator=random, dtype=torch.float64)
        x = torch.lerp(points[:, degree], points[:, -1 - degree], shares)
    x = x[:: -(-len(x) // most)]
    with torch.no_grad():
        target = array_target(x, network(x))
    inputs = _names(cfg.inputs, target.inputs, "inputs")
    outputs = _names(cfg.outputs, target.outputs, "outputs")
    if taken := set(inputs) & set(outputs):
        raise UsageError(f"{min(taken)!r} is the name of an input and of an output. Rename one.")
    target = replace(target, name=path.name, inputs=inputs, outputs=outputs)
    problem = make_problem(cfg, target, SamplingConfig(n_train=None, n_test=None), seed)
    units = Scaling.identity(len(inputs)), Scaling.identity(len(outputs))
    problem = with_scalings(problem, *units)
    base = imported.layers[0].spec.base
    network = network.to(problem.domain)
    summary = {
        **network_columns(problem, network),
        "library": imported.library,
        "edges": sum(int(layer.mask.sum()) for layer in network.edge_layers),
    }
    return [
        Note(f"a network of {imported.library} with base={base}, recorded on {len(x)} {where}"),
        Row("summary", summary),
        *model_records(network, problem, summary, seed),
    ]


def run(cfg: ImportConfig, cell: Cell, seed: int, prepared: list[Record] | None = None) -> Records:
    """Yield the records of the imported network; see `prepare`."""
    yield from prepared or prepare(cfg, cell, seed)


def figures(tables: Tables) -> Figures:
    """Yield figures of the predictions, the edges and the network.

    Each edge is drawn only over the range of its samples, because imported grids extend far beyond
    it. An edge with fewer than two points in that range is drawn over its whole grid.
    """
    from kanrun.figures import training_figures

    edges = tables["edges"]
    seen = edges["seen"]
    points = seen.groupby([edges[key] for key in ("layer", "out", "in")]).transform("sum")
    yield from training_figures({**tables, "edges": edges[seen | (points < 2)]}, NAMED)


def claims(tables: Tables) -> Claims:
    """Return no claims, because nothing is trained or compared."""
    return []


def _names(names: Sequence[str], usual: tuple[str, ...], key: str) -> tuple[str, ...]:
    """Return `names`, or `usual` if `names` is empty.

    Raises UsageError if the number of names does not match the network.
    """
    if names and len(names) != len(usual):
        raise UsageError(
            f"{key}={list(names)} has {len(names)} names; the network has {len(usual)}."
        )
    return tuple(names) or usual
