"""Check that every column written by runs of these tests is explained in the documentation."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The tests of this folder import `doors`.
sys.path.append(str(Path(__file__).parent))
#: Tables whose columns are the user's names of variables, next to those of all commands.
NAMED = re.compile(r"samples|points.*|solution|functions|data")


def explained():
    """Return the explained columns for each heading of the pages, such as `kanrun fit`."""
    pages = [ROOT / "docs" / name for name in ("outputs.md", "outputs_lecture.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    return {heading: set(re.findall(r"`([^`]+)`", body)) for heading, body in pairs}


def header_of(file):
    """Return the names of the columns of a CSV file; an empty list if the file does not exist."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8", errors="replace") as stream:
        return next(csv.reader(stream), [])


def unexplained(folder):
    """Return the columns without explanation in runs below `folder`, as `command table column`."""
    known = explained()
    found = set()
    for record in folder.rglob("run.json"):
        command = json.loads(record.read_text(encoding="utf-8"))["command"]
        if f"kanrun {command}" not in known:  # a command of a plug-in
            continue
        words = known["All commands"] | known[f"kanrun {command}"]
        summary = record.parent / "summary.csv"
        # Unknown parameters of an equation are columns, with their errors and true values.
        own = {name.removesuffix("_error") for name in header_of(summary) if "_error" in name}
        words |= own | {f"{name}_{end}" for name in own for end in ("error", "true")}
        for file in (*record.parent.glob("*.csv"), *record.parent.glob("tables/*.csv")):
            if NAMED.fullmatch(file.stem):
                continue
            for column in header_of(file):
                general = re.sub(r"^(input|truth|prediction|probability):.*", r"\1:", column)
                varied = "." in column  # the key of a setting that varies over points
                if general == column and not varied and column not in words:
                    found.add(f"{command} {file.stem} {column}")
    return found


@pytest.fixture(autouse=True, scope="module")
def _explained_columns(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    before = set(base.iterdir())
    yield
    found = set().union(*map(unexplained, set(base.iterdir()) - before))
    assert not found, f"docs/outputs.md and outputs_lecture.md do not explain {sorted(found)}"


@pytest.fixture
def explained_columns():
    return explained()


@pytest.fixture(scope="module")
def unwritten_by_all():
    """Do not write figures of the runs in a module, including runs shared by several tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kanrun.study.execution.write_figure", lambda *_: None)
        yield


@pytest.fixture
def figures_of():
    """Return a function that returns the names of the figures of a run, given its experiment."""
    return lambda experiment, run: {
        name for name, _ in experiment.figures({name: run.table(name) for name in run.tables})
    }
