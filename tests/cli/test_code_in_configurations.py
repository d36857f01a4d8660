"""Configuration files of other people: what is not read, and schedulers that they cannot choose.

Attacks by such files are in `tests/hard/test_attacks.py`.
"""

import pytest
from run_files import change_record, record_of


@pytest.fixture
def sent(tmp_path):
    """Return a function that writes a file of a configuration group into the folder `mine`."""

    def write(text, name):
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_hydras_own_configuration_is_not_read(kanrun, sent):
    """A file of one of Hydra's own groups changes nothing."""
    sent("_target_: os.getcwd\n", "hydra/launcher/basic")
    sent("[", "hydra/output/default")
    shown = kanrun("fit --config-dir mine --cfg job")
    assert shown.out == kanrun("fit --cfg job").out


def test_address_of_a_cluster_in_a_file_is_refused(refused, sent):
    """Messages from a Dask scheduler are unpickled, so a file must not choose the scheduler."""
    sent("kind: dask\naddress: tcp://127.0.0.1:1\n", "executor/theirs")
    for more in ("", "-m seed=0,1"):
        sentence = refused(f"fit --config-dir mine executor=theirs {more}")
        assert "executor.address=tcp://127.0.0.1:1 may not be set in a file" in sentence
    typed = "fit \"executor={kind:dask,address:'tcp://127.0.0.1:1'}\""
    assert "no Dask scheduler answers" in refused(typed)


def test_resumed_run_needs_the_address_of_its_cluster_again(kanrun, interrupted):
    folder = interrupted("fit -q")
    (base,) = record_of(folder)["bases"]
    place = {"kind": "dask", "address": "tcp://127.0.0.1:1"}
    to_a_cluster = [base | {"executor": base["executor"] | place}]
    for bases, words, said in (
        ([base], "--address x", "--address is for runs with executor=dask"),
        (to_a_cluster, "", "Name the scheduler again with --address"),
        (to_a_cluster, "--executor cloud", "executor=cloud must be one of dask, local, serial"),
        (to_a_cluster, "--address tcp://127.0.0.1:2", "executor.address=tcp://127.0.0.1:2"),
    ):
        change_record(folder, bases=bases)
        result = kanrun(f"runs resume latest {words}", code=2)
        assert not result.out
        assert said in result.err


def test_linked_files_are_read(kanrun, tmp_path, sent):
    (tmp_path / "elsewhere.yaml").write_text("# @package _global_\nn_seeds: 3\n")
    sent("a: 1\n", "extra/other")
    (tmp_path / "mine" / "extra" / "linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert "n_seeds: 3" in kanrun("fit --cfg job --config-dir mine +extra=linked").out
