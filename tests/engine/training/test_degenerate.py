"""Degenerate data: training ends with finite numbers, as accurate as the data allow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import Plan, Samples, TrainingData, fit
from kanrun.engine.training.data import output_scale
from kanrun.engine.training.multistart import best_start

DOMAIN = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": lambda x: 0 * x[:, :1],
    "constant": lambda x: 0 * x[:, :1] - 70.0,
    "linear": lambda x: x.sum(1, keepdim=True),
    "quadratic": lambda x: x.square().sum(1, keepdim=True),
    "two outputs of other sizes": lambda x: torch.stack(
        [1e2 * x[:, 0] ** 2, 1e-2 * x[:, 1]], 1
    ),  # all that is not standardised
}


def kan(generator: Generator, outputs: int) -> KAN:
    return KAN.create(
        (2, 2, outputs),
        4,
        EdgeSpec(base="silu"),
        domain=DOMAIN,
        initialisation="spline",
        generator=generator,
    )


def samples(name: str, count: int) -> Samples:
    x = torch.rand(count, 2, dtype=torch.float64, generator=Generator().manual_seed(7)) * 2 - 1
    return Samples(x, FUNCTIONS[name](x))


@pytest.mark.parametrize(
    ("function", "count"),
    [*((name, count) for name in FUNCTIONS for count in (1, 200)), ("constant", 2)]
    + [pytest.param(name, 2, marks=pytest.mark.slow) for name in FUNCTIONS if name != "constant"],
)
@pytest.mark.parametrize("solver", ["lm", "lbfgs"])
def test_easy_functions_are_fitted(function: str, count: int, solver: str) -> None:
    data = TrainingData(samples(function, count))
    outputs = data.train.y.shape[1]
    second = {"weight": None, "starts": 3} if solver == "lm" else {"weight": 1e-21, "steps": 60}
    plan = Plan(solver, (4, 8), **second)  # type: ignore[arg-type]
    trained = fit(lambda generator: kan(generator, outputs), data, plan, Generator().manual_seed(0))
    size = float(data.train.y.abs().max()) or 1.0
    assert trained.errors.train <= (1e-6 if solver == "lm" else 1e-2) * size
    assert all(parameter.isfinite().all() for parameter in trained.network.parameters())


@pytest.mark.parametrize("weight", [1e-18, 1e-2])
def test_the_loss_of_a_start_is_never_negative(weight: float) -> None:
    """What the penalty does not see must not be made negative by rounding."""
    data = TrainingData(samples("quadratic", 200))
    start = best_start(
        lambda generator: kan(generator, 1),
        data,
        Plan("lm", starts=4),
        weight,
        Generator().manual_seed(0),
    )
    assert 0 <= start.loss < 1e-6
    assert output_scale(data.train, "regression") > 0
