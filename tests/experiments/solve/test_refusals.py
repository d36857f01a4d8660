"""Equations that are refused or cause a remark, and reference solutions of other resolutions."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments.solve import settings
from kanrun.experiments.solve.checks import condition_warnings
from kanrun.experiments.solve.config import EquationConfig, SolveConfig
from kanrun.experiments.solve.problem import make_solve_problem
from kanrun.experiments.solve.solution_report import solve

from kanrun.errors import UsageError

X, XT = {"x": [0, 1]}, {"x": [0, 1], "t": [0, 1]}
ENDS = ["u = 0 at x=0, x=1"]


@pytest.mark.parametrize(
    "formula, variables, conditions, more, message",
    [
        ("1 = 2", X, ENDS, {}, "does not contain the unknown u"),
        ("u_xx = v", X, ENDS, {}, "v"),
        (
            "u_xx = 1",
            X,
            [*ENDS, "u = 1 at x=1"],
            {},
            "contradict each other at x=1: .*u = 0.* u = 1",
        ),
        ("u_xx = 1", X, [], {}, "conditions is empty"),
        ("u_xx = 1", {"x": [1, 0]}, ENDS, {}, "is empty; the first end must be the lower"),
        (
            "u_xx = 1",
            {"x": [0, "2*e"]},
            ["u = 0 at x=0, x=2*e"],
            {"constants": {"e": "1/2", "a": "e"}, "continuation": {"e": [1]}},
            "a constant that a range of equation.variables contains",
        ),
        ("u_xx = 1", X, ["u is zero"], {}, 'Write "u = 0 at x=0, x=1"'),
        ("u_xx = 1", X, ["periodic in y"], {}, "the variables are x"),
        (
            "u_xxxx = 1",
            X,
            [*ENDS, "u_x = 0 at x=0, x=1"],
            {"network": {"kind": "kan", "degree": 4}},
            "degree of 5",
        ),
        (
            "u_xx = 1",
            X,
            ENDS,
            {"network": {"kind": "mlp", "activation": "relu"}},
            "no second derivatives",
        ),
        ("u_xx = 1", X, ENDS, {"exact": "x^2/2"}, r"exact does not satisfy u = 0: .* at x=1"),
        ("u_xx = 1", X, ENDS, {"exact": "x*(1 - x)"}, r"exact does not satisfy u_xx = 1"),
        (
            "u_xx = k",
            X,
            [],
            {"unknown_parameters": {"k": 1}, "data": {"x": [0.5, 2.0], "u": [1.0, 1.0]}},
            "1 of 2 rows outside .* x=2",
        ),
        (
            "u_xx = 1",
            X,
            ENDS,
            {"unknown_parameters": {"k": 1}},
            "unknown_parameters lists k, which no equation",
        ),
        (
            "u_xx = k",
            X,
            [],
            {"unknown_parameters": {"k": 1}, "data": {"x": [0.5], "y": [1.0]}},
            "no column 'u'",
        ),
    ],
)
def test_equations_that_cannot_be_solved_are_refused(formula, variables, conditions, more, message):
    with pytest.raises(UsageError, match=message):
        solve(formula, variables, conditions, **more)


@pytest.mark.parametrize(
    "pulse, step, constants",
    [
        # At the points, all derivatives are rounding errors, which do not refute the solution.
        ("sech(S)^2/2", "(1 + tanh(S))/2", {"w": 6.234e-5, "a": 0.1022, "A": 0.7368}),
        # Differences of almost equal numbers have rounding errors, which derivatives amplify.
        (
            "(tanh(S + 3) - tanh(S - 3))/12",
            "(1/2 + atanh(tanh(3)*tanh(S))/6)",
            {"w": 1.167e-5, "a": 0.6172, "A": 0.6857},
        ),
    ],
)
def test_an_exact_solution_with_a_step_between_the_points_is_accepted(pulse, step, constants):
    pulse, step = (each.replace("S", "((x - a)/w)") for each in (pulse, step))
    equation = EquationConfig(
        variables=X,
        formula=f"(u_x/(1 + A/w*{pulse}))_x = 0",
        conditions=["u = 0 at x=0", "u = 1 + A at x=1"],
        exact=f"x + A*{step}",
        constants=constants,
    )
    assert make_solve_problem(SolveConfig(equation=equation), 0).comparison is not None


@pytest.mark.parametrize(
    "conditions, exact, largest",
    [
        (["u = 1 at x=0, x=1", "u = 1 + {} at x=1"], None, 1e-9),
        (ENDS, "x*(x - 1)/2*(1 + {})", 1e-6),
    ],
)
def test_conditions_and_solutions_may_differ_by_rounding(conditions, exact, largest):
    def made(off):
        texts = [text.format(off) for text in (*conditions, exact or "")]
        given = EquationConfig(
            variables=X, formula="u_xx = 1", conditions=texts[:-1], exact=texts[-1] or None
        )
        return make_solve_problem(SolveConfig(equation=given), 0)

    assert made(0.9 * largest)
    with pytest.raises(UsageError, match=r"contradict|does not satisfy"):
        made(1.1 * largest)


def test_more_than_memory_holds_is_refused(refused):
    said = refused("solve networks=[{kind:kan,degree:6}] equation.intervals=[5,200000]")
    assert "Use fewer points, intervals or terms" in said


def test_default_networks_have_these_grids_and_degrees():
    cfg = SolveConfig(
        equation=EquationConfig(variables=X, formula="u_xx = u^3", conditions=ENDS),
        networks=[{"kind": "kan", "terms": 1}, {"kind": "kan", "hidden": [2]}, {"kind": "mlp"}],
    )
    known = make_solve_problem(cfg, 0).system
    found = settings.network_choices(cfg, known)
    assert [each.method.intervals for each in found] == [(5, 10, 20, 40)] * 2 + [(None,) * 4]
    assert [each.label for each in found] == ["KAN 1-1", "KAN 1-2-1", "MLP 1-16-16-1"]


def system(conditions, formula="u_t = u_xx"):
    given = EquationConfig(variables=XT, formula=formula, conditions=conditions)
    return make_solve_problem(SolveConfig(equation=given), 0).system


def test_conditions_that_differ_where_they_meet_are_remarked_on():
    found = condition_warnings(system([*ENDS, "u = x at t=0"]))
    assert [each.split(": ")[0] for each in found] == [
        "u = 0 differs by 1 from the conditions that meet it at x=1, t=0"
    ]


def test_too_few_conditions_in_a_variable_are_remarked_on():
    (found,) = condition_warnings(system(["periodic in x", "u = 1 at t=0"], "u_tt = u_xx"))
    assert found.startswith("the equation has order 2 in t, but only 1 conditions there")


@pytest.mark.parametrize(
    "conditions, corners",
    [
        (["u_x = 0 at x=0, x=1", "u = x at t=0"], 2),
        (["u_x + u = 0 at x=0, x=1", "u = 1 at t=0"], 2),
        (["u = 0 at x=0, x=1", "u = sin(pi*x) at t=0"], 0),
        (["u = 0 at x=0", "u = 9.9e-5 + x at t=0"], 0),  # a difference within rounding
        (["u = 0 at x=0", "u = 1.01e-4 + x at t=0"], 1),
        (
            ["u = 0 at x=0, x=1", "u = max(0, x*(1 - x) - 1/9) at t=0"],
            0,
        ),  # no second derivative
    ],
)
def test_corners_where_conditions_or_their_slopes_differ(conditions, corners):
    assert len(system(conditions).corners) == corners


def test_a_corner_knows_how_large_its_contradiction_is():
    (corner,) = system(["u = 0 at x=0", "u = 0.01 + x at t=0"]).corners
    assert corner.face == ((0, 0.0), (1, 0.0))
    assert corner.difference == pytest.approx(0.01)


references = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("references.py"))))


@pytest.mark.parametrize(
    "name",
    [
        each if each == "burgers" else pytest.param(each, marks=pytest.mark.slow)
        for each in references.REFERENCES
    ],
)
def test_references_do_not_depend_on_the_resolution(name):
    make = references.REFERENCES[name]
    arguments, allowed = references.COARSER[make]
    coarse = make(*arguments)
    recorded = pd.read_csv(references.FOLDER / f"{name}.csv")
    assert list(coarse) == list(recorded)
    unknowns = [each for each in recorded if each not in ("x", "y", "t")]
    for unknown in unknowns:
        difference = np.linalg.norm(coarse[unknown] - recorded[unknown])
        assert difference <= allowed * np.linalg.norm(recorded[unknown])
