"""Damaged files: wrong numbers are never returned silently, and no Python exception is raised."""

import json
import random
import shutil

import numpy as np
import pytest
from cases import cases
from run_files import damaged, forge

from kanrun import load_run
from kanrun.cli.app import main
from kanrun.errors import KanrunError


@pytest.fixture
def folder(trained, tmp_path):
    """Return a copy of a run with two networks."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def refusal(capsys, folder, tmp_path):
    """Return a function that predicts by the run, and returns the sentence that refuses it."""

    def predict():
        (tmp_path / "new.csv").write_text("x0,x1\n0.2,0.3\n")
        words = [str(folder), str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv")]
        assert main(["predict", *words]) in (1, 2)
        assert not (tmp_path / "out.csv").exists()
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("kanrun: ")
        return said

    return predict


@pytest.mark.parametrize("count", [120, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_checkpoints_are_refused(folder, count):
    name = load_run(folder).models[0]
    path = folder / "checkpoints" / f"{name}.safetensors"
    whole = path.read_bytes()
    for number in range(count):
        path.write_bytes(damaged(random.Random(number), whole))
        with pytest.raises(KanrunError, match=path.name):
            load_run(folder).model(name)


def test_a_checkpoint_that_is_exchanged_or_lost_is_refused(folder, refusal):
    """A lost checkpoint is not replaced by the next one."""
    first, second = sorted((folder / "checkpoints").glob("product-*.safetensors"))
    shutil.copy(second, first)
    assert "not the checkpoint that its run wrote" in refusal()
    first.unlink()
    assert f"has lost its checkpoint {first.stem}" in refusal()


#: Values in the description of a network that do not fit its schema, by their place.
VALUES = cases("""
    network | []
    network | None
    network/kind | 'os.system'
    network/layers/0/edges/extrapolation | 'os.system'
    network/layers/0/edges/degree | '3'
    network/layers/0/shape | [1000000, 1000000, 1000000]
    network/layers | 42
    inputs | ['x0']
    domain | [[0, 1e999], [0, 1]]
    output_scaling | {'type': 'Scaling', 'shift': [0.0], 'scale': [0.0]}
    output_scaling | {'type': 'Scaling', 'shift': [0.0, 0.0], 'scale': [1.0, 1.0]}
    input_scaling/shift/0 | NaN
    seed | 'first'
    code | 42
""")


def with_value(value, key, new):
    """Return a nested value in which the value at a place such as a/0/b is another one."""
    name, _, rest = key.partition("/")
    place = int(name) if isinstance(value, list) else name
    changed = value.copy()
    changed[place] = with_value(value[place], rest, new) if rest else new
    return changed


#: Arrays of a network that do not fit its description.
ARRAYS = {
    "weights that are NaN": lambda name, v: v * (np.nan if "coefficients" in name else 1),
    "some weights in float32": lambda name, v: v.astype(np.float32) if ".0." in name else v,
    "whole numbers": lambda _, v: v.astype(np.int64),
    "arrays of another shape": lambda _, v: v[..., :1],
    "no arrays": None,
}


@pytest.mark.parametrize("case", [*VALUES, *ARRAYS], ids=str)
def test_a_forged_checkpoint_that_does_not_fit_its_schema_is_refused(case, folder, refusal):
    loaded = load_run(folder)
    stored = loaded.run.checkpoint(loaded.models[0])
    arrays, meta = stored.arrays, json.loads(json.dumps(stored.meta))
    if isinstance(case, str):
        change = ARRAYS[case]
        arrays = {name: change(name, v) for name, v in arrays.items() if change}
    else:
        key, value = case
        meta = with_value(meta, key, float("nan") if value == "NaN" else value)
    forge(folder, stored.name, arrays, meta)
    with pytest.raises(KanrunError):
        load_run(folder).model()
    assert refusal()
