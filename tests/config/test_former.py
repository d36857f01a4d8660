"""Settings under the names that they had in version 0.1.0: aliases, refusals, and stored configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanrun.config.former import former_keys, new_spelling, rename, rename_override
from kanrun.errors import UsageError
from kanrun.study.saved import load_run

RUNS = Path(__file__).parents[1] / "fixtures" / "version_0_1_0" / "runs"


def test_old_keys_are_declared_beside_the_new_ones() -> None:
    assert {old: new for old, (new, _) in former_keys("solver").items()} == {
        "narrow": "select_width",
        "local": "freeze_unseen",
    }
    assert {old: new for old, (new, _) in former_keys("model").items()} == {
        "outside": "extrapolation",
        "adapt": "grid_eps",
    }


@pytest.mark.parametrize(
    ("word", "renamed"),
    [
        ("solver.local=true", "solver.freeze_unseen=true"),
        ("++solver.narrow=false", "++solver.select_width=false"),
        ("model.outside=zero,linear", "model.extrapolation=zero,linear"),
        ("model.degree=3", "model.degree=3"),
        ("target=local", "target=local"),
        ("custom_candidates.local=x0", "custom_candidates.local=x0"),
    ],
)
def test_overrides(word: str, renamed: str) -> None:
    found, warning = rename_override(word)
    assert found == renamed
    assert (warning is None) == (word == renamed)


@pytest.mark.parametrize(
    ("word", "offer"),
    [
        ("model.adapt=0.3", "model.adapt=0.3 has become model.grid_eps=0.7"),
        ("model.adapt=0.0,1", "model.grid_eps=1,0"),
    ],
)
def test_a_changed_meaning_is_refused_with_key_and_value(word: str, offer: str) -> None:
    with pytest.raises(UsageError) as caught:
        rename_override(word)
    assert offer in str(caught.value)


def test_cells_and_learners() -> None:
    config = {
        "suite": [{"solver": {"local": True}, "model": {"kind": "kan", "outside": "zero"}}, {}],
        "learners": [{"name": "KAN", "kind": "kan", "outside": "zero"}],
        "custom_candidates": {"local": "x0"},
    }
    assert len(rename(config)) == 3
    assert config == {
        "suite": [
            {"solver": {"freeze_unseen": True}, "model": {"kind": "kan", "extrapolation": "zero"}},
            {},
        ],
        "learners": [{"name": "KAN", "kind": "kan", "extrapolation": "zero"}],
        "custom_candidates": {"local": "x0"},
    }
    with pytest.raises(
        UsageError, match=r"suite\.0\.model\.adapt=0\.25 has become suite\.0\.model\.grid_eps=0\.75"
    ):
        rename({"suite": [{"model": {"adapt": 0.25}}]})


def test_stored_configurations_are_translated() -> None:
    config: dict[str, Any] = {
        "model": {"adapt": 0.25, "outside": "zero"},
        "solver": {"local": True, "narrow": False},
    }
    assert rename(config, stored=True) == []
    assert config == {
        "model": {"grid_eps": 0.75, "extrapolation": "zero"},
        "solver": {"freeze_unseen": True, "select_width": False},
    }


@pytest.mark.parametrize(
    "path", sorted(RUNS.glob("*/v*/.hydra/config.yaml")), ids=lambda path: path.parts[-4]
)
def test_runs_of_version_0_1_0_have_the_keys_of_today(path: Path) -> None:
    from omegaconf import OmegaConf

    from kanrun.launch.composing import typed

    run = load_run(path.parents[1])
    config = run.config
    assert not {"adapt", "outside"} & set(config.get("model") or {})
    assert not {"narrow", "local"} & set(config.get("solver") or {})
    assert (
        typed(run.run.manifest.command, OmegaConf.create(run.run.config), extras=True) is not None
    )


def test_what_has_become_of_a_key() -> None:
    assert new_spelling("model.outside") == "; it is model.extrapolation now"
    assert "share of uniform spacing" in new_spelling("model.adapt")
    assert new_spelling("model.degree") == new_spelling("foo") == ""


def test_through_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from kanrun.cli.app import main

    run: Callable[..., int] = lambda *words: main(["fit", "--cfg", "job", *words])  # noqa: E731
    assert run("solver.local=true") == 0
    out, err = capfd.readouterr()
    assert "freeze_unseen: true" in out
    assert "solver.local is called solver.freeze_unseen now" in err
    assert run("model.adapt=0.1") == 2
    assert "model.grid_eps=0.9" in capfd.readouterr().err
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [/schema/model/kan@_here_]\noutside: zero\n"
    )
    assert run("--config-dir", str(tmp_path), "model=mine") == 2
    assert (
        "Key 'outside' not in 'KANConfig'; it is model.extrapolation now" in capfd.readouterr().err
    )
