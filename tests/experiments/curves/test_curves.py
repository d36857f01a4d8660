"""`kanrun curves` with its defaults and at small sizes: tables, claims, figures, messages."""

import numpy as np
import pytest
from cases import cases
from doors import check_config, run_config, typed
from kanrun.experiments import curves
from kanrun.experiments.curves import function_of, plots
from numpy.testing import assert_allclose
from pandas import DataFrame

from kanrun.errors import UsageError


def settings(*lines):
    return typed("curves", *lines)


@pytest.fixture
def run(tmp_path, unwritten):
    """Run the command; figures are drawn but not written, because writing takes longest."""
    return lambda *lines: run_config(settings(*lines), tmp_path / "outputs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, unwritten_by_all):
    """Return a run with the default settings."""
    return run_config(settings(), tmp_path_factory.mktemp("outputs"))


def test_every_claim_holds_and_every_figure_is_drawn_with_the_defaults(finished, figures_of):
    claims = finished.manifest.claims
    assert [claim.sentence for claim in claims if not claim.holds] == []
    assert len(claims) == 20
    assert figures_of(curves, finished) == {draw.__name__ for draw in plots.FIGURES}


def test_the_error_of_the_polynomial_explodes_where_that_of_the_spline_falls(finished):
    summary = finished.table("summary").set_index(["curve", "points"])["max_error"]
    assert summary["polynomial", 10] == pytest.approx(0.3003, abs=1e-4)
    assert summary["polynomial", 20] == pytest.approx(8.579, abs=1e-2)
    assert summary["polynomial", 40] > 1e4
    assert summary["spline", 40] < 1e-3


def test_growth_and_orders_are_claimed_for_the_default_function_only():
    assert function_of(settings("function.formula=1/(25*x0**2+1)")).is_default
    for other in ("function.formula=abs(x0)", "function.domain=[[-0.1,0.1]]"):
        assert not function_of(settings(other)).is_default
    orders = DataFrame({"default_function": [False]})
    assert not list(curves.claims({"orders": orders}))


def test_knots_may_be_repeated(run):
    done = run("study=multiplicity")
    assert done.table("bspline_knots")["multiplicity"].tolist() == [4, 1, 2, 3, 4]
    assert done.table("bezier_control")["piece"].nunique() == 4


def test_only_the_identities_depend_on_the_seed(run):
    done = run("n_seeds=2 seed=3 parts=[lecture,identities]")
    points = done.table("lecture_points")[["seed", "x", "y"]].to_numpy().tolist()
    assert points == [[3, 0, 5], [3, 1, 1], [3, 2, 3], [3, 5, 2]]
    seeds = done.table("identities")["seed"]
    assert seeds.unique().tolist() == [3, 4]
    # The claims of the identities are about the curves of both seeds.
    over = f"over {len(seeds)} curves"
    assert sum(over in (claim.spread or "") for claim in done.manifest.claims) == 7


@pytest.fixture
def planar(tmp_path):
    """Return a function that writes points of a curve, and returns the settings that read them."""

    def line(text):
        (tmp_path / "points.csv").write_text(text)
        return f"parts=[planar] target.path={tmp_path}/points.csv"

    return line


def test_a_curve_goes_through_the_users_points_and_another_near_them(run, planar):
    angle = np.linspace(0, 5, 60)
    table = {"name": "p", "time": angle, "y": np.cos(angle), "x": np.sin(2 * angle)}
    line = planar(DataFrame(table).to_csv(index=False))
    done = run(f"{line} control_points=30")
    summary = done.table("summary")
    assert_allclose(done.table("planar_points")["x"], table["x"], rtol=1e-15)
    assert summary["control_points"].tolist() == [60, 30]
    assert summary["max_distance"][0] < 1e-14
    assert 1e-6 < summary["rms_distance"][1] < 1e-2
    timed = run(f"{line} target.columns=[y,time] target.parameter=time").table("planar_points")
    assert_allclose(timed[["t", "y"]], np.stack([angle, angle], 1))


def test_first_two_numeric_columns_are_used_without_x_and_y(run, planar):
    rows = "".join(f"a,{i},b,{i * i},0\n" for i in range(6))
    points = run(planar(f"name,width,kind,height,depth\n{rows}")).table("planar_points")
    assert points[["x", "y"]].to_numpy().tolist() == [[i, i * i] for i in range(6)]


@pytest.mark.parametrize(
    "line, sentence",
    cases(r"""
        polynomial_points=[1] | polynomial_points=.1. must be a non-empty list of whole numbers from 2 to 1000
        spline_points=[20,5] | spline_points has 5; a spline of degree 5 goes through at least 6
        control_points=3 | degree 3 needs at least 4 control points, not 3
        control_points=25 | control_points=25 must be at most 24
        bezier=[[0,0],[1]] | bezier=.* must be a list of at least 2 lists of 2 numbers
        knots=[0.5] | must be 5 numbers that never decrease
        knots=[0.5,0.5,0.5,0.5,0.5] | at most 4 times in degree 3
        knots=[0,0.5,0.6,0.7,0.8] | knots=.* must be a list of numbers above 0 and below 1
        function.formula=1/x0 | not finite .* change function.domain
        function.domain=[[1,-1]] | ^function.domain of x0 is \[1, -1\]
        bezier=[[0,0],[0,0]] | bezier has 2 times the same point
        precision=float32 | curves computes in float64; leave precision out
        target.columns=[x,y] | give target.path too
    """),  # noqa: E501,
)
def test_settings_that_cannot_work_are_refused_before_a_run(line, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_config(settings(line))


@pytest.mark.parametrize(
    "text, line, sentence",
    cases(r"""
        'x,y\n0,0\n1,1\n2,0\n' | '' | degree 3 goes through at least 4 points, not 3
        'a,b\n0,p\n1,q\n' | '' | has 1 columns of numbers among a, b; a curve needs two
        '0,5\n1,1\n2,3\n5,2\n' | '' | begins with numbers .* first row
        'x,y\n0,0\n1,1\n2,0\n3,1\n' | target.columns=[x] | target.columns=.* must be a list of 2 texts
        'x,y,t\n0,0,0\n1,1,2\n2,0,1\n3,1,4\n' | target.parameter=t | must increase strictly
        'x,y\n0,0\n1,1\n2,0\n3,1\n' | control_points=5 | control_points=5 must be at most 4
    """),  # noqa: E501
)
def test_points_that_make_no_curve_are_refused(planar, text, line, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_config(settings(planar(text), line))
