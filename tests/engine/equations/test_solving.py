"""Manufactured solutions: residual Jacobians, orders of convergence, invariance under units."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from kanrun.engine.equations import (
    Ansatz,
    Condition,
    EquationPolicy,
    IncompatibleCorner,
    OutputForm,
    System,
    solve,
)
from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import Vocabulary, parse_relation

FEW = ((4, 6), (2, 10))
SMALL = EquationPolicy(
    collocation_points=300,
    boundary_points=20,
    test_points=400,
    rounds=FEW,
    rounds_if_small=FEW,
    start_points=150,
)
PLAIN, SEPARATED = OutputForm(), OutputForm(1, 2, 2, separated=True)
START, ENDS = (((0, 0.0),),), (((0, 0.0),), ((0, 1.0),))


def kan(inputs, hidden=(), degree=5, intervals=4, outputs=1):
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)
    spec, shape = EdgeSpec(degree=degree, base="zero"), (inputs, *hidden, outputs)
    return partial(KAN.create, shape, intervals, spec, domain=domain, initialisation="spline")


def system(variables, equation, conditions, find=None):
    """`conditions` by name: faces, or the number of a periodic variable; and a formula."""
    vocabulary = Vocabulary(tuple(variables), ("u",), tuple(find or {}))
    made = []
    for faces, formula in conditions.values():
        relation = parse_relation(formula, vocabulary)
        ring = isinstance(faces, int)
        made.append(Condition(relation, () if ring else faces, faces if ring else None))
    box = torch.tensor(list(variables.values()), dtype=torch.float64)
    return System(
        vocabulary, box, (parse_relation(equation, vocabulary),), tuple(made), (), find or {}
    )


def finished(running):
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


def solution(problem, create, form=PLAIN, **more):
    intervals, policy = more.pop("intervals", (4, 8)), more.pop("policy", SMALL)
    ansatz = Ansatz(create, form, intervals)
    return finished(solve(problem, ansatz, policy, Generator().manual_seed(0), **more))


def error(found, truth, box):
    share = torch.rand(2000, len(box), generator=Generator().manual_seed(5), dtype=torch.float64)
    x = box[:, 0] + share * (box[:, 1] - box[:, 0])
    with torch.no_grad():
        return float((found.network(x)[:, 0] - truth(x)).norm() / truth(x).norm())


@pytest.mark.parametrize("degree", [3, 5])
def test_the_order_of_convergence_is_degree_plus_one(degree):
    problem = system({"x": (0, 1)}, "u_xx = -4*pi^2*sin(2*pi*x)", {"ends": (ENDS, "u = 0")})

    def measured(intervals):
        found = solution(
            problem, kan(1, degree=degree, intervals=intervals), intervals=(intervals,)
        )
        return error(found, lambda x: torch.sin(2 * torch.pi * x[:, 0]), problem.box)

    slope = float(torch.tensor(measured(16) / measured(32)).log2())
    assert slope == pytest.approx(degree + 1, abs=0.3)


def test_a_product_is_found():
    border = (((0, -1.0),), ((0, 1.0),), ((1, -1.0),), ((1, 1.0),))
    right = "-2*pi^2*sin(pi*x)*sin(pi*y)"
    problem = system(
        {"x": (-1, 1), "y": (-1, 1)}, f"u_xx + u_yy = {right}", {"border": (border, "u = 0")}
    )
    found = solution(
        problem, kan(2, intervals=8, outputs=2), OutputForm(1, 1, 2), intervals=(8, 16, 32)
    )
    truth = error(
        found, lambda x: torch.sin(torch.pi * x[:, 0]) * torch.sin(torch.pi * x[:, 1]), problem.box
    )
    assert truth < 1e-6
    change = found.last[-1].change
    assert change is not None
    assert truth < 10 * change


def test_units_of_the_solution_and_of_the_variable_change_nothing():
    unit = 1e-6
    plain = system({"x": (0, 1)}, "u_xx + u = 3*cos(x)", {"ends": (ENDS, "u = 1")})
    far = (((0, 0.0),), ((0, unit),))
    scaled = system(
        {"x": (0, unit)},
        f"u_xx*{unit!r}^2 + u = 3*cos(x/{unit!r})*{unit!r}",
        {"ends": (far, f"u = {unit!r}")},
    )
    ours, theirs = solution(plain, kan(1)), solution(scaled, kan(1))
    at = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert_close(theirs.network(at * unit) / unit, ours.network(at), rtol=1e-7, atol=1e-7)
    assert theirs.last[-1].equation.rms == pytest.approx(ours.last[-1].equation.rms, rel=1e-2)


def test_residuals_weigh_less_around_corners():
    conditions = {"wall": ((((0, 0.0),),), "u = 0"), "start": ((((1, 0.0),),), "u = 1")}
    made = system({"x": (0, 2), "t": (0, 1)}, "u_t = u_xx", conditions)
    made = replace(
        made, corners=(IncompatibleCorner(((0, 0.0), (1, 0.0)), made.conditions[0].relation, 1.0),)
    )
    at = torch.tensor([[0.1, 0.0], [0.0, 0.05], [1.0, 0.5]], dtype=torch.float64)

    def shares(part):
        rows = Collocation(part, SMALL, Generator().manual_seed(0))
        blocks = [*rows.equations(at), *rows.borders(20, (1.0, 1.0))]
        return [block.shares for block in blocks]

    inside, *faces = shares(made)
    assert inside.tolist() == pytest.approx([0.5**4, 0.5**4, 1])
    assert all(face is not None and float(face[0]) == 0 for face in faces)
    smaller = replace(
        made, corners=(replace(made.corners[0], gap=0.3 / 2**4),)
    )  # eased half as far
    inside = shares(smaller)[0]
    assert inside.tolist() == pytest.approx([1, 1, 1])


def test_a_residual_that_is_nowhere_finite_is_said():
    problem = system({"x": (-2, -1)}, "u_x = log(x)*u", {"a": ((((0, -2.0),),), "u = 1")})
    with pytest.raises(TrainingFailed, match="not finite at any start"):
        solution(problem, kan(1), policy=replace(SMALL, collocation_points=50))


def test_knots_are_inserted_where_a_stiff_solution_needs_them():
    stiff = system({"t": (0, 1)}, "u_t = -300*(u - cos(t))", {"a": (START, "u = 0")})
    found = _grown(stiff)
    slow = 1 / (1 + 300**-2)
    decay = -slow

    def truth(x):
        return slow * (x[:, 0].cos() + x[:, 0].sin() / 300) + decay * (-300 * x[:, 0]).exp()

    assert error(found, truth, stiff.box) < 1e-7


def _grown(problem):
    ansatz = Ansatz(kan(1), PLAIN, (5, 10, 20), grows=True)
    return finished(solve(problem, ansatz, SMALL, Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("conditions", "open_"), [({"ends": (ENDS, "u = 0")}, False), ({"a": (START, "u = 0")}, True)]
)
def test_the_sensitivity_tells_open_equations(conditions, open_):
    found = solution(system({"x": (0, 1)}, "u_xx = 1", conditions), kan(1)).last[-1].sensitivity
    assert found is not None
    assert (found > 1e5) == open_
    assert open_ or found < 10
