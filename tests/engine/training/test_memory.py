"""Quadratic memory compared with explicit sums of squares, and what it preserves."""

import made_kan
import numpy as np
import pytest
import torch
from cases import refuses

from kanrun.engine.networks import MLP
from kanrun.engine.training import DataFitting, Objective, QuadraticMemory, Samples, output_scale
from kanrun.engine.training import memory as module

PRIOR = 1e-8


def kan(hidden=(2,)):
    return made_kan.kan((2, *hidden, 1), trained_scales="base")


def samples(seed, count=15, outputs=1):
    x = made_kan.points(count, 2, seed=seed)
    return Samples(x, (x @ torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()).sin()[:, :outputs])


def expected(network, pasts, blocks_of, u):
    """Return the sum of squares over phases (centre, samples, weight), Gram matrices masked."""
    total = PRIOR * (u - pasts[0][0]).square().sum()
    for centre, phase, weight in pasts:
        network.set_unknowns(centre)
        rows = network.linearise(phase.x)[1].dense()
        gram = rows.T @ rows * blocks_of(len(u)) * weight / len(phase)
        total = total + (u - centre) @ gram @ (u - centre)
    return float(total)


@pytest.mark.parametrize("diagonal", [False, True])
def test_phases_add_up_to_their_quadratic_functions(diagonal):
    network = kan()
    first = network.get_unknowns()
    memory = QuadraticMemory.anchor(network, 0.0, diagonal=diagonal)
    pasts = []
    anchor = QuadraticMemory.anchor(network, PRIOR, diagonal=diagonal)
    for seed, weight in ((1, 100.0), (2, 7.0)):
        pasts.append((network.get_unknowns(), samples(seed), weight))
        memory = memory.learned(network, samples(seed).x, weight)
        network.set_unknowns(network.get_unknowns() + 0.01)
    both = memory.joined(anchor)
    # The constant, the minimum of the sum of quadratic functions, is not stored.
    places = first + 0.1, first - 0.2
    found = [float(both.value(u)) for u in places]
    mask = torch.eye if diagonal else lambda n: torch.ones(n, n)
    written_out = [expected(network, pasts, mask, u) for u in places]
    assert np.diff(found) == pytest.approx(np.diff(written_out), rel=1e-9)


def test_a_linear_model_remembers_all_that_it_has_learned():
    network = kan(hidden=())
    first = samples(1, 60)
    second = samples(2, 60)
    second.x[:, 0] = second.x[:, 0].abs()
    memory = QuadraticMemory.anchor(network, PRIOR, diagonal=False)
    memory = memory.learned(network, first.x, 100.0)
    before = network(first.x).detach()
    problem = DataFitting(
        network, Objective(second, output_scale(second, "regression"), memory=memory)
    )
    linear = problem.linearise(problem.unknowns)
    rows = torch.cat([block.dense() for block in linear.rows.blocks()])
    joint = torch.linalg.lstsq(rows, -linear.residual[:, None]).solution[:, 0]
    network.set_unknowns(problem.unknowns + joint)
    assert linear.residual[60:].norm() < 1e-6
    assert joint.norm() > 1e-3
    lost = (network(first.x) - before).square().mean()
    change = memory.value(network.get_unknowns()) - PRIOR * joint.square().sum()
    assert float(lost.detach()) * 100 == pytest.approx(float(change), rel=1e-6)


@pytest.mark.parametrize("network", [kan(), MLP((2, 3, 3, 1), "tanh").double()])
def test_hidden_layers_are_remembered_in_their_share(network):
    x = samples(1).x
    u = network.get_unknowns()
    found = []
    empty = QuadraticMemory.anchor(network, 0.0, diagonal=False)
    for share in (0.0, 0.5):
        memory = empty.learned(network, x, 7.0, share)
        # Only the first layer changes, whose sums are linear in its unknowns.
        moved = torch.where(torch.arange(len(u)) < network.lower()[0].get_unknowns().numel(), 1, 0)
        found.append(float(memory.value(u + 0.1 * moved)))
    before = [lower(x).detach() for lower in network.lower()]
    network.set_unknowns(u + 1e-6 * moved)
    changes = [lower(x).detach() - old for lower, old in zip(network.lower(), before, strict=True)]
    expected = 0.25 * 7.0 * 1e10 * sum(c.square().sum(1).mean() for c in changes)
    assert found[1] - found[0] == pytest.approx(float(expected), rel=1e-4)


def test_too_many_pairs_are_refused(monkeypatch):
    network = kan()
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 48)
    assert QuadraticMemory.anchor(network, 0.0, diagonal=False).factors.shape == (1, 48, 48)
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 47)
    with refuses("all pairs of 48 unknowns"):
        QuadraticMemory.anchor(network, 0.0, diagonal=False)
    assert QuadraticMemory.anchor(network, 0.0, diagonal=True).factors.shape == (48, 1, 1)
