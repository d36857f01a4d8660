"""`kanrun export` for runs of the real `kanrun fit`."""

import runpy

import numpy as np
import pytest
from cases import cases
from numpy.testing import assert_allclose
from run_files import finished

from kanrun.exports import FORMATS
from kanrun.model.model import load_run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    finished("fit target=runge model=bspline figures=none", place)
    return place


def test_every_format_is_written(outputs, command):
    pytest.importorskip("onnx")
    for form in FORMATS:
        file = outputs / f"model.{form}"
        done = command(f"export fit/latest --format {form} -o {file} --outputs {outputs}")
        assert done.out == f"{file}\n"
        assert file.stat().st_size


def test_export_says_if_it_does_not_recognise_missing_values(command):
    a = np.linspace(0, 9, 40)
    table = np.stack([np.where(np.arange(40) % 5, a, -999), a[::-1] % 2, a], 1)
    np.savetxt("t.csv", table, "%.17g", ",", header="a,b,y", comments="")
    fit = "fit -q target.path=t.csv target.outputs=[y] target.read.na_values=[-999] figures=none"
    command(f"{fit} folds=2 baselines=false")
    for form, note in (("python", 0), ("onnx", 1)):
        said = command(f"export fit/latest --format {form} -o m.{form}").err
        assert ("recognises no missing values, nor those of target.read.na_values" in said) == note
    assert "replace them by a=4.61538" in said
    columns = {"a": table[:, 0], "b": table[:, 1]}
    found = runpy.run_path("m.python")["predict"](columns)[:, 0]
    assert_allclose(found, load_run("fit/latest").model().predict(columns), rtol=1e-9)


@pytest.mark.parametrize(
    "words, sentence",
    cases("""
        formula -o f.tex | holds no formula
        c -o nowhere/m.c | choose another file
        cpp -o m.c | 'cpp' is not one of
    """),
)
def test_a_refusal_is_one_sentence(outputs, tmp_path, refused, words, sentence):
    assert sentence in refused(f"export fit/latest --outputs {outputs} --format {words}")
    assert list(tmp_path.iterdir()) == []
