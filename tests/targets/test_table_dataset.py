"""Data sets made from tables: split, standardisation and classes."""

import numpy as np
import pandas as pd
import pytest
from cases import cases
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.config import SamplingConfig
from kanrun.errors import UsageError
from kanrun.targets import build_target, make_dataset
from kanrun.targets.arrays import input_rows
from kanrun.targets.settings import BundledTarget, TableTarget
from kanrun.targets.table_targets import BUNDLED

ROWS = 200


def frame(rows=ROWS):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "row": np.arange(rows),
            "age": rng.normal(50, 12, rows),
            "body mass (kg)": rng.uniform(40, 120, rows),
            "level": rng.normal(0, 1e-3, rows),
            "outcome": rng.normal(1e4, 30, rows),
            "label": rng.choice(["setosa", "versicolor", "None"], rows, p=[0.6, 0.3, 0.1]),
            "species": ["a", "b"] * (rows // 2),
            "grade": rng.choice([10, 2, 1], rows),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "people.csv"
    frame().to_csv(file, index=False)
    return file


INPUTS = ["age", "body mass (kg)"]


def config(file, **fields):
    values = {"path": str(file), "inputs": INPUTS, "outputs": ["outcome"], **fields}
    return TableTarget(**values)


def dataset(target, seed=0, **sampling):
    values = {"n_train": None, "n_test": None, "validation_fraction": 0.2, **sampling}
    return make_dataset(build_target(target), SamplingConfig(**values), seed)


def rows_of(data):
    """Return the first input, the number of the row, of training, validation and test."""
    parts = (data.train, data.validation, data.test)
    return tuple({float(v) for v in part.x[:, 0]} if part else set() for part in parts)


@pytest.mark.parametrize(
    "sampling, sizes",
    cases(
        r"""
{} | (128, 32, 40)
{'n_train': 100, 'n_test': 50} | (80, 20, 50)
{'n_train': 50, 'n_test': None} | (40, 10, 150)
{'n_train': None, 'n_test': 20} | (144, 36, 20)
{'n_train': 200, 'n_test': None, 'validation_fraction': 0.0} | (200, 0, 0)
"""
    ),
)
def test_every_row_is_used_once_in_training_validation_or_test(path, sampling, sizes):
    data = dataset(config(path, inputs=["row"]), **sampling)
    train, validation, test = rows_of(data)
    assert (len(train), len(validation), len(test)) == sizes
    assert len(train | validation | test) == sum(sizes)
    assert (data.test is None) == (sizes[2] == 0)
    assert (data.validation is None) == (sizes[1] == 0)


def test_points_are_in_the_users_units_and_scaled_by_the_training_rows(path):
    data = dataset(config(path, outputs=["outcome", "level"]))
    assert data.target.name == "people.csv"
    assert data.target.inputs == tuple(INPUTS)
    assert data.target.outputs == ("outcome", "level")
    assert data.target.function is None
    table = frame()
    assert np.isin(data.train.x[:, 0], table["age"]).all()
    assert_allclose(data.input_scaling.shift, data.train.x.mean(axis=0))
    assert_allclose(data.input_scaling.scale, data.train.x.std(axis=0))
    standard = data.output_scaling.apply(data.train.y)
    assert_allclose(standard.mean(axis=0), 0, atol=1e-12)
    assert_allclose(standard.std(axis=0), 1)
    assert_allclose(data.output_scaling.invert(standard), data.train.y, rtol=1e-14)
    expected = np.stack([data.train.x.min(axis=0), data.train.x.max(axis=0)], axis=1)
    assert_array_equal(data.target.domain, expected)


def test_an_unchanged_table_is_read_once(tmp_path):
    file = write(tmp_path, "a,y\n1,3\n2,4\n3,8\n")
    columns = TableTarget(str(file), ["a"], ["y"])
    first = build_target(columns)
    assert build_target(columns) is first
    assert build_target(TableTarget(str(file), ["y"], ["a"])) is not first
    write(tmp_path, "a,y\n1,3\n2,4\n3,9\n5,6\n")
    assert len(build_target(columns).points or ()) == 4


def write(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text)
    return path


def labelled(path, output="c"):
    return TableTarget(str(path), ["x"], [output], "classification")


@pytest.mark.parametrize(
    "labels, classes, index",
    [
        (["10", "2", "1", "10"], ("1", "2", "10"), [2, 1, 0, 2]),
        (["1.0", "2.0", "1.0", "2"], ("1", "2"), [0, 1, 0, 1]),
        (["b", "a", "10", "a"], ("10", "a", "b"), [2, 1, 0, 1]),
        (["NA", "x", "NA", "x"], ("NA", "x"), [0, 1, 0, 1]),
        (["12", "1_2", "12", "1_2"], ("12", "1_2"), [0, 1, 0, 1]),
        (
            ["9007199254740993", "9007199254740992"] * 2,
            ("9007199254740992", "9007199254740993"),
            [1, 0, 1, 0],
        ),
    ],
)
def test_labels_of_several_kinds_become_classes(tmp_path, labels, classes, index):
    path = write(tmp_path, "x,c\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    data = dataset(labelled(path), n_train=4, n_test=0)
    assert data.classes == classes
    assert_array_equal(data.train.y[:, 0], index)


@pytest.mark.parametrize(
    "values, fields, classes, said",
    [
        (["yes", "no", "no", "yes"], {}, ("no", "yes"), ["is text, so its values are classes"]),
        ([1, 2, 2, 1], {}, None, ["has 2 whole numbers and is predicted as a number"]),
        ([1, 2, 2, 1], {"task": "regression"}, None, []),
        ([1.5, 2, 2, 1.5], {}, None, []),
        (np.repeat(range(11), 2), {}, None, []),
        ([1, 2, 2, 1], {"family": "poisson"}, None, []),
    ],
)
def test_text_outputs_are_classes_and_few_whole_numbers_may_be(
    tmp_path, values, fields, classes, said
):
    frame = pd.DataFrame({"a": np.arange(len(values)) ** 0.5, "c": list(values)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    target = config(tmp_path / "t.csv", inputs=["a"], outputs=["c"], **fields).build()
    assert target.classes == classes
    assert len(target.notes) == len(said)
    assert all(part in note for part, note in zip(said, target.notes, strict=True))


def test_labels_from_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    pd.DataFrame(
        {"x": [1.0, 2, 3], "c": [3, 1, 3], "t": pd.Categorical(["u", "v", "u"])}
    ).to_parquet(path)
    assert dataset(labelled(path)).classes == ("1", "3")
    assert dataset(labelled(path, "t")).classes == ("u", "v")


def test_a_rare_class_is_trained_on_first(tmp_path):
    path = write(
        tmp_path, "x,c\n" + "".join(f"{i},{'rare' if i == 7 else 'ab'[i % 2]}\n" for i in range(60))
    )
    for seed in range(3):
        data = dataset(labelled(path), seed)
        assert 2 in data.train.y[:, 0]
        assert data.notes == ()


def test_a_class_that_no_training_row_has_is_named(tmp_path):
    path = write(tmp_path, "x,c\n1,a\n2,b\n3,c\n4,a\n")
    data = dataset(labelled(path), n_train=2, n_test=2)
    assert data.classes == ("a", "b", "c")
    assert len(data.notes) == 1
    assert "is in no training row, so it cannot be learned" in data.notes[0]


def test_a_constant_column_is_noted_and_only_shifted(tmp_path):
    path = write(tmp_path, "a,b,y\n" + "".join(f"{i},0.1,{i * i}\n" for i in range(30)))
    data = dataset(TableTarget(str(path), ["a", "b"], ["y"]))
    assert data.notes == ("column 'b' of data.csv is constant (0.1) in the training rows",)
    assert data.input_scaling.scale[1] == 1
    assert_allclose(data.input_scaling.apply(data.train.x)[:, 1], 0, atol=1e-15)
    assert_array_equal(data.target.domain[1], [0.1, 0.1])
    write(tmp_path, "a,y\n1,3\n2,3\n5,3\n")
    few = dataset(TableTarget(str(path), ["a"], ["y"]))
    assert "column 'y' of data.csv is constant (3)" in few.notes[0]
    assert (len(few.train), few.validation, len(few.test or ())) == (2, None, 1)


@pytest.mark.parametrize(
    "fields, sampling, sentence",
    cases(
        r"""
{} | {'n_train': 180, 'n_test': 30} | 180 training and 30 test rows are 210, but people.csv has 200 rows
{} | {'n_train': None, 'n_test': 200} | 200 test rows leave 0 of the 200 rows of people.csv for training, where
{} | {'n_train': 1} | sampling.n_train=1 must be at least 2 for a table
{'outputs': ['species'], 'task': 'regression'} | {} | or that the column holds labels (target.task=classification)
{'task': 'classification', 'outputs': ['label', 'grade']} | {} | takes one output column, target.outputs has 2
{'task': 'classification'} | {} | which is not a class; labels are text or whole numbers
{'task': 'classification', 'outputs': ['label']} | {'noise': 0.1} | sampling.noise=0.1 does not apply to class
"""  # noqa: E501
    ),
)
def test_unsuitable_columns_and_sizes_are_refused(path, fields, sampling, sentence):
    with pytest.raises(UsageError) as caught:
        dataset(config(path, **fields), **sampling)
    assert sentence in str(caught.value)


ALL_ROWS = SamplingConfig(n_train=None, n_test=None)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_table_equals_its_csv_file(name, tmp_path):
    sklearn = pytest.importorskip("sklearn.datasets")
    data = make_dataset(build_target(BundledTarget(name)), ALL_ROWS, seed=3)
    loader, task = BUNDLED[name]
    frame = getattr(sklearn, loader)(as_frame=True).frame
    if task == "classification":
        names = [f"target {label}" for label in getattr(sklearn, loader)().target_names]
        frame["target"] = [names[number] for number in frame["target"]]
    frame.to_csv(tmp_path / "table.csv", index=False)
    inputs = list(data.target.inputs)
    outputs = list(data.target.outputs)
    assert [*inputs, *outputs] == list(frame.columns)
    file = TableTarget(str(tmp_path / "table.csv"), inputs, outputs, task)
    other = make_dataset(build_target(file), ALL_ROWS, seed=3)
    assert data.classes == other.classes
    for part in ("train", "validation", "test"):
        ours = getattr(data, part)
        theirs = getattr(other, part)
        if ours is None or theirs is None:  # linnerud has too few rows for validation
            assert ours is theirs
            continue
        assert_array_equal(ours.x, theirs.x)
        assert_array_equal(ours.y, theirs.y)
    assert_array_equal(data.output_scaling.scale, other.output_scaling.scale)
    assert build_target(BundledTarget(name)).name == data.target.name == name


def test_unknown_tables_are_one_sentence():
    with pytest.raises(
        UsageError, match=r"name='irs' is not one of the bundled tables; did you mean iris"
    ):
        build_target(BundledTarget("irs"))


@pytest.mark.parametrize(
    "x, names, shape, single",
    [
        ([1.0, 2.0, 3.0], ["a"], (3, 1), False),
        ([1.0, 2.0], ["a", "b"], (1, 2), True),
        ([[1.0, 2.0]], ["a", "b"], (1, 2), False),
    ],
)
def test_inputs_of_one_dimension_are_a_column_or_one_point(x, names, shape, single):
    rows, is_point = input_rows(np.array(x), names)
    assert (rows.shape, is_point) == (shape, single)
