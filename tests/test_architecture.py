"""ARCHITECTURE.md names the files that a run executes, in their order."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("structure", ROOT / "tests" / "structure.py")
STRUCTURE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(STRUCTURE)


def test_the_main_path_is_what_a_run_executes():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## The main path")[2].partition("\n`kanrun.load_run`")[0]
    named = re.findall(r"\]\(([\w/.]+\.py)\)", section)
    executed = STRUCTURE.files_executed(
        "fit", "target=product", "sampling.n_train=60", "model.intervals=[3]", "solver.steps=2"
    )
    assert [file for file in named if file not in executed] == []
    main = [file for file in named[:6] if file in executed]
    assert sorted(main, key=executed.index) == main
