"""The search for a shape: nodes from the residual, and the shapes that it ends with."""

import pytest
import torch
from made_kan import kan, points
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import Grown, GrowthPolicy, Plan, Samples, TrainingData, train
from kanrun.engine.training.grid_training import finished
from kanrun.engine.training.growth import product_directions

PLAN = Plan("lm", (4, 8, 16), starts=4, growth=GrowthPolicy(3, 4))


def data(function, inputs, count=300):
    def samples(seed, number):
        x = points(number, inputs, seed=seed)
        return Samples(x, function(x))

    return TrainingData(samples(0, count), samples(1, 50))


def fresh(shape, generator):
    return kan(shape, base=EdgeSpec().base, initialisation="spline", generator=generator)


def grown(data, plan=PLAN):
    def create(generator):
        return fresh((data.train.x.shape[1], 5, data.train.y.shape[1]), generator)

    found = []

    def keep(event):
        if isinstance(event, Grown):
            found.append(event)

    trained = finished(train(create, data, plan, Generator().manual_seed(0)), keep)
    assert isinstance(trained.network, KAN)
    return trained.network, found[0]


def test_the_directions_are_those_of_the_products_in_the_residual():
    x = points(400, 3, seed=0)
    slope = 2 + x[:, :1]
    product = 3 * x[:, :1] * x[:, 2:]
    domain = torch.tensor([[-1.0, 1.0]] * 3, dtype=torch.float64)
    found = product_directions(x, product * slope, slope, domain, 3)
    # With p = sqrt(3) x of unit variance, 3 x0 x2 = p0 p2 = ((p0 + p2)^2 - (p0 - p2)^2) / 4.
    sizes = sorted(size for size, _ in found[:2])
    assert sizes == pytest.approx([-0.5, 0.5], rel=1e-4)
    assert abs(found[2][0]) < 1e-5
    for _, vector in found[:2]:
        expected = torch.zeros(3, vector.shape[1], dtype=torch.float64)
        expected[0, 0] = expected[2, 0] = 0.5**0.5
        torch.testing.assert_close(vector.abs(), expected, rtol=0, atol=1e-4)


def test_too_few_samples_have_no_directions():
    x = torch.rand(8, 4, dtype=torch.float64)
    ones = torch.ones(8, 1, dtype=torch.float64)
    assert product_directions(x, ones, ones, torch.tensor([[0.0, 1.0]] * 4), 3) == []


def test_an_additive_function_needs_no_node():
    network, record = grown(data(lambda x: x[:, :1] ** 3 - x[:, 1:] ** 2, 2))
    assert network.shape == (2, 1)
    assert record.reason == "only rounding is left"


def test_one_input_needs_no_node():
    network, record = grown(data(lambda x: torch.sin(3 * x), 1))
    assert network.shape == (1, 1)
    assert "one input" in record.reason


@pytest.mark.slow
def test_a_product_ends_with_two_nodes_at_the_rate_of_the_grid():
    network, record = grown(data(lambda x: x[:, :1] * x[:, 1:], 2))
    assert network.shape == (2, 2, 1)
    assert [stage.network.shape for stage in record.tried][-1] == (2, 2, 1)
    assert record.reason == "the grid limits the error"


def test_the_budget_limits_the_nodes_and_the_lowest_error_wins():
    rough = data(lambda x: torch.sin(5 * x[:, :1] * x[:, 1:]), 2)
    network, record = grown(rough, Plan("lm", (4,), starts=4, growth=GrowthPolicy(1, 2)))
    assert record.reason == "the nodes of model.budget are spent"
    shapes = [stage.network.shape for stage in record.tried]
    assert shapes == [(2, 1), (2, 1, 1)]
    best = min(record.tried, key=lambda stage: stage.selected)
    assert network.shape == best.network.shape
