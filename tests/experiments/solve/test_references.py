"""The recorded references are what other methods give at other resolutions."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

_SPEC = importlib.util.spec_from_file_location(
    "references", Path(__file__).with_name("references.py")
)
references = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(references)


@pytest.mark.parametrize(
    "name",
    [
        each if each == "burgers" else pytest.param(each, marks=pytest.mark.slow)
        for each in references.REFERENCES
    ],
)
def test_references_do_not_depend_on_the_resolution(name):
    arguments, allowed = references.COARSER[name]
    coarse, recorded = (
        references.REFERENCES[name](*arguments),
        pd.read_csv(references.FOLDER / f"{name}.csv"),
    )
    assert list(coarse) == list(recorded)
    unknowns = [each for each in recorded if each not in ("x", "y", "t")]
    for unknown in unknowns:
        difference = np.linalg.norm(coarse[unknown] - recorded[unknown])
        assert difference <= allowed * np.linalg.norm(recorded[unknown])
