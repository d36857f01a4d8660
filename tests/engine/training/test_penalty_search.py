"""The search for the penalty's weight: it leaves what a coarse grid made it choose."""

from __future__ import annotations

import torch
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import Plan, Samples, SmoothnessPenalty, TrainingData, make_solver
from kanrun.engine.training.data import measure
from kanrun.engine.training.grid_stages import ROUGH_ORDER, PenaltySearch
from kanrun.engine.training.solver_run import Best, Clock, StepLog

DOMAIN = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
PLAN = Plan("lm", (20,))


def test_a_finer_grid_leaves_the_straight_line_of_a_coarse_one_behind_noise() -> None:
    """A straight line pays no penalty, and the weights next to the heaviest change nothing yet."""
    x = torch.rand(1000, 1, dtype=torch.float64, generator=Generator().manual_seed(1)) * 2 - 1
    wave = Samples(x, torch.special.bessel_j0(20 * x))
    data = TrainingData(wave.part(torch.arange(800)), wave.part(torch.arange(800, 1000)))
    network = KAN.create(
        [1, 1], 20, EdgeSpec(base="silu"), domain=DOMAIN, generator=Generator().manual_seed(0)
    )
    heavy, random = SmoothnessPenalty(0.1, ROUGH_ORDER), Generator().manual_seed(0)
    solver = make_solver(network, data, PLAN, heavy, random)
    for _ in range(5):
        solver.step()
    best = Best(network, measure(network, data).selected)
    weighing = PenaltySearch(best, heavy, data, PLAN, random, StepLog(2, Clock(), data))
    assert weighing.best.error > 0.2
    list(weighing.search(10, 5, settled=True))
    assert weighing.best.error < 0.01
    assert weighing.penalty.weight < 1e-6
