"""Formulas of the Feynman collection and certified data sets, from files."""

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments.interpret import certified_claims
from kanrun.experiments.interpret.tables import certified_row
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import curve_fit

from kanrun.config import FeynmanTarget, NistTarget, SamplingConfig
from kanrun.engine.symbolic import Formula, Graph
from kanrun.errors import UsageError
from kanrun.formulas import parse
from kanrun.targets import build_target, make_dataset

NIST_FILE = """NIST/ITL StRD
Dataset Name:  Line              (Line.dat)

File Format:   ASCII
               Starting Values   (lines 12 to 13)
               Certified Values  (lines 12 to 18)
               Data              (lines 21 to 26)
Model:         Miscellaneous Class
               y = b1 * exp[-b2*x]
                   + 1  +  e

  b1 =   5.0        2.5           {b1:.10E}  2.7070075241E+00
  b2 =   9.0        0.6           {b2:.10E}  7.2668688436E-06

Residual Sum of Squares:                    {rss:.10E}


Number of Observations:                            6

Data:   y               x
"""


def test_certified_sets_are_fitted_from_both_starts(tmp_path):
    x = np.linspace(0.5, 3, 6)
    y = np.array([2.63, 2.2, 1.99, 1.81, 1.62, 1.5])
    (b1, b2), _ = curve_fit(
        lambda x, b1, b2: b1 * np.exp(-b2 * x) + 1, x, y, (2.5, 0.6), xtol=1e-15, ftol=1e-15
    )
    rss = float(np.sum((b1 * np.exp(-b2 * x) + 1 - y) ** 2))
    rows = "".join(f"  {b:.4f}E0   {a:.2f}E0\n" for a, b in zip(x, y, strict=True))
    (tmp_path / "Line.dat").write_text(NIST_FILE.format(b1=b1, b2=b2, rss=rss) + rows)
    target = NistTarget(path=str(tmp_path), name="Line")
    assert_array_equal(build_target(target).points.y[:, 0], y)
    formula = Formula(
        parse(f"{float(b1)!r}*exp(-{float(b2)!r}*x0) + 1"), ("x0",), Graph(1, ("sum",), ())
    )
    row = certified_row(target, formula).values
    assert row["start_2_digits"] > 6.5  # as far as scipy's own constants go
    assert row["residual_ratio"] == pytest.approx(1, abs=1e-6)
    assert [claim.measured for claim in certified_claims(pd.DataFrame([row]))][2] == 1
    with pytest.raises(UsageError, match=r"one of the sets in .*; did you mean Line"):
        build_target(NistTarget(path=str(tmp_path), name="Lime"))


@pytest.mark.parametrize("missing, holds", [((0, 7, 9), True), ((1, 8, 10), False)])
def test_certified_sets_are_held_to_what_was_measured(missing, holds):
    second, first, forms = missing
    sets = pd.DataFrame(
        {
            "target": range(27),
            "start_2_digits": [7.99] * second + [8.0] * (27 - second),
            "start_1_digits": [7.99] * first + [8.0] * (27 - first),
            "residual_ratio": [1.051] * forms + [1.05] * (27 - forms),
        }
    )
    assert [claim.holds for claim in certified_claims(sets)] == [holds] * 3


FORMULAS = """
Area:
  prepared: 3.1415926535897 * v1 ^ 2 / v2
  vars:
    v1: {sample_range: [1, 2]}
    v2: {sample_range: [3.0, 5]}
    v0: {name: A}
Decades:
  prepared: neg(v1) * log(v2) * v3
  accept: [(v1*log(1.0/v2)*v3)]
  vars:
    v1: {sample_range: [1.0e-4, 1.0e4], sample_type: [log, pos]}
    v2: {sample_range: [0.1, 1.0e1], sample_type: [log, pos_neg]}
    v3: {sample_range: [1.0, 3.0], sample_type: [int, pos]}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "formulas.yaml"
    path.write_text(FORMULAS)
    return path


def test_formulas_are_read_from_a_file_of_theirs(path):
    target = build_target(FeynmanTarget(id="Area", path=str(path)))
    assert target.inputs == ("x0", "x1")
    assert_array_equal(target.domain, [[1, 2], [3, 5]])
    assert target.expression == parse("pi*x0^2/x1")
    with pytest.raises(UsageError, match="'area' is not one of the formulas of"):
        build_target(FeynmanTarget(id="area", path=str(path)))


def test_points_of_a_file_are_drawn_as_it_says(path):
    target = build_target(FeynmanTarget(id="Decades", path=str(path)))
    assert_array_equal(target.domain, [[1e-4, 1e4], [-10, 10], [1, 3]])
    assert target.accepted == (parse("x0*log(1/x1)*x2"),)
    half = target.place(np.array([[0.5, 0.25, 0.3], [0.0, 0.75, 0.0]]))
    assert_allclose(half, [[1, -1, 2], [1e-4, 1, 1]])  # negative below one half, its middle is 1
    points = make_dataset(target, SamplingConfig(400, 0), 0).train
    assert (points.x[:, 1] > 0).all(), "points outside of the logarithm's domain are drawn again"
    assert set(points.x[:, 2]) == {1.0, 2.0, 3.0}
    assert np.quantile(points.x[:, 0], 0.5) == pytest.approx(1, rel=2)  # of 8 decades
    path.write_text(FORMULAS.replace("int, pos", "normal, pos"))
    with pytest.raises(UsageError, match="Decades lacks prepared, or vars with ranges"):
        build_target(FeynmanTarget(id="Decades", path=f"{path.parent}/./formulas.yaml"))
