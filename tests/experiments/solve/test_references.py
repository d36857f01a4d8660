"""The recorded references are what other methods give at other resolutions."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

references = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("references.py"))))


@pytest.mark.parametrize(
    "name",
    [
        each if each == "burgers" else pytest.param(each, marks=pytest.mark.slow)
        for each in references.REFERENCES
    ],
)
def test_references_do_not_depend_on_the_resolution(name):
    make = references.REFERENCES[name]
    arguments, allowed = references.COARSER[make]
    coarse, recorded = make(*arguments), pd.read_csv(references.FOLDER / f"{name}.csv")
    assert list(coarse) == list(recorded)
    unknowns = [each for each in recorded if each not in ("x", "y", "t")]
    for unknown in unknowns:
        difference = np.linalg.norm(coarse[unknown] - recorded[unknown])
        assert difference <= allowed * np.linalg.norm(recorded[unknown])
