"""kanrun interpret at a small size, through the study that the command runs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from doors import check_config, run_config, typed
from kanrun.experiments.interpret.interpretation import (
    is_truth,
    stands_for,
)
from kanrun.experiments.interpret.problem import (
    problems_of,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import j1

from kanrun import interpret
from kanrun.engine.symbolic import (
    Formula,
    Graph,
    SearchData,
    VerificationData,
)
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse
from kanrun.model.model import load_run

BOX = "target.domain=[[-1,1],[-1,1]]"
SUM = "target.formula=x0^2+sin(2*x1)+0*x2 target.domain=[[-1,1],[-1,1],[-1,1]]"
SHORT = "budget=10"
SMALL = f"{SHORT} sampling.n_train=400 sampling.n_test=100"
ALL_ROWS = "sampling.n_train=null sampling.n_test=null"


def settings(*lines):
    return typed("interpret", SMALL, *lines)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def finished(outputs):
    """Return a run of `kanrun interpret` on points, without a network."""
    return run_config(settings(SUM), outputs)


@pytest.fixture(scope="module")
def fitted(outputs):
    """Return a run of `kanrun fit`."""
    network = "model.hidden=[] model.intervals=[10] sampling.n_train=400 sampling.n_test=100"
    cfg = typed("fit", f"target.formula=x0^2+sin(2*x1) {BOX} solver=lm {network}")
    return run_config(cfg, outputs)


@pytest.fixture(scope="module")
def snapped(outputs, fitted):
    """Return the interpretation of the run `fitted`."""
    return run_config(source(fitted), outputs)


def source(run, *lines):
    return typed("interpret", f"{SHORT} from_run={run.path.absolute()}", *lines)


def test_the_formula_is_recovered_and_certified_and_its_text_reads_back(finished):
    (summary,) = finished.table("summary").to_dict("records")
    assert (summary["seed"], summary["verified"]) == (0, "yes")
    assert summary["formula"] == "x0**2 + sin(2*x1)"
    assert summary["formula_rmse"] < 1e-10
    assert summary["seconds"] > 0
    text = finished.table("formulas")["text"][0]
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    again = to_numpy(parse(text), ["x0", "x1", "x2"])(points)
    assert_allclose(again, points[:, 0] ** 2 + np.sin(2 * points[:, 1]), atol=1e-12)
    (name,) = (name for name in finished.checkpoints if name.startswith("formula-"))
    assert finished.checkpoint(name).meta["formula"]["text"] == text


def test_stages_edges_and_candidates_of_a_network_are_recorded_and_drawn(snapped):
    stages = snapped.table("stages")
    assert list(stages["stage"])[:3] == ["train", "prune", "retrain"]
    assert list(stages["stage"])[-3:] == ["refit", "round", "verify"]
    assert stages["shape"].iloc[-1] == "2-1"
    assert {"stage", "symbolic", "pruned"} <= set(snapped.table("edges").columns)
    candidates = snapped.table("candidates")
    best = candidates[candidates["rank"] == 0]
    assert set(best["candidate"]) == {"x^2", "sin"}
    figures = {path.stem for path in snapped.figures}
    assert {"stages", "network", "candidates"} <= figures


def test_formula_of_a_network_is_compared_with_the_network(snapped, fitted):
    summary = snapped.table("summary").iloc[0]
    assert (summary["structure"], summary["verified"]) == ("given network", "yes")
    network = load_run(fitted.path).model()
    (problem,) = problems_of(source(fitted), 0)
    fresh, held = (
        network(x)[:, 0] - (x[:, 0] ** 2 + np.sin(2 * x[:, 1]))
        for x in map(problem.scaling.invert, (problem.held_out.fresh, problem.held_out.x))
    )
    assert summary["largest_difference"] == pytest.approx(np.abs(fresh).max(), rel=1e-6)
    assert summary["network_rmse"] == pytest.approx(np.sqrt(np.mean(held**2)), rel=1e-6)
    assert 0 < summary["graph_difference"] < 1e-3 * summary["largest_difference"]
    assert "as a graph of splines" in (snapped.path / "run.json").read_text()


@pytest.mark.parametrize(
    "line", ["target=runge", "target.domain=[[0,1]]", "sampling.noise=0.1", "study=one_variable"]
)
def test_target_settings_are_refused_next_to_from_run(fitted, line):
    with refuses(f"has no effect next to from_run ... Leave out {line} or from_run."):
        source(fitted, line)
    assert typed("interpret", line, "from_run=null").from_run is None


def test_a_study_has_targets_of_its_own(fitted):
    assert source(fitted, "study=null").from_run
    with refuses("the study has targets of its own"):
        check_config(replace(source(fitted), suite=[{"seed": 1}]))


def test_the_split_of_a_run_is_its_own_whatever_the_seed(fitted):
    cfg = source(fitted)
    here, there = (problems_of(cfg, seed)[0].search.data for seed in (0, 5))
    assert_array_equal(here.x, there.x)


def test_note_warns_if_the_graph_is_not_close_to_the_network(fitted, monkeypatch):
    cfg = source(fitted)
    (problem,) = problems_of(cfg, 0)
    assert problem.network is not None
    assert not any(note.warning for note in problem.notes)
    far = replace(problem.network, difference=0.5, faithful=False)
    monkeypatch.setattr("kanrun.experiments.interpret.problem.source_network", lambda *_: far)
    (problem,) = problems_of(cfg, 0)
    (said,) = [note.text for note in problem.notes if note.warning]
    assert "not small compared with its error" in said


def test_tables_are_interpreted_in_their_own_units(tmp_path):
    """The second column and the output are so large that the search scales them."""
    a, c = np.random.default_rng(0).uniform(1, 3, (2, 100)) * [[1], [1e6]]
    path = tmp_path / "table.csv"
    pd.DataFrame({"a b": a, "c": c, "y": 3e13 * a**2 / c}).to_csv(path, index=False)
    columns = "'target.inputs=[a b,c]' target.outputs=y"
    line = f"target=table target.path={path} {columns} {ALL_ROWS}"
    result = run_config(settings(line), tmp_path)
    summary = result.table("summary").iloc[0]
    assert summary["formula_rmse"] < 1e-5
    assert summary["outcome"] == "exact"  # decided by the points without a true function
    found = result.table("predictions")
    assert set(found["split"]) == {"train", "test"}
    truth = 3e13 * found["input:a b"] ** 2 / found["input:c"]
    assert_allclose(found["truth:y"], truth)
    assert_allclose(found["prediction:y"], truth)


@pytest.mark.parametrize(
    "line, message",
    cases("""
        candidates=[] | No candidate is left
        custom_candidates.f=open(x0) | open
        custom_candidates.exp=x0^2 | Choose another name
        sampling.validation_fraction=0 | validation
        precision=float32 | precision=float32: kanrun interpret uses the cpu and float64
        threads=2 | threads=2: kanrun interpret uses one
    """),
)
def test_bad_settings_are_refused(line, message):
    with refuses(message):
        check_config(settings(SUM, line))


@pytest.mark.parametrize(
    "path, message",
    cases("""
        no/such/run | from_run=no/such/run is not an absolute path
        /no/such/run | from_run=/no/such/run is not the folder of a run
    """),
)
def test_from_run_must_be_the_absolute_path_of_a_run(path, message):
    with refuses(message):
        check_config(replace(settings(SUM), from_run=path))


def test_a_suite_has_a_row_for_each_entry(outputs):
    cfg = settings("target.formula=x0 target.domain=[[0,1]]")
    suite = [{"target": {"formula": text}} for text in ("x0^2", "sin(x0)")]
    found = run_config(replace(cfg, suite=suite), outputs)
    summary = found.table("summary")
    assert summary["formula"].tolist() == ["x0**2", "sin(x0)"]
    assert set(summary["outcome"]) == {"exact"}
    assert not found.figures


@pytest.fixture
def short_range(tmp_path):
    """Return the arguments for a table of the Bessel function J1 on [0, 0.05]."""
    x = np.random.default_rng(0).uniform(0, 0.05, 300)
    path = tmp_path / "short.csv"
    pd.DataFrame({"x": x, "y": j1(x)}).to_csv(path, index=False)
    return f"target.path={path} target.outputs=[y] {ALL_ROWS}"


def test_formula_that_imitates_the_function_has_outcome_agrees(short_range, outputs):
    found = run_config(settings(short_range), outputs)
    summary = found.table("summary").iloc[0]
    assert summary["outcome"] == "agrees"
    for said in ("they do not show that it is their function", "its next term would be"):
        assert said in summary["reason"]
    assert "constants" not in found.tables, "residuals of rounding say nothing about constants"


@pytest.mark.slow
def test_formula_that_imitates_the_network_of_a_run_is_not_exact(short_range, outputs):
    fitted = run_config(typed("fit", short_range), outputs)
    summary = run_config(source(fitted), outputs).table("summary").iloc[0]
    assert summary["outcome"] in ("agrees", "formula")


@pytest.mark.parametrize("formula, outcome", [("j1(x0)", "agrees"), ("x0/2 - x0^3/16", "exact")])
def test_known_target_decides_identity_beyond_the_points(formula, outcome, outputs):
    """On this range, both functions have the same values."""
    cfg = settings(f"'target.formula={formula}' target.domain=[[0,0.003]]")
    found = run_config(cfg, outputs)
    assert found.table("summary").iloc[0]["outcome"] == outcome


def test_an_exact_formula_that_differs_beyond_the_domain_is_wrong():
    box = np.array([[-1.0, 1.0]])
    x = np.linspace(-1, 1, 50)[:, None]
    truth = lambda x: np.abs(x[:, 0] + 1.5)  # noqa: E731
    check = VerificationData(x, truth(x), box, x, truth)
    texts = ("x0 + 1.5", "abs(x0 + 1.5)", "abs(x0 + 1.5)*(1 + 9e-10)", "abs(x0 + 1.5)*(1 + 2e-9)")
    formulas = [Formula(parse(text), ("x0",), Graph(1, ("sum",), ())) for text in texts]
    assert [is_truth(formula, check) for formula in formulas] == [False, True, True, False]


@pytest.mark.parametrize(
    "network_error, tolerance, formula_error, accepted",
    cases("""
