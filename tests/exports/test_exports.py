"""Every export gives the same numbers as the model, inside and outside the training range."""

import ctypes
import io
import itertools
import json
import re
import runpy
import shutil
import subprocess
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from made_models import HOSTILE, MODELS, hostile, kan, model, table
from processes import run

from kanrun.engine.networks import Network
from kanrun.errors import UsageError
from kanrun.exports import (
    FORMATS,
    document_of,
    encode,
    evaluate,
    export_bytes,
    identifier,
    in_pieces,
)
from kanrun.exports.javascript import LAYERS
from kanrun.model.prediction import predicted_values
from kanrun.targets.table_text import read_days

POINTS = 300


#: Models that are left out because they are like others; the test of the document has all.
ALIKE = ("mlp gelu", "constant", "only products", "single scale", "one window")
SOME = [n for n in MODELS if not n.startswith(("base", "degree")) and n not in ALIKE]
SOME += ["base gelu", "base identity", "degree 0", "degree 8"]


def rows_for(one):
    """Return points in twice the training range; some lie where time windows meet."""
    rows = np.random.default_rng(1).uniform(5, 17, (POINTS, one.domain.shape[0]))
    rows[10:13, -1] = 10.0, 11.0, 11.03
    return rows


def agree(found, expected, relative=1e-12):
    np.testing.assert_allclose(
        found, expected, rtol=relative, atol=relative * np.abs(expected).max()
    )


def content(one, form, file="m"):
    return export_bytes(one, form, Path(file))


def written(one, form, file):
    file.write_bytes(content(one, form, file))
    return file


def compiled(source, name):
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-std=c99", "-O1", "-shared", "-fPIC"]
    run(["cc", *flags, source, "-o", made := source.with_suffix(".so"), "-lm"])
    library = ctypes.CDLL(str(made))
    getattr(library, f"{name}_evaluate").restype = None
    return library


def through_c(library, name, x, outputs):
    y = np.empty((len(x), outputs))
    pointer = ctypes.POINTER(ctypes.c_double)
    x = np.ascontiguousarray(x)
    for one, into in zip(x, y, strict=True):
        getattr(library, f"{name}_evaluate")(
            one.ctypes.data_as(pointer), into.ctypes.data_as(pointer)
        )
    return y


@pytest.mark.parametrize("name", MODELS)
def test_the_document_has_the_models_numbers(name):
    one = MODELS[name]()
    document = json.loads(content(one, "json"))
    x = rows_for(one)
    for rows in (x, x[:1]):
        agree(evaluate(in_pieces(document), rows), predicted_values(one, rows))


needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@needs_cc
@pytest.mark.parametrize("name", SOME)
def test_c_has_the_models_numbers(name, tmp_path):
    one = MODELS[name]()
    library = compiled(written(one, "c", tmp_path / "a model.c"), "a_model")
    x = rows_for(one)
    expected = predicted_values(one, x)
    agree(through_c(library, "a_model", x, expected.shape[1]), expected)
    none = np.full((1, x.shape[1]), np.nan)
    assert np.isnan(through_c(library, "a_model", none, expected.shape[1])).any()


@pytest.mark.parametrize(
    "name",
    cases(
        r"""
table
classes
mlp
windows
radial
"""
    ),
)
def test_python_needs_numpy_alone(name, tmp_path):
    one = MODELS[name]()
    file = written(one, "python", tmp_path / "m.py")
    assert set(re.findall(r"^(?:import|from) (\w+)", file.read_text(), flags=re.MULTILINE)) == {
        "__future__",
        "collections",
        "math",
        "numpy",
        "re",
        "typing",
    }
    x = rows_for(one)
    agree(runpy.run_path(str(file))["predict"](x), predicted_values(one, x))


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")


