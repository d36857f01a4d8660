"""Quadratic memory against sums of squares written out, and what it keeps of earlier fits."""

import made_kan
import pytest
import torch

from kanrun.engine.networks import MLP
from kanrun.engine.training import DataFitting, QuadraticMemory, Samples, output_scale
from kanrun.engine.training import memory as module
from kanrun.errors import UsageError


def kan(hidden=(2,)):
    return made_kan.kan((2, *hidden, 1), trained_scales="base")


def samples(seed, count=15, outputs=1):
    x = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double() - 1
    return Samples(x, (x @ torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()).sin()[:, :outputs])


def expected(network, pasts, blocks_of):
    """The weighted sum of squares over the pasts [(centre, samples)], with Gram matrices masked."""
    u = network.get_unknowns() + 0.1
    prior = module.PRIOR * (u - pasts[0][0]).square().sum()
    total = torch.zeros(())
    for centre, phase in pasts:
        network.set_unknowns(centre)
        rows = network.linearise(phase.x)[1].dense()
        gram = (
            rows.T
            @ rows
            * blocks_of(len(u))
            / (len(phase) * output_scale(phase, "regression") ** 2)
        )
        total = total + (u - centre) @ gram @ (u - centre)
    return u, prior + module.WEIGHT * total


@pytest.mark.parametrize("kind", module.INFORMATION)
def test_phases_add_up_to_their_quadratic_functions(kind):
    network = kan()
    sizes = [p.shape for _, p in network.unknowns()]
    edges = torch.cat(
        [
            torch.arange(s[:-1].numel()).repeat_interleave(s[-1]) + 100 * n
            for n, s in enumerate(sizes)
        ]
    )
    masks = {
        "information": lambda n: torch.ones(n, n),
        "information_block": lambda n: (edges[:, None] == edges).double(),
        "information_diagonal": torch.eye,
    }
    memory, pasts = QuadraticMemory.of_prior(network, kind), []
    for seed in (1, 2):
        phase = samples(seed)
        pasts.append((network.get_unknowns(), phase))
        memory.learn(network, phase, "regression")
    u, value = expected(network, pasts, masks[kind])
    assert float(memory.value(u)) == pytest.approx(float(value), rel=1e-9)


def test_a_linear_model_remembers_all_that_it_has_learned():
    network = kan(hidden=())
    first, second = samples(1, 60), samples(2, 60)
    second.x[:, 0] = second.x[:, 0].abs()
    memory = QuadraticMemory.of_prior(network, "information")
    memory.learn(network, first, "regression")
    before = network(first.x).detach()
    problem = DataFitting(network, second, output_scale(second, "regression"), memory=memory)
    linear = problem.linearise(problem.unknowns)
    rows = torch.cat([block.dense() for block in linear.rows.blocks()])
    joint = torch.linalg.lstsq(rows, -linear.residual[:, None]).solution[:, 0]
    network.set_unknowns(problem.unknowns + joint)
    assert linear.residual[60:].norm() < 1e-6
    assert joint.norm() > 1e-3
    lost = (network(first.x) - before).square().mean() / output_scale(first, "regression") ** 2
    change = memory.value(network.get_unknowns()) - module.PRIOR * joint.square().sum()
    assert float(lost.detach()) * module.WEIGHT == pytest.approx(float(change), rel=1e-6)


def test_classes_are_remembered_by_the_curvature_of_their_cross_entropy():
    network, phase = MLP((2, 3), "tanh").double(), samples(3)
    memory = QuadraticMemory.of_prior(network, "information")
    memory.learn(network, phase, "classification")
    u, step = network.get_unknowns(), 1e-3
    shares = network(phase.x).softmax(1).detach()
    direction = torch.randn(len(u), generator=torch.Generator().manual_seed(0)).double()
    network.set_unknowns(u + step * direction)
    with torch.no_grad():
        divergence = (shares * (shares.log() - network(phase.x).log_softmax(1))).sum(1).mean()
    found = float(memory.value(u + step * direction)) / module.WEIGHT
    assert found / 2 == pytest.approx(float(divergence), rel=1e-2)


def test_too_many_pairs_are_refused_and_blocks_are_not(monkeypatch):
    network = kan()
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 48)
    whole = QuadraticMemory.of_prior(network, "information")
    assert whole.factors[0].shape == (1, 48, 48)
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 47)
    with pytest.raises(UsageError, match=r"all pairs of 48 unknowns.*information_block"):
        QuadraticMemory.of_prior(network, "information")
    blocks = QuadraticMemory.of_prior(network, "information_block")
    assert sum(factor.numel() for factor in blocks.factors) < 48**2 / 4


def test_each_sample_of_a_phase_determines_one_direction():
    network, phase = kan(hidden=()), samples(1, 4)
    memory = QuadraticMemory.of_prior(network, "information")
    assert memory.determined() == pytest.approx(0)
    memory.learn(network, phase, "regression")
    assert memory.determined() == pytest.approx(4, abs=1e-3)
