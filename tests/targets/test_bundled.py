"""Tables of scikit-learn as targets: numbers and classes."""

import pytest
from numpy.testing import assert_array_equal

from kanrun.config import BundledTarget, SamplingConfig, TableTarget
from kanrun.errors import UsageError
from kanrun.targets import build_target, make_dataset
from kanrun.targets.table_targets import BUNDLED

ALL_ROWS = SamplingConfig(n_train=None, n_test=None)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_table_is_what_a_file_of_it_would_be(name, tmp_path):
    sklearn = pytest.importorskip("sklearn.datasets")
    data = make_dataset(build_target(BundledTarget(name)), ALL_ROWS, seed=3)
    loader, task = BUNDLED[name]
    frame = getattr(sklearn, loader)(as_frame=True).frame
    if task == "classification":
        names = [f"target {label}" for label in getattr(sklearn, loader)().target_names]
        frame["target"] = [names[number] for number in frame["target"]]
    frame.to_csv(tmp_path / "table.csv", index=False)
    inputs, outputs = list(data.target.inputs), list(data.target.outputs)
    assert [*inputs, *outputs] == list(frame.columns)
    file = TableTarget(str(tmp_path / "table.csv"), inputs, outputs, task)
    other = make_dataset(build_target(file), ALL_ROWS, seed=3)
    assert (data.task, data.classes) == (other.task, other.classes)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(data, part), getattr(other, part)
        if ours is None or theirs is None:  # of linnerud, whose rows are too few for validation
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
