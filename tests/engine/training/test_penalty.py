"""The smoothness penalty against its definition by plain loops, and its meaning as an integral."""

from __future__ import annotations

from math import factorial

import pytest
import torch

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.splines import (
    Grid,
    difference_bands,
    difference_operator,
    extend,
    fit_coefficients,
    greville,
    penalty_order,
    uniform_breakpoints,
)
from kanrun.engine.training.data_fitting import SmoothnessLoss, SmoothnessPenalty


def network(degree: int, intervals: int, scale: str = "separate") -> KAN:
    g = torch.Generator().manual_seed(3)
    domain = torch.tensor([[-1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    kan = KAN.create(
        [2, 3, 1],
        intervals,
        EdgeSpec(degree=degree, edge_scaling=scale, base="silu"),
        domain=domain,
        generator=g,
    )
    with torch.no_grad():
        for layer in kan.edge_layers:
            (layer.weight if scale == "single" else layer.spline_weight).mul_(1.7)
    return kan


def by_loops(kan: KAN) -> float:
    """Divided differences by recursion, per edge, on Greville points of the unit domain."""
    total = 0.0
    for layer in kan.edge_layers:
        m, k = penalty_order(layer.spec.degree), layer.spec.degree
        knots, (base, scales) = layer.knots.tolist(), layer.scales()
        total += float(base.square().sum())
        for out in range(layer.outputs):
            for into in range(layer.inputs):
                low, high = knots[into][k], knots[into][-k - 1]
                c = (scales[out, into] * layer.coefficients[out, into]).tolist()
                xi = [sum(knots[into][n + 1 : n + k + 1]) / k for n in range(len(c))]
                xi = [(point - low) / (high - low) for point in xi]

                def divided(i: int, j: int, c: list[float] = c, xi: list[float] = xi) -> float:
                    if i == j:
                        return c[i]
                    return (divided(i + 1, j) - divided(i, j - 1)) / (xi[j] - xi[i])

                for i in range(len(c) - m):
                    h = (xi[i + m] - xi[i]) / m
                    total += h * (factorial(m) * divided(i, i + m)) ** 2
    return total


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("scale", ["separate", "single"])
def test_penalty_is_its_definition(degree: int, scale: str) -> None:
    kan = network(degree, 7, scale)
    expected = by_loops(kan)
    assert float(SmoothnessLoss(kan, SmoothnessPenalty(1.0))(kan).detach()) == pytest.approx(
        expected, rel=1e-9
    )
    rows = kan.penalty_rows()
    assert float(rows.times(kan.get_unknowns()).square().sum()) == pytest.approx(expected, rel=1e-9)


def test_uniform_grid_gives_the_scaled_difference() -> None:
    grid = Grid(
        extend(uniform_breakpoints(*torch.tensor([[0.0], [4.0]], dtype=torch.float64), 10), 3),
        3,
        True,
    )
    operator = difference_operator(grid, 5)[0]
    expected = torch.eye(13, dtype=torch.float64)
    for _ in range(5):
        expected = expected.diff(dim=0)
    torch.testing.assert_close(operator, expected * 10**4.5, rtol=1e-9, atol=1e-4)


def test_same_function_costs_about_the_same_on_every_grid() -> None:
    """x -> sin(3x) on [0, 1]: integral of (f^(5))^2 = 243^2 (1/2 + sin(6)/12)."""
    integral = 243**2 * (0.5 + torch.sin(torch.tensor(6.0)).item() / 12)
    for intervals in (40, 80, 160):
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        grid = Grid(extend(uniform_breakpoints(*ends, intervals), 3), 3, True)
        x = torch.cat([greville(grid).T, torch.linspace(0, 1, 700, dtype=torch.float64)[:, None]])
        c = fit_coefficients(x, torch.sin(3 * x)[:, None], grid)
        cost = float((difference_operator(grid, 5)[0] @ c[0, 0]).square().sum())
        assert cost == pytest.approx(integral, rel=0.5)


def test_polynomials_of_degree_k_cost_nothing_and_pruned_edges_neither() -> None:
    kan = network(3, 9)
    layer = kan.edge_layers[0]
    with torch.no_grad():
        identity = layer.knots.unfold(1, 3, 1)[:, 1:-1].mean(
            -1
        )  # Greville abscissae as coefficients: x itself
        layer.coefficients.copy_(identity.expand_as(layer.coefficients))
        layer.mask[1, 0] = False
    rows = kan.penalty_rows()
    of_first_layer = rows.index.amax(1) < layer.coefficients.numel()
    assert float(rows.times(kan.get_unknowns())[of_first_layer].square().sum()) < 1e-8
    pruned = 2 * layer.coefficients.shape[2]
    of_pruned = (rows.index >= pruned).all(1) & (
        rows.index < pruned + layer.coefficients.shape[2]
    ).all(1)
    assert of_pruned.any()
    assert (rows.values[of_pruned] == 0).all()


def test_grid_too_coarse_for_differences_has_rows_for_the_base_alone() -> None:
    kan = network(3, 2)
    assert len(kan.penalty_rows()) == sum(layer.mask.numel() for layer in kan.edge_layers)
    weights = torch.cat([layer.base_weight.flatten() for layer in kan.edge_layers]).detach()
    assert float(SmoothnessLoss(kan, SmoothnessPenalty(1.0))(kan).detach()) == pytest.approx(
        float(weights.square().sum())
    )
    of_weights = kan.penalty_rows().times(kan.get_unknowns())
    torch.testing.assert_close(of_weights, weights)


def test_weights_and_differences_beyond_single_precision_meet_before_it() -> None:
    fine = network(7, 400)
    weight = 400.0**-17
    expected = weight * float(SmoothnessLoss(fine, SmoothnessPenalty(1.0))(fine).detach())
    found = float(SmoothnessLoss(fine.float(), SmoothnessPenalty(weight))(fine).detach())
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_penalty_of_wide_layers_takes_little_memory() -> None:
    """m + 1 numbers a difference: not a matrix of coefficients squared for each input."""
    grid = Grid(extend(uniform_breakpoints(torch.zeros(64), torch.ones(64), 1000), 3), 3, True)
    assert difference_bands(grid, 5).numel() == 64 * 998 * 6


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_bands_are_the_matrix_on_uneven_knots(degree: int) -> None:
    points = torch.rand(
        2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).cumsum(1)
    grid = Grid(extend(points, degree), degree, False)
    order = degree + 2
    c = torch.rand(
        grid.functions, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    matrix, bands = difference_operator(grid, order), difference_bands(grid, order)
    by_bands = (c[:, 0].unfold(0, order + 1, 1) * bands).sum(-1)
    torch.testing.assert_close((matrix @ c)[..., 0], by_bands)
