"""Trainings resumed from a checkpoint give the same numbers; checkpoints are loaded safely."""

from unittest.mock import Mock

import made_kan
import numpy as np
import pytest
import torch
from torch import Generator

from kanrun.engine.networks import KAN, MLP
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
from kanrun.runs.artifacts import checkpoint_path, read_checkpoint, write_checkpoint


def kan(generator, **spec):
    return made_kan.kan((2, 3, 1), generator=generator, **spec)


def mlp(generator):
    return MLP((2, 6, 1), "tanh", dtype=torch.float64, generator=generator)


LOCAL = "single scale, only what data see"
NETWORKS = {
    "kan": (kan, {"intervals": (3, 6)}),
    LOCAL: (
        lambda generator: kan(generator, edge_scaling="single"),
        {"intervals": (20, 40), "freeze_unseen": True},
    ),
    "mlp": (mlp, {"patience": 25}),
}


def samples(count, seed):
    x = made_kan.points(count, 2, seed=seed)
    return Samples(x, torch.exp(torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2))


DATA = TrainingData(samples(150, 0), samples(40, 1), samples(50, 2))


def stored(done, folder):
    """Return `done` after writing it to a file and reading it back."""
    write_checkpoint(checkpoint_path(folder, "resume"), to_checkpoint("resume", done))
    return from_checkpoint(read_checkpoint(checkpoint_path(folder, "resume")), TrainingState)


def followed(create, plan, done=None):
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
    create, settings = NETWORKS[network]
    plan = Plan(
        solver,
        steps=45 if solver == "lbfgs" else 7,
        settings=AdamSolver(learning_rate=0.02, batch_size=140) if solver == "adam" else None,
        **settings,
    )
    whole, trained = followed(create, plan)
    places = [at for at, event in enumerate(whole) if isinstance(event, Snapshot)]
    assert len(places) >= 2
    for at in (places[len(places) // 2], places[-1]):
        stages = [event for event in whole[:at] if isinstance(event, Stage)]
        rest, again = followed(create, plan, stored(TrainingState(stages, whole[at]), tmp_path))
        assert steps(rest) == steps(whole[at:])
        assert again.errors == trained.errors
        assert len(again.stages) == len(trained.stages)
        for one, other in zip(
            again.network.parameters(), trained.network.parameters(), strict=True
        ):
            assert torch.equal(one, other)


def test_no_snapshots_while_training_is_quick():
    events, _ = followed(kan, Plan("adam", (3,), steps=5))
    assert not any(isinstance(event, Snapshot) for event in events)


HUGE = 10**6
EDGES = {"degree": 3, "base": "silu", "edge_scaling": "separate", "outside": "linear"}


def layer(*shape, **edges):
    edges = EDGES | {"trainable_scales": True} | edges
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
        {"kind": "mlp", "shape": [1, "x"], "activation": "silu"},
        {"kind": "nonsense", "functions": 1, "outputs": 1},
        {},
    ],
)
def test_a_network_that_is_not_stored_is_not_built(network, monkeypatch):
    for kind in (KAN, MLP):
        taken = Mock(side_effect=AssertionError("memory was taken"))
        monkeypatch.setattr(kind, "from_description", taken)
    with pytest.raises(KanrunError):
        from_checkpoint(Checkpoint("sent", {"a": np.zeros(9)}, {"network": network}), Model)
