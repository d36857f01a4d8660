"""Growth of networks: nodes found from the residual, and the shape that is chosen."""

from dataclasses import replace

import pytest
import torch
from made_kan import kan, normal, points
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks.reshaping import halve_intervals, product_directions
from kanrun.engine.training import (
    Grown,
    GrowthPolicy,
    Plan,
    Samples,
    TrainingData,
    train,
)
from kanrun.engine.training.data import baseline_error
from kanrun.engine.training.grid_training import GridTraining
from kanrun.engine.training.growth import Growth
from kanrun.engine.training.objective import SmoothnessPenalty
from kanrun.engine.training.solver_run import Clock, Setup
from kanrun.monitoring import finished


def plan(*largest, intervals=(4, 8, 16), starts=4, given=False, weight=None):
    growth = GrowthPolicy(largest, given)
    return Plan("lm", intervals, starts=starts, weight=weight, growth=growth)


def data(function, inputs, count=300):
    def samples(seed, number):
        x = points(number, inputs, seed=seed)
        return Samples(x, function(x))

    return TrainingData(samples(0, count), samples(1, 50))


def fresh(shape, generator):
    return kan(shape, base=EdgeSpec().base, initialisation="spline", generator=generator)


def grown(data, plan):
    def create(generator):
        return fresh(plan.growth.largest, generator)

    told = []
    trained = finished(train(create, data, plan, Generator().manual_seed(0)), told.append)
    return trained.network, next(event for event in told if isinstance(event, Grown))


def test_directions_found_are_those_of_the_product_in_the_residual():
    x = points(400, 3, seed=0)
    slope = 2 + x[:, :1]
    product = 3 * x[:, :1] * x[:, 2:]
    domain = torch.tensor([[-1.0, 1.0]] * 3, dtype=torch.float64)
    found = product_directions(x, product * slope, slope, domain, 3)
    # With p = sqrt(3) x of unit variance, 3 x0 x2 = p0 p2 = ((p0 + p2)^2 - (p0 - p2)^2) / 4.
    sizes = sorted(size for size, _ in found)
    assert sizes == pytest.approx([-0.5, 0, 0.5], rel=1e-4, abs=1e-5)
    for _, vector in found[:2]:
        expected = torch.zeros_like(vector)
        expected[[0, 2], 0] = 0.5**0.5
        torch.testing.assert_close(vector.abs(), expected, rtol=0, atol=1e-4)
    few = slice(5)  # too few samples
    assert product_directions(x[few], product[few], slope[few], domain, 3) == []


@pytest.mark.parametrize(
    "function, largest, given, reason",
    [
        (lambda x: x[:, :1] ** 3 - x[:, 1:] ** 2, (2, 3, 1, 1), False, "only rounding is left"),
        (lambda x: x[:, :1] ** 3 - x[:, 1:] ** 2, (2, 3, 2, 1), True, "only rounding is left"),
        (lambda x: torch.sin(3 * x), (1, 3, 1, 1), False, "a function of one input needs no"),
    ],
)
def test_additive_functions_and_those_of_one_input_need_no_node(function, largest, given, reason):
    network, record = grown(data(function, largest[0]), plan(*largest, given=given))
    assert network.shape == record.tried[-1].network.shape == (largest[0], 1)
    assert record.reason.startswith(reason)


def test_the_shape_of_a_classifier_grows_on_its_indicators():
    task = data(lambda x: (x[:, :1] * x[:, 1:] > 0).double(), 2)
    growth = GrowthPolicy((2, 2, 2, 2))
    classes = Plan("lbfgs", (4,), steps=20, starts=2, weight=1e-3, order=2, growth=growth)
    network, record = grown(replace(task, task="classification"), classes)
    assert network.shape == (2, 2, 2)
    assert [stage.network.shape for stage in record.tried][:2] == [(2, 2), (2, 2, 2)]
    right = network(task.train.x).argmax(1) == task.train.y[:, 0]
    assert right.double().mean() > 0.95


def compared(task):
    """Return the training of a network without hidden layers on 50 intervals."""
    shape = task.train.x.shape[1], 1
    setup = Setup(task, plan(*shape, intervals=(50,)), Generator(), Clock())
    training = GridTraining(fresh(shape, Generator()), SmoothnessPenalty(1e-18), setup)
    training.compare(50)
    return training


@pytest.mark.parametrize(
    "function, place, allowed",
    [
        (lambda t: (t - 0.317).abs(), 0.317, 1e-3),
        (lambda t: (t > 0.317).double(), 0.317, 0.2),
        (lambda t: (1 + t).clamp(min=0).sqrt(), -1.0, 0.02),
    ],
)
def test_knots_are_inserted_at_a_kink_a_jump_and_a_singularity(function, place, allowed):
    training = compared(data(lambda x: function(x[:, :1]) + x[:, 1:] ** 2, 2, 600))
    while training.insert_knots():
        pass
    first, *others = training.stages
    assert others[-1].errors.train < allowed * first.errors.train
    assert others[-1].network.intervals > 50
    index, low, high = min((s.transfer.kink for s in others), key=lambda k: k[2] - k[1])
    assert index == 0
    assert high - low < 0.04
    assert low - 0.04 < place < high + 0.04


def test_no_knots_are_inserted_for_noise_or_without_points_held_out():
    noise = normal(350, 1)
    noisy = data(lambda x: x[:, :1] ** 2 + noise[: len(x)], 1)
    kink = data(lambda x: (x - 0.317).abs(), 1)
    for task in (noisy, replace(kink, validation=None)):
        training = compared(task)
        assert training.insert_knots() is None
        assert len(training.stages) == 1


def test_intervals_are_halved_only_where_residuals_exceed_the_bound():
    network = fresh((2, 1), Generator())
    x = points(400, 2)
    squares = (x[:, 1] > 0.9).double()
    assert halve_intervals(network, x, squares, 0.9 * float(squares.mean())) is None
    finer, (index, low, high) = halve_intervals(network, x, squares, 0.5)
    assert (index, high) == (1, 1.0)
    torch.testing.assert_close(finer(x), network(x), rtol=0, atol=1e-14)
    assert finer.edge_layers[0].grid.breakpoints.diff().min() == pytest.approx((high - low) / 2)


def test_a_function_of_a_product_of_two_inputs_begins_with_it():
    task = data(lambda x: torch.sin(3 * x[:, 2:] * x[:, :1]), 3, 600)
    setup = Setup(task, plan(3, 2, 1, 1), Generator().manual_seed(0), Clock())
    growth = Growth(setup, SmoothnessPenalty(1e-18), setup.plan.growth)
    polynomials, inputs = growth._products(fresh((3, 2, 1), Generator()))
    for network, allowed in ((polynomials, 0.3), (inputs, 0.05)):
        assert network.shape == (3, 2, 1, 1)
        error = (network(task.train.x) - task.train.y).square().mean().sqrt()
        assert error < allowed * baseline_error(task)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(2,), (2, 1)])
def test_given_shape_is_trained_too_if_grown_shapes_are_not_accurate(hidden):
    rough = data(lambda x: torch.sin(5 * x[:, :1] * x[:, 1:]), 2)
    within = plan(2, *hidden, 1, intervals=(4,), starts=2, given=True, weight=1e-9)
    network, record = grown(rough, within)
    assert record.reason.startswith("the given shape has no more nodes")
    shapes = [stage.network.shape for stage in record.tried]
    assert shapes[:2] == [(2, 1), (2, 1, 1)]
    assert shapes[-1] == (2, *hidden, 1)
    assert max(map(len, shapes)) == 2 + len(hidden)
    assert network.shape in shapes
