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
    sent("# @package _global_\nscheduler: tcp://127.0.0.1:1\n", "extra/theirs")
    for more in ("", "-m seed=0,1"):
        sentence = refused(f"fit --config-dir mine +extra=theirs {more}")
        assert "scheduler=tcp://127.0.0.1:1 may not be set in a file" in sentence
    typed = "fit --config-dir mine +extra=theirs scheduler=tcp://127.0.0.1:2"
    assert "no Dask scheduler answers at scheduler=tcp://127.0.0.1:2" in refused(typed)


def test_resumed_run_needs_the_address_of_its_cluster_again(kanrun, interrupted):
    folder = interrupted("fit -q")
    (base,) = record_of(folder)["bases"]
    to_a_cluster = [base | {"scheduler": "tcp://127.0.0.1:1"}]
    for bases, words, said in (
        (to_a_cluster, "", "Name the scheduler again with --scheduler"),
        (to_a_cluster, "--n-jobs 0", "'--n-jobs': Input should be greater than or equal to 1"),
        (to_a_cluster, "--scheduler tcp://127.0.0.1:2", "answers at scheduler=tcp://127.0.0.1:2"),
        ([base], "--scheduler tcp://127.0.0.1:2", "answers at scheduler=tcp://127.0.0.1:2"),
    ):
        change_record(folder, bases=bases)
        result = kanrun(f"runs resume latest {words}", code=2)
        assert not result.out
        assert said in result.err
    (point,) = record_of(folder)["points"]
    change_record(folder, points=[point | {"overrides": ["scheduler=tcp://127.0.0.1:1"]}])
    for words, said in (
        ("seed=3", "add scheduler=ADDRESS or n_jobs=N"),
        ("seed=3 --scheduler tcp://127.0.0.1:2", "answers at scheduler=tcp://127.0.0.1:2"),
    ):
        assert said in kanrun(f"runs rerun latest {words}", code=2).err


def test_linked_files_are_read(kanrun, tmp_path, sent):
    (tmp_path / "elsewhere.yaml").write_text("# @package _global_\nn_seeds: 3\n")
    sent("a: 1\n", "extra/other")
    (tmp_path / "mine" / "extra" / "linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert "n_seeds: 3" in kanrun("fit --cfg job --config-dir mine +extra=linked").out
