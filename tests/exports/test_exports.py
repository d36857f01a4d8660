"""Every export gives the same numbers as the model, inside and outside the training range."""

import ctypes
import json
import re
import runpy
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from made_models import HOSTILE, MODELS, hostile, kan, model, named, table
from processes import run

from kanrun.engine.networks import Network
from kanrun.errors import UsageError
from kanrun.exports import FORMATS, LAYERS, document_of, encode, evaluate, export_bytes, identifier
from kanrun.exports import in_pieces as pieces_of
from kanrun.model.trained import predicted_values
from kanrun.targets.encoding import ColumnCode, TableCode
from kanrun.targets.table_text import read_days

POINTS = 300
#: Models that are left out because they are like others; the test of the document has all.
ALIKE = ("mlp gelu", "constant", "only products", "one window")
SOME = [n for n in MODELS if not n.startswith(("base", "degree")) and n not in ALIKE]
SOME += ["base gelu", "base identity", "degree 0", "degree 8"]
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")


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


def in_pieces(one):
    return pieces_of(document_of(one))


def by_document(one, _):
    return partial(evaluate, in_pieces(one))


def by_python(one, folder):
    return runpy.run_path(str(written(one, "python", folder / "m.py")))["predict"]


def compiled(one, file):
    """Return a function of the library that a model becomes in C, by its name."""
    source = written(one, "c", file)
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-std=c99", "-O1", "-shared", "-fPIC"]
    run(["cc", *flags, source, "-o", made := source.with_suffix(".so"), "-lm"])
    library = ctypes.CDLL(str(made))
    return lambda name: library[f"{identifier(file.stem)}_{name}"]


NUMBERS = np.ctypeslib.ndpointer(np.float64, flags="C")


def by_c(one, folder):
    function = compiled(one, folder / "a model.c")("evaluate")
    function.argtypes = NUMBERS, NUMBERS
    function.restype = None

    def predict(x):
        y = np.empty((len(x), one.network.shape[-1]))
        for row, into in zip(x, y, strict=True):
            function(row, into)
        return y

    return predict


def by_javascript(one, folder):
    """Return the predictions that Node computes for rows; {"date": text} stands for a Date."""
    file = written(one, "javascript", folder / "m.js")
    code = """
const { predict } = require(process.argv[1]);
const date = (key, value) => (value && value.date ? new Date(value.date) : value);
const rows = JSON.parse(require("fs").readFileSync(0), date);
console.log(JSON.stringify(rows.map(predict)));
"""

    def predict(rows):
        texts = json.dumps(rows, default=np.ndarray.tolist)
        texts = texts.replace("NaN", "null").replace("Infinity", '"Infinity"')
        return np.array(json.loads(run(["node", "-e", code, file], input=texts).stdout))

    return predict


@pytest.mark.parametrize(
    "by, name",
    [
        *((by_document, name) for name in MODELS),
        *(pytest.param(by_c, name, marks=needs_cc) for name in SOME),
        *((by_python, name) for name in ("table", "classes", "mlp", "windows", "radial")),
        *(
            pytest.param(by_javascript, name, marks=[needs_node, pytest.mark.slow])
            for name in (*SOME, *ALIKE)
        ),
    ],
)
def test_exports_have_the_models_numbers_or_say_why_not(by, name, tmp_path):
    one = named(name)
    known = "gelu" not in name and document_of(one)["layers"][-1]["kind"] in LAYERS
    if by is by_javascript and not known:
        with refuses("Take python or c"):
            content(one, "javascript")
        return
    predict = by(one, tmp_path)
    x = rows_for(one)
    for rows in (x, x[:1]):
        agree(predict(rows), predicted_values(one, rows))
    if by is by_c:
        assert np.isnan(predict(np.full((1, x.shape[1]), np.nan))).any()


def test_python_needs_numpy_alone():
    imports = re.findall(r"^(?:import|from) (\w+)", content(table(), "python").decode(), re.M)
    assert set(imports) == {"__future__", "collections", "math", "numpy", "re", "typing"}


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


@pytest.fixture
def encoded():
    """Return the model of a table, its encoded rows and its predictions."""
    one = table()
    x = one.code.encode(RAW)
    return one, x, predicted_values(one, x)


@needs_node
@pytest.mark.slow
def test_javascript_encodes_rows_of_the_table(encoded, tmp_path):
    one, _, expected = encoded
    rows = [dict(zip(RAW, values, strict=True)) for values in zip(*RAW.values(), strict=True)]
    for row in rows:
        if re.match(r"\d{4}-", str(row["day"])):
            day, _, hour = row["day"].replace(" ", "T").partition("T")
            row["day"] = {"date": f"{day}T{hour or '00:00'}Z"}
    agree(by_javascript(one, tmp_path)(rows), expected)


