"""KANs, MLPs and points for the tests of networks."""

import torch
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP
from kanrun.engine.training import Clock, Setup
from kanrun.engine.training.objective import SmoothnessPenalty


def kan(shape, intervals=4, *, products=(), seed=0, dtype=torch.float64, high=1.0, **spec):
    """Return a new KAN on [-1, `high`] with the base silu, unless `spec` says otherwise."""
    start = {key: spec.pop(key) for key in ("initialisation", "generator") if key in spec}
    return KAN.create(
        shape,
        intervals,
        EdgeSpec(**{"base": "silu", **spec}),
        domain=torch.tensor([[-1.0, high]], dtype=dtype).expand(shape[0], 2),
        products=products,
        **{"generator": Generator().manual_seed(seed), **start},
    )


def mlp(shape, activation="tanh", *, seed=0, dtype=torch.float64):
    return MLP(shape, activation, dtype=dtype, generator=Generator().manual_seed(seed))


def made_solver(network, data, plan, penalty=SmoothnessPenalty(), seed=0):
    """Return the solver of the plan for `network`."""
    return Setup(data, plan, Generator().manual_seed(seed), Clock()).solver(network, penalty)


def normal(*shape, seed=0):
    """Return random numbers with a standard normal distribution."""
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def points(count, inputs, low=-1.0, high=1.0, seed=1):
    share = torch.rand(count, inputs, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * share
