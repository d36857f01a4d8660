"""Formulas of the Feynman collection and certified data sets, read from files."""

import numpy as np
import pytest
from cases import refuses
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.config import SamplingConfig
from kanrun.formulas.parsing import parse
from kanrun.targets.datasets import build_target, make_dataset
from kanrun.targets.settings import FeynmanTarget

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
    with refuses("'area' is not one of the formulas of"):
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
    assert np.quantile(points.x[:, 0], 0.5) == pytest.approx(1, rel=2)  # the middle of 8 decades
    path.write_text(FORMULAS.replace("int, pos", "normal, pos"))
    with refuses("Decades lacks prepared, or vars with ranges"):
        build_target(FeynmanTarget(id="Decades", path=f"{path.parent}/./formulas.yaml"))
