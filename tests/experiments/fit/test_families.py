"""Counts through the real command: exposures, intervals, exports, and what is refused."""

import contextlib
import runpy

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from kanrun import KANRegressor, fit, load_run
from kanrun.cli.app import main
from kanrun.families import Family


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    age, exposure = rng.uniform(-1, 1, 200), rng.uniform(0.2, 4, 200)
    claims = rng.poisson(exposure * np.exp(1 + age))
    return pd.DataFrame({"age": age, "exposure": exposure, "claims": claims})


WORDS = ("target.path=counts.csv", "target.outputs=claims", "model.selection=evidence")
POISSON = ("target.family=poisson", "target.offset=exposure", "model.pairs=false")


@pytest.fixture(scope="module")
def folder(counts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    counts.to_csv(folder / "counts.csv", index=False)
    with contextlib.chdir(folder):
        assert main(["fit", *WORDS, *POISSON, "figures=[]"]) == 0
    return folder


def test_counts_with_exposures_are_predicted_from_a_file(folder, counts):
    with contextlib.chdir(folder):
        words = ["-o", "out.csv", "--interval=0.9", "--quantiles=0.25,0.95"]
        assert main(["predict", "fit/latest", "counts.csv", *words]) == 0
        model = load_run("fit/latest").model()
    out = pd.read_csv(folder / "out.csv")
    mean, low, high = (out[f"{part}:claims"] for part in ("prediction", "lower", "upper"))
    truth = counts["exposure"] * np.exp(1 + counts["age"])
    assert Family("poisson").deviance(truth, mean).mean() < 0.1
    assert (low % 1 == 0).all()
    assert (out["quantile 0.95:claims"] == high).all()
    assert abs((counts["claims"] < out["quantile 0.25:claims"]).mean() - 0.2) < 0.1
    assert ((low <= counts["claims"]) & (counts["claims"] <= high)).mean() > 0.88
    wide = (high - low).groupby(pd.qcut(mean, 3, labels=False)).mean()
    assert wide[2] > 2 * wide[0]
    x = counts[["age", "exposure"]]
    assert_allclose(
        model.predict(x.assign(exposure=2.0)), 2 * model.predict(x.assign(exposure=1.0)), 1e-3
    )
    explained = Family("poisson").explained(counts[["claims"]].to_numpy(), mean.to_numpy()[:, None])
    assert model.score(x, counts["claims"]) == pytest.approx(explained)


def test_exports_of_counts_predict_them(folder, counts):
    with contextlib.chdir(folder):
        assert main(["export", "fit/latest", "--format", "python", "-o", "counts.py"]) == 0
        model = load_run("fit/latest").model()
    predict = runpy.run_path(str(folder / "counts.py"))["predict"]
    x = counts[["age", "exposure"]]
    assert_allclose(predict(dict(x))[:, 0], model.predict(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("target.family=gaussian",), "target.offset=exposure must be a column other than"),
        (("target.family=gamma",), "ranges from 0 to"),
        (("target.task=classification",), "target.family=poisson is for numbers"),
        (("target.offset=years",), "has no column 'years'"),
        (("target.offset=age",), "must be numbers above 0 in every row"),
        (("model.bounds=[0,9]",), "model.bounds is for target.family=gaussian"),
        (("model.monotone={exposure: increasing}",), "there is no input 'exposure'"),
    ],
)
def test_what_does_not_fit_is_refused(folder, words, said, capsys):
    with contextlib.chdir(folder):
        assert main(["fit", *WORDS, *POISSON, *words]) == 2
    assert said in capsys.readouterr().err


def test_other_models_refuse_families(folder, capsys):
    with contextlib.chdir(folder):
        words = ["target.path=counts.csv", "target.outputs=claims", "target.family=poisson"]
        assert main(["fit", *words, "model=kan"]) == 2
        assert main(["interpret", *words]) == 2
        assert main(["interpret", "from_run=fit/latest"]) == 2
    said = capsys.readouterr().err
    assert said.count("target.family=poisson is for kanrun fit with model=auto alone") == 3


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
