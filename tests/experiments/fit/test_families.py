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

POISSON = Family("poisson")


def explained(y, mean):
    return POISSON.explained(np.asarray(y)[:, None], np.asarray(mean)[:, None])


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
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return run_config(typed("fit", CLAIMS.format(folder), OFFSET, "figures=[]"), folder).path


def test_counts_with_exposures_are_predicted_and_exported(folder, run, counts, command):
    command(f"predict {run} {folder}/counts.csv -o out.csv --interval=0.9 --quantiles=0.25,0.95")
    command(f"export {run} --format python -o counts.py")
    model = load_run(run).model()
    out = pd.read_csv("out.csv")
    mean = out["prediction:claims"]
    x = counts[["age", "exposure"]]
    assert POISSON.deviance(x["exposure"] * np.exp(1 + x["age"]), mean).mean() < 0.1
    assert (out["lower:claims"] % 1 == 0).all()
    assert (out["quantile 0.95:claims"] == out["upper:claims"]).all()
    assert abs((counts["claims"] < out["quantile 0.25:claims"]).mean() - 0.2) < 0.1
    one, two, far = (model.predict(x.assign(exposure=each)) for each in (1.0, 2.0, 200.0))
    assert_allclose([two, far], [2 * one, 200 * one], 1e-3)
    assert model.score(x, counts["claims"]) == pytest.approx(explained(counts["claims"], mean))
    exported = runpy.run_path("counts.py")["predict"](dict(x))
    assert_allclose(exported[:, 0], model.predict(x), rtol=1e-9)


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


def test_estimators_take_families(counts):
    x = counts[["age", "exposure"]].to_numpy(copy=True)
    y = counts["claims"]
    settings = {"model": "additive", "family": "poisson", "offset": "x1"}
    made = KANRegressor(**settings).fit(x, y)
    mean = made.predict(x)
    assert made.score(x, y) == pytest.approx(explained(y, mean))
    assert_allclose(fit(x, y, **settings).predict(x), mean, 1e-3)
    x[0, 1] = np.nan
    with pytest.raises(ValueError, match="exposures of column 'x1'"):
        made.fit(x, y)


def test_estimators_take_missing_numbers(counts):
    x = counts[["age", "exposure"]].to_numpy(copy=True)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    made = KANRegressor("additive").fit(x, counts["claims"])
    same = fit(x, counts["claims"], "additive")
    assert_allclose(made.predict(x), same.predict(x), rtol=1e-6)
    assert made.score(x, counts["claims"]) > 0.5
    with pytest.raises(ValueError, match="infinity"):
        made.fit(np.nan_to_num(x, nan=np.inf), counts["claims"])


@pytest.mark.parametrize(
    "shares, said",
    [([0, 1], "a single trial, so the dispersion is 1"), ([0, 0.5, 1], "(quasi-binomial)")],
)
def test_runs_say_whether_the_dispersion_of_fractions_is_estimated(shares, said, command):
    share = np.random.default_rng(0).permutation(np.resize(shares, 40))
    pd.DataFrame({"dose": np.arange(40.0), "share": share}).to_csv("shares.csv", index=False)
    words = "target.outputs=share target.family=binomial model.selection=evidence figures=[]"
    assert said in command(f"fit target.path=shares.csv {words}").err
