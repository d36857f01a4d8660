"""A configuration that someone sends cannot run code through what Hydra builds by itself, nor through a sweep.

`tests/hard/test_attacks.py` has the attacks on one run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


def test_in_a_choice_of_a_sweep(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "good.yaml").write_text("# @package _global_\nseed: 1\n")
    (tmp_path / "mine" / "extra" / "sent.yaml").write_text(
        "# @package _global_\nhydra: {job_logging: {handlers: {console: {class: os.getcwd}}}}\n"
    )
    assert "job_logging" in refused("fit", "-m", "--config-dir", "mine", "+extra=good,sent")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_in_a_launcher_that_hides_a_known_one(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine" / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "mine" / "hydra" / "launcher" / "basic.yaml").write_text("_target_: os.getcwd\n")
    assert "os.getcwd" in refused("fit", "-m", "--config-dir", "mine", "seed=0,1")


def test_a_launchers_folder_in_a_file(
    refused: Refused, kanrun: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "sent.yaml").write_text(
        "# @package _global_\nhydra: {launcher: {temp_folder: '${hydra.sweep.dir}/../../x'}}\n"
    )
    words = ["-m", "hydra/launcher=joblib", "--config-dir", "mine", "+extra=sent"]
    assert "temp_folder" in refused("fit", *words)
    assert (
        kanrun("fit", "--cfg", "hydra", *words[1:], "hydra.launcher.temp_folder=elsewhere").code
        == 0
    )


def test_a_cluster_in_a_file(refused: Refused, kanrun: Callable[..., Any], tmp_path: Path) -> None:
    """What a Dask scheduler sends is unpickled, so a file may not choose whom to ask."""
    (tmp_path / "mine" / "executor").mkdir(parents=True)
    (tmp_path / "mine" / "executor" / "theirs.yaml").write_text(
        "kind: dask\naddress: tcp://127.0.0.1:1\n"
    )
    words = ["--config-dir", "mine", "executor=theirs"]
    for more in ([], ["-m", "seed=0,1"]):
        assert "executor.address=tcp://127.0.0.1:1 is refused in a file" in refused(
            "fit", *words, *more
        )
    assert "no Dask scheduler answers" in refused(
        "fit", *words, "executor.address=tcp://127.0.0.1:1"
    )
    assert "no Dask scheduler answers" in refused(
        "fit", "executor={kind:dask,address:'tcp://127.0.0.1:1'}"
    )


def test_a_cluster_in_a_run_that_goes_on(kanrun: Callable[..., Any], fit: Any) -> None:
    fit.stop_at = 0
    stored = kanrun("fit", "-q").folder / "config.yaml"
    assert (
        "--address is for runs with executor=dask"
        in kanrun("runs", "resume", "latest", "--address", "x").err
    )
    text = stored.read_text()
    assert "kind: serial" in text
    stored.write_text(
        text.replace("kind: serial", "kind: dask").replace(
            "address: null", "address: tcp://127.0.0.1:1"
        )
    )
    result = kanrun("runs", "resume", "latest")
    assert (result.code, result.out) == (2, "")
    assert "name the scheduler again with --address" in result.err
    assert (
        "executor=cloud is not one of serial, local, dask"
        in kanrun("runs", "resume", "latest", "--executor", "cloud").err
    )
    result = kanrun("runs", "resume", "latest", "--address", "tcp://127.0.0.1:2")
    assert "executor.address=tcp://127.0.0.1:2" in result.err


@pytest.mark.parametrize("place", ["pkg://antigravity", "structured://antigravity"])
def test_in_a_primary_configuration(refused: Refused, tmp_path: Path, place: str) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "fit.yaml").write_text(f"hydra: {{searchpath: ['{place}']}}\n")
    assert place in refused("fit", "--config-path", "sent")


LINES = "".join(f"  - &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh"))


@pytest.mark.parametrize(
    "words",
    [["--config-dir", "mine"], ["hydra.searchpath=[mine]"], ["hydra.searchpath=[file://mine]"]],
)
@pytest.mark.parametrize("suite", [f"\n  - &a [0, 0]\n{LINES}", " &a [*a]\n"])
def test_a_few_lines_that_stand_for_any_amount(
    refused: Refused, tmp_path: Path, words: list[str], suite: str
) -> None:
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "sent.yaml").write_text(f"# @package _global_\nsuite:{suite}")
    assert "stands for more than 1000000 values by its aliases" in refused(
        "fit", *words, "+extra=sent"
    )


def test_aliases_that_stand_for_little(kanrun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text("# @package _global_\nseed: &a 3\nn_seeds: *a\n")
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert (
        "n_seeds: 3" in kanrun("fit", "--cfg", "job", "--config-dir", "mine", "+extra=linked").out
    )


def test_nested_too_deeply(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "sent.yaml").write_text(
        f"# @package _global_\nsuite: {'[' * 5000}{']' * 5000}\n"
    )
    assert (
        refused("fit", "--config-dir", "mine", "+extra=sent")
        == "the configuration is nested too deeply."
    )


def test_a_target_is_a_value_like_others(kanrun: Callable[..., Any], tmp_path: Path) -> None:
    """`_target_` in kanrun's own part is no class to build but an unknown key."""
    result = kanrun("fit", "++model._target_=os.getcwd")
    assert result.code == 0
