"""Features narrower than the grid are found in formulas and in residuals at new points."""

from functools import partial

import numpy as np
import pytest
import torch
from made_systems import BOX, LINE, SQUARE, WALLS, directly, evolution, marched, parsed

from kanrun.engine.equations import EquationPolicy, controller, tensor_solution
from kanrun.engine.equations.audit import ValueScan, crossings
from kanrun.engine.equations.controller import Controller
from kanrun.engine.equations.scan import PLACES, resolved_cells

TIME = {"t": [0, 1]}


def make(formula, conditions=("u = 0 at t=0",), variables=TIME):
    return evolution(variables, formula, list(conditions))


def solve(formula, *conditions, tolerance=1e-6, budget=60.0, variables=TIME):
    return marched(variables, formula, conditions or ["u = 0 at t=0"], tolerance, budget)


def at(found, *point):
    return float(found.network(torch.tensor([point], dtype=torch.float64)).detach()[0, 0])


PULSES = {
    "gaussian": lambda s: f"exp(-({s})^2)",
    "sech2": lambda s: f"sech({s})^2",
    "lorentz": lambda s: f"1/(1 + ({s})^2)",
    "two steps": lambda s: f"(tanh(({s}) + 3) - tanh(({s}) - 3))/2",
    "bump": lambda s: f"where(abs({s}) < 1, exp(-1/max(1 - ({s})^2, 1e-3)), 0)",
    "burst": lambda s: f"sin(5*({s}))*exp(-({s})^2)",
}


@pytest.mark.parametrize("name", PULSES)
@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4, 1e-5])
def test_scan_finds_pulses_at_any_place(name, width):
    for place in np.random.default_rng(0).uniform(0.02, 0.98, 3):
        pulse = PULSES[name](f"(t - {place:.9f})/{width}")
        system = make(f"u_t = {pulse}")
        cells = system.scan.cells[0]
        number = np.searchsorted(cells, place)
        assert cells[number] - cells[number - 1] < 8 * width
        narrow = system.scan.narrow(0)
        assert np.abs(narrow - place).min() < 4 * width


@pytest.mark.parametrize("more", ["", " + exp(t*u)"], ids=["of u alone", "of u and t"])
def test_scan_finds_narrow_bumps_between_any_values_of_an_unknown(more):
    for place in np.random.default_rng(1).uniform(0, 1, 20):
        scan = ValueScan(make(f"u_t = 1 + {PULSES['bump'](f'(u - {place:.9f})/1e-5')}{more}"))
        found = scan(0, np.array([0.0, 1.0]))
        assert np.abs(found - place).min() < 1e-5


def test_scan_refines_no_cells_where_terms_are_smooth():
    system = make(
        "u_t = u_xx*cos(x) + exp(-t)*sin(20*x) + x^2*u*u_x + exp(x - t)",
        [WALLS, "u = 0 at t=0"],
        BOX,
    )
    assert [len(each) for each in system.scan.cells] == [65, 65]
    assert not system.scan.is_crossed
    assert not len(system.scan.narrow(0))
    assert not make("u_t = -3*u + u^3 + t^2").scan.terms


@pytest.mark.parametrize("periods", [2**10, 1e5, 2**17, 2**20])
def test_scan_resolves_waves_whose_period_divides_the_first_cells(periods):
    wave = partial(lambda p, t: np.sin(2 * np.pi * p * t), periods)
    assert len(resolved_cells([wave], 0.0, 1.0)) > 500


def test_scan_finds_terms_that_are_narrow_in_two_variables_together():
    spot = "exp(-((x - 0.4321)/1e-3)^2 - ((t - 0.7123)/1e-3)^2)"
    assert make(f"u_t = u_xx + {spot}", [WALLS, "u = 0 at t=0"], BOX).scan.is_crossed
    smooth = parsed(SQUARE, "u_xx + u_yy = cos(x*y)", ["u = 0 at x=0, x=1, y=0, y=1"])
    assert not smooth.scan.is_crossed


def test_scan_covers_only_the_range_of_an_unknown():
    narrow = ValueScan(make("u_t = 1 - 0.9*exp(-((u - 0.5)/1e-5)^2)"))
    assert not len(narrow(0, np.array([0.0, 0.1])))
    assert not len(ValueScan(make("u_t = u^2"))(0, np.array([0.0, 1.0])))
    # A term in time and an unknown may be narrow at any value of the unknown.
    crossed = ValueScan(make("u_t = 1/(1 + ((u - t)/1e-4)^2)"))(0, np.array([0.0, 1.0]))
    assert np.diff(crossed).max() < 2 * 3 / PLACES * 2


def test_crossings_are_where_a_piecewise_linear_function_takes_given_values():
    at = np.array([0.0, 1.0, 3.0])
    values = np.array([0.0, 2.0, 1.0])
    assert crossings(at, values, np.array([0.5, 1.5, 5.0])).tolist() == [0.25, 0.75, 2.0]
    assert not len(crossings(at, values, np.zeros(0)))


def test_source_pulse_is_not_stepped_over():
    found = solve("u_t = exp(-((t-0.7123)/1e-4)^2)*5641.9")
    wanted = 5641.9e-4 * np.sqrt(np.pi)
    assert at(found, 1.0) == pytest.approx(wanted, rel=1e-10)
    assert 1e-12 <= found.estimate < 1e-6
    assert found.doubt is None


