"""The real `kanrun fit`: bad input is rejected, good input ends in predictions."""

import csv
import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from kanrun.cli.app import main
from kanrun.engine.training import Adam, grid_training
from kanrun.targets import read_inputs

FORMULA = ["target=expression"]
TABLE = ["target=table", "target.inputs=[area (m2),b]", "target.outputs=price"]
ROWS = "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(60))
QUICK = ["-q", "model=kan", "solver=adam", "solver.steps=5", "model.intervals=3"]


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KANRUN_OUTPUTS", raising=False)
    tables = {
        "good (1).csv": "area (m2),b,price\n" + ROWS,
        "text.csv": "area (m2),b,price\n" + ROWS + "3,x,4\n",
        "one.csv": "area (m2),b,price\n1,2,3\n",
        "two.csv": "area (m2),b,price\n1,2,3\n2,3,4\n",
        "empty.csv": "",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["model.intervals=0"], ["model.intervals=0"]),
        (["solver=lm", "precision=float32"], ["solver=lm", "float64"]),
        (
            [
                "model=kan",
                "solver=lm",
                "target.task=classification",
                *TABLE,
                "target.path=good (1).csv",
            ],
            ["solver=lm", "classes"],
        ),
        (["model=bezier"], ["one input"]),
        ([*FORMULA, "target.formula=x0,x1"], ["x0,x1"]),
        ([*FORMULA, "target.formula=log(x0)"], ["log(x0)", "not finite"]),
        ([*FORMULA, "target.formula=x0", "target.domain=[[1,-1]]"], ["[1, -1]"]),
        ([*FORMULA, "target.formula=x0", "target.domain=[[0,1],[0,1]]"], ["2 pairs"]),
        ([*TABLE, "target.path=empty.csv"], ["empty.csv", "empty"]),
        ([*TABLE, "target.path=text.csv"], ["'b'", "'x'"]),
        ([*TABLE, "target.path=one.csv", "sampling.n_train=100"], ["100 training", "one.csv"]),
        (
            [*TABLE, "target.path=one.csv", "model=kan"],
            ["2 training and 1 test", "one.csv has 1 row"],
        ),
        ([*TABLE, "target.path=two.csv"], ["at least 10 training rows", "two.csv has 2"]),
        ([*TABLE, "target.path=one.csv", "sampling.n_test=0"], ["2 training", "one.csv has 1 row"]),
        (
            [*TABLE, "target.path=good (1).csv", "sampling.n_train=1"],
            ["sampling.n_train=1", "at least 2"],
        ),
        ([*TABLE, "target.path=good (1).csv", "target.outputs=prize"], ["'prize'", "price"]),
    ],
)
def test_bad_input(words, parts, place, capfd):
    code = main(["fit", *words])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("kanrun: ")
    assert all(part in line for part in parts), line
    assert not (place / "outputs").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return outputs with one run, of the good table."""
    outputs = tmp_path_factory.mktemp("trained")
    table = outputs / "good.csv"
    table.write_text("area (m2),b,price\n" + ROWS)
    assert main(["fit", *QUICK, *TABLE, f"target.path={table}", "--outputs", str(outputs)]) == 0
    return outputs


@pytest.fixture
def fitted(trained, monkeypatch):
    monkeypatch.setenv("KANRUN_OUTPUTS", str(trained))
    return trained / "fit" / "v0001"


def test_a_table_is_fitted_and_predicts(place, fitted, capfd):
    assert main(["predict", "latest", "good (1).csv", "--output", "new.csv"]) == 0
    assert capfd.readouterr().out == "new.csv\n"
    with (place / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {"area (m2)", "b", "price"} <= rows[0].keys()
    assert main(["predict", "latest", "nope.csv", "--output", "other.csv"]) == 2
    assert not (place / "other.csv").exists()
    capfd.readouterr()
    name = next((fitted / "checkpoints").glob("*.safetensors")).stem
    words = ["predict", "latest", "good (1).csv", "--output"]
    for model, code in ((name, 0), ("none", 2)):
        assert main([*words, f"x{code}.csv", "--model", model]) == code
    assert f"has no model none; it has {name}" in capfd.readouterr().err
    before = (place / "good (1).csv").read_bytes()
    assert main([*words, "./good (1).csv"]) == 2
    assert "is the input file" in capfd.readouterr().err
    assert (place / "good (1).csv").read_bytes() == before
    for output in (".", "nowhere/new.csv", "good (1).csv/new.csv"):
        assert main([*words, output]) == 2
        out, err = capfd.readouterr()
        assert not out
        (line,) = err.splitlines()
        assert line.startswith(f"kanrun: cannot write {output}: ")


@pytest.mark.usefixtures("unwritten")
def test_labels_are_learned_and_stand_in_every_table(place, capfd):
    rows = [f"{i / 50},{'low' if i < 50 else 'high'}\n" for i in range(100)]
    (place / "levels.csv").write_text("x,level\n" + "".join(rows))
    table = ["target=table", "target.path=levels.csv", "target.inputs=x", "target.outputs=level"]
    settings = [
        "target.task=classification",
        "model=kan",
        "model.hidden=[]",
        "model.intervals=5",
        "solver=lbfgs",
        "solver.steps=15",
    ]
    assert main(["fit", "-q", *table, *settings]) == 0
    folder = place / capfd.readouterr().out.strip()
    assert pd.read_csv(folder / "summary.csv")["test_accuracy"][0] > 0.9
    recorded = pd.read_csv(folder / "tables" / "predictions.csv")
    known = recorded[recorded["split"] != "grid"]
    assert (known["truth:level"] == np.where(known["input:x"] < 1, "low", "high")).all()
    assert set(recorded["prediction:level"]) == {"low", "high"}
    assert recorded.loc[recorded["split"] == "grid", "truth:level"].isna().all()
    assert main(["predict", "latest", "levels.csv", "--output", "new.csv"]) == 0
    found = pd.read_csv(place / "new.csv")
    likely = np.where(found["probability:low"] > found["probability:high"], "low", "high")
    assert (found["level"] == likely).all()


@pytest.mark.usefixtures("fitted")
@pytest.mark.filterwarnings(
    "error", "ignore:'.*deprecated:DeprecationWarning"
)  # of pyparsing, by older matplotlibs
def test_rows_outside_the_trained_range_are_counted_in_one_line(place, capfd):
    (place / "far.csv").write_text("area (m2),b\n1000,2\n30,3\n")
    capfd.readouterr()
    assert main(["predict", "latest", "far.csv", "--output", "p.csv"]) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("kanrun: 50.0% of the samples have area (m2) outside the training range")


@pytest.mark.usefixtures("fitted")
def test_predictions_are_what_the_ending_says(place, capfd, monkeypatch):
    words = ["predict", "latest", "good (1).csv", "--output"]
    assert main([*words, "p.csv"]) == 0
    expected = pd.read_csv("p.csv")
    exact = read_inputs("p.csv", ["prediction:price"])[:, 0]  # pandas before 3 rounds
    for name in ("p.tsv", "p.csv.gz", "P.CSV.XZ", "p.tab.bz2", "p.csv.zip"):
        assert main([*words, name]) == 0
        separator = "," if "csv" in name.lower() else "\t"
        compression = {"gz": "gzip", "XZ": "xz", "bz2": "bz2", "zip": "zip"}.get(
            name.rpartition(".")[2]
        )
        pd.testing.assert_frame_equal(
            pd.read_csv(name, sep=separator, compression=compression), expected
        )
        assert_array_equal(read_inputs(name, ["prediction:price"])[:, 0], exact)
    pytest.importorskip("pyarrow")
    assert main([*words, "p.parquet"]) == 0
    assert_array_equal(pd.read_parquet("p.parquet")["prediction:price"], exact)
    assert_array_equal(pd.read_parquet("p.parquet")["price"], expected["price"])
    # so much is said before a model is read
    monkeypatch.setattr("kanrun.study.saved.LoadedRun.model", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, said in (
        ("x.pq", "pip install 'kanrun[parquet]'"),
        ("x.xlsx", "it writes .csv"),
        ("x", "it writes .csv"),
    ):
        capfd.readouterr()
        assert main([*words, name]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert said in line
        assert not (place / name).exists()


def test_a_formula_is_fitted(place, capfd):
    words = [
        "target.formula=exp(-x0)*sin(3*x1)",
        "target.domain=[[-1,1],[0,0.4*pi]]",
        "sampling.n_train=50",
    ]
    assert main(["fit", *QUICK, *FORMULA, *words]) == 0
    assert capfd.readouterr().out == "outputs/fit/v0001\n"
    assert list((place / "outputs" / "fit" / "v0001" / "figures").glob("*.png"))
    assert main(["runs", "show"]) == 0
    assert "exp(-x0)*sin(3*x1)" in capfd.readouterr().out


@pytest.mark.usefixtures("unwritten")
def test_steps_say_which_network_was_the_best_so_far(place, capfd):
    words = ["fit", "-q", "model.intervals=[3,5]", "model.hidden=[1]", "solver.n_starts=1"]
    assert main([*words, "sampling.n_train=60", "sampling.n_test=20"]) == 0
    with (place / capfd.readouterr().out.strip() / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lowest = {}
    for row in rows:
        error = float(row["validation_rmse"])
        assert row["best"] == str(error < lowest.get(row["stage"], float("inf")))
        lowest[row["stage"]] = min(error, lowest.get(row["stage"], float("inf")))
    assert {row["intervals"] for row in rows} == {"3", "5"}
    assert {row["best"] for row in rows} == {"True", "False"}


@pytest.mark.usefixtures("unwritten")
def test_a_fit_that_was_interrupted_in_the_middle_of_a_grid_goes_on_to_the_same_numbers(
    place, capfd, monkeypatch
):
    words = [
        "fit",
        "-q",
        "solver=adam",
        "solver.steps=30",
        "solver.batch_size=70",
        "sampling.n_train=100",
        "sampling.n_test=30",
        "model.intervals=3",
    ]
    monkeypatch.setattr(grid_training, "SNAPSHOT_SECONDS", 0.0)
    assert main(words) == 0
    step, taken, last = Adam.step, 0, 20

    def interrupted(self):
        nonlocal taken
        taken += 1
        if taken == last:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Adam, "step", interrupted)
    assert main(words) == 130
    last = 1000
    assert main(["runs", "resume", "latest", "-q"]) == 0
    assert taken == 31  # 19 steps, the interrupted one, and 11
    first, second = (metrics(place / "outputs" / "fit" / version) for version in ("v0001", "v0002"))
    assert first == second


def metrics(run):
    """Rows of metrics.csv but for the seconds."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["fit", "n_seeds=20"],
        ["solve", "equation=burgers", "n_seeds=20"],
        ["continual", "executor=serial"],
    ],
)
def test_a_run_ends_within_a_tenth_of_its_seconds(words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "kanrun", *words, "max_cpu_seconds=15"],
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime == pytest.approx(
        15, rel=0.1
    )
