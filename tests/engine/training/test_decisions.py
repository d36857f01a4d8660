"""What a training accepts and where it ends, at both sides of each bound, by scripted errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from made_kan import kan
from torch import Generator

from kanrun.engine.training import Plan, Samples, TrainingData, grid_training, starts
from kanrun.engine.training.data import Errors, GrowthPolicy, second_order_work
from kanrun.engine.training.grid_training import ROUGH_WEIGHTS, GridTraining, finished
from kanrun.engine.training.growth import Growth
from kanrun.engine.training.objective import SmoothnessPenalty
from kanrun.engine.training.solver_run import (
    Clock,
    GridTransfer,
    Setup,
    Stage,
    StepLog,
    followed_steps,
    spent,
)
from kanrun.engine.training.solvers import Solver
from kanrun.engine.training.starts import RandomStart

X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
#: Outputs +1 and -1, so that errors are relative ones.
DATA = TrainingData(Samples(X, X.sign()), Samples(X, X.sign()))
NETWORK = kan([1, 1])


def stages(*errors, kink=None):
    rest = 1, 0.0, SmoothnessPenalty(), GridTransfer("start", 0.0, None, 1.0, kink), X
    return [Stage(1, 4, NETWORK, Errors(each, each, None), *rest) for each in map(float, errors)]


def training(*errors, weight=1e-18, order=None, network=NETWORK, **plan):
    plan = Plan("lm", plan.pop("schedule", (4, 8, 16)), **plan)
    setup = Setup(DATA, plan, Generator(), Clock())
    made = GridTraining(network, SmoothnessPenalty(weight, order), setup, stages(*errors))
    made.log = StepLog(1)
    return made


@pytest.mark.parametrize(
    "here, there",
    [
        # A grid helps below HELPED = 0.9 of the lowest error before; UNHELPFUL = 2 end a schedule.
        ((1, 0.91, 0.91), (1, 0.89, 0.89)),
        ((1, 0.8, 0.73, 0.73), (1, 0.8, 0.71, 0.71)),
        ((0.99e-13,), (1.01e-13,)),
    ],
)
def test_a_schedule_ends_on_one_side_of_each_bound(here, there):
    assert training(*here, stop_early=True).ends
    assert not training(*there, stop_early=True).ends


def test_a_schedule_ends_after_inserted_knots_or_before_too_many_unknowns():
    most = NETWORK.unknowns_at(8)
    assert training(1, max_unknowns=most - 1).ends
    one = training(1, max_unknowns=most)
    assert not one.ends
    one.stages = stages(1, kink=(0, 0.1, 0.2))
    assert one.ends


def tried(errors, first=1.0, tries=5, *, settled=True, rough=False, **made):
    """Return the weights tried, in powers of ten, and the last kept, by errors in their order."""
    one, weights, each = training(**made), [], iter(errors)
    one.best = SimpleNamespace(network=one.network, error=first)

    def trained(network, penalty, steps):
        weights.append(round(math.log10(penalty.weight), 1))
        yield from ()
        return SimpleNamespace(network=network, error=next(each))

    one._trained = trained
    list(one._smooth() if rough else one._search(10, tries, settled=settled))
    return weights, round(math.log10(one.penalty.weight), 1)


@pytest.mark.parametrize(
    "script, weights, kept",
    [
        # A weight is kept if it gains MIN_GAIN = 3 %.
        ({"errors": [0.969, 0.95], "settled": False}, [-20, -22], -20),
        ({"errors": [0.971], "settled": False}, [-20], -18),
        # Lower ones end with the tries, or at MIN_WEIGHT.
        ({"errors": [0.9, 0.8, 0.7], "tries": 3}, [-20, -22, -24], -24),
        ({"errors": [0.9], "weight": 1e-28}, [-30], -30),
        # Second differences look past PLATEAU_WEIGHTS = 2 weights.
        ({"errors": [1, 1, 0.9, 1, 1], "order": 2}, [-20, -22, -24, -26, -28], -24),
        ({"errors": [1, 1, 1], "order": 2, "settled": False}, [-20, -22, -24], -18),
        # Upwards the search looks past MISSES = 4, up to TOO_FAR = 1.5 times worse ones.
        ({"errors": [1, 1.49, 1.49, 1.49, 0.9, 1.4]}, [-20, -16, -14, -12, -10, -8], -10),
        ({"errors": [1, 1.1, 1.1, 1.1, 1.1]}, [-20, -16, -14, -12, -10], -18),
        ({"errors": [1, 1.51]}, [-20, -16], -18),
        ({"errors": [1, 0.9, 1.36]}, [-20, -16, -14], -16),
        # It ends below MAX_WEIGHT, is for noise (CLEAN), and for few unknowns.
        ({"errors": [1, 0.9], "weight": 0.99}, [-2, 2], 2),
        ({"errors": [1], "weight": 1.02}, [-2], 0),
        ({"errors": [], "weight": 0.89e-28, "settled": False}, [], -28.1),
        ({"errors": [1.0, 0.9e-6], "first": 0.99e-6}, [-20], -18),
        ({"errors": [1.0, 0.9e-6, 2e-6], "first": 1.01e-6}, [-20, -16, -14], -16),
        ({"errors": [1, 0.9, 9], "network": kan([1, 1], 996)}, [-20, -16, -14], -16),
        ({"errors": [1], "network": kan([1, 1], 997)}, [-20], -18),
    ],
)
def test_weights_of_the_penalty_are_tried_and_kept(script, weights, kept):
    assert tried(**script) == (weights, kept)


@pytest.mark.parametrize("first, count, kept", [(0.051, 8, -3), (0.049, 0, -18)])
def test_a_poor_first_fit_tries_second_differences(first, count, kept):
    errors = [0.05 if weight == 1e-3 else 0.0505 for weight in ROUGH_WEIGHTS]
    weights, last = tried(errors, first, rough=True)
    assert (len(weights), last) == (count, kept)


@pytest.mark.parametrize(
    "train, selected, inserted",
    [(0.89, 1.04, True), (0.91, 1.0, False), (0.89, 1.06, False)],
)
def test_inserted_knots_must_help_training_and_not_hurt_validation(
    train, selected, inserted, monkeypatch
):
    one = training(1.0)
    found = Errors(train, selected, None)
    monkeypatch.setattr(grid_training, "measure", lambda *_: found)
    monkeypatch.setattr(grid_training, "take_steps", lambda *_: 1)
    monkeypatch.setattr(grid_training, "halve_intervals", lambda n, *_: (n, (0, 0.0, 0.1)))
    assert (one.insert_knots() is not None) == inserted


class FakeSolver(Solver):
    tolerance, plateau_tolerance, rows = 0.01, 0.1, 40

    def __init__(self, *losses):
        self.network, self.losses, self.loss, self.converged = NETWORK, iter(losses), 1.0, False

    def step(self):
        self.loss = next(self.losses)


def test_steps_are_spent_below_a_relative_gain():
    solver = FakeSolver()
    for solver.loss, expected in ((0.991, True), (0.989, False)):
        assert spent(solver, 1.0) == expected
    solver.tolerance, solver.loss = 0.0, 1.1
    assert not spent(solver, 1.0)


@pytest.mark.parametrize(
    "losses, patience, taken",
    [
        # Two gains in a row below 10 % are a plateau; one below 1 % ends at once.
        ((0.91, 0.83, 0.1), None, 2),
        ((0.91, 0.80, 0.73, 0.67), None, 4),
        ((0.5, 0.496, 0.1), None, 2),
        # The network stays the same, so no step lowers the validation error.
        ((0.5, 0.2, 0.1, 0.05), 3, 3),
    ],
)
def test_a_grid_is_left(losses, patience, taken):
    setup = Setup(DATA, Plan("lm", (4,), patience=patience), Generator(), Clock())
    log, best = StepLog(1), grid_training.Best(NETWORK, 0.0)
    steps = followed_steps(FakeSolver(*losses), 9, setup, best, log)
    assert finished(steps, lambda step: None)
    assert log.steps == taken


def growth(outputs=1, **policy):
    setup = Setup(DATA, Plan("lm", (4, 8), starts=4), Generator().manual_seed(0), Clock())
    return Growth(setup, SmoothnessPenalty(), GrowthPolicy((1, 3, outputs), **policy))


@pytest.mark.parametrize("error, continues", [(0.049, True), (0.051, False)])
def test_the_best_shape_continues_unless_its_fit_is_poor(error, continues):
    one = growth()
    one.trainings = [training(error, 2.0), training(1.0)]
    assert (one.winner is one.trainings[0]) == continues


@pytest.mark.parametrize(
    "before, after, deeper",
    [(1e-2, 0.249e-2, True), (1e-2, 0.251e-2, False), (1.01e-6, 1e-9, True), (0.99e-6, 0, False)],
)
def test_an_identity_layer_stays_if_it_halves_the_error(before, after, deeper):
    one, shallow = growth(), RandomStart(kan([1, 2, 1]), loss=before)
    one.policy = GrowthPolicy((1, 3, 2, 1))
    one._started = lambda networks: [RandomStart(networks[0], loss=after)]
    (found,) = one._deeper([shallow])
    assert (found is not shallow) == deeper


def test_the_worse_half_of_the_starts_leaves_after_two_rounds(monkeypatch):
    networks, taken = [kan([1, 1]) for _ in range(8)], []

    def take_round(start, objective):
        taken.append(networks.index(start.network))
        start.loss = 1 + networks.index(start.network)

    monkeypatch.setattr(RandomStart, "take_round", take_round)
    found = starts.survivors(networks, DATA, 0.0, Generator())
    assert [start.network for start in found] == networks[:2]
    assert taken == [*range(8), *range(8), *range(4), 0, 1, 0, 1]


def test_a_step_multiplies_for_the_matrix_and_its_factor():
    assert second_order_work(10, 3) == 2 * 10 * 9 + 27


@pytest.mark.parametrize("scales, left", [("all", "base"), ("none", "none")])
def test_second_order_training_leaves_scales_of_coefficients_alone(scales, left):
    network = kan([1, 1], trained_scales=scales).for_second_order()
    assert network.edge_layers[0].spec.trained_scales == left


def test_large_grids_take_few_steps():
    steps = [Plan("lm", (4,)).steps_for(unknowns) for unknowns in (300, 301, 1000, 1001)]
    assert steps == [20, 10, 10, 6]


@pytest.mark.parametrize("filled, exact", [(0.81, True), (0.79, False)])
def test_a_grid_that_the_activations_fill_is_refined_exactly(filled, exact, monkeypatch):
    monkeypatch.setattr(type(NETWORK), "covers", lambda self, x, least: filled >= least)
    one = training(network=kan([1, 1, 1]))
    one.log = StepLog(2)
    _, transfer = finished(one._begun(8), lambda step: None)
    assert (transfer.method == "insertion") == exact


@pytest.mark.parametrize("intervals, placed", [(8, 8), (9, 4)])
def test_starts_are_on_coarse_grids(intervals, placed):
    assert starts._placed(kan([1, 1], intervals), X).intervals == placed
