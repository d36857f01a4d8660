"""Solutions by networks: orders of convergence, units, inserted knots, starts."""

from dataclasses import replace
from functools import partial

import made_kan
import pytest
import torch
from made_systems import LINE, SQUARE, finished, parsed
from torch import Generator
from torch.testing import assert_close

from kanrun.engine.equations import (
    Ansatz,
    EquationPolicy,
    Field,
    IncompatibleCorner,
    OutputForm,
    solve,
)
from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import edges_of, insert_knots
from kanrun.engine.equations.network_solution import NetworkSolver
from kanrun.engine.equations.system import low_discrepancy
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.errors import TrainingFailed

FEW = ((4, 6), (2, 10))
SMALL = EquationPolicy(
    collocation_points=300,
    boundary_points=20,
    test_points=400,
    rounds=FEW,
    rounds_if_small=FEW,
    start_points=150,
)
PLAIN = OutputForm()


def kan(inputs, degree=5, intervals=4, outputs=1):
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)
    spec = EdgeSpec(degree=degree, base="zero")
    shape = (inputs, outputs)
    return partial(KAN.create, shape, intervals, spec, domain=domain, initialisation="spline")


def solution(problem, create, intervals=(4, 8), policy=SMALL, **more):
    ansatz = Ansatz(create, PLAIN, intervals, **more)
    return finished(solve(problem, ansatz, policy, Generator().manual_seed(0)))


def error(found, truth, box):
    x = made_kan.points(2000, len(box), *box.T, seed=5)
    with torch.no_grad():
        return float((found.network(x)[:, 0] - truth(x)).norm() / truth(x).norm())


@pytest.mark.parametrize("degree", [3, 5])
def test_the_order_of_convergence_is_degree_plus_one(degree):
    problem = parsed(LINE, "u_xx = -4*pi^2*sin(2*pi*x)", ["u = 0 at x=0, x=1"])

    def measured(intervals):
        create = kan(1, degree=degree, intervals=intervals)
        found = solution(problem, create, intervals=(intervals,))
        return error(found, lambda x: torch.sin(2 * torch.pi * x[:, 0]), problem.box)

    slope = float(torch.tensor(measured(16) / measured(32)).log2())
    assert slope == pytest.approx(degree + 1, abs=0.3)


def test_units_of_the_solution_and_of_the_variable_change_nothing():
    unit = 1e-6
    plain = parsed(LINE, "u_xx + u = 3*cos(x)", ["u = 1 at x=0, x=1"])
    formula = f"u_xx*{unit!r}^2 + u = 3*cos(x/{unit!r})*{unit!r}"
    scaled = parsed({"x": (0, unit)}, formula, [f"u = {unit!r} at x=0, x={unit!r}"])
    ours = solution(plain, kan(1))
    theirs = solution(scaled, kan(1))
    at = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert_close(theirs.network(at * unit) / unit, ours.network(at), rtol=1e-7, atol=1e-7)
    assert theirs.last[-1].equation.rms == pytest.approx(ours.last[-1].equation.rms, rel=1e-2)


def test_no_points_lie_next_to_incompatible_corners():
    made = parsed({"x": (0, 2), "t": (0, 1)}, "u_t = u_xx", ["u = 0 at x=0", "u = 1 at t=0"])
    corner = IncompatibleCorner(((0, 0.0), (1, 0.0)), made.conditions[0].relation, 1.0)
    drawn = Collocation(replace(made, corners=(corner,)), SMALL, Generator().manual_seed(0))
    points = drawn.points(0, 4000)
    away = (points / torch.tensor([2.0, 1.0])).norm(dim=1)
    assert 0.1 < float(away.min()) < 0.12


def test_residual_that_is_nowhere_finite_fails_the_training_with_a_message():
    problem = parsed({"x": (-2, -1)}, "u_x = log(x)*u", ["u = 1 at x=-2"])
    with pytest.raises(TrainingFailed, match="not finite at any start"):
        solution(problem, kan(1), policy=replace(SMALL, collocation_points=50))


