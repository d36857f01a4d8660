"""`kanrun solve` at small sizes: every equation, run folders, predictions, and messages."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cases import cases, refuses
from kanrun.experiments.solve.config import EquationConfig, SolveConfig
from kanrun.experiments.solve.problem import make_solve_problem
from kanrun.experiments.solve.solution import error_points

import kanrun
from kanrun import load_run

GROUP = Path(__file__).parents[3] / "conf/equation"
EQUATIONS = sorted(path.stem for path in GROUP.glob("*.yaml") if path.stem != "own")
SMOKE = "network.terms=2 equation.intervals=[4,5] budget=2"


QUICK = ("poisson_product",)
#: Equations whose solution is not known.
UNKNOWN = ("poisson_source", "cavity")


@pytest.mark.parametrize(
    "equation",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in EQUATIONS],
)
def test_every_equation_runs_and_gets_a_verdict(equation, command):
    run = command(f"solve equation={equation} {SMOKE}").run
    summary = run.table("summary").iloc[0]
    assert summary["equation"] == equation
    assert summary["verdict"] in ("solved", "doubtful", "failed")
    assert np.isfinite(summary["residual_rms"])
    assert np.isfinite(summary["l2"]) or equation in UNKNOWN
    drawn = {path.name for path in run.figures}
    assert "solution.png" in drawn
    assert drawn & {"convergence.png", "windows.png"}
    assert len(run.table("metrics")) >= 2


@pytest.mark.usefixtures("unwritten")
def test_a_solution_is_precise_and_predicts(command):
    line = "'equation.variables.t=[0, 2]' equation.intervals=[10,20]"
    run = command(f"solve equation=pendulum {line}").run
    summary = run.table("summary").iloc[0]
    assert (summary["verdict"], summary["reference"]) == ("solved", "numerical")
    assert not run.manifest.claims  # the verdict of a single solution says how reliable it is
    assert summary["l2"] < 1e-6
    assert float(load_run(run.path).model().predict([[0.0]])[0]) == pytest.approx(2.5)
    Path("times.csv").write_text("t\n0\n1.5\n2\n")
    predict = "predict solve/latest times.csv --output out.csv --force --derivatives"
    command(f"{predict} u_t,u_tt")
    first = pd.read_csv("out.csv").iloc[0]
    assert first["u"] == pytest.approx(2.5)
    assert first["u_t"] == pytest.approx(0, abs=1e-6)
    assert first["u_tt"] == pytest.approx(-np.sin(2.5), abs=1e-5)
    command(f"{predict} u_y", code=2)


def test_the_library_solves_and_differentiates():
    found = kanrun.solve(
        "u_xx = -u", {"x": [0, "pi/2"]}, ["u = 0 at x=0", "u = 1 at x=pi/2"], exact="sin(x)"
    )
    x = np.linspace(0, 1.5, 7)
    assert found.verdict == "solved"
    assert found(x)[:, 0] == pytest.approx(np.sin(x), abs=1e-9)
    assert found.derivative("u_x", x) == pytest.approx(np.cos(x), abs=1e-7)
    assert found.residual(x)[:, 0] == pytest.approx(0, abs=1e-4)
    assert "solved" in repr(found)
    assert "\n" not in repr(found)
    assert found._repr_html_().startswith("<p><b>solved</b>")


TIMES = np.linspace(0, 2, 40)


def fitted(formula, parameters, values, intervals):
    data = {"t": TIMES.tolist(), "u": values.tolist()}
    given = {"unknown_parameters": parameters, "data": data, "intervals": intervals}
    return kanrun.solve(formula, {"t": [0, 2]}, ["u = 1 at t=0"], **given)


def test_data_that_do_not_determine_the_constants_are_not_called_solved():
    decay = np.exp(-0.7 * TIMES) + 1e-2 * np.random.default_rng(1).standard_normal(40)
    sums = fitted("u_t = -(a + b)*u", {"a": 1, "b": 0.2}, decay, [4, 8])
    assert sums.verdict == "doubtful"
    assert "barely identify the unknown parameters" in sums.reason
    # No constant fits these values.
    waves = 1 + 0.3 * np.sin(2 * TIMES)
    assert fitted("u_t = -k*u", {"k": 1}, waves, [5, 10, 20]).verdict != "solved"


def problem(**given):
    return make_solve_problem(SolveConfig(equation=EquationConfig(**given)), 0)


def test_recorded_values_are_compared_at_their_points(tmp_path):
    table = tmp_path / "known.csv"
    table.write_text("x,u\n0.25,0.0625\n0.5,0.3\n")
    ends = ["u = 0 at x=0", "u = 1 at x=1"]
    given = {"variables": {"x": [0, 1]}, "formula": "u_xx = 2", "conditions": ends}
    given["reference"] = str(table)
    found = problem(**given)
    points = error_points(found, 0)
    assert points[:, 0] == pytest.approx([0.25, 0.5])
    assert found.comparison.what == "recorded"
    assert found.comparison.values(points[::-1])[:, 0] == pytest.approx([0.3, 0.0625])
    table.write_text("x,u\n1.25,0.0625\n")
    with refuses("outside the box"):
        problem(**given)


POISSON = """
variables: {x: [0, 1], y: [0, 2]}
formula: u_xx + u_yy = -5*pi^2/4*sin(pi*x)*sin(pi*y/2)
conditions: ["u = 0 at x=0, x=1, y=0, y=2"]
"""
WAVES = """
variables: {x: [0, 1], t: [0, 0.5]}
unknowns: [u, v]
formula: [u_tt = u_xx/pi^2, v_t = u - v]
conditions: ["WALLS", "u = cos(2*pi*x) at t=0", "u_t = 0 at t=0", "v = 0 at t=0"]
"""


@pytest.mark.parametrize("walls", ["", "periodic in x", "u_x = 0 at x=0, x=1"])
def test_linear_problems_without_exact_solutions_have_a_reference(walls):
    given = yaml.safe_load(WAVES.replace("WALLS", walls) if walls else POISSON)
    found = problem(**given)
    at = np.array([[0.3, 0.4], [0.9, 0.5]])
    x, y = np.pi * at.T
    exact = np.cos(2 * x) * np.cos(2 * at[:, 1]) if walls else np.sin(x) * np.sin(y / 2)
    assert found.comparison.values(at)[:, 0] == pytest.approx(exact, abs=1e-6)


@pytest.mark.usefixtures("unwritten")
def test_unknown_constants_are_found_from_a_users_table(command):
    times = np.linspace(0, 2, 60)
    noise = 3e-2 * np.random.default_rng(0).standard_normal(60)
    values = 3 * np.exp(-0.7 * times) + noise
    pd.DataFrame({"t": times, "u": values}).to_csv("decay.csv", index=False)
    given = "'equation.variables={t: [0, 2]}' 'equation.formula=u_t = -k*u'"
    given += " 'equation.unknown_parameters={k: 2}' \"equation.conditions=['u = 3 at t=0']\""
    line = f"solve equation.data=decay.csv equation.intervals=[4,5,6,8,10] {given}"
    summary = command(line).run.table("summary").iloc[0]
    assert abs(summary["k"] - 0.7) < 4 * summary["k_error"]
    curve = 3 * np.exp(-summary["k"] * times)
    # Standard error of nonlinear regression.
    error = (values - curve).std() / np.linalg.norm(times * curve)
    assert summary["k_error"] == pytest.approx(error, rel=0.1)


REFUSED = """
solve equation=own | must be given
solve 'equation.formula=u_xx = 0' | equation.variables must be given
solve equation=poisson 'equation.formula=u_xx = 1E3*w' | equation.constants={w: 1}
solve equation=poisson 'equation.formula=u_xx = sinn(x)' | unknown function 'sinn'; did you mean sin
solve equation=poisson 'equation.formula=[u_x = 0, u_y = 0]' | 2 equations for 1 unknown
solve "equation.conditions={border: {at: 'z=0', formula: 'u = 0'}}" | is not a valid place
solve "+equation.conditions.ring={periodic: z, formula: 'u = 0'}" | not one of the variables
solve 'equation.conditions={border: 3}' | must be {at:
solve ~equation.conditions.border | so the solution is not unique
solve network.kind=mlp | network.kind
solve network.width=3 | network.width
solve network.degree=1 | too small for an equation of order 2
solve networks=[] | network
solve needles=1 | needles
solve study=textbook | paper
solve equation.data=missing.csv | missing.csv
solve equation.intervals=[0] | equation.intervals
"""


@pytest.mark.parametrize("words, sentence", cases(REFUSED))
def test_impossible_settings_are_refused(words, sentence, refused):
    assert sentence in refused(words)


@pytest.mark.slow
def test_continuation_in_a_constant_reaches_a_layer():
    ends = ["u = 2 at x=0", "u = -1.5 at x=1"]
    given = {"constants": {"n": 0.01}, "continuation": {"n": [0.1, 0.03]}}
    found = kanrun.solve("n*u_xx = u_x*(1 - u^2)", {"x": [0, 1]}, ends, **given)
    assert found.verdict == "solved"
    u = found([0.0, 1.0])[:, 0]
    flux = 0.01 * found.derivative("u_x", [0.0, 1.0]) - u + u**3 / 3
    assert flux[0] == pytest.approx(flux[1], rel=1e-6)


@pytest.mark.slow
def test_boundary_layers_are_found():
    blasius = ["u = 0 at x=0", "u_x = 0 at x=0", "u_x = 1 at x=8"]
    found = kanrun.solve("u_xxx = -u*u_xx/2", {"x": [0, 8]}, blasius)
    assert found.verdict == "solved"
    assert found.derivative("u_xx", [0.0])[0] == pytest.approx(0.33205734, rel=1e-5)
    # Terms larger than the solution.
    ends = ["u = 0 at x=0", "u = 5 at x=8"]
    assert kanrun.solve("u_xx = 5*sinh(u)", {"x": [0, 8]}, ends).verdict == "solved"


def test_solution_determined_up_to_a_constant_is_doubtful():
    ends = ["u_x = 0 at x=0, x=1"]
    found = kanrun.solve("u_xx = -pi^2*cos(pi*x)", {"x": [0, 1]}, ends, intervals=[4, 8])
    assert found.verdict == "doubtful"
    assert "are underdetermined" in found.reason


@pytest.mark.slow
def test_finer_grids_correct_a_smooth_error_in_fourth_order():
    """For this beam, integration gives (2 + x) w_xxx in closed form."""
    ends = ["w = 0 at x=0", "w_x = 0 at x=0", "w_xx = 0 at x=2", "w_xxx = 0 at x=2"]
    beam = kanrun.solve("(2 + x)*w_xxxx + w_xxx = 10*sin(3*x)", {"x": [0, 2]}, ends, unknowns=["w"])
    x = np.array([0.5, 1.0, 1.5])
    shear = 10 * (np.cos(6) - np.cos(3 * x)) / 3 / (2 + x)
    np.testing.assert_allclose(beam.derivative("w_xxx", x), shear, rtol=1e-5)


def test_an_equation_without_initial_values_is_not_called_solved():
    found = kanrun.solve(
        "u_t = u_xx",
        {"x": [0, 1], "t": [0, 1]},
        ["u = 0 at x=0, x=1"],
        intervals=[5, 10],
        network={"terms": 4},
    )
    assert found.verdict == "doubtful", found.reason
    assert "are underdetermined" in found.reason
    assert "the equation has order 1 in t, but only 0 conditions there" in found.reason


@pytest.mark.slow
def test_continuation_solves_the_cavity_at_reynolds_number_400(command):
    flow = "equation.constants.nu=0.0025 'equation.continuation={nu: [0.01]}'"
    run = command(f"solve equation=cavity {flow} equation.reference=null tolerance=1e-4").run
    summary = run.table("summary").iloc[0]
    references = runpy.run_path(str(Path(__file__).with_name("references.py")))
    wanted = references["cavity"](32, (0.01, 0.0025))
    found = load_run(run.path).model().predict(wanted[["x", "y"]].to_numpy()).ravel()
    error = np.linalg.norm(found - wanted["s"]) / np.linalg.norm(wanted["s"])
    assert summary["verdict"] == "solved"
    assert error < 10 * summary["estimate"] < 1e-3
