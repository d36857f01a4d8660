"""Formulas of the Feynman collection and certified data sets, from files."""

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments.interpret.claim_checks import certified_claims
from kanrun.experiments.interpret.tables import certified_row
from numpy.testing import assert_array_equal
from scipy.optimize import curve_fit

from kanrun.config import FeynmanTarget, NistTarget
from kanrun.engine.symbolic import Formula, Graph
from kanrun.errors import UsageError
from kanrun.formulas import parse
from kanrun.targets import build_target

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
    second, first, forms = certified_claims(pd.DataFrame([row]))
    assert (second.measured, first.measured, forms.measured) == (
        int(row["start_2_digits"] >= 8),
        first.measured,
        1,
    )
    with pytest.raises(UsageError, match=r"one of the sets in .*; did you mean Line"):
        build_target(NistTarget(path=str(tmp_path), name="Lime"))


def test_formulas_are_read_from_a_file_of_theirs(tmp_path):
    path = tmp_path / "formulas.yaml"
    path.write_text(
        "Area:\n  raw: pi*r**2/h\n  n_variables: 2\n  vars:\n"
        "    v1: {name: r, sample_range: [1, 2]}\n"
        "    v2: {name: h, sample_range: [3.0, 5]}\n"
        "    v0: {name: A}\n"
    )
    target = build_target(FeynmanTarget(id="Area", path=str(path)))
    assert target.inputs == ("x0", "x1")
    assert_array_equal(target.domain, [[1, 2], [3, 5]])
    assert target.expression == parse("pi*x0^2/x1")
    with pytest.raises(UsageError, match="'area' is not one of the formulas of"):
        build_target(FeynmanTarget(id="area", path=str(path)))
