"""The metric of LBFGS against the Hessian that autograd finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP
from kanrun.engine.splines import difference_operator
from kanrun.engine.training import Objective, Samples, SmoothnessPenalty
from kanrun.engine.training.curvature import Curvature


def _layer(scale: float) -> tuple[KAN, Tensor]:
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    network = KAN.create((1, 1), 6, EdgeSpec(base="zero"), domain=domain, generator=generator)
    with torch.no_grad():
        network.edge_layers[0].spline_weight.fill_(scale)
    return network, torch.rand(1000, 1, dtype=torch.float64, generator=generator) * 2 - 1


@pytest.mark.parametrize(
    ("scale", "size", "weight"), [(1.0, 1.0, 0.0), (3.0, 0.5, 0.0), (2.0, 1.0, 1e-9)]
)
def test_one_edge_has_the_inverse_of_its_hessian(scale: float, size: float, weight: float) -> None:
    network, x = _layer(scale)
    coefficients = network.edge_layers[0].coefficients

    def objective(c: Tensor) -> Tensor:
        y = torch.func.functional_call(network, {"layers.0.coefficients": c}, (x,))
        return (y / size).square().mean()

    hessian = torch.autograd.functional.hessian(objective, coefficients.detach()).view(9, 9)
    differences = difference_operator(network.edge_layers[0].grid, 5)[0] * scale
    hessian = hessian + 2 * weight * differences.T @ differences
    metric = Curvature(
        network, Objective(Samples(x, x), size, penalty=SmoothnessPenalty(weight)), 0.0
    )
    for direction in torch.linalg.eigh(hessian).eigenvectors.T[
        2:
    ]:  # damping decides in the faintest directions
        solved = metric.solve(coefficients, (hessian @ direction).view(1, 1, 9)).view(9)
        torch.testing.assert_close(solved, direction, rtol=0, atol=0.02)


def test_other_networks_are_measured_by_the_identity() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    metric = Curvature(
        MLP((3, 2), "tanh", dtype=torch.float64, generator=torch.Generator()),
        Objective(Samples(torch.ones(4, 3), torch.ones(4, 2)), 1.0),
        1.0,
    )
    gradient = torch.arange(6.0).view(2, 3)
    assert not metric.known
    assert torch.equal(metric.solve(parameter, gradient), gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diagonals_of_wide_grids_are_of_the_networks_precision(dtype: torch.dtype) -> None:
    domain = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    network = KAN.create(
        (1, 1),
        1500,
        EdgeSpec(base="silu"),
        domain=domain,
        generator=torch.Generator().manual_seed(0),
    ).to(dtype)
    x = torch.linspace(-1, 1, 200, dtype=dtype)[:, None]
    metric = Curvature(
        network, Objective(Samples(x, x), 1.0, penalty=SmoothnessPenalty(1e-21)), 1.0
    )
    coefficients = network.edge_layers[0].coefficients
    solved = metric.solve(coefficients, torch.ones_like(coefficients))
    assert solved.dtype == dtype
    assert solved.isfinite().all()