def test_columns_are_found_by_name_and_encoded(encoded, tmp_path):
    one, x, expected = encoded
    predict = by_python(one, tmp_path)
    assert x[:, one.inputs.index("size is missing")].tolist() == [1, 0, 0, 0, 1, 1, 1]
    pieces = in_pieces(one)
    agree(evaluate(pieces, encode(pieces, RAW)), expected)
    rows = pd.DataFrame(RAW)[[column.name for column in one.code.columns]]
    array = rows.to_numpy()
    for many in (RAW, pd.DataFrame(RAW), array, array.tolist()):
        agree(predict(many), expected)
    for single in (rows.iloc[4], dict(rows.iloc[4]), array[4].tolist()):
        agree(predict(single), expected[[4]])
    with pytest.raises(ValueError, match="10 inputs in 4 columns"):
        predict(array[:, 1:])
    with pytest.raises(ValueError, match="no column 'size'"):
        predict({"age": [1.0], "colour": ["blue"]})


class Value(ctypes.Structure):
    """A value of a row in C."""

    _fields_ = (("number", ctypes.c_double), ("text", ctypes.c_char_p))


def encoded_in_c(one, folder, rows):
    """Return whether each row has an unseen text, followed by the numbers that encode it."""
    encode = compiled(one, folder / "m.c")("encode")
    into = np.empty(len(one.inputs))
    found = []
    for row in rows:
        values = (Value(0.0, v.encode()) if isinstance(v, str) else Value(v) for v in row)
        unseen = encode((Value * len(row))(*values), into.ctypes)
        found.append([unseen, *into])
    return found


@needs_cc
def test_c_encodes_rows_of_the_table(encoded, tmp_path):
    one, x, _ = encoded
    raw = pd.DataFrame(RAW)[[column.name for column in one.code.columns]]
    raw["day"] = read_days(raw["day"].fillna(""))[0]
    raw["colour"] = raw["colour"].str.strip()
    found = np.array(encoded_in_c(one, tmp_path, raw.to_numpy()))
    assert found[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 0]
    np.testing.assert_allclose(found[:, 1:], x, rtol=1e-12)


@needs_cc
def test_c_reports_a_text_that_neither_level_of_a_column_has(tmp_path):
    code = TableCode((ColumnCode("answer", ("yes",), other="no \u00e4"),))
    one = model(kan((1, 2, 1)), inputs=code.features, code=code)
    found = encoded_in_c(one, tmp_path, [["yes"], ["no \u00e4"], ["perhaps"]])
    assert found == [[0, 1], [0, 0], [1, 0]]


def test_onnx_takes_the_numbers_that_encode_a_table_and_names_them(encoded, tmp_path):
    pytest.importorskip("onnx")
    one = encoded[0]
    notes = one.export("onnx", file := tmp_path / "m.onnx")
    assert f"{file} takes the 10 numbers that encode the columns of the table: size," in notes[0]
    assert "replace them by size=11.0, day=11000.5" in notes[1]
    assert one.export("python", tmp_path / "m.py") == []


def test_names_of_columns_stay_texts_in_javascript_and_python(tmp_path):
    script = content(hostile(), "javascript").decode("ascii")
    assert "<" not in script.partition("const MODEL = ")[2].partition("\n")[0]
    found = runpy.run_path(str(written(hostile(), "python", tmp_path / "m.py")))
    assert (tmp_path / "m.py").read_bytes().isascii()
    assert [column["name"] for column in found["MODEL"]["columns"]] == [HOSTILE[0], *HOSTILE[4:]]
    assert found["MODEL"]["classes"] == list(HOSTILE[1:3])
    assert "os" not in found


@needs_cc
def test_names_of_columns_and_files_stay_texts_in_c(tmp_path):
    one = hostile()
    function = compiled(one, tmp_path / f"{HOSTILE[4]};.c".replace("/", ""))
    agree(by_c(one, tmp_path)(rows_for(one)), predicted_values(one, rows_for(one)))
    texts = ctypes.cast(function("columns"), ctypes.POINTER(ctypes.c_char_p))[:3]
    assert [text.decode() for text in texts] == [HOSTILE[0], *HOSTILE[4:6]]


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
    one = named(name)
    session = runtime.InferenceSession(content(one, "onnx"), providers=["CPUExecutionProvider"])
    x = rows_for(one).astype(np.float32)
    expected = predicted_values(one, x)
    single = predicted_values(replace(one, network=deepcopy(one.network).float()), x)
    own = np.abs(single - expected).max() / np.abs(expected).max()
    (found,) = session.run(None, {"x": x})
    assert found.dtype == np.float32
    agree(found, expected, max(1e-6, 3 * own))


def test_onnx_refuses_units_beyond_float32():
    pytest.importorskip("onnx")
    one = table()
    with pytest.raises(UsageError, match=r"values near \d.*e-\d+, but --format onnx uses float32"):
        content(replace(one, domain=one.domain * 1e-40), "onnx")


def test_a_model_without_a_document_is_refused_in_one_sentence():
    own = type("Own", (Network,), {"kind": "own", "shape": (2, 1)})()
    with refuses("cannot be exported"):
        document_of(replace(model(kan()), network=own))
    assert set(FORMATS) == {"c", "javascript", "onnx", "python"}
    with refuses(", ".join(FORMATS)):
        content(model(kan()), "matlab")
