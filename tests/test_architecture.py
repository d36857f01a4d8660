"""ARCHITECTURE.md names the files that a run executes, in the order of execution."""

import re

from structure import ROOT, files_executed


def test_architecture_names_the_files_that_a_run_executes():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## The main path")[2].partition("\n`kanrun.load_run`")[0]
    named = re.findall(r"\]\(([\w/.]+\.py)\)", section)
    executed = files_executed(
        "fit", "target=product", "sampling.n_train=60", "model.intervals=[3]", "solver.steps=2"
    )
    assert [file for file in named if file not in executed] == []
    main = named[:6]
    assert sorted(main, key=executed.index) == main
