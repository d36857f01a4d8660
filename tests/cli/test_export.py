"""`kanrun export` on runs of the real command."""

import json
import runpy

import numpy as np
import pytest

from kanrun.cli.app import main
from kanrun.exports import FORMATS, evaluate, in_pieces
from kanrun.study.prediction import predicted_values
from kanrun.study.saved import load_run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    assert (
        main(
            ["fit", "target=runge", "model=bspline", "figures=none", "-q", "--outputs", str(place)]
        )
        == 0
    )
    return place


def test_every_format_is_written(outputs, capsys):
    pytest.importorskip("onnx")
    for form in FORMATS:
        file = outputs / ("tables.c" if form == "lut" else f"model.{form}")
        words = ["export", "fit/latest", "--format", form, "-o", str(file)]
        assert main([*words, "--outputs", str(outputs)]) == 0
        said = capsys.readouterr()
        assert said.out == f"{file}\n"
        assert ("proven in the whole domain" in said.err) == (form == "lut")
        assert main([*words, "--outputs", str(outputs)]) == 2
        assert f"{file} exists. Add --force" in capsys.readouterr().err
    assert main([*words, "--outputs", str(outputs), "--force"]) == 0
    model, x = load_run(outputs / "fit" / "v0001").model(), np.linspace(-1, 1, 200)[:, None]
    document = json.loads((outputs / "model.json").read_text())
    np.testing.assert_allclose(
        evaluate(in_pieces(document), x), predicted_values(model, x), rtol=1e-12
    )
    np.testing.assert_allclose(
        runpy.run_path(str(outputs / "model.python"))["predict"](x),
        predicted_values(model, x),
        rtol=1e-12,
    )


def test_marks_of_missing_values_in_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = np.linspace(0, 9, 40)
    table = np.stack([np.where(np.arange(40) % 5, a, -999), a[::-1] % 2, a], 1)
    np.savetxt("t.csv", table, "%.17g", ",", header="a,b,y", comments="")
    words = ["target.path=t.csv", "target.outputs=[y]", "target.missing_values=[-999]"]
    assert main(["fit", "target=table", *words, "-q"]) == 0
    for form, note in (("python", 0), ("torch", 1)):
        capsys.readouterr()
        assert main(["export", "fit/latest", "--format", form, "-o", f"m.{form}"]) == 0
        said = capsys.readouterr().err
        assert ("recognises no missing values, nor those of target.missing_values" in said) == note
    assert "replace them by a=4.61538" in said
    columns = {"a": table[:, 0], "b": table[:, 1]}
    np.testing.assert_allclose(
        runpy.run_path("m.python")["predict"](columns)[:, 0],
        load_run("fit/latest").model().predict(columns),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit/latest", "--format", "formula", "-o", "f.tex"], "holds no formula"),
        (["fit/latest", "--format", "c", "-o", "nowhere/m.c"], "choose another file"),
        (["fit/latest", "--format", "cpp", "-o", "m.c"], "'cpp' is not one of"),
        (["fit/latest", "--format", "c", "-o", "m.c", "--max-error", "1"], "lut alone"),
        (["fit/latest", "--format", "lut", "-o", "m.c", "--bits", "input=1"], "from 2 to 24"),
        (["fit/latest", "--format", "lut", "-o", "m.c", "--bits", "inputs=9"], "input_bits"),
        (["fit/latest", "--format", "lut", "-o", "m.c", "--bits", "index"], "input=12,index=8"),
    ],
)
def test_a_refusal_is_one_sentence(outputs, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words, "--outputs", str(outputs)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