def through_node(file, rows):
    """Return the predictions that Node computes for rows; {"date": text} stands for a Date."""
    code = """
const { predict } = require(process.argv[1]);
const date = (key, value) => (value && value.date ? new Date(value.date) : value);
const rows = JSON.parse(require("fs").readFileSync(0), date);
console.log(JSON.stringify(rows.map(predict)));
"""
    done = subprocess.run(
        ["node", "-e", code, str(file)],
        input=json.dumps(rows),
        capture_output=True,
        check=True,
        text=True,
    )
    return np.array(json.loads(done.stdout))


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOME, *ALIKE])
def test_javascript_has_the_models_numbers_or_says_why_not(name, tmp_path):
    one = MODELS[name]()
    document = document_of(one)
    if "gelu" in name or document["layers"][-1]["kind"] not in LAYERS:
        with pytest.raises(UsageError, match="Take python or c"):
            content(one, "javascript")
        return
    x = rows_for(one)
    file = written(one, "javascript", tmp_path / "m.js")
    agree(through_node(file, x.tolist()), predicted_values(one, x))


@needs_node
@pytest.mark.slow
def test_javascript_encodes_rows_of_the_table(tmp_path):
    one = table()
    x = one.code.encode(RAW)
    file = written(one, "javascript", tmp_path / "m.js")
    rows = [dict(zip(RAW, values, strict=True)) for values in zip(*RAW.values(), strict=True)]
    for row in rows:
        if re.match(r"\d{4}-", str(row["day"])):
            day, _, hour = row["day"].replace(" ", "T").partition("T")
            row["day"] = {"date": f"{day}T{hour or '00:00'}Z"}
    texts = json.dumps(rows).replace("NaN", "null").replace("Infinity", '"Infinity"')
    found = through_node(file, json.loads(texts))
    agree(found, predicted_values(one, x))


def test_names_of_columns_stay_texts_in_javascript():
    source = content(hostile(), "javascript").decode()
    assert source.isascii()
    assert "<" not in source.partition("const MODEL = ")[2].partition("\n")[0]


#: The last three rows have marks of missing values, and 1967-04-08, which is day number -999.
RAW = {
    "age": [9.0, None, 12.0, float("nan"), 8.0, 9.0, 10.0],
    "colour": ["blue", " red \u00e4 ", None, "never seen", "blue", "blue", "blue"],
    "day": [
        *("2024-02-29 18:00", None, "2023-03-01", "1900-12-31T06:30"),
        *("-999", "unknown", "1967-04-08"),
    ],
    "size": [None, 10.0, 13.0, 8.5, -999, float("inf"), -0.1],
}


def test_columns_are_found_by_name_and_encoded(tmp_path):
    one = table()
    x = one.code.encode(RAW)
    predict = runpy.run_path(str(written(one, "python", tmp_path / "m.py")))["predict"]
    assert x[:, one.inputs.index("size is missing")].tolist() == [1, 0, 0, 0, 1, 1, 1]
    agree(predict(RAW), predicted_values(one, x))
    pieces = in_pieces(json.loads(content(one, "json")))
    agree(evaluate(pieces, encode(pieces, RAW)), predicted_values(one, x))
    agree(predict(pd.DataFrame(RAW)), predicted_values(one, x))
    rows = pd.DataFrame(RAW)[[column.name for column in one.code.columns]]
    for many in (rows.to_numpy(), rows.to_numpy().tolist()):
        agree(predict(many), predicted_values(one, x))
    first = rows.iloc[4]
    for single in (first, dict(first), first.tolist()):
        agree(predict(single), predicted_values(one, x[[4]]))
    with pytest.raises(ValueError, match="10 inputs in 4 columns"):
        predict(rows.to_numpy()[:, 1:])
    with pytest.raises(ValueError, match="no column 'size'"):
        predict({"age": [1.0], "colour": ["blue"]})


def test_formats_without_columns_name_the_numbers_that_they_take(tmp_path):
    notes = table().export("torch", file := tmp_path / "m.pt2")
    assert f"{file} takes the 10 numbers that encode the columns of the table: size," in notes[0]
    assert "replace them by size=11.0, day=11000.5" in notes[1]
    assert table().export("json", tmp_path / "m.json") == []


