"""Quadratic memory compared with explicit sums of squares, and what it preserves."""

import made_kan
import numpy as np
import pytest
import torch
from cases import refuses

from kanrun.engine.training import DataFitting, Objective, QuadraticMemory, Samples, output_scale
from kanrun.engine.training import objective as module

PRIOR = 1e-8


def kan(hidden=(2,)):
    return made_kan.kan((2, *hidden, 1), trained_scales="base")


def samples(seed, count=15):
    x = made_kan.points(count, 2, seed=seed)
    return Samples(x, (x[:, :1] + x[:, 1:] / 2).sin())


@pytest.mark.parametrize("diagonal", [False, True])
def test_phases_add_up_to_their_quadratic_functions(diagonal):
    network = kan()
    first = network.get_unknowns()
    unit = torch.eye(len(first), dtype=first.dtype)
    anchor = QuadraticMemory.anchor(network, PRIOR, diagonal=diagonal)
    memory = QuadraticMemory.anchor(network, 0.0, diagonal=diagonal)
    terms = [(first, PRIOR * unit)]
    for seed, weight in ((1, 100.0), (2, 7.0)):
        phase = samples(seed)
        memory = memory.learned(network, phase.x, weight)
        rows = network.linearise(phase.x)[1].dense()
        gram = rows.T @ rows * weight / len(phase)
        terms.append((network.get_unknowns(), gram * unit if diagonal else gram))
        network.set_unknowns(network.get_unknowns() + 0.01)
    memory = memory.joined(anchor)
    # The constant, the minimum of the sum of quadratic functions, is not stored.
    places = first + 0.1, first - 0.2
    found = [float(memory.value(u)) for u in places]
    expected = [sum(float((u - c) @ gram @ (u - c)) for c, gram in terms) for u in places]
    assert np.diff(found) == pytest.approx(np.diff(expected), rel=1e-9)


def test_a_linear_model_remembers_all_that_it_has_learned():
    network = kan(hidden=())
    first = samples(1, 60)
    second = samples(2, 60)
    second.x[:, 0] = second.x[:, 0].abs()
    memory = QuadraticMemory.anchor(network, PRIOR, diagonal=False)
    memory = memory.learned(network, first.x, 100.0)
    before = network(first.x).detach()
    objective = Objective(second, output_scale(second, "regression"), memory=memory)
    problem = DataFitting(network, objective)
    linear = problem.linearise(problem.unknowns)
    rows = torch.cat([block.dense() for block in linear.rows.blocks()])
    joint = torch.linalg.lstsq(rows, -linear.residual[:, None]).solution[:, 0]
    network.set_unknowns(problem.unknowns + joint)
    assert linear.residual[60:].norm() < 1e-6
    assert joint.norm() > 1e-3
    lost = (network(first.x) - before).square().mean()
    change = memory.value(network.get_unknowns()) - PRIOR * joint.square().sum()
    assert float(lost.detach()) * 100 == pytest.approx(float(change), rel=1e-6)


@pytest.mark.parametrize("network", [kan(), made_kan.mlp((2, 3, 3, 1))])
def test_hidden_layers_are_remembered_in_their_share(network):
    x = samples(1).x
    unknowns = network.get_unknowns()
    moved = torch.zeros_like(unknowns)
    # Only the first layer changes, whose sums are linear in its unknowns.
    moved[: len(network.lower()[0].get_unknowns())] = 1
    empty = QuadraticMemory.anchor(network, 0.0, diagonal=False)
    without, found = (
        float(empty.learned(network, x, 7.0, share).value(unknowns + 0.1 * moved))
        for share in (0.0, 0.5)
    )
    before = [lower(x).detach() for lower in network.lower()]
    network.set_unknowns(unknowns + 1e-6 * moved)
    changes = [lower(x).detach() - old for lower, old in zip(network.lower(), before, strict=True)]
    expected = 0.25 * 7.0 * 1e10 * sum(c.square().sum(1).mean() for c in changes)
    assert found - without == pytest.approx(float(expected), rel=1e-4)


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 47)
    with refuses("all pairs of 48 unknowns"):
        QuadraticMemory.anchor(kan(), 0.0, diagonal=False)
    assert QuadraticMemory.anchor(kan(), 0.0, diagonal=True).factors.shape == (48, 1, 1)
