"""Small table files, and their targets."""

import pytest

from kanrun.targets.datasets import build_target
from kanrun.targets.settings import TableTarget


@pytest.fixture
def write(tmp_path):
    """Write a text or bytes to a file, and return its path."""

    def to_file(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


@pytest.fixture
def built(write):
    """Write a text to data.csv, and return the target of this table."""
    return lambda text, outputs="y", **settings: build_target(
        TableTarget(str(write(text)), outputs=[outputs], **settings)
    )


@pytest.fixture
def of_column(built):
    """Return the target of a table of a column `a` and row numbers `y`."""
    return lambda column, **settings: built(
        "a,y\n" + "".join(f'"{text}",{i}\n' for i, text in enumerate(column)), **settings
    )
