"""Evolution equations in slabs of time: errors, estimates, boundary conditions, jumps."""

import itertools

import numpy as np
import pytest
import torch
from cases import cases, refuses
from made_systems import BOX, WALLS, evolution, finished, marched, parsed

from kanrun.engine.equations import EquationPolicy, Field, Windows, controller, slab_solution
from kanrun.engine.equations import solve as solve_any
from kanrun.engine.equations.controller import Controller, march_to_end
from kanrun.engine.equations.slab import slab_field
from kanrun.engine.equations.slab_solution import growing_place, slab_residuals, solve_evolution
from kanrun.formulas.equation_syntax import Vocabulary


def compared(network, exact):
    """Return values of a network and the exact solution on a grid of the unit square."""
    x, t = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 53), np.linspace(0, 1, 47)))
    points = torch.as_tensor(np.stack([x, t], axis=1))
    return network(points)[:, 0].detach().numpy(), exact(x, t)


EXACT = {
    "heat": (
        "u_t = u_xx/10",
        [WALLS, "u = sin(pi*x) at t=0"],
        lambda x, t: np.exp(-(np.pi**2) * t / 10) * np.sin(np.pi * x),
    ),
    "wave": (
        "u_tt = u_xx",
        [WALLS, "u = sin(pi*x) at t=0", "u_t = 0 at t=0"],
        lambda x, t: np.cos(np.pi * t) * np.sin(np.pi * x),
    ),
    "transport around a ring": (
        "u_t + u_x = 0",
        ["periodic in x", "u = exp(sin(2*pi*x)) at t=0"],
        lambda x, t: np.exp(np.sin(2 * np.pi * (x - t))),
    ),
    "given slopes and a mixed condition that change in time": (
        "u_t = u_xx + x^2*exp(-t)",
        ["u_x = 0 at x=0", "u + 2*u_x = -3*exp(-t) at x=1", "u = 2 - x^2 at t=0"],
        lambda x, t: np.exp(-t) * (2 - x**2),
    ),
    "nonlinear, moving walls": (
        "u_t + u*u_x = 0.1*u_xx",
        [
            "u = 1 - tanh((0-t)/0.2) at x=0",
            "u = 1 - tanh((1-t)/0.2) at x=1",
            "u = 1 - tanh(x/0.2) at t=0",
        ],
        lambda x, t: 1 - np.tanh((x - t) / 0.2),
    ),
}


