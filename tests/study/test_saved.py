"""A checkpoint from someone else: nothing is built before its content is known to be stored."""

from unittest.mock import Mock

import numpy as np
import pytest

from kanrun.engine.networks import KAN, MLP
from kanrun.errors import KanrunError
from kanrun.runs import Checkpoint
from kanrun.study.model import Model
from kanrun.study.saved import from_checkpoint

EDGES = {
    "degree": 3,
    "base": "silu",
    "edge_scaling": "separate",
    "outside": "linear",
    "trainable_scales": True,
}
HUGE = 10**6
LAYER = {"edges": EDGES, "uniform": True}


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "mlp", "shape": [1, HUGE, HUGE, 1], "activation": "silu"},
        {"kind": "kan", "layers": [{**LAYER, "shape": [HUGE, HUGE, 1]}]},
        {"kind": "kan", "layers": [{**LAYER, "shape": [1, 1, HUGE * HUGE]}]},
        {
            "kind": "kan",
            "layers": [{**LAYER, "edges": {**EDGES, "degree": HUGE * HUGE}, "shape": [1, 1, 1]}],
        },
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
