"""Trainings resumed from a checkpoint give the same numbers; checkpoints are loaded safely."""

from unittest.mock import Mock

import made_kan
import numpy as np
import pytest
import torch
from torch import Generator

from kanrun.engine.networks import MLP
from kanrun.engine.training import (
    Plan,
    Samples,
    Snapshot,
    Stage,
    Step,
    TrainingData,
    TrainingState,
    grid_training,
    train,
)
from kanrun.errors import KanrunError
from kanrun.model.model import Model
from kanrun.model.settings import AdamSolver
from kanrun.model.trained import from_checkpoint, to_checkpoint
from kanrun.runs import Checkpoint
from kanrun.runs.files import checkpoint_path, read_checkpoint, write_checkpoint

LOCAL = "only what data see"
#: Settings of edges and of the plan; an MLP has no edges.
NETWORKS = {
    "kan": ({}, {"intervals": (3, 6)}),
    LOCAL: ({}, {"intervals": (20, 40), "freeze_unseen": True}),
    "mlp": (None, {"patience": 25}),
}


def samples(count, seed):
    x = made_kan.points(count, 2, seed=seed)
    return Samples(x, torch.exp(torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2))


DATA = TrainingData(samples(150, 0), samples(40, 1), samples(50, 2))


def followed(edges, plan, done=None):
    def create(generator):
        if edges is None:
            return MLP((2, 6, 1), "tanh", dtype=torch.float64, generator=generator)
        return made_kan.kan((2, 3, 1), generator=generator, **edges)

    events = []
    training = train(create, DATA, plan, Generator().manual_seed(3), done)
    return events, grid_training.finished(training, events.append)


def steps(events):
    return [
        (event.stage, event.step, event.intervals, event.errors)
        for event in events
        if isinstance(event, Step)
    ]


@pytest.mark.parametrize(
    "solver, network",
    [("lm", "kan"), ("lm", "mlp"), ("lbfgs", "kan"), ("lbfgs", LOCAL), ("adam", LOCAL)],
)
def test_training_goes_on_from_a_snapshot_inside_a_grid_to_the_same_numbers(
    solver, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(grid_training, "SNAPSHOT_SECONDS", -1.0)  # a snapshot after every step
    edges, own = NETWORKS[network]
    options = AdamSolver(learning_rate=0.02, batch_size=140) if solver == "adam" else None
    plan = Plan(solver, steps=45 if solver == "lbfgs" else 7, settings=options, **own)
    whole, trained = followed(edges, plan)
    places = [at for at, event in enumerate(whole) if isinstance(event, Snapshot)]
    assert len(places) >= 2
    file = checkpoint_path(tmp_path, "resume")
    for at in (places[len(places) // 2], places[-1]):
        stages = [event for event in whole[:at] if isinstance(event, Stage)]
        write_checkpoint(file, to_checkpoint("resume", TrainingState(stages, whole[at])))
        done = from_checkpoint(read_checkpoint(file), TrainingState)
        rest, again = followed(edges, plan, done)
        assert steps(rest) == steps(whole[at:])
        assert again.errors == trained.errors
        assert len(again.stages) == len(trained.stages)
        numbers = [[*done.network.parameters()] for done in (again, trained)]
        torch.testing.assert_close(*numbers, rtol=0, atol=0)


def test_no_snapshots_while_training_is_quick():
    events, _ = followed({}, Plan("adam", (3,), steps=5))
    assert not any(isinstance(event, Snapshot) for event in events)


HUGE = 10**6


def layer(*shape, degree=3):
    edges = {"degree": degree, "base": "silu", "outside": "linear"}
    edges["trainable_scales"] = True
    return {"kind": "kan", "layers": [{"edges": edges, "uniform": True, "shape": shape}]}


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "mlp", "shape": [1, HUGE, HUGE, 1], "activation": "silu"},
        layer(HUGE, HUGE, 1),
        layer(1, 1, HUGE * HUGE),
        layer(1, 1, 1, degree=HUGE * HUGE),
        {"kind": "polynomial", "functions": HUGE * HUGE, "outputs": 1},
        {"kind": "bspline", "functions": HUGE, "outputs": HUGE, "degree": 3},
    ],
)
def test_a_network_that_is_not_stored_is_not_built(network, monkeypatch):
    taken = Mock(side_effect=AssertionError("memory was taken"))
    monkeypatch.setattr("kanrun.model.trained.from_description", taken)
    with pytest.raises(KanrunError):
        from_checkpoint(Checkpoint("sent", {"a": np.zeros(9)}, {"network": network}), Model)
