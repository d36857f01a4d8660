"""Registries: kinds are found without loading torch, every builder exists, keys are listed."""

import fnmatch
import json
import os
from importlib import import_module

import pytest
from kanrun.experiments.compare_mlp import COMPARISONS
from pandas import DataFrame
from processes import python

from kanrun.cli.app import main
from kanrun.config import (
    EXPERIMENTS,
    GROUPS,
    default_choices,
    groups_of,
    keys_of,
    settings_of,
)
from kanrun.config.registry import Registry, group_of


def test_a_plug_in_that_does_not_load_is_left_out(tmp_path):
    """The test runs a process in which another package is installed beside kanrun."""
    (tmp_path / "own.py").write_text("import nothing_of_that_name")
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kanrun.plugins]\nown = own\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = python("-m", "kanrun", "fit", "--cfg", "job", env=environment)
    assert "the plug-in own is left out" in done.stderr


def test_names_in_a_group_are_the_kinds_of_its_classes():
    for table in GROUPS.values():
        assert all(kind.kind == name and kind.__doc__ for name, kind in table.items())


def test_a_name_can_be_taken_once():
    table = Registry("model")
    table.add("one", None)
    with pytest.raises(ValueError, match="two kinds of model called 'one'"):
        table.add("one", None)


#: Rows with all columns by which commands decide which figures they draw.
ROWS = DataFrame(
    {
        **dict.fromkeys(["x", "t", "u", "residual_u", "x0", "out", "in", "parameters"], 1.0),
        **dict.fromkeys(["layer", "test_rmse", "active_edges", "seen"], 1),
        **dict.fromkeys(["equation", "target", "input", "structure"], "a"),
        "seed": 0,
        "stage": "train",
        "part": ["learners", "overlap"] * 2,
        "memory": [*"abcd"],
        "shape": [*"abcd"],
        "train_rmse": range(4),
        "network": [0, 0, 1, 1],
        "window": [0, 0, 1, 1],
    }
)
#: Names of the tables from which each command draws its figures, and values of their columns.
TABLES = {
    "continual": {"functions data matrix summary": {}},
    "extend-grid": {"stages metrics": {"part": ["schedules", "order", "overfit", "order"]}},
    "fit": {
        "effects input_values pair_maps growth predictions held_out importance edges metrics "
        "summary": {"test_accuracy": 1.0},
        "predictions edges summary metrics": {},
    },
    "import": {"predictions edges summary": {}},
    "interpret": {
        "summary stages predictions candidates edges": {},
    },
    "solve": {"metrics summary solution": {}, "solution metrics summary": {"window": [0, 0, 0, 0]}},
}


def figures_of(command, kind):
    """Return the names of all figures that a command can draw."""
    experiment = kind.build()
    if command == "compare-mlp":
        comparisons = settings_of(kind.settings)["comparison"].choices
        return {name for one in comparisons for name in COMPARISONS[one].figures}
    if command not in TABLES:
        return {draw.__name__ for draw in import_module(f"{kind.module}.plots").FIGURES}
    figures = getattr(experiment, "more_figures", experiment.figures)
    return {
        name
        for names, own in TABLES[command].items()
        for name, _ in figures(dict.fromkeys(names.split(), ROWS.assign(**own)))
    }


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_keys_of_a_command_are_listed_once_per_place_with_a_sentence_and_a_type(command):
    keys = keys_of(command)
    places = [(key.path, where) for key in keys for where in key.where]
    assert len(places) == len(set(places))
    for key in keys:
        assert key.rule
        assert key.about
        assert key.about.endswith("...") or not key.about.endswith(".")


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_the_figures_of_a_command_are_declared(command):
    kind = EXPERIMENTS[command]
    drawn = figures_of(command, kind)
    found = {pattern: fnmatch.filter(drawn, pattern) for pattern in kind.figures}
    assert set().union(*found.values()) == drawn
    assert all(found.values())


def test_defaults_and_rules_are_shown_as_they_are_typed(capsys):
    assert main(["keys", "model.intervals", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["default"] == "[5,10,20,50]"
    assert one["where"] == ["model=kan"]
    assert one["rule"].startswith("a whole number at least 1, a non-empty list")
    assert main(["keys", "solver.learning_rate"]) == 0
    assert "a number above 0; default 0.01" in capsys.readouterr().out


def test_key_of_a_single_group_may_be_typed_without_the_group():
    written = ["folds", "selection", "noise", "seed", "kind", "target", "x.y"]
    found = [group_of(EXPERIMENTS["fit"], key) for key in written]
    assert found == ["model", "model", "sampling", "", "", "", ""]


def test_groups_of_fit_have_default_choices():
    found = dict(groups_of("fit"))
    assert list(found) == ["target", "model", "solver", "study"]
    assert "kan" in found["model"]
    assert default_choices("fit")["target"] == "exp_sin_square"
