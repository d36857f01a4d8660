"""Networks side by side take the steps that they would take alone."""

from copy import deepcopy

import pytest
import torch
from made_kan import points
from numpy.testing import assert_allclose

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, begin, minimise, step
from kanrun.engine.networks import KAN
from kanrun.engine.training import DataFitting, LevenbergMarquardt, Samples, SmoothnessPenalty
from kanrun.engine.training.multistart import BatchedFitting


def _samples(inputs, outputs):
    x = points(300, inputs)
    y = torch.stack([torch.sin(3 * (o + 1) * x.sum(1)) + x[:, 0] ** 2 for o in range(outputs)], 1)
    return Samples(x, y)


def _networks(shape, spec, samples, count):
    generator = torch.Generator().manual_seed(2)
    domain = torch.tensor([[-1.0, 1.0]] * shape[0], dtype=torch.float64)
    fresh = [
        KAN.create(shape, 4, spec, domain=domain, initialisation="paper", generator=generator)
        for _ in range(count)
    ]
    return [network.regrid(samples.x, grid_eps=1.0, margin=0.05).network for network in fresh]


POLICY = LMPolicy(damping_search=False, damping=0.1)


def _fitting(networks, samples, scale=1.0, weight=0.0):
    return BatchedFitting(networks, samples, scale, SmoothnessPenalty(weight))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2, 3, 1), EdgeSpec(base="silu")),
        ((2, 2, 2, 2), EdgeSpec(degree=2, base="identity", extrapolation="zero")),
        ((1, 1), EdgeSpec(base="zero")),
        ((3, 2, 1), EdgeSpec(edge_scaling="single", base="silu")),
    ],
)
def test_steps_are_those_of_each_network_alone(shape, spec):
    samples = _samples(shape[0], shape[-1])
    networks = _networks(shape, spec, samples, 5)
    problems = [
        DataFitting(deepcopy(network), samples, 0.7, SmoothnessPenalty(1e-9))
        for network in networks
    ]
    alone = [LevenbergMarquardt(problem, POLICY) for problem in problems]
    together = _fitting(networks, samples, 0.7, 1e-9)
    first = state = begin(together, POLICY)
    for _ in range(4):
        state = step(together, state, POLICY)
        for solver in alone:
            solver.step()
    assert all(loss < before for loss, before in zip(state.loss, first.loss, strict=True))
    assert_allclose(state.loss, [solver.loss for solver in alone], rtol=1e-5, atol=1e-20)


def test_a_network_that_is_not_finite_has_no_finite_loss_and_spoils_no_other():
    samples = _samples(2, 1)
    networks = _networks((2, 2, 1), EdgeSpec(base="silu"), samples, 2)
    with torch.no_grad():
        networks[0].edge_layers[0].coefficients.fill_(float("nan"))
    together = _fitting(networks, samples, weight=1e-9)
    before = begin(together, POLICY)
    assert before.loss[0] == float("inf")
    state, _ = minimise(together, POLICY, StoppingCriteria(max_steps=1))
    assert state.loss[0] == float("inf")
    assert torch.equal(state.unknowns[0].isnan(), before.unknowns[0].isnan())
    assert state.loss[1] < before.loss[1]
