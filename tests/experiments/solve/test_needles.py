"""Generated problems of `study=needles`: independent checks of their solutions, and claims."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sympy
from kanrun.experiments.solve import run
from kanrun.experiments.solve.config import SolveConfig
from kanrun.experiments.solve.needles import SHAPES, WIDTHS, needle_cells, needle_claims
from kanrun.experiments.solve.problem import settings_of
from kanrun.experiments.solve.settings import EquationParser
from kanrun.experiments.solve.verdict import error_points
from made_systems import BOX, parsed
from scipy.integrate import quad

from kanrun.engine.equations.system import on_face
from kanrun.formulas.parsing import parse, variable
from kanrun.runs.records import Row

SEED = 1
CONFIG = SolveConfig(networks=[{"kind": "kan"}], needles=SEED)
CELLS = needle_cells(SEED)
FIRST = {each["facts"]["kind"]: each["name"] for each in reversed(CELLS)}.values()
#: One problem of each kind is always tested; the others are slow tests.
MARKED = [
    pytest.param(each, id=each["name"], marks=[] if each["name"] in FIRST else pytest.mark.slow)
    for each in CELLS
]
TABULATED = [each for each in MARKED if "reference" in each.values[0]["equation"]]
KNOWN = [each for each in MARKED if "exact" in each.values[0]["equation"]]
#: Number of points near each pulse.
NEAR_POINTS = 300
POINTS = 300
RESIDUAL = 1e-6


def parser_of(cell):
    return EquationParser(settings_of(CONFIG, cell).equation)


def evaluated(expression, names, points):
    """Evaluate an expression by sympy's own conversion to NumPy."""
    expression = expression.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
    function = sympy.lambdify([variable(name) for name in names], expression, ["scipy", "numpy"])
    with np.errstate(all="ignore"):
        return np.broadcast_to(function(*points.T), len(points))


def check_identity(relation, exact, names, points, sizes_at):
    """Assert that a relation holds at points if the unknowns are the exact solutions."""
    values = {}
    for each in relation.derivatives:
        value = exact[each.unknown]
        for name, order in zip(names, each.index, strict=True):
            value = sympy.diff(value, variable(name), order) if order else value
        values[variable(each.name)] = value
    terms = [sympy.diff(relation.expression, each) * each for each in values]
    sizes = [evaluated(each.xreplace(values), names, sizes_at) for each in terms]
    residual = evaluated(relation.expression.xreplace(values), names, points)
    assert np.nanmax(np.abs(residual)) <= RESIDUAL * np.nanmax(np.abs(sizes))


@pytest.mark.parametrize("cell", KNOWN)
def test_solutions_satisfy_equations_inside_the_pulses_and_conditions(cell):
    parser = parser_of(cell)
    system = parser.system()
    exact = parser.exact()
    names = parser.vocabulary.variables
    problem = SimpleNamespace(
        system=system, recorded=None, near=[parser.formula(text) for text in cell["near"]]
    )
    points = error_points(problem, 0).at
    near = points[10_000 :: max(1, 2_000 // NEAR_POINTS)]
    points = np.concatenate([points[:POINTS], near])
    for relation in system.equations:
        check_identity(relation, exact, names, points, points)
    for condition in system.conditions:
        for face in condition.faces:
            at = on_face(face, system.box, POINTS).numpy()
            check_identity(condition.relation, exact, names, at, np.concatenate([at, points]))


@pytest.mark.parametrize("cell", TABULATED)
def test_tabulated_solutions_agree_with_integrals_over_the_speed(cell):
    """The time at which u reaches a value is the integral of 1 / speed up to this value."""
    parser = parser_of(cell)
    (relation,) = parser.system().equations
    speed = variable("u_t") - relation.expression
    function = sympy.lambdify([variable("u")], speed, ["scipy", "numpy"])
    a, w = (cell["equation"]["constants"][name] for name in "aw")
    table = pd.DataFrame(cell["equation"]["reference"])
    for row in [*table.iloc[::97].itertuples(), table.iloc[(table.u - a).abs().argmin()]]:
        ends = np.clip(a + w * np.array([-1e5, -1e3, -30, -1, 0, 1, 30, 1e3, 1e5]), 0, row.u)
        with np.errstate(over="ignore"):
            time = sum(
                quad(lambda u: 1 / function(u), *pair, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
                for pair in pairwise([0, *ends, row.u])
            )
        assert time == pytest.approx(row.t, abs=1e-10)


def test_seeds_give_problems_of_all_kinds():
    assert len(CELLS) == 60
    assert needle_cells.__wrapped__(SEED) == CELLS
    others = needle_cells(SEED + 1)
    pairs = zip(CELLS, others, strict=True)
    assert all(one["equation"] != other["equation"] for one, other in pairs)
    facts = pd.DataFrame([each["facts"] for each in CELLS + others])
    assert {*facts["shape"]} == {*SHAPES, ""}
    assert facts["width"].dropna().between(*WIDTHS).all()
    assert facts["width"].min() < 3e-5


def test_means_over_error_points_are_those_over_the_box():
    system = parsed(BOX, "u_t = -u_x", ["u = 0 at t=0", "u = 0 at x=0"])
    place = parse("(x - t/2 - 0.3)/1e-4", ["x", "t"])
    found = error_points(SimpleNamespace(system=system, recorded=None, near=[place]), 0)
    x, t = found.at.T
    pulse = np.exp(-2 * np.square((x - t / 2 - 0.3) / 1e-4))
    mean = np.average(pulse, weights=found.weights)
    assert mean == pytest.approx(1e-4 * np.sqrt(np.pi / 2), rel=0.01)
    assert np.average(x * t, weights=found.weights) == pytest.approx(0.25, rel=0.01)


def test_claims_count_wrong_certificates_and_problems_solved():
    same = {"equation": "e", "estimate": 1e-6, "grid_change": 1e-6, "width": 1e-4, "l2": 9e-6}
    rows = pd.DataFrame({**same, "verdict": ["solved"] * 30 + ["doubtful"] * 30})

    def claimed(seen_width):
        found = needle_claims(rows.assign(seen_width=seen_width))
        return [(each.measured, each.holds) for each in found]

    assert claimed(1e-5) == [(0, True), (30, True)]
    rows.loc[[0, 30], "l2"] = 1.1e-5, 1.0
    assert claimed(1e-5) == claimed(1e-4) == [(1, False), (29, False)]
    # Features narrower than `seen_width` are counted separately.
    wrong, _ = needle_claims(rows.assign(seen_width=2e-4))
    assert (wrong.holds, "1 more" in wrong.spread) == (True, True)


def test_verdict_does_not_depend_on_the_error_against_the_exact_solution(monkeypatch):
    cell = {**next(each for each in CELLS if each["name"].startswith("kink")), "network": 0}
    monkeypatch.setattr(
        "kanrun.experiments.solve.solution_report.errors",
        lambda *_: {"l2": 0.5, "h1": None, "mse": None, "max_error": None},
    )
    (summary,) = (
        each.values
        for each in run(CONFIG, cell, 0)
        if isinstance(each, Row) and each.table == "summary"
    )
    assert (summary["verdict"], summary["l2"], summary["kind"]) == ("solved", 0.5, "kink")
