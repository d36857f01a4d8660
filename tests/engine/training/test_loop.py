"""The training loop: events, selection on validation data, resuming, and unusual data."""

import itertools
from dataclasses import dataclass
from time import process_time

import pytest
import torch
from made_kan import kan, normal, points
from torch import Generator

from kanrun.engine.training import (
    Plan,
    Samples,
    Stage,
    Step,
    Trained,
    TrainingData,
    TrainingState,
    fit,
    train,
)
from kanrun.engine.training.data import output_scale
from kanrun.engine.training.starts import survivors
from kanrun.model.settings import AdamSolver
from kanrun.monitoring import ProgressUpdate, finished, monitored, time_limit_reached


def samples(count, seed, noise=0.0):
    x = points(count, 2, seed=seed)
    y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
    return Samples(x, y + noise * normal(count, 1, seed=seed))


def create(generator, outputs=1):
    return kan([2, 2, outputs], initialisation="spline", generator=generator)


def drained(training):
    """Return the steps, the other events and the result of a training."""
    told = []
    trained = finished(training, told.append)
    steps = [event for event in told if isinstance(event, Step)]
    return steps, [event for event in told if not isinstance(event, Step)], trained


PLAN = Plan("lm", (4, 16), starts=2)
DATA = TrainingData(samples(300, 0), samples(60, 1), samples(200, 2))


@dataclass(frozen=True)
class Whole:
    """A complete training and its progress messages."""

    steps: list[Step]
    stages: list[Stage]
    trained: Trained
    heard: list[ProgressUpdate]


@pytest.fixture(scope="module")
def whole():
    heard = []
    with monitored(heard.append):
        steps, stages, trained = drained(train(create, DATA, PLAN, Generator().manual_seed(0)))
    return Whole(steps, stages, trained, heard)


def test_grids_extend_and_errors_fall(whole):
    assert [stage.intervals for stage in whole.stages] == [4, 16]
    assert whole.trained.network.shape == (2, 2, 1)
    assert whole.trained.errors.test < 1e-3
    assert {step.stage for step in whole.steps} == {1, 2}
    seconds = [step.seconds for step in whole.steps]
    assert 0 < min(seconds) <= max(seconds) <= whole.trained.seconds < float("inf")


def test_a_training_goes_on_from_its_stages_to_the_same_numbers(whole):
    done = TrainingState(whole.stages[:1])
    _, _, resumed = drained(train(create, DATA, PLAN, Generator().manual_seed(0), done))
    assert torch.equal(whole.trained.network.get_unknowns(), resumed.network.get_unknowns())
    assert whole.trained.errors == resumed.errors


def test_test_data_select_nothing(whole):
    other = TrainingData(DATA.train, DATA.validation, Samples(DATA.train.x, -100 * DATA.train.y))
    end = drained(train(create, other, PLAN, Generator().manual_seed(0)))[2]
    assert torch.equal(end.network.get_unknowns(), whole.trained.network.get_unknowns())


def trained(plan, seed=0):
    return drained(train(create, DATA, plan, Generator().manual_seed(seed)))


@pytest.mark.parametrize("batch, shown", [(None, 20), (8, 1)])
def test_errors_are_measured_no_more_often_than_every_epoch(batch, shown):
    steps, _, _ = trained(Plan("adam", (4,), steps=20, settings=AdamSolver(batch_size=batch)))
    assert len(steps) == shown
    assert steps[-1].step == 20


def test_single_start_places_its_hidden_grids_before_the_first_step():
    """A few quick steps come before the first counted one, unless grids must not move."""
    first = {}
    for moves in (True, False):
        steps, _, _ = trained(Plan("lm", (4,), steps=1, weight=0.0, update_grid=moves))
        first[moves] = steps[0].errors.train
    assert first[True] < 0.1
    assert first[False] > 10 * first[True]


def test_the_best_of_several_starts_goes_on():
    ratios = []
    for seed in range(2):
        many, one = (
            trained(Plan("lbfgs", (4,), steps=5, starts=starts, weight=0.0), seed)[1][0].errors
            for starts in (4, 1)
        )
        ratios.append(many.selected / one.selected)
    assert max(ratios) <= 1
    assert min(ratios) < 0.9


def test_a_training_whose_time_is_up_ends_in_order_with_what_it_has(whole):
    heard = []
    with monitored(heard.append, end=process_time()):
        steps, stages, trained = drained(train(create, DATA, PLAN, Generator().manual_seed(0)))
    assert [stage.intervals for stage in stages] == [4]
    assert not steps
    assert trained.errors.train < 1  # the best start
    assert {advance.part for advance in heard} == {"starts"}
    assert not time_limit_reached()
    told = [advance for advance in whole.heard if advance.part == "grid of 16"]
    assert [advance.done for advance in told][:2] == [1, 2]
    begun = max(i for i, advance in enumerate(told) if advance.done == 1)
    last = told[begun:]  # the penalty's weight is searched last
    assert last[-1].error == pytest.approx(min(float(advance.error or 9) for advance in last))


TWO_SIZES = "two outputs of other sizes"
QUICK = [("zero", 1, "lm"), ("constant", 2, "lm"), (TWO_SIZES, 200, "lm"), ("linear", 1, "lbfgs")]
FUNCTIONS = {
    "zero": lambda x: 0 * x[:, :1],
    "constant": lambda x: 0 * x[:, :1] - 70.0,
    "linear": lambda x: x.sum(1, keepdim=True),
    "quadratic": lambda x: x.square().sum(1, keepdim=True),
    TWO_SIZES: lambda x: torch.stack(
        [1e2 * x[:, 0] ** 2, 1e-2 * x[:, 1]], 1
    ),  # outputs of different sizes
}


def easy(name, count):
    x = points(count, 2, seed=7)
    return Samples(x, FUNCTIONS[name](x))


@pytest.mark.parametrize(
    "function, count, solver",
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in itertools.product(FUNCTIONS, (1, 2, 200), ("lm", "lbfgs"))
    ],
)
def test_easy_functions_are_fitted(function, count, solver):
    data = TrainingData(easy(function, count))
    outputs = data.train.y.shape[1]
    second = {"weight": None, "starts": 3} if solver == "lm" else {"weight": 1e-21, "steps": 60}
    plan = Plan(solver, (4, 8), **second)
    trained = fit(
        lambda generator: create(generator, outputs=outputs), data, plan, Generator().manual_seed(0)
    )
    size = float(data.train.y.abs().max()) or 1.0
    assert trained.errors.train <= (1e-6 if solver == "lm" else 1e-2) * size
    assert all(parameter.isfinite().all() for parameter in trained.network.parameters())


@pytest.mark.parametrize("weight", [1e-18, 1e-2])
def test_the_loss_of_a_start_is_never_negative(weight):
    """Rounding must not make the loss negative, even in directions without penalty."""
    data = TrainingData(easy("quadratic", 200))
    random = Generator().manual_seed(0)
    start, *_ = survivors([create(random) for _ in range(4)], data, weight, random)
    assert 0 <= start.loss < 1e-6
    assert output_scale(data.train, "regression") > 0
