"""Narrower networks inside a shape, and back: the function is kept, only needed nodes count."""

from __future__ import annotations

import pytest
import torch

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.networks.network import halved


def network(shape: tuple[int, ...]) -> KAN:
    domain = torch.tensor([[-1.0, 1.0]] * shape[0], dtype=torch.float64)
    return KAN.create(
        shape, 4, EdgeSpec(base="silu"), domain=domain, generator=torch.Generator().manual_seed(0)
    )


def test_halved_ends_at_width_one() -> None:
    assert halved((2, 5, 1)) == [(2, 5, 1), (2, 3, 1), (2, 2, 1), (2, 1, 1)]
    assert halved((4, 4, 2, 1)) == [(4, 4, 2, 1), (4, 2, 1, 1), (4, 1, 1, 1)]
    assert halved((2, 1)) == [(2, 1)]


@pytest.mark.parametrize("small", [(2, 1, 1), (2, 3, 1)])
def test_padding_keeps_the_function_and_prunes_the_rest(small: tuple[int, ...]) -> None:
    kan = network(small)
    large = kan.padded((2, 5, 1))
    x = torch.linspace(-1.2, 1.2, 40, dtype=torch.float64).view(20, 2)
    torch.testing.assert_close(large(x), kan(x), rtol=1e-14, atol=1e-14)
    assert large.shape == (2, 5, 1)
    assert large.active_shape == small
    assert large.count() == kan.count()


def test_narrowed_takes_the_first_nodes_at_the_same_scale() -> None:
    kan = network((2, 4, 1))
    small = kan.subnetwork((2, 2, 1))
    assert small.shape == (2, 2, 1)
    torch.testing.assert_close(
        small.edge_layers[0].coefficients, kan.edge_layers[0].coefficients[:2]
    )
    torch.testing.assert_close(
        small.edge_layers[1].coefficients, kan.edge_layers[1].coefficients[:, :2] * 2**0.5
    )
