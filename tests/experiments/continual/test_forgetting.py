"""Measures of forgetting compared with their definitions, and what memories preserve."""

import made_kan
import numpy as np
import pytest
import torch
from cases import cases
from doors import typed
from kanrun.experiments import continual
from kanrun.experiments.continual.config import ContinualConfig
from kanrun.experiments.continual.learners import (
    Information,
    Learner,
    PseudoRehearsal,
    Replay,
    learner_of,
)
from kanrun.experiments.continual.sequences import make_sequence
from kanrun.experiments.continual.training import measure_forgetting, train_sequence

from kanrun.engine.networks import MLP
from kanrun.engine.training import Objective, Samples, output_scale, predict
from kanrun.engine.training.objective import SmoothnessLoss, SmoothnessPenalty
from kanrun.errors import TrainingFailed


def flat_kan(intervals=20):
    return made_kan.kan((1, 1), intervals, trained_scales="none")


def phase(low, high, count=30):
    x = torch.linspace(low, high, count, dtype=torch.float64)[:, None]
    return Samples(x, x.sin())


def box(samples):
    return [*samples.x.amin(0).tolist(), *samples.x.amax(0).tolist()]


@pytest.mark.parametrize(
    "matrix, measures",
    cases("""
        [[0.1, 1.0, 2.0], [0.3, 0.2, 2.0], [0.5, 0.1, 0.4]] | {'average_error': 0.3333333333333333, 'forgetting': 0.2, 'worst_forgetting': 0.4, 'worst_since_learned': 0.4, 'backward_transfer': -0.15000000000000002, 'learned': 0.23333333333333336}
        [[0.25]] | {'forgetting': 0, 'worst_forgetting': 0, 'worst_since_learned': 0, 'backward_transfer': 0}
        [[0.1, 0.3, 2.0], [0.1, 0.9, 2.0], [0.1, 0.9, 0.4]] | {'worst_forgetting': 0.6, 'worst_since_learned': 0}
    """),  # noqa: E501
)
def test_measures_follow_their_definitions_on_matrices_by_hand(matrix, measures):
    found = measure_forgetting(np.array(matrix))
    assert {name: found[name] for name in measures} == pytest.approx(measures)


def test_phases_tile_the_domain_and_overlap_as_asked():
    cfg = ContinualConfig()
    touching = make_sequence(cfg, 0.0, 0)
    wide = make_sequence(cfg, 0.5, 0)
    ends = [end for phase in touching.phases for end in box(phase)]
    assert ends == pytest.approx([-1, -0.6, -0.6, -0.2, -0.2, 0.2, 0.2, 0.6, 0.6, 1], abs=1e-12)
    assert box(wide.phases[1]) == pytest.approx([-0.7, -0.1])
    assert box(wide.phases[0]) == pytest.approx([-1, -0.5])
    peak = touching.phases[2]
    assert peak.y.amax() == pytest.approx(1, abs=2e-3)
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
    first = phase(-1, 0)
    second = phase(0, 1)
    network = flat_kan()
    replay = Replay(5)
    rehearse = PseudoRehearsal()
    for memory in (replay, rehearse):
        own = memory.objective(network, Objective(first, 1.0)).samples
        assert torch.equal(own.x, first.x)
        memory.learned(network, first)
    joined = replay.objective(network, Objective(second, 1.0))
    assert len(joined.samples) == len(second) + 5
    assert joined.size == output_scale(joined.samples, "regression")
    assert sum(part.numel() for part in replay.kept) == 10
    own = rehearse.objective(network, Objective(second, 1.0)).samples
    assert torch.equal(own.y[len(second) :], predict(network, own.x[len(second) :]))
    assert float(own.x[len(second) :].max()) < 0
    assert sum(part.numel() for part in rehearse.kept) == 2


def test_anchor_of_strength_one_has_the_curvature_of_the_first_loss():
    network = MLP(
        (1, 1), "identity", dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    first = phase(-1, 0)
    memory = Information(diagonal=True, weight=1.0, tie=0.0)
    memory.learned(network, first)
    own = Objective(first, output_scale(first, "regression"))
    anchored = memory.objective(network, own)
    rough = SmoothnessLoss(network, SmoothnessPenalty(0.0))
    for parameter in network.parameters():
        values = []
        for shift in (-0.1, 0.1, 0.1):
            with torch.no_grad():
                parameter.add_(shift)
            both = (each.value(network, first, rough).detach() for each in (own, anchored))
            values.append([float(value) for value in both])
        with torch.no_grad():
            parameter.sub_(0.1)
        loss, both = np.diff(values, 2, axis=0)[0]
        assert both - loss == pytest.approx(loss)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_training_that_diverges_says_where(steps):
    solver = f"solver=adam solver.steps={steps} solver.learning_rate=1e200"
    cfg = typed("continual", solver, "model.intervals=20 learners=[{name:K}]")
    learner = Learner("K", cfg.model)
    said = (
        "an error after phase 1 is"
        if steps == 1
        else "phase 1, step 2: The loss is not finite at step 2 of Adam"
    )
    with pytest.raises(TrainingFailed, match=f"K, trial 0.*{said}"):
        train_sequence(learner, cfg, make_sequence(cfg, 0.0, 0), 0, 0)


def test_an_anchor_keeps_a_phase_that_a_hidden_layer_would_forget():
    solver = "solver=lm solver.steps=10 solver.damping=0.01 model.intervals=60 peaks=2"
    matrices = []
    for kept in ("none", "information"):
        cfg = typed("continual", f"{solver} parts=[depth] shapes=[[2]] memories=[{kept}]")
        (cell,) = continual.cells(cfg)
        learner = learner_of(cfg, cell["learner"])
        matrices.append(train_sequence(learner, cfg, make_sequence(cfg, 0.0, 0), 0, 0).matrix)
    forgotten, errors = matrices
    assert errors[1, 1] < 5 * forgotten[1, 1]
    assert errors[1, 0] < 0.1 * forgotten[1, 0]
