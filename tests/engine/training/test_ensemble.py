"""An ensemble takes the steps that its networks would take alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.least_squares import LMPolicy
from kanrun.engine.networks import KAN, regrid_hidden
from kanrun.engine.training.data import Samples
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt
from kanrun.engine.training.ensemble import Ensemble
from kanrun.engine.training.penalty import Smoothing


def _samples(inputs: int, outputs: int) -> Samples:
    x = torch.rand(300, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = torch.stack([torch.sin(3 * (o + 1) * x.sum(1)) + x[:, 0] ** 2 for o in range(outputs)], 1)
    return Samples(x, y)


def _networks(shape: tuple[int, ...], spec: EdgeSpec, samples: Samples, count: int) -> list[KAN]:
    generator = torch.Generator().manual_seed(2)
    domain = torch.tensor([[-1.0, 1.0]] * shape[0], dtype=torch.float64)
    fresh = [
        KAN.create(shape, 4, spec, domain=domain, initialisation="paper", generator=generator) for _ in range(count)
    ]
    return [regrid_hidden(network, samples.x, adapt=0.0, margin=0.05).network for network in fresh]


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2, 3, 1), EdgeSpec()),
        ((2, 2, 2, 2), EdgeSpec(degree=2, base="identity", extrapolation="zero")),
        ((1, 1), EdgeSpec(base="zero")),
        ((3, 2, 1), EdgeSpec(scale="single")),
    ],
)
def test_steps_are_those_of_each_network_alone(shape: tuple[int, ...], spec: EdgeSpec) -> None:
    samples = _samples(shape[0], shape[-1])
    networks = _networks(shape, spec, samples, 5)
    alone = [
        LevenbergMarquardt(
            DataFitting(deepcopy(network), samples, 0.7, Smoothing(1e-9)), LMPolicy(damping=0.1, thorough=False)
        )
        for network in networks
    ]
    ensemble = Ensemble(networks, samples, 0.7, 1e-9, torch.full((5,), 0.1, dtype=torch.float64))
    first = ensemble.loss.clone()
    for _ in range(4):
        ensemble.step(torch.arange(5))
        for solver in alone:
            solver.step()
    assert (ensemble.loss < first).all()
    torch.testing.assert_close(
        ensemble.loss, torch.tensor([solver.loss for solver in alone], dtype=torch.float64), rtol=1e-5, atol=1e-20
    )


def test_networks_that_are_not_active_stay_where_they_are() -> None:
    samples = _samples(2, 1)
    networks = _networks((2, 2, 1), EdgeSpec(), samples, 3)
    ensemble = Ensemble(networks, samples, 1.0, 0.0, torch.full((3,), 0.1, dtype=torch.float64))
    before = ensemble.unknowns.clone()
    ensemble.step(torch.tensor([1]))
    assert torch.equal(ensemble.unknowns[[0, 2]], before[[0, 2]])
    assert not torch.equal(ensemble.unknowns[1], before[1])


def test_a_network_that_is_not_finite_has_no_finite_loss_and_spoils_no_other() -> None:
    samples = _samples(2, 1)
    networks = _networks((2, 2, 1), EdgeSpec(), samples, 2)
    with torch.no_grad():
        networks[0].layer(0).coefficients.fill_(float("nan"))
    ensemble = Ensemble(networks, samples, 1.0, 1e-9, torch.full((2,), 0.1, dtype=torch.float64))
    assert ensemble.loss[0] == float("inf")
    before = float(ensemble.loss[1])
    assert ensemble.step(torch.tensor([1])).all()
    assert float(ensemble.loss[1]) < before


def test_writing_back_gives_each_network_its_own_unknowns() -> None:
    samples = _samples(2, 1)
    networks = _networks((2, 2, 1), EdgeSpec(), samples, 3)
    ensemble = Ensemble(networks, samples, 1.0, 0.0, torch.full((3,), 0.1, dtype=torch.float64))
    ensemble.step(torch.arange(3))
    ensemble.write_back()
    for network, loss in zip(networks, ensemble.loss, strict=True):
        error = (network(samples.x) - samples.y).square().mean()
        torch.testing.assert_close(error.detach(), loss, rtol=1e-10, atol=0)


def test_networks_whose_input_grids_differ() -> None:
    samples, generator = _samples(2, 1), torch.Generator().manual_seed(3)
    domains = [torch.tensor([[-size, size]] * 2, dtype=torch.float64) for size in (1.0, 1.5)]
    networks = [
        KAN.create((2, 2, 1), 4, EdgeSpec(), domain=domain, initialisation="paper", generator=generator)
        for domain in domains
    ]
    alone = [LevenbergMarquardt(DataFitting(deepcopy(network), samples, 1.0)) for network in networks]
    ensemble = Ensemble(networks, samples, 1.0, 0.0, torch.full((2,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(ensemble.loss.tolist(), [solver.loss for solver in alone])
    second = Ensemble(networks[1:], samples, 1.0, 0.0, torch.full((1,), 0.1, dtype=torch.float64))
    ensemble.step(torch.tensor([1]))
    second.step(torch.tensor([0]))
    torch.testing.assert_close(ensemble.loss[1:], second.loss)
