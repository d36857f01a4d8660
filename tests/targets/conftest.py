"""Targets of small table files."""

import pytest

from kanrun.targets import build_target
from kanrun.targets.settings import TableTarget


@pytest.fixture
def built(tmp_path):
    """Write a text to data.csv, and return the target of this table."""

    def build(text, outputs="y", **settings):
        path = tmp_path / "data.csv"
        path.write_text(text)
        return build_target(TableTarget(str(path), outputs=[outputs], **settings))

    return build


@pytest.fixture
def of_column(built):
    """Return the target of a table of a column `a` and row numbers `y`."""
    return lambda column, **settings: built(
        "a,y\n" + "".join(f'"{text}",{i}\n' for i, text in enumerate(column)), **settings
    )
