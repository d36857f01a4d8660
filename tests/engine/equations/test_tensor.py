"""Direct solutions by tensor products compared with exact and published values."""

import numpy as np
import pytest
import torch
from made_systems import BOX, LINE, SQUARE, WALLS, directly, parsed
from numpy.testing import assert_allclose

from kanrun.engine.equations import EquationPolicy, is_direct
from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.space import Space
from kanrun.engine.equations.tensor_splines import TensorProblem, TensorSpace, patches

ZERO = "u = 0 at x=0, x=1, y=0, y=1"
ENDS = ["u = 0 at x=0", "u = 1 at x=1"]


def make(formula, conditions, unknowns=("u",), variables=SQUARE):
    return parsed(variables, formula, conditions, unknowns)


def _layer(x):
    return np.expm1(-100 * x) / np.expm1(-100)


def values(found, points, index=(0, 0)):
    at = torch.as_tensor(np.asarray(points, dtype=np.float64))
    return found.network.derivatives(at, [index])[..., 0].numpy()


def test_rows_are_the_derivatives_of_the_residuals():
    formulas = ["u_xx + u*v_y = sin(x)", "v_yy - u_x*v = y"]
    conditions = ["periodic in x", "u = x at y=0", "v_y + u^2 = 0 at y=1", "v = 1 at y=0"]
    system = make(formulas, conditions, "uv")
    assert is_direct(system)
    x = np.linspace(0, 1, 10) ** 1.1
    y = np.linspace(0, 1, 4)
    space = TensorSpace((Space(x, (), periodic=True), Space(y, ())), 2)
    drawn = torch.Generator().manual_seed(0)
    rows = Collocation(system, EquationPolicy(), drawn)
    rule = np.polynomial.legendre.leggauss(3)
    parts = patches(rows, space, (rule, rule))
    problem = TensorProblem(space, parts, np.zeros(space.shape))
    at, move = (torch.randn(space.size, generator=drawn).double() for _ in range(2))
    h = 1e-6
    slope = (problem.residual(at + h * move) - problem.residual(at - h * move)) / (2 * h)
    along = problem.linearise(at).rows.times(move)
    assert float((along - slope).norm() / slope.norm()) < 1e-8


def test_the_size_of_an_unknown_without_prescribed_values_follows_from_its_source():
    given = ["u = 1 at x=0, x=1", "v = 0 at x=0, x=1"]
    system = make(["u_xx = v_x", "v_xx = -8e6"], given, "uv", {"x": [0, 1]})
    sizes = Collocation(system, EquationPolicy(), torch.Generator().manual_seed(0)).sizes
    assert sizes[0] == 1
    assert 2e5 < sizes[1] < 5e6  # the largest value of v is 1e6


def test_the_paper_s_problem_is_a_short_sum_with_an_honest_estimate():
    source = "-pi^2*(1 + 4*y^2)*sin(pi*x)*sin(pi*y^2) + 2*pi*sin(pi*x)*cos(pi*y^2)"
    system = make(
        f"u_xx + u_yy = {source}",
        ["u = 0 at x=-1, x=1, y=-1, y=1"],
        variables={"x": [-1, 1], "y": [-1, 1]},
    )
    found = directly(system, (8, 16))
    x, y = (each.ravel() for each in np.meshgrid(np.linspace(-1, 1, 23), np.linspace(-1, 1, 31)))
    exact = np.sin(np.pi * x) * np.sin(np.pi * y**2)
    error = np.linalg.norm(values(found, np.stack([x, y], 1))[:, 0] - exact)
    error /= np.linalg.norm(exact)
    assert error < 1e-6
    assert error / 3 < found.estimate < 10 * error
    field = found.last[0].solution
    assert field.form.terms < 10  # the solution is one product
    axis = Space(np.linspace(-1, 1, 41), ())
    (again,) = TensorSpace((axis, axis), 1).project(field)
    rows = axis.evaluate(np.eye(axis.functions), np.linspace(-1, 1, 23))
    columns = axis.evaluate(np.eye(axis.functions), np.linspace(-1, 1, 31))
    wanted = values(found, np.stack([x, y], 1))[:, 0].reshape(31, 23).T
    assert_allclose(rows @ again @ columns.T, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "formula, conditions, centre",
    [
        # Timoshenko and Goodier, Theory of Elasticity: torsion of a square bar.
        ("u_xx + u_yy = -1", [ZERO], 0.0736713533),
        # Timoshenko and Woinowsky-Krieger, Theory of Plates and Shells: a clamped plate.
        (
            "u_xxxx + 2*u_xxyy + u_yyyy = 1",
            [ZERO, "u_x = 0 at x=0, x=1", "u_y = 0 at y=0, y=1"],
            0.00126532,
        ),
    ],
)
def test_solutions_have_the_textbook_value_at_the_centre(formula, conditions, centre):
    found = directly(make(formula, conditions), (8, 16))
    assert values(found, [[0.5, 0.5]])[0, 0] == pytest.approx(centre, rel=1e-4)


