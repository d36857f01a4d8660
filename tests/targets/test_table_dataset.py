"""Data sets made from tables: split, standardisation and classes."""

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.config import SamplingConfig
from kanrun.targets.datasets import build_target, make_dataset
from kanrun.targets.settings import BundledTarget, TableTarget
from kanrun.targets.table_targets import BUNDLED

ROWS = 200
INPUTS = ["age", "body mass (kg)"]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "age": rng.normal(50, 12, ROWS),
            "body mass (kg)": rng.uniform(40, 120, ROWS),
            "level": rng.normal(0, 1e-3, ROWS),
            "outcome": rng.normal(1e4, 30, ROWS),
            "label": rng.choice(["setosa", "versicolor", "None"], ROWS),
            "species": ["a", "b"] * (ROWS // 2),
            "grade": rng.choice([10, 2, 1], ROWS),
        }
    )


@pytest.fixture(scope="module")
def path(frame, tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "people.csv"
    frame.to_csv(file, index=False)
    return file


def config(file, **fields):
    return TableTarget(**{"path": str(file), "inputs": INPUTS, "outputs": ["outcome"], **fields})


def dataset(target, seed=0, **sampling):
    values = {"n_train": None, "n_test": None, "validation_fraction": 0.2, **sampling}
    return make_dataset(build_target(target), SamplingConfig(**values), seed)


@pytest.mark.parametrize(
    "sampling, sizes",
    cases("""
        {} | (128, 32, 40)
        {'n_train': 100, 'n_test': 50} | (80, 20, 50)
        {'n_train': 50, 'n_test': None} | (40, 10, 150)
        {'n_train': None, 'n_test': 20} | (144, 36, 20)
        {'n_train': 200, 'n_test': None, 'validation_fraction': 0.0} | (200, 0, 0)
    """),
)
def test_every_row_is_used_once_in_training_validation_or_test(path, sampling, sizes):
    data = dataset(config(path, inputs=["row"]), **sampling)
    parts = [part and {*part.x[:, 0]} for part in (data.train, data.validation, data.test)]
    assert parts == [part or None for part in parts]
    rows = [part or set() for part in parts]
    assert tuple(map(len, rows)) == sizes
    assert len(set.union(*rows)) == sum(sizes)


def test_points_are_in_the_users_units_and_scaled_by_the_training_rows(path, frame):
    data = dataset(config(path, outputs=["outcome", "level"]))
    x = data.train.x
    assert np.isin(x[:, 0], frame["age"]).all()
    assert (data.target.inputs, data.target.outputs) == (tuple(INPUTS), ("outcome", "level"))
    assert_array_equal(data.target.domain.T, [x.min(axis=0), x.max(axis=0)])
    for scaling, values in ((data.input_scaling, x), (data.output_scaling, data.train.y)):
        standard = (values - values.mean(axis=0)) / values.std(axis=0)
        assert_allclose(scaling.apply(values), standard, atol=1e-12)
        assert_allclose(scaling.invert(standard), values, rtol=1e-14)


def test_an_unchanged_table_is_read_once(write):
    columns = TableTarget(str(write("a,y\n1,3\n2,4\n3,8\n")), ["a"], ["y"])
    first = build_target(columns)
    assert build_target(columns) is first
    assert build_target(TableTarget(columns.path, ["y"], ["a"])) is not first
    write("a,y\n1,3\n2,4\n3,9\n5,6\n")
    assert len(build_target(columns).points) == 4


def labelled(path, output="c"):
    return TableTarget(str(path), ["x"], [output], "classification")


@pytest.fixture
def of_labels(write):
    """Return the data set of a table of labels, in which x is the number of the row."""

    def made(labels, *seed, **sampling):
        rows = pd.DataFrame({"c": list(labels)}).to_csv(index_label="x")
        return dataset(labelled(write(rows)), *seed, **sampling)

    return made


@pytest.mark.parametrize(
    "labels, classes, index",
    cases("""
        ['10', '2', '1', '10'] | ('1', '2', '10') | [2, 1, 0, 2]
        ['1.0', '2.0', '1.0', '2'] | ('1', '2') | [0, 1, 0, 1]
        ['b', 'a', '10', 'a'] | ('10', 'a', 'b') | [2, 1, 0, 1]
        ['NA', 'x', 'NA', 'x'] | ('NA', 'x') | [0, 1, 0, 1]
        ['12', '1_2', '12', '1_2'] | ('12', '1_2') | [0, 1, 0, 1]
        ['9007199254740993', '9007199254740992'] | ('9007199254740992', '9007199254740993') | [1, 0]
    """),
)
def test_labels_of_several_kinds_become_classes(of_labels, labels, classes, index):
    data = of_labels(labels, n_train=len(labels), n_test=0)
    assert data.classes == classes
    assert_array_equal(data.train.y[:, 0], index)


@pytest.mark.parametrize(
    "values, fields, classes, said",
    cases("""
        ['yes', 'no', 'no', 'yes'] | {} | ('no', 'yes') | ['is text, so its values are classes']
        [1, 2, 2, 1] | {} | None | ['has 2 whole numbers and is predicted as a number']
        [1, 2, 2, 1] | {'task': 'regression'} | None | []
        [1.5, 2, 2, 1.5] | {} | None | []
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] | {} | None | []
        [1, 2, 2, 1] | {'family': 'poisson'} | None | []
    """),
)
def test_text_outputs_are_classes_and_few_whole_numbers_may_be(
    built, values, fields, classes, said
):
    text = pd.DataFrame({"c": values * 2}).to_csv(index_label="a")
    target = built(text, "c", inputs=["a"], **fields)
    assert target.classes == classes
    assert [part in note for part, note in zip(said, target.notes, strict=True)] == [True] * len(
        said
    )


def test_labels_from_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    kinds = pd.Categorical(["u", "v", "u"])
    pd.DataFrame({"x": [1.0, 2, 3], "c": [3, 1, 3], "t": kinds}).to_parquet(path)
    assert dataset(labelled(path)).classes == ("1", "3")
    assert dataset(labelled(path, "t")).classes == ("u", "v")


def test_a_rare_class_is_trained_on_first_and_named_if_no_training_row_has_it(of_labels):
    labels = ["rare" if i == 7 else "ab"[i % 2] for i in range(60)]
    for seed in range(3):
        data = of_labels(labels, seed)
        assert 2 in data.train.y[:, 0]
        assert data.notes == ()
    few = of_labels("abca", n_train=2, n_test=2)
    assert few.classes == ("a", "b", "c")
    (note,) = few.notes
    assert "is in no training row, so it cannot be learned" in note


def test_a_constant_column_is_noted_and_only_shifted(built):
    target = built("a,b,y\n" + "".join(f"{i},0.1,{i * i}\n" for i in range(30)), inputs=["a", "b"])
    data = make_dataset(target, SamplingConfig(None, None), 0)
    assert data.notes == ("column 'b' of data.csv is constant (0.1) in the training rows",)
    assert data.input_scaling.scale[1] == 1
    assert_allclose(data.input_scaling.apply(data.train.x)[:, 1], 0, atol=1e-15)
    assert_array_equal(data.target.domain[1], [0.1, 0.1])
    few = make_dataset(built("a,y\n1,3\n2,3\n5,3\n"), SamplingConfig(None, None), 0)
    assert "column 'y' of data.csv is constant (3)" in few.notes[0]
    assert (len(few.train), few.validation, len(few.test)) == (2, None, 1)


@pytest.mark.parametrize(
    "fields, sampling, sentence",
    cases("""
        {} | {'n_train': 180, 'n_test': 30} | 180 training and 30 test rows are 210, but people.csv has 200 rows
        {} | {'n_train': None, 'n_test': 200} | 200 test rows leave 0 of the 200 rows of people.csv for training, where
        {} | {'n_train': 1} | sampling.n_train=1 must be at least 2 for a table
        {'outputs': ['species'], 'task': 'regression'} | {} | or that the column holds labels (target.task=classification)
        {'task': 'classification', 'outputs': ['label', 'grade']} | {} | takes one output column, target.outputs has 2
        {'task': 'classification'} | {} | which is not a class; labels are text or whole numbers
        {'task': 'classification', 'outputs': ['label']} | {'noise': 0.1} | sampling.noise=0.1 does not apply to class
    """),  # noqa: E501
)
def test_unsuitable_columns_and_sizes_are_refused(path, fields, sampling, sentence):
    with refuses(sentence):
        dataset(config(path, **fields), **sampling)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_tables_are_those_of_scikit_learn(name):
    sklearn = pytest.importorskip("sklearn.datasets")
    made = getattr(sklearn, f"load_{name}")(as_frame=True)
    target = build_target(BundledTarget(name))
    assert target.name == name
    assert [*target.inputs, *target.outputs] == [*made.frame]
    assert_array_equal(target.points.x, made.frame[[*target.inputs]])
    truth = made.frame[[*target.outputs]].to_numpy()
    found = target.points.y
    if name not in ("diabetes", "linnerud"):
        truth = np.array([f"target {label}" for label in made.target_names])[truth]
        found = np.array(target.classes)[found.astype(int)]
    assert_array_equal(found, truth)
