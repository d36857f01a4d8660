"""Columns of the tables that recipes write are explained in docs/outputs*.md."""

import re
from pathlib import Path


def test_columns_that_are_explained_are_written_somewhere(explained_columns):
    root = Path(__file__).parents[2]
    sources = [*(root / "kanrun").rglob("*.py"), *(root / "experiments").rglob("*")]
    text = "\n".join(
        file.read_text(encoding="utf-8")
        for file in sources
        if file.suffix in (".py", ".csv") and file.is_file()
    )
    words = {
        word for section in explained_columns.values() for word in section if word.isidentifier()
    }
    # Names such as cv_rmse_std, log_loss, and names with a number, are composed.
    ends = re.compile(r"^(cv|test|train|start_[12])_|_(std|bound|N|COLUMN|NAME)$")
    names = {ends.sub("", ends.sub("", word)) for word in words if "NAME" not in word}
    written = text + text.replace(" ", "_")
    assert sorted(name for name in names if name not in written and not name.isupper()) == []