def test_knots_are_inserted_where_a_stiff_solution_needs_them():
    stiff = parsed({"t": (0, 1)}, "u_t = -300*(u - cos(t))", ["u = 0 at t=0"])
    found = solution(stiff, kan(1), (5, 10, 20), grows=True)
    slow = 1 / (1 + 300**-2)

    def truth(x):
        return slow * (x[:, 0].cos() + x[:, 0].sin() / 300 - (-300 * x[:, 0]).exp())

    assert error(found, truth, stiff.box) < 1e-7


BOX = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)


def values(solution, at):
    with torch.no_grad():
        return solution(at)


def test_inserted_knots_keep_the_function_and_lie_where_the_residual_is_large():
    drawn = Generator().manual_seed(1)
    network = kan(2, outputs=4)(generator=drawn)
    for _, parameter in network.unknowns():
        parameter.data.normal_(generator=drawn)
    size = torch.tensor([2.0], dtype=torch.float64)
    before = Field(network, OutputForm(1, 2, 2), BOX, size)
    at = low_discrepancy(BOX, 200, 2)
    after = insert_knots(before, 12, at, (at[:, 0] < 0.5).double())
    assert_close(values(after, at), values(before, at), rtol=1e-11, atol=1e-11)
    edges = edges_of(after)
    assert edges.shape == (2, 13)
    assert int((edges[0] < -0.5).sum()) >= 6  # x from 0 to 0.5 is the first quarter of its range
    spacing = edges[1].diff()  # 12 intervals, each 1/8 or 1/16 of the range
    assert float(spacing.max() / spacing.min()) == pytest.approx(2.0)


def test_initial_values_in_two_space_variables_are_products_on_a_grid_that_resolves_them():
    box = {"x": [0, 1], "y": [0, 2], "t": [0, 3]}
    start = "u = y*sin(6*pi*x) + x at t=0"
    heat = parsed(box, "u_t = u_xx + u_yy", [start])
    drawn = Generator().manual_seed(0)
    form = OutputForm(1, 4, 3, separated=True)
    create = kan(3, intervals=5, outputs=12)
    ansatz = Ansatz(create, form, (5, 10), grows=True, free_terms=True)
    found, _ = NetworkSolver(heat, ansatz, EquationPolicy(), drawn).first_guess()
    at = low_discrepancy(heat.box, 300, 0)
    wanted = at[:, 1] * (6 * torch.pi * at[:, 0]).sin() + at[:, 0]
    assert found.form.terms == 2
    assert found.intervals == 20
    assert float((values(found, at)[:, 0] - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("intervals, waves", [(5, 19), (41, 123)])
def test_residual_of_conditions_is_measured_away_from_the_training_points(intervals, waves):
    """The condition sin(n pi y) is zero at the n training points, but not between them."""
    system = parsed(SQUARE, "u_xx + u_yy = 0", [f"u = sin({waves}*pi*y) at x=0"])
    drawn = Generator().manual_seed(0)
    network = kan(2, intervals=intervals)(generator=drawn).double()
    zero = Field(network, PLAIN, system.box, torch.ones(1, dtype=torch.float64))
    zero.set_unknowns(torch.zeros_like(zero.get_unknowns()))
    rows = Collocation(system, SMALL, drawn)
    (block,) = rows.borders(SMALL.boundary_points, (1.0, 1.0), zero)
    trained, _ = block.rows(zero, system.guesses(), jacobian=False)
    assert float(trained.abs().max()) < 1e-12
    assert rows.residuals(zero, system.guesses())[1].rms > 0.3


def test_half_of_the_points_follow_breakpoints_within_the_box():
    box = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    edges = torch.tensor([[-1.0, 0.8, 1.0]], dtype=torch.float64)
    points = low_discrepancy(box, 1000, 0, edges)
    assert float((points > 1.8).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(points.max()) == pytest.approx(2, abs=0.01)