0.1 | 0.1 | 0.109 | True
0.1 | 0.1 | 0.111 | False
0.1 | 0.0 | 0.101 | False
1e-14 | 0.1 | 1e-12 | True
1e-14 | 0.1 | 2e-12 | False
0.95 | 0.1 | 1.01 | False
1e999 | 0.0 | 0.99 | True
"""),
)
def test_formula_may_differ_from_a_network_by_its_error(
    network_error, tolerance, formula_error, accepted
):
    y = np.arange(20.0)
    data = SearchData(np.ones((20, 1)), y, np.ones((20, 1)), y)
    network = SimpleNamespace(model=lambda x: y + 0.1, error=network_error)
    assert stands_for(lambda x: y + 0.2, formula_error, network, tolerance, data) == accepted
    assert stands_for(network.model, formula_error, network, tolerance, data) == (
        accepted or network_error > 0.05
    )


def test_formula_far_worse_than_the_network_is_not_accepted(fitted, outputs):
    found = run_config(source(fitted, "candidates=[x]"), outputs).table("summary").iloc[0]
    assert found["outcome"] == "failed"
    assert "times the error of the network" in found["reason"]


def test_an_edge_without_a_candidate_stays_numeric(fitted, outputs):
    run = run_config(source(fitted, "candidates=[x,x^2]"), outputs)
    summary = run.table("summary").iloc[0]
    assert (summary["outcome"], summary["numeric_edges"]) == ("partly numeric", 1)
    assert "f1(x1)" in summary["formula"]
    assert summary["formula_rmse"] < 1e-3
    assert run.table("stages")["stage"].iloc[-1] == "verify"
    decisions = run.table("decisions").set_index("state")["reason"]
    assert sorted(decisions.index) == ["numeric", "symbolic"]
    assert "multiplies the network's error" in decisions["numeric"]


def test_formula_that_predicts_no_new_points_is_not_accepted(tmp_path):
    x, noise = np.random.default_rng(0).normal(size=(2, 60))
    for file, sign in (("old", 1), ("new", -1)):
        table = pd.DataFrame({"x": x, "y": sign * x + 0.1 * noise})
        table.to_csv(tmp_path / f"{file}.csv", index=False)
    line = f"target.path={tmp_path}/old.csv target.test_path={tmp_path}/new.csv candidates=[x]"
    cfg = settings(line, f"target.outputs=[y] {ALL_ROWS}")
    found = run_config(cfg, tmp_path).table("summary").iloc[0]
    assert found["outcome"] == "failed"
    assert pd.isna(found["formula"])
    assert "explains any of the variance of new points" in found["reason"]


@pytest.mark.parametrize("value, text", [(0.0, "0"), (4.0, "4"), (-0.25, "-0.25")])
def test_a_constant_output_is_a_formula(value, text):
    found = interpret(np.random.default_rng(0).normal(size=(40, 2)), np.full(40, value))
    assert (found.outcome, str(found)) == ("formula", text)
    assert "constant" in found.sentence
    assert_array_equal(found.formula(np.zeros((3, 2))), value)
