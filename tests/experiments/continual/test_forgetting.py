"""Measures of forgetting compared with their definitions, and what memories preserve."""

import made_kan
import numpy as np
import pytest
import torch
from cases import cases
from doors import typed
from kanrun.experiments import continual
from kanrun.experiments.continual import measure_forgetting, train_sequence
from kanrun.experiments.continual.config import ContinualConfig
from kanrun.experiments.continual.learners import (
    Information,
    PseudoRehearsal,
    Replay,
    learner_of,
    make_sequence,
)

from kanrun.engine.training import Objective, Samples, output_scale, predict
from kanrun.engine.training.objective import SmoothnessLoss, SmoothnessPenalty
from kanrun.errors import TrainingFailed


def phase(low, high, count=30):
    x = torch.linspace(low, high, count, dtype=torch.float64)[:, None]
    return Samples(x, x.sin())


@pytest.mark.parametrize(
    "matrix, measures",
    cases("""
        [[0.1, 1.0, 2.0], [0.3, 0.2, 2.0], [0.5, 0.1, 1.2]] | {'average_error': 0.6, 'forgetting': 0.2, 'worst_forgetting': 0.4, 'worst_since_learned': 0.4, 'backward_transfer': -0.15, 'learned': 0.5}
        [[0.25]] | {'forgetting': 0, 'worst_forgetting': 0, 'worst_since_learned': 0, 'backward_transfer': 0}
        [[0.1, 0.3, 2.0], [0.1, 0.9, 2.0], [0.1, 0.9, 0.4]] | {'worst_forgetting': 0.6, 'worst_since_learned': 0}
    """),  # noqa: E501
)
def test_measures_follow_their_definitions_on_matrices_by_hand(matrix, measures):
    found = measure_forgetting(np.array(matrix))
    assert {name: found[name] for name in measures} == pytest.approx(measures)


def boxes(sequence):
    return [end for phase in sequence.phases for end in (*phase.x.amin(0), *phase.x.amax(0))]


def test_phases_tile_the_domain_and_overlap_as_asked():
    touching, wide = (make_sequence(ContinualConfig(), overlap, 0) for overlap in (0.0, 0.5))
    ends = [-1, -0.6, -0.6, -0.2, -0.2, 0.2, 0.2, 0.6, 0.6, 1]
    assert boxes(touching) == pytest.approx(ends, abs=1e-12)
    assert boxes(wide)[:4] == pytest.approx([-1, -0.5, -0.7, -0.1])
    assert touching.phases[2].y.amax() == pytest.approx(1, abs=2e-3)
    assert len(touching.everything) == 500


def test_order_and_dimension_settings_determine_the_sequence_of_peaks():
    def first(order, seed=0):
        return float(make_sequence(ContinualConfig(order=order), 0.0, seed).phases[0].x.mean())

    assert first("descending") == pytest.approx(0.8)
    drawn = [first("random", seed) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    plane = make_sequence(ContinualConfig(dimension=2, peaks=2, spacing=1.0, points=100), 0.0, 0)
    assert [tuple(phase.x.shape) for phase in plane.phases] == [(100, 2)] * 4
    assert plane.problem.domain.tolist() == [[-1, 1], [-1, 1]]


def test_replay_keeps_some_points_and_rehearsal_none():
    first, second = phase(-1, 0), phase(0, 1)
    network = made_kan.kan((1, 1), 20)
    replay, rehearse = Replay(5), PseudoRehearsal()
    for memory in (replay, rehearse):
        assert torch.equal(memory.objective(network, Objective(first, 1.0)).samples.x, first.x)
        memory.learned(network, first)
    joined, own = (m.objective(network, Objective(second, 1.0)) for m in (replay, rehearse))
    assert len(joined.samples) == len(second) + 5
    assert joined.size == output_scale(joined.samples, "regression")
    assert sum(part.numel() for part in replay.kept) == 10
    rehearsed = own.samples.part(slice(len(second), None))
    assert torch.equal(rehearsed.y, predict(network, rehearsed.x))
    assert float(rehearsed.x.max()) < 0
    assert sum(part.numel() for part in rehearse.kept) == 2


def test_anchor_of_strength_one_has_the_curvature_of_the_first_loss():
    network = made_kan.mlp((1, 1), "identity")
    start = network.get_unknowns()
    first = phase(-1, 0)
    memory = Information(diagonal=True, weight=1.0, tie=0.0)
    memory.learned(network, first)
    own = Objective(first, output_scale(first, "regression"))
    anchored = memory.objective(network, own)
    rough = SmoothnessLoss(network, SmoothnessPenalty(0.0))
    for moved in torch.eye(2, dtype=start.dtype):
        values = []
        for shift in (-0.1, 0.0, 0.1):
            network.set_unknowns(start + shift * moved)
            both = (each.value(network, first, rough).detach() for each in (own, anchored))
            values.append([float(value) for value in both])
        loss, both = np.diff(values, 2, axis=0)[0]
        assert both == pytest.approx(2 * loss)


def trained(*lines):
    """Return the trial of the first learner in a study of these settings."""
    cfg = typed("continual", *lines)
    learner = learner_of(cfg, continual.cells(cfg)[0]["learner"])
    return train_sequence(learner, cfg, make_sequence(cfg, 0.0, 0), 0, 0)


@pytest.mark.parametrize(
    "steps, said",
    [
        (1, "an error after phase 1 is"),
        (5, "phase 1, step 2: The loss is not finite at step 2 of Adam"),
    ],
)
def test_a_training_that_diverges_says_where(steps, said):
    solver = f"solver=adam solver.steps={steps} solver.learning_rate=1e200"
    with pytest.raises(TrainingFailed, match=f"K, trial 0.*{said}"):
        trained(solver, "model.intervals=20 learners=[{name:K}] parts=[learners]")


def test_an_anchor_keeps_a_phase_that_a_hidden_layer_would_forget():
    solver = "solver=lm solver.steps=10 solver.damping=0.01 model.intervals=60 peaks=2"
    forgotten, errors = (
        trained(solver, f"parts=[depth] shapes=[[2]] memories=[{kept}]").matrix
        for kept in ("none", "information")
    )
    assert errors[1, 1] < 5 * forgotten[1, 1]
    assert errors[1, 0] < 0.1 * forgotten[1, 0]