def test_a_source_that_jumps_has_its_knots_there():
    system = make("u_xx = -heaviside(x - 0.3)", ["u = 0 at x=0, x=1"], variables=LINE)
    x = np.linspace(0, 1, 101)
    found = directly(system, [8]).network(torch.as_tensor(x)[:, None]).detach()[:, 0]
    assert_allclose(found, (0.245 * x) - np.maximum(x - 0.3, 0) ** 2 / 2, atol=1e-13)


def test_sixth_order_and_conditions_on_fourth_derivatives():
    sides = [f"u_{name * 2 * n} = 0 at {name}=0, {name}=1" for name in "xy" for n in (1, 2)]
    source = "-2*pi^6*sin(pi*x)*sin(pi*y)"
    found = directly(make(f"u_xxxxxx + u_yyyyyy = {source}", [ZERO, *sides]), (6, 12))
    at = np.random.default_rng(0).random((50, 2))
    exact = np.sin(np.pi * at[:, 0]) * np.sin(np.pi * at[:, 1])
    assert_allclose(values(found, at)[:, 0], exact, rtol=0, atol=1e-5)


def test_a_nonlinear_system_with_periodic_splines():
    """The solution is u + iv = exp(2 pi i (x + iy)) and w = u v."""
    conditions = ["periodic in x", "u = cos(2*pi*x) at y=0", "v = sin(2*pi*x)*exp(-2*pi) at y=1"]
    equations = ["u_x - v_y + w - u*v = 0", "u_y + v_x = 0", "w = u*v"]
    system = make(equations, conditions, "uvw")
    assert not is_direct(make(equations, ["u periodic in x", *conditions[1:]], "uvw"))
    found = directly(system, (5, 10))
    at = np.random.default_rng(0).random((40, 2))
    z = np.exp(2j * np.pi * (at[:, 0] + 1j * at[:, 1]))
    wanted = np.stack([z.real, z.imag, z.real * z.imag], axis=1)
    assert_allclose(values(found, at), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "formula, conditions, exact",
    [
        ("0.01*u_xx + u_x = 0", ENDS, _layer),
        ("u_xx = 2*u^3", ["u = 1 at x=0", "u_x = -u^2 at x=1"], lambda x: 1 / (1 + x)),
        ("u_xxxx = 24", ["u = 0 at x=0, x=1", "u_x = 0 at x=0, x=1"], lambda x: (x - x**2) ** 2),
    ],
)
def test_problems_in_one_variable_are_solved_to_their_exact_solutions(formula, conditions, exact):
    system = make(formula, conditions, variables=LINE)
    found = directly(system, (8,), grows=True)
    x = np.linspace(0, 1, 41)
    at = torch.as_tensor(x[:, None])
    error = np.abs(found.network(at).detach().numpy()[:, 0] - exact(x)).max()
    assert error < 1e-9
    assert error / 5 < found.estimate < 1e-9


@pytest.mark.parametrize("intervals", [[16], [24], [32], [48]])
def test_estimate_in_one_variable_is_close_to_the_error(intervals):
    found = directly(make("0.01*u_xx + u_x = 0", ENDS, variables=LINE), intervals)
    x = np.linspace(0, 1, 2001)
    left = found.network(torch.as_tensor(x[:, None])).detach().numpy()[:, 0] - _layer(x)
    error = float(np.linalg.norm(left) / np.linalg.norm(_layer(x)))
    assert 0.3 * error < found.estimate < 3 * error + 1e-12


def test_estimate_is_not_trusted_while_a_layer_lies_between_the_points():
    found = directly(make("1e-4*u_xx + u_x = 0", ENDS, variables=LINE), [32])
    assert "the residual hardly falls" in found.doubt


def test_narrow_features_of_one_variable_leave_the_other_one_coarse():
    system = make("u_xx + u_yy = exp(-((x - 0.4321)/5e-3)^2)", [ZERO])
    found = directly(system, [8])
    edges = found.last[0].points.numpy().T
    assert len(np.unique(edges[0])) > 1.5 * len(np.unique(edges[1]))


def test_direct_solver_takes_up_to_two_variables():
    assert is_direct(make("u_xx + u_yy = 1", [ZERO]))
    assert is_direct(make("u_t = u_xx", [WALLS, "u = 1 at t=0"], variables=BOX))
    assert is_direct(make("u_xx = 1", [WALLS], variables=LINE))
    box = {"x": [0, 1], "y": [0, 1], "t": [0, 1]}
    assert not is_direct(make("u_t = u_xx", [WALLS, "u = 1 at t=0"], variables=box))
