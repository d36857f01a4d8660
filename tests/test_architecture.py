"""ARCHITECTURE.md names the files that a run executes, in the order of execution."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
STRUCTURE = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "structure.py")))


def test_architecture_names_the_files_that_a_run_executes():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## The main path")[2].partition("\n`kanrun.load_run`")[0]
    named = re.findall(r"\]\(([\w/.]+\.py)\)", section)
    executed = STRUCTURE.files_executed(
        "fit", "target=product", "sampling.n_train=60", "model.intervals=[3]", "solver.steps=2"
    )
    assert [file for file in named if file not in executed] == []
    main = [file for file in named[:6] if file in executed]
    assert sorted(main, key=executed.index) == main
