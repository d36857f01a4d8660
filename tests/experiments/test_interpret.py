"""kanrun interpret at a small size, through the study that the command runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments import fit as fit_experiment
from kanrun.experiments import interpret as experiment

from kanrun.config import (
    ExpressionTarget,
    FitConfig,
    InterpretConfig,
    KANConfig,
    LMSolver,
    MLPConfig,
    SamplingConfig,
    TableTarget,
)
from kanrun.errors import UsageError
from kanrun.figures.interpret import candidate_map
from kanrun.formulas import parse, to_numpy
from kanrun.runs import Run, RunFolder, Status
from kanrun.study.execute import check, execute
from kanrun.study.interpret.score_card import score_claims
from kanrun.study.interpret.task import tasks_of

SUM = ExpressionTarget("x0^2 + sin(2*x1) + 0*x2", [[-1, 1], [-1, 1], [-1, 1]])


def settings(**changes: Any) -> InterpretConfig:
    values: dict[str, Any] = {
        "target": SUM,
        "model": KANConfig(hidden=None, intervals=[5, 10], base="zero"),
        "sampling": SamplingConfig(train=400, test=100),
        "budget": 10.0,
    }
    return InterpretConfig(**{**values, **changes})


def run(tmp_path_factory: pytest.TempPathFactory, cfg: InterpretConfig) -> Run:
    folder = RunFolder.create(tmp_path_factory.mktemp("outputs"), "interpret")
    outcome = execute(experiment, cfg, folder, quiet=True)
    assert outcome.status == Status.COMPLETED, outcome
    return Run(folder.path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory, settings(seeds=2))


def test_the_formula_is_recovered_and_certified(finished: Run) -> None:
    summary = finished.table("summary")
    assert list(summary["seed"]) == [0, 1]
    assert set(summary["formula"]) == {"x0**2 + sin(2*x1)"}
    assert (summary["formula_rmse"] < 1e-10).all()
    assert (summary["network_rmse"] < 1e-2).all()
    assert (summary["certificate"] < 1e-1).all()
    assert set(summary["recovered"]) == {"yes"}
    assert set(summary["active_edges"]) == {2}
    assert (summary["seconds"] > 0).all()


def test_stages_edges_and_candidates_are_recorded(finished: Run) -> None:
    stages = finished.table("stages")
    assert list(stages[stages["seed"] == 0]["stage"]) == [
        "train", "prune", "retrain", "snap", "refit", "round", "verify",
    ]  # fmt: skip
    assert stages["shape"].iloc[-1] == "2-1"
    edges = finished.table("edges")
    assert {"stage", "layer", "out", "in", "x", "y", "score", "symbolic", "pruned"} <= set(edges.columns)
    candidates = finished.table("candidates")
    best = candidates[(candidates["rank"] == 0) & (candidates["seed"] == 0)]
    assert set(best["candidate"]) == {"x^2", "sin"}


def test_the_forms_read_back_as_the_formula(finished: Run) -> None:
    forms = finished.table("formulas").iloc[0]
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    again = to_numpy(parse(forms["text"]), ["x0", "x1", "x2"])(points)
    np.testing.assert_allclose(again, points[:, 0] ** 2 + np.sin(2 * points[:, 1]), atol=1e-12)
    name = next(name for name in finished.checkpoints if name.startswith("formula-"))
    meta = finished.checkpoint(name).meta
    assert meta["formula"]["text"] == forms["text"]
    assert json.dumps(meta)


def test_figures_and_claims(finished: Run) -> None:
    names = {path.stem for path in (finished.path / "figures").iterdir()}
    assert {"stages", "network", "candidates"} <= names
    tables = {name: finished.table(name) for name in finished.tables}
    claims = experiment.claims(tables)
    assert claims[0].holds
    assert claims[0].measured == 1


def test_a_fixed_shape_loses_its_spare_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    cfg = settings(
        target=ExpressionTarget("exp(x0+x1^2)", [[-1, 1], [-1, 1]]),
        model=KANConfig(hidden=[2], intervals=[5, 10], base="zero"),
    )
    summary = run(tmp_path_factory, cfg).table("summary").iloc[0]
    assert summary["shape"] == "2-1-1"
    assert summary["recovered"] == "yes"


def test_a_network_of_another_run_is_snapped(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path_factory.mktemp("outputs")
    monkeypatch.setenv("KANRUN_OUTPUTS", str(outputs))
    target = ExpressionTarget("x0^2 + sin(2*x1)", [[-1, 1], [-1, 1]])
    fitted = FitConfig(
        target=target, model=KANConfig(hidden=[], intervals=[10]), solver=LMSolver(),
        sampling=SamplingConfig(train=400, test=100),
    )  # fmt: skip
    folder = RunFolder.create(outputs, "fit")
    assert execute(fit_experiment, fitted, folder, quiet=True).status == Status.COMPLETED
    _store_config(folder, fitted)
    summary = run(tmp_path_factory, settings(from_run=str(folder.path))).table("summary").iloc[0]
    assert summary["structure"] == "given network"
    assert summary["recovered"] == "yes"
    here, there = (tasks_of(settings(from_run=str(folder.path)), seed)[0].samples for seed in (0, 5))
    np.testing.assert_array_equal(here.x, there.x)  # the split of the run, whatever the seed here


def _store_config(folder: RunFolder, cfg: FitConfig) -> None:
    from omegaconf import OmegaConf

    (folder.path / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.structured(cfg), folder.path / ".hydra" / "config.yaml")


def test_tables_are_interpreted_in_their_own_units(tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 3, (500, 2))
    path = tmp_path_factory.mktemp("data") / "table.csv"
    frame = pd.DataFrame({"a b": x[:, 0], "c": x[:, 1], "y": 40 + 3 * x[:, 0] ** 2 + 5 * np.log(x[:, 1])})
    frame.to_csv(path, index=False)
    target = TableTarget(str(path), ["a b", "c"], ["y"])
    result = run(tmp_path_factory, settings(target=target, sampling=SamplingConfig(train=None, test=None)))
    summary = result.table("summary").iloc[0]
    assert summary["recovered"] == "unknown"
    assert summary["formula_rmse"] < 1e-8
    assert summary["outcome"] == "formula"


def test_noise_has_no_structure(tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "noise.csv"
    pd.DataFrame({"a": rng.normal(size=300), "y": rng.normal(size=300)}).to_csv(path, index=False)
    cfg = settings(target=TableTarget(str(path), ["a"], ["y"]), sampling=SamplingConfig(train=None, test=None))
    summary = run(tmp_path_factory, cfg).table("summary").iloc[0]
    assert summary["outcome"] == "failed"
    assert "no structure found" in summary["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": MLPConfig()}, "no edge functions"),
        ({"candidates": []}, "No candidate is left"),
        ({"candidates": ["sine"]}, "sine"),
        ({"own_candidates": {"f": "open(x0)"}}, "open"),
        ({"own_candidates": {"exp": "x0^2"}}, "choose another name"),
        ({"model": KANConfig(hidden=None, base="silu")}, "leave it at zero"),
        ({"model": KANConfig(hidden=None, base="zero", degree=0)}, "at least 1"),
        ({"starts": 0}, "starts=0"),
        ({"budget": -1.0}, "budget=-1"),
        ({"sampling": SamplingConfig(train=100, validation=0.0)}, "validation"),
        ({"from_run": "no/such/run"}, "no"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(experiment, settings(**changes))


def test_the_score_card_counts_seeds() -> None:
    summary = pd.DataFrame(
        {
            "target": ["a", "a", "b", "c"],
            "kind": "expression",
            "noise": 0.0,
            "recovered": ["yes", "no", "yes", "unknown"],
            "formula_rmse": [0.0, 1.0, 0.0, 1.0],
            "seconds": [1.0, 2.0, 70.0, 1.0],
        }
    )
    first, second, slowest = score_claims(summary)
    assert (first.measured, first.holds) == (0.5, False)
    assert (second.measured, second.holds) == (1.0, True)
    assert not slowest.holds


def test_the_map_of_candidates_shows_the_digits() -> None:
    table = pd.DataFrame(
        {
            "edge": ["x0 to output"] * 2,
            "index": [0, 0],
            "candidate": ["sin", "x"],
            "one_minus_r2": [1e-8, 0.5],
            "rank": [0, 1],
        }
    )
    image = candidate_map(table).axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(image, [[8.0, -np.log10(0.5)]])
