"""The training loop: events, selection on validation data, resuming, and unusual data."""

import itertools
from dataclasses import replace
from time import process_time

import pytest
import torch
from made_kan import kan, points
from torch import Generator

from kanrun.engine.training import Plan, Samples, Step, TrainingData, TrainingState, fit, train
from kanrun.engine.training.growth import survivors
from kanrun.model.settings import AdamSolver
from kanrun.monitoring import finished, monitored, time_limit_reached


def samples(count, seed):
    x = points(count, 2, seed=seed)
    return Samples(x, torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2))


def create(generator, outputs=1):
    return kan([2, 2, outputs], initialisation="spline", generator=generator)


PLAN = Plan("lm", (4, 16), starts=2)
DATA = TrainingData(samples(300, 0), samples(60, 1), samples(200, 2))


def drained(plan=PLAN, data=DATA, seed=0, state=None):
    """Return the steps, the other events and the result of a training."""
    told = []
    trained = finished(train(create, data, plan, Generator().manual_seed(seed), state), told.append)
    steps = [event for event in told if isinstance(event, Step)]
    return steps, [event for event in told if not isinstance(event, Step)], trained


@pytest.fixture(scope="module")
def whole():
    """Return steps, stages and result of a complete training, and its progress messages."""
    heard = []
    with monitored(heard.append):
        return *drained(), heard


def test_grids_extend_and_errors_fall(whole):
    steps, stages, trained, _ = whole
    assert [stage.intervals for stage in stages] == [4, 16]
    assert trained.network.shape == (2, 2, 1)
    assert trained.errors.test < 1e-3
    assert {step.stage for step in steps} == {1, 2}
    seconds = [step.seconds for step in steps]
    assert 0 < min(seconds) <= max(seconds) <= trained.seconds < float("inf")


def test_progress_counts_steps_and_tells_the_lowest_error(whole):
    told = [advance for advance in whole[-1] if advance.part == "grid of 16"]
    assert [advance.done for advance in told][:2] == [1, 2]
    begun = max(i for i, advance in enumerate(told) if advance.done == 1)
    last = told[begun:]  # the penalty's weight is searched last
    assert last[-1].error == pytest.approx(min(float(advance.error or 9) for advance in last))


OTHER_TEST = replace(DATA, test=Samples(DATA.train.x, -100 * DATA.train.y))


@pytest.mark.parametrize("data, finished_stages", [(OTHER_TEST, 0), (DATA, 1)])
def test_test_data_and_resuming_change_no_numbers(whole, data, finished_stages):
    _, stages, trained, _ = whole
    *_, again = drained(data=data, state=TrainingState(stages[:finished_stages]))
    assert torch.equal(trained.network.get_unknowns(), again.network.get_unknowns())
    assert trained.errors.train == again.errors.train


@pytest.mark.parametrize("batch, shown", [(None, 20), (8, 1)])
def test_errors_are_measured_no_more_often_than_every_epoch(batch, shown):
    steps, *_ = drained(Plan("adam", (4,), steps=20, settings=AdamSolver(batch_size=batch)))
    assert len(steps) == shown
    assert steps[-1].step == 20


def test_single_start_places_its_hidden_grids_before_the_first_step():
    """A few quick steps come before the first counted one, unless grids must not move."""
    moved, kept = (
        drained(Plan("lm", (4,), steps=1, weight=0.0, update_grid=moves))[0][0].errors.train
        for moves in (True, False)
    )
    assert moved < 0.1
    assert kept > 10 * moved


def test_the_best_of_several_starts_goes_on():
    ratios = []
    for seed in range(2):
        plans = (Plan("lbfgs", (4,), steps=5, starts=starts, weight=0.0) for starts in (4, 1))
        many, one = (drained(plan, seed=seed)[1][0].errors.selected for plan in plans)
        ratios.append(many / one)
    assert max(ratios) <= 1
    assert min(ratios) < 0.9


def test_a_training_whose_time_is_up_ends_in_order_with_what_it_has():
    heard = []
    with monitored(heard.append, end=process_time()):
        steps, stages, trained = drained()
    assert [stage.intervals for stage in stages] == [4]
    assert not steps
    assert trained.errors.train < 1  # the best start
    assert {advance.part for advance in heard} == {"starts"}
    assert not time_limit_reached()


TWO_SIZES = "two outputs of other sizes"
QUICK = [("zero", 1, "lm"), ("constant", 2, "lm"), (TWO_SIZES, 200, "lm"), ("linear", 1, "lbfgs")]
FUNCTIONS = {
    "zero": lambda x: 0 * x[:, :1],
    "constant": lambda x: 0 * x[:, :1] - 70.0,
    "linear": lambda x: x.sum(1, keepdim=True),
    "quadratic": lambda x: x.square().sum(1, keepdim=True),
    TWO_SIZES: lambda x: torch.stack([1e2 * x[:, 0] ** 2, 1e-2 * x[:, 1]], 1),
}


def easy(name, count):
    x = points(count, 2, seed=7)
    return TrainingData(Samples(x, FUNCTIONS[name](x)))


@pytest.mark.parametrize(
    "function, count, solver",
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in itertools.product(FUNCTIONS, (1, 2, 200), ("lm", "lbfgs"))
    ],
)
def test_easy_functions_are_fitted(function, count, solver):
    data = easy(function, count)
    second = {"weight": None, "starts": 3} if solver == "lm" else {"weight": 1e-21, "steps": 60}
    plan = Plan(solver, (4, 8), **second)
    outputs = data.train.y.shape[1]
    trained = fit(lambda drawn: create(drawn, outputs), data, plan, Generator().manual_seed(0))
    size = float(data.train.y.abs().max()) or 1.0
    assert trained.errors.train <= (1e-6 if solver == "lm" else 1e-2) * size
    assert trained.network.get_unknowns().isfinite().all()


@pytest.mark.parametrize("weight", [1e-18, 1e-2])
def test_the_loss_of_a_start_is_never_negative(weight):
    """Rounding must not make the loss negative, even in directions without penalty."""
    data = easy("quadratic", 200)
    random = Generator().manual_seed(0)
    start, *_ = survivors([create(random) for _ in range(4)], data, weight, random)
    assert 0 <= start.loss < 1e-6
