"""Registries: kinds are found without loading torch, every builder exists, keys are listed."""

import fnmatch
import json
import os
from importlib import import_module

import pytest
from pandas import DataFrame
from processes import python

from kanrun.cli.app import main
from kanrun.config import (
    EXPERIMENTS,
    GROUPS,
    MODELS,
    default_choices,
    groups_of,
    keys_of,
    settings_of,
)
from kanrun.config.registry import Registry, group_of
from kanrun.errors import UsageError


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


FUNCTIONS = ("cells", "run", "figures", "claims")


def test_every_builder_exists():
    for kind in EXPERIMENTS.values():
        assert all(callable(getattr(kind.build(), name)) for name in FUNCTIONS)
    networks = {name: kind for name, kind in MODELS.items() if not kind.tables_only}
    assert all(kind.network().kind == name for name, kind in networks.items())


def test_names_in_a_group_are_the_kinds_of_its_classes():
    for table in GROUPS.values():
        assert all(kind.kind == name and kind.__doc__ for name, kind in table.items())


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UsageError, match=r"model\.kind=kann is not one of kan, mlp.*did you mean kan"
    ):
        MODELS.find("kann", "model.kind")


def test_a_name_can_be_taken_once():
    table = Registry("model")
    table.add("one", None)
    with pytest.raises(ValueError, match="two kinds of model called 'one'"):
        table.add("one", None)


ROW = DataFrame({"seed": [0]})
EDGES = DataFrame(
    {"seed": [0], "layer": [0], "out": [0], "in": [0], "seen": [True], "stage": ["train"]}
)
NAMES = ("effects", "input_values", "pair_maps", "growth")
TRAINED = dict.fromkeys((*NAMES, "predictions", "held_out"), ROW)
TRAINED |= {"growth": DataFrame({"shape": ["2-1-1", "2-2-1"]})}
TRAINED |= {"importance": DataFrame({"input": ["x"]})}
TRAINED |= {"metrics": DataFrame({"seed": [0, 0], "train_rmse": [1.0, 0.5]})}
TRAINED |= {"edges": EDGES, "summary": DataFrame({"target": ["t"], "test_accuracy": [1.0]})}
STAGES = {"structure": ["s"], "stage": ["train"], "active_edges": [1], "parameters": [1]}
#: A summary of a training that is no classification.
NUMBERS = {"summary": DataFrame({"target": ["t"]})}
#: Tables for which a command draws each of its figures.
TABLES = {
    "continual": [
        {
            "functions": DataFrame({"seed": [0], "x0": [0.0]}),
            "data": ROW,
            "matrix": DataFrame({"part": ["learners"]}),
            "summary": DataFrame({"part": ["learners", "overlap"] * 2, "memory": [*"abcd"]}),
        }
    ],
    "extend-grid": [
        {
            "stages": DataFrame({"part": ["schedules", "order", "overfit"]}),
            "metrics": DataFrame({"part": ["schedules"]}),
        }
    ],
    "fit": [TRAINED, TRAINED | NUMBERS],
    "import": [NUMBERS | {name: TRAINED[name] for name in ("predictions", "edges")}],
    "interpret": [
        {"summary": DataFrame({"cell": [0]})},
        {
            "summary": DataFrame({"seed": [0], "structure": ["s"]}),
            "stages": DataFrame({"seed": [0], **STAGES, "test_rmse": [1.0]}),
            **dict.fromkeys(("predictions", "candidates"), ROW),
            "edges": EDGES,
        },
    ],
    "solve": [
        {
            "metrics": DataFrame({"equation": "e", "network": [0, 1], "window": [0, 1]}),
            "summary": DataFrame({"equation": ["e"], "network": [0]}),
            "solution_0": DataFrame({name: [0.0, 1.0] for name in ("x", "t", "u", "residual_u")}),
        }
    ],
}


def test_the_figures_of_a_command_are_declared():
    for command, kind in EXPERIMENTS.items():
        experiment = kind.build()
        if command in TABLES:
            figures = getattr(experiment, "more_figures", experiment.figures)
            drawn = {name for tables in TABLES[command] for name, _ in figures(tables)}
        elif command == "compare-mlp":
            comparisons = settings_of(kind.settings)["comparison"].choices
            groups = [experiment.comparison_of(name).FIGURES for name in comparisons]
            drawn = {name for group in groups for name in group}
        elif command == "bench":
            drawn = set()
        else:
            drawn = {draw.__name__ for draw in import_module(f"{kind.module}.plots").FIGURES}
        found = {pattern: fnmatch.filter(drawn, pattern) for pattern in kind.figures}
        assert set().union(*found.values()) == drawn, command
        assert all(found.values()), command


def test_every_key_of_every_command_has_a_sentence_and_a_type():
    keys = keys_of()
    assert [key.path for key in keys if not key.about or not key.rule] == []
    assert {key.path for key in keys} >= {
        "seed",
        "executor.workers",
        "model.base",
        "sampling.n_train",
        "equation.formula",
    }


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_every_key_is_listed_once_per_place(command):
    places = [(key.path, where) for key in keys_of(command) for where in key.where]
    assert len(places) == len(set(places))


def test_defaults_and_rules_are_shown_as_they_are_typed(capsys):
    assert main(["keys", "model.intervals", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["default"] == "[5,10,20,50]"
    assert one["where"] == ["model=kan"]
    assert one["rule"].startswith("a whole number at least 1, a non-empty list")
    assert main(["keys", "solver.learning_rate"]) == 0
    assert "a number above 0; default 0.01" in capsys.readouterr().out


def test_unknown_prefixes_and_commands_are_refused(capsys):
    assert main(["keys", "modle"]) == 2
    assert main(["keys", "--command", "fti"]) == 2
    assert "did you mean fit" in capsys.readouterr().err


def test_key_of_a_single_group_may_be_typed_without_the_group():
    written = ["folds", "selection", "noise", "seed", "kind", "target", "x.y"]
    found = [group_of(EXPERIMENTS["fit"], key) for key in written]
    assert found == ["model", "model", "sampling", "", "", "", ""]


def test_groups_of_fit_have_default_choices():
    found = dict(groups_of("fit"))
    assert list(found) == ["target", "model", "solver", "executor", "study"]
    assert "kan" in found["model"]
    assert default_choices("fit")["target"] == "exp_sin_square"