def test_jump_just_before_the_end_of_a_slab_is_not_stepped_over():
    """A slab that ended 3e-9 after the jump once missed 2e-5 of the integral."""
    place = 1.778
    width = 5.887e-5
    height = 0.7389
    pulse = f"where(abs(t - {place}) < {width}, {height}/(2*{width}), 0)"
    formula = f"u_t = 3.924*cos(3.924*t) + {pulse}"
    start = f"u = {-height / 2} at t=0"
    found = solve(formula, start, variables={"t": [0, 4.869]})
    error = abs(at(found, 4.869) - np.sin(3.924 * 4.869) - height / 2)
    assert not found.doubt
    assert error < 10 * found.estimate < 1e-5


def test_narrow_rate_of_an_unknown_is_not_stepped_over():
    """The time until u is the integral of 1/rate, a series of Gaussians."""
    found = solve("u_t = 1 - 0.9*exp(-((u-0.5)/1e-3)^2)")
    assert at(found, 1.0) == pytest.approx(0.9928712784766738, rel=1e-9)


@pytest.mark.slow
def test_heat_source_in_time_is_not_stepped_over():
    source = "exp(-((t - 0.04321)/5e-5)^2)/5e-5*sin(pi*x)"
    box = {"x": [0, 1], "t": [0, 0.1]}
    given = WALLS, "u = 0 at t=0"
    found = solve(f"u_t = u_xx + {source}", *given, variables=box, tolerance=1e-4)
    decay = np.exp(-(np.pi**2) * (0.1 - 0.04321))
    assert at(found, 0.5, 0.1) == pytest.approx(np.sqrt(np.pi) * decay, rel=1e-5)


def test_slabs_have_breakpoints_where_a_source_is_narrow():
    source = "2000*exp(-((x - 0.4321)/5e-4)^2)"
    system = make(f"u_t = u_xx + {source}", [WALLS, "u = 0 at t=0"], BOX)
    march = next(Controller(system, 1e-4).run())
    space = march.slabs[0].space
    near = np.abs(space.breakpoints - 0.4321) < 1e-3
    assert near.sum() > 2
    assert len(space.breakpoints) < 80


def test_initial_values_narrower_than_the_first_intervals_are_seen():
    system = make("u_t = u_xx/1e6", [WALLS, "u = exp(-((x - 0.4321)/1e-5)^2) at t=0"], BOX)
    state = Controller(system, 1e-4).state
    assert state.space.evaluate(state.values[0], np.array([0.4321]))[0, 0] == pytest.approx(
        1, abs=1e-3
    )


def test_pulse_too_narrow_for_any_slab_makes_the_solution_doubtful(monkeypatch):
    monkeypatch.setattr(controller, "MAX_REFUSALS", 0)
    found = solve("u_t = exp(-((t-0.7123)/1e-4)^2)*5641.9", tolerance=1e-2)
    assert "within a width that no grid here resolves, as at t=0.71" in found.doubt
    assert found.unseen > 0.1


def test_boundary_value_problem_has_breakpoints_where_it_is_narrow():
    formula = "u_xx = exp(-((x - 0.4321)/1e-4)^2)/1e-4"
    found = directly(parsed(LINE, formula, [WALLS]), [8], grows=True)
    wanted = -np.sqrt(np.pi) * 0.4321 * 0.5
    assert at(found, 0.5) == pytest.approx(wanted, rel=1e-6)
    assert found.estimate >= 1e-11


def test_estimate_covers_an_error_on_which_two_grids_agree():
    """The flux u_x / (1 + pulse) is constant; two grids agree on a wrong step of the solution."""
    pulse = "5e4/(pi*(1 + ((x - 0.5432)/1e-5)^2))"
    system = parsed(LINE, f"(u_x/(1 + {pulse}))_x = 0", ["u = 0 at x=0", "u = 1 at x=1"])
    found = directly(system, [8], grows=True)
    step = 0.5 * np.arctan([0.4432e5, 0.4568e5]) / np.pi
    wanted = (0.1 + 0.5 * np.arctan(-0.4432e5) / np.pi + step[0]) / (1 + step.sum())
    assert abs(at(found, 0.1) - wanted) < 10 * found.estimate


def test_boundary_value_problem_that_no_grid_resolves_is_doubtful(monkeypatch):
    monkeypatch.setattr(tensor_solution, "narrow_ends", lambda ends: ends[:0])
    formula = "u_xx = sin(3*x) + exp(-((x - 0.4321)/1e-4)^2)/1e-4"
    found = directly(parsed(LINE, formula, [WALLS]), (8, 16))
    assert "within a width that no grid here resolves, as at x=0.432" in found.doubt
    assert found.unseen > 1e-3


def test_both_solvers_stop_when_the_budget_is_spent():
    burst = "sin(2*pi*5e4*t)*exp(-((t - 0.35)/0.02)^2)*1000"
    found = solve(f"u_t = {burst} - u", budget=0.5)
    assert found.stopped == "the budget is spent"
    assert 0 < found.solved_until < 1
    formula = "u_xx + u_yy = u^3 - x"
    system = parsed(SQUARE, formula, ["u = 0 at x=0, x=1, y=0, y=1"])
    policy = EquationPolicy(budget=0.05)
    stages = directly(system, [8], 1e-9, grows=True, policy=policy)
    assert stages.stopped == "the budget is spent"


def test_scan_ends_where_terms_are_not_finite():
    assert len(make("u_t = 1/t + log(t - 0.3)").scan.cells[0]) < 1e3
