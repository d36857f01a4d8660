"""Taylor coefficients compared with autograd, and their Jacobians with finite differences."""

import made_kan
import torch
from cases import refuses
from torch.testing import assert_close

from kanrun.engine.equations.fields import Monomials, network_jets
from kanrun.engine.networks import Polynomial

INDICES = [(2, 1), (0, 4), (1, 2)]


def network(kind):
    drawn = torch.Generator().manual_seed(3)
    start = {"initialisation": "spline", "generator": drawn}
    made = made_kan.kan([2, 3, 3], degree=6, base=kind, **start)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype)
            )
    return made


def by_autograd(model, x, output, index):
    x = x.clone().requires_grad_()
    y = model(x)[:, output]
    for variable, times in enumerate(index):
        for _ in range(times):
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            y = slope[:, variable]
    return y.detach()


def test_taylor_coefficients_are_the_derivatives_of_the_network():
    model = network("zero")
    monomials = Monomials.covering(INDICES, 2)
    x = made_kan.points(7, 2, -0.9, 0.9)
    with torch.enable_grad():
        jets, _ = network_jets(model, x, monomials)
    for index in monomials.indices:
        found = monomials.derivative(jets, index)[:, 1].detach()
        expected = by_autograd(model, x, 1, index)
        assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max() + 1))


def test_polynomials_and_silu_bases_are_refused():
    curve = Polynomial(4, 1, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    with refuses("kind kan, not polynomial"):
        network_jets(curve, torch.zeros(3, 1, dtype=torch.float64), Monomials.covering([(1,)], 1))
    with refuses("base=zero"):
        network_jets(network("silu"), made_kan.points(3, 2), Monomials.covering(INDICES, 2))
