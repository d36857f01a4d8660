"""Narrower networks inside a shape, and back: the function is kept, only needed nodes count."""

import pytest
import torch
from made_kan import kan
from torch.testing import assert_close


@pytest.mark.parametrize("small", [(2, 1, 1), (2, 3, 1)])
def test_padding_keeps_the_function_and_prunes_the_rest(small):
    narrow = kan(small)
    large = narrow.padded((2, 5, 1))
    x = torch.linspace(-1.2, 1.2, 40, dtype=torch.float64).view(20, 2)
    assert_close(large(x), narrow(x), rtol=1e-14, atol=1e-14)
    assert large.shape == (2, 5, 1)
    assert large.active_shape == small
    assert large.count() == narrow.count()


def test_narrowed_takes_the_first_nodes_at_the_same_scale():
    wide = kan((2, 4, 1))
    small = wide.subnetwork((2, 2, 1))
    assert small.shape == (2, 2, 1)
    assert_close(small.edge_layers[0].coefficients, wide.edge_layers[0].coefficients[:2])
    assert_close(
        small.edge_layers[1].coefficients, wide.edge_layers[1].coefficients[:, :2] * 2**0.5
    )
