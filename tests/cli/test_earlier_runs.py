"""`from_run` finds runs where --outputs says, by the names that `kanrun runs show` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanrun.cli.experiments import with_run_folders
from kanrun.errors import UsageError
from kanrun.runs import Manifest, RunFolder, Status


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for _ in range(2):
        folder = RunFolder.create(tmp_path, "fit")
        folder.start(Manifest(command="fit"))
        folder.finish(Status.COMPLETED)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("from_run=latest", 2),
        ("from_run=fit/latest", 2),
        ("from_run='fit/v0001'", 1),
        ("++from_run=fit/v0001/", 1),
    ],
)
def test_a_name_becomes_the_folder(outputs: Path, word: str, number: int) -> None:
    (found,) = with_run_folders([word], outputs, multirun=False)
    key, _, folder = found.partition("=")
    assert key == word.partition("=")[0]
    assert Path(folder) == outputs.absolute() / "fit" / f"v000{number}"


def test_a_sweep_names_several(outputs: Path) -> None:
    (found,) = with_run_folders(["from_run=fit/v0001,fit/v0002"], outputs, multirun=True)
    assert found == f"from_run={outputs.absolute()}/fit/v0001,{outputs.absolute()}/fit/v0002"


def test_other_words_stay(outputs: Path) -> None:
    words = [
        "from_run=null",
        "from_run=",
        "from_run=${oc.env:RUN}",
        "target=runge",
        "~from_run",
        "from_run",
    ]
    assert with_run_folders(words, outputs, multirun=False) == words


def test_a_run_that_is_not_there_is_refused(outputs: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no run 'fit/v0009'"):
        with_run_folders(["from_run=fit/v0009"], outputs, multirun=False)
