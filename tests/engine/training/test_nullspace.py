"""Constants that edges exchange: removed from moves, so that coefficients do not drift."""

from __future__ import annotations

import torch
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import DataFitting, LevenbergMarquardt, Samples

DOMAIN = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)


def kan(shape: tuple[int, ...] = (2, 3, 1), seed: int = 1) -> KAN:
    generator = Generator().manual_seed(seed)
    return KAN.create(shape, 4, EdgeSpec(), domain=DOMAIN, initialisation="spline", generator=generator)


def samples(count: int = 300) -> Samples:
    x = torch.rand(count, 2, dtype=torch.float64, generator=Generator().manual_seed(2)) * 2 - 1
    return Samples(x, torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


def test_a_fixed_move_changes_the_function_as_the_move_does_and_is_shorter() -> None:
    network, x = kan(), samples().x
    with torch.no_grad():
        for layer in network:
            layer.spline_weight.mul_(torch.rand(layer.mask.shape, generator=Generator().manual_seed(3)) + 0.5)
        network.layer(0).mask[1, 0] = False
    start = network.get_unknowns()
    move = 0.1 * torch.randn(start.shape, dtype=torch.float64, generator=Generator().manual_seed(4))
    seen = torch.ones_like(start)
    fixed = network.without_exchange(move, seen)
    outputs = []
    for each in (move, fixed):
        network.set_unknowns(start + each)
        outputs.append(network(x).detach())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-13)
    assert float(fixed.norm()) < float(move.norm())
    torch.testing.assert_close(network.without_exchange(fixed, seen), fixed, rtol=0, atol=1e-14)


def test_what_edges_exchange_is_removed() -> None:
    network = kan((2, 1))
    exchanged = torch.zeros(1, 2, 7, dtype=torch.float64)
    exchanged[0, 0], exchanged[0, 1] = 1e6, -1e6
    move = torch.cat([exchanged.flatten(), torch.zeros(2, dtype=torch.float64)])
    assert float(network.without_exchange(move, torch.ones(16, dtype=torch.float64)).abs().max()) == 0


def test_without_penalty_coefficients_keep_their_size_and_refinement_stays_exact() -> None:
    data = samples()
    for seed in range(3):
        network = kan((2, 2, 1), seed)
        solver = LevenbergMarquardt(DataFitting(network, data, 1.0))
        for _ in range(30):
            solver.step()
        finer = network.refine(8, data.x)
        assert float(network.get_unknowns().abs().max()) < 1e5
        assert finer.how == "insertion"
        assert finer.change < 1e-12
