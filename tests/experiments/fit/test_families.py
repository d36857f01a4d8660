"""Fits of counts by the real command: exposures, intervals, exports, and refusals."""

import runpy

import numpy as np
import pandas as pd
import pytest
from cases import cases
from doors import run_config, typed
from numpy.testing import assert_allclose

from kanrun import KANRegressor, fit, load_run
from kanrun.points import Family


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    age = rng.uniform(-1, 1, 200)
    exposure = rng.uniform(0.2, 4, 200)
    claims = rng.poisson(exposure * np.exp(1 + age))
    return pd.DataFrame({"age": age, "exposure": exposure, "claims": claims})


CLAIMS = "target.path={}/counts.csv target.outputs=claims target.family=poisson"
OFFSET = "target.offset=exposure model.pairs=false model.selection=evidence"


@pytest.fixture(scope="module")
def folder(counts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    counts.to_csv(folder / "counts.csv", index=False)
    cfg = typed("fit", CLAIMS.format(folder), OFFSET, "figures=[]")
    run_config(cfg, folder)
    return folder


@pytest.fixture
def run(folder):
    return folder / "fit" / "v0001"


def test_counts_with_exposures_are_predicted_from_a_file(folder, run, counts, command):
    words = "-o out.csv --interval=0.9 --quantiles=0.25,0.95"
    command(f"predict {run} {folder}/counts.csv {words}")
    model = load_run(run).model()
    out = pd.read_csv("out.csv")
    mean = out["prediction:claims"]
    truth = counts["exposure"] * np.exp(1 + counts["age"])
    poisson = Family("poisson")
    assert poisson.deviance(truth, mean).mean() < 0.1
    assert (out["lower:claims"] % 1 == 0).all()
    assert (out["quantile 0.95:claims"] == out["upper:claims"]).all()
    assert abs((counts["claims"] < out["quantile 0.25:claims"]).mean() - 0.2) < 0.1
    x = counts[["age", "exposure"]]
    one, two, far = (model.predict(x.assign(exposure=each)) for each in (1.0, 2.0, 200.0))
    assert_allclose([two, far], [2 * one, 200 * one], 1e-3)
    explained = poisson.explained(counts[["claims"]].to_numpy(), mean.to_numpy()[:, None])
    assert model.score(x, counts["claims"]) == pytest.approx(explained)


def test_exports_of_counts_predict_them(run, counts, command):
    command(f"export {run} --format python -o counts.py")
    predict = runpy.run_path("counts.py")["predict"]
    x = counts[["age", "exposure"]]
    assert_allclose(predict(dict(x))[:, 0], load_run(run).model().predict(x), rtol=1e-9)


@pytest.mark.parametrize(
    "line, said",
    cases("""
        target.family=gaussian | target.offset=exposure must be a column other than
        target.family=gamma | ranges from 0 to
        target.task=classification | target.family=poisson is for numbers
        target.offset=years | has no column 'years'
        target.offset=age | must be numbers above 0 in every row
        model.bounds=[0,9] | model.bounds is for target.family=gaussian
        "'model.monotone={exposure: increasing}'" | there is no input 'exposure'
    """),
)
def test_columns_that_do_not_suit_the_family_are_refused(folder, line, said, refused):
    assert said in refused(f"fit {CLAIMS.format(folder)} {OFFSET} {line}")


@pytest.mark.parametrize("line", ["fit {} model=kan", "interpret {}", "interpret from_run={}"])
def test_other_models_refuse_families(folder, run, line, refused):
    said = refused(line.format(run if "from_run" in line else CLAIMS.format(folder)))
    assert "target.family=poisson is for kanrun fit with model=auto alone" in said


def test_estimators_take_families_and_missing_numbers(counts):
    x = counts[["age", "exposure"]].to_numpy()
    y = counts["claims"].to_numpy()
    made = KANRegressor("additive", family="poisson", offset="x1").fit(x, y)
    mean = made.predict(x)
    assert made.score(x, y) == pytest.approx(Family("poisson").explained(y[:, None], mean[:, None]))
    assert_allclose(fit(x, y, "additive", family="poisson", offset="x1").predict(x), mean, 1e-3)
    holes = np.where(np.random.default_rng(1).random(x.shape) < 0.1, np.nan, x)
    with pytest.raises(ValueError, match="exposures of column 'x1'"):
        KANRegressor("additive", family="poisson", offset="x1").fit(holes, y)
    filled = KANRegressor("additive").fit(holes, y)
    assert_allclose(filled.predict(holes), fit(holes, y, "additive").predict(holes), rtol=1e-6)
    assert filled.score(holes, y) > 0.5
    with pytest.raises(ValueError, match="infinity"):
        filled.fit(np.where(np.isnan(holes), np.inf, holes), y)


@pytest.mark.parametrize(
    "shares, said",
    [([0, 1], "a single trial, so the dispersion is 1"), ([0, 0.5, 1], "(quasi-binomial)")],
)
def test_runs_say_whether_the_dispersion_of_fractions_is_estimated(shares, said, tmp_path, command):
    share = np.random.default_rng(0).permutation(np.resize(shares, 40))
    table = pd.DataFrame({"dose": np.arange(40.0), "share": share})
    table.to_csv(tmp_path / "shares.csv", index=False)
    words = "target.outputs=share target.family=binomial model.selection=evidence figures=[]"
    assert said in command(f"fit target.path={tmp_path}/shares.csv {words}").err