def error_of(network, exact):
    values, wanted = compared(network, exact)
    return float(np.linalg.norm(values - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", EXACT)
def test_errors_are_below_the_tolerance_and_estimates_close_to_them(name):
    formula, conditions, exact = EXACT[name]
    found = marched(BOX, formula, conditions, 1e-7)
    error = error_of(found.network, exact)
    assert found.solved_until == 1.0
    assert max(error, found.estimate) < 1e-7
    assert 0.3 * error < found.estimate < 3 * error + 1e-12
    assert max(each.change for each in found.last) < 10 * found.estimate
    system = evolution(BOX, formula, conditions)
    for tolerance in (1e-3, 1e-5):
        march = march_to_end(system, tolerance, np.inf)
        error = error_of(Windows([slab_field(each, system) for each in march.slabs]), exact)
        assert 0.3 * error < march.estimate < 3 * error + 1e-13


@pytest.mark.parametrize("formula", ["u_t = -1/(2*u)", "u_t = u^2"])
def test_solution_stops_where_it_ceases_to_exist(formula):
    found = marched({"t": [0, 2]}, formula, ["u = 1 at t=0"], 1e-6)
    assert found.solved_until == pytest.approx(1.0, abs=1e-6)
    assert found.stopped == "slabs became too short"


def test_estimates_include_growing_errors_and_the_error_of_the_initial_values():
    system = evolution({"t": [0, 3]}, "u_t = 4*u - 3*exp(t)", ["u = 1 at t=0"])
    march = march_to_end(system, 1e-6, np.inf)
    end = march.slabs[-1].values(np.zeros(1), np.ones(1))[0, 0, 0]
    error = abs(end - np.exp(3)) / march.sizes()[0]
    assert error > 10 * march.accepted[0].errors[0] ** 0.5
    assert 0.3 * error < march.estimate < 3 * error
    layer = ["u = cos(3*x) - exp(-x*5e4) at t=0", "u = 0 at x=0", "u = exp(-t)*cos(3) at x=1"]
    start = Controller(evolution(BOX, "u_t = u_xx*4e-10 - u", layer), 1e-5)
    x = np.geomspace(1e-7, 1e-3, 400)
    state = start.state
    left = np.cos(3 * x) - np.exp(-x * 5e4)
    left -= state.space.evaluate(state.values[0], x)[:, 0]
    carried = start.error.space.evaluate(start.error.values[0], x)[:, 0]
    assert 1e-12 < np.abs(left).max() < 1e-7
    np.testing.assert_allclose(carried, left, atol=0.3 * np.abs(left).max())


def test_too_large_an_estimate_makes_the_solver_lower_its_local_tolerance(monkeypatch):
    growing = {"t": [0, 3]}, "u_t = 9*u - 8*exp(t)", ["u = 1 at t=0"]
    monkeypatch.setattr(slab_solution, "CHEAP", 0.0)
    assert march_to_end(evolution(*growing), 1e-6, np.inf).estimate > 1e-5
    found = marched(*growing, 1e-5)
    assert found.estimate < 1e-5
    assert not found.stopped


def test_estimates_count_rounding_where_formulas_are_narrow():
    narrow = "u_t = 1e5*exp(-((t - 0.43)*1e5)^2)"
    assert 1e-11 < marched({"t": [0, 1]}, narrow, ["u = 0 at t=0"], 1e-6).estimate < 1e-7


def test_derivatives_of_the_sixth_order():
    box = {"x": [0, 2 * np.pi], "t": [0, 0.05]}
    conditions = ["periodic in x", "u = sin(x) at t=0"]
    found = marched(box, "u_t = u_xxxxxx - u_xxxxx", conditions, 1e-8, 3.0)
    x, t = np.random.default_rng(0).random((2, 50)) * [[2 * np.pi], [0.05]]
    values = found.network(torch.as_tensor(np.stack([x, t], 1))).detach()[:, 0]
    np.testing.assert_allclose(values, np.exp(-t) * np.sin(x - t), atol=1e-8)
    with refuses("order 7; the order can be at most 6"):
        Vocabulary(("x", "t"), ("u",)).derivative("u_xxxxxxt")


def test_stiff_reaction_has_components_of_very_different_sizes():
    """Robertson's chemical reaction (1966), compared with the values of Hairer and Wanner."""
    formula = ["a_t = -0.04*a + 1e4*b*c", "b_t = 0.04*a - 1e4*b*c - 3e7*b^2", "c_t = 3e7*b^2"]
    given = ["a = 1 at t=0", "b = 0 at t=0", "c = 0 at t=0"]
    found = finished(solve_evolution(evolution({"t": [0, 40]}, formula, given, "abc"), 1e-8))
    end = found.network(torch.tensor([[40.0]], dtype=torch.float64))[0].detach().numpy()
    wanted = [0.7158270687194, 9.185534764558e-6, 0.2841637457459]
    np.testing.assert_allclose(end, wanted, rtol=1e-7)
    assert end.sum() == pytest.approx(1.0, abs=1e-13)


def test_windows_with_different_breakpoints_join_up_to_rounding():
    burgers = "u_t + u*u_x = 0.005*u_xx"
    given = ["u = 0 at x=-1, x=1", "u = -sin(pi*x) at t=0"]
    found = marched({"x": [-1, 1], "t": [0, 0.5]}, burgers, given, 1e-4)
    assert isinstance(found.network, Windows)
    assert len({window.intervals for window in found.last}) > 1
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    fields = list(found.network.fields)
    for before, after in itertools.pairwise(fields):
        points = torch.stack([x, before.box[-1, 1].expand(len(x))], dim=1)  # type: ignore[union-attr, index]
        for index, tolerance in (((0, 0), 1e-11), ((1, 0), 1e-9)):
            left, right = (each.derivatives(points, [index]) for each in (before, after))
            torch.testing.assert_close(left, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "formula, conditions",
    cases("""
u_t = u_xx | ['u = 0 at x=0, x=1']
u_t = u_xx | ['u^2 = 1 at x=0', 'u = 1 at x=1', 'u = 1 at t=0']
u_xx = -u | ['u = 0 at x=0, x=1', 'u = x at t=0']
u_t = u_xx | ['u = 0 at x=0', 'u = x at t=0']
u_t = u_xx | ['u = u_t at x=0', 'u = 0 at x=1', 'u = 0 at t=0']
u_t = u_xx | ['u = 0 at x=0.5, x=1', 'u = x at t=0']
"""),
)
def test_time_stepping_declines_systems_it_cannot_solve(formula, conditions):
    """They lack initial values, linearity, a time derivative, or a condition at an end."""
    assert evolution(BOX, formula, conditions) is None


def test_jump_in_initial_values_leaves_a_small_residual_of_the_conditions():
    jumping = BOX, "u_t = u_xx", ["u_x = 0 at x=0, x=1", "u = where(x < 0.5, 1, 0) at t=0"]
    assert marched(*jumping, 1e-3, 3.0).last[0].conditions.rms < 1e-4
    system = evolution(*jumping)
    *_, march = Controller(system, 1e-3).run()
    field, other = (slab_field(each, system) for each in march.slabs[:2])
    one = torch.ones(1, dtype=torch.float64)
    first, apart = (slab_residuals(system, other, None, each)[1].rms for each in (one, 10 * one))
    assert first > 1e-4
    assert apart < 0.2 * first
    assert slab_residuals(system, other, field, one)[1].rms < 1e-12


def test_solution_is_accurate_where_initial_values_contradict_walls():
    system = evolution({"x": [0, 1], "t": [0, 0.1]}, "u_t = u_xx", [WALLS, "u = 1 at t=0"])
    *_, march = Controller(system, 1e-4).run()
    odd = np.arange(1, 60, 2)
    x = np.linspace(0, 1, 41)
    exact = np.sin(np.pi * np.outer(x, odd)) @ (
        4 / np.pi / odd * np.exp(-((odd * np.pi) ** 2) / 10)
    )
    window = march.slabs[-1]
    found = window.space.evaluate(window.at_end(system.orders)[0][:, 0], x)
    assert march.end == 0.1
    assert np.linalg.norm(found - exact) < 1e-6 * np.linalg.norm(exact)
    assert march.slabs[0].end < 1e-10


JUMPING = "where(x < 0.4, 1, -1)"


@pytest.mark.parametrize(
    "formula, conditions, exact",
    [
        (  # a source that jumps in space
            f"u_t = u_xx + {JUMPING}*((x - 0.4)^2/2 - 1 - t)",
            [
                "u = 0.08*(1 + t) at x=0",
                "u = -0.18*(1 + t) at x=1",
                f"u = {JUMPING}*(x - 0.4)^2/2 at t=0",
            ],
            lambda x, t: (1 + t) * np.where(x < 0.4, 1, -1) * (x - 0.4) ** 2 / 2,
        ),
        (  # a source, and values at a wall, that change in time
            "u_t = u_xx + x*sign(t - 0.3)",
            ["u = 0 at x=0", "u = abs(t - 0.3) at x=1", "u = 0.3*x at t=0"],
            lambda x, t: x * np.abs(t - 0.3),
        ),
    ],
)
def test_formulas_that_jump_in_space_and_time(formula, conditions, exact):
    solution = marched(BOX, formula, conditions, 1e-5)
    np.testing.assert_allclose(*compared(solution.network, exact), atol=1e-9)
    assert len(solution.network.parts) <= 50  # the last digit of an estimate adds one


def test_a_wall_value_that_jumps_is_met_from_then_on():
    conditions = ["u = heaviside(t - 0.2) at x=0", "u = 0 at x=1", "u = 0 at t=0"]
    solution = marched(BOX, "u_t = u_xx", conditions, 1e-3, 3.0)
    assert max(each.conditions.rms for each in solution.last) < 1e-6
    assert solution.last[0].equation.rms < 1e-6
    x = np.linspace(0, 1, 9)
    modes = np.pi * np.arange(1, 60)
    for time, age in ((0.2, 0.0), (0.25, 0.05), (0.7, 0.5)):
        points = torch.as_tensor(np.stack([x, np.full(9, time)], axis=1))
        decay = 2 * np.exp(-(modes**2) * age) / modes
        wanted = 1 - x - np.sin(np.outer(x, modes)) @ decay if age else (x == 0)
        np.testing.assert_allclose(solution.network(points)[:, 0].detach(), wanted, atol=1e-5)


def test_initial_values_with_a_kink_have_short_intervals_there_only():
    system = evolution(BOX, "u_t = u_xx", ["periodic in x", "u = abs(x - 0.3) at t=0"])
    space = next(Controller(system, 1e-4).run()).slabs[0].space
    width = np.diff(space.breakpoints)
    middle = (space.breakpoints[1:] + space.breakpoints[:-1]) / 2
    short = middle[width < 1e-4]
    near = np.minimum(np.abs(short - 0.3), np.minimum(short, 1 - short))
    assert len(short)
    assert near.max() < 1e-2


def test_unresolved_oscillations_of_second_order_do_not_shorten_windows():
    conditions = [WALLS, "u_xx = 0 at x=0, x=1", "u_t = 0 at t=0"]
    conditions.append("u = sin(pi*x) + sin(3*pi*x)/5 at t=0")
    system = evolution({"x": [0, 1], "t": [0, 0.2]}, "u_tt = -u_xxxx", conditions)
    *_, march = Controller(system, 1e-6).run()
    assert march.end == 0.2
    assert len(march.slabs) < 20


RING = ["periodic in x", "u = sin(2*pi*x) at t=0"]


@pytest.mark.parametrize(
    "formula, conditions, ill_posed",
    [
        ("u_t = -u_xx", [WALLS, "u = sin(pi*x) at t=0"], True),
        (  # negative diffusion where u is small
            "u_t = (u - 1/2)*u_xx + u_x^2",
            ["u_x = 0 at x=0, x=1", "u = 1 + cos(pi*x) at t=0"],
            True,
        ),
        ("u_tt = -u_xx", [WALLS, "u = sin(pi*x) at t=0", "u_t = 0 at t=0"], True),
        ("u_tt = u_xx", [*RING, "u_t = 0 at t=0"], False),
        ("u_t = -u_xx - u_xxxx/100", RING, False),  # short waves grow, the shortest decay
        ("u_t = u*u_x - u_xxx", RING, False),
        ("u_t = 50*u", RING, False),  # all waves grow alike
    ],
)
def test_ill_posed_equations_are_recognised(formula, conditions, ill_posed):
    system = evolution(BOX, formula, conditions)
    (window,) = next(Controller(system, 1e-3).run()).slabs
    assert (growing_place(system, slab_field(window, system)) is not None) == ill_posed


def test_solution_reports_that_cpu_time_ran_out(monkeypatch):
    ends = iter([False] * 3)
    monkeypatch.setattr(controller, "time_limit_reached", lambda: next(ends, True))
    assert marched(BOX, "u_t = u_xx", RING, 1e-6).stopped == "CPU time ran out"


def test_jumps_at_the_ends_of_the_range_do_not_count():
    jumps = "heaviside(t) + heaviside(t - 1) + heaviside(t - 0.4)"
    found = parsed({"t": [0, 1]}, f"u_t = {jumps}", ["u = 0 at t=0"]).jumps(0)
    assert found == pytest.approx([0.4])


def test_an_initial_guess_is_refused():
    heat = evolution(BOX, "u_t = u_xx", [WALLS, "u = sin(pi*x) at t=0"])
    drawn = torch.Generator().manual_seed(0)
    guess = object.__new__(Field)
    with refuses("start from initial values"):
        finished(solve_any(heat, heat, EquationPolicy(), drawn, first=guess))
