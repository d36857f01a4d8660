"""`kanrun import` writes a run that the other commands can use."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from numpy.testing import assert_allclose
from run_files import finished

from kanrun import load_run
from kanrun.runs import Run

STATES = Path(__file__).parents[2] / "engine" / "networks" / "states"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return an outputs folder with an imported network that has multiplication nodes."""
    place = tmp_path_factory.mktemp("outputs")
    finished(f"import {STATES}/products inputs=[length,mass] outputs=[period]", place)
    return place


def test_the_run_predicts_what_pykan_recorded(outputs, command):
    points = torch.load(STATES / "products_points", weights_only=True)
    y = points["y"][:, 0].numpy()
    pd.DataFrame(points["x"], columns=["length", "mass"]).to_csv("x.csv", index=False)
    command(f"predict import/1 x.csv --output y.csv --outputs {outputs}")
    assert_allclose(pd.read_csv("y.csv")["period"], y, rtol=0, atol=1e-12 * np.abs(y).max())
    summary = load_run("import/1", outputs).tables["summary"].iloc[0]
    assert (summary["library"], summary["shape"], summary["edges"]) == ("pykan", "2-4-1", 16)


def test_export_and_report_work(outputs, tmp_path, command):
    command(f"export import/1 --format python -o kan.py --outputs {outputs}")
    command(f"runs report import/1 -o page.html --outputs {outputs}")
    assert "<figure" in (tmp_path / "page.html").read_text("utf-8")
    assert "period" in (tmp_path / "kan.py").read_text("utf-8")


def test_samples_are_the_inputs_of_the_checkpoint_or_uniform_on_its_first_grid(tmp_path):
    samples = {}
    for name in ("trained", "efficient_kan_b.pt"):
        folder = finished(f"import {STATES}/{name} figures=none", tmp_path)
        table = Run(folder).table("predictions")
        inputs = table[table["split"] != "grid"].filter(like="input:").to_numpy()
        samples[name] = np.sort(inputs, axis=0)
    stored = torch.load(STATES / "trained_cache_data", weights_only=True).numpy()
    np.testing.assert_array_equal(samples["trained"], np.sort(stored, axis=0))
    uniform = samples["efficient_kan_b.pt"]
    assert len(uniform) == 2000
    grid = torch.load(STATES / "efficient_kan_b.pt", weights_only=True)["layers.0.grid"].numpy()
    assert_allclose(uniform[[0, -1]], grid[:, [2, -3]].T, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "words, message",
    cases("""
        import {}/symbolic | are symbolic, and edges of kanrun are splines
        import {}/trained inputs=[a] | has 1 names; the network has 2
        import {}/trained inputs=[a,y] | 'y' is the name of an input and of an output
        import nothing.pt | there is no file 'nothing.pt'
        import | file must be given
    """),
)
def test_refusals_leave_no_folder(words, message, refused):
    assert message in refused(words.format(STATES))


@pytest.mark.slow
def test_interpret_finds_a_formula_of_the_imported_network(outputs, command):
    command(f"import {STATES / 'trained'} --outputs {outputs}")
    line = f"from_run=import/latest budget=30 -q --outputs {outputs}"
    found = command(f"interpret {line}").run.table("summary").iloc[0]
    assert found["network_rmse"] < 1e-12
    assert found["r2"] > 0.999
    assert "x0" in found["formula"]
