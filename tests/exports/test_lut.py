"""Integer tables: C equals its reference in every bit, and no error exceeds the proven bound."""

import re
import runpy
import shutil

import numpy as np
import pytest
import torch
from made_models import MODELS, hostile, kan, model
from processes import run

from kanrun.engine.layers import BASES
from kanrun.errors import UsageError
from kanrun.exports import lut
from kanrun.exports import lut_reference as reference
from kanrun.exports.document import document_of, in_pieces
from kanrun.study.prediction import network_outputs, predicted_values

CONTINUOUS = ("products", "table", "classes", "bspline", "degree 1", "base relu")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(reference, "POINTS", 2000)


def tables(one, **options):
    return lut.tables_of(in_pieces(document_of(one)), lut.LutSettings(**options))


def exported(one, folder, **options):
    one.export("lut", folder / "m.c", **options)
    return runpy.run_path(str(folder / "m.py"))


def ends_and_points(one):
    low, high = one.domain.T
    rows = np.random.default_rng(2).uniform(low, high, (2000, len(low)))
    return np.concatenate([rows, [low, high]])


def scores(one, x):
    return network_outputs(one, x) if one.classes else predicted_values(one, x)


def lut_values(one, found, x):
    data = {"domain": one.domain.tolist(), **found.model}
    return reference.values(data, reference.evaluate(data, reference.codes(data, x)))


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("index", [5, 10])
def test_no_error_exceeds_the_bound(name, index):
    """With interpolation between entries, and without."""
    one = MODELS[name]()
    found = tables(one, input_bits=10, index_bits=index, output_bits=9)
    x = ends_and_points(one)
    difference = np.abs(lut_values(one, found, x) - scores(one, x)).max(0)
    assert (difference <= found.bounds).all()
    assert difference.max() > 0


@pytest.mark.parametrize("index", [4, 8, 16])
def test_the_bound_of_a_single_edge_is_nearly_reached(index):
    one = MODELS["bspline"]()
    x = np.linspace(*one.domain[0], 20001)[:, None]
    found = tables(one, index_bits=index)
    difference = np.abs(lut_values(one, found, x) - predicted_values(one, x)).max(0)
    assert 0.5 < (difference / found.bounds).max() <= 1


@needs_cc
@pytest.mark.parametrize("name, bits", [("products", 16), ("classes", 8), ("table", 12)])
def test_the_test_bench_finds_c_equal_and_a_wrong_bit(name, bits, tmp_path, monkeypatch):
    found = exported(MODELS[name](), tmp_path, input_bits=bits, output_bits=bits)
    monkeypatch.setitem(found["main"].__globals__, "POINTS", 2000)
    source, data = tmp_path / "m.c", found["MODEL"]
    assert found["main"](data, source) == 0
    text = source.read_text()
    assert not {"double", "float"} & set(re.findall(r"\w+", text.partition("*/")[2]))
    source.write_text(text.replace("y[0] = ", "y[0] = 1 + "))
    assert found["main"](data, source) == 1


@needs_cc
def test_names_and_codes_beyond_the_domain_do_no_harm(tmp_path):
    one = hostile()
    found = exported(one, tmp_path, input_bits=6, index_bits=6)
    assert found["MODEL"]["inputs"] == list(one.inputs)
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-std=c99", "-c"]
    run(["cc", *flags, tmp_path / "m.c", "-o", tmp_path / "m.o"])
    high = one.domain[:, 1]
    np.testing.assert_array_equal(found["predict"]([high + 9]), found["predict"]([high]))
    np.testing.assert_array_equal(
        found["evaluate"](found["MODEL"], [[999] * 6]),
        found["evaluate"](found["MODEL"], [[63] * 6]),
    )


def test_max_error_chooses_the_smallest_tables_that_prove_it():
    one = model(kan(base="silu"))
    loose, tight = (tables(one, max_error=limit) for limit in (1.0, 0.1))
    assert loose.bounds.max() <= 1.0
    assert tight.bounds.max() <= 0.1
    sizes = [sum(map(len, found.model["tables"])) for found in (loose, tight)]
    assert sizes[0] < sizes[1]
    inputs = tight.model["input_bits"] - tight.model["layers"][0]["fraction_bits"]
    assert tables(one, index_bits=inputs - 1).bounds.max() > 0.1
    with pytest.raises(
        UsageError, match=r"max_error=1e-09 cannot be proven: the smallest bound is"
    ):
        tables(one, max_error=1e-9, index_bits=4)


def test_accumulators_of_given_width():
    one = model(kan())
    needed = tables(one).accumulator_bits
    assert tables(one, accumulator_bits=needed).accumulator_bits == needed
    with pytest.raises(UsageError, match=f"is too few: sums and products need {needed}"):
        tables(one, accumulator_bits=needed - 1)


@pytest.mark.parametrize("name", ["mlp", "degree 0", "beyond zero", "windows"])
def test_edges_without_a_limit_of_the_error_are_refused(name):
    with pytest.raises(UsageError, match="continuous splines"):
        tables(MODELS[name]())


def test_options_are_checked(tmp_path):
    one = model(kan())
    for options, sentence in (
        ({"input_bits": 25}, "input_bits=25 must be from 2 to 24"),
        ({"max_error": 0.0}, "max_error=0.0 must be above 0"),
        ({"bits": 3}, "there is no key bits"),
    ):
        with pytest.raises(UsageError, match=sentence):
            one.export("lut", tmp_path / "m.c", **options)
    with pytest.raises(UsageError, match=r"as FILE\.c"):
        one.export("lut", tmp_path / "m.py")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BASES)
def test_slopes_and_curvatures_of_base_functions_are_bounds(name):
    x = torch.linspace(-9, 9, 40001, dtype=torch.float64, requires_grad=True)
    slope = BASES[name](x)[1]
    steep, bent, corner = lut.SLOPES[name]
    assert steep * 0.95 <= slope.abs().max() <= steep + 1e-12
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        assert bent * 0.95 <= curvature.abs().max() <= bent + 1e-12
    assert corner == float((slope[20001] - slope[19999]).abs().detach() > 0.5)
