"""Configuration files of other people can neither run code nor exhaust the memory.

Attacks by other files are in `tests/hard/test_attacks.py`.
"""

import os
import sys
from itertools import pairwise

import pytest
from run_files import change_record, record_of


@pytest.fixture
def sent(tmp_path):
    """Return a function that writes a file of a configuration group into the folder `mine`."""

    def write(text, name="extra/sent", header="# @package _global_\n"):
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header + text)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {job_logging: {handlers: {console: {class: os.getcwd}}}}\n",
        "hydra: {searchpath: ['pkg://antigravity']}\n",
        '"\\x68ydra": {searchpath: [pkg://antigravity]}\n',
        "base: &a {hydra: {searchpath: [pkg://antigravity]}}\n<<: *a\n",
        "defaults: [override /hydra/launcher: theirs]\n",
        "defaults: [{/hydra/launcher@hydra.launcher: theirs}]\n",
        "defaults: ['/theirs@hydra']\n",
        "x: !!python/object/apply:pathlib.Path [x]\nhydra: {searchpath: ['pkg://antigravity']}\n",
    ],
)
def test_files_that_set_anything_of_hydra_are_refused(refused, sent, text):
    sent("seed: 1\n", "extra/good")
    sent(text)
    sent("a: 1\n", "theirs", header="")
    sent("_target_: os.getcwd\n", "hydra/launcher/theirs", header="")
    assert "settings of Hydra" in refused("fit -m --config-dir mine +extra=good,sent")
    sent(text, "fit", header="")
    assert "settings of Hydra" in refused("fit --config-path mine")
    assert "antigravity" not in sys.modules


def test_file_with_the_package_of_hydra_is_refused(refused, sent):
    sent("verbose: true\n", header="# @package hydra\n")
    assert "has settings of Hydra, which" in refused("fit --config-dir mine +extra=sent")


def test_hydras_own_configuration_is_not_read(kanrun, sent):
    """A file of one of Hydra's own groups changes nothing."""
    sent("_target_: os.getcwd\n", "hydra/launcher/basic", header="")
    sent("[", "hydra/output/default", header="")
    shown = kanrun("fit --config-dir mine --cfg job")
    assert shown.out == kanrun("fit --cfg job").out


@pytest.mark.parametrize(
    "entry",
    ["../outside", "/../outside", "extra/../../outside", "/{}/outside", "'/..': outside", "x: .."],
)
def test_defaults_outside_the_folder_are_refused(refused, sent, tmp_path, entry):
    (tmp_path / "outside.yaml").write_text("seed: 3\n")
    sent(f"defaults: [{entry.format(tmp_path)}]\n")
    assert "outside its folder" in refused("fit --config-dir mine +extra=sent")
    assert f"no key /{tmp_path}" in refused(f"fit --config-dir mine +/{tmp_path}=outside")


def test_address_of_a_cluster_in_a_file_is_refused(refused, sent):
    """Messages from a Dask scheduler are unpickled, so a file must not choose the scheduler."""
    sent("kind: dask\naddress: tcp://127.0.0.1:1\n", "executor/theirs", header="")
    for more in ("", "-m seed=0,1"):
        sentence = refused(f"fit --config-dir mine executor=theirs {more}")
        assert "executor.address=tcp://127.0.0.1:1 may not be set in a file" in sentence
    assert "no Dask scheduler answers" in refused(
        "fit \"executor={kind:dask,address:'tcp://127.0.0.1:1'}\""
    )


def test_resumed_run_needs_the_address_of_its_cluster_again(kanrun, interrupted):
    folder = interrupted("fit -q")

    def said(words):
        result = kanrun(f"runs resume latest {words}", code=2)
        assert not result.out
        return result.err

    assert "--address is for runs with executor=dask" in said("--address x")
    (base,) = record_of(folder)["bases"]
    place = {"kind": "dask", "address": "tcp://127.0.0.1:1"}
    change_record(folder, bases=[base | {"executor": base["executor"] | place}])
    assert "Name the scheduler again with --address" in said("")
    assert "executor=cloud must be one of dask, local, serial" in said("--executor cloud")
    named = said("--address tcp://127.0.0.1:2")
    assert "executor.address=tcp://127.0.0.1:2" in named


def test_configuration_files_beyond_4_mib_are_refused(refused, sent, tmp_path):
    sent("seed: 1\n")
    os.truncate(tmp_path / "mine" / "extra" / "sent.yaml", 2**30)
    said = refused("fit --config-dir mine +extra=sent")
    assert "sent.yaml has 1073741824 bytes; configurations may have at most 4194304" in said


LINES = "".join(f"  - &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh"))


@pytest.mark.parametrize("suite", [f"\n  - &a [0, 0]\n{LINES}", " &a [*a]\n"])
def test_aliases_that_expand_to_too_many_values_are_refused(refused, sent, suite):
    sent(f"suite:{suite}")
    assert "expands to more than 1000000 values by its aliases" in refused(
        "fit --config-dir mine +extra=sent"
    )


def test_few_aliases_and_linked_files_are_read(kanrun, tmp_path):
    (tmp_path / "elsewhere.yaml").write_text("# @package _global_\nseed: &a 3\nn_seeds: *a\n")
    (tmp_path / "mine" / "extra").mkdir(parents=True)
    (tmp_path / "mine" / "extra" / "linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert "n_seeds: 3" in kanrun("fit --cfg job --config-dir mine +extra=linked").out
