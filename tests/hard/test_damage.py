"""Damaged files: wrong numbers are never returned silently, and no Python exception is raised."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from run_files import forge

from kanrun import load_run
from kanrun.cli.app import main
from kanrun.errors import KanrunError
from kanrun.model.prediction import predicted_values

POINTS = np.random.default_rng(0).uniform(0.1, 0.9, (5, 2))


def predict(folder):
    table, found = (folder.with_name(name) for name in ("new.csv", "out.csv"))
    table.write_text("x0,x1\n0.2,0.3\n")
    return main(["predict", str(folder), str(table), "--output", str(found)])


def damaged(content, count):
    """Yield `count` damaged versions: 90% with a flipped bit, others cut, zeroed or swapped."""
    rng = np.random.default_rng(1)
    for number in range(count):
        changed = bytearray(content)
        place = int(rng.integers(len(content)))
        if number % 10:
            changed[place] ^= 1 << int(rng.integers(8))
            yield "bit flipped", bytes(changed)
        elif number % 30 == 0:
            yield "cut", bytes(changed[:place])
        elif number % 30 == 10:
            stretch = slice(place, place + int(rng.integers(1, 600)))
            zeros = bytes(len(changed[stretch]))
            changed[stretch] = zeros if changed[stretch] != zeros else b"\1" * len(zeros)
            yield "zeros", bytes(changed)
        else:
            changed[place:] = (
                changed[place:][::-1] if changed[place:] != changed[place:][::-1] else b"\0"
            )
            yield "reversed", bytes(changed)


@pytest.mark.parametrize("count", [120, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_checkpoints_are_refused(trained, tmp_path, count):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    run = load_run(folder)
    name = run.models[0]
    path = folder / "checkpoints" / f"{name}.safetensors"
    content = path.read_bytes()
    expected = predicted_values(run.model(name), POINTS)
    outcomes = Counter()
    for kind, changed in damaged(content, count):
        path.write_bytes(changed)
        try:
            found = predicted_values(load_run(folder).model(name), POINTS)
            outcome = (
                "same content"
                if changed == content and np.array_equal(found, expected)
                else "ACCEPTED"
            )
        except KanrunError as error:
            outcome = "refused" if str(path) in str(error) else f"refused without its name: {error}"
        outcomes[kind, outcome] += 1
    assert {outcome for _, outcome in outcomes} == {"refused"}


def test_a_checkpoint_of_another_run_is_refused(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    first, second = sorted((folder / "checkpoints").glob("product-*.safetensors"))
    shutil.copy(second, first)
    with pytest.raises(KanrunError, match="not the checkpoint that its run wrote"):
        load_run(folder).model()


def test_a_lost_checkpoint_is_missed_and_not_replaced_by_the_next(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    first, _ = sorted((folder / "checkpoints").glob("product-*.safetensors"))
    first.unlink()
    assert predict(folder) != 0
    assert f"has lost its checkpoint {first.stem}" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def forged(trained, folder, change):
    """Change the first checkpoint of a run, and compute its checksums again."""
    shutil.copytree(trained, folder)
    loaded = load_run(folder)
    stored = loaded.run.checkpoint(loaded.models[0])
    arrays = dict(stored.arrays)
    meta = json.loads(json.dumps(stored.meta))
    arrays, meta = change(arrays, meta) or (arrays, meta)
    forge(folder, stored.name, arrays, meta)
    return folder


def _set(key, value):
    def change(arrays, meta):
        place, *path = meta, *key.split("/")
        for part in path[:-1]:
            place = place[int(part) if isinstance(place, list) else part]
        place[path[-1]] = value

    return change


def _arrays(convert):
    return lambda arrays, meta: (convert(arrays), meta)


def _spoil(arrays, value):
    name = next(key for key in arrays if key.endswith("coefficients"))
    spoiled = arrays[name].copy()
    spoiled.flat[0] = value
    return {**arrays, name: spoiled}


FORGED = {
    "the network is a list": _set("network", []),
    "the network is missing": _set("network", None),
    "an unknown kind": _set("network/kind", "os.system"),
    "an extrapolation that is none": _set("network/layers/0/edges/extrapolation", "os.system"),
    "a degree that is text": _set("network/layers/0/edges/degree", "3"),
    "a shape beyond memory": _set("network/layers/0/shape", [10**6, 10**6, 10**6]),
    "layers that are a number": _set("network/layers", 42),
    "names too few": _set("inputs", ["x0"]),
    "a range that is infinite": _set("domain", [[0, float("inf")], [0, 1]]),
    "a scale of zero": _set("output_scaling", {"type": "Scaling", "shift": [0.0], "scale": [0.0]}),
    "a scaling for more outputs": _set(
        "output_scaling", {"type": "Scaling", "shift": [0.0, 0.0], "scale": [1.0, 1.0]}
    ),
    "a shift that is NaN": _set(
        "input_scaling", {"type": "Scaling", "shift": [float("nan"), 0.0], "scale": [1.0, 1.0]}
    ),
    "a seed of text": _set("seed", "first"),
    "a code of columns that is a number": _set("code", 42),
    "weights that are NaN": _arrays(lambda a: _spoil(a, float("nan"))),
    "some weights in float32": _arrays(
        lambda a: {k: v.astype(np.float32) if ".0." in k else v for k, v in a.items()}
    ),
    "whole numbers": _arrays(lambda a: {k: v.astype(np.int64) for k, v in a.items()}),
    "arrays of another shape": _arrays(lambda a: {k: v[..., :1] for k, v in a.items()}),
    "no arrays": _arrays(lambda a: {}),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_checkpoint_that_does_not_fit_its_schema_is_refused(case, trained, tmp_path, capsys):
    folder = forged(trained, tmp_path / "run", FORGED[case])
    with pytest.raises(KanrunError):
        load_run(folder).model()
    assert predict(folder) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("kanrun: ")
    assert said.count("\n") == 1
