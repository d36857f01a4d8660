"""The sparsity penalty against its definition by plain loops, and what training with it does."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Generator

from kanrun.config import AdamSolver, LBFGSSolver
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP
from kanrun.engine.training import (
    Plan,
    Samples,
    SmoothnessPenalty,
    TrainingData,
    make_solver,
)

DOMAIN = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
X = torch.rand(200, 2, dtype=torch.float64, generator=Generator().manual_seed(1)) * 2 - 1


def kan() -> KAN:
    return KAN.create(
        (2, 4, 1), 5, EdgeSpec(base="silu"), domain=DOMAIN, generator=Generator().manual_seed(0)
    )


def by_loops(network: KAN, kind: str) -> float:
    total, x = 0.0, X
    for layer in network.edge_layers:
        values = layer.edge_values(x).detach()
        sizes = []
        for out in range(layer.outputs):
            for into in range(layer.inputs):
                edge = values[:, out, into]
                size = edge.abs().mean() if kind == "mean_abs" else edge.square().mean().sqrt()
                sizes += [float(size)] if layer.mask[out, into] else []
        whole = sum(sizes)
        total += whole - sum(size / whole * log(size / whole) for size in sizes)
        x = layer(x).detach()
    return total


@pytest.mark.parametrize("kind", ["rms", "mean_abs"])
def test_it_is_its_definition(kind: str) -> None:
    network = kan()
    with torch.no_grad():
        network.edge_layers[0].mask[1, 0] = False
    assert float(network.regularisation(X, kind=kind).detach()) == pytest.approx(
        by_loops(network, kind), rel=1e-5
    )
    assert (
        float(MLP((2, 3, 1), "tanh", dtype=torch.float64, generator=Generator()).regularisation(X))
        == 0
    )


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_training_with_it_leaves_fewer_edges(solver: str) -> None:
    """x0 needs one edge of the first layer; the share of the others falls."""
    settings = {
        "adam": lambda weight: AdamSolver(learning_rate=0.05, sparsity=weight),
        "lbfgs": lambda weight: LBFGSSolver(sparsity=weight),
    }
    shares, steps = {}, {"adam": 150, "lbfgs": 40}[solver]
    for weight in (0.0, 1e-2):
        network = kan()
        plan = Plan(solver, steps=steps, settings=settings[solver](weight))
        trained = make_solver(
            network,
            TrainingData(Samples(X, X[:, :1])),
            plan,
            SmoothnessPenalty(),
            Generator().manual_seed(0),
        )
        for _ in range(steps):
            trained.step()
        sizes = network.edge_layers[0].edge_values(X).detach().square().mean(0).sqrt()
        shares[weight] = float(sizes.max() / sizes.sum())
    assert shares[1e-2] > 1.3 * shares[0.0]
