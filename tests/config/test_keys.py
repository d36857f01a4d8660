"""`kanrun keys` shows what the dataclasses declare."""

import json

import pytest

from kanrun.cli.app import main
from kanrun.config import EXPERIMENTS, default_choices, groups_of, keys_of
from kanrun.config.registry import group_of


def test_every_key_of_every_command_has_a_sentence_and_a_type():
    keys = keys_of()
    assert [key.path for key in keys if not key.about or not key.type] == []
    assert {key.path for key in keys} >= {
        "seed",
        "executor.workers",
        "model.base",
        "sampling.n_train",
        "equation.formula",
    }


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_a_key_is_there_once_for_each_place(command):
    places = [(key.path, where) for key in keys_of(command) for where in key.where]
    assert len(places) == len(set(places))


def test_defaults_and_rules_are_shown_as_they_are_typed(capsys):
    assert main(["keys", "model.intervals", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["default"] == "[5,10,20,50]"
    assert one["where"] == ["model=kan"]
    assert one["allowed"] == "at least 1, or auto; increasing"
    assert main(["keys", "solver.learning_rate"]) == 0
    assert "number; default 0.01; above 0" in capsys.readouterr().out


def test_unknown_prefixes_and_commands_are_refused(capsys):
    assert main(["keys", "modle"]) == 2
    assert main(["keys", "--command", "fti"]) == 2
    assert "did you mean fit" in capsys.readouterr().err


def test_a_key_that_one_group_alone_has_needs_no_group():
    written = ["folds", "selection", "noise", "seed", "kind", "target", "x.y"]
    found = [group_of(EXPERIMENTS["fit"], key) for key in written]
    assert found == ["model", "model", "sampling", "", "", "", ""]


def test_the_groups_of_a_command():
    found = dict(groups_of("fit"))
    assert list(found) == ["target", "model", "solver", "executor", "study"]
    assert "kan" in found["model"]
    assert default_choices("fit")["target"] == "exp_sin_square"
