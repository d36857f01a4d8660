"""The interactive lesson: every section has its part, and its computations are correct."""

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from processes import node
from scipy.interpolate import BarycentricInterpolator, BSpline

from kanrun.errors import UsageError
from kanrun.runs import Manifest, Run, RunFolder, Status
from kanrun.study.page import PARTS, STUDIES, recorded_runs, write_lesson

FOLDER = resources.files("kanrun.study.page")
BODY = (FOLDER / "lesson.html").read_text("utf-8")


#: Rows of a least squares problem, its right-hand side, and points of a curve.
ROWS = np.random.default_rng(0).normal(size=(9, 4))
VALUES = np.linspace(0, 1, 9) ** 2
CIRCLE = np.linspace(-1, 1, 15)
LECTURE = (Path(__file__).parents[2] / "docs" / "lecture.md").read_text("utf-8")


def test_sections_have_the_lectures_numbers_and_titles():
    titles = re.findall(r"<h2>(.*?)</h2>", BODY)
    assert titles == [
        line for line in re.findall("^## (.*)", LECTURE, re.MULTILINE) if line in titles
    ]


def test_each_section_has_one_part():
    sections = re.findall(r'<section id="(\w+)-section">(.*?)</section>', BODY, re.DOTALL)
    assert len(sections) == 12
    script = (FOLDER / "lesson.js").read_text("utf-8")
    for name, text in sections:
        computed = re.findall(r'data-source="(\w+)"', text)
        recorded = re.findall(r"<!--recorded:(\w+)-->", text)
        assert [*computed, *recorded] == [name]
        assert f'href="#{name}-section"' in BODY
        assert not computed or re.search(rf"^ +{name}: parent =>", script, re.MULTILINE)
    assert re.findall(r"<!--recorded:(\w+)-->", BODY) == list(PARTS)
    assert {command for command, _ in PARTS.values()} == set(STUDIES)


def test_the_parts_compute_what_scipy_computes(tmp_path):
    points = np.array([[0.0, 5], [1, 1], [2, 3], [5, 2]])
    at = [0.0, 0.7, 3.3, 5.0]
    knots = [0, 0, 0, 0, 0.25, 0.5, 0.5, 0.75, 1, 1, 1, 1]
    found = node(
        f"""(lesson => ({{
        polynomial: {at}.map(lesson.interpolant({points.tolist()})),
        knots: lesson.knots(3, 2),
        basis: [0, 1, 2, 3, 4, 5, 6, 7].map(i => lesson.basis(lesson.knots(3, 2), 3, i, 0.4)),
        levels: lesson.levels({points.tolist()}, 0.25),
        hinges: [-1, -0.5, 0, 0.25, 1].map(lesson.hinges(x => x * x, 2)),
        counts: lesson.counts(2, 5, 1, 5, 3),
        splines: lesson.splineRows(4, [-1, -0.3, 0.9]),
        fitted: lesson.leastSquares({ROWS.tolist()}, {VALUES.tolist()}, 20),
        affine: lesson.affine(Math.sin, {CIRCLE.tolist()}, {np.sin(2 * CIRCLE + 1).tolist()})}}))
        ((globalThis.kan = require('./network.js')) && require('./lesson.js'))""",
        tmp_path,
        "network.js",
        "lesson.js",
    )
    at_points = BSpline.design_matrix([0.4], knots, 3).toarray()[0]
    uniform = BSpline.design_matrix([-1, -0.3, 0.9], np.linspace(-2.5, 2.5, 11), 3).toarray()
    bernstein = np.array([0.75**3, 3 * 0.75**2 * 0.25, 3 * 0.75 * 0.25**2, 0.25**3])
    c = np.linalg.lstsq(ROWS, VALUES)[0]
    for values, wanted in (
        (found["polynomial"], BarycentricInterpolator(*points.T)(at)),
        (found["knots"], knots),
        (found["basis"], at_points),
        (found["levels"][3], [bernstein @ points]),
        (found["hinges"], [1, 0.5, 0, 0.25, 1]),
        (found["splines"], uniform),
        (found["fitted"]["c"], c),
        (found["fitted"]["rest"], VALUES - ROWS @ c),
    ):
        assert_allclose(values, wanted, rtol=0, atol=1e-12)
    assert [len(level) for level in found["levels"]] == [4, 3, 2, 1]
    assert found["affine"]["rest"] < 1e-6
    assert found["counts"] == {"mlp": 21, "kan": 120}


def made(outputs, command, status=Status.COMPLETED, tags=()):
    folder = RunFolder.create(outputs, Manifest(command, tags=tags))
    folder.finish(status)
    return Run(folder.path, f"{command}/{folder.path.name}")


def test_the_latest_complete_run_with_the_tag_is_shown(tmp_path):
    first = made(tmp_path, "fit", tags=("lesson",))
    made(tmp_path, "fit", Status.FAILED, ("lesson",))
    made(tmp_path, "fit")
    ((command, run),) = recorded_runs(tmp_path).items()
    assert (command, run.path) == ("fit", first.path)


def test_a_run_without_the_part_is_named(tmp_path):
    run = made(tmp_path, "curves")
    with pytest.raises(UsageError, match="curves/v0001 has nothing to show in the section bezier"):
        write_lesson(dict.fromkeys(STUDIES, run), tmp_path / "lesson.html")
    assert not (tmp_path / "lesson.html").exists()