@needs_cc
def test_c_encodes_a_row_of_the_table(tmp_path):
    one = table()
    x = one.code.encode(RAW)

    class Value(ctypes.Structure):
        _fields_ = (("number", ctypes.c_double), ("text", ctypes.c_char_p))

    library = compiled(written(one, "c", tmp_path / "m.c"), "m")
    names = [column.name for column in one.code.columns]
    for number in range(len(x)):
        raw = {name: RAW[name][number] for name in names}
        (raw["day"],) = read_days([raw["day"]])[0] if raw["day"] else (None,)
        row = (Value * 4)(
            *(
                Value(0.0, raw[n] and str(raw[n]).strip().encode())
                if n == "colour"
                else Value(float("nan") if raw[n] is None else raw[n], None)
                for n in names
            )
        )
        into = np.empty(x.shape[1])
        unknown = library.m_encode(row, into.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
        assert unknown == (number in (2, 3))
        np.testing.assert_allclose(into, x[number], rtol=1e-12)
        expected = predicted_values(one, x[[number]])
        agree(through_c(library, "m", into[None], 1), expected)


def test_names_of_columns_stay_texts_in_python(tmp_path):
    one = hostile()
    file = written(one, "python", tmp_path / "m.py")
    assert file.read_bytes().isascii()
    found = runpy.run_path(str(file))
    assert [column["name"] for column in found["MODEL"]["columns"]] == [HOSTILE[0], *HOSTILE[4:]]
    assert found["MODEL"]["classes"] == list(HOSTILE[1:3])
    assert "os" not in found


@needs_cc
def test_names_of_columns_stay_texts_in_c(tmp_path):
    one = hostile()
    file = written(one, "c", tmp_path / f"{HOSTILE[4]};.c".replace("/", ""))
    library = compiled(file, identifier(file.stem))
    name = identifier(file.stem)
    texts = (ctypes.c_char_p * 3).in_dll(library, f"{name}_columns")
    assert [text.decode() for text in texts] == [HOSTILE[0], *HOSTILE[4:]][:3]
    x = rows_for(one)
    agree(through_c(library, name, x, 2), predicted_values(one, x))


@pytest.mark.parametrize(
    "stem, name",
    cases(
        r"""
a b | a_b
3d | model_3d
!! | model
class | model_class
'm\n;' | m
"""
    ),
)
def test_the_name_of_a_file_becomes_an_identifier(stem, name):
    assert identifier(stem) == name


@pytest.mark.parametrize("name", SOME)
def test_onnx_has_the_models_numbers(name):
    """The tolerance is 1e-6 of the largest value, or the error of torch in float32."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    one = MODELS[name]()
    session = runtime.InferenceSession(content(one, "onnx"), providers=["CPUExecutionProvider"])
    x = rows_for(one).astype(np.float32)
    expected = predicted_values(one, x)
    own = (
        np.abs(
            predicted_values(replace(one, network=deepcopy(one.network).float()), x) - expected
        ).max()
        / np.abs(expected).max()
    )
    (found,) = session.run(None, {"x": x})
    assert found.dtype == np.float32
    agree(found, expected, max(1e-6, 3 * own))


def test_onnx_refuses_units_beyond_float32():
    pytest.importorskip("onnx")
    one = MODELS["table"]()
    with pytest.raises(
        UsageError, match=r"has values near \d.*e-\d+, but --format onnx uses float32"
    ):
        content(replace(one, domain=one.domain * 1e-40), "onnx")


@pytest.mark.parametrize(
    "name",
    cases(
        r"""
table
classes
bspline
windows
radial
"""
    ),
)
def test_torch_export_has_the_models_numbers(name):
    one = MODELS[name]()
    program = torch.export.load(io.BytesIO(content(one, "torch")))
    for rows in (1, POINTS):
        x = rows_for(one)[:rows]
        agree(program.module()(torch.as_tensor(x)), predicted_values(one, x))


def test_a_model_without_a_document_is_refused_in_one_sentence():
    class Own(Network):
        kind = "own"
        shape = (2, 1)

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

    one = replace(model(kan()), network=Own())
    with pytest.raises(UsageError, match="--format torch"):
        document_of(one)
    with pytest.raises(UsageError, match="c, javascript, json, onnx, python, torch"):
        content(one, "matlab")
    assert set(FORMATS) == {"c", "javascript", "json", "onnx", "python", "torch"}


def test_rows_of_another_width_are_refused():
    pieces = in_pieces(document_of(model(kan())))
    with pytest.raises(ValueError, match="2 inputs"):
        encode(pieces, np.zeros((4, 3)))
    assert encode(pieces, [1.0, 2.0]).shape == (1, 2)
    assert list(itertools.chain(*encode(pieces, {"x1": [2.0], "x0": [1.0]}))) == [1.0, 2.0]
