"""The benchmark on tables at a small size: every model has a row; ranks over tables and splits."""

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from kanrun.experiments.bench import table_models, table_suite
from kanrun.experiments.bench.config import BenchConfig
from kanrun.experiments.bench.table_models import (
    LEVELS,
    SLOW,
    models,
    normal_scores,
    quantile_scores,
)
from kanrun.experiments.bench.table_suite import ranks, select_sources, tables
from scipy import stats

from kanrun.points import Points
from kanrun.runs.records import Row


@pytest.mark.parametrize("name, inputs", [("friedman1", 10), ("friedman2", 4), ("friedman3", 4)])
def test_artificial_tables_have_the_rows_of_the_recorded_ones(name, inputs):
    (source,) = select_sources([name]).itertuples()
    assert [part.shape for part in table_suite.load(source)] == [(400, inputs), (400,)]


def test_names_are_unique_and_select_tables_and_sets():
    sets = {"small": (27, 9), "medium": (25, 0), "large": (12, 0), "development": (28, 12)}
    assert select_sources(sets)["name"].is_unique
    for name, counts in sets.items():
        kinds = select_sources([name])["kind"]
        assert ((kinds == "numbers").sum(), (kinds == "classes").sum()) == counts
    assert list(select_sources(["wine", "Boston"])["name"]) == ["Boston", "wine"]
    with refuses("[Bostn] is neither a table nor a set; did you mean Boston"):
        select_sources(["Bostn"])


def rows_of(name):
    cfg = BenchConfig(part="tables", tables=[name], splits=1, layers=[[1, 1, 1, 5]])
    return [r.values for r in tables(cfg, 0) if isinstance(r, Row) and r.table == "tables"]


def test_every_model_is_measured_on_a_table(monkeypatch):
    # Optional libraries are left out, and trees, rows and columns are few, to save time.
    frame, labels = table_suite.load(next(select_sources(["wine"]).itertuples()))
    few = [
        each.reset_index(drop=True) for each in (frame.iloc[::2, [0, 6, 9, 12]], labels.iloc[::2])
    ]
    monkeypatch.setattr(table_suite, "load", lambda _: few)
    for module in (table_models, table_suite):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(table_models, "TREES", 10)
    rows = rows_of("wine")
    assert {row["model"] for row in rows} == set(models(3))
    assert all(0 < float(row["score"] or 0) < 1.2 for row in rows)


def test_large_tables_have_fewer_models(monkeypatch):
    noise = np.random.default_rng(1).standard_normal(400)
    frame = pd.DataFrame({"x": np.linspace(-3, 3, 400)})
    monkeypatch.setattr(table_suite, "load", lambda _: (frame, frame["x"] ** 2 + noise))
    monkeypatch.setattr(table_models, "find_spec", lambda name: None)
    monkeypatch.setattr(table_suite, "find_spec", lambda name: True)
    rows = rows_of("weather")
    assert {row["model"] for row in rows} == {*models(None)} - {*SLOW}
    assert rows[0]["score"] > 0.8
    assert rows[0]["crps"] < 0.8
    assert 1 < rows[0]["nlpd"] < 1.8
    for row in rows:
        assert row["coverage"] == pytest.approx(0.9, abs=0.08)


def test_normal_densities_and_their_quantiles_have_the_same_scores():
    rng = np.random.default_rng(0)
    mean, y = rng.standard_normal((2, 500))
    quantiles = mean[:, None] + 0.8 * stats.norm.ppf(LEVELS)
    by_density = normal_scores(y, mean, 0.8)
    by_quantiles = quantile_scores(y, quantiles)
    assert by_density["nlpd"] == pytest.approx(-stats.norm.logpdf(y, mean, 0.8).mean())
    assert by_quantiles["crps"] == pytest.approx(by_density["crps"], rel=0.06)
    assert by_quantiles["coverage"] == by_density["coverage"]


def test_gaussian_process_is_scored_by_its_own_densities(monkeypatch):
    monkeypatch.setattr(table_models, "find_spec", lambda name: None)
    x = np.linspace(-2, 2, 60)[:, None]
    rows = Points(x, x**2 + 0.1 * np.random.default_rng(0).standard_normal((60, 1)))
    scores = models(None)["Gaussian process"](rows).scores(rows)
    assert scores["nlpd"] < -0.5
    assert scores["coverage"] > 0.8


def test_ranks_count_the_best_as_one():
    columns = ["table", "model", "score", "nlpd", "crps", "coverage"]
    rows = cases("""
        a | x | 0.9 | 0.1 | 0.1 | 0.8
        a | y | 0.8 | 0.2 | 0.2 | 0.9
        b | x | 0.7 | 0.4 | 0.3 | 1.0
        b | y | 0.1 | 0.3 | 0.4 | 0.9
    """)
    frame = pd.DataFrame(rows, columns=columns).assign(task="R2", split=0, cpu_seconds=1.0)
    first, second = (each.values for each in ranks(frame) if isinstance(each, Row))
    found = ["model", "mean_rank", "nlpd_rank", "crps_rank"]
    assert [first[name] for name in found] == ["x", 1.0, 1.5, 1.0]
    assert [second[name] for name in found] == ["y", 2.0, 1.5, 2.0]
    assert second["worst_score"] == pytest.approx(0.1)
    assert [first["coverage"], second["coverage"]] == pytest.approx([0.9, 0.9])
