"""The real `kanrun fit` with good and bad input."""

import resource
import shlex
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from cases import cases

from kanrun.cli.app import main
from kanrun.engine.training import grid_training
from kanrun.engine.training.solvers import Adam

TABLE = "target=table 'target.inputs=[area (m2),b]' target.outputs=price"
GOOD = f"{TABLE} 'target.path=good (1).csv'"
ROWS = "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(60))
QUICK = "-q model=kan solver=adam solver.steps=5 model.intervals=3"
PREDICT = "predict latest 'good (1).csv' --output"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder of tables, with a run on one of them below `made`."""
    folder = tmp_path_factory.mktemp("trained")
    tables = {"good (1).csv": ROWS, "one.csv": "1,2,3\n", "two.csv": "1,2,3\n2,3,4\n"}
    for name, text in tables.items():
        (folder / name).write_text("area (m2),b,price\n" + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(shlex.split(f"fit {QUICK} {GOOD} --outputs made")) == 0
    return folder


@pytest.fixture
def place(trained, command, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("KANRUN_OUTPUTS", "made")
    return tmp_path


REFUSED = rf"""
solver=lm precision=float32 | solver=lm ... float64
model=kan solver=lm target.task=classification {GOOD} | solver=lm ... classes
model=bezier | one input
target=runge model=auto | model=auto is for tables
{TABLE} target.path=two.csv sampling.n_train=100 | 100 training ... two.csv
{TABLE} target.path=one.csv model=kan | one.csv has 1 row ... at least 2
{TABLE} target.path=two.csv | at least 10 training rows ... two.csv has 2
{GOOD} target.outputs=prize | 'prize' ... price
model.multiplication_nodes=[1] | model.multiplication_nodes= ... needs a given shape
target=runge 'suite=[{{bounds: {{test_rmse: nan}}}}]' | suite has a number that is not finite
target=runge 'suite=[{{bounds: {{test_rmse: 1e-6, r2: 1.0}}}}]' | has r2; choose from train_rmse
target=runge 'suite=[{{bounds: {{seconds: 0}}}}]' | seconds: 0, which must be a positive number
target=runge 'suite=[{{bounds: {{test_rmse: small}}}}]' | test_rmse: small
target=runge 'suite=[{{bounds: [1]}}]' | must be pairs
{GOOD} model.hidden=[] | model.hidden is not a setting of model=auto. Write model=kan or model=mlp
"""


@pytest.mark.parametrize("words, said", cases(REFUSED))
@pytest.mark.usefixtures("place")
def test_impossible_settings_and_tables_are_refused(words, said, refused, says):
    sentence = refused(f"fit {words}")
    assert says(sentence, said), sentence


def test_a_table_is_fitted_and_predicts(place, command, refused):
    assert command(PREDICT, "new.csv").out == "new.csv\n"
    found = pd.read_csv("new.csv")
    assert len(found) == 60
    assert {"area (m2)", "b", "price"} <= set(found)
    command("predict latest nope.csv --output other.csv", code=2)
    assert not (place / "other.csv").exists()
    (checkpoint,) = place.glob("made/fit/v0001/checkpoints/*.safetensors")
    command(PREDICT, "x.csv", "--model", checkpoint.stem)
    said = refused(PREDICT, "y.csv", "--model", "none")
    assert f"has no model none; it has {checkpoint.stem}" in said
    for output in (".", "nowhere/new.csv", "good (1).csv/new.csv"):
        assert refused(PREDICT, output).startswith(f"cannot write {output}: ")


@pytest.mark.usefixtures("unwritten")
def test_labels_are_learned_and_stand_in_every_table(tmp_path, command):
    x = np.arange(100) / 50
    label = np.where(x < 1, "low", "high")
    pd.DataFrame({"x": x, "level": label}).to_csv(tmp_path / "levels.csv", index=False)
    run = command(
        "fit -q target.path=levels.csv target.inputs=x target.outputs=level model=kan "
        "target.task=classification model.hidden=[] model.intervals=5 solver=lbfgs solver.steps=15"
    ).run
    assert run.table("summary")["test_accuracy"][0] > 0.9
    table = run.table("predictions")
    assert set(table["prediction:level"]) == {"low", "high"}
    known = table["split"] != "grid"
    expected = np.where(table["input:x"] < 1, "low", "high")
    assert table["truth:level"].equals(pd.Series(expected).where(known))


@pytest.mark.filterwarnings(
    "error", "ignore:'.*deprecated:DeprecationWarning"
)  # from pyparsing in older matplotlib
def test_rows_outside_the_trained_range_are_counted_in_one_line(place, command):
    (place / "far.csv").write_text("area (m2),b\n1000,2\n30,3\n")
    (line,) = command("predict latest far.csv --output p.csv").err.splitlines()
    assert line.startswith("kanrun: 50.0% of the samples have area (m2) outside the training range")


def test_format_of_predictions_follows_the_ending_of_the_file_name(
    place, command, refused, monkeypatch
):
    read = partial(pd.read_csv, float_precision="round_trip")
    command(PREDICT, "p.csv")
    packed = {"p.tsv": None, "p.csv.gz": "gzip", "P.CSV.XZ": "xz", "p.tab.bz2": "bz2"}
    for name, compression in packed.items():
        command(PREDICT, name)
        separator = "," if "csv" in name.lower() else "\t"
        found = read(name, sep=separator, compression=compression)
        pd.testing.assert_frame_equal(found, read("p.csv"), check_exact=True)
    # refused before a model is loaded
    monkeypatch.setattr("kanrun.model.model.LoadedRun.model", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("x.xlsx", "x", "x.pq"):
        said = "pip install 'kanrun[parquet]'" if name == "x.pq" else "it writes .csv"
        assert said in refused(PREDICT, name)
        assert not (place / name).exists()


@pytest.mark.usefixtures("unwritten")
def test_steps_say_which_network_was_the_best_so_far(command):
    sizes = "sampling.n_train=60 sampling.n_test=20"
    words = f"model.intervals=[3,5] model.hidden=[1] solver.n_starts=1 {sizes}"
    rows = command(f"fit -q {words}").run.table("metrics")
    for _, stage in rows.groupby("stage"):
        lowest = stage["validation_rmse"].cummin().shift()
        assert (stage["best"] == ~(stage["validation_rmse"] >= lowest)).all()
    assert set(rows["intervals"]) == {3, 5}
    assert set(rows["best"]) == {True, False}


@pytest.mark.usefixtures("unwritten")
def test_a_fit_that_was_interrupted_in_the_middle_of_a_grid_goes_on_to_the_same_numbers(
    command, monkeypatch
):
    sizes = "sampling.n_train=100 sampling.n_test=30 model.intervals=3"
    line = f"fit -q solver=adam solver.steps=30 solver.batch_size=70 {sizes}"
    monkeypatch.setattr(grid_training, "SNAPSHOT_SECONDS", 0.0)
    whole = command(line).run
    step = Adam.step
    taken = []

    def interrupted(self):
        taken.append(self)
        if len(taken) == 20:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Adam, "step", interrupted)
    command(line, code=130)
    resumed = command("runs resume latest -q").run
    assert len(taken) == 31  # 19 steps, the interrupted one, and 11 more
    first, second = (run.table("metrics").drop(columns="seconds") for run in (whole, resumed))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["fit n_seeds=60", "solve equation=burgers n_seeds=60", "continual n_jobs=1 n_seeds=10"],
)
def test_a_run_ends_within_a_tenth_of_its_seconds(line, tmp_path):
    def seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = seconds()
    command = [sys.executable, "-m", "kanrun", *line.split(), "max_cpu_seconds=15"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert seconds() - before == pytest.approx(15, rel=0.1)
