"""The penalty weight by evidence: against the evidence itself and against validation."""

from __future__ import annotations

import torch
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import Plan, Samples, SmoothnessPenalty, TrainingData, fit, make_solver
from kanrun.engine.training.data import output_scale
from kanrun.engine.training.data_fitting import update_penalty_weight

DOMAIN = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)


def noisy(points: int) -> Samples:
    generator = Generator().manual_seed(3)
    x = torch.rand(points, 1, dtype=torch.float64, generator=generator) * 2 - 1
    return Samples(
        x, torch.sin(4 * x) + 0.3 * torch.randn(points, 1, dtype=torch.float64, generator=generator)
    )


def kan(generator: Generator) -> KAN:
    return KAN.create(
        [1, 1], 16, EdgeSpec(trained_scales="none", base="silu"), domain=DOMAIN, generator=generator
    )


def test_the_iteration_ends_where_the_evidence_is_largest() -> None:
    samples, smoothing, plan = noisy(80), SmoothnessPenalty(1e-6, 2), Plan("lm", (16,))
    network = kan(Generator().manual_seed(0))
    for _ in range(30):
        solver = make_solver(network, TrainingData(samples), plan, smoothing, Generator())
        for _ in range(4):
            solver.step()
        smoothing = SmoothnessPenalty(update_penalty_weight(network, samples, smoothing)[0], 2)
    rows = network.linearise(samples.x)[1].gram() / (80 * output_scale(samples, "regression") ** 2)
    rough = SmoothnessPenalty(1.0, 2).rows(network).gram()

    def minus_twice_the_evidence(weight: float) -> float:
        """Up to a constant, without the noise; the penalty leaves 2 of 19 coefficients free."""
        solver = make_solver(
            network, TrainingData(samples), plan, SmoothnessPenalty(weight, 2), Generator()
        )
        for _ in range(4):
            solver.step()
        objective = torch.tensor(solver.loss, dtype=torch.float64).log()
        return float(
            78 * objective
            + torch.logdet(rows + weight * rough)
            - 17 * torch.tensor(weight).double().log()
        )

    best = minus_twice_the_evidence(smoothing.weight)
    assert best < min(minus_twice_the_evidence(smoothing.weight * factor) for factor in (0.8, 1.25))


def test_all_noisy_points_train_and_the_result_is_nearer_to_the_truth() -> None:
    plan = Plan("lm", (5, 20), selection="evidence")
    trained = fit(kan, TrainingData(noisy(100)), plan, Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert float((trained.network(x) - torch.sin(4 * x)).square().mean().sqrt()) < 0.1
    assert trained.errors.validation is None
    assert 0.2 < trained.errors.train < 0.35
