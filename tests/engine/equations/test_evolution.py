"""Evolution equations in windows: exact solutions, estimates, built-in conditions, the bands."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from made_systems import finished, parsed
from scipy.integrate import solve_ivp

from kanrun.engine.equations import Windows, evolution, evolution_solution
from kanrun.engine.equations.evolution import March, Marcher, next_intervals, next_length
from kanrun.engine.equations.evolution_solution import (
    MAX_WORK,
    PARTS,
    ComparedPlaces,
    _is_enough,
    _less_work,
    _Level,
    _level,
    _next_factor,
    _power,
    compared_places,
    growing_place,
    solve_evolution,
    window_residuals,
)
from kanrun.engine.equations.space import Space, with_kinks
from kanrun.engine.equations.system import evolution_system
from kanrun.engine.equations.window import EvolvingState, Part, Window, WindowProblem, window_field
from kanrun.engine.networks import from_description
from kanrun.errors import UsageError
from kanrun.formulas.equations import Vocabulary

BOX = {"x": [0, 1], "t": [0, 1]}


def make(variables, formula, conditions, unknowns=("u",)):
    return evolution_system(parsed(variables, formula, conditions, unknowns))


def solve(found, tolerance):
    return finished(solve_evolution(found, tolerance))


def compared(found, exact):
    """Return the values of a solution and the exact ones on a grid of its unit square."""
    x, t = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 53), np.linspace(0, 1, 47)))
    points = torch.as_tensor(np.stack([x, t], axis=1))
    return found.network(points)[:, 0].detach().numpy(), exact(x, t)


EXACT = {
    "heat": (
        "u_t = u_xx/10",
        ["u = 0 at x=0, x=1", "u = sin(pi*x) at t=0"],
        lambda x, t: np.exp(-(np.pi**2) * t / 10) * np.sin(np.pi * x),
    ),
    "wave": (
        "u_tt = u_xx",
        ["u = 0 at x=0, x=1", "u = sin(pi*x) at t=0", "u_t = 0 at t=0"],
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


@pytest.mark.parametrize("name", EXACT)
def test_exact_solutions_are_met_and_errors_estimated(name):
    formula, conditions, exact = EXACT[name]
    found = solve(make(BOX, formula, conditions), 1e-7)
    values, wanted = compared(found, exact)
    error = float(np.linalg.norm(values - wanted) / np.linalg.norm(wanted))
    assert found.solved_until == 1.0
    assert max(error, found.estimate) < 1e-7
    assert error < 10 * max(found.estimate, 1e-9)
    changes = [each.change for each in found.last]
    assert min(changes) < max(changes) < 4.001 * found.estimate  # the root of 16 parts


def test_derivatives_of_the_sixth_order():
    box, conditions = {"x": [0, 2 * np.pi], "t": [0, 0.05]}, ["periodic in x", "u = sin(x) at t=0"]
    found = solve(make(box, "u_t = u_xxxxxx - u_xxxxx", conditions), 1e-3)
    x, t = np.random.default_rng(0).random((2, 50)) * [[2 * np.pi], [0.05]]
    values = found.network(torch.as_tensor(np.stack([x, t], 1))).detach()[:, 0]
    np.testing.assert_allclose(values, np.exp(-t) * np.sin(x - t), atol=1e-8)
    with pytest.raises(UsageError, match="order 7; at most 6"):
        Vocabulary(("x", "t"), ("u",)).derivative("u_xxxxxxt")


def test_stiff_reaction_has_components_of_very_different_sizes():
    """Robertson's reaction (1966), against scipy's Radau method."""
    formula = ["a_t = -0.04*a + 1e4*b*c", "b_t = 0.04*a - 1e4*b*c - 3e7*b^2", "c_t = 3e7*b^2"]
    given = ["a = 1 at t=0", "b = 0 at t=0", "c = 0 at t=0"]
    found = solve(make({"t": [0, 40]}, formula, given, "abc"), 1e-8)

    def slope(_, y):
        a, b, c = y
        fast, slow = 3e7 * b**2, 1e4 * b * c - 0.04 * a
        return [slow, -slow - fast, fast]

    wanted = solve_ivp(slope, (0, 40), [1, 0, 0], "Radau", rtol=1e-10, atol=1e-14).y[:, -1]
    end = found.network(torch.tensor([[40.0]], dtype=torch.float64))[0].detach().numpy()
    np.testing.assert_allclose(end, wanted, rtol=1e-7)
    assert end.sum() == pytest.approx(1.0, abs=1e-13)


def test_windows_join_to_rounding_though_breakpoints_move():
    found = solve(
        make(
            {"x": [-1, 1], "t": [0, 0.5]},
            "u_t + u*u_x = 0.005*u_xx",
            ["u = 0 at x=-1, x=1", "u = -sin(pi*x) at t=0"],
        ),
        1e-4,
    )
    assert isinstance(found.network, Windows)
    assert len({window.intervals for window in found.last}) > 1
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    fields = list(found.network.fields)
    for before, after in itertools.pairwise(fields):
        points = torch.stack([x, before.box[-1, 1].expand(len(x))], dim=1)  # type: ignore[union-attr, index]
        for index, tolerance in (((0, 0), 1e-11), ((1, 0), 1e-9)):
            left, right = (each.derivatives(points, [index]) for each in (before, after))
            torch.testing.assert_close(left, right, rtol=0, atol=tolerance)
    again = from_description(found.network.describe())
    again.load_state_dict(found.network.state_dict())
    points = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([2.0, 0.5]) - torch.tensor(
        [1, 0]
    )
    torch.testing.assert_close(again(points), found.network(points))


@pytest.mark.parametrize(
    "formula, conditions",
    [
        ("u_t = u_xx", ["u = 0 at x=0, x=1"]),  # no initial values
        ("u_t = u_xx", ["u^2 = 1 at x=0", "u = 1 at x=1", "u = 1 at t=0"]),  # not linear
        ("u_xx = -u", ["u = 0 at x=0, x=1", "u = x at t=0"]),  # nothing evolves
        ("u_t = u_xx", ["u = 0 at x=0", "u = x at t=0"]),  # a condition is missing
        ("u_t = u_xx", ["u = u_t at x=0", "u = 0 at x=1", "u = 0 at t=0"]),
        ("u_t = u_xx", ["u = 0 at x=0.5, x=1", "u = x at t=0"]),  # inside
    ],
)
def test_other_systems_are_left_to_the_general_solver(formula, conditions):
    assert make(BOX, formula, conditions) is None


def test_initial_values_that_jump_leave_no_residual():
    system = make(BOX, "u_t = u_xx", ["u_x = 0 at x=0, x=1", "u = where(x < 0.5, 1, 0) at t=0"])
    assert solve(system, 1e-3).last[0].conditions.rms < 1e-4
    *_, march = Marcher(system, 1e-3).run()
    field, other = (window_field(each, system) for each in march.windows[:2])
    one = torch.ones(1, dtype=torch.float64)
    first, apart = (window_residuals(system, other, None, each)[1].rms for each in (one, 10 * one))
    assert first > 1e-4
    assert apart < 0.2 * first
    assert window_residuals(system, other, field, one)[1].rms < 1e-12


def test_corners_where_initial_values_contradict_walls_are_followed():
    system = make({"x": [0, 1], "t": [0, 0.1]}, "u_t = u_xx", ["u = 0 at x=0, x=1", "u = 1 at t=0"])
    *_, march = Marcher(system, 1e-4).run()
    odd = np.arange(1, 60, 2)
    x = np.linspace(0, 1, 41)
    exact = np.sin(np.pi * np.outer(x, odd)) @ (
        4 / np.pi / odd * np.exp(-((odd * np.pi) ** 2) / 10)
    )
    window = march.windows[-1]
    found = window.space.evaluate(window.at_end(system.orders)[0][:, 0], x)
    assert march.end == 0.1
    assert np.linalg.norm(found - exact) < 1e-6 * np.linalg.norm(exact)
    assert march.windows[0].end < 1e-10


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
    solution = solve(make(BOX, formula, conditions), 1e-5)
    np.testing.assert_allclose(*compared(solution, exact), atol=1e-9)
    assert len(solution.network.parts) < 50


def test_a_wall_value_that_jumps_is_met_from_then_on():
    conditions = ["u = heaviside(t - 0.2) at x=0", "u = 0 at x=1", "u = 0 at t=0"]
    solution = solve(make(BOX, "u_t = u_xx", conditions), 1e-3)
    assert max(each.conditions.rms for each in solution.last) < 1e-6
    assert solution.last[0].equation.rms < 1e-6
    assert not any(field.hard for field in solution.network.parts)  # Exports hold no formulas.
    x = np.linspace(0, 1, 9)
    modes = np.pi * np.arange(1, 60)
    for time, age in ((0.2, 0.0), (0.25, 0.05), (0.7, 0.5)):
        points = torch.as_tensor(np.stack([x, np.full(9, time)], axis=1))
        decay = 2 * np.exp(-(modes**2) * age) / modes
        wanted = 1 - x - np.sin(np.outer(x, modes)) @ decay if age else (x == 0)
        np.testing.assert_allclose(solution.network(points)[:, 0].detach(), wanted, atol=1e-5)


def test_a_window_too_short_for_breakpoints_in_units_of_time():
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = sin(2*pi*x) at t=0"])
    (window,) = next(Marcher(system, 1e-3).run()).windows
    short = replace(window, start=0.2, end=0.2 + 1e-15)
    found, again = (window_field(each, system).get_unknowns() for each in (window, short))
    assert torch.equal(found, again)


def test_more_kinks_than_breakpoints_between_which_they_could_be():
    kinks = np.repeat([0.3, 0.6], 2)
    assert with_kinks(np.array([0.0, 0.5, 1.0]), kinks).tolist() == [0, 0.3, 0.3, 0.5, 0.6, 0.6, 1]
    assert with_kinks(np.linspace(0, 1, 5), kinks).tolist() == [0, 0.3, 0.3, 0.6, 0.6, 0.75, 1]


def test_initial_values_with_a_kink_have_short_intervals_there_only():
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = abs(x - 0.3) at t=0"])
    space = next(Marcher(system, 1e-4).run()).windows[0].space
    width, middle = np.diff(space.breakpoints), (space.breakpoints[1:] + space.breakpoints[:-1]) / 2
    short = middle[width < 1e-4]
    near = np.minimum(np.abs(short - 0.3), np.minimum(short, 1 - short))
    assert len(short)
    assert near.max() < 1e-2


def test_unresolved_oscillations_of_second_order_do_not_shorten_windows():
    conditions = ["u = 0 at x=0, x=1", "u_xx = 0 at x=0, x=1", "u_t = 0 at t=0"]
    conditions.append("u = sin(pi*x) + sin(3*pi*x)/5 at t=0")
    system = make({"x": [0, 1], "t": [0, 0.2]}, "u_tt = -u_xxxx", conditions)
    *_, march = Marcher(system, 1e-6).run()
    assert march.end == 0.2
    assert len(march.windows) < 20


ILL_POSED = {
    "heat backwards": ("u_t = -u_xx", ["u = 0 at x=0, x=1", "u = sin(pi*x) at t=0"]),
    "negative diffusion where u is small": (
        "u_t = (u - 1/2)*u_xx + u_x^2",
        ["u_x = 0 at x=0, x=1", "u = 1 + cos(pi*x) at t=0"],
    ),
    "Laplace's equation": (
        "u_tt = -u_xx",
        ["u = 0 at x=0, x=1", "u = sin(pi*x) at t=0", "u_t = 0 at t=0"],
    ),
}
WELL_POSED = {
    "wave": ("u_tt = u_xx", ["periodic in x", "u = sin(2*pi*x) at t=0", "u_t = 0 at t=0"]),
    "short waves grow, the shortest decay": (
        "u_t = -u_xx - u_xxxx/100",
        ["periodic in x", "u = sin(2*pi*x) at t=0"],
    ),
    "dispersion": ("u_t = u*u_x - u_xxx", ["periodic in x", "u = sin(2*pi*x) at t=0"]),
    "growth of all waves alike": ("u_t = 50*u", ["periodic in x", "u = sin(2*pi*x) at t=0"]),
}


@pytest.mark.parametrize("name", ILL_POSED | WELL_POSED)
def test_ill_posed_equations_are_told_from_well_posed_ones(name):
    system = make(BOX, *(ILL_POSED | WELL_POSED)[name])
    (window,) = next(Marcher(system, 1e-3).run()).windows
    assert (growing_place(system, window_field(window, system)) is not None) == (name in ILL_POSED)


def level(tolerance=1e-3, work=0.0, **more):
    march = March([], 1.0, tolerance, work=work * MAX_WORK)
    return _Level(march, torch.zeros(0, 1), **more)


def test_next_tolerance_aims_at_the_wanted_error():
    second = partial(level, changes=torch.ones(PARTS), factor=0.1)
    assert _next_factor(level(), 1e-6) == 0.1
    assert _next_factor(second(change=0.11), 1e-6) == 0.1
    assert _next_factor(second(change=1e-8), 1e-6) == 0.1
    assert _next_factor(second(change=2.7e-4), 1e-6) == pytest.approx(0.01)
    assert _next_factor(second(change=2.7e-5, power=0.5), 1e-6) == 1e-3
    assert _next_factor(second(change=0.09), 1e-6) == 1e-3
    assert not _is_enough(second(work=100, change=0.91e-5), 1e-6)
    assert _is_enough(second(work=100, change=0.89e-5), 1e-6)
    assert not _is_enough(second(change=0.89e-5), 1e-6)
    assert _is_enough(second(change=1e-11), 1e-6)
    for power, factor in ((0.66, 1e-3), (0.67, 0.5), (2.0, 0.5**0.5)):  # the first of less work
        costly = second(work=0.01, change=0.09, work_power=power)
        assert _next_factor(costly, 1e-6) == pytest.approx(factor)


def test_a_tolerance_between_a_solution_and_one_of_too_much_work():
    long = March([], 0.5, 1e-6, work=0.5 * MAX_WORK, remaining=0.5 * MAX_WORK)
    done = level(1e-5, 1e-3)
    assert _less_work(long, done) == pytest.approx(1e-5 * 2 ** (-1 / 3))
    assert _less_work(replace(long, tolerance=1e-10), done) == pytest.approx(1e-5 / 2)
    for work, is_possible in ((0.49, True), (0.51, False)):
        assert (_less_work(long, level(1e-5, work)) is not None) == is_possible
    assert _less_work(long, None) == pytest.approx(1e-4)
    assert _less_work(replace(long, tolerance=1.1e-4), None) is None


def test_time_that_ran_out_is_said(monkeypatch):
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = sin(2*pi*x) at t=0"])
    ends = iter([False] * 3)
    for module in (evolution, evolution_solution):
        monkeypatch.setattr(module, "time_limit_reached", lambda: next(ends, True))
    assert solve(system, 1e-6).stopped == "CPU time ran out"


def test_an_error_at_the_end_counts_as_one_in_the_whole_range():
    system = make({"t": [0, 1]}, "u_t = -u", ["u = 1 at t=0"])
    *_, march = Marcher(system, 1e-3).run()
    points, parts = np.linspace(0, 1, 160)[:, None], torch.arange(160) // 10
    places = ComparedPlaces(points, torch.ones(160, dtype=torch.float64), parts)
    first = _level(system, replace(march, tolerance=1e-2), places, None)
    size = float(first.values.square().mean().sqrt())
    for end, change in ((0.3, 0.3), (0.01, 0.1)):
        moved = torch.full_like(first.values, 0.1)
        moved[-10:] = end
        found = _level(system, march, places, replace(first, values=first.values + moved))
        assert found.change == pytest.approx(change / size, rel=0.04)


def test_estimates_count_the_error_of_splines_that_all_solutions_begin_with():
    system = make(
        {"x": [0, 1], "t": [0, 1]},
        "u_t = u_xx*4e-10 - u",
        [
            "u = cos(3*x) - exp(-x*5e4) at t=0",
            "u = 0 at x=0",
            "u = exp(-t*(1 + 9*4e-10))*cos(3) at x=1",
        ],
    )
    march = March([], 0.0, 1e-5)
    Marcher(system, 1e-5)._first_state(march)
    assert 1e-12 < march.initial_error < 1e-7
    assert (
        replace(level(changes=torch.ones(PARTS), change=0.0), march=march).estimate
        == march.initial_error
    )


def test_compared_places_see_a_narrow_cell():
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = sin(2*pi*x) at t=0"])
    march = next(Marcher(system, 1e-3).run())
    (window,) = march.windows
    (part,), *_ = window.parts
    narrow = replace(part, space=replace(part.space, breakpoints=np.array([0.0, 0.5, 0.501, 1.0])))
    march = replace(march, windows=[replace(window, parts=((narrow,),))])
    points, weights, _ = compared_places(system, march)
    inside = (points[:, 0] > 0.5) & (points[:, 0] < 0.501)
    assert inside.sum() > len(points) / 8  # a third of the half that is spread
    assert float(weights[inside].sum() / weights.sum()) == pytest.approx(1e-3, rel=0.1)


def test_breakpoints_are_added_before_a_front_steepens(monkeypatch):
    """A front whose width falls by half in a window needs them within that window."""
    system = make(
        {"x": [-1, 1], "t": [0, 1]},
        "u_t = u_xx/10000 - 5*u^3 + 5*u",
        ["periodic in x", "u = cos(pi*x) at t=0"],
    )

    def worst():
        *_, march = Marcher(system, 1e-5).run()
        return max(e.space.error(e.at_end(system.orders)[0][:, 0]) for e in march.windows)

    foreseen = worst()
    monkeypatch.setattr(evolution, "FORESEEN", 1.0)
    assert foreseen < min(1e-5, 0.3 * worst())


def test_errors_fall_as_they_did_where_changes_are_small():
    first = torch.tensor([0.0009, 0.009, 0.09, 0.11, 1.0])
    assert _power(first, 0.1 * first, 0.1) == pytest.approx(1.0)
    assert _power(first, first / 3, 0.1) == pytest.approx(np.log10(3))
    later = torch.cat([0.1 * first[:3], first[3:]])
    assert _power(first, later, 0.1) == pytest.approx(1.0)
    assert _power(10 * first[3:], first[3:], 0.1) == 1.0
    assert _power(first, 2 * first, 0.1) == 0.0
    assert _power(first, 0.01 * first, 0.1) == 1.0


def test_a_solution_of_too_much_work_is_one_of_a_larger_tolerance(monkeypatch):
    system = make(BOX, "u_t + u_x = 0", ["periodic in x", "u = exp(sin(2*pi*x)) at t=0"])
    full = solve(system, 1e-6)
    monkeypatch.setattr(evolution_solution, "MAX_WORK", 2e3)
    less = solve(system, 1e-6)
    assert less.solved_until == 1
    assert "CPU seconds" in less.stopped
    assert len(less.last) < len(full.last)
    points = torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right, found = (each.network(points).detach() for each in (full, less))
    assert float((found - right).norm() / right.norm()) < 10 * less.estimate


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_solutions_of_two_tolerances_differ_where_all_windows_double(tolerance):
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = sin(2*pi*x) at t=0"])
    ends = [next(Marcher(system, each).run()).end for each in (tolerance, tolerance / 10)]
    assert ends[1] < 0.9 * ends[0]


@pytest.mark.parametrize(
    "last, factor", [(1.0, 0.9), (2.0**-7, 1.8), (1e-9, 2.0), (3.0**7, 0.3), (1e9, 0.2)]
)
def test_the_next_window_is_as_long_as_its_last_coefficient_allows(last, factor):
    assert next_length(3.0, last) == pytest.approx(3 * factor)


@pytest.mark.parametrize(
    "error, intervals, found",
    [
        # Added above SPLINE_ERROR = 0.02, taken away below SUPERFLUOUS = 1 % of it.
        (0.0201, 100, 119),
        (0.0199, 100, None),
        (2.01e-4, 100, None),
        (1.99e-4, 100, 81),
        (1.99e-4, 14, None),
        (1.99e-4, 16, 14),
        (0.02 * 2.0**5, 100, 151),
        (1e9, 100, 151),
        (1.0, 3000, 4000),
    ],
)
def test_breakpoints_follow_the_expected_error(error, intervals, found):
    assert next_intervals(intervals, 14, error) == found


@pytest.mark.parametrize("front, expected", [(29.0, 29.0), (31.0, 30.0), (0.5, 1.0)])
def test_growing_errors_are_expected_to_go_on_growing(front, expected, monkeypatch):
    found, space = [], Space(np.linspace(0, 1, 9), ((None, None),), periodic=True)
    monkeypatch.setattr(Space, "error", lambda self, c: float(abs(c).max()))
    marcher = Marcher(make(BOX, "u_t = u_xx", ["periodic in x", "u = 1 at t=0"]), 0.5)

    def keep(intervals, fewest, error):
        found.append(error)

    monkeypatch.setattr(evolution, "next_intervals", keep)
    start, end = (EvolvingState(space, [np.full((8, 1), size)]) for size in (1.0, front))
    assert marcher._next_state(start, end, 0.5) is end
    assert found == [pytest.approx(front * expected / 0.5)]


class ScriptedWindow(WindowProblem):
    """Steps of these sizes, and Jacobians that are counted."""

    def __init__(self, *changes):
        self.changes, self.unknowns, self.n_jacobians = iter(changes), torch.zeros(1), 0

    def residual(self, unknowns):
        return torch.zeros(1)

    def rows(self, unknowns):
        self.n_jacobians += 1

    def largest_change(self, move):
        return next(self.changes)


@pytest.mark.parametrize(
    "changes, steps, jacobians, solved",
    [
        # Converged below 1e-3 tolerances, or below 1e-2 where steps no longer halve.
        ((1.0, 0.99e-6), 2, 2, True),
        ((1.0, 0.2, 1.01e-6, 0.4e-6), 4, 3, True),
        ((1.0, 9.9e-6, 5e-6), 3, 2, True),
        ((1.0, 9.9e-6, 4.9e-6, 0.9e-6), 4, 3, True),
        ((1.0, 0.2, 1.01e-5, 1.0001e-5, 0.9e-5), 5, 4, True),
        # A new Jacobian where a step is not ten times smaller than the one before.
        ((0.09, 0.0089, 0.9e-6), 3, 1, True),
        ((0.11, 0.0109, 0.9e-6), 3, 2, True),
        ((0.09, 0.0091, 0.9e-6), 3, 2, True),
        ((0.99e6, 1.01e6), 2, 2, False),
        ((1.0,) * 12, 12, 12, False),
    ],
)
def test_steps_of_a_window_end(changes, steps, jacobians, solved, monkeypatch):
    monkeypatch.setattr(evolution, "gauss_newton", lambda rows: lambda residual: torch.ones(1))
    problem = ScriptedWindow(*changes)
    marcher = Marcher(make({"t": [0, 1]}, "u_t = -u", ["u = 1 at t=0"]), 1e-3)
    unknowns, taken = marcher._solved(problem)
    assert (taken, problem.n_jacobians, unknowns is not None) == (steps, jacobians, solved)


def test_intervals_grow_with_the_accuracy_and_follow_a_solution_before():
    system = make(BOX, "u_t = u_xx", ["periodic in x", "u = 1 at t=0"])
    assert Marcher(system, 1e-14)._fewest(20, 0.0) == 200
    assert Marcher(system, 1e2)._fewest(20, 0.0) == 8
    march = next(Marcher(system, 1e-6).run())
    assert (march.end, march.windows[0].space.intervals) == (1 / 64, 20)
    assert Space(np.linspace(0, 2, 5), ()).gauss.shares.sum() == pytest.approx(1)

    def window(start, end, intervals):
        space = Space(np.linspace(0, 1, intervals + 1), ((None, None),), periodic=True)
        return Window(start, end, ((Part(space, np.zeros((intervals, 8))),),))

    windows = [window(0.0, 0.9e-3, 50), window(0.1, 0.1 + 1.1e-3, 40), window(0.5, 0.9, 30)]
    marcher = Marcher(system, 1e-14, March(windows, 1.0, 1e-6))
    assert [marcher._fewest(20, time) for time in (0.0, 0.2, 0.91)] == [400, 300, 200]


def test_formulas_jump_inside_the_range_only():
    jumps = "heaviside(t) + heaviside(t - 1) + heaviside(t - 0.4)"
    found = parsed({"t": [0, 1]}, f"u_t = {jumps}", ["u = 0 at t=0"]).jumps(0)
    assert found == pytest.approx([0.4])
