"""Richer forms of one function: inserted knots, added terms, hard conditions."""

from functools import partial

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from kanrun.engine.equations import (
    Ansatz,
    Condition,
    EquationPolicy,
    Field,
    OutputForm,
    System,
)
from kanrun.engine.equations.fields import edges_of, hard_conditions
from kanrun.engine.equations.network_solution import NetworkSolver, insert_knots
from kanrun.engine.equations.system import low_discrepancy
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, from_description
from kanrun.formulas.equations import Vocabulary, parse_relation

BOX = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)


def field(form, intervals=4):
    drawn = Generator().manual_seed(1)
    domain = torch.tensor([[-1.0, 1.0]] * 2, dtype=torch.float64)
    spec = EdgeSpec(degree=5, base="zero")
    network = KAN.create(
        [2, form.outputs], intervals, spec, domain=domain, initialisation="spline", generator=drawn
    )
    with torch.no_grad():
        for _, parameter in network.unknowns():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype))
    return Field(network, form, BOX, torch.tensor([2.0], dtype=torch.float64))


def points(count=200):
    return low_discrepancy(BOX, count, 2)


def values(solution, at):
    with torch.no_grad():
        return solution(at)


def test_inserted_knots_leave_the_function_and_lie_where_the_squares_are():
    before, at = field(OutputForm(1, 2, 2)), points()
    squares = (at[:, 0] < 0.5).double()
    after = insert_knots(before, 12, at, squares)
    assert_close(values(after, at), values(before, at), rtol=1e-11, atol=1e-11)
    edges = edges_of(after)
    assert edges.shape == (2, 13)
    assert int((edges[0] < -0.5).sum()) >= 8  # x from 0 to 0.5 is the first quarter of its range
    spacing = edges[1].diff()
    assert float(spacing.max() / spacing.min()) == pytest.approx(2.0)  # 12 of 8 or 16 equal ones


def system(conditions):
    vocabulary = Vocabulary(("x", "t"), ("u",))
    made = tuple(
        Condition(parse_relation(text, vocabulary), faces) for text, faces in conditions.items()
    )
    return System(vocabulary, BOX, (parse_relation("u_t = u_xx", vocabulary),), made)


def test_hard_conditions_hold_exactly_and_are_differentiated():
    problem = system(
        {
            "2*u = sin(t)": (((0, 0.0),),),
            "u_x = t": (((0, 2.0),),),
            "u = 2*t": (((0, 2.0),),),
        }
    )
    hard = hard_conditions(problem)
    assert hard is not None
    plain = field(OutputForm(1, 2, 2))
    built = Field(plain.network, plain.form, BOX, plain.sizes, hard)
    times = torch.linspace(-1, 3, 9, dtype=torch.float64)
    left, right = (torch.stack([torch.full_like(times, x), times], dim=1) for x in (0.0, 2.0))
    assert_close(values(built, left)[:, 0], times.sin() / 2, rtol=1e-12, atol=1e-12)
    assert_close(values(built, right)[:, 0], 2 * times, rtol=1e-12, atol=1e-12)
    assert_close(built.derivative(right, (1, 0))[:, 0], times, rtol=1e-11, atol=1e-11)
    at, step = points(20), 1e-5
    shift = torch.tensor([step, 0.0], dtype=torch.float64)
    with torch.no_grad():
        expected = (built(at + shift) - built(at - shift)) / (2 * step)
    assert_close(built.derivative(at, (1, 0)), expected, rtol=1e-6, atol=1e-6)
    again = from_description(built.describe())
    again.load_state_dict(built.state_dict())
    assert isinstance(again, Field)
    assert_close(again.derivative(at, (2, 1)), built.derivative(at, (2, 1)), rtol=0, atol=0)


def test_initial_values_in_two_space_variables_are_products_on_a_grid_that_resolves_them():
    vocabulary, drawn = Vocabulary(("x", "y", "t"), ("u",)), Generator().manual_seed(0)
    start = Condition(parse_relation("u = y*sin(6*pi*x) + x", vocabulary), (((2, 0.0),),))
    box = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    heat = System(vocabulary, box, (parse_relation("u_t = u_xx + u_yy", vocabulary),), (start,))
    domain = torch.tensor([[-1.0, 1.0]] * 3, dtype=torch.float64)
    spec = EdgeSpec(degree=5, base="zero")
    create = partial(KAN.create, (3, 12), 5, spec, domain=domain, initialisation="spline")
    ansatz = Ansatz(
        create, OutputForm(1, 4, 3, separated=True), (5, 10), grows=True, free_terms=True
    )
    found, _ = NetworkSolver(heat, ansatz, EquationPolicy(), drawn).first_guess()
    at = low_discrepancy(box, 300, 0)
    wanted = at[:, 1] * (6 * torch.pi * at[:, 0]).sin() + at[:, 0]
    assert found.form.terms == 2
    assert found.intervals == 20
    assert float((values(found, at)[:, 0] - wanted).norm() / wanted.norm()) < 1e-3
